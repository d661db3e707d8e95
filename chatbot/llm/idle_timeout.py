"""Notices when the LLM, which should speak, is silent for too long."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

LOOK_AGAIN = 0.05
"""Seconds between a silence that seems too long and the judgement on it."""


class IdleTimeout:
    """Calls `on_idle` once nothing was heard for `seconds`, until end().

    Whoever hears something sets `heard_at` (loop time), and that is all it costs: the timer looks when it
    fires, and goes on waiting if something was heard. `has_fired` is whether it came to the call. `patience`
    is how many seconds were allowed at first.
    """

    __slots__ = ("_loop", "_on_idle", "_seconds", "_timer", "has_fired", "heard_at", "patience")

    def __init__(self, seconds: float, on_idle: Callable[[], object]) -> None:
        self._loop = asyncio.get_running_loop()
        self._seconds = self.patience = seconds
        self._on_idle: Callable[[], object] | None = on_idle
        self.heard_at = self._loop.time()
        self.has_fired = False
        self._timer: asyncio.TimerHandle | None = self._loop.call_later(seconds, self._look)

    def allow(self, seconds: float) -> None:
        """From now on so many seconds are allowed; no-op if as many were, or after end()."""
        if self._timer and seconds != self._seconds:
            self._timer.cancel()
            self._seconds, self.heard_at = seconds, self._loop.time()
            self._timer = self._loop.call_later(seconds, self._look)

    def end(self) -> None:
        """Listens no more."""
        if self._timer:
            self._timer.cancel()
        self._timer = None
        self._on_idle = None  # it mostly belongs to who holds this: a cycle otherwise

    def _look(self, *, is_late: bool = False) -> None:
        left = self.heard_at + self._seconds - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._look)
        elif not is_late:
            # A process that was stopped (SIGSTOP, a laptop's lid) finds the answer in its socket: read first.
            self._timer = self._loop.call_later(LOOK_AGAIN, lambda: self._look(is_late=True))
        else:
            on_idle, self.has_fired = self._on_idle, True
            self.end()
            if on_idle:
                on_idle()
