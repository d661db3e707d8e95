"""Sends one client a reply as a stream: what the client lacks, then each event as it comes, then the end.

A listener is live or behind. While it is live, `push` writes each event as soon as the LLM's chunk comes, and
no task is woken for it. While it is behind, `push` ignores events, and the request's task reads the reply's
log, no faster than the client reads. "The finish" is the chunk with the finish_reason.

    from     to      when                                                                            where
    (begins) live    the client has all that has come of the reply, and the finish is still to come  __init__
    (begins) behind  otherwise                                                                       __init__
    live     behind  too much waits to be sent to the client, or the next event is long              push
    behind   live    as in the first line, once it has caught up                                     run

A listener that is behind when the finish comes stays behind: `_ending` sends it the finish, too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from aiohttp import web

from chatbot.chat.reply_source import ReplySource
from chatbot.errors import ChatError
from chatbot.records import Chunk
from chatbot.web import backpressure
from chatbot.web.backpressure import EVENT_STREAM, KEEP_ALIVE, MAX_UNSENT, EventWriter

MAX_UNSENT_SILENT = 16 * MAX_UNSENT
"""Bytes that may wait for one client before a chunk without text makes it fall behind.

The limit is higher than for text: the log does not hold such chunks, so a client never gets one it missed.
"""


async def stream(
    request: web.Request,
    listener: StreamListener,
    headers: Callable[[], Mapping[str, str]],
    *,
    waits: bool = True,
) -> web.StreamResponse:
    """Sends the client of `listener` its reply as a stream.

    Nothing may be awaited between finding the reply and this call (see `ReplySource.join`). An error that
    `headers` raises becomes an HTTP status. `waits`: whether to wait for the first event before the headers,
    so that an early error is a status. The stream of a background response begins at once.
    """
    source = listener.source
    source.join(listener)
    try:
        if waits:
            await listener.begin()
        response = web.StreamResponse(headers=EVENT_STREAM | dict(headers()))
        await listener.run(request, response)
    finally:  # the client has the whole reply, has hung up, or is sent an error instead
        source.leave(listener)
    return response


class StreamListener:
    """One client's place in a reply; the client has `after` characters. The caller joins and leaves."""

    __slots__ = (
        "_asleep", "_before_headers", "_encoder", "_events", "_heartbeat", "_is_live", "_loop", "_offset",
        "_wrote_at", "source"
    )  # fmt: skip

    def __init__(self, source: ReplySource, after: int, encoder: Encoder, heartbeat: float) -> None:
        length = source.log.length
        if after > length:
            message = f"The reply has only {length} characters."
            raise ChatError("invalid_request", message, "Last-Event-ID")
        self.source = source
        self._encoder = encoder
        self._heartbeat = heartbeat
        self._offset = after
        self._is_live = after == length and not source.finish_sent
        self._before_headers = b""  # events that come before the headers are sent
        self._events: EventWriter | None = None  # set when they are sent
        self._loop = asyncio.get_running_loop()
        self._asleep: asyncio.Future[None] | None = None
        self._wrote_at = self._loop.time()

    # What the request does, in this order

    async def begin(self) -> None:
        """Waits for the first event or the end of the reply, but for one heartbeat at most."""
        if not self.source.has_pushed and not self.source.ended:
            await self._sleep_until_due()

    async def run(self, request: web.Request, response: web.StreamResponse) -> None:
        """Sends the headers, then the reply until its end.

        Raises ConnectionResetError if the client has gone.
        """
        source = self.source
        events = await self._send_headers(request, response)
        try:
            await self._catch_up(events)
            while not source.ended:
                # Nothing is awaited between the catch-up and this line, so no event comes between them.
                if not source.finish_sent:
                    self._is_live = True
                if self._loop.time() >= self._wrote_at + self._heartbeat:
                    self._send(KEEP_ALIVE)
                await self._sleep_until_due()
                await self._catch_up(events)  # nothing is lacking if it stayed live
            ending = self._ending()
        except ChatError as error:  # a stored reply that was deleted meanwhile
            ending = self._encoder.error(error)
        await backpressure.finish(request, response, ending)

    async def _send_headers(self, request: web.Request, response: web.StreamResponse) -> EventWriter:
        """Sends the headers, then the events that were held until now."""
        self._events = await backpressure.begin(request, response)
        self._send(self._encoder.opening() + self._before_headers)
        self._before_headers = b""
        return self._events

    async def _catch_up(self, events: EventWriter) -> None:
        """Sends what the client lacks, if anything, no faster than the client reads."""
        while self._offset < self.source.log.length:
            await events.wait_until_sent()
            await asyncio.sleep(0)  # lets other tasks run
            data, self._offset = self._encoder.catch_up(self.source, self._offset)
            with backpressure.holding(len(data)):
                self._send(data)
                await events.wait_until_sent()

    async def _sleep_until_due(self) -> None:
        """Sleeps until wake() or until a heartbeat is due; events sent meanwhile do not move the timer."""
        self._asleep = self._loop.create_future()
        timer = self._loop.call_at(self._wrote_at + self._heartbeat, self.wake)
        try:
            await self._asleep
        finally:
            timer.cancel()

    def _ending(self) -> bytes:
        source = self.source
        if source.error:
            return self._encoder.error(source.error)
        return self._encoder.ending(source, self._offset, live=self._is_live and source.finish_sent)

    # What the reply calls

    def push(self, burst: Sequence[tuple[Chunk, int]]) -> None:
        """Sends the next events at once if the listener is live; makes it fall behind if too much waits."""
        if not self._is_live:
            return
        unsent = self._events.unsent() if self._events else len(self._before_headers)
        data = b""
        for chunk, offset in burst:
            most = MAX_UNSENT if chunk.pieces else MAX_UNSENT_SILENT
            more = self._encoder.live(chunk, offset) if unsent + len(data) <= most else None
            if more is None:
                self._is_live = False
                self.wake()
                break
            data += more
            self._offset = offset
        self._send(data)

    def wake(self) -> None:
        """Wakes the request's task: the reply has begun or ended, or the listener has fallen behind."""
        if self._asleep and not self._asleep.done():
            self._asleep.set_result(None)

    def _send(self, data: bytes) -> None:
        if self._events is None:
            self._before_headers += data
            self.wake()  # begin() waits for this
        elif data:  # not every chunk is an event at every door
            self._events.send(data)
            self._wrote_at = self._loop.time()


