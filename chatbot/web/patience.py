"""How long a client is waited for; the time for which this process was stopped does not count."""

from __future__ import annotations

import asyncio
import time


class Patience:
    """Ends after `seconds`, for one who looks at it every `look` seconds or more often.

    While a process is stopped (SIGSTOP, a laptop's lid) its clients can neither send nor read. It was, if
    between two looks there was much more real time than there was to be.
    """

    def __init__(self, seconds: float, look: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._end = self._loop.time() + seconds
        self._look = look
        self._looked = time.monotonic()

    def left(self) -> float:
        """How many seconds are left; none or less when it has ended."""
        now = time.monotonic()
        stopped = now - self._looked - self._look
        self._looked = now
        if stopped > self._look:
            self._end += stopped
        return self._end - self._loop.time()
