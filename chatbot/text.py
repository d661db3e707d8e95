"""A text that is written token by token, and any text as JSON."""

from __future__ import annotations

import json

as_json = json.JSONEncoder(ensure_ascii=False).encode
"""A text as a JSON string. A message is encoded once and is then stored, told and sent to the LLM as that."""


class Text:
    """`length` counts its characters, `size` the bytes that it is as UTF-8.

    Its pieces are joined from time to time: each is an object of 50 bytes besides its letters, and
    io.StringIO, in CPython 3.11, is a list of them too.
    """

    def __init__(self) -> None:
        self.length = 0
        self.size = 0
        self._pieces: list[str] = []

    def append(self, piece: str) -> None:
        """Writes at the end."""
        self._pieces.append(piece)
        self.length += len(piece)
        self.size += len(piece) if piece.isascii() else len(piece.encode())
        if len(self._pieces) > 64 + self.length // 1024:
            self.whole()

    def whole(self) -> str:
        """All of it."""
        if len(self._pieces) != 1:
            self._pieces = ["".join(self._pieces)]
        return self._pieces[0]

    def cut(self, size: int) -> None:
        """Shortens it to at most `size` bytes, and no half character."""
        kept = self.whole().encode()[:size].decode("utf-8", "ignore")
        self.length, self.size = len(kept), len(kept.encode())
        self._pieces = [kept]
