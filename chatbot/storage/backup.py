"""The commands for a database file: copy it, check it, keep only a part of its sessions.

A copy is made in one read transaction, so it shows the database at one moment, also if others write to it.
SQLite's backup API would begin again at each write of another process. VACUUM INTO does not, and leaves out
the free pages of deleted rows.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from itertools import count
from pathlib import Path

from chatbot.errors import ChatError
from chatbot.storage.database import APPLICATION, VERSION, when_unlocked
from chatbot.storage.lock import StoreError, require_access
from chatbot.storage.store import Store

_STEPS = 1000  # SQLite calls the progress handler after so many steps of its virtual machine
_STEPS_A_TURN = 70  # about how many steps a check takes for each turn
_REMOVE_GONE = """
    PRAGMA foreign_keys=ON; PRAGMA secure_delete=ON;
    DELETE FROM turns WHERE seq IN gone OR session_id IN gone_sessions;
    DELETE FROM background WHERE session_id IN gone_sessions;
    DELETE FROM gone_sessions
"""


def backup(path: str, target: str, *, force: bool = False) -> str:
    """Copies the database at `path`, which may be in use, to the file `target`; returns a report.

    `target` appears only when it is complete, checked and synced to the disk (mode 0600). An existing file is
    replaced only with `force`. Raises StoreError.
    """
    _refuse_target(path, target, force)
    directory, name = os.path.split(os.path.abspath(target))
    try:
        file, unfinished = tempfile.mkstemp(dir=directory, prefix=f".{name}.", suffix=".unfinished")
        try:
            with _opened(path, "copy") as source:
                pages = _value(source, "page_count") - _value(source, "freelist_count")
                with _progress("copied", pages * _value(source, "page_size")) as show:
                    source.set_progress_handler(lambda: show(os.fstat(file).st_size), _STEPS)
                    source.execute("VACUUM INTO ?", (unfinished,))
            with _opened(unfinished, "copy") as copy:
                if _value(copy, "user_version") == VERSION:
                    copy.executescript(_REMOVE_GONE)  # a copy may be kept for long, so it has nothing deleted
            found = _examine(unfinished, "quick_check")
            os.fsync(file)
            _give_name(unfinished, target, force)
            _sync_directory(directory)
        finally:
            os.close(file)
            for rest in (unfinished, f"{unfinished}-journal"):
                with suppress(FileNotFoundError):
                    os.unlink(rest)
    except OSError as error:
        raise StoreError(f"cannot write {target}: {error.strerror}") from None
    return f"{target}: {found}, {os.path.getsize(target)} bytes"


def check(path: str) -> str:
    """Reads the whole database file; returns what it contains. Raises StoreError if it is damaged."""
    return f"{path}: whole, {_examine(path, 'integrity_check')}"


def prune(path: str, first: int, last: int, confirm: Callable[[str], bool]) -> str:
    """Deletes the sessions whose ids do not begin with two hex digits from `first` to `last`.

    Calls `confirm` first, with a sentence that says how many. No server may use the file. Raises StoreError.
    """
    with _opened(path, "read"):  # refuses an empty file, which Store would make into a database
        pass
    with closing(Store(path)) as store:
        outside = [name for name in store.session_ids() if not first <= int(name[:2], 16) <= last]
        of_all = f"{len(outside)} of {store.sessions} sessions are outside of {first:02x}-{last:02x}"
        if not outside or not confirm(of_all):
            return f"{of_all}; nothing was deleted"
        try:
            asyncio.run(_delete(store, outside))
        except ChatError as error:
            raise StoreError(error.message) from None
        return f"{path}: deleted {len(outside)} sessions, {store.sessions} are left"


async def _delete(store: Store, session_ids: list[str]) -> None:
    with _progress("deleted", len(session_ids)) as show:
        for number, session_id in enumerate(session_ids):
            await when_unlocked(partial(store.delete_session, session_id))
            while not await when_unlocked(store.remove_piece):
                pass
            show(number)


def _refuse_target(path: str, target: str, force: bool) -> None:
    if os.path.isdir(target) or not os.path.basename(target):
        raise StoreError(f"{target!r} is a directory, or names none of its files")
    if os.path.realpath(target) in _parts(path):  # also a -wal that does not exist now
        raise StoreError(f"{target} is the database itself, or a part of it")
    if os.path.lexists(target):
        if not os.path.isfile(target) and not os.path.islink(target):
            raise StoreError(f"{target} is not a regular file")
        if not force:
            raise StoreError(f"{target} exists; it is replaced only with --force")
    for rest in (f"{target}-wal", f"{target}-journal"):
        if os.path.exists(rest):  # SQLite would use it as the WAL or journal of the new file
            raise StoreError(f"{rest} exists: {target} is or was a database in use")


def _parts(path: str) -> list[str]:
    """Returns the file of a database and the files that may be beside it."""
    return [f"{os.path.realpath(path)}{end}" for end in ("", "-wal", "-shm", ".lock")]


def _uri(path: str) -> str:
    """Returns the URI for SQLite: immutable if it is not in use, and we may not write it or its directory.

    Raises StoreError if we lack permission for it or for its -wal or -shm.
    """
    file, *beside, _ = _parts(path)
    require_access(file, os.R_OK, path)
    in_use = [name for name in beside if os.path.exists(name)]
    for name in in_use:
        require_access(name, os.R_OK | os.W_OK, path)
    # If SQLite could write only the directory, it would leave a WAL there.
    may_write = [os.access(name, os.W_OK, effective_ids=True) for name in (file, os.path.dirname(file))]
    is_open = in_use or all(may_write)
    return f"{Path(file).as_uri()}?{'mode=rw' if is_open else 'mode=ro&immutable=1'}"


def _give_name(unfinished: str, target: str, force: bool) -> None:
    """Renames a finished copy. Without `force`, raises FileExistsError if `target` exists by now."""
    if not force:
        try:
            os.link(unfinished, target)
            return
        except OSError:  # it exists, or the file system has no links, like USB sticks and shares
            if os.path.lexists(target):
                raise
    os.replace(unfinished, target)


@contextmanager
def _opened(path: str, task: str) -> Iterator[sqlite3.Connection]:
    """Opens the database at `path`, which must exist and be ours; does not change it.

    The message of a StoreError says that the `task` (a verb) failed.
    """
    if not os.path.isfile(path):
        raise StoreError(f"there is no file {path}")
    try:
        with closing(sqlite3.connect(_uri(path), uri=True, isolation_level=None)) as connection:
            if _value(connection, "application_id") != APPLICATION:
                raise StoreError(f"{path} holds something else, not chat sessions")
            yield connection
    except UnicodeDecodeError:  # SQLite's message quotes damaged data
        raise StoreError(f"cannot {task} {path}: what it says of its tables is no text") from None
    except sqlite3.Error as error:
        raise StoreError(f"cannot {task} {path}: {' '.join(str(error).split())}") from None


def _examine(path: str, pragma: str) -> str:
    """Checks a database file; returns a description of what it contains."""
    with _opened(path, "read") as connection:
        connection.execute("PRAGMA cache_size=-262144")  # 256 MiB, so that most pages are read once
        version, turns = _value(connection, "user_version"), 0
        try:
            sessions, turns = _count(connection, "sessions"), _count(connection, "alive")
            found = f"version {version}, {sessions} sessions, {turns} turns"
        except sqlite3.OperationalError:
            if version == VERSION:
                raise
            found = f"version {version}, whose tables are not those of {VERSION}"
        with _progress("checked", turns * _STEPS_A_TURN / _STEPS) as show:
            steps = count()
            connection.set_progress_handler(lambda: show(next(steps)), _STEPS)
            faults = [row[0] for row in connection.execute(f"PRAGMA {pragma}(1)")]
            if faults != ["ok"]:
                raise StoreError(f"{path} is damaged: {' '.join(str(faults[0]).split())}")
            if orphan := connection.execute("PRAGMA foreign_key_check").fetchone():
                raise StoreError(f"{path} is damaged: a row of {orphan[0]} belongs to nothing")
        if os.path.getsize(path) % _value(connection, "page_size"):
            raise StoreError(f"{path} is damaged: its last page is cut")
        return found


def _count(connection: sqlite3.Connection, what: str) -> int:
    return int(connection.execute(f"SELECT count(*) FROM {what}").fetchone()[0])


def _value(connection: sqlite3.Connection, pragma: str) -> int:
    return int(connection.execute(f"PRAGMA {pragma}").fetchone()[0])


def _sync_directory(directory: str) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _progress(done: str, total: float) -> Iterator[Callable[[float], None]]:
    """Yields a function that shows the progress (a count of `total`), but only on a terminal."""
    began = shown = time.monotonic()

    def show(count: float) -> None:
        nonlocal shown
        now = time.monotonic()
        share = min(count / max(total, 1), 0.99)
        if sys.stderr.isatty() and now >= shown + 0.5 and share > 0.05:
            shown = now
            left = (now - began) * (1 / share - 1)
            print(f"\r{share:4.0%} {done}, {left:.0f} s left   ", end="", file=sys.stderr, flush=True)

    try:
        yield show
    finally:
        if shown > began:
            print(f"\r{'':<40}\r", end="", file=sys.stderr, flush=True)
