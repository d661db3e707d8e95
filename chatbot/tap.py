"""Listens in on a connection of aiohttp's client: its reader is told in the transport's own callback.

aiohttp would wake a task instead, which costs as much as all that is done with a token.
"""

from __future__ import annotations

import asyncio
from typing import Protocol, cast


class Tapped(Protocol):
    """Whoever reads the connection."""

    def arrived(self) -> None:
        """aiohttp has been given what came; it can be read without waiting."""

    def about_to_break(self) -> None:
        """The connection is lost, and aiohttp does not know yet: what came before can still be read."""

    def broke(self) -> None:
        """The connection is lost, and aiohttp has been told."""


class Tap(asyncio.Protocol):
    """Stands between a transport and aiohttp's protocol, and tells the answer, too, what happens.

    Removed when the answer has ended, for then the connection is aiohttp's to use again.
    """

    def __init__(self, transport: asyncio.Transport, answer: Tapped) -> None:
        self._transport = transport
        self._answer: Tapped | None = answer
        self._tapped = cast(asyncio.Protocol, transport.get_protocol())
        transport.set_protocol(self)

    def remove(self) -> None:
        """Leaves the connection to aiohttp's protocol alone, as it was."""
        if self._transport.get_protocol() is self:
            self._transport.set_protocol(self._tapped)
        self._answer = None  # aiohttp keeps the exception of a lost connection, whose frames hold this

    def data_received(self, data: bytes) -> None:
        self._tapped.data_received(data)
        if self._answer:
            self._answer.arrived()

    def eof_received(self) -> bool | None:
        return self._tapped.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer:
            self._answer.about_to_break()
        self._tapped.connection_lost(exc)
        if self._answer:
            self._answer.broke()

    def pause_writing(self) -> None:
        self._tapped.pause_writing()

    def resume_writing(self) -> None:
        self._tapped.resume_writing()
