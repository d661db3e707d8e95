"""Reads an answer of the LLM server as it comes, streamed or whole, and ends it in one way."""

from __future__ import annotations

import asyncio
import json
import logging
from contextlib import suppress
from typing import Any

import aiohttp

from chatbot import frames, sse
from chatbot.errors import ChatError, TooLong
from chatbot.frames import Frame

log = logging.getLogger(__name__)

FINISH_SECONDS = 1.0
LINGER_SECONDS = 5.0
"""How long an LLM server may be silent that has told the finish_reason and neither [DONE] nor the end."""

MAX_WHOLE_BYTES = 8 * 1024 * 1024
"""The largest answer in one piece; its JSON is parsed at once, while everything else waits."""


class Answer:
    """An answer of the LLM that has begun: read() it until it returns nothing, and close() it.

    `finish_reason` and `usage` are None until the LLM has said them.
    """

    def __init__(self, response: aiohttp.ClientResponse, timeout: float) -> None:
        self._response = response
        self._content = response.content
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._heard = self._loop.time()
        self._failure: ChatError | None = None
        # Re-armed when it fires rather than at each read, which costs next to nothing per token.
        self._watch = self._loop.call_later(timeout, self._check_silence)
        self._reader = frames.Reader()

    @property
    def finish_reason(self) -> str | None:
        return self._reader.finish_reason

    @property
    def usage(self) -> dict[str, Any] | None:
        return self._reader.usage

    async def read(self) -> list[Frame]:
        """Waits for what comes next; an empty list once the answer has ended as it should.

        Raises ChatError, only after all that came before the failure has been returned.
        """
        raise NotImplementedError

    async def finish(self) -> None:
        """After a reply is complete: lets the answer end, so that its connection can serve again."""
        with suppress(aiohttp.ClientError, TimeoutError):
            async with asyncio.timeout(FINISH_SECONDS):
                while await self._content.readany():
                    pass

    def close(self) -> None:
        """Lets go of the LLM: at once and for good if the answer has not ended, so that it stops working."""
        self._watch.cancel()
        self._response.close()

    async def _receive(self) -> bytes:
        """The bytes that came since, b"" at the end."""
        try:
            data = await self._content.readany()
        except aiohttp.ClientError as error:
            raise self._failure or cut_short(error) from None
        self._heard = self._loop.time()
        return data

    def _check_silence(self) -> None:
        due = self._heard + self._timeout
        if self._loop.time() < due:
            self._watch = self._loop.call_at(due, self._check_silence)
        else:
            self._failure = timed_out(self._timeout)
            self._response.close()  # and _receive raises

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
        self._began = False
        self._ended = False

    async def read(self) -> list[Frame]:
        while not self._ended:
            try:
                data = await self._receive()
            except ChatError:
                if self._reader.finish_reason:  # the reply is whole, whatever became of the connection
                    return []
                raise
            if self._decoder.between_events and data.startswith(b"data: ") and data.endswith(b"\n\n"):
                # Nearly always: one whole event, and in it only the text is new.
                frame = self._reader.recognise(data[6:-2])
                if frame:
                    return [frame]
            if read := self._read_events(data):
                return read
        if self._failure:
            raise self._failure
        if not self._reader.finish_reason:
            # llama-cpp-python answers a conversation that is too long with a stream of nothing at all.
            if not self._began:
                raise TooLong("llm_error", "The LLM server sent an empty stream.")
            raise ChatError("llm_error", "The LLM server's stream ended before the reply did.")
        return []

    def _read_events(self, data: bytes) -> list[Frame]:
        read: list[Frame] = []
        known = self._reader.finish_reason
        try:
            self._ended = not data
            self._began = self._began or bool(data)
            for event in self._decoder.feed(data) if data else self._decoder.flush():
                frame = self._reader.read(event)
                if frame:
                    read.append(frame)
                elif self._reader.done:
                    self._ended = True
                    break
        except sse.TooLarge:
            self._fail(ChatError("llm_error", "The LLM server sent a line of over 1 MiB."))
        except ChatError as error:
            self._fail(error)
        if self._reader.finish_reason and not known:
            self._expect_the_end()
        return read

    def _fail(self, error: ChatError) -> None:
        # A last event cut short with its connection is no worse than one that never came.
        if not (self._ended and self._reader.finish_reason):
            self._failure = error
        self._ended = True


class WholeAnswer(Answer):
    """An answer in one piece, read as if it were a stream of one chunk."""

    async def read(self) -> list[Frame]:
        if self._reader.finish_reason:
            return []
        parts: list[bytes] = []
        size = 0
        while data := await self._receive():
            parts.append(data)
            size += len(data)
            if size > MAX_WHOLE_BYTES:
                raise ChatError("llm_error", "The LLM server sent an answer of over 8 MiB.")
        completion = frames.parse_object(b"".join(parts))
        frames.raise_error(completion)
        choices = completion.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        if not isinstance(choice, dict) or not isinstance(choice.get("message"), dict):
            raise ChatError("llm_error", "The LLM server sent something that is not a chat completion.")
        if not choice.get("finish_reason"):
            raise ChatError("llm_error", "The LLM server's answer has no finish_reason.")
        chunk: dict[str, Any] = {key: completion.get(key) for key in ("id", "created", "model", "usage")}
        chunk["object"] = "chat.completion.chunk"
        chunk["choices"] = [
            {"index": 0, "delta": choice["message"], "finish_reason": choice["finish_reason"]}
        ]
        frame = self._reader.read(json.dumps(chunk).encode())
        return [frame] if frame else []


def cut_short(error: Exception) -> ChatError:
    """What a connection that broke means."""
    log.warning("llm: connection failed: %s", type(error).__name__)
    return ChatError("llm_error", "The connection to the LLM server broke before the reply was complete.")


def timed_out(seconds: float) -> ChatError:
    """What silence means."""
    return ChatError("llm_timeout", f"The LLM server was silent for {seconds:g} seconds.")
