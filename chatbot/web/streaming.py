"""Sends one client a reply as a stream: what it missed, then each event as it comes, then the end.

A listener is in one of three states:

    HOLDING ──the headers are sent──> LIVE <──it has all that came── BEHIND
       └───────────────────────────────┴──too much waits to be sent────^

Who has all that came begins HOLDING; who resumes with less, or after the finish, begins BEHIND.
While it is LIVE each event is written where it comes from the LLM, and no task is woken for it. What it
misses while it is BEHIND is read from the reply's log, no faster than the client reads. Who missed the finish
stays BEHIND and waits for the end: its ending is made from what is stored.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Protocol

from aiohttp import web

from chatbot.chat.reply_source import ReplySource
from chatbot.errors import ChatError
from chatbot.records import Chunk
from chatbot.web import backpressure
from chatbot.web.backpressure import EVENT_STREAM, KEEP_ALIVE, MAX_UNSENT

MAX_UNSENT_SILENT = 16 * MAX_UNSENT
"""The same for chunks without text, such as the last ones: who missed them does not find them in the log."""


class Encoder(Protocol):
    """What bytes an event is, at the door by which a client came; each listener has its own."""

    def opening(self) -> bytes:
        """What a stream begins with; b"" for nothing."""

    def live(self, chunk: Chunk, offset: int) -> bytes:
        """The events of a chunk that has just come, after which `offset` characters have."""

    def catch_up(self, source: ReplySource, start: int) -> tuple[bytes, int]:
        """The events of some of the log from offset `start` on, and the offset after them."""

    def ending(self, source: ReplySource, offset: int, *, live: bool) -> bytes:
        """What ends the stream; a client that was `live` at the finish has it already."""

    def error(self, error: ChatError) -> bytes:
        """What ends a stream that failed."""


class State(Enum):
    """What a listener does with what it is pushed."""

    HOLDING = "holds it until the headers are sent"
    LIVE = "writes it"
    BEHIND = "leaves it, and reads the log"


HOLDING, LIVE, BEHIND = State


class StreamListener:
    """One client's place in a reply, of which it has `after` characters; the caller joins it and leaves."""

    def __init__(self, source: ReplySource, after: int, encoder: Encoder, heartbeat: float) -> None:
        if after > source.length:
            message = f"The reply has only {source.length} characters."
            raise ChatError("invalid_request", message, "Last-Event-ID")
        self._source = source
        self._encoder = encoder
        self._heartbeat = heartbeat
        self._state = HOLDING if after == source.length and not source.finish_sent else BEHIND
        self._offset = after
        self._held = b""
        self._loop = asyncio.get_running_loop()
        self._asleep: asyncio.Future[None] | None = None
        self._wrote_at = self._loop.time()

    # What the reply calls

    def push(self, burst: Sequence[tuple[Chunk, int]]) -> None:
        """Sends the next events at once, if the client keeps up."""
        state = self._state
        if state is BEHIND:
            return
        unsent = self._events.unsent() if state is LIVE else len(self._held)
        data = b""
        for chunk, offset in burst:
            if unsent + len(data) > (MAX_UNSENT if chunk.pieces else MAX_UNSENT_SILENT):
                self._state = BEHIND
                break
            data += self._encoder.live(chunk, offset)
            self._offset = offset
        if state is LIVE:
            self._send(data)
        else:
            self._held += data
        if self._state is not LIVE:
            self.wake()

    def wake(self) -> None:
        """Notices that something has begun, is due or has ended."""
        if self._asleep and not self._asleep.done():
            self._asleep.set_result(None)

    # What the request does, in this order

    async def begin(self) -> None:
        """Waits for the first event or the end, a heartbeat at most: the LLM may take its time."""
        if not self._source.has_pushed and not self._source.ended:
            await self._sleep_until_due()

    async def run(self, request: web.Request, response: web.StreamResponse) -> None:
        """Sends the headers and the reply to its end.

        Raises ConnectionResetError when the client has gone.
        """
        await self._send_headers(request, response)
        try:
            await self._catch_up()
            while not self._source.ended:
                await self._listen()
                await self._catch_up()
            ending = self._ending()
        except ChatError as error:  # a stored reply that was deleted meanwhile
            ending = self._encoder.error(error)
        await backpressure.finish(request, response, ending)

    async def _send_headers(self, request: web.Request, response: web.StreamResponse) -> None:
        self._events = await backpressure.begin(request, response)
        # Nothing is awaited from here on, so that what was held is sent before what is pushed next.
        self._send(self._encoder.opening() + self._held)
        self._held = b""
        if self._state is HOLDING:
            self._state = LIVE

    async def _catch_up(self) -> None:
        """Sends what the client does not have, no faster than it reads."""
        while self._offset < self._source.length:
            await self._events.wait_until_sent()
            await asyncio.sleep(0)  # others have their turn
            data, self._offset = self._encoder.catch_up(self._source, self._offset)
            self._send(data)
        # Nothing is awaited from here until it listens, so no event comes between.

    async def _listen(self) -> None:
        """Waits until the reply ends, or until it falls behind if it is live; fills a silence."""
        if not self._source.finish_sent:
            self._state = LIVE
        state = self._state
        while self._state is state and not self._source.ended:
            if self._loop.time() >= self._wrote_at + self._heartbeat:
                self._send(KEEP_ALIVE)
            await self._sleep_until_due()

    def _ending(self) -> bytes:
        source = self._source
        if source.error:
            return self._encoder.error(source.error)
        had_finish = self._state is LIVE and source.finish_sent
        return self._encoder.ending(source, self._offset, live=had_finish)

    def _send(self, data: bytes) -> None:
        if not data:  # not every chunk is an event at every door
            return
        self._events.send(data)
        self._wrote_at = self._loop.time()

    async def _sleep_until_due(self) -> None:
        """Sleeps until it is woken, or something must be sent, be it what means nothing."""
        self._asleep = self._loop.create_future()
        timer = self._loop.call_at(self._wrote_at + self._heartbeat, self.wake)
        try:
            await self._asleep
        finally:
            timer.cancel()


async def stream(
    request: web.Request,
    source: ReplySource,
    listener: StreamListener,
    headers: Callable[[], Mapping[str, str]],
    *,
    waits: bool = True,
) -> web.StreamResponse:
    """Answers with a reply. Nothing is awaited between finding it and this: if all others have left it, its
    grace may run out meanwhile.

    If the listener `waits` for the first event, an error that `headers` raises then is still a status.
    """
    source.join(listener)
    try:
        if waits:
            await listener.begin()
        response = web.StreamResponse(headers=EVENT_STREAM | dict(headers()))
        await listener.run(request, response)
    finally:
        source.leave(listener)
    return response


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
    """One who waits for the whole reply."""

    def push(self, burst: Sequence[tuple[Chunk, int]]) -> None:
        """Takes no notice: what comes is not the end."""

    def wake(self) -> None:
        """Notices that the reply has ended."""
        self.set()
