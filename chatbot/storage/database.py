"""Opens the SQLite database, and runs the statements of schema.sql in it.

The connection is synchronous: the event loop does not run between two statements. Nothing here waits for a
lock: if the file is locked, a method raises Locked, and its caller retries after an await (`when_unlocked`).
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
"""The version of the tables, stored as PRAGMA user_version."""

APPLICATION = 0x43484154
"""The mark of our files ("CHAT"), stored as PRAGMA application_id."""

LOCKED_SECONDS = 5.0
"""For how many seconds a write is retried while the file is locked."""

Parameters = Mapping[str, Any] | tuple[Any, ...]
T = TypeVar("T")

# SQLite's result codes when the disk or the memory is full or failing (https://sqlite.org/rescode.html).
_FULL = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_TOOBIG)
_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


class Locked(Exception):
    """Another process, or a checkpoint, has locked the file for a moment. Nothing was changed."""


async def when_unlocked(write: Callable[[], T]) -> T:
    """Runs a write; retries while it is Locked, for LOCKED_SECONDS. Then raises ChatError("overloaded")."""
    loop = asyncio.get_running_loop()
    deadline, pause = loop.time() + LOCKED_SECONDS, 0.005
    while True:
        try:
            return write()
        except Locked:
            if loop.time() >= deadline:
                log.error("storage: another program has kept the database locked")
                raise file_locked() from None
        await asyncio.sleep(pause)
        pause = min(2 * pause, 0.05)


def translated(error: BaseException) -> BaseException:
    """Returns the error to raise: SQLite's errors for "full" and "locked" become ChatError and Locked."""
    if isinstance(error, MemoryError):
        return ChatError("storage_full", "The memory is full.", retry_after="60")
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the primary code, without the extended part
    if code in _FULL:
        log.error("storage: %s", str(error))  # str: a log handler that keeps records must not keep its frames
        return ChatError("storage_full", "The storage is full.", retry_after="60")
    return Locked(str(error)) if code in _BUSY else error


def load_statements(text: str) -> dict[str, str]:
    """Splits schema.sql at its "-- name:" lines into {name: SQL}."""
    parts = re.split(r"^-- name: (\w+): .*\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


class Database:
    """Opens the database at `path` (":memory:" or a file), makes its tables and compiles its statements.

    A commit survives a crash of the process if `sync` is "normal", and of the machine if `sync` is "full".
    Raises StoreError. Methods that run a statement raise Locked, and ChatError("storage_full") if the disk or
    the memory is full.
    """

    def __init__(self, path: str = ":memory:", sync: str = "normal") -> None:
        if sqlite3.sqlite_version_info < (3, 38):
            raise StoreError(f"SQLite 3.38 or newer is needed, this Python has {sqlite3.sqlite_version}")
        self.sql = load_statements(resources.files("chatbot").joinpath("schema.sql").read_text("utf-8"))
        """Every statement of schema.sql by its name."""
        self._resources = ExitStack()  # closed in reverse order: the file lock last
        real = path
        if path != ":memory:":
            self._resources.callback(FileLock(path).release)
            real = os.path.realpath(path)  # SQLite could read a name "file:…" as a URI
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
            "wal_autocheckpoint=0",  # checkpoint.py makes the checkpoints
            f"synchronous={sync}",
            "foreign_keys=ON",
            "cache_size=-32768",  # 32 MiB: makes a walk along a long path faster
            "secure_delete=FAST",  # some builds would overwrite long texts with zeros, which is slow
        ):
            self.execute(f"PRAGMA {pragma}")
        schema = self.sql.pop("schema")
        if is_new:
            self.connection.executescript(
                f"BEGIN EXCLUSIVE; {schema} PRAGMA user_version={VERSION};"
                f"PRAGMA application_id={APPLICATION}; COMMIT"
            )
        for sql in self.sql.values():
            with suppress(sqlite3.ProgrammingError):  # it compiled; only its values are missing
                self.connection.execute(f"EXPLAIN {sql}").close()
        self.connection.execute("PRAGMA busy_timeout=0")

    def _check_ours(self) -> bool:
        """Returns whether the database is new. Raises StoreError if it is not ours, before it is changed."""
        version, application = self.value("PRAGMA user_version"), self.value("PRAGMA application_id")
        if not version and not application and not self.value("SELECT count(*) FROM sqlite_master"):
            return True
        if application != APPLICATION:
            raise StoreError("the database holds something else, not chat sessions")
        if version != VERSION:
            raise StoreError(f"the database is of version {version}, this program knows version {VERSION}")
        return False

    def close(self) -> None:
        """Closes the database. SQLite copies the WAL into the file when its last connection closes."""
        self._resources.close()

    # Running statements

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Runs a block as one transaction."""
        self.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.execute("COMMIT")
        except BaseException as error:
            # After some errors, such as a full disk, SQLite has rolled back already.
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
        """Runs a statement of schema.sql. If it changes rows, the cursor has `rowcount` and `lastrowid`.

        A SELECT's rows are read when the caller iterates; the caller must not await in between.
        """
        return self.execute(self.sql[name], parameters)

    def one(self, name: str, parameters: Parameters = ()) -> Any:
        """Runs a statement that has at most one row; returns the row or None."""
        return self.run(name, parameters).fetchone()

    def value(self, sql: str) -> Any:
        """Runs SQL that selects one value; returns the value."""
        return self.execute(sql).fetchone()[0]
