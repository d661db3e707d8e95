"""Reads one answer of the LLM server as it comes, as a stream of events or in one piece, up to its end.

Two functions ask for what has come, in turns:

    __anext__   the task: for the first chunks, for what is left of a long burst, for an end without [DONE]
    _arrived    the transport's callback, by way of tap.py: for all the rest, so that no task is woken for it

Both have it read by _read, which chooses by what is known by then:

    a stream    _read_events
    the end     _read_end
    otherwise   _read_head, which keeps the bytes until they show a stream, or until the end

A failure is kept in `_failure`, which the task raises after the chunks that came before it. `_has_ended`
ends both ways. However it ends, close() lets go of the LLM: first() and deliver() call it, also if their
task is cancelled.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import aiohttp
from aiohttp.http import HttpProcessingError

from chatbot.errors import ChatError, without_frames
from chatbot.llm import errors
from chatbot.llm.chunks import ChunkReader
from chatbot.llm.idle_timeout import IdleTimeout
from chatbot.llm.sse_decoder import Decoder, TooLarge
from chatbot.llm.tap import Tap
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

Take = Callable[[list[Chunk]], bool]
"""Takes chunks; says False when it wants no more."""

_STREAM_BEGINS = (b"data", b"event", b"id:", b"retry", b"error:", b":")


class Answer:
    """An answer that has begun: deliver() it, or loop over it and close() it.

    Its `reader` knows the model, finish_reason and usage. The answer `is_complete` when all of it was read;
    its last chunks are handed over then.
    """

    __slots__ = (
        "__weakref__", "_chunks", "_content", "_decoder", "_failure", "_has_ended", "_head", "_idle",
        "_loop", "_messages", "_report", "_response", "_take", "_tap", "_unread", "is_complete", "reader"
    )  # fmt: skip

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        patience: float,
        reader: ChunkReader,
        report: Callable[[ChatError, str | None], ChatError],
        messages: str,
    ) -> None:
        self.is_complete = False
        self._response = response
        self._content = response.content
        self._loop = asyncio.get_running_loop()
        self.reader = reader
        self._report = report
        self._messages: str | None = messages  # for the report of a failure before the first chunk
        self._head = bytearray()  # what has come of an answer that is no stream, or may be none
        self._decoder: Decoder | None = None  # of a stream
        self._unread = b""  # what has come and was not read yet
        self._chunks: list[Chunk] = []  # what was read and not handed over yet
        self._take: Take | None = None  # what the transport's callback hands chunks to
        self._has_ended = False
        self._failure: Exception | None = None
        self._tap = Tap(response, self._arrived)
        self._idle = IdleTimeout(patience, self._give_up)

    async def first(self, take: Take) -> list[Chunk]:
        """The first chunks that say something; deliver() is given them. Hands those before them to `take`.

        If it raises, the answer is closed.
        """
        try:
            async for chunks in self:
                if any(chunk.pieces for chunk in chunks):
                    return chunks
                if not take(chunks):
                    return chunks  # `take` will refuse them in deliver(), too, which ends the answer
            return []
        except BaseException:
            self.close()
            raise

    async def deliver(self, first: list[Chunk], take: Take) -> None:
        """Hands all chunks to `take`, until the end or until it says False, and closes the answer.

        After the first ones the transport's callback does so, too. Raises ChatError after all that came.
        """
        try:
            if take(first):
                self._take = take
                async for chunks in self:
                    if not take(chunks):
                        break
        finally:
            self.close()

    def __aiter__(self) -> Answer:
        return self

    async def __anext__(self) -> list[Chunk]:
        while not self._has_ended:
            try:
                data, is_cut = await self._more(), False
            except BROKEN as error:
                error.__traceback__ = None  # aiohttp keeps it, and its frames would keep the reply
                data, is_cut = self._left_over(), True
            if self._has_ended:
                break
            if chunks := self._read(data, is_cut=is_cut):
                return chunks
        if self._failure:
            try:
                raise self._failure
            finally:
                # No local variable may hold it: its traceback has this frame, which would be a cycle.
                self._failure = None
        raise StopAsyncIteration

    def close(self) -> None:
        """Lets go of the LLM: at once if the answer is not complete, so that it stops working."""
        self._idle.end()
        self._tap.close()
        self._take = None
        self._has_ended = True
        if self.is_complete and not self._content.is_eof():
            # All has come but the end of the HTTP body: with it, the connection can serve again.
            timer = self._loop.call_later(FINISH_SECONDS, self._response.close)
            self._content.on_eof(timer.cancel)
        else:
            self._response.close()

    async def _more(self) -> bytes:
        """What has come, as soon as something has; b"" at the end. Raises what is in BROKEN."""
        if self._unread:
            await asyncio.sleep(0)  # others have their turn
        while not (data := self._unread or self._content.read_nowait()):
            if self._has_ended or self._content.is_eof():
                break
            await self._tap.wait()
        return data

    def _left_over(self) -> bytes:
        """What came before the connection broke and was not read yet: aiohttp would not give it any more."""
        if (broken := self._content.exception()) is None:
            return b""
        self._content.set_exception(None)  # type: ignore[arg-type]
        try:
            return self._content.read_nowait()
        finally:
            self._content.set_exception(broken)

    def _arrived(self) -> None:
        """Something has come, or the connection is lost: hands it over, and wakes the task for anything else.

        It is called only while the task waits, and then nothing is unread.
        """
        try:
            data = self._content.read_nowait() if self._take else b""
        except BROKEN:
            data = b""  # the task will get the same error
        try:
            if data and self._take and (chunks := self._read(data)) and not self._take(chunks):
                self._has_ended = True
        except Exception as error:
            self._failure, self._has_ended = error, True
        needs_task = not data or self._unread or self._has_ended or self._content.is_eof()
        if needs_task:
            self._tap.wake()

    def _read(self, data: bytes, *, is_cut: bool = False) -> list[Chunk]:
        """The chunks in what came, b"" at the end; only a part of it is read if it is long.

        A failure is kept, to be raised when they were handed over.
        """
        decoder, self._unread = self._decoder, b""
        if decoder and decoder.is_between and (chunk := self.reader.recognise(data)):
            self._idle.heard_at = self._loop.time()
            return [chunk]  # nearly always what has come is one event, in which only the text is new
        if len(data) > SLICE_BYTES:
            data, self._unread = data[:SLICE_BYTES], data[SLICE_BYTES:]
        try:
            if decoder and data:
                self._read_events(data, decoder)
            elif data:
                self._read_head(data)
            else:
                self._read_end(is_cut=is_cut)
        except ChatError as error:
            self._has_ended = True
            self._failure = without_frames(self._report(error, self._messages))
        chunks, self._chunks = self._chunks, []
        if chunks:
            self._messages = None  # they may be long
        return chunks

    def _give_up(self) -> None:
        """The LLM was silent for too long, unless the task was not waiting: a relay's client may be slow."""
        if not self._tap.is_waited_for:
            self._idle = IdleTimeout(self._idle.patience, self._give_up)
            return
        self._content.set_exception(aiohttp.ClientConnectionError("idle"))
        self._response.close()
        self._tap.wake()

    def _read_head(self, data: bytes) -> None:
        """Finds out whether it is a stream or one piece, by what comes: Content-Types lie."""
        self._idle.heard_at = self._loop.time()
        was_undecided = len(self._head) < len(b"error:")  # too little to tell
        self._head += data
        if was_undecided:
            self._head = self._head.lstrip(b"\xef\xbb\xbf \t\r\n")  # blank lines, a BOM
            if self._head.startswith(_STREAM_BEGINS):
                self._decoder, head, self._head = Decoder(), bytes(self._head), bytearray()
                self._read_events(head, self._decoder)
        elif len(self._head) > MAX_WHOLE_BYTES:
            raise errors.ours("large", "an answer of over 8 MiB")

    def _read_events(self, data: bytes, decoder: Decoder) -> None:
        """Takes a piece of a stream."""
        reader = self.reader
        try:
            for event in decoder.feed(data):
                self._chunks += reader.read(event)
                if reader.is_done:
                    self._complete(is_cut=False)
                    return
        except TooLarge:
            raise errors.ours("large", "a line of over 1 MiB") from None
        if not reader.finish_reason or any(chunk.pieces for chunk in self._chunks):
            self._idle.heard_at = self._loop.time()  # after the finish, only text counts
        patience = self._idle.patience
        self._idle.allow(min(SHORT_WAIT_SECONDS, patience) if reader.may_end_soon else patience)

    def _read_end(self, *, is_cut: bool) -> None:
        """The body has ended, or its connection broke, or it was silent for too long."""
        reader = self.reader
        if self._idle.has_fired and not reader.is_certain:
            raise errors.ours("timeout", f"{self._idle.patience:g}")
        if self._decoder:
            try:
                for event in self._decoder.flush():
                    self._chunks += reader.read(event)
            except ChatError as error:
                if error.kind != "nonsense" or not is_cut:
                    raise  # but an event cut short is as good as none
        elif self._head:
            if is_cut:
                raise errors.ours("cut")
            self._chunks += reader.read_whole(bytes(self._head))
        self._complete(is_cut=is_cut)

    def _complete(self, *, is_cut: bool) -> None:
        """Nothing more will come: hands over the chunks that were held, if the reply is complete."""
        self._chunks += self.reader.end(is_cut=is_cut)
        self._has_ended = self.is_complete = True
