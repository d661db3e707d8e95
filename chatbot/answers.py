"""Reads an answer of the LLM server as it comes, streamed or whole, and ends it in one way."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

import aiohttp
from aiohttp.http import HttpProcessingError

from chatbot import frames, sse
from chatbot.errors import ChatError, TooLong
from chatbot.frames import Frame
from chatbot.silence import Silence
from chatbot.tap import Tap

log = logging.getLogger(__name__)

FINISH_SECONDS = 1.0
LINGER_SECONDS = 5.0
"""How long an LLM server may be silent that has told the finish_reason and neither [DONE] nor the end."""

SLICE_BYTES = 16 * 1024
"""How much of a burst is taken before the event loop has its turn: thousands of frames, some milliseconds."""

MAX_WHOLE_BYTES = 8 * 1024 * 1024
"""The largest answer in one piece; its JSON is parsed at once, while everything else waits."""


Take = Callable[[list[Frame]], None]

BROKEN = (aiohttp.ClientError, HttpProcessingError)
"""What reading from a broken connection raises; the second comes from aiohttp's parser in pure Python."""


class Answer:
    """An answer of the LLM that has begun: deliver() it to its end, finish() it if it is whole, close() it.

    `said` holds the finish_reason and the usage once the LLM has told them; `silence` watches that it
    goes on, and knows when it last was heard.
    """

    def __init__(self, response: aiohttp.ClientResponse, silence: Silence) -> None:
        self._response = response
        self._content = response.content
        self._loop = silence.loop
        self._failure: ChatError | None = None
        self.silence = silence
        silence.heard_at = self._loop.time()
        silence.on_silence = self._give_up
        self.said = frames.Reader()
        connection = response.connection  # None if the whole answer came with its head
        transport = connection.transport if connection else None
        self._tap = Tap(transport, self) if isinstance(transport, asyncio.Transport) else None

    async def deliver(self, take: Take) -> None:
        """Hands what comes to `take`, some frames at a time, and returns when the reply has ended.

        Raises ChatError, only after all that came before the failure has been handed over.
        """
        raise NotImplementedError

    @property
    def is_over(self) -> bool:
        """Whether the LLM has nothing more to say, and the connection can serve again."""
        return self._content.at_eof()

    async def finish(self) -> None:
        """After a reply is complete and it is not: lets it end, so that its connection can serve again."""
        with suppress(*BROKEN, TimeoutError, RuntimeError):  # the last: closed after bad chunks
            async with asyncio.timeout(FINISH_SECONDS):
                while await self._content.readany():
                    pass

    def close(self) -> None:
        """Lets go of the LLM: at once and for good if the answer has not ended, so that it stops working."""
        self.silence.end()
        self._untap()
        self._response.close()

    def _untap(self) -> None:
        # As soon as the last byte is here: the connection is in the pool again, for another answer's tap.
        if self._tap:
            self._tap.remove()
            self._tap = None

    def _broken(self, error: Exception) -> ChatError:
        """What it means that the connection broke: our own doing, after too long a silence, or theirs."""
        # For a connection that we closed aiohttp raises one and the same exception over and over: its
        # traceback would keep every reply that it ever ended.
        error.__traceback__ = None
        return self._failure or cut_short(error)

    def _give_up(self) -> None:
        self._failure = timed_out(self.silence.seconds)
        self._response.close()
        self.arrived()

    def arrived(self) -> None:
        """Something came, or the connection broke; one who waits for the content is woken by aiohttp."""
        if self._content.is_eof():
            self._untap()

    def about_to_break(self) -> None:
        """The connection is lost, and aiohttp does not know yet: what came before can still be read."""

    def broke(self) -> None:
        """The connection is lost, and aiohttp has been told."""
        if not self._content.is_eof() and not self._content.exception():
            # After bad chunks aiohttp's parser in C forgets whom it reads for.
            self._content.set_exception(aiohttp.ClientPayloadError("the connection was lost"))
        self.arrived()


