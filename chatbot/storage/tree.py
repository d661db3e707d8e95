"""Reads the turns of conversations, which are trees (each turn follows another or none), and deletes some.

A turn has a larger number (`seq`) than what it follows, so a walk upwards ends where numbers are small
enough, and the newest turn below another is a leaf.

To delete a long conversation takes SQLite a second, in which nobody would be served. So what is deleted is
marked as gone, by rows of tables of their own. It is found by nothing here from then on, also after a kill;
its rows are removed in short pieces.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from time import perf_counter
from typing import Any, NamedTuple

from chatbot import ids
from chatbot.records import DELETED, Turn
from chatbot.storage.database import Database

PIECE_SECONDS = 0.004
"""How long rows are removed before others have their turn; the last row and the commit come on top."""

_REMOVALS = ("drop_gone", "drop_of_session", "drop_background_of_session", "drop_mark")


class Version(NamedTuple):
    """What is to be known of a turn that has siblings; `finish_reason` is None if nothing was answered.

    Those in which the same was said have the same `input`, and the same `messages`.
    """

    seq: int
    turn_id: str
    finish_reason: str | None
    input: str
    messages: list[str]


class Tree:
    """The turns. Methods that change something raise Locked, and ChatError("storage_full")."""

    def __init__(self, database: Database) -> None:
        self._db = database

    # Reading

    def turn(self, seq: int) -> Turn | None:
        """A turn by its number."""
        return next(self._up(1, seq=seq), None)

    def turn_by_id(self, turn_id: str) -> Turn | None:
        """A turn by its id, whatever session it is in."""
        return next(self._up(1, turn_id=turn_id), None)

    def turn_by_key(self, idempotency_key: str) -> Turn | None:
        """The turn that an idempotency key stands for."""
        return next(self._up(1, key=idempotency_key), None)

    def turn_by_response(self, response_id: str) -> Turn | None:
        """The turn that OpenAI's door calls by this id."""
        return next(self._up(1, response_id=response_id), None)

    def path_up(self, seq: int | None) -> Iterator[Turn]:
        """A turn, what it follows, what that follows …: each is read when it is asked for.

        Nothing may be awaited before the last one: the read keeps the WAL from being cut.
        """
        return self._up(-1, seq=seq)

    def _up(self, limit: int, **name: object) -> Iterator[Turn]:
        values = {"seq": None, "turn_id": None, "key": None, "response_id": None, "limit": limit}
        return map(Turn._make, self._db.run("turns_up", values | name))

    def turn_of(self, session_id: str, message_id: str) -> tuple[Turn, int] | None:
        """The turn of a session that a message belongs to, and the message's place in it (0: its reply).

        A message that was deleted alone is not found. Places from 0x800 on are parts of the reply.
        """
        turn_id, place = ids.turn_and_place(message_id) or ("", 0)
        turn = self.turn_by_id(turn_id)
        if turn is None or turn.session_id != session_id:
            return None
        if 0 < place <= ids.MAX_INPUT_MESSAGES:
            messages = turn.messages
            is_there = place <= len(messages) and messages[place - 1] != DELETED
        else:
            is_there = turn.output is not None
        return (turn, place) if is_there else None

    def is_alive(self, seq: int) -> bool:
        """Whether there is such a turn and it is not gone."""
        return self._db.one("session_of_turn", (seq,)) is not None

    def has_reply(self, seq: int) -> bool:
        """Whether there is such a turn, not gone, with its reply, which may have been deleted alone."""
        row = self._db.one("session_of_turn", (seq,))
        return row is not None and row[1] is not None

    def path(self, seq: int | None, above: int = 0) -> list[int]:
        """The numbers of the turns up to `seq`, oldest first; only those newer than turn `above`."""
        return [row[0] for row in self._db.run("path", {"seq": seq, "above": above})][::-1]

    def children(self, session_id: str, parent: int | None, least: int = 1) -> list[Version]:
        """What follows a turn directly (with None: what begins the conversation), oldest first.

        Nothing if that are fewer than `least`.
        """
        values = {"session_id": session_id, "parent": parent, "least": least}
        found, known = [], dict[str, tuple[str, list[str]]]()
        for seq, turn_id, finish_reason, said in self._db.run("children", values):
            said, messages = known.setdefault(said, (said, said.split("\n")))
            found.append(Version(seq, turn_id, finish_reason, said, messages))
        return found

    def siblings(self, turn: Turn) -> list[Version]:
        """The versions of a turn, if there is more than one."""
        return self.children(turn.session_id, turn.parent, least=2)

    def newest_below(self, seq: int) -> int:
        """The newest turn among a turn and all that follow from it: the end of its newest branch."""
        return int(self._db.one("below", (seq,))[1])

    def count_messages(self, session_id: str, current: int | None) -> int:
        """How many messages the path to `current` has, the system prompt among them."""
        prompt = self._db.one("get_prompt", (session_id,))
        return (prompt is not None) + int(self._db.one("count_path", (current,))[0])

    # Deleting

    def remove_piece(self) -> bool:
        """Removes rows of what is gone for PIECE_SECONDS; tells whether none is left."""
        with self._db.transaction():
            return self._remove()

    def _remove(self, began: float | None = None) -> bool:
        """Does so in a transaction that was begun; each deletion does, so that what is short goes at once."""
        deadline = (began or perf_counter()) + PIECE_SECONDS
        while perf_counter() < deadline:
            # The next of them has its turn when nothing is left of the one before.
            if not any(self._db.run(name).rowcount for name in _REMOVALS):
                return True
        return False

    def rewind(self, session_id: str, turn: Turn | None) -> int:
        """Deletes a turn and all that follow from it; returns how many messages.

        A session that was at one of them is at the turn's parent then. With None everything goes, the system
        prompt too.
        """
        deleted, began = 0, perf_counter()
        with self._db.transaction():
            for seq in [turn.seq] if turn else [one.seq for one in self.children(session_id, None)]:
                messages, _, numbers = self._db.one("below", (seq,))
                self._db.run("mark", (numbers,))
                deleted += int(messages)
            self._db.run("leave_gone", (turn and turn.parent, session_id))
            if turn is None:
                deleted += self._db.run("drop_prompt", (session_id,)).rowcount
            self._remove(began)  # to mark what is long took its time
        return deleted

    def keep_only(self, seq: int, messages: str, answer: Mapping[str, Any] | None = None) -> None:
        """Deletes a turn's reply but for these columns, which frees its key, and the messages DELETED."""
        count = sum(line != DELETED for line in messages.split("\n"))
        kept = answer or dict.fromkeys(("output", "calls", "reasoning", "layout", "chunk_ends"))
        self._db.run("keep_only", {**kept, "seq": seq, "input": messages, "input_count": count})

    def forget_response(self, seq: int) -> None:
        """OpenAI's door does not find the turn as a response any more; in the conversation it stays."""
        self._db.run("forget_response", (seq,))
