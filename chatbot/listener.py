"""Tells one client a reply: what it missed as one chunk, then each frame as it comes.

A listener is live while all text before `_told` is on its way to the client: each frame is then written
where it comes from the LLM, and no task is woken. When too much waits unsent it falls behind, is passed
over, and its own task gives it the rest from the reply's text until it is live again. One who comes
between the reply's finish and its end is not made live any more: it is told both from what was stored.
"""

from __future__ import annotations

import asyncio
from typing import cast

from aiohttp import web
from aiohttp.http_writer import StreamWriter

from chatbot import delivery, shapes, sse
from chatbot.errors import ChatError
from chatbot.reply import Reply
from chatbot.stored import StoredReply

CATCH_UP_CHARS = 64 * 1024
"""The most text in one catch-up chunk, which bounds what a listener costs."""


class EndListener:
    """One who waits for the whole reply."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.ended: asyncio.Future[None] = loop.create_future()

    def push(self, data: bytes, offset: int) -> None:
        """Takes no notice: what comes is not the end."""

    def wake(self) -> None:
        """Notices that the reply has ended."""
        if not self.ended.done():  # the client may have gone in the same turn of the loop
            self.ended.set_result(None)


class StreamListener:
    """One client's place in a reply; `after` is how many characters of it the client already has."""

    def __init__(
        self,
        reply: Reply | StoredReply,
        after: int,
        heartbeat: float,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        if after > reply.length:
            message = f"The reply has only {reply.length} characters."
            raise ChatError("invalid_request", message, "Last-Event-ID")
        self._reply = reply
        self._told = after
        self._heartbeat = heartbeat
        self._live = after == reply.length and not reply.finish_told
        self._held: list[bytes] = []  # frames that came before the response was prepared
        self._loop = loop
        self._asleep: asyncio.Future[None] | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._wrote_at = self._loop.time()
        self._transport: asyncio.Transport | None = None  # once the headers are sent
        self._chunked = True

    def push(self, data: bytes, offset: int) -> None:
        """Sends the next frames at once, if the client keeps up."""
        if not self._live:
            return
        transport = self._transport
        unsent = transport.get_write_buffer_size() if transport else sum(map(len, self._held))
        if unsent > delivery.MAX_UNSENT or not data:  # it falls behind, and will catch up from the text
            self._live = False
            self.wake()
            return
        if transport:
            self._send(data)
        else:
            self._held.append(data)
            self.wake()
        self._told = offset

    def _send(self, data: bytes) -> None:
        # To the transport itself: on this path, where every token goes, the calls between
        # StreamResponse.write and the transport would cost more than all that we do to a token.
        assert self._transport
        self._transport.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    def wake(self) -> None:
        """Notices that the reply has begun or ended, that the client fell behind, that something is due."""
        if self._asleep and not self._asleep.done():
            self._asleep.set_result(None)

    @property
    def _due(self) -> float:
        """When the client has to hear something, be it a comment (loop time)."""
        return max(self._reply.told_at, self._wrote_at) + self._heartbeat

    async def _sleep(self) -> None:
        """Until it is woken; at the latest when something is due."""
        self._asleep = self._loop.create_future()
        if not self._alarm:
            self._ring()
        await self._asleep

    def _ring(self) -> None:
        # One timer for as long as it listens, set again when it rings: tokens move what is due, and would
        # each have to move a timer.
        self._alarm = None
        if self._due > self._loop.time():
            self._alarm = self._loop.call_at(self._due, self._ring)
        else:
            self.wake()

    def close(self) -> None:
        """Listens no more."""
        if self._alarm:
            self._alarm.cancel()

    async def begin(self) -> None:
        """Waits for the first frame or the end, a heartbeat at most: the LLM may take its time."""
        if not self._reply.told_at and not self._reply.ended:
            await self._sleep()

    async def run(self, request: web.Request, response: web.StreamResponse) -> None:
        """Prepares the response and tells the reply to its end.

        Raises ConnectionResetError when the client has gone or does not read.
        """
        transport = delivery.transport_of(request)
        await response.prepare(request)
        writer = cast(StreamWriter, request.writer)
        if self._held:
            await writer.write(b"".join(self._held), drain=False)  # with the headers, in one go
            self._held.clear()
        else:
            writer.send_headers()  # what comes first may be long in coming
        self._chunked = writer.chunked  # HTTP/1.0 has no chunks
        self._transport = transport
        await self._catch_up(request)
        while not self._reply.ended:
            await self._listen(request)
            await self._catch_up(request)
        await delivery.finish(request, response, self._ending())

    async def _listen(self, request: web.Request) -> None:
        """Is live until it falls behind or the reply ends; fills a silence with a comment."""
        is_live = self._live = self._live or not self._reply.finish_told
        while self._live is is_live and not self._reply.ended:
            if self._due <= self._loop.time():
                await self._write(request, sse.KEEP_ALIVE)
            else:
                await self._sleep()

    async def _catch_up(self, request: web.Request) -> None:
        """Sends the text that the client does not have, no faster than it reads."""
        while self._told < self._reply.length:
            text = self._reply.text(self._told, CATCH_UP_CHARS)
            self._told += len(text)
            delta = {"role": "assistant", "content": text}
            chunk = shapes.chunk(self._reply.message_id, self._reply.created_at, delta)
            await self._write(request, sse.frame(self._told, chunk))
        # No await from here to `_listen`, which goes live: no frame can come between.

    async def _write(self, request: web.Request, data: bytes) -> None:
        if delivery.transport_of(request).get_write_buffer_size() > delivery.MAX_UNSENT:
            await delivery.little_left(request)
        self._send(data)
        self._wrote_at = self._loop.time()

    def _ending(self) -> bytes:
        """What ends the stream: the finish that was not told yet and [DONE], or an error."""
        if self._reply.error:
            return shapes.error_frame(self._reply.error)
        if self._live and self._reply.finish_told:
            return sse.DONE
        assert self._reply.message, "a reply that ended without an error was stored"
        return shapes.ending(self._reply.message, self._told)
