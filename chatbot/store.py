"""Keeps sessions and messages in SQLite: one method a statement of schema.sql, and no await.

Being synchronous is what makes it simple: nothing else runs between two statements, so a turn is
stored whole or not at all, also from a `finally`. The connection is the only one: a file database is
locked for this process alone.
"""

from __future__ import annotations

import logging
import re
import sqlite3
from collections.abc import Container, Mapping
from importlib import resources
from typing import Any, NamedTuple

from chatbot.errors import ChatError

log = logging.getLogger(__name__)

VERSION = 1  # of the tables, kept as PRAGMA user_version
APPLICATION = 0x43484154  # "CHAT", kept as PRAGMA application_id

# A page of history ends early rather than hold more text than this (in characters).
PAGE_CHARS = 4 * 1024 * 1024

# What SQLite says when the disk or the memory is full or failing (https://sqlite.org/rescode.html).
_FULL = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_TOOBIG)


class StoreError(Exception):
    """The database cannot be opened; the message is one line for whoever starts the server."""


class Session(NamedTuple):
    """A conversation; times in milliseconds since 1970, `metadata` as JSON text."""

    session_id: str
    created_at: int
    last_accessed: int
    metadata: str


class Message(NamedTuple):
    """A message; `token_usage` is JSON text. Once it is stored `seq` orders the conversation."""

    message_id: str
    role: str
    content: str
    created_at: int
    token_usage: str | None = None
    finish_reason: str | None = None
    seq: int = 0


def _told(error: BaseException) -> BaseException:
    """The error as it is to be raised: SQLite's ways of saying "full" are ChatError("storage_full")."""
    if isinstance(error, MemoryError):
        return ChatError("storage_full", "The memory is full.", retry_after="60")
    if isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) & 0xFF in _FULL:
        log.error("storage: %s", str(error))  # a handler that keeps records would keep its frames
        return ChatError("storage_full", "The storage is full.", retry_after="60")
    return error


class _Transaction:
    """A block that is stored whole or not at all."""

    def __init__(self, cursor: sqlite3.Cursor) -> None:
        self._cursor = cursor

    def __enter__(self) -> None:
        try:
            self._cursor.execute("BEGIN IMMEDIATE")
        except Exception as error:
            raise _told(error) from None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        try:
            if error:
                raise error
            self._cursor.execute("COMMIT")
        except BaseException as failure:
            # SQLite has rolled back by itself after some errors, a full disk among them.
            if self._cursor.connection.in_transaction:
                self._cursor.execute("ROLLBACK")
            raise _told(failure) from None


class _Nothing(dict[str, None]):
    def __missing__(self, name: str) -> None:
        return None


def _nothing_for(sql: str) -> Mapping[str, Any] | tuple[Any, ...]:
    """Binds every parameter to NULL, to compile a statement without running it."""
    code = re.sub("--.*", "", sql)  # a comment may have both
    return _Nothing() if ":" in code else (None,) * code.count("?")


def load_statements(text: str) -> dict[str, str]:
    """Splits schema.sql at its "-- name:" lines into {name: SQL}."""
    parts = re.split(r"^-- name: (\w+)\n", text, flags=re.MULTILINE)
    return {name: sql.strip() for name, sql in zip(parts[1::2], parts[2::2], strict=True)}


