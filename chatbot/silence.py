"""Notices when somebody who should speak is silent for too long."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

RESOLUTION = 0.05
"""How much too late, in seconds, a silence may be noticed."""


class Watch:
    """Looks after many who should speak, with one timer for them all: most of them never need theirs."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._watched: set[Silence] = set()
        self._alarm: asyncio.TimerHandle | None = None
        self._look_at = float("inf")

    def close(self) -> None:
        """Looks no more."""
        self._watched.clear()
        self._set(float("inf"))

    def add(self, silence: Silence) -> None:
        """Looks after one more."""
        self._watched.add(silence)
        self.look_at(silence.due)

    def look_at(self, due: float) -> None:
        """Looks at `due` (loop time) at the latest: somebody is due then who was not before."""
        if due < self._look_at:
            self._set(due)

    def discard(self, silence: Silence) -> None:
        """Looks after one less."""
        self._watched.discard(silence)

    def _set(self, look_at: float) -> None:
        if self._alarm:
            self._alarm.cancel()
        self._look_at = look_at
        self._alarm = self.loop.call_at(look_at, self._look) if look_at < float("inf") else None

    def _look(self) -> None:
        now = self.loop.time()
        try:
            for silence in [silence for silence in self._watched if silence.due <= now]:
                self._watched.discard(silence)
                silence.broken = True
                silence.on_silence()
        finally:  # those after one that raised are looked at again
            due = min((silence.due for silence in self._watched), default=float("inf"))
            self._set(max(due, now + RESOLUTION))  # with thousands who are due in turn, not once for each


class Silence:
    """Calls `on_silence` once nothing was heard for `seconds`, until end().

    Whoever hears something moves `heard_at` on (loop time), and that is all it costs. `broken` is whether
    it came to the call.
    """

    def __init__(self, watch: Watch, seconds: float, on_silence: Callable[[], object]) -> None:
        self._watch = watch
        self.loop = watch.loop
        self.seconds = seconds
        self.on_silence = on_silence
        self.broken = False
        self.heard_at = self.loop.time()
        watch.add(self)

    @property
    def due(self) -> float:
        """When it is to be noticed (loop time)."""
        return self.heard_at + self.seconds

    def shorten(self, seconds: float) -> None:
        """Allows at most so many seconds from now on."""
        self.seconds = min(self.seconds, seconds)
        self._watch.look_at(self.due)

    def end(self) -> None:
        """Listens no more."""
        self._watch.discard(self)
        self.on_silence = _nothing  # whoever was to be told mostly holds this: a cycle otherwise


def _nothing() -> None:
    pass
