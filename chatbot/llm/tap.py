"""Hears in the transport's own callback that something came over a connection of aiohttp's client.

aiohttp would wake a task for it, which makes a token a fifth dearer. This may be deleted: then Answer.tap()
does nothing, and everything is read by the task.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast


class Tap(asyncio.Protocol):
    """Stands between a transport and aiohttp's protocol until remove(); `on_event` is called last."""

    def __init__(self, transport: asyncio.Transport, on_event: Callable[[], None]) -> None:
        self._transport = transport
        self._on_event: Callable[[], None] = on_event
        self._tapped = cast(asyncio.Protocol, transport.get_protocol())
        transport.set_protocol(self)

    def remove(self) -> None:
        """Leaves the connection to aiohttp as it was."""
        if self._transport.get_protocol() is self:
            self._transport.set_protocol(self._tapped)
        self._on_event = _nobody  # aiohttp keeps the exception of a lost connection, whose frames hold this

    def data_received(self, data: bytes) -> None:
        """Has aiohttp take it first, which may find its end in it, so that this is removed."""
        on_event = self._on_event
        self._tapped.data_received(data)
        on_event()

    def eof_received(self) -> bool | None:
        """Has aiohttp take it first."""
        stays_open = self._tapped.eof_received()
        self._on_event()
        return stays_open

    def connection_lost(self, exc: Exception | None) -> None:
        """Has aiohttp take it first."""
        self._tapped.connection_lost(exc)
        self._on_event()

    def pause_writing(self) -> None:
        """Passes it on."""
        self._tapped.pause_writing()

    def resume_writing(self) -> None:
        """Passes it on."""
        self._tapped.resume_writing()


def _nobody() -> None:
    """Hears nothing."""
