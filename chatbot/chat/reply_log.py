"""Keeps what a reply consists of, in the order in which it came: pieces of several kinds, each letter once.

All characters stand in one text, in which a tool call's head (its id and name) takes one place.
So an offset is a place in that text, whatever the kinds. A run is a stretch of one kind: its start is kept.
"""

from __future__ import annotations

import json
import sys
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

from chatbot.records import CALL, REASONING, REFUSAL, TEXT, CallHead, Piece, Turn, as_json

MAX_BYTES = 4 * 1024 * 1024
"""How long a reply may be, as UTF-8, all kinds together."""

# How a layout names what a run is. A refusal's text also stands in the content of the stored message. The
# runs of tool calls are "c0", "c1" …; the first one of each counts one more for the call's head.
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

    __slots__ = ("_call", "_ends", "_kind", "_max_bytes", "_parts", "is_full", "length", "runs", "size")

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self.length = 0
        self.size = 0
        self.is_full = False  # something did not fit
        self.runs: list[Run] = []
        self._max_bytes = max_bytes
        self._kind, self._call = "", 0  # of the last run
        self._parts: list[str] = []
        self._ends = array("I")  # the offsets at which chunks ended

    def append(self, pieces: Sequence[Piece]) -> bool:
        """Writes a chunk's pieces at the end; False if not all of it fitted, and only what fits was written.

        A call's first piece has its head.
        """
        before = self.length
        for kind, text, call, head in pieces:
            head_size = 0 if head is None else _size_of(head)
            size = head_size + (len(text) if text.isascii() else len(text.encode()))
            if self.size + size > self._max_bytes:
                self.is_full = True
                left = self._max_bytes - self.size - head_size
                text = text.encode()[: max(left, 0)].decode("utf-8", "ignore")
                size = head_size + len(text.encode())
                if left < 0 or not size:
                    break
            if head is not None or ((kind != self._kind or call != self._call) and text):
                self.runs.append(Run(self.length, kind, call, head))
                self._kind, self._call = kind, call
                if head is not None:
                    self._parts.append(_HEAD)
                    self.length += 1
            self._parts.append(text)
            self.length += len(text)
            self.size += size
            if self.is_full:
                break
        if self.length > before:
            self._ends.append(self.length)
            # A string is an object of 50 bytes besides its letters, so they are joined from time to time.
            if len(self._parts) > 16 + self.length // 256:
                self._whole()
        return not self.is_full

    def _whole(self) -> str:
        if len(self._parts) != 1:
            self._parts = ["".join(self._parts)]
        return self._parts[0]

    # Reading it

    def read(self, start: int, limit: int) -> list[Piece]:
        """The pieces from offset `start` on, at most `limit` characters: one piece a run."""
        return list(self.pieces(start, limit))

    def pieces(self, start: int, limit: int) -> Iterator[Piece]:
        """The same pieces one by one, of which not all may be wanted; nothing may be written meanwhile."""
        text, end = self._whole(), min(start + limit, self.length)
        number = bisect_right(self.runs, start, key=lambda run: run.start)
        while start < end:
            _, kind, call, head = run = self.runs[number - 1]
            stop = min(end, self.runs[number].start) if number < len(self.runs) else end
            if head is not None and start == run.start:
                yield Piece(kind, text[start + 1 : stop], call, head)
            else:
                yield Piece(kind, text[start:stop], call)
            start, number = stop, number + 1

    def chunks(self, start: int) -> Iterator[int]:
        """The offsets behind `start` at which the LLM's chunks ended."""
        return (self._ends[number] for number in range(bisect_right(self._ends, start), len(self._ends)))

    @property
    def has_answer(self) -> bool:
        """Whether there is anything but reasoning."""
        return any(run.kind != REASONING for run in self.runs)

    # As it is stored

    def to_columns(self) -> Columns:
        """What a turn stores of it."""
        text, layout = self._whole(), []
        texts: dict[str, list[str]] = {}
        heads: dict[int, CallHead] = {}
        ends = [*(run.start for run in self.runs), self.length]
        for (start, kind, call, head), end in zip(self.runs, ends[1:], strict=True):
            letters = _LETTERS.get(kind) or f"c{call}"
            layout.append((letters, end - start))
            if head is not None:
                heads[call] = head
                start += 1
            texts.setdefault("t" if letters == "x" else letters, []).append(text[start:end])
        whole = {letters: "".join(parts) for letters, parts in texts.items()}
        message: dict[str, Any] = {"role": "assistant", "content": whole.get("t")}
        if heads:
            message["tool_calls"] = [head.to_call(whole[f"c{call}"]) for call, head in sorted(heads.items())]
        is_text = len(layout) == 1 and layout[0][0] == "t"
        stored_layout = None if is_text else as_json(layout)
        return Columns(as_json(message), whole.get("r"), stored_layout, _to_varints(self._ends), len(heads))

    @classmethod
    def from_turn(cls, turn: Turn) -> ReplyLog:
        """The log of a stored reply; an empty one for a turn without an answer."""
        log = cls(max_bytes=sys.maxsize)
        if turn.output is None:
            return log
        message = json.loads(turn.output)
        texts = {"r": turn.reasoning or "", "t": message["content"] or ""}
        layout: list[tuple[str, int]] = json.loads(turn.layout) if turn.layout else [("t", len(texts["t"]))]
        numbers = sorted({int(letters[1:]) for letters, _ in layout if letters[0] == "c"})
        heads = {}
        for number, call in zip(numbers, message.get("tool_calls", ()), strict=True):
            heads[number] = CallHead(call["id"], call["function"]["name"], call.get("extra_content"))
            texts[f"c{number}"] = call["function"]["arguments"]
        read = dict.fromkeys(texts, 0)
        for letters, length in layout:
            call = int(letters[1:]) if letters[0] == "c" else 0
            head = heads.pop(call, None) if letters[0] == "c" else None
            source = "t" if letters == "x" else letters
            start = read[source]
            end = read[source] = start + length - (head is not None)
            log.append((Piece(_KINDS.get(letters, CALL), texts[source][start:end], call, head),))
        log._ends = _from_varints(turn.chunk_ends or b"")
        return log


def _size_of(head: CallHead) -> int:
    extra = as_json(head.extra) if head.extra else ""
    return len(head.id.encode()) + len(head.name.encode()) + len(extra) + 1


def _to_varints(ends: Iterable[int]) -> bytes:
    """The length of each chunk as a varint (LEB128: seven bits a byte, the lowest first): mostly one byte."""
    data, start = bytearray(), 0
    for end in ends:
        length, start = end - start, end
        while length > 0x7F:
            data.append(length & 0x7F | 0x80)
            length >>= 7
        data.append(length)
    return bytes(data)


def _from_varints(data: bytes) -> array[int]:
    if data.isascii():  # each length is one byte, as nearly always: a replay may ask for this often
        return array("I", accumulate(data))
    ends, length, shift, offset = array("I"), 0, 0, 0
    for byte in data:
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte <= 0x7F:
            offset += length
            ends.append(offset)
            length = shift = 0
    return ends
