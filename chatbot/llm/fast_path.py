"""Recognises a chunk that differs from the last in nothing but plain text, without parsing it.

It makes a token cheaper, and may be deleted: whoever uses it has only to drop the calls.

Chunks of one stream are alike but for their text. What stands around it is learned from a chunk that was
parsed; one that has the same bytes around a plain string differs in that string alone.
"""

from __future__ import annotations

import json

from chatbot.records import FIELDS, TEXT, Chunk, Piece

EVENT = (b"data: ", b"\n\n")
"""What stands around a chunk in an event, as nearly all LLM servers write it."""


class FastPath:
    """What was learned of one stream."""

    __slots__ = ("_after", "_before", "_credit", "_kind", "_least")

    def __init__(self) -> None:
        self.forget()
        self._kind = TEXT
        self._credit = 6  # a stream whose chunks are never alike is not studied for long

    def forget(self) -> None:
        """Recognises nothing until it learns again: what comes next must be read with what came before."""
        self._before, self._after, self._least = b"\0", b"\0", 2

    def recognise(self, event: bytes) -> Chunk | None:
        """Reads an event with a chunk like the one that was learned; None for any other."""
        if not event.startswith(self._before) or not event.endswith(self._after):
            return None
        literal = event[len(self._before) : -len(self._after)]
        if b'"' in literal or b"\\" in literal or len(event) < self._least:
            return None
        try:
            text = literal.decode()
        except UnicodeDecodeError:
            return None
        if not text.isprintable():  # control characters are no JSON
            return None
        self._credit += 1
        return Chunk(event[len(EVENT[0]) : -len(EVENT[1])], (Piece(self._kind, text),) if text else ())

    def study(self, chunk: Chunk) -> None:
        """Learns from a chunk that was parsed and is passed on as it came, if it is one of plain text."""
        data, piece = chunk.data, chunk.pieces[0]
        if len(chunk.pieces) != 1 or piece.kind not in FIELDS or self._credit < 3:
            return
        self._credit -= 3
        name = FIELDS[piece.kind]
        literal = json.dumps(piece.text, ensure_ascii=False).encode()
        start = data.find(literal, data.find(b'"%b"' % name.encode()) + len(name) + 2)
        if start < 0:
            return
        before, after = data[: start + 1], data[start + len(literal) - 1 :]
        try:
            changed = json.loads(before + b"\\u0000" + after)
            proved = changed["choices"][0]["delta"][name] == "\0"
        except (ValueError, LookupError, TypeError):
            return
        if proved:
            self._before, self._after = EVENT[0] + before, after + EVENT[1]
            self._least = len(self._before) + len(self._after)
            self._kind = piece.kind
