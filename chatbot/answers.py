"""Reads an answer of the LLM server as it comes, streamed or whole, and ends it in one way."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

import aiohttp
from aiohttp.http import HttpProcessingError

from chatbot import frames, sse
from chatbot.errors import ChatError, TooLong
from chatbot.frames import Frame

log = logging.getLogger(__name__)

FINISH_SECONDS = 1.0
LINGER_SECONDS = 5.0
"""How long an LLM server may be silent that has told the finish_reason and neither [DONE] nor the end."""

SLICE_BYTES = 16 * 1024
"""How much of a burst is taken before the event loop has its turn: thousands of frames, some milliseconds."""

MAX_WHOLE_BYTES = 8 * 1024 * 1024
"""The largest answer in one piece; its JSON is parsed at once, while everything else waits."""


BROKEN = (aiohttp.ClientError, HttpProcessingError)
"""What reading from a broken connection raises; the second comes from aiohttp's parser in pure Python."""


class Answer:
    """An answer of the LLM that has begun: read() it until it returns nothing, and close() it.

    `said` holds the finish_reason and the usage once the LLM has told them; `heard_at` is when it last
    was heard (loop time).
    """

    def __init__(self, response: aiohttp.ClientResponse, timeout: float) -> None:
        self._response = response
        self._content = response.content
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self.heard_at = self._loop.time()
        self._failure: ChatError | None = None
        # Re-armed when it fires rather than at each read, which costs next to nothing per token.
        self._watch = self._loop.call_later(timeout, self._check_silence)
        self.said = frames.Reader()

    async def read(self) -> list[Frame]:
        """Waits for what comes next; an empty list once the answer has ended as it should.

        Raises ChatError, only after all that came before the failure has been returned.
        """
        raise NotImplementedError

    async def finish(self) -> None:
        """After a reply is complete: lets the answer end, so that its connection can serve again."""
        if self._content.at_eof():
            return
        with suppress(*BROKEN, TimeoutError):
            async with asyncio.timeout(FINISH_SECONDS):
                while await self._content.readany():
                    pass

    def close(self) -> None:
        """Lets go of the LLM: at once and for good if the answer has not ended, so that it stops working."""
        self._watch.cancel()
        self._response.close()

    def _broken(self, error: Exception) -> ChatError:
        """What it means that the connection broke: our own doing, after too long a silence, or theirs."""
        # For a connection that we closed aiohttp raises one and the same exception over and over: its
        # traceback would keep every reply that it ever ended.
        error.__traceback__ = None
        return self._failure or cut_short(error)

    def _check_silence(self) -> None:
        due = self.heard_at + self._timeout
        if self._loop.time() < due:
            self._watch = self._loop.call_at(due, self._check_silence)
        else:
            self._failure = timed_out(self._timeout)
            self._response.close()  # and whoever reads is told

    def _expect_the_end(self) -> None:
        """The reply is whole, and a client waits to hear so: what may still come must come soon."""
        self._watch.cancel()
        self._timeout = min(self._timeout, LINGER_SECONDS)
        self._check_silence()


class StreamedAnswer(Answer):
    """An answer as server-sent events, a chunk each."""

    def __init__(self, response: aiohttp.ClientResponse, timeout: float) -> None:
        super().__init__(response, timeout)
        self._decoder = sse.Decoder()
        self._rest = b""  # of a burst that is taken in slices
        self._began = False
        self._ended = False

    async def read(self) -> list[Frame]:
        while not self._ended:
            data = self._rest
            if data:
                await asyncio.sleep(0)
            else:
                try:
                    data = await self._content.readany()
                except BROKEN as error:
                    failure = self._broken(error)
                    if self.said.finish_reason:  # the reply is whole, whatever became of the connection
                        return []
                    raise failure from None
                self.heard_at = self._loop.time()
            if len(data) > SLICE_BYTES or self._rest:
                data, self._rest = data[:SLICE_BYTES], data[SLICE_BYTES:]
            if (
                self._decoder.is_between
                and data.startswith(b"data: ")
                and data.endswith(b"\n\n")
                and (frame := self.said.recognise(data[6:-2]))
            ):
                return [frame]  # nearly always: one whole event, and in it only the text is new
            if read := self._read_events(data):
                return read
        if self._failure:
            raise self._failure
        if not self.said.finish_reason:
            # llama-cpp-python answers a conversation that is too long with a stream of nothing at all.
            if not self._began:
                raise TooLong("llm_error", "The LLM server sent an empty stream.")
            raise ChatError("llm_error", "The LLM server's stream ended before the reply did.")
        return []

    def _read_events(self, data: bytes) -> list[Frame]:
        read: list[Frame] = []
        known = self.said.finish_reason
        try:
            self._ended = not data
            self._began = self._began or bool(data)
            for event in self._decoder.feed(data) if data else self._decoder.flush():
                frame = self.said.read(event)
                if frame:
                    read.append(frame)
                elif self.said.done:
                    self._ended = True
                    break
        except sse.TooLarge:
            self._fail(ChatError("llm_error", "The LLM server sent a line of over 1 MiB."))
        except ChatError as error:
            self._fail(error)
        if self.said.finish_reason and not known:
            self._expect_the_end()
        return read

    def _fail(self, error: ChatError) -> None:
        # A last event cut short with its connection is no worse than one that never came.
        if not (self._ended and self.said.finish_reason):
            self._failure = error
        self._ended = True


class WholeAnswer(Answer):
    """An answer in one piece."""

    async def read(self) -> list[Frame]:
        if self.said.finish_reason:
            return []
        parts: list[bytes] = []
        size = 0
        try:
            while data := await self._content.readany():
                self.heard_at = self._loop.time()
                parts.append(data)
                size += len(data)
                if size > MAX_WHOLE_BYTES:
                    raise ChatError("llm_error", "The LLM server sent an answer of over 8 MiB.")
        except BROKEN as error:
            raise self._broken(error) from None
        return [Frame(b"", self.said.read_whole(frames.parse_object(b"".join(parts))))]


def cut_short(error: Exception) -> ChatError:
    """What a connection that broke means."""
    log.warning("llm: connection failed: %s", type(error).__name__)
    return ChatError("llm_error", "The connection to the LLM server broke before the reply was complete.")


def timed_out(seconds: float) -> ChatError:
    """What silence means."""
    return ChatError("llm_timeout", f"The LLM server was silent for {seconds:g} seconds.")
