"""Writes messages and pages of history in pieces, so that a slow client holds little of them in memory."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from itertools import groupby

from chatbot.api.responses import message_object, plain_message, prompt_object
from chatbot.chat.history import PROMPT, Page, Ref
from chatbot.records import Turn, dumps
from chatbot.storage.store import Store

MAX_PIECE = 256 * 1024
"""What a piece has at most. A message that is longer is made anew for each of its pieces."""


class MessageWriter:
    """Writes messages as JSON; `omit`: without what their pictures, sound and files hold."""

    def __init__(self, store: Store) -> None:
        self._store = store
        # The long message of which a piece was written last: who reads fast has it made only once.
        self._last: tuple[object, bytes] = (None, b"")

    def page(self, session_id: str, page: Page, *, omit: bool) -> Iterator[bytes]:
        """A page; a turn that is long is read when it is written, and left out if it was deleted by then."""
        yield b'{"messages":['
        comma = b""
        parents = [turn.parent for turn in page.turns.values() if turn.parent is not None]
        branching = self._store.branching(session_id, min(parents), max(parents)) if parents else set()
        for seq, group in groupby(page.refs, lambda ref: ref.seq):
            refs = list(group)
            objects = self._objects(session_id, seq, refs, omit, page.turns.get(seq), branching)
            if sum(map(len, objects)) <= MAX_PIECE:
                if objects:
                    yield comma + b",".join(objects)
                    comma = b","
                continue
            del objects  # not to be held while the client reads
            for ref in refs:
                for number, piece in enumerate(self.message(session_id, ref, omit=omit)):
                    yield piece if number else comma + piece
                    comma = b","
        yield b'],"has_more":%b}' % dumps(page.has_more)

    def message(self, session_id: str, ref: Ref, *, omit: bool) -> Iterator[bytes]:
        """A message; nothing if it was deleted.

        Raises ConnectionResetError if it was changed while it was being written.
        """
        start, length, key = 0, 1, (session_id, ref, omit)
        while start < length:
            last, data = self._last
            if not start or last != key:
                data = b"".join(self._objects(session_id, ref.seq, [ref], omit))
            if start and len(data) != length:
                raise ConnectionResetError("the message was changed while it was being written")
            piece, start, length = data[start : start + MAX_PIECE], start + MAX_PIECE, len(data)
            self._last = (key, data) if start < length else (None, b"")
            del data
            if piece:
                yield piece

    def _objects(
        self,
        session_id: str,
        seq: int,
        refs: Sequence[Ref],
        omit: bool,
        turn: Turn | None = None,
        branching: Container[int] = (),
    ) -> list[bytes]:
        """The messages of a turn, which may have been read, with what is `branching` around it."""
        if seq == PROMPT.seq:
            prompt = self._store.prompt(session_id)
            return [dumps(prompt_object(prompt))] if prompt else []
        is_alone = turn is not None and turn.parent is not None and turn.parent not in branching
        turn = turn or self._store.turn(seq)
        if turn is None:
            return []
        said, found = turn.messages, []
        for place in (place for _, place in refs):
            if said[place - 1] != "null" if place else turn.output is not None:
                plain = plain_message(turn, place) if is_alone else None
                found.append(plain or dumps(message_object(self._store, turn, place, omit=omit)))
        return found
