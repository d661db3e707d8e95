"""The data that all rooms use: sessions, turns, a reply's pieces and the LLM's chunks. No I/O."""

from __future__ import annotations

import json
import re
from functools import cached_property
from typing import Any, NamedTuple

REASONING, TEXT, REFUSAL, CALL = "reasoning", "text", "refusal", "call"
"""The kinds of pieces that a reply consists of."""

FIELDS = {TEXT: "content", REASONING: "reasoning_content", REFUSAL: "refusal"}
"""The field of a message or a delta for each kind of text, as we write it."""

FILTERED = re.compile("filter|safety|sensitive|prohibit|recitation|refus|blocklist|guardrail", re.I)
"""Matches the finish reasons of an answer whose rest was withheld by a filter."""

CUT = re.compile(rf"^cancelled$|length|max_(\w+_)?tokens|context_window|{FILTERED.pattern}", re.I)
"""Matches the finish reasons of an answer that was cut: our own, and those of LLMs."""

DELETED = "null"
"""Replaces a message in a turn's input that was deleted alone, without its turn."""

as_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False).encode
"""A value as compact JSON text. All values were built here or parsed from JSON, so they have no cycles."""


def dumps(value: object) -> bytes:
    """A value as compact JSON in UTF-8."""
    return as_json(value).encode()


class CallHead(NamedTuple):
    """The beginning of a tool call: its id, the function's name, and a signature that Gemini wants back."""

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

    In a piece of a tool call, `text` is a part of the arguments, and `call` is the number of the call in the
    reply (from 0). The first piece of a call has its `head`, which counts as one character.
    """

    kind: str
    text: str
    call: int = 0
    head: CallHead | None = None

    @property
    def length(self) -> int:
        """The length in characters (Unicode code points), with the head."""
        return len(self.text) + (self.head is not None)


class Chunk(NamedTuple):
    """A chunk of the LLM's stream: `data` is its JSON on one line, as it is passed on to clients."""

    data: bytes
    pieces: tuple[Piece, ...] = ()


class Session(NamedTuple):
    """A conversation. Times are in milliseconds since 1970; `metadata` is JSON text.

    `current` is the turn (its seq) at which the conversation is; None before the first turn.
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
    """The columns of a turn. They need a class of their own: a NamedTuple cannot hold a cached_property."""

    seq: int
    session_id: str
    parent: int | None
    turn_id: str
    asked_at: int
    replied_at: int
    finish_reason: str | None = None
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
    """A row of the table `turns`, whose columns schema.sql explains; by default a turn without an answer."""

    @cached_property  # a turn may have thousands of messages, and this is read for each
    def messages(self) -> list[str]:
        """The new messages of the turn, each as JSON. DELETED replaces a message that was deleted alone."""
        return self.input.split("\n")

    @property
    def began(self) -> int:
        """The turn (its seq) at which its context began."""
        return self.seq if self.context_start is None else self.context_start

    def had_head(self, key: str) -> bool:
        """Whether its context had a head with this key, or, if `key` is only a first half, with that half."""
        return (self.context_key or "").startswith(key)
