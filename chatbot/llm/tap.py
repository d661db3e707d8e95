"""Hears in the transport's own callback when more of an answer's body has come.

aiohttp would wake a task for each piece, which costs about as much as all that is done with a token.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

import aiohttp


class Tap(asyncio.Protocol):
    """Stands between a transport and aiohttp's protocol, from the head of an answer to its end or remove().

    While a task waits in wait(), `on_event` is called each time that aiohttp has taken something, or the
    connection is lost. It reads the body, or calls wake() so that the task does.
    """

    __slots__ = ("_content", "_on_event", "_protocol", "_transport", "_waiter")

    def __init__(self, response: aiohttp.ClientResponse, on_event: Callable[[], None]) -> None:
        self._content = response.content
        self._on_event: Callable[[], None] | None = on_event
        self._waiter: asyncio.Future[None] | None = None
        self._transport: asyncio.Transport | None = None
        connection = response.connection  # None if the whole answer came with its head
        if connection and connection.transport:
            self._transport = connection.transport
            self._protocol = cast(asyncio.Protocol, self._transport.get_protocol())
            self._transport.set_protocol(self)
            # From its end on the connection is in the pool, and another answer may need it.
            self._content.on_eof(self.remove)

    def remove(self) -> None:
        """Leaves the connection to aiohttp as it was."""
        if self._transport and self._transport.get_protocol() is self:
            self._transport.set_protocol(self._protocol)
        self._transport = None

    def close(self) -> None:
        """Removes it, and forgets who listens: aiohttp may keep this with the error of a lost connection."""
        self.remove()
        self._on_event = None

    async def wait(self) -> None:
        """Waits until it is woken."""
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    @property
    def is_waited_for(self) -> bool:
        """Whether a task waits: one that was woken will look by itself, one that was cancelled never."""
        return self._waiter is not None and not self._waiter.done()

    def wake(self) -> None:
        """Lets the task that waits go on, if there is one."""
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)

    def _notify(self) -> None:
        if self._on_event and self.is_waited_for:
            self._on_event()

    # What the transport calls

    def data_received(self, data: bytes) -> None:
        """Lets aiohttp take it first, then notifies, also of the end of the answer, which removes this."""
        self._protocol.data_received(data)
        self._notify()

    def eof_received(self) -> bool | None:
        """Lets aiohttp take it first."""
        stays_open = self._protocol.eof_received()
        self._notify()
        return stays_open

    def connection_lost(self, exc: Exception | None) -> None:
        """Lets aiohttp take it first, which after bad chunks forgets that somebody reads the body."""
        self._protocol.connection_lost(exc)
        if not self._content.is_eof() and not self._content.exception():
            self._content.set_exception(aiohttp.ClientPayloadError("the connection was lost"))
        self._notify()

    def pause_writing(self) -> None:
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._protocol.resume_writing()