class StreamedAnswer(Answer):
    """An answer as server-sent events, a chunk each.

    Its bytes are taken where they arrive, in the transport's callback: waking a task for each token
    would cost as much as all that is done with it.
    """

    def __init__(self, response: aiohttp.ClientResponse, silence: Silence) -> None:
        super().__init__(response, silence)
        self._decoder = sse.Decoder()
        self._began = False
        self._ended = False
        self._done: asyncio.Future[None] | None = None  # while somebody takes what comes
        self._take: Take = _nobody
        self._goes_on = False

    async def deliver(self, take: Take) -> None:
        self._take, self._done = take, self._loop.create_future()
        self.arrived()
        try:
            await self._done
        finally:  # or the answer would hold the reply, and an exception that holds the answer
            self._take, self._done = _nobody, None

    def arrived(self) -> None:
        if not self._goes_on:
            self._read_on()

    def about_to_break(self) -> None:
        while self._read_on():
            pass

    def _read_on(self) -> bool:
        """Takes a slice of what has come, never raises; returns whether there is more of it."""
        self._goes_on = False
        done = self._done
        if not done or done.done():
            return False
        try:
            self._goes_on = self._read_some() and not self._ended
            if self._ended:
                self._check_end()
                done.set_result(None)
            elif self._goes_on:  # of a burst: after others have had their turn
                self._loop.call_soon(self._read_on)
        except Exception as error:
            self._goes_on = False
            if isinstance(error, ChatError):  # of a crash it is needed, for the log
                error.__traceback__ = None  # whose frames hold this
            if not done.done():
                done.set_exception(error)
                done.exception()  # seen, also if the reply was cancelled in the meantime
        if self._ended or self._content.is_eof():
            self._untap()
        return self._goes_on

    def _read_some(self) -> bool:
        """Takes what has come, at most SLICE_BYTES; returns whether there is more."""
        try:
            data = self._content.read_nowait(SLICE_BYTES)
        except BROKEN as error:
            failure = self._broken(error)
            if not self.said.finish_reason:
                raise failure from None
            self._failure = None  # the reply is whole, whatever became of the connection
            self._ended = True
            return False
        if data:
            self.silence.heard_at = self._loop.time()
            if (
                self._decoder.is_between
                and data.startswith(b"data: ")
                and data.endswith(b"\n\n")
                and (frame := self.said.recognise(data[6:-2]))
            ):
                self._take([frame])  # nearly always: one whole event, and in it only the text is new
            elif read := self._read_events(data):
                self._take(read)
        if self._content.at_eof() and not self._ended and (read := self._read_events(b"")):
            self._take(read)
        return len(data) == SLICE_BYTES

    def _check_end(self) -> None:
        """Raises what was wrong with a stream that has ended."""
        if self._failure:
            raise self._failure
        if not self.said.finish_reason:
            # llama-cpp-python answers a conversation that is too long with a stream of nothing at all.
            if not self._began:
                raise TooLong("llm_error", "The LLM server sent an empty stream.")
            raise ChatError("llm_error", "The LLM server's stream ended before the reply did.")

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
        if self.said.finish_reason and not known and not self._ended:
            # The reply is whole, and a client waits to hear so: what may still come must come soon.
            self.silence.shorten(LINGER_SECONDS)
        return read

    def _fail(self, error: ChatError) -> None:
        # A last event cut short with its connection is no worse than one that never came.
        if not (self._ended and self.said.finish_reason):
            self._failure = error
        self._ended = True


class WholeAnswer(Answer):
    """An answer in one piece."""

    async def deliver(self, take: Take) -> None:
        parts: list[bytes] = []
        size = 0
        try:
            while not self._content.at_eof():
                data = await self._content.readany()
                self.silence.heard_at = self._loop.time()
                parts.append(data)
                size += len(data)
                if size > MAX_WHOLE_BYTES:
                    raise ChatError("llm_error", "The LLM server sent an answer of over 8 MiB.")
        except BROKEN as error:
            raise self._broken(error) from None
        take([Frame(b"", self.said.read_whole(frames.parse_object(b"".join(parts))))])


def _nobody(frames: list[Frame]) -> None:
    """Takes what comes when nobody wants it any more."""


def cut_short(error: Exception) -> ChatError:
    """What a connection that broke means."""
    log.warning("llm: connection failed: %s", type(error).__name__)
    return ChatError("llm_error", "The connection to the LLM server broke before the reply was complete.")


def timed_out(seconds: float) -> ChatError:
    """What silence means."""
    return ChatError("llm_timeout", f"The LLM server was silent for {seconds:g} seconds.")