class Store:
    """The database at `path` (":memory:" or a file).

    Beyond `max_bytes` nothing new is begun (`require_space`), but what runs is still stored. Every method
    may raise ChatError("storage_full") when the disk or the memory really is full.
    """

    def __init__(self, path: str = ":memory:", max_bytes: int = 2**30) -> None:
        self._max_bytes = max_bytes
        self._sql = load_statements(resources.files("chatbot").joinpath("schema.sql").read_text("utf-8"))
        try:
            self._db = sqlite3.connect(path, timeout=0, isolation_level=None)
        except sqlite3.Error as error:
            raise StoreError(f"cannot open {path}: {error}") from None
        try:
            self._prepare()
        except sqlite3.Error as error:
            self._db.close()
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise StoreError(f"{path} is in use by another process") from None
            raise StoreError(f"cannot use {path}: {error}") from None
        except StoreError:
            self._db.close()
            raise
        self._cursor = self._db.cursor()  # for all whose rows are read at once
        self._transaction = _Transaction(self._cursor)
        self._page_size: int = self._value("PRAGMA page_size")
        self._room = 0
        self.sessions: int = self._value(self._sql["count_sessions"])
        """How many sessions are stored, expired ones not yet swept among them."""

    def _prepare(self) -> None:
        """Takes the database for this process alone, makes the tables, compiles every statement."""
        # In WAL mode with an exclusive lock a second process is refused, and no shared memory is
        # needed. NORMAL: a commit survives the death of the process, and costs no fsync.
        self._value("PRAGMA locking_mode=EXCLUSIVE")
        self._db.execute("BEGIN EXCLUSIVE")
        self._check_ours()
        self._db.execute("COMMIT")
        # Everybody waits while the WAL is folded back: often and little (100 pages: some 10 ms), not
        # seldom and much.
        for pragma in (
            "journal_mode=WAL",
            "wal_autocheckpoint=100",
            "synchronous=NORMAL",
            "foreign_keys=ON",
        ):
            self._value(f"PRAGMA {pragma}")
        self._db.execute("BEGIN EXCLUSIVE")
        for statement in self._sql["schema"].split(";\n"):
            self._db.execute(statement)
        self._db.execute(f"PRAGMA user_version={VERSION}")
        self._db.execute(f"PRAGMA application_id={APPLICATION}")
        self._db.execute("COMMIT")
        for name, sql in self._sql.items():
            if name != "schema":
                self._db.execute(f"EXPLAIN {sql}", _nothing_for(sql)).fetchall()

    def _check_ours(self) -> None:
        """Refuses other programs' databases, before anything in them is changed, and other versions."""
        version, application = self._value("PRAGMA user_version"), self._value("PRAGMA application_id")
        is_new = not version and not application and not self._value("SELECT count(*) FROM sqlite_master")
        if is_new:
            return
        if application != APPLICATION:
            raise StoreError("the database holds something else, not chat sessions")
        if version != VERSION:
            raise StoreError(f"the database is of version {version}, and this program knows {VERSION}")

    def close(self) -> None:
        """Closes the database; a file's WAL is folded back into it."""
        self._db.close()

    # Running statements

    def _value(self, sql: str) -> Any:
        row = self._db.execute(sql).fetchone()
        return row[0] if row else None

    def _all(self, name: str, parameters: Mapping[str, Any] | tuple[Any, ...]) -> list[Any]:
        try:
            return self._cursor.execute(self._sql[name], parameters).fetchall()
        except Exception as error:
            raise _told(error) from None

    def _run(self, name: str, parameters: Mapping[str, Any] | tuple[Any, ...]) -> int:
        """Runs a statement that changes rows; returns how many."""
        try:
            return self._cursor.execute(self._sql[name], parameters).rowcount
        except Exception as error:
            raise _told(error) from None

    def require_space(self) -> None:
        """Raises ChatError("storage_full") if the database has reached its limit.

        Asked before something new is begun and not when it is stored: a reply that was admitted is
        never lost to the limit, which is passed by no more than the replies that are running.
        """
        if self._room > 0:
            return
        used = (self._value("PRAGMA page_count") - self._value("PRAGMA freelist_count")) * self._page_size
        if used >= self._max_bytes:
            raise ChatError("storage_full", "The database is full.", retry_after="60")
        self._room = self._max_bytes - used

    def _fill(self, chars: int) -> None:
        """Deducts from the room what a write of so much text takes at most, with a new page at each place."""
        self._room -= 32 * self._page_size + 4 * chars

    # Sessions

    def add_session(self, session_id: str, now: int, metadata: str, first: Message | None) -> None:
        """Makes a session, with its system prompt as `first` message if it has one."""
        self.require_space()
        with self._transaction:
            self._run("add_session", {"session_id": session_id, "now": now, "metadata": metadata})
            if first:
                self._run("add_message", {"session_id": session_id, **first._asdict()})
        self._fill(len(metadata) + (len(first.content) if first else 0))
        self.sessions += 1

    def session(self, session_id: str) -> Session | None:
        """A session, also one that has expired and was not yet swept."""
        rows = self._all("get_session", (session_id,))
        return Session(*rows[0]) if rows else None

    def conversation(self, session_id: str, turns: int) -> tuple[int, str | None, str] | None:
        """When a session was accessed, its own system prompt, and its newest `turns` (two messages each).

        They are the JSON of an array of messages as LLMs read them, oldest first, and as SQLite writes it:
        compact, the role before the content. There are fewer of them if it passes a gigabyte.
        """
        try:
            rows = self._cursor.execute(self._sql["conversation"], (2 * turns, session_id)).fetchall()
        except sqlite3.DataError:  # SQLITE_TOOBIG: no LLM takes so much
            if not turns:
                raise
            return self.conversation(session_id, turns // 2)
        except Exception as error:
            raise _told(error) from None
        return rows[0] if rows else None

    def history(self, session_id: str, turns: int) -> str:
        """The newest `turns` of a session, as in conversation()."""
        found = self.conversation(session_id, turns)
        return found[2] if found else "[]"

    def touch(self, session_id: str, now: int) -> None:
        """Marks a session as accessed `now`, whatever its age; nothing happens if it is gone."""
        self._run("touch", (now, session_id))

    def set_metadata(self, session_id: str, metadata: str) -> None:
        """Replaces a session's metadata."""
        self.require_space()
        self._run("set_metadata", {"session_id": session_id, "metadata": metadata})
        self._fill(len(metadata))

    def delete_session(self, session_id: str) -> None:
        """Deletes a session and its messages."""
        self.sessions -= self._run("delete_session", {"session_id": session_id})

    def evict(self, now: int, cutoff: int, limit: int, in_use: Container[str]) -> int:
        """Deletes up to `limit` sessions idle since `cutoff`; returns how many rows it looked at.

        Those `in_use`, or used by a chat since, are marked instead, which takes them out of the sweep's way.
        """
        with self._transaction:
            unmarked = self._all("unmarked_sessions", {"cutoff": cutoff, "limit": limit})
            gone = 0
            for session_id, last_accessed in unmarked:
                if session_id in in_use:
                    self.touch(session_id, now)
                elif last_accessed > cutoff:
                    self.touch(session_id, last_accessed)
                else:
                    gone += self._run("delete_session", {"session_id": session_id})
        self.sessions -= gone
        return len(unmarked)

    # Messages

    def add_turn(
        self, session_id: str, question: Message, reply: Message, key: str = "", request_hash: str = ""
    ) -> None:
        """Stores a question and its reply, both or neither; by their time the session was used.

        With the idempotency `key` the reply is found again, and told by the hash from another request's.
        """
        self._run(
            "add_turn",
            (
                *(session_id, question.message_id, question.content, question.created_at),
                *(session_id, reply.message_id, reply.content, reply.created_at),
                # Not None: Python takes longer to bind one than a text.
                *(reply.token_usage or "", reply.finish_reason, key, request_hash),
            ),
        )
        self._fill(len(question.content) + len(reply.content) + len(reply.token_usage or ""))

    def count_messages(self, session_id: str) -> int:
        """How many messages a session has, its system prompt among them."""
        rows: list[tuple[int]] = self._all("count_messages", {"session_id": session_id})
        return rows[0][0]

    def message(self, session_id: str, message_id: str) -> Message | None:
        """One message of one session."""
        rows = self._all("get_message", {"session_id": session_id, "message_id": message_id})
        return Message(*rows[0]) if rows else None

    def page(
        self, session_id: str, limit: int, *, before: int | None, after: int | None
    ) -> tuple[list[Message], bool]:
        """Up to `limit` messages, oldest first, and whether there are more in the paging direction.

        `before` and `after` are places (`Message.seq`); with neither it is the newest page. It ends early
        when its text passes PAGE_CHARS, so that no page is larger than a client and this process can bear.
        """
        name = "messages_before" if after is None else "messages_after"
        seq = after if after is not None else 2**63 - 1 if before is None else before
        parameters = {"session_id": session_id, "seq": seq, "limit": limit + 1}
        page: list[Message] = []
        size, more = 0, False
        try:
            rows = self._db.execute(self._sql[name], parameters)
            for row in rows:
                message = Message(*row)
                size += len(message.content)
                if page and (len(page) == limit or size > PAGE_CHARS):
                    more = True
                    break
                page.append(message)
            rows.close()
        except Exception as error:
            raise _told(error) from None
        return (page if after is not None else page[::-1]), more

    def rewind(self, session_id: str, message: Message) -> int:
        """Deletes `message` and all after it; returns how many.

        A reply takes its question along: a turn is whole or absent.
        """
        start = message.seq
        if message.role == "assistant":
            rows = self._all("question_of", {"session_id": session_id, "seq": start})
            start = rows[0][0] if rows[0][0] is not None else start
        return self._run("rewind", {"session_id": session_id, "seq": start})

    def reply_by_key(self, session_id: str, key: str) -> tuple[str, str] | None:
        """The (message_id, request_hash) of the stored reply that an idempotency key stands for."""
        rows = self._all("reply_by_key", {"session_id": session_id, "idempotency_key": key})
        return rows[0] if rows else None
