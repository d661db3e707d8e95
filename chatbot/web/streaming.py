"""Sends one client a reply as a stream: what the client lacks, then each event as it comes, then the end.

A listener is live or behind. While it is live, each event is written where it comes from the LLM, and no
task is woken for it. While it is behind, events pass it by, and it reads the reply's log, no faster than its
client reads. "The finish" is the chunk with the finish_reason.

    from     to      when                                                                            where
    (begins) live    the client has all that has come of the reply, and the finish is still to come  __init__
    (begins) behind  otherwise                                                                       __init__
    live     behind  too much waits to be sent to the client, or may with the next event             push
    behind   live    as in the first line, once it has caught up                                     run

A listener that is behind at the finish stays behind: its ending has the finish, too.
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

It is more than for text, because the log does not hold such chunks: a client that misses one never gets it.
"""


async def stream(
    request: web.Request,
    listener: StreamListener,
    headers: Callable[[], Mapping[str, str]],
    *,
    waits: bool = True,
) -> web.StreamResponse:
    """Answers with the reply that `listener` is to be sent.

    Nothing may be awaited between finding the reply and this (see `ReplySource.join`). An error that
    `headers` raises is a status: if the listener `waits` for the first event, also one that comes before it.
    """
    source = listener.source
    source.join(listener)
    try:
        if waits:
            await listener.begin()
        response = web.StreamResponse(headers=EVENT_STREAM | dict(headers()))
        await listener.run(request, response)
    finally:  # the client has all of it, has hung up, or is sent an error in its place
        source.leave(listener)
    return response


class StreamListener:
    """One client's place in a reply, of which it has `after` characters; the caller joins it and leaves."""

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
        self._before_headers = b""  # what comes before the headers are sent
        self._events: EventWriter | None = None  # once they are
        self._loop = asyncio.get_running_loop()
        self._asleep: asyncio.Future[None] | None = None
        self._wrote_at = self._loop.time()

    # What the request does, in this order

    async def begin(self) -> None:
        """Waits for the first event or the end, a heartbeat at most: the LLM may take its time."""
        if not self.source.has_pushed and not self.source.ended:
            await self._sleep_until_due()

    async def run(self, request: web.Request, response: web.StreamResponse) -> None:
        """Sends the headers and the reply to its end.

        Raises ConnectionResetError when the client has gone.
        """
        source = self.source
        events = await self._send_headers(request, response)
        try:
            await self._catch_up(events)
            while not source.ended:
                # Nothing is awaited between catching up and this, so no event comes between.
                if not source.finish_sent:
                    self._is_live = True
                if self._loop.time() >= self._wrote_at + self._heartbeat:
                    self._send(KEEP_ALIVE)
                await self._sleep_until_due()
                await self._catch_up(events)  # nothing is lacking if it was live all the time
            ending = self._ending()
        except ChatError as error:  # a stored reply that was deleted meanwhile
            ending = self._encoder.error(error)
        await backpressure.finish(request, response, ending)

    async def _send_headers(self, request: web.Request, response: web.StreamResponse) -> EventWriter:
        """Sends the headers, and then what was held until now."""
        self._events = await backpressure.begin(request, response)
        self._send(self._encoder.opening() + self._before_headers)
        self._before_headers = b""
        return self._events

    async def _catch_up(self, events: EventWriter) -> None:
        """Sends what the client lacks, if anything, no faster than it reads."""
        while self._offset < self.source.log.length:
            await events.wait_until_sent()
            await asyncio.sleep(0)  # others have their turn
            data, self._offset = self._encoder.catch_up(self.source, self._offset)
            with backpressure.holding(len(data)):
                self._send(data)
                await events.wait_until_sent()

    async def _sleep_until_due(self) -> None:
        """Sleeps until it is woken, or a heartbeat is due; what is sent meanwhile does not move the timer."""
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
        """Sends the next events at once, if the client keeps up."""
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
        """Lets the request go on: the reply has begun or ended, or there is something to do."""
        if self._asleep and not self._asleep.done():
            self._asleep.set_result(None)

    def _send(self, data: bytes) -> None:
        if self._events is None:
            self._before_headers += data
            self.wake()  # the headers waited for this
        elif data:  # not every chunk is an event at every door
            self._events.send(data)
            self._wrote_at = self._loop.time()


class Encoder(Protocol):
    """What bytes an event is, at the door by which a client came; each listener has its own."""

    def opening(self) -> bytes:
        """What a stream begins with; b"" for nothing."""

    def live(self, chunk: Chunk, offset: int) -> bytes | None:
        """The events of a chunk that has just come, after which `offset` characters have; None if long."""

    def catch_up(self, source: ReplySource, start: int) -> tuple[bytes, int]:
        """The events of some of the log from offset `start` on, and the offset after them."""

    def ending(self, source: ReplySource, offset: int, *, live: bool) -> bytes:
        """What ends the stream; a client that was `live` at the finish has it already."""

    def error(self, error: ChatError) -> bytes:
        """What ends a stream that failed."""


async def until_ended(source: ReplySource) -> None:
    """Listens to a reply until its end; as with stream(), nothing is awaited before."""
    if source.ended:
        return
    listener = EndListener()
    source.join(listener)
    try:
        await listener.wait()
    finally:
        source.leave(listener)


class EndListener(asyncio.Event):
    """Waits for the whole reply."""

    def push(self, burst: Sequence[tuple[Chunk, int]]) -> None:
        """Takes no notice: what comes is not the end."""

    def wake(self) -> None:
        """Notices that the reply has ended."""
        self.set()
