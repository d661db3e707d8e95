"""Opens the SQLite database, and runs the statements of schema.sql in it.

What the connection does is synchronous: nothing else runs between two statements. Nothing here waits: what
finds the file locked raises Locked, and whoever called tries again when the event loop has had its turn.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from importlib import resources
from typing import Any, TypeVar

from chatbot.errors import ChatError, file_locked
from chatbot.storage.lock import FileLock, StoreError

log = logging.getLogger(__name__)

VERSION = 1
"""The version of the tables, kept as PRAGMA user_version."""

APPLICATION = 0x43484154
"""Whose file it is ("CHAT"), kept as PRAGMA application_id."""

LOCKED_SECONDS = 5.0
"""For how long a write is tried again that finds the file locked."""

Parameters = Mapping[str, Any] | tuple[Any, ...]
T = TypeVar("T")

# What SQLite says when the disk or the memory is full or failing (https://sqlite.org/rescode.html).
_FULL = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_TOOBIG)
_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


class Locked(Exception):
    """Another process, or the checkpoint, has the file locked for a moment; nothing was changed."""


async def when_unlocked(write: Callable[[], T]) -> T:
    """Runs a write, again and again while it raises Locked, for LOCKED_SECONDS; then it is `overloaded`."""
    loop = asyncio.get_running_loop()
    deadline, pause = loop.time() + LOCKED_SECONDS, 0.005
    while True:
        try:
            return write()
        except Locked:
            if loop.time() >= deadline:
                raise file_locked() from None
        await asyncio.sleep(pause)
        pause = min(2 * pause, 0.05)


def translated(error: BaseException) -> BaseException:
    """The error as it is to be raised: SQLite's ways of saying "full" and "locked" in our words."""
    if isinstance(error, MemoryError):
        return ChatError("storage_full", "The memory is full.", retry_after="60")
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # without what it says in detail
    if code in _FULL:
        log.error("storage: %s", str(error))  # a handler that keeps records would keep its frames
        return ChatError("storage_full", "The storage is full.", retry_after="60")
    return Locked(str(error)) if code in _BUSY else error


def load_statements(text: str) -> dict[str, str]:
    """Splits schema.sql at its "-- name:" lines into {name: SQL}."""
    parts = re.split(r"^-- name: (\w+): .*\n", text, flags=re.MULTILINE)
    return {name: sql.strip() for name, sql in zip(parts[1::2], parts[2::2], strict=True)}


class Database:
    """The database at `path` (":memory:" or a file), its tables made and its statements proved to compile.

    `sync` is "normal": a commit survives the death of the process, or "full": that of the machine. Raises
    StoreError. What runs a statement raises Locked, and ChatError("storage_full") when the disk or the memory
    is full.
    """

    def __init__(self, path: str = ":memory:", sync: str = "normal") -> None:
        if sqlite3.sqlite_version_info < (3, 38):
            raise StoreError(f"SQLite 3.38 or newer is needed, this Python has {sqlite3.sqlite_version}")
        self.sql = load_statements(resources.files("chatbot").joinpath("schema.sql").read_text("utf-8"))
        """Every statement of schema.sql by its name."""
        self._resources = ExitStack()  # closed in reverse order: what holds the lock goes last
        real = path
        if path != ":memory:":
            self._resources.callback(FileLock(path).release)
            real = os.path.realpath(path)  # a name "file:…" would be taken for a URI
        try:
            connection = sqlite3.connect(real, timeout=LOCKED_SECONDS, isolation_level=None)
            self.connection = self._resources.enter_context(closing(connection))
            self._prepare(sync)
        except (sqlite3.Error, StoreError, ChatError, Locked) as error:
            self.close()
            if isinstance(translated(error), Locked):
                raise StoreError(f"{path} is locked by another program") from None
            raise StoreError(f"cannot use {path}: {error.__context__ or error}") from None  # SQLite's words

    def _prepare(self, sync: str) -> None:
        """Makes the tables if there are none, and compiles every statement."""
        is_new = self._check_ours()
        for pragma in (
            "journal_mode=WAL",  # others can read the file while it is written
            "wal_autocheckpoint=0",  # checkpoint.py makes them
            f"synchronous={sync}",
            "foreign_keys=ON",
            "cache_size=-32768",  # 32 MiB: a walk along a path of 10,000 turns takes half as long
            "secure_delete=FAST",  # some builds would fill long texts with zeros, which takes long
        ):
            self.execute(f"PRAGMA {pragma}")
        schema = self.sql.pop("schema")
        if is_new:
            self.connection.executescript(
                f"BEGIN EXCLUSIVE; {schema} PRAGMA user_version={VERSION};"
                f"PRAGMA application_id={APPLICATION}; COMMIT"
            )
        for sql in self.sql.values():
            with suppress(sqlite3.ProgrammingError):  # it compiles, and no values are given
                self.connection.execute(f"EXPLAIN {sql}").close()
        self.connection.execute("PRAGMA busy_timeout=0")

    def _check_ours(self) -> bool:
        """Refuses other programs' databases, before anything in them is changed; tells whether it is new."""
        version, application = self.value("PRAGMA user_version"), self.value("PRAGMA application_id")
        if not version and not application and not self.value("SELECT count(*) FROM sqlite_master"):
            return True
        if application != APPLICATION:
            raise StoreError("the database holds something else, not chat sessions")
        if version != VERSION:
            raise StoreError(f"the database is of version {version}, this program knows version {VERSION}")
        return False

    def close(self) -> None:
        """Closes the database; the last one to close a file folds its WAL back into it."""
        self._resources.close()

    # Running statements

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """A block that is stored whole or not at all."""
        self.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.execute("COMMIT")
        except BaseException as error:
            # SQLite has rolled back by itself after some errors, a full disk among them.
            if self.connection.in_transaction:
                self.execute("ROLLBACK")
            raise translated(error) from None

    def execute(self, sql: str, parameters: Parameters = ()) -> sqlite3.Cursor:
        """Runs any SQL."""
        try:
            return self.connection.execute(sql, parameters)
        except Exception as error:
            raise translated(error) from None

    def run(self, name: str, parameters: Parameters = ()) -> sqlite3.Cursor:
        """Runs a statement. The cursor has the `rowcount` and the `lastrowid` of one that changes rows.

        The rows of others are read when they are asked for; nothing may be awaited in between.
        """
        return self.execute(self.sql[name], parameters)

    def one(self, name: str, parameters: Parameters = ()) -> Any:
        """The row of a statement that has at most one; None if it has none."""
        return self.run(name, parameters).fetchone()

    def value(self, sql: str) -> Any:
        """The one value that some SQL selects."""
        return self.execute(sql).fetchone()[0]
