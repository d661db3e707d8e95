"""Sends bytes to a client no faster than it reads; stalls.py drops a client that reads nothing.

Each connection lets its transport hold back a writer as soon as one byte stays unsent, so waiting for the
transport (`drain`) means waiting until the client has been sent everything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from typing import cast

from aiohttp import hdrs, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_writer import StreamWriter
from aiohttp.payload import Payload
from multidict import istr

MAX_UNSENT = 64 * 1024
"""Bytes that may wait for one client beyond the kernel's own buffers."""

LONG = 256 * 1024
MAX_HELD = 128 * 1024 * 1024
"""Bytes that may wait for all clients together before none is sent anything LONG."""

PIECE_BYTES = 32 * 1024
"""About how many bytes of a long body are made and written at once."""

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


class Pieces(Payload):
    """A body that is made piece by piece while the client reads it; `size` in bytes, if that is known.

    The pieces may be long or short. They are asked for when they are needed, so what they read must still be
    there then; an error that they raise cuts the answer off.
    """

    _value: Iterable[bytes]

    def __init__(self, pieces: Iterable[bytes], size: int | None = None) -> None:
        super().__init__(pieces, content_type="application/json")
        self._size = size

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Sends the pieces; aiohttp calls it."""
        pieces, self._value = self._value, ()  # the answer, which may live on, holds them no more
        with closing(_joined(pieces)) as joined:
            for piece in joined:
                await writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)  # others have their turn, also if the client reads at once

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Not to be called: the pieces can be made only once."""
        raise TypeError("these pieces are for one client")


class _Held:
    """What waits for all clients; a process has one memory, and so one of this."""

    size = 0


def has_room(size: int) -> bool:
    """Whether so many bytes may wait for one client, for what others have not read yet."""
    return size < LONG or _Held.size + size <= MAX_HELD


@contextmanager
def holding(size: int) -> Iterator[None]:
    """Counts bytes while a client reads them; raises ConnectionResetError if there is no room for them."""
    if not has_room(size):
        raise ConnectionResetError("too much waits for other clients")
    _Held.size += size
    try:
        yield
    finally:
        _Held.size -= size


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
    """Sends the headers of a stream, unless it has begun; finish() ends it.

    Raises ConnectionResetError when the client has gone.
    """
    await response.prepare(request)
    if request.transport is None:
        raise ConnectionResetError("the client has gone")
    return request.get(EVENT_WRITER) or EventWriter(request, request.transport)


async def finish(request: web.Request, response: web.StreamResponse, data: bytes = b"") -> None:
    """Sends what is still to be sent of an answer, all of it or the end of a stream, and waits until it is.

    Raises ConnectionResetError when the client has gone, or when there is no room for it.
    """
    size = length_of(response)
    with holding(size or len(data)):
        if isinstance(response, web.Response) and size > MAX_UNSENT:
            response.body = Pieces((cast(bytes, response.body),), size)
        await response.prepare(request)
        request.pop(EVENT_WRITER, None)  # nothing may be sent after the end
        await response.write_eof(data)  # which waits until the last byte was sent


def length_of(response: web.StreamResponse) -> int:
    """How many bytes an answer holds that is in one piece."""
    body = response.body if isinstance(response, web.Response) else None
    return len(body) if isinstance(body, bytes) else 0


def _joined(pieces: Iterable[bytes]) -> Generator[bytearray]:
    """The same bytes in pieces that are neither long nor very short."""
    joined = bytearray()
    for piece in pieces:
        for start in range(0, len(piece), PIECE_BYTES):
            joined += piece[start : start + PIECE_BYTES]
            if len(joined) >= PIECE_BYTES:
                yield joined
                joined = bytearray()
    if joined:
        yield joined
