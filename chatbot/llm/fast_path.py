"""Recognises, without parsing it, a chunk that differs from an earlier one only in its plain text.

This only saves time. To delete this file, delete the calls of it.

The chunks of a stream mostly differ only in their text. study() learns the bytes before and after the text
from a chunk that was parsed. A chunk with the same bytes around a plain string differs only in that string.
"""

from __future__ import annotations

import json

from chatbot.records import FIELDS, TEXT, Chunk, Piece

EVENT = (b"data: ", b"\n\n")
"""The bytes before and after a chunk in an event, as nearly all LLM servers write them."""


class FastPath:
    """The bytes that were learned from one stream."""

    __slots__ = ("_after", "_before", "_credit", "_kind", "_least")

    def __init__(self) -> None:
        self.forget()
        self._kind = TEXT
        self._credit = 6  # study() costs 3, recognise() earns 1: it stops if nothing is recognised

    def forget(self) -> None:
        """Recognises nothing until it learns again, because the next chunk depends on earlier ones."""
        self._before, self._after, self._least = b"\0", b"\0", 2

    def recognise(self, event: bytes) -> Chunk | None:
        """Returns the chunk of an event if it is like the learned one; None for any other event."""
        if not event.startswith(self._before) or not event.endswith(self._after):
            return None
        literal = event[len(self._before) : -len(self._after)]
        if b'"' in literal or b"\\" in literal or len(event) < self._least:
            return None
        try:
            text = literal.decode()
        except UnicodeDecodeError:
            return None
        if not text.isprintable():  # JSON has no control characters in strings
            return None
        self._credit += 1
        return Chunk(event[len(EVENT[0]) : -len(EVENT[1])], (Piece(self._kind, text),) if text else ())

    def study(self, chunk: Chunk) -> None:
        """Learns from a parsed chunk that is passed on as it came, if it has one piece of plain text."""
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
