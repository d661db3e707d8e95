"""Notices when somebody who should speak is silent for too long."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Silence:
    """Calls `on_silence` once nothing was heard for `seconds`, until end().

    Whoever hears something moves `heard_at` on (loop time), and that is all it costs: the timer looks
    at it when it is due. `broken` is whether it came to the call.
    """

    def __init__(self, seconds: float, on_silence: Callable[[], object]) -> None:
        self._loop = asyncio.get_running_loop()
        self.seconds = seconds
        self.on_silence = on_silence
        self.broken = False
        self.heard_at = self._loop.time()
        self._alarm = self._loop.call_at(self.heard_at + seconds, self._check)

    def shorten(self, seconds: float) -> None:
        """Allows at most so many seconds from now on."""
        self._alarm.cancel()
        self.seconds = min(self.seconds, seconds)
        self._check()

    def end(self) -> None:
        """Listens no more."""
        self._alarm.cancel()
        self.on_silence = _nothing  # whoever was to be told mostly holds this: a cycle otherwise

    def _check(self) -> None:
        due = self.heard_at + self.seconds
        if self._loop.time() < due:
            self._alarm = self._loop.call_at(due, self._check)
        else:
            self.broken = True
            self.on_silence()


def _nothing() -> None:
    pass
