"""Notices in the transport's callback when more of an answer's body has arrived.

aiohttp would wake a task for each piece, which costs about as much as all other work on a token.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

import aiohttp


class Tap(asyncio.Protocol):
    """A protocol between a transport and aiohttp's protocol, from an answer's head to its end or remove().

    While a task waits in wait(), `on_event` is called each time aiohttp has received data, and when the
    connection is lost. `on_event` reads the body, or calls wake() so that the task reads it.
    """

    __slots__ = ("_content", "_on_event", "_protocol", "_transport", "_waiter")

    def __init__(self, response: aiohttp.ClientResponse, on_event: Callable[[], None]) -> None:
        self._content = response.content
        self._on_event: Callable[[], None] | None = on_event
        self._waiter: asyncio.Future[None] | None = None
        self._transport: asyncio.Transport | None = None
        connection = response.connection  # None if the whole answer arrived with its head
        if connection and connection.transport:
            self._transport = connection.transport
            self._protocol = cast(asyncio.Protocol, self._transport.get_protocol())
            self._transport.set_protocol(self)
            # After the answer's end the connection is in the pool, where another answer may use it.
            self._content.on_eof(self.remove)

    def remove(self) -> None:
        """Gives the connection back to aiohttp's protocol."""
        if self._transport and self._transport.get_protocol() is self:
            self._transport.set_protocol(self._protocol)
        self._transport = None

    def close(self) -> None:
        """Calls remove() and drops `on_event`: aiohttp may keep self with the error of a lost connection."""
        self.remove()
        self._on_event = None

    async def wait(self) -> None:
        """Waits until wake() is called."""
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    @property
    def is_waited_for(self) -> bool:
        """Whether a task waits and was neither woken nor cancelled. A woken task reads the body itself."""
        return self._waiter is not None and not self._waiter.done()

    def wake(self) -> None:
        """Wakes the task that waits, if there is one."""
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)

    def _notify(self) -> None:
        if self._on_event and self.is_waited_for:
            self._on_event()

    # What the transport calls

    def data_received(self, data: bytes) -> None:
        """Passes the data to aiohttp, then notifies, also after the end of the answer has removed this."""
        self._protocol.data_received(data)
        self._notify()

    def eof_received(self) -> bool | None:
        """Passes the end to aiohttp, then notifies."""
        stays_open = self._protocol.eof_received()
        self._notify()
        return stays_open

    def connection_lost(self, exc: Exception | None) -> None:
        """Passes it to aiohttp, ends the body if aiohttp does not (after bad HTTP chunks), then notifies."""
        self._protocol.connection_lost(exc)
        if not self._content.is_eof():
            self._content.set_exception(aiohttp.ClientPayloadError("the connection was lost"))
        self._notify()

    def pause_writing(self) -> None:
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._protocol.resume_writing()
