"""What all rooms speak of: sessions, turns, a reply's pieces and the LLM's chunks. Plain data, no I/O."""

from __future__ import annotations

import json
import re
from functools import cached_property
from typing import Any, NamedTuple

REASONING, TEXT, REFUSAL, CALL = "reasoning", "text", "refusal", "call"
"""The kinds of pieces that a reply consists of."""

FIELDS = {TEXT: "content", REASONING: "reasoning_content", REFUSAL: "refusal"}
"""The fields of a message or a delta in which the kinds of text stand, as we write them."""

FILTERED = re.compile("filter|safety|sensitive|prohibit|recitation|refus|blocklist|guardrail", re.I)
"""Finds the finish reasons of an answer of which the rest was kept back."""

CUT = re.compile(rf"^cancelled$|length|max_(\w+_)?tokens|context_window|{FILTERED.pattern}", re.I)
"""Finds the finish reasons of an answer that was cut: ours, and those that LLMs have for it."""

DELETED = "null"
"""Stands in a turn's input in place of a message that was deleted alone."""

as_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False).encode
"""A value as compact JSON text: what is encoded was built here or came as JSON, so it has no cycles."""


def dumps(value: object) -> bytes:
    """A value as compact JSON in UTF-8."""
    return as_json(value).encode()


class CallHead(NamedTuple):
    """How a tool call begins: its id, the function's name, and the signature that Gemini wants back."""

    id: str
    name: str
    extra: Any = None

    def to_call(self, arguments: str) -> dict[str, Any]:
        """The call as a chat completion has it."""
        more = {"extra_content": self.extra} if self.extra else {}
        function = {"name": self.name, "arguments": arguments}
        return {"id": self.id, "type": "function", "function": function} | more


class Piece(NamedTuple):
    """Some characters of a reply, all of one kind.

    Of a tool call `text` is a part of its arguments, `call` says which call of the reply it is (from 0), and
    the piece that begins the call has its `head`, which counts as one character.
    """

    kind: str
    text: str
    call: int = 0
    head: CallHead | None = None

    @property
    def length(self) -> int:
        """How many characters (Unicode code points) it counts."""
        return len(self.text) + (self.head is not None)


class Chunk(NamedTuple):
    """The LLM's piece of a stream: `data` is its JSON on one line, as it is passed on."""

    data: bytes
    pieces: tuple[Piece, ...] = ()


class Session(NamedTuple):
    """A conversation; times in milliseconds since 1970, `metadata` as JSON text.

    `current` is the turn (its seq) at which the conversation is, None before the first.
    """

    session_id: str
    created_at: int
    last_accessed: int
    metadata: str
    current: int | None = None


class Prompt(NamedTuple):
    """The system prompt of a session, which is its first message; `content` is plain text."""

    message_id: str
    created_at: int
    content: str


class _Row(NamedTuple):
    """The columns of a turn: a NamedTuple itself has no place to keep a cached_property."""

    seq: int
    session_id: str
    parent: int | None
    turn_id: str
    asked_at: int
    replied_at: int
    finish_reason: str | None = None
    calls: int = 0
    context_start: int | None = None
    context_key: str | None = None
    model: str | None = None
    first_token_ms: int | None = None
    token_usage: str | None = None
    idempotency_key: str | None = None
    request_hash: str | None = None
    response_id: str | None = None
    response: str | None = None
    input: str = ""
    output: str | None = None
    reasoning: str | None = None
    layout: str | None = None
    chunk_ends: bytes | None = None


class Turn(_Row):
    """A row of the table `turns`, whose columns schema.sql explains; by default one without an answer."""

    @cached_property  # a turn may have thousands, and is asked for each of them
    def messages(self) -> list[str]:
        """The messages that were said, each as JSON; DELETED stands for one that was deleted alone."""
        return self.input.split("\n")

    @property
    def began(self) -> int:
        """The turn (its seq) at which its context began."""
        return self.seq if self.context_start is None else self.context_start

    def had_head(self, key: str) -> bool:
        """Whether its context had the head of this key, or of this half of one."""
        return (self.context_key or "").startswith(key)
