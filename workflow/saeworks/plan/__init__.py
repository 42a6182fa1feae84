"""What an experiment consists of, what each result was made from, and what is current. The only place that decides staleness."""
