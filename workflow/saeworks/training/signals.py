"""Signals that end a run."""

from __future__ import annotations

import signal


class StopOnSignal:
    """While active, SIGTERM and SIGINT ask for a checkpoint at the end of the step instead of killing the process."""

    requested = False

    def __enter__(self) -> StopOnSignal:
        self._previous = {number: signal.signal(number, self._request) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _request(self, *_: object) -> None:
        self.requested = True
