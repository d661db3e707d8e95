"""Sends bytes to a client no faster than the client reads; stalls.py drops a client that reads nothing.

connection.py sets the limits of each transport's write buffer to 0. So `drain` returns only when the buffer
is empty: when everything has been sent.
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
"""Bytes that may wait for one client, besides the bytes in the kernel's buffers."""

LONG = 256 * 1024
MAX_HELD = 128 * 1024 * 1024
"""Bytes that may be held for all clients together; a body of LONG bytes or more is refused beyond that."""

PIECE_BYTES = 32 * 1024
"""About how many bytes of a long body are collected and written at once."""

EVENT_STREAM = {
    hdrs.CONTENT_TYPE: "text/event-stream; charset=utf-8",
    hdrs.CACHE_CONTROL: "no-cache, no-transform",
    istr("X-Accel-Buffering"): "no",
}
"""The headers of every stream."""

KEEP_ALIVE = b": keep-alive\n"
"""A comment line between two events; clients ignore it.

No blank line follows: after an `id:` line a blank line ends an event, here one without data. Clients should
drop such an event, but the OpenAI Python library does not.
"""


class Pieces(Payload):
    """A body that is produced piece by piece while the client reads it; `size` is in bytes, if known.

    The pieces may have any length. `pieces` is iterated while the response is being sent, so the data that it
    reads must still exist then. An error that it raises cuts the response off.
    """

    _value: Iterable[bytes]

    def __init__(self, pieces: Iterable[bytes], size: int | None = None) -> None:
        super().__init__(pieces, content_type="application/json")
        self._size = size

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Sends the pieces; aiohttp calls it."""
        pieces, self._value = self._value, ()  # this object may outlive the sending
        with closing(_joined(pieces)) as joined:
            for piece in joined:
                await writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)  # lets other tasks run, even if the client reads at once

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Raises TypeError: the pieces can be produced only once."""
        raise TypeError("these pieces are for one client")


class _Held:
    """Counts the bytes that are held for all clients; one counter, since they share the process's memory."""

    size = 0


def has_room(size: int) -> bool:
    """Whether `size` bytes may wait for one client, given what other clients have not read yet."""
    return size < LONG or _Held.size + size <= MAX_HELD


@contextmanager
def holding(size: int) -> Iterator[None]:
    """Counts `size` bytes while a client reads them; raises ConnectionResetError if there is no room."""
    if not has_room(size):
        raise ConnectionResetError("too much waits for other clients")
    _Held.size += size
    try:
        yield
    finally:
        _Held.size -= size


class EventWriter:
    """Writes a stream directly to the transport, after its headers were sent.

    aiohttp's work between StreamResponse.write and the transport would cost more than all our own work on a
    token. Each write contains whole events, or a keep-alive between two events.
    """

    __slots__ = ("_chunked", "_transport", "_writer", "unsent")

    def __init__(self, request: web.Request, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._writer = cast(StreamWriter, request.writer)
        self._chunked = self._writer.chunked  # HTTP/1.0 has no chunked encoding
        self.unsent = transport.get_write_buffer_size
        """Returns how many bytes wait for the client."""
        request[EVENT_WRITER] = self

    def send(self, data: bytes) -> None:
        """Sends events; bytes that the client cannot take yet wait in the transport's buffer."""
        if self._chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        self._writer.output_size += len(data)  # connection.py and stalls.py use this count
        self._transport.write(data)

    def keep_alive(self) -> None:
        """Sends a keep-alive; connection.py uses it to probe a client that has closed its half."""
        self.send(KEEP_ALIVE)

    async def wait_until_sent(self) -> None:
        """If more than MAX_UNSENT bytes wait to be sent, waits until all of them were sent."""
        if self.unsent() > MAX_UNSENT:
            await self._writer.drain()


EVENT_WRITER = web.RequestKey("event_writer", EventWriter)
"""The writer of the stream that is the answer to a request."""


async def begin(request: web.Request, response: web.StreamResponse) -> EventWriter:
    """Sends the headers of a stream, unless they were sent; returns its writer. finish() ends the stream.

    Raises ConnectionResetError if the client has gone.
    """
    await response.prepare(request)
    if request.transport is None:
        raise ConnectionResetError("the client has gone")
    return request.get(EVENT_WRITER) or EventWriter(request, request.transport)


async def finish(request: web.Request, response: web.StreamResponse, data: bytes = b"") -> None:
    """Sends a whole response, or `data` as the end of a stream, and waits until everything was sent.

    Raises ConnectionResetError if the client has gone, or if there is no room for the bytes (`holding`).
    """
    size = length_of(response)
    with holding(size or len(data)):
        if isinstance(response, web.Response) and size > MAX_UNSENT:
            response.body = Pieces((cast(bytes, response.body),), size)
        await response.prepare(request)
        request.pop(EVENT_WRITER, None)  # nothing may be sent after the end
        await response.write_eof(data)  # waits until the last byte was sent


def length_of(response: web.StreamResponse) -> int:
    """How many bytes a response in one piece has; 0 for any other response."""
    body = response.body if isinstance(response, web.Response) else None
    return len(body) if isinstance(body, bytes) else 0


def _joined(pieces: Iterable[bytes]) -> Generator[bytearray]:
    """Yields the same bytes in pieces of about PIECE_BYTES."""
    joined = bytearray()
    for piece in pieces:
        for start in range(0, len(piece), PIECE_BYTES):
            joined += piece[start : start + PIECE_BYTES]
            if len(joined) >= PIECE_BYTES:
                yield joined
                joined = bytearray()
    if joined:
        yield joined
