"""Limits the number of connections, and the time for which a client may neither read nor send."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

STALL_SECONDS = 30.0
"""How long a client may read nothing while bytes wait for it."""

LOOK_SECONDS = 5.0
"""Seconds between two checks whether a client reads."""


@dataclass
class Connections:
    """Counts and limits connections: `limit` are served, `surplus` more are answered with an error."""

    limit: int = 1_000_000
    surplus: int = 0
    open: int = 0
    refused: int = 0
    stalled: int = 0
    dropped: int = 0

    @property
    def is_full(self) -> bool:
        """Whether one more connection would be refused."""
        return self.open >= self.limit


class StallWatch:
    """Watches one client, from when something could not be sent at once until everything was sent.

    `count_written` returns how many bytes the `transport` was given. Those that no longer wait in its buffer
    have left this process. If their number does not grow, the client does not read.
    """

    def __init__(
        self, connections: Connections, transport: asyncio.Transport, count_written: Callable[[], int]
    ) -> None:
        self._connections = connections
        self._transport = transport
        self._count_written = count_written
        self._loop = asyncio.get_running_loop()
        connections.stalled += 1
        self._sent: int | None = None
        self._look()

    def stop(self) -> None:
        """Ends the watch: everything was sent, or the connection is lost."""
        self._connections.stalled -= 1
        self._timer.cancel()

    def _look(self) -> None:
        sent = self._count_written() - self._transport.get_write_buffer_size()
        if sent != self._sent:
            self._sent, self._patience = sent, Patience(STALL_SECONDS, LOOK_SECONDS)
        elif self._patience.left() <= 0:
            self._connections.dropped += 1
            self._transport.abort()
            return
        self._timer = self._loop.call_later(LOOK_SECONDS, self._look)


class Patience:
    """A timeout of `seconds`; left() must be called every `look` seconds or more often.

    The time for which this process was stopped (SIGSTOP, a laptop's lid) does not count: its clients could
    neither send nor read. It was stopped if more than twice `look` of real time lies between two calls.
    """

    def __init__(self, seconds: float, look: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._end = self._loop.time() + seconds
        self._look = look
        self._looked = time.monotonic()

    def left(self) -> float:
        """Returns how many seconds are left; 0 or less after the timeout."""
        now = time.monotonic()
        stopped = now - self._looked - self._look
        self._looked = now
        if stopped > self._look:
            self._end += stopped
        return self._end - self._loop.time()
