"""Reads the turns of conversations, which are trees (each turn follows another or none), and deletes some.

A turn has a larger number (`seq`) than what it follows, so a walk upwards ends where numbers are small
enough, and the newest turn below another is a leaf. Turns that are gone are not found by anything here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from chatbot import ids
from chatbot.records import DELETED, Turn
from chatbot.storage.database import Database
from chatbot.storage.removal import Removals


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
        self.removals = Removals(database)
        """What is deleted, and is being removed."""

    # Reading

    def turn(self, seq: int) -> Turn | None:
        """A turn by its number."""
        row = self._db.one("turns_up", (seq, 1))
        return None if row is None or self.removals.include(row[1], seq) else Turn(*row)

    def turn_by_id(self, turn_id: str) -> Turn | None:
        """A turn by its id, whatever session it is in."""
        return self._find(turn_id=turn_id)

    def turn_by_key(self, idempotency_key: str) -> Turn | None:
        """The turn that an idempotency key stands for."""
        return self._find(key=idempotency_key)

    def turn_by_response(self, response_id: str) -> Turn | None:
        """The turn that OpenAI's door calls by this id."""
        return self._find(response_id=response_id)

    def _find(self, **names: str) -> Turn | None:
        seq = self._number_of(**names)
        return None if seq is None else self.turn(seq)

    def _number_of(self, **names: str) -> int | None:
        """The number of the turn that has a name, also of one that is gone."""
        row = self._db.one("find_turn", {"turn_id": None, "key": None, "response_id": None} | names)
        return int(row[0]) if row else None

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
        return self._session_of(seq) is not None

    def has_reply(self, seq: int) -> bool:
        """Whether there is such a turn, not gone, with its reply, which may have been deleted alone."""
        row = self._db.one("session_of_turn", (seq,))
        return row is not None and row[1] is not None and not self.removals.include(row[0], seq)

    def _session_of(self, seq: int) -> str | None:
        row = self._db.one("session_of_turn", (seq,))
        return None if row is None or self.removals.include(row[0], seq) else str(row[0])

    def path_up(self, session_id: str, seq: int | None) -> Iterator[Turn]:
        """A turn of a session, what it follows, what that follows …: each is read when it is asked for.

        Nothing may be awaited before the last one: the read keeps the WAL from being cut.
        """
        if seq is None or self.removals.include(session_id, seq):
            return iter(())
        return map(Turn._make, self._db.rows("turns_up", (seq, -1)))

    def path(self, session_id: str, seq: int | None, above: int = 0) -> list[int]:
        """The numbers of the turns up to `seq`, oldest first; only those newer than turn `above`."""
        if seq is None or seq <= above or not self.is_alive(seq):
            return []
        return [row[0] for row in self._db.rows("path", (seq, above))][::-1]

    def children(self, session_id: str, parent: int | None) -> list[Version]:
        """What follows a turn directly (with None: what begins the conversation), oldest first."""
        found, known = [], dict[str, tuple[str, list[str]]]()
        for seq, turn_id, finish_reason, said in self._db.rows("children", (session_id, parent)):
            if said not in known:
                known[said] = (said, said.split("\n"))
            found.append(Version(seq, turn_id, finish_reason, *known[said]))
        return found

    def has_versions(self, session_id: str, parent: int | None) -> bool:
        """Whether more than one turn follows a turn; True may also be said of what was so until lately."""
        return len([*self._db.rows("some_children", (session_id, parent, 2))]) > 1

    def newest_below(self, seq: int) -> int:
        """The newest turn among a turn and all that follow from it: the end of its newest branch."""
        session_id = self._session_of(seq)
        return seq if session_id is None else self._below(session_id, seq, None)[1]

    def _below(self, session_id: str, seq: int, current: int | None) -> tuple[int, int, int]:
        """Of a turn and what follows: how many messages, the newest turn, whether `current` is there."""
        values = {"session_id": session_id, "seq": seq, "current": current}
        messages, newest, is_current_there = self._db.one("below", values)
        return messages, newest, is_current_there

    def count_messages(self, session_id: str, current: int | None) -> int:
        """How many messages the path to `current` has, the system prompt among them."""
        prompt = self._db.one("get_prompt", (session_id,))
        return (prompt is not None) + int(self._db.one("count_path", (current,))[0])

    # Deleting

    def _current(self, session_id: str) -> int | None:
        """The turn that a session is at."""
        row = self._db.one("get_session", (session_id,))
        return row[4] if row else None

    def rewind(self, session_id: str, turn: Turn | None) -> int:
        """Deletes a turn and all that follow from it; returns how many messages.

        A session that was at one of them is at the turn's parent then. With None everything goes, the system
        prompt too.
        """
        every = self._db.rows("some_children", (session_id, None, -1))
        roots = [turn.seq] if turn else [row[0] for row in every]
        deleted = 0
        with self.removals.deleting() as delete:
            current = self._current(session_id)
            for root in filter(self.is_alive, roots):
                messages, _, is_current_there = self._below(session_id, root, current)
                if is_current_there:
                    self._db.run("go_to", (turn and turn.parent, 0, session_id))
                delete(session_id, root)
                deleted += messages
            if turn is None:
                deleted += self._db.run("drop_prompt", (session_id,)).rowcount
        return deleted

    def set_input(self, seq: int, messages: str) -> None:
        """Replaces what was said in a turn: a message that was deleted alone is a line DELETED."""
        count = sum(line != DELETED for line in messages.split("\n"))
        self._db.run("set_input", (messages, count, seq))

    def drop_output(self, seq: int, messages: str | None = None) -> None:
        """Deletes the reply of a turn alone, and frees its key; `messages`: what is said in it then."""
        with self._db.transaction():
            if messages is not None:
                self.set_input(seq, messages)
            self._db.run("drop_output", (seq,))

    def forget_response(self, seq: int) -> None:
        """OpenAI's door does not find the turn as a response any more; in the conversation it stays."""
        self._db.run("forget_response", (seq,))

    def splice_out(self, seq: int) -> None:
        """Deletes one turn alone: what followed it follows its parent, and a session at it is there."""
        turn = self.turn(seq)
        if turn is None:
            return
        with self._db.transaction():
            if self._current(turn.session_id) == seq:
                self._db.run("go_to", (turn.parent, 0, turn.session_id))
            self._db.run("adopt", (turn.parent, turn.session_id, seq))
            self._db.run("drop_turn", (seq,))
