"""Asks an LLM as a reply would, without the server around it."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from chatbot.config import Config
from chatbot.errors import ChatError
from chatbot.llm.client import LLM
from chatbot.llm.response import Answer
from chatbot.records import CALL, Chunk, Piece
from tests.tools.scripted_llm import END, SSE_HEAD, Gate, ScriptedLLM, Step, http_chunk

HI = '{"role":"user","content":"Hi"}'


@asynccontextmanager
async def opened(server: ScriptedLLM | str, **settings: Any) -> AsyncIterator[LLM]:
    """The way to an LLM server; its model is "m" unless told otherwise."""
    url = server if isinstance(server, str) else server.url
    llm = LLM(Config(**({"llm_server_url": url, "llm_model": "m"} | settings)))
    try:
        yield llm
    finally:
        await llm.close()


@dataclass
class Heard:
    """What came of a question: the chunks, and how it ended. It wants no more than `most` chunks."""

    chunks: list[Chunk] = field(default_factory=list)
    error: ChatError | None = None
    answer: Answer | None = None
    most: int = sys.maxsize

    def take(self, chunks: list[Chunk]) -> bool:
        """Takes what comes."""
        self.chunks += chunks
        return len(self.chunks) < self.most

    @property
    def said(self) -> str:
        """All that was said: `[reasoning]text{refusal}`, of a call `<name>arguments`."""
        return said(piece for chunk in self.chunks for piece in chunk.pieces)

    @property
    def json(self) -> list[Any]:
        """The chunks as clients get them."""
        return [json.loads(chunk.data) for chunk in self.chunks]

    @property
    def finish(self) -> str | None:
        return self.answer.reader.finish_reason if self.answer else None

    @property
    def usage(self) -> str | None:
        return self.answer.reader.usage if self.answer else None

    @property
    def failed(self) -> ChatError:
        assert self.error, f"it did not fail, but said {self.said!r}"
        return self.error


def said(pieces: Any) -> str:
    """Pieces in writing; pieces of one kind are joined."""
    marks = {"reasoning": "[%s]", "text": "%s", "refusal": "{%s}"}
    out: list[tuple[tuple[str, int], str]] = []
    for piece in pieces:
        assert isinstance(piece, Piece)
        kind = (piece.kind, piece.call)
        text = (f"<{piece.head.name}>" if piece.head else "") + piece.text
        if out and out[-1][0] == kind:
            out[-1] = (kind, out[-1][1] + text)
        else:
            out.append((kind, text))
    return "".join(text if kind[0] == CALL else marks[kind[0]] % text for kind, text in out)


async def hear(
    llm: LLM, messages: tuple[str, ...] = (HI,), affinity: str | None = None, **fields: Any
) -> Heard:
    """Asks and listens to the end."""
    heard = Heard()
    try:
        heard.answer = await llm.ask(messages, fields, affinity=affinity)
        await heard.answer.deliver(await heard.answer.first(heard.take), heard.take)
    except ChatError as error:
        heard.error = error
    return heard


async def play(server: ScriptedLLM, *scripts: list[Step], fields: Any = None, **settings: Any) -> Heard:
    """Asks an LLM server that plays these scripts, with these fields of the request."""
    server.play(*scripts)
    async with opened(server, **settings) as llm:
        return await hear(llm, **(fields or {}))


def event(value: Any) -> bytes:
    """An event of a stream: of a JSON value, or of bytes as they are."""
    return value if isinstance(value, bytes) else b"data: " + json.dumps(value).encode() + b"\n\n"


def stream(*data: Any) -> list[Step]:
    """A streamed answer of these chunks, with gates between them; last of how it ends, if that is odd."""
    steps = [one if isinstance(one, Gate | type) else http_chunk(event(one)) for one in data]
    return [SSE_HEAD, *steps, *([] if data and isinstance(data[-1], type) else [END])]


def chunk(delta: Any = None, finish: Any = None, **more: Any) -> dict[str, Any]:
    """A chunk as most servers write it."""
    choice = {"index": 0, "delta": {} if delta is None else delta, "finish_reason": finish}
    head = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return head | {"choices": [choice]} | more


def text(value: Any) -> dict[str, Any]:
    return chunk({"content": value})


def whole(message: Any, finish: Any = "stop", **more: Any) -> dict[str, Any]:
    """An answer in one piece."""
    choice = {"index": 0, "message": message, "finish_reason": finish}
    return {"id": "c1", "object": "chat.completion", "model": "m", "choices": [choice]} | more


def failure(message: Any, **more: Any) -> dict[str, Any]:
    """An error as most servers write it."""
    return {"error": {"message": message} | more}


STOP = chunk(finish="stop")
DONE = b"data: [DONE]\n\n"