class Encoder(Protocol):
    """Encodes a reply's events as bytes, for the API that the client uses; each listener has its own."""

    def opening(self) -> bytes:
        """What a stream begins with; b"" for nothing."""

    def live(self, chunk: Chunk, offset: int) -> bytes | None:
        """The events of a new chunk, after which the reply has `offset` characters; None if they are long."""

    def catch_up(self, source: ReplySource, start: int) -> tuple[bytes, int]:
        """The events of the next part of the log, from offset `start` on, and the offset after them."""

    def ending(self, source: ReplySource, offset: int, *, live: bool) -> bytes:
        """The end of the stream; a client that was `live` when the finish came has the finish already."""

    def error(self, error: ChatError) -> bytes:
        """The end of a stream that failed."""


async def until_ended(source: ReplySource) -> None:
    """Waits until a reply has ended; as with stream(), nothing may be awaited before this call."""
    if source.ended:
        return
    listener = EndListener()
    source.join(listener)
    try:
        await listener.wait()
    finally:
        source.leave(listener)


class EndListener(asyncio.Event):
    """A listener that only waits for the end of a reply."""

    def push(self, burst: Sequence[tuple[Chunk, int]]) -> None:
        """Ignores events."""

    def wake(self) -> None:
        """Called when the reply has ended."""
        self.set()
