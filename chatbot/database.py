"""Opens the SQLite database, for this process alone, and runs the statements of schema.sql in it.

The connection is the only one, and what it does is synchronous: nothing else runs between two statements.
"""

from __future__ import annotations

import logging
import re
import sqlite3
from collections.abc import Mapping
from importlib import resources
from typing import Any

from chatbot.errors import ChatError

log = logging.getLogger(__name__)

VERSION = 2  # of the tables, kept as PRAGMA user_version
APPLICATION = 0x43484154  # "CHAT", kept as PRAGMA application_id

# What SQLite says when the disk or the memory is full or failing (https://sqlite.org/rescode.html).
_FULL = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_TOOBIG)


class StoreError(Exception):
    """The database cannot be opened; the message is one line for whoever starts the server."""


def told(error: BaseException) -> BaseException:
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
            raise told(error) from None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        try:
            if error:
                raise error
            self._cursor.execute("COMMIT")
        except BaseException as failure:
            # SQLite has rolled back by itself after some errors, a full disk among them.
            if self._cursor.connection.in_transaction:
                self._cursor.execute("ROLLBACK")
            raise told(failure) from None


class _Nothing(dict[str, None]):
    def __missing__(self, name: str) -> None:
        return None


def _nothing_for(sql: str) -> Mapping[str, Any] | tuple[Any, ...]:
    """Binds every parameter to NULL, to compile a statement without running it."""
    code = re.sub("--.*|'[^']*'", "", sql)  # a comment and a text may have both
    return _Nothing() if ":" in code else (None,) * code.count("?")


def load_statements(text: str) -> dict[str, str]:
    """Splits schema.sql at its "-- name:" lines into {name: SQL}."""
    parts = re.split(r"^-- name: (\w+)\n", text, flags=re.MULTILINE)
    return {name: sql.strip() for name, sql in zip(parts[1::2], parts[2::2], strict=True)}


class Database:
    """The database at `path` (":memory:" or a file), its tables made and its statements proved to compile.

    Raises StoreError. What runs a statement raises ChatError("storage_full") when disk or memory is full.
    """

    def __init__(self, path: str) -> None:
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

    def _prepare(self) -> None:
        """Takes the database for this process alone, makes the tables, compiles every statement."""
        # In WAL mode with an exclusive lock a second process is refused, and no shared memory is
        # needed. NORMAL: a commit survives the death of the process, and costs no fsync.
        self._value("PRAGMA locking_mode=EXCLUSIVE")
        self._db.execute("BEGIN EXCLUSIVE")
        version = self._check_ours()
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
        self._make_tables(version)
        for name, sql in self._sql.items():
            if name not in ("schema", "upgrade_1"):
                self._db.execute(f"EXPLAIN {sql}", _nothing_for(sql)).fetchall()

    def _make_tables(self, version: int) -> None:
        """Makes what there is not yet, and brings over what an earlier `version` has, all or nothing."""
        self._db.execute("BEGIN EXCLUSIVE")
        if version == 1:
            log.info("the database becomes one of version %d, which may take a while", VERSION)
            self._run_all("schema")  # but for the view that has the name of a table of then
            self._run_all("upgrade_1")
        self._run_all("schema")
        self._db.execute(f"PRAGMA user_version={VERSION}")
        self._db.execute(f"PRAGMA application_id={APPLICATION}")
        self._db.execute("COMMIT")
        if version == 1:
            # The WAL holds all of it now, and would stay as large.
            self._value("PRAGMA wal_checkpoint(TRUNCATE)")
            log.info("the database is of version %d", VERSION)

    def _run_all(self, name: str) -> None:
        for statement in self._sql[name].split(";\n"):
            self._db.execute(statement)

    def _check_ours(self) -> int:
        """Refuses other programs' databases, before anything in them is changed, and versions to come.

        Returns its version, 0 if it is new.
        """
        version, application = self._value("PRAGMA user_version"), self._value("PRAGMA application_id")
        is_new = not version and not application and not self._value("SELECT count(*) FROM sqlite_master")
        if is_new:
            return 0
        if application != APPLICATION:
            raise StoreError("the database holds something else, not chat sessions")
        if not 1 <= version <= VERSION:
            raise StoreError(f"the database is of version {version}, this program knows up to {VERSION}")
        return int(version)

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
            raise told(error) from None

    def _run(self, name: str, parameters: Mapping[str, Any] | tuple[Any, ...]) -> int:
        """Runs a statement that changes rows; returns how many."""
        try:
            return self._cursor.execute(self._sql[name], parameters).rowcount
        except Exception as error:
            raise told(error) from None
