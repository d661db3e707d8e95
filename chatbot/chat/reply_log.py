"""Keeps a reply's pieces, which are of several kinds, in the order in which they arrived.

All characters are in one text. The head of a tool call (its id and name) takes one position in this text. So
an offset is a position in the text, whatever the kinds are. A run is a stretch of text of one kind.
"""

from __future__ import annotations

import json
import sys
from array import array
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

from chatbot.records import CALL, REASONING, REFUSAL, TEXT, CallHead, Piece, Turn, as_json

MAX_BYTES = 4 * 1024 * 1024
"""The largest size of a reply in UTF-8, all kinds together."""

_HEAD = "\n"  # stands for a head in the text; any character would do, for it is never read
_LONGEST = sys.maxunicode  # the longest chunk that can be stored: chunk_ends has each length n as chr(n)


class Run(NamedTuple):
    """A stretch of text of one kind, from offset `start` on. The first run of a call has its `head`."""

    start: int
    kind: str
    call: int
    head: CallHead | None


class ReplyLog:
    """The log of one reply. `length` is in characters (code points), `size` in bytes of UTF-8, with heads."""

    __slots__ = ("_ends", "_max_bytes", "_parts", "length", "runs", "size")

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self.length = 0
        self.size = 0
        self.runs: list[Run] = []
        self._max_bytes = max_bytes
        self._parts: list[str] = []
        self._ends = array("I")  # the offsets at which chunks ended

    def append(self, pieces: Sequence[Piece]) -> bool:
        """Appends a chunk's pieces. Returns False if not all of them fitted; then only what fits is appended.

        The first piece of a call must have the call's head.
        """
        before, fits = self.length, True
        for kind, text, call, head in pieces:
            head_size = 0 if head is None else _size_of(head)
            size = head_size + (len(text) if text.isascii() else len(text.encode()))
            if self.size + size > self._max_bytes:
                fits, left = False, self._max_bytes - self.size - head_size
                if left < 0:
                    break
                text = text.encode()[:left].decode("utf-8", "ignore")
                size = head_size + len(text.encode())
            last = self.runs[-1] if self.runs else None
            if head is not None or (text and not (last and last.kind == kind and last.call == call)):
                self.runs.append(Run(self.length, kind, call, head))
            if head is not None:
                self._parts.append(_HEAD)
                self.length += 1
            self._parts.append(text)
            self.length += len(text)
            self.size += size
            if not fits:
                break
        if self.length > before:
            self._ends.extend(range(before + _LONGEST, self.length, _LONGEST))
            self._ends.append(self.length)
            # Each string costs 50 bytes besides its characters, so the parts are joined from time to time.
            if len(self._parts) > 16 + self.length // 256:
                self._whole()
        return fits

    def _whole(self) -> str:
        if len(self._parts) != 1:
            self._parts = ["".join(self._parts)]
        return self._parts[0]

    # Reading it

    def pieces(self, start: int, limit: int) -> Iterator[Piece]:
        """Yields the pieces from offset `start` on, at most `limit` characters, one piece for each run.

        The caller may stop early. It must not append to the log meanwhile.
        """
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
        """The offsets after `start` at which the LLM's chunks ended."""
        return (self._ends[number] for number in range(bisect_right(self._ends, start), len(self._ends)))

    @property
    def has_answer(self) -> bool:
        """Whether there is anything besides reasoning."""
        return any(run.kind != REASONING for run in self.runs)

    # As it is stored

    def to_columns(self) -> dict[str, Any]:
        """The columns of a turn that store the log; schema.sql explains them."""
        text, layout = self._whole(), []
        parts = defaultdict[str | int, list[str]](list)
        heads: dict[int, CallHead] = {}
        for run, end in zip(self.runs, [*(run.start for run in self.runs[1:]), self.length], strict=False):
            name = run.call if run.kind == CALL else run.kind
            layout.append((name, end - run.start))
            start = run.start
            if run.head is not None:
                heads[run.call] = run.head
                start += 1
            parts[_source(name)].append(text[start:end])
        texts = {name: "".join(found) for name, found in parts.items()}
        message: dict[str, Any] = {"role": "assistant", "content": texts.get(TEXT)}
        if heads:
            message["tool_calls"] = [head.to_call(texts[call]) for call, head in sorted(heads.items())]
        lengths = (end - start for start, end in pairwise((0, *self._ends)))
        return {
            "output": as_json(message),
            "reasoning": texts.get(REASONING),
            "layout": None if [name for name, _ in layout] == [TEXT] else as_json(layout),
            "chunk_ends": "".join(map(chr, lengths)).encode("utf-8", "surrogatepass"),
        }

    @classmethod
    def from_turn(cls, turn: Turn) -> ReplyLog:
        """The log of a stored reply; an empty one for a turn without an answer."""
        log = cls(max_bytes=sys.maxsize)
        if turn.output is None:
            return log
        message = json.loads(turn.output)
        texts: dict[str | int, str] = {REASONING: turn.reasoning or "", TEXT: message["content"] or ""}
        layout: list[tuple[str | int, int]]
        layout = json.loads(turn.layout) if turn.layout else [(TEXT, len(texts[TEXT]))]
        numbers = sorted({name for name, _ in layout if isinstance(name, int)})
        heads = {}
        for number, call in zip(numbers, message.get("tool_calls", ()), strict=True):
            heads[number] = CallHead(call["id"], call["function"]["name"], call.get("extra_content"))
            texts[number] = call["function"]["arguments"]
        read = dict.fromkeys(texts, 0)
        for name, length in layout:
            kind, call = (CALL, name) if isinstance(name, int) else (name, 0)
            head = heads.pop(call, None) if kind == CALL else None
            source = _source(name)
            start = read[source]
            end = read[source] = start + length - (head is not None)
            log.append((Piece(kind, texts[source][start:end], call, head),))
        chunks = (turn.chunk_ends or b"").decode("utf-8", "surrogatepass")
        log._ends = array("I", accumulate(map(ord, chunks)))
        return log


def _source(name: str | int) -> str | int:
    """The stored text that holds a run: a refusal is a part of the message's content."""
    return TEXT if name == REFUSAL else name


def _size_of(head: CallHead) -> int:
    extra = as_json(head.extra) if head.extra else ""
    return len(head.id.encode()) + len(head.name.encode()) + len(extra) + 1
