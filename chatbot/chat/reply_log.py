"""Keeps what a reply consists of, in the order in which it came: pieces of several kinds, each letter once.

All characters stand in one text, in which a tool call's head (its id and name) takes one place.
So an offset is a place in that text, whatever the kinds. A run is a stretch of one kind: its start is kept.
"""

from __future__ import annotations

import json
import sys
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from chatbot.chat.chunk_ends import ChunkEnds
from chatbot.records import CALL, REASONING, REFUSAL, TEXT, CallHead, Piece, Turn, as_json

MAX_BYTES = 4 * 1024 * 1024
"""How long a reply may be, as UTF-8, all kinds together."""

_LETTERS = {REASONING: "r", TEXT: "t", REFUSAL: "x"}
_KINDS = {letter: kind for kind, letter in _LETTERS.items()}
_HEAD = "\n"  # any character: it is never read


class Run(NamedTuple):
    """A stretch of one kind from offset `start` on; a call's first one has its `head`."""

    start: int
    kind: str
    call: int
    head: CallHead | None


class Columns(NamedTuple):
    """What a turn stores of a reply: schema.sql explains the columns."""

    output: str
    reasoning: str | None
    layout: str | None
    chunk_ends: bytes
    calls: int


class ReplyLog:
    """`length` counts characters (code points), `size` the bytes that they and the heads are as UTF-8."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self.length = 0
        self.size = 0
        self.runs: list[Run] = []
        self._max_bytes = max_bytes
        self._kind, self._call = "", 0  # of the last run
        self._starts: list[int] = []  # of the runs
        self._parts: list[str] = []
        self._ends = ChunkEnds()

    def append(self, pieces: Sequence[Piece]) -> bool:
        """Writes a chunk's pieces at the end; False if not all of it fitted, and only what fits was written.

        A call's first piece has its head.
        """
        before = self.length
        fits = True
        for kind, text, call, head in pieces:
            size = len(text) if text.isascii() else len(text.encode())
            if head is not None:
                size += _size_of(head)
            if self.size + size > self._max_bytes:
                fits = False
                text, size = self._cut(text, head)
                if not size:
                    break
            if head is not None or ((kind != self._kind or call != self._call) and text):
                self._begin_run(kind, call, head)
            self._parts.append(text)
            self.length += len(text)
            self.size += size
            if not fits:
                break
        if self.length > before:
            self._ends.add(self.length - before)
            # A string is an object of 50 bytes besides its letters, so they are joined from time to time.
            if len(self._parts) > 64 + self.length // 1024:
                self._whole()
        return fits

    def _begin_run(self, kind: str, call: int, head: CallHead | None) -> None:
        self.runs.append(Run(self.length, kind, call, head))
        self._starts.append(self.length)
        self._kind, self._call = kind, call
        if head is not None:
            self._parts.append(_HEAD)
            self.length += 1

    def _cut(self, text: str, head: CallHead | None) -> tuple[str, int]:
        """As much of a text as there is room for, with no half character, and its size; "", 0 if none is."""
        taken = _size_of(head) if head is not None else 0
        room = self._max_bytes - self.size - taken
        if room < 0:
            return "", 0
        kept = text.encode()[:room]
        text = kept.decode("utf-8", "ignore")
        return text, taken + len(text.encode())

    def _whole(self) -> str:
        if len(self._parts) != 1:
            self._parts = ["".join(self._parts)]
        return self._parts[0]

    # Reading it

    def read(self, start: int, limit: int) -> list[Piece]:
        """The pieces from offset `start` on, at most `limit` characters: one piece a run."""
        text, end = self._whole(), min(start + limit, self.length)
        number = max(0, bisect_right(self._starts, start) - 1)
        pieces = []
        while start < end:
            _, kind, call, head = run = self.runs[number]
            number += 1
            stop = min(end, self._starts[number]) if number < len(self.runs) else end
            if head is not None and start == run.start:
                pieces.append(Piece(kind, text[start + 1 : stop], call, head))
            else:
                pieces.append(Piece(kind, text[start:stop], call))
            start = stop
        return pieces

    def chunks(self, start: int) -> Iterator[int]:
        """The offsets behind `start` at which the LLM's chunks ended."""
        return self._ends.after(start)

    @property
    def has_answer(self) -> bool:
        """Whether there is anything but reasoning."""
        return any(run.kind != REASONING for run in self.runs)

    # As it is stored

    def to_columns(self) -> Columns:
        """What a turn stores of it."""
        text = self._whole()
        bounds = [*self._starts, self.length]
        reasoning: list[str] = []
        content: list[str] = []
        arguments: dict[int, list[str]] = {}
        heads: dict[int, CallHead] = {}
        layout = []
        for (start, kind, call, head), end in zip(self.runs, bounds[1:], strict=True):
            layout.append((_LETTERS.get(kind) or f"c{call}", end - start))
            if head is not None:
                heads[call] = head
                start += 1
            if kind == CALL:
                arguments.setdefault(call, []).append(text[start:end])
            else:
                (reasoning if kind == REASONING else content).append(text[start:end])
        message: dict[str, Any] = {"role": "assistant", "content": "".join(content) if content else None}
        if heads:
            message["tool_calls"] = [
                {
                    "id": heads[call].id,
                    "type": "function",
                    "function": {"name": heads[call].name, "arguments": "".join(arguments[call])},
                }
                for call in sorted(heads)
            ]
        is_text = len(layout) == 1 and layout[0][0] == "t"
        return Columns(
            as_json(message),
            "".join(reasoning) if reasoning else None,
            None if is_text else as_json(layout),
            bytes(self._ends),
            len(heads),
        )

    @classmethod
    def from_turn(cls, turn: Turn) -> ReplyLog:
        """The log of a stored reply; an empty one for a turn without an answer."""
        log = cls(max_bytes=sys.maxsize)
        if turn.output is None:
            return log
        message = json.loads(turn.output)
        content = message["content"] or ""
        layout: list[tuple[str, int]] = json.loads(turn.layout) if turn.layout else [("t", len(content))]
        numbers = sorted({int(letters[1:]) for letters, _ in layout if letters[0] == "c"})
        texts = {"r": turn.reasoning or "", "t": content}
        heads = {}
        for number, call in zip(numbers, message.get("tool_calls", ()), strict=True):
            heads[number] = CallHead(call["id"], call["function"]["name"])
            texts[f"c{number}"] = call["function"]["arguments"]
        read = dict.fromkeys(texts, 0)
        for letters, length in layout:
            call = int(letters[1:]) if letters[0] == "c" else -1
            head = heads.pop(call, None)
            source = "t" if letters == "x" else letters
            start = read[source]
            end = read[source] = start + length - (head is not None)
            log.append((Piece(_KINDS.get(letters, CALL), texts[source][start:end], max(call, 0), head),))
        log._ends = ChunkEnds(turn.chunk_ends or b"")
        return log


def _size_of(head: CallHead) -> int:
    return len(head.id.encode()) + len(head.name.encode()) + 1
