"""An idle timeout: notices when the LLM has sent nothing for too long."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

LOOK_AGAIN = 0.05
"""Seconds between the end of the timeout and a second look, which decides."""


class IdleTimeout:
    """Calls `on_idle` when nothing has arrived for `seconds`, unless end() is called before.

    When data arrive, the owner sets `heard_at` (loop time). It does not restart the timer: when the timer
    fires, it waits again if data have arrived. `has_fired` is true when the timeout was reached. `patience`
    is the first timeout, in seconds.
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
        """Restarts with another timeout. Does nothing if it is the same, or after end()."""
        if self._timer and seconds != self._seconds:
            self._timer.cancel()
            self._seconds, self.heard_at = seconds, self._loop.time()
            self._timer = self._loop.call_later(seconds, self._look)

    def end(self) -> None:
        """Stops the timeout."""
        if self._timer:
            self._timer.cancel()
        self._timer = None
        self._on_idle = None  # usually a method of the owner of this object, which would be a cycle

    def _look(self, *, is_late: bool = False) -> None:
        left = self.heard_at + self._seconds - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._look)
        elif not is_late:
            # After SIGSTOP or a laptop's sleep, data may wait in the socket: let the loop read it first.
            self._timer = self._loop.call_later(LOOK_AGAIN, lambda: self._look(is_late=True))
        else:
            on_idle, self.has_fired = self._on_idle, True
            self.end()
            if on_idle:
                on_idle()
