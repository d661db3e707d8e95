"""Reads one answer of the LLM server as it comes, as a stream of events or in one piece, up to its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import aiohttp
from aiohttp.http import HttpProcessingError

from chatbot.errors import ChatError, without_frames
from chatbot.llm import errors
from chatbot.llm.chunks import ChunkReader
from chatbot.llm.connections import seen
from chatbot.llm.idle_timeout import IdleTimeout
from chatbot.llm.sse_decoder import Decoder, TooLarge
from chatbot.records import Chunk

SHORT_WAIT_SECONDS = 5.0
"""How long an LLM server may be silent that has said all but [DONE]."""

FINISH_SECONDS = 1.0
"""How long a connection may take to the end of a complete answer, in order to serve again."""

SLICE_BYTES = 16 * 1024
"""How much of a burst is taken before others have their turn: thousands of chunks, some milliseconds."""

MAX_WHOLE_BYTES = 8 * 1024 * 1024
"""The largest answer in one piece; its JSON is parsed at once, while everything else waits."""

BROKEN = (aiohttp.ClientError, HttpProcessingError, RuntimeError)
"""What reading from a broken connection raises; the last after bad chunks."""

_STREAM_BEGINS = (b"data", b"event", b"id:", b"retry", b"error:", b":")


class Answer:
    """An answer that has begun: `async for chunks in answer`, then close() it.

    The loop ends when the answer is complete, and raises ChatError if it is not, after all that came before.
    `is_whole` is whether it came in one piece (known with the first chunks).
    """

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        idle: IdleTimeout,
        patience: float,
        reader: ChunkReader,
        report: Callable[[ChatError], ChatError],
    ) -> None:
        self._response = response
        self._content = response.content
        self._idle = idle
        self._patience = patience
        self._loop = asyncio.get_running_loop()
        self._reader = reader
        self._report = report
        self._head = b""
        self._decoder: Decoder | None = None
        self._parts: list[bytes] = []  # of an answer in one piece
        self._size = 0
        self._burst = b""  # what of a burst has not been read yet
        self._has_ended = False
        self._failure: ChatError | None = None
        self.is_whole = False
        connection = response.connection  # None if the whole answer came with its head
        protocol = None if connection is None else connection.protocol
        self._closed = None if protocol is None else protocol.closed
        if self._closed:
            self._closed.add_done_callback(self._lost)
        idle.set(patience, self._give_up)

    @property
    def model(self) -> str:
        """The model that answers, as it names itself; "" if it does not."""
        return self._reader.model

    @property
    def finish_reason(self) -> str | None:
        """Why the reply ended; None before that is known. More may come, and take it back."""
        return self._reader.finish_reason

    @property
    def usage(self) -> str | None:
        """What it cost, as JSON text; None if the LLM does not say."""
        return self._reader.usage

    def __aiter__(self) -> Answer:
        return self

    async def __anext__(self) -> list[Chunk]:
        while not self._has_ended:
            try:
                # All that has come: what a broken connection still holds would be lost.
                data = self._burst or await self._content.readany()
            except BROKEN as error:
                error.__traceback__ = None  # aiohttp keeps it, and its frames would keep the reply
                chunks = self._end(is_cut=True)
            else:
                data, self._burst = data[:SLICE_BYTES], data[SLICE_BYTES:]
                chunks = self._take(data) if data else self._end(is_cut=False)
                if self._burst:
                    await asyncio.sleep(0)
            if chunks:
                return chunks
        if self._failure:
            failure, self._failure = self._failure, None
            raise failure
        raise StopAsyncIteration

    def close(self) -> None:
        """Lets go of the LLM: at once if the answer has not ended, so that it stops working."""
        self._idle.end()
        if self._closed:
            self._closed.remove_done_callback(self._lost)
            self._closed.remove_done_callback(seen)
            self._closed.add_done_callback(seen)
        self._has_ended = True
        if self._reader.finish_reason and not self._failure and not self._content.is_eof():
            # All has come but the end of the HTTP body: with it, the connection can serve again.
            timer = self._loop.call_later(FINISH_SECONDS, self._response.close)
            self._content.on_eof(timer.cancel)
        else:
            self._response.close()

    def _give_up(self) -> None:
        self._content.set_exception(aiohttp.ClientConnectionError("idle"))
        self._response.close()

    def _lost(self, closed: asyncio.Future[None]) -> None:
        seen(closed)  # after bad chunks aiohttp forgets to tell whoever reads
        if not self._content.is_eof() and not self._content.exception():
            self._content.set_exception(aiohttp.ClientPayloadError("the connection was lost"))

    def _take(self, data: bytes) -> list[Chunk]:
        """The chunks in what has come."""
        reader, decoder = self._reader, self._decoder
        if decoder is None:
            return self._begin(data)
        if (
            decoder.is_between
            and data.startswith(b"data: ")
            and data.endswith(b"\n\n")
            and (chunk := reader.recognise(data[6:-2]))
        ):
            self._idle.heard_at = self._loop.time()
            return [chunk]  # nearly always: one whole event, and in it only the text is new
        known = reader.finish_reason
        chunks = self._read_events(data)
        if self._has_ended:
            return chunks
        chunks += reader.spoken()
        if not reader.finish_reason or not known or any(chunk.pieces for chunk in chunks):
            self._idle.heard_at = self._loop.time()  # after the finish what says nothing counts for nothing
        if reader.may_end_soon:
            self._idle.shorten(SHORT_WAIT_SECONDS)
        elif known and not reader.finish_reason:
            self._idle.set(self._patience, self._give_up)
        return chunks

    def _begin(self, data: bytes) -> list[Chunk]:
        """Finds out whether it is a stream or one piece, by what comes: Content-Types lie."""
        self._idle.heard_at = self._loop.time()
        if not self.is_whole:
            head = self._head = (self._head + data).lstrip(b"\xef\xbb\xbf \t\r\n")  # blank lines, a BOM
            if head.startswith(_STREAM_BEGINS):
                self._decoder, self._head = Decoder(), b""
                return self._take(head)
            if len(head) < 6 and any(begin.startswith(head) for begin in _STREAM_BEGINS):
                return []
            self.is_whole, data = True, head
        self._parts.append(data)
        self._size += len(data)
        if self._size > MAX_WHOLE_BYTES:
            self._fail(errors.ours("large", "an answer of over 8 MiB"))
        return []

    def _read_events(self, data: bytes, *, is_last: bool = False) -> list[Chunk]:
        """The chunks of the events that `data` completes; of a last event that was cut, none."""
        chunks: list[Chunk] = []
        assert self._decoder
        try:
            for event in self._decoder.flush() if is_last else self._decoder.feed(data):
                chunks += self._reader.read(event)
                if self._reader.is_done:
                    return chunks + self._complete(is_cut=False)
        except TooLarge:
            self._fail(errors.ours("large", "a line of over 1 MiB"))
        except ChatError as error:
            self._fail(error)
        return chunks

    def _end(self, *, is_cut: bool) -> list[Chunk]:
        """The body has ended, or its connection broke, or it was silent for too long."""
        if self._decoder is None and (self._parts or self._head):
            self.is_whole = True
            if is_cut:
                self._fail(errors.ours("timeout", f"{self._patience:g}") if self._idle.has_fired else errors.ours("cut"))
                return []
            try:
                chunks = self._reader.read_whole(b"".join(self._parts) or self._head)
                return chunks + self._complete(is_cut=False)
            except ChatError as error:
                self._fail(error)
                return []
        chunks = []
        if self._decoder and not self._decoder.is_between:
            chunks = self._read_events(b"", is_last=True)
            if self._failure and self._failure.kind == "nonsense" and (is_cut or self._reader.finish_reason):
                self._failure, self._has_ended = None, False  # an event cut short is as good as none
        return chunks if self._has_ended else chunks + self._complete(is_cut=is_cut)

    def _complete(self, *, is_cut: bool) -> list[Chunk]:
        """Nothing more will come: the chunks that were held, if the reply is complete."""
        self._has_ended = True
        is_silent = self._idle.has_fired
        if is_silent and (self._reader.is_doubtful or not self._reader.finish_reason):
            self._fail(errors.ours("timeout", f"{self._patience:g}"))
            return []
        try:
            return self._reader.end(is_cut=is_cut)
        except ChatError as error:
            self._fail(error)
            return []

    def _fail(self, error: ChatError) -> None:
        self._has_ended = True
        self._failure = without_frames(self._report(error))
