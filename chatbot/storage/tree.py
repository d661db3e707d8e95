"""Reads and deletes turns. A conversation is a tree of turns: each turn follows another turn or none.

A turn has a larger number (`seq`) than the turn it follows. So a walk upwards can stop at a small number, and
the newest turn below another turn is a leaf.

SQLite would need a second to delete a long conversation, and would block the event loop. So a deletion only
marks turns or a session as gone, in the tables gone and gone_sessions. From then on nothing here finds them,
also after a kill. Their rows are removed later, a few at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from time import perf_counter
from typing import Any, NamedTuple

from chatbot import ids
from chatbot.records import DELETED, Turn
from chatbot.storage.database import Database

PIECE_SECONDS = 0.004
"""How long rows are removed before other tasks run. The last row and the commit take extra time."""

_REMOVALS = ("drop_gone", "drop_of_session", "drop_background_of_session", "drop_mark")


class Version(NamedTuple):
    """A turn as its siblings' list needs it. `finish_reason` is None if the turn has no answer.

    Versions with equal messages share the objects `input` and `messages`.
    """

    seq: int
    turn_id: str
    finish_reason: str | None
    input: str
    messages: list[str]


class Tree:
    """The stored turns. Methods that change something raise Locked, and ChatError("storage_full")."""

    def __init__(self, database: Database) -> None:
        self._db = database

    # Reading

    def turn(self, seq: int) -> Turn | None:
        """Finds a turn by its number."""
        return next(self._up(1, seq=seq), None)

    def turn_by_id(self, turn_id: str) -> Turn | None:
        """Finds a turn by its id, in any session."""
        return next(self._up(1, turn_id=turn_id), None)

    def turn_by_key(self, idempotency_key: str) -> Turn | None:
        """Finds the turn with an idempotency key."""
        return next(self._up(1, key=idempotency_key), None)

    def turn_by_response(self, response_id: str) -> Turn | None:
        """Finds the turn with an id of OpenAI's door (`response_id`)."""
        return next(self._up(1, response_id=response_id), None)

    def path_up(self, seq: int | None) -> Iterator[Turn]:
        """Iterates from a turn up to the root of its conversation. Reads each turn when it is asked for.

        Do not await before the last turn, because an open read keeps the WAL from being truncated.
        """
        return self._up(-1, seq=seq)

    def _up(self, limit: int, **name: object) -> Iterator[Turn]:
        values = {"seq": None, "turn_id": None, "key": None, "response_id": None, "limit": limit}
        return map(Turn._make, self._db.run("turns_up", values | name))

    def turn_of(self, session_id: str, message_id: str) -> tuple[Turn, int] | None:
        """Returns the turn that a message of a session belongs to, and the message's place (0: the reply).

        Does not find a message that was deleted alone. Places from 0x800 on are parts of the reply.
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
        """Whether a turn exists and is not gone."""
        return self._db.one("session_of_turn", (seq,)) is not None

    def has_reply(self, seq: int) -> bool:
        """Whether a turn exists, is not gone, and has its reply (a reply can be deleted alone)."""
        row = self._db.one("session_of_turn", (seq,))
        return row is not None and row[1] is not None

    def path(self, seq: int | None, above: int = 0) -> list[int]:
        """Returns the numbers of the turns up to `seq`, oldest first; only those larger than `above`."""
        return [row[0] for row in self._db.run("path", {"seq": seq, "above": above})][::-1]

    def children(self, session_id: str, parent: int | None, least: int = 1) -> list[Version]:
        """Returns the turns that directly follow `parent` (None: that begin the conversation), oldest first.

        Returns nothing if there are fewer than `least`, counting those whose rows are still to be removed.
        """
        values = {"session_id": session_id, "parent": parent, "least": least}
        found, known = [], dict[str, tuple[str, list[str]]]()
        for seq, turn_id, finish_reason, said in self._db.run("children", values):
            said, messages = known.setdefault(said, (said, said.split("\n")))
            found.append(Version(seq, turn_id, finish_reason, said, messages))
        return found

    def siblings(self, turn: Turn) -> list[Version]:
        """Returns all versions of a turn, itself included, if there is more than one (see `children`)."""
        return self.children(turn.session_id, turn.parent, least=2)

    def newest_below(self, seq: int) -> int:
        """Returns the newest turn in a turn's subtree, which is the end of its newest branch."""
        return int(self._db.one("below", (seq,))[1])

    def count_messages(self, session_id: str, current: int | None) -> int:
        """Counts the messages of the path to `current`, with the system prompt."""
        prompt = self._db.one("get_prompt", (session_id,))
        return (prompt is not None) + int(self._db.one("count_path", (current,))[0])

    # Deleting

    def remove_piece(self) -> bool:
        """Removes rows of what is gone for PIECE_SECONDS; returns whether none is left."""
        with self._db.transaction():
            return self._remove()

    def _remove(self, began: float | None = None) -> bool:
        """Does so in an open transaction. Each deletion calls it: if the rows are few, they go at once."""
        deadline = (began or perf_counter()) + PIECE_SECONDS
        while perf_counter() < deadline:
            # Each statement runs only when the statements before it have nothing left to remove.
            if not any(self._db.run(name).rowcount for name in _REMOVALS):
                return True
        return False

    def rewind(self, session_id: str, turn: Turn | None) -> int:
        """Deletes a turn and its subtree, or with None all turns and the system prompt.

        If the session was at a deleted turn, it moves to the parent of `turn`. Returns the number of deleted
        messages.
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
            self._remove(began)  # marking counts towards PIECE_SECONDS
        return deleted

    def keep_only(self, seq: int, messages: str, answer: Mapping[str, Any] | None = None) -> None:
        """Replaces a turn's messages and reply (None: deletes the reply); frees its idempotency key."""
        count = sum(line != DELETED for line in messages.split("\n"))
        kept = answer or dict.fromkeys(("output", "reasoning", "layout", "chunk_ends"))
        self._db.run("keep_only", {**kept, "seq": seq, "input": messages, "input_count": count})

    def forget_response(self, seq: int) -> None:
        """Removes the turn's response id, so OpenAI's door cannot find it. It stays in the conversation."""
        self._db.run("forget_response", (seq,))
