"""Keeps the turns of conversations, which are trees: each turn follows another or none.

A turn has a larger number (`seq`) than what it follows, so a walk upwards ends where numbers are small
enough, and the newest turn below another is a leaf. Turns that are gone are not found by anything here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from chatbot import ids
from chatbot.errors import ChatError
from chatbot.records import Turn
from chatbot.storage.removal import Removals


class Version(NamedTuple):
    """What is to be known of a turn that has siblings; `finish_reason` is None if nothing was answered."""

    seq: int
    turn_id: str
    finish_reason: str | None
    input: str


class Tree(Removals):
    """The turns. Methods that change something raise Locked, and ChatError("storage_full")."""

    # Reading

    def turn(self, seq: int) -> Turn | None:
        """A turn by its number."""
        row = self._one("get_turn", (seq,))
        return None if row is None or self._is_gone(row[1], seq) else Turn(*row)

    def turn_of(self, session_id: str, message_id: str) -> tuple[Turn, int] | None:
        """The turn of a session that a message belongs to, and the message's place in it (0: its reply).

        A message that was deleted alone is not found. Places from 0x800 on are parts of the reply.
        """
        found = ids.turn_and_place(message_id)
        turn = self._turn_by("turn_by_id", found[0]) if found else None
        if not found or turn is None or turn.session_id != session_id:
            return None
        place = found[1]
        if 0 < place <= ids.MAX_INPUT_MESSAGES:
            messages = turn.messages
            return (turn, place) if place <= len(messages) and messages[place - 1] != "null" else None
        return (turn, place) if turn.output is not None else None

    def turn_by_id(self, turn_id: str) -> Turn | None:
        """A turn by its id, whatever session it is in."""
        return self._turn_by("turn_by_id", turn_id)

    def turn_by_key(self, idempotency_key: str) -> Turn | None:
        """The turn that an idempotency key stands for."""
        return self._turn_by("turn_by_key", idempotency_key)

    def turn_by_response(self, response_id: str) -> Turn | None:
        """The turn that OpenAI's door calls by this id."""
        return self._turn_by("turn_by_response", response_id)

    def is_alive(self, seq: int) -> bool:
        """Whether there is such a turn and it is not gone."""
        row = self._one("session_of_turn", (seq,))
        return row is not None and not self._is_gone(row[0], seq)

    def path_up(self, session_id: str, seq: int | None) -> Iterator[Turn]:
        """A turn, what it follows, what that follows …: each is read when it is asked for."""
        turn = None if seq is None else self.turn(seq)
        while turn is not None and turn.session_id == session_id:
            yield turn
            row = None if turn.parent is None else self._one("get_turn", (turn.parent,))
            turn = None if row is None else Turn(*row)

    def path(self, session_id: str, seq: int | None, above: int = 0) -> list[int]:
        """The numbers of the turns up to `seq`, oldest first; only those newer than turn `above`."""
        if seq is None or not self.is_alive(seq):
            return []
        return [row[0] for row in reversed(self._all("path", {"seq": seq, "above": above}))]

    def children(self, session_id: str, parent: int | None) -> list[Version]:
        """What follows a turn directly (with None: what begins the conversation), oldest first."""
        return [Version(*row) for row in self._all("children", (session_id, parent))]

    def has_versions(self, session_id: str, parent: int | None) -> bool:
        """Whether more than one turn follows a turn; True may also be said of what was so until lately."""
        return bool(self._one("two_children", (session_id, parent))[0] > 1)

    def branching(self, session_id: str, first: int, last: int) -> set[int]:
        """The same of all turns from one number to another, with one statement."""
        values = {"session_id": session_id, "first": first, "last": last}
        return {row[0] for row in self._all("branching", values)}

    def newest_below(self, seq: int) -> int:
        """The newest turn among a turn and all that follow from it: the end of its newest branch."""
        row = self._one("session_of_turn", (seq,))
        return int(self._below(row[0], seq, None)[2]) if row else seq

    def count_messages(self, session_id: str, current: int | None) -> int:
        """How many messages the path to `current` has, the system prompt among them."""
        count = self._one("get_prompt", (session_id,)) is not None
        return count + (0 if current is None else int(self._one("count_path", {"seq": current})[0]))

    def _turn_by(self, name: str, value: str) -> Turn | None:
        row = self._one(name, (value,))
        return self.turn(row[0]) if row else None

    def _below(self, session_id: str, seq: int, current: int | None) -> tuple[int, int, int, int]:
        """Of a turn and what follows: how many turns, messages, the newest, whether `current` is there."""
        row: tuple[int, int, int, int] = self._one(
            "below", {"session_id": session_id, "seq": seq, "current": current}
        )
        return row

    # Writing

    def _insert(self, turn: Turn, if_at_parent: bool) -> int:
        with self._transaction:
            session_id, parent = turn.session_id, turn.parent
            if self._one("get_session", (session_id,)) is None:
                raise ChatError(
                    "session_not_found", "There is no such session, or it has expired.", "session_id"
                )
            if parent is not None and (
                self._one("session_of_turn", (parent,)) != (session_id,) or self._is_gone(session_id, parent)
            ):
                raise ChatError("message_not_found", "The message that this one follows is gone.")
            self._run("add_turn", (turn.input.count("\n") + 1, *turn[1:]))
            seq = self._cursor.lastrowid or 0
            self._run("go_on", (not if_at_parent, parent, seq, turn.replied_at, session_id))
            if turn.response_id:
                self._run("drop_background", (turn.response_id,))
        return seq

    def _free_key(self, key: str | None) -> bool:
        """Takes an idempotency key from a turn that is gone; tells whether it did."""
        row = self._one("turn_by_key", (key,)) if key else None
        return row is not None and not self.is_alive(row[0]) and self._run("free_key", row) > 0

    def rewind(self, session_id: str, turn: Turn | None) -> int:
        """Deletes a turn and all that follow from it; returns how many messages.

        A session that was at one of them is at the turn's parent then. With None everything goes, the system
        prompt too.
        """
        if turn is None:
            return self._rewind_all(session_id)
        deadline = self._deadline()
        with self._transaction:
            row = self._one("get_session", (session_id,))
            turns, messages, _, is_at = self._below(session_id, turn.seq, row[4] if row else None)
            if not turns or self._is_gone(session_id, turn.seq):
                return 0
            if is_at:
                self._run("set_current", (turn.parent, session_id))
            done = turns <= 50 and self._remove_turns(session_id, turn.seq, deadline)
            if not done:
                self._run("mark_turn", (turn.seq, session_id))
        if not done:
            self._turn_is_gone(session_id, turn.seq)
        return messages

    def _rewind_all(self, session_id: str) -> int:
        roots = [version.seq for version in self.children(session_id, None)]
        with self._transaction:
            messages = sum(self._below(session_id, root, None)[1] for root in roots)
            for root in roots:
                self._run("mark_turn", (root, session_id))
            self._run("set_current", (None, session_id))
            messages += self._run("drop_prompt", (session_id,))
        for root in roots:
            self._turn_is_gone(session_id, root)
        return messages

    def set_input(self, seq: int, messages: str) -> None:
        """Replaces what was said in a turn: a message that was deleted alone is a line `null`."""
        said = sum(line != "null" for line in messages.split("\n"))
        self._run("set_input", (messages, said, seq))

    def drop_output(self, seq: int, messages: str | None = None) -> None:
        """Deletes the reply of a turn alone, and frees its key; `messages`: what is said in it then."""
        with self._transaction:
            if messages is not None:
                self.set_input(seq, messages)
            self._run("drop_output", (seq,))

    def forget_response(self, seq: int) -> None:
        """OpenAI's door does not find the turn as a response any more; in the conversation it stays."""
        self._run("forget_response", (seq,))

    def splice_out(self, seq: int) -> None:
        """Deletes one turn alone: what followed it follows its parent, and a session at it is there."""
        turn = self.turn(seq)
        if turn is None:
            return
        values = {"session_id": turn.session_id, "parent": turn.parent, "seq": seq}
        with self._transaction:
            self._run("adopt", values)
            self._run("leave", values)
            self._run("drop_turn", (seq,))
