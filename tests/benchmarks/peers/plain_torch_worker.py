"""The plain torch reference, and the encoder product as the ceiling."""

from plain_torch import CASES, make_step
from worker import serve

if __name__ == "__main__":
    serve(make_step, CASES, modules=[], packages=[])
