"""Frozen, validated settings: one module per stage, so that a stage's code hash covers its own settings only."""
