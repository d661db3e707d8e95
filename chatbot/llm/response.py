"""Reads one answer of the LLM server while it arrives, as a stream of events or in one piece, up to its end.

Two functions take turns in reading the bytes that have arrived:

    __anext__   runs in the task: for the first chunks, the rest of a long burst, an end without [DONE]
    _arrived    runs in the transport's callback (tap.py): for everything else, so no task is woken for it

Both pass the bytes to _read, which calls one of these:

    _read_events   if the answer is known to be a stream
    _read_end      at the end of the answer
    _read_head     otherwise: keeps the bytes until they turn out to be a stream, or until the end

_read keeps a failure in `_failure`; the task raises it after the chunks that came before it. When
`_has_ended` is true, neither function reads more. deliver(), and first() if it raises (also when cancelled),
call close(), which releases or closes the connection to the LLM.
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
"""The idle timeout when the LLM server has sent everything except [DONE]."""

FINISH_SECONDS = 1.0
"""How long close() waits for the end of the HTTP body of a complete answer, to reuse the connection."""

SLICE_BYTES = 16 * 1024
"""How much of a burst is read before other tasks run; a burst may have thousands of chunks."""

MAX_WHOLE_BYTES = 8 * 1024 * 1024
"""The largest answer in one piece. Parsing its JSON blocks the event loop."""

BROKEN = (aiohttp.ClientError, HttpProcessingError, RuntimeError)
"""The errors that reading from a broken connection raises; RuntimeError after bad HTTP chunks."""

Take = Callable[[list[Chunk]], bool]
"""A function that takes chunks. It returns False when it wants no more."""

_STREAM_BEGINS = (b"data", b"event", b"id:", b"retry", b"error:", b":")


class Answer:
    """An answer whose head has arrived. Call deliver(), or iterate over the answer and then call close().

    `reader` has the model, the finish_reason and the usage. `is_complete` becomes true when the whole answer
    was read; the last chunks are handed over then.
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
        self._head = bytearray()  # the bytes of an answer that is not, or not yet, known as a stream
        self._decoder: Decoder | None = None  # None if it is not a stream
        self._unread = b""  # bytes that have arrived and were not read yet
        self._chunks: list[Chunk] = []  # chunks that were read and not handed over yet
        self._take: Take | None = None  # the callback hands its chunks to this function
        self._has_ended = False
        self._failure: Exception | None = None
        self._tap = Tap(response, self._arrived)
        self._idle = IdleTimeout(patience, self._give_up)

    async def first(self, take: Take) -> list[Chunk]:
        """Returns the first chunks that add to the reply, for deliver(). Hands earlier chunks to `take`.

        If it raises, it has closed the answer.
        """
        try:
            async for chunks in self:
                if any(chunk.pieces for chunk in chunks):
                    return chunks
                if not take(chunks):
                    return chunks  # the reply has ended: deliver() offers them again, is refused, and closes
            return []
        except BaseException:
            self.close()
            raise

    async def deliver(self, first: list[Chunk], take: Take) -> None:
        """Hands all chunks to `take`, until the end or until `take` returns False, and closes the answer.

        After `first` the transport's callback does so, too. Raises ChatError after the chunks that arrived.
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
                error.__traceback__ = None  # aiohttp keeps the error; its frames would keep the reply
                data, is_cut = self._left_over(), True
            if self._has_ended:
                break
            if chunks := self._read(data, is_cut=is_cut):
                return chunks
        if self._failure:
            try:
                raise self._failure
            finally:
                # A local variable would make a cycle: frame, error, traceback, frame.
                self._failure = None
        raise StopAsyncIteration

    def close(self) -> None:
        """Releases the connection, or closes it at once if the answer is incomplete, so the LLM stops."""
        self._idle.end()
        self._tap.close()
        self._take = None
        self._has_ended = True
        if self.is_complete and not self._content.is_eof():
            # Only the end of the HTTP body is missing; after it the connection can be reused.
            timer = self._loop.call_later(FINISH_SECONDS, self._response.close)
            self._content.on_eof(timer.cancel)
        else:
            self._response.close()

    async def _more(self) -> bytes:
        """Waits for bytes and returns all that have arrived; b"" at the end. Raises an error of BROKEN."""
        if self._unread:
            await asyncio.sleep(0)  # let other tasks run
        while not (data := self._unread or self._content.read_nowait()):
            if self._has_ended or self._content.is_eof():
                break
            await self._tap.wait()
        return data

    def _left_over(self) -> bytes:
        """Returns the unread bytes from before the connection broke; aiohttp would only raise its error."""
        if (broken := self._content.exception()) is None:
            return b""
        self._content.set_exception(None)  # type: ignore[arg-type]
        try:
            return self._content.read_nowait()
        finally:
            self._content.set_exception(broken)

    def _arrived(self) -> None:
        """Is called when bytes have arrived or the connection is lost, but only while the task waits.

        Hands over the chunks in these bytes; wakes the task for anything else. `_unread` is empty here.
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
        """Returns the chunks in `data` (b"": the end). Of long data it reads a slice; `_unread` is the rest.

        Keeps a failure, which is raised after these chunks were handed over.
        """
        decoder, self._unread = self._decoder, b""
        if decoder and decoder.is_between and (chunk := self.reader.recognise(data)):
            self._idle.heard_at = self._loop.time()
            return [chunk]  # nearly always `data` is one event in which only the text is new
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
            self._messages = None  # free the memory: they may be long
        return chunks

    def _give_up(self) -> None:
        """Breaks the connection: the LLM was silent for too long. Waits again if the task was not waiting."""
        if not self._tap.is_waited_for:  # a relay waits for its client, not for the LLM
            self._idle = IdleTimeout(self._idle.patience, self._give_up)
            return
        self._content.set_exception(aiohttp.ClientConnectionError("idle"))
        self._response.close()
        self._tap.wake()

    def _read_head(self, data: bytes) -> None:
        """Finds out from the bytes whether the answer is a stream: its Content-Type may be wrong."""
        self._idle.heard_at = self._loop.time()
        was_undecided = len(self._head) < len(b"error:")  # too few bytes to decide
        self._head += data
        if was_undecided:
            self._head = self._head.lstrip(b"\xef\xbb\xbf \t\r\n")  # blank lines, a BOM
            if self._head.startswith(_STREAM_BEGINS):
                self._decoder, head, self._head = Decoder(), bytes(self._head), bytearray()
                self._read_events(head, self._decoder)
        elif len(self._head) > MAX_WHOLE_BYTES:
            raise errors.ours("large", "an answer of over 8 MiB")

    def _read_events(self, data: bytes, decoder: Decoder) -> None:
        """Reads the events in a part of a stream."""
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
            self._idle.heard_at = self._loop.time()  # after the finish_reason, only text counts
        patience = self._idle.patience
        self._idle.allow(min(SHORT_WAIT_SECONDS, patience) if reader.may_end_soon else patience)

    def _read_end(self, *, is_cut: bool) -> None:
        """The body has ended. `is_cut`: the connection broke, or _give_up closed it after a silence."""
        reader = self.reader
        if self._idle.has_fired and not reader.is_certain:
            raise errors.ours("timeout", f"{self._idle.patience:g}")
        if self._decoder:
            try:
                for event in self._decoder.flush():
                    self._chunks += reader.read(event)
            except ChatError as error:
                if error.kind != "nonsense" or not is_cut:
                    raise  # but an event that was cut off is ignored
        elif self._head:
            if is_cut:
                raise errors.ours("cut")
            self._chunks += reader.read_whole(bytes(self._head))
        self._complete(is_cut=is_cut)

    def _complete(self, *, is_cut: bool) -> None:
        """Ends the answer: adds the chunks that were held. Raises ChatError if the reply is not complete."""
        self._chunks += self.reader.end(is_cut=is_cut)
        self._has_ended = self.is_complete = True
