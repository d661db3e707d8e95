"""Writes messages and pages of history in pieces, so that a slow client holds little of them in memory."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from chatbot.api.responses import message_object, prompt_object
from chatbot.chat.history import PROMPT, Page, Ref
from chatbot.records import DELETED, dumps
from chatbot.storage.store import Store

MAX_PIECE = 256 * 1024
"""The most bytes of a piece. A text that is longer may have to be made again for each of its pieces."""


class MessageWriter:
    """Writes messages as JSON; with `omit`, without the contents of their pictures, sound and files."""

    def __init__(self, store: Store) -> None:
        self._store = store
        # The long text of which a piece was written last: for a client that reads fast it is made only once.
        self._last: tuple[object, bytes] = (None, b"")

    def page(self, session_id: str, page: Page, *, omit: bool) -> Iterator[bytes]:
        """Yields a page. Each turn is read when it is due, and left out if it has been deleted by then."""
        yield b'{"messages":['
        comma = b""
        for _, refs in groupby(page.refs, lambda ref: ref.seq):
            for number, piece in enumerate(self._pieces(session_id, [*refs], omit)):
                yield piece if number else comma + piece
                comma = b","
        yield b'],"has_more":%b}' % dumps(page.has_more)

    def message(self, session_id: str, ref: Ref, *, omit: bool) -> Iterator[bytes]:
        """Yields a message; nothing if it was deleted."""
        return self._pieces(session_id, [ref], omit)

    def _pieces(self, session_id: str, refs: list[Ref], omit: bool) -> Iterator[bytes]:
        """Yields messages of one turn; raises ConnectionResetError if their length changes meanwhile."""
        data = b",".join(self._messages(session_id, refs, omit))
        length, key = len(data), (session_id, *refs, omit)
        for start in range(0, length, MAX_PIECE):
            if start:
                last, data = self._last
                if last != key:
                    data = b",".join(self._messages(session_id, refs, omit))
                if len(data) != length:
                    raise ConnectionResetError("the message was changed while it was being written")
            if length > MAX_PIECE:
                self._last = (key, data) if start + MAX_PIECE < length else (None, b"")
            piece = data[start : start + MAX_PIECE]
            del data  # so that it is not held while the client reads
            yield piece

    def _messages(self, session_id: str, refs: list[Ref], omit: bool) -> Iterator[bytes]:
        if refs == [PROMPT]:
            if prompt := self._store.prompt(session_id):
                yield dumps(prompt_object(prompt))
        elif turn := self._store.turn(refs[0].seq):
            siblings = self._store.siblings(turn)  # read once, for there may be many
            for _, place in refs:
                if turn.messages[place - 1] != DELETED if place else turn.output is not None:
                    yield dumps(message_object(turn, place, siblings, omit=omit))
