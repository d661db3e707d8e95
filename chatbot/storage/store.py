"""Stores conversations in SQLite, with one method for each operation, and without any await.

Because the methods are synchronous, a turn is stored whole or not at all, also from a `finally`. Memory holds
only the marks of used sessions that could not be written yet (`touch`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Container
from contextlib import suppress
from typing import NamedTuple

from chatbot.errors import ChatError, session_gone
from chatbot.records import DELETED, Prompt, Session, Turn
from chatbot.storage.checkpoint import Checkpoints
from chatbot.storage.database import Database, Locked
from chatbot.storage.tree import Tree

FAILED_RESPONSE_MS = 3_600_000
"""How long a failed background response can be read at least, in milliseconds."""

_SPARE_DISK = 16 * 2**20  # kept free for deletes and running replies; on a small disk, a quarter of it


class Background(NamedTuple):
    """A response that was accepted before it ran, and that has no turn.

    `error` is JSON. It is None while the response runs, and if the process died or could not store the error.
    """

    response_id: str
    session_id: str
    created_at: int
    response: str
    error: str | None


class Store(Tree):
    """The stored conversations. Raises StoreError if the database cannot be opened.

    Beyond `max_bytes`, `require_space` refuses new work, but running replies are still stored. Methods that
    change something raise Locked while another process has the file locked (`when_unlocked` retries), and
    ChatError("storage_full") when the disk or the memory really is full.
    """

    def __init__(self, path: str = ":memory:", max_bytes: int = 2**30, sync: str = "normal") -> None:
        super().__init__(Database(path, sync))
        self._path = "" if path == ":memory:" else os.path.realpath(path)
        self._max_bytes = max_bytes
        self._page_size: int = self._db.value("PRAGMA page_size")
        self._touched: dict[str, int] = {}  # session id: last access; could not be written yet
        self.sessions: int = self._db.one("count_sessions")[0]
        """The number of stored sessions, with expired ones that were not removed yet."""
        self.affinity_key: bytes = self._db.one("get_secret", ("affinity",))[0]
        """The key of the hashes that identify conversations to LLM servers."""
        self._checkpoints = Checkpoints(path) if self._path else None

    def close(self) -> None:
        """Closes the database, which copies its WAL into the file."""
        if self._checkpoints:
            self._checkpoints.stop()
        self._db.close()

    # Space

    def _bytes_of(self, pages: str) -> int:
        return int(self._db.value(f"PRAGMA {pages}")) * self._page_size

    @property
    def used_bytes(self) -> int:
        """The bytes of the database that are in use. Its file may be larger."""
        return self._bytes_of("page_count") - self._bytes_of("freelist_count")

    @property
    def wal_bytes(self) -> int:
        """The size of the WAL in bytes; 0 if there is none."""
        return self._checkpoints.wal_bytes() if self._checkpoints else 0

    @property
    def free_bytes(self) -> int:
        """How many bytes may still be written: what `max_bytes` or the disk allows, whichever is less."""
        used = self.used_bytes
        left = self._max_bytes - used
        if not self._path:
            return left
        disk = shutil.disk_usage(os.path.dirname(self._path))
        # A checkpoint makes the file grow. Without room for it, nothing could be written any more.
        growth = used - os.path.getsize(self._path)
        return min(left, disk.free - growth - min(_SPARE_DISK, disk.total // 4))

    @property
    def is_full(self) -> bool:
        """Whether the limit or the disk has no room for new work."""
        return self.free_bytes <= 0

    def require_space(self) -> None:
        """Raises ChatError("storage_full") if the database or the disk is full.

        Called before new work begins, but not when a reply is stored. So the limit never loses a reply that
        was admitted; only the running replies can exceed the limit.
        """
        if self.is_full:
            with suppress(Locked):
                self.remove_piece()
            if self.is_full:
                raise ChatError("storage_full", "The database is full.", retry_after="60")

    # Sessions

    def add_session(self, session_id: str, now: int, metadata: str, prompt: Prompt | None = None) -> None:
        """Adds a session; its system prompt, if it has one, is the first message."""
        self.require_space()
        with self._db.transaction():
            self._db.run("add_session", {"session_id": session_id, "now": now, "metadata": metadata})
            if prompt:
                self._db.run("set_prompt", (session_id, *prompt))
        self.sessions += 1

    def session(self, session_id: str) -> Session | None:
        """Returns a session, also one that has expired but was not removed yet; None if there is none."""
        row = self._db.one("get_session", (session_id,))
        if row is None:
            return None
        session = Session(*row)
        return session._replace(last_accessed=max(session.last_accessed, self._touched.get(session_id, 0)))

    def session_ids(self) -> list[str]:
        """Returns the ids of all sessions."""
        return [row[0] for row in self._db.run("idle_sessions", (2**63 - 1, -1))]  # any time, no limit

    def touch(self, session_id: str, now: int) -> None:
        """Marks a session as accessed `now`. If the file is locked, `clean` writes the mark later."""
        try:
            self._db.run("touch", (now, session_id))
        except Locked:
            self._touched[session_id] = now

    def set_metadata(self, session_id: str, metadata: str) -> None:
        """Replaces a session's metadata."""
        self.require_space()
        self._db.run("set_metadata", (metadata, session_id))

    def prompt(self, session_id: str) -> Prompt | None:
        """Returns the system prompt of a session, or None if it has none of its own."""
        row = self._db.one("get_prompt", (session_id,))
        return Prompt(*row) if row else None

    def set_prompt(self, session_id: str, prompt: Prompt | None) -> None:
        """Replaces a session's system prompt, or removes it."""
        if prompt is None:
            self._db.run("drop_prompt", (session_id,))
            return
        self.require_space()
        self._db.run("set_prompt", (session_id, *prompt))

    def set_current(self, session_id: str, seq: int | None) -> None:
        """Moves a session to one of its turns, or (None) before the first."""
        self._db.run("go_to", (seq, 0, session_id))

    def delete_session(self, session_id: str) -> None:
        """Deletes a session with its turns, prompt and background responses."""
        with self._db.transaction():
            is_there = self._drop_session(session_id)
            self._remove()
        self.sessions -= is_there

    def _drop_session(self, session_id: str) -> int:
        self._db.run("mark_session", (session_id,))
        return self._db.run("drop_session", (session_id,)).rowcount

    def clean(self, now: int, cutoff: int, limit: int, in_use: Container[str]) -> bool:
        """Deletes up to `limit` sessions idle since `cutoff`; removes some rows of what was deleted.

        Sessions `in_use` are marked as accessed `now` instead. Returns whether nothing is left to do.
        """
        dropped = 0
        with self._db.transaction():
            for session_id, touched in self._touched.items():
                self._db.run("touch", (touched, session_id))
            idle = [*self._db.run("idle_sessions", (cutoff, limit))]
            for (session_id,) in idle:
                if session_id in in_use:
                    self._db.run("touch", (now, session_id))
                else:
                    dropped += self._drop_session(session_id)
            is_done = self._remove() and len(idle) < limit
        self._touched.clear()
        self.sessions -= dropped
        return is_done

    # Turns: the other methods are in tree.py

    def add_turn(self, turn: Turn, *, if_at_parent: bool = False) -> int:
        """Stores a turn, marks its session as used and moves the session to it; returns the turn's number.

        With `if_at_parent` the session moves only if it is at the turn's parent. Removes its background
        response. Raises ChatError if the session or the turn's parent is gone.
        """
        try:
            return self._insert(turn, if_at_parent)
        except ChatError as error:
            if error.code != "storage_full":
                raise
        self.remove_piece()  # removing deleted rows may free enough space
        return self._insert(turn, if_at_parent)

    def _insert(self, turn: Turn, if_at_parent: bool) -> int:
        session_id, parent = turn.session_id, turn.parent
        with self._db.transaction():
            session = self.session(session_id)
            if session is None:
                raise session_gone()
            above = self._db.one("session_of_turn", (parent,))
            if parent is not None and not (above and above[0] == session_id):
                raise ChatError("message_not_found", "The message that this one follows is gone.")
            if turn.idempotency_key:
                self._db.run("drop_gone_by_key", (turn.idempotency_key,))
            count = len(turn.messages) - turn.messages.count(DELETED)
            seq = self._db.run("add_turn", turn._asdict() | {"input_count": count}).lastrowid
            assert seq is not None
            moves = not if_at_parent or session.current == parent
            self._db.run("go_to", (seq if moves else session.current, turn.replied_at, session_id))
            if turn.response_id:
                self._db.run("drop_background", (turn.response_id,))
        return seq

    # Responses that were accepted before they ran

    def add_background(self, response_id: str, session_id: str, created_at: int, response: str) -> None:
        """Stores that a response was accepted. `response` is JSON: the door's own record of the response.

        Removes old failures of the session: a client that keeps asking a dead LLM must not fill the disk.
        """
        self._db.run("drop_failed", (session_id, created_at - FAILED_RESPONSE_MS))
        self.require_space()
        self._db.run("add_background", (response_id, session_id, created_at, response))

    def background(self, response_id: str) -> Background | None:
        """Returns a response that was accepted and has no turn (it runs or has failed), or None."""
        row = self._db.one("get_background", (response_id,))
        return Background(*row) if row else None

    def fail_background(self, response_id: str, error: str) -> None:
        """Stores the error of a response that failed, as JSON."""
        self._db.run("fail_background", (error, response_id))

    def drop_background(self, response_id: str) -> None:
        """Removes a response that was accepted."""
        self._db.run("drop_background", (response_id,))
