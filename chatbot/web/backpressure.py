"""Sends bytes to a client no faster than it reads; stalls.py drops a client that reads nothing.

Each connection lets its transport hold back a writer as soon as one byte stays unsent, so waiting for the
transport (`drain`) means waiting until the client has been sent everything.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import cast

from aiohttp import hdrs, web
from aiohttp.http_writer import StreamWriter
from multidict import istr

MAX_UNSENT = 64 * 1024
"""Bytes that may wait for one client beyond the kernel's own buffers."""

PIECE_BYTES = 32 * 1024
"""About how many bytes of short pieces of a body are written at once."""

EVENT_STREAM = {
    hdrs.CONTENT_TYPE: "text/event-stream; charset=utf-8",
    hdrs.CACHE_CONTROL: "no-cache, no-transform",
    istr("X-Accel-Buffering"): "no",
}
"""The headers of every stream."""

KEEP_ALIVE = b": keep-alive\n"
"""What may stand between two events and means nothing.

No blank line follows it: after an `id:` line that would dispatch an event, empty for clients that forget to
drop it (the OpenAI Python library does).
"""


async def in_pieces(pieces: Iterable[bytes]) -> AsyncIterator[bytes]:
    """A body that is made while the client reads it, for aiohttp waits whenever 64 KiB of it are unsent.

    The pieces are asked for when they are needed, so what they read must still be there then; an error that
    they raise cuts the answer off.
    """
    joined = b""
    for piece in pieces:
        joined += piece
        if len(joined) >= PIECE_BYTES:
            yield joined
            joined = b""
    if joined:
        yield joined


class EventWriter:
    """Writes a stream whose headers were sent straight to the connection.

    What aiohttp does between StreamResponse.write and the transport would cost more than all that we do to a
    token. Whatever is written is whole events, or a keep-alive between two of them.
    """

    __slots__ = ("_chunked", "_transport", "_writer", "unsent")

    def __init__(self, request: web.Request, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._writer = cast(StreamWriter, request.writer)
        self._chunked = self._writer.chunked  # HTTP/1.0 has no chunks
        self.unsent = transport.get_write_buffer_size
        """How many bytes wait for the client."""
        request[EVENT_WRITER] = self

    def send(self, data: bytes) -> None:
        """Sends events at once, or lets them wait for the client."""
        if self._chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        self._writer.output_size += len(data)  # by which connection.py sees whether the client reads
        self._transport.write(data)

    def keep_alive(self) -> None:
        """Fills a silence; connection.py asks so whether a client that has ended its half still listens."""
        self.send(KEEP_ALIVE)

    async def wait_until_sent(self) -> None:
        """Waits, if much waits to be sent, until all of it was."""
        if self.unsent() > MAX_UNSENT:
            await self._writer.drain()


EVENT_WRITER = web.RequestKey("event_writer", EventWriter)
"""The writer of the stream that is the answer to a request."""


async def begin(request: web.Request, response: web.StreamResponse) -> EventWriter:
    """Sends the headers of a stream; finish() ends it.

    Raises ConnectionResetError when the client has gone.
    """
    await response.prepare(request)
    if request.transport is None:
        raise ConnectionResetError("the client has gone")
    return EventWriter(request, request.transport)


async def finish(request: web.Request, response: web.StreamResponse, data: bytes = b"") -> None:
    """Sends what is still to be sent of an answer, all of it or the end of a stream, and waits until it is.

    Raises ConnectionResetError when the client has gone.
    """
    await response.prepare(request)
    request.pop(EVENT_WRITER, None)  # nothing may be sent after the end
    await response.write_eof(data)  # which waits until the last byte was sent
