"""Keeps conversations in SQLite: one method a statement of schema.sql, and no await.

Being synchronous is what makes it simple: a turn is stored whole or not at all, also from a `finally`. What
is kept in memory besides is only what waits to be removed (removal.py) or written (`touch`).
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Container
from contextlib import suppress
from typing import NamedTuple

from chatbot.errors import ChatError
from chatbot.records import Prompt, Session, Turn
from chatbot.storage.checkpoint import Checkpoints
from chatbot.storage.database import Locked
from chatbot.storage.tree import Tree

_MIN_DISK = 4 * 2**20  # a disk with less free than this is full


class Background(NamedTuple):
    """A response that was accepted before it ran and has no turn; `error` is JSON, None while it runs."""

    response_id: str
    session_id: str
    created_at: int
    response: str
    error: str | None


class Store(Tree):
    """What is kept of the conversations.

    Beyond `max_bytes` nothing new is begun (`require_space`), but what runs is still stored. Methods that
    change something raise Locked while another process has the file locked (`when_unlocked` tries again), and
    ChatError("storage_full") when the disk or the memory really is full. Raises StoreError.
    """

    def __init__(self, path: str = ":memory:", max_bytes: int = 2**30, sync: str = "normal") -> None:
        super().__init__(path, sync)
        self._path = path
        self._max_bytes = max_bytes
        self._page_size: int = self._value("PRAGMA page_size")
        self._bytes_left = 0  # that may be written before the database is measured again
        self._touched: dict[str, int] = {}  # marks that could not be written
        self.sessions: int = self._one("count_sessions")[0]
        """How many sessions are stored, expired ones not yet swept among them."""
        self.affinity_key: bytes = self._one("get_secret", ("affinity",))[0]
        """The key of the hashes by which LLM servers tell conversations apart."""
        self._checkpoints = None if path == ":memory:" else Checkpoints(path)

    def close(self) -> None:
        """Closes the database; a file's WAL is folded back into it."""
        if self._checkpoints:
            self._checkpoints.stop()
        super().close()

    # Space

    @property
    def used_bytes(self) -> int:
        """How much of the database is in use; its file may be larger."""
        pages = self._value("PRAGMA page_count") - self._value("PRAGMA freelist_count")
        return int(pages * self._page_size)

    @property
    def wal_bytes(self) -> int:
        """The size of the WAL; 0 if there is none."""
        return self._checkpoints.wal_bytes() if self._checkpoints else 0

    @property
    def free_bytes(self) -> int:
        """How much may still be written: what the limit leaves, or the disk if that is less."""
        free = self._max_bytes - self.used_bytes
        if self._path == ":memory:":
            return free
        disk = shutil.disk_usage(os.path.dirname(os.path.realpath(self._path)))
        return min(free, disk.free - _MIN_DISK)

    @property
    def is_full(self) -> bool:
        """Whether nothing new can be begun."""
        return self.free_bytes <= 0

    def require_space(self) -> None:
        """Raises ChatError("storage_full") if the database has reached its limit.

        Asked before something new is begun and not when it is stored: a reply that was admitted is
        never lost to the limit, which is passed by no more than the replies that are running.
        """
        if self._bytes_left > 0:
            return
        self._bytes_left = self._max_bytes - self.used_bytes
        if self._bytes_left <= 0 and self.has_removals:
            with suppress(Locked):
                self.remove_piece()
            self._bytes_left = self._max_bytes - self.used_bytes
        if self._bytes_left <= 0:
            raise ChatError("storage_full", "The database is full.", retry_after="60")

    def _fill(self, chars: int) -> None:
        """Deducts what a write of so much text takes at most, with a new page at each place."""
        self._bytes_left -= 32 * self._page_size + 4 * chars

    # Sessions

    def add_session(self, session_id: str, now: int, metadata: str, prompt: Prompt | None = None) -> None:
        """Makes a session, with its system prompt as the first message if it has one."""
        self.require_space()
        with self._transaction:
            self._run("add_session", {"session_id": session_id, "now": now, "metadata": metadata})
            if prompt:
                self._run("set_prompt", (session_id, *prompt))
        self._fill(len(metadata) + (len(prompt.content) if prompt else 0))
        self.sessions += 1

    def session(self, session_id: str) -> Session | None:
        """A session, also one that has expired and was not yet swept."""
        row = self._one("get_session", (session_id,))
        if row is None:
            return None
        session = Session(*row)
        if touched := self._touched.get(session_id):
            return session._replace(last_accessed=max(session.last_accessed, touched))
        return session

    def touch(self, session_id: str, now: int) -> None:
        """Marks a session as accessed `now`; if the file is locked the next sweep writes it down."""
        try:
            self._run("touch", (now, session_id))
        except Locked:
            self._touched[session_id] = now

    def set_metadata(self, session_id: str, metadata: str) -> None:
        """Replaces a session's metadata."""
        self.require_space()
        self._run("set_metadata", (metadata, session_id))
        self._fill(len(metadata))

    def prompt(self, session_id: str) -> Prompt | None:
        """The system prompt of a session, if it has one of its own."""
        row = self._one("get_prompt", (session_id,))
        return Prompt(*row) if row else None

    def set_prompt(self, session_id: str, prompt: Prompt | None) -> None:
        """Replaces a session's system prompt, or removes it."""
        if prompt is None:
            self._run("drop_prompt", (session_id,))
            return
        self.require_space()
        self._run("set_prompt", (session_id, *prompt))
        self._fill(len(prompt.content))

    def set_current(self, session_id: str, seq: int | None) -> None:
        """Moves a session to one of its turns, or before the first."""
        self._run("set_current", (seq, session_id))

    def delete_session(self, session_id: str) -> None:
        """Deletes a session with all that it has."""
        deadline = self._deadline()
        with self._transaction:
            if not self._run("mark_session", (session_id,)):
                return
            done = self._remove_session(session_id, deadline)
        self._session_is_gone(session_id, done)

    def evict(self, now: int, cutoff: int, limit: int, in_use: Container[str]) -> int:
        """Deletes up to `limit` sessions idle since `cutoff`; returns how many rows it looked at.

        Those `in_use` are marked as accessed `now`; those used since the sweep last saw them are passed over.
        """
        gone: dict[str, bool] = {}
        deadline = self._deadline()
        with self._transaction:
            for session_id, touched in self._touched.items():
                self._run("touch", (touched, session_id))
            idle = self._all("idle_sessions", (cutoff, limit))
            for session_id, last_accessed in idle:
                if session_id in in_use:
                    self._run("touch", (now, session_id))
                    self._run("set_idle_since", (now, session_id))
                elif last_accessed > cutoff:
                    self._run("set_idle_since", (last_accessed, session_id))
                else:
                    self._run("mark_session", (session_id,))
                    gone[session_id] = self._remove_session(session_id, deadline)
        self._touched.clear()
        for session_id, done in gone.items():
            self._session_is_gone(session_id, done)
        return len(idle)

    def session_ids(self) -> list[str]:
        """The ids of all sessions."""
        return [row[0] for row in self._all("session_ids")]

    def _session_is_gone(self, session_id: str, done: bool) -> None:
        self.sessions -= 1
        self._gone[session_id] = None
        if done:
            self._forget(session_id, None)

    # Turns: see tree.py

    def add_turn(self, turn: Turn, *, if_at_parent: bool = False) -> int:
        """Stores a turn, and that the session was used and is at it now; returns its number.

        With `if_at_parent` the session moves only if it is at the turn's parent. What the turn was accepted
        as in the background is done. Raises ChatError if the session or the turn's parent is gone.
        """
        self._fill(len(turn.input) + len(turn.output or "") + len(turn.reasoning or "") + 1024)
        try:
            return self._insert(turn, if_at_parent)
        except ChatError as error:
            if error.code != "storage_full" or not self.has_removals:
                raise
            self.remove_piece()  # what is gone may be all that it needs
        except sqlite3.IntegrityError:
            if not self._free_key(turn.idempotency_key):
                raise
        return self._insert(turn, if_at_parent)

    # Responses that were accepted before they ran

    def add_background(self, response_id: str, session_id: str, created_at: int, response: str) -> None:
        """Keeps that a response was accepted; `response` is JSON, the door's own record of it."""
        self.require_space()
        self._run("add_background", (response_id, session_id, created_at, response))
        self._fill(len(response))

    def background(self, response_id: str) -> Background | None:
        """A response that was accepted and has no turn: it runs, or failed."""
        row = self._one("get_background", (response_id,))
        return Background(*row) if row else None

    def fail_background(self, response_id: str, error: str, now: int) -> None:
        """Keeps of what a response failed, as JSON."""
        self._run("fail_background", (error, now, response_id))

    def fail_all_background(self, error: str, now: int) -> None:
        """Keeps that what ran when the process died has failed; to be called at start."""
        self._run("fail_all_background", (error, now))

    def drop_background(self, response_id: str) -> None:
        """Forgets a response that was accepted."""
        self._run("drop_background", (response_id,))

    def drop_old_background(self, cutoff: int) -> None:
        """Forgets the responses that had failed by `cutoff`."""
        self._run("drop_old_background", (cutoff,))
