"""A database file: one server, any number of readers, and the event loop waits for none of them."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from unittest.mock import Mock

import pytest

from chatbot.errors import ChatError
from chatbot.storage import checkpoint, database
from chatbot.storage.database import APPLICATION, VERSION, Locked, when_unlocked
from chatbot.storage.lock import StoreError
from chatbot.storage.store import Store
from tests.storage.tools import a_chain, a_session, a_turn, count, run, running
from tests.tools.server import Log

NOBODY = 65534


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "chat.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    store = Store(str(path))
    yield store
    store.close()


def test_a_file_keeps_what_was_stored_and_only_its_owner_reads_it(path: Path) -> None:
    old = os.umask(0)
    try:
        with closing(Store(str(path))) as store:
            here = a_session(store)
            chain = a_chain(store, here, 2)
            key = store.affinity_key
            modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
            assert modes == dict.fromkeys(["chat.db", "chat.db-wal", "chat.db-shm", "chat.db.lock"], 0o600)
    finally:
        os.umask(old)
    assert {file.name for file in path.parent.iterdir()} == {"chat.db", "chat.db.lock"}
    with closing(Store(str(path), sync="full")) as store:
        assert (store.sessions, store.path(chain[1]), store.affinity_key) == (1, chain, key)
        assert (len(key), store._db.value("PRAGMA synchronous")) == (32, 2)
        assert store._db.value("PRAGMA journal_mode") == "wal"
        assert store._db.value("PRAGMA locking_mode") == "normal"


def test_a_second_server_is_refused_whatever_it_calls_the_file(path: Path, store: Store) -> None:
    link = path.with_name("link.db")
    link.symlink_to(path)
    for name in (path, link):
        second = run("import sys; from chatbot.storage.store import Store; Store(sys.argv[1])", str(name))
        assert f"StoreError: {name} is in use by another server (process {os.getpid()})" in second.stderr
    a_session(store)
    store.close()
    Store(str(path)).close()


def test_a_name_that_sqlite_takes_for_a_uri_is_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with closing(Store("file:chat.db")) as store:
        a_session(store)
    assert {file.name for file in tmp_path.iterdir()} == {"file:chat.db", "file:chat.db.lock"}
    with closing(Store("file:chat.db")) as store:
        assert store.sessions == 1


def test_what_was_stored_survives_a_kill_and_so_does_the_way_in(path: Path) -> None:
    script = """
import os, signal, sys
from tests.storage.tools import *
store = Store(sys.argv[1]); a_chain(store, a_session(store), 3)
os.kill(os.getpid(), signal.SIGKILL)
"""
    died = run(script, str(path))
    assert died.returncode == -9, died.stderr
    with closing(Store(str(path))) as store:
        assert (store.sessions, count(store, "turns")) == (1, 3)


def test_others_read_while_it_serves(path: Path, store: Store) -> None:
    here = a_session(store)
    parent = None
    with closing(sqlite3.connect(path)) as reader:
        for number in range(1, 50):
            parent = store.add_turn(a_turn(here, parent))
            assert reader.execute("SELECT count(*) FROM messages").fetchone() == (2 * number,)


def test_a_path_that_is_read_in_part_keeps_no_read_open(path: Path, store: Store) -> None:
    here = a_session(store)
    chain = a_chain(store, here, 3)
    assert next(iter(store.path_up(chain[-1]))).seq == chain[-1]
    with closing(sqlite3.connect(path, timeout=0)) as other:
        assert other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0, "somebody reads"


# What keeps a server out


def test_a_file_system_without_locks_is_refused_in_these_words(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(file: int, operation: int) -> None:
        raise OSError(95, os.strerror(95))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(StoreError, match=r"has no locks \(Operation not supported\)"):
        Store(str(path))


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")
@pytest.mark.parametrize(
    ("name", "mode", "said"),
    [
        ("chat.db", 0o444, "write"),
        ("chat.db", 0o200, "write"),
        ("chat.db.lock", 0o600, "write"),
        (".", 0o755, "write"),
    ],
)
def test_a_missing_permission_is_named_and_whose_it_is(path: Path, name: str, mode: int, said: str) -> None:
    Store(str(path)).close()
    for parent in path.parents[:3]:
        parent.chmod(0o755)
    path.parent.chmod(0o777)
    path.chmod(0o666)
    path.with_name("chat.db.lock").chmod(0o666)
    file = path.parent / name
    file.chmod(mode)
    script = f"""
import os, sys
from chatbot.storage.lock import FileLock  # what a Store does first; other files may be closed
os.setuid({NOBODY})
FileLock(sys.argv[1])
"""
    refused = run(script, str(path))
    assert refused.stderr.splitlines()[-1].startswith(
        f"chatbot.storage.lock.StoreError: cannot use {path}: user {NOBODY} may not {said} {file.resolve()},"
        " which belongs to user 0 ("
    )


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (".", "cannot open .: /.* is a directory"),
        ("nowhere/chat.db", "cannot open nowhere/chat.db: there is no directory "),
        ("/dev/null", "cannot open /dev/null: /dev/null is not a regular file"),
        ("pipe", "cannot open pipe: /.*/pipe is not a regular file"),
        ("loop", "cannot use loop: .*: Too many levels of symbolic links"),
        ("n" * 252, f"cannot use {'n' * 252}: .*: File name too long"),
        ("other", "cannot open other: .*other.lock is a directory"),
    ],
)
def test_a_path_that_cannot_be_opened_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    os.symlink("loop", "loop")
    os.mkdir("other.lock")
    with pytest.raises(StoreError, match=f"^{said}"):
        Store(name)


def test_a_lock_into_which_nothing_can_be_written_is_a_lock(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "pwrite", Mock(side_effect=OSError(28, os.strerror(28))))
    with closing(Store(str(path))), pytest.raises(StoreError, match=r"in use by another server$"):
        Store(str(path))


@pytest.mark.parametrize("beside", ["", ".lock", "-wal", "-shm"])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_refused_by_name(path: Path, beside: str, make: Callable[[str], None]) -> None:
    make(f"{path}{beside}")
    with pytest.raises(StoreError, match=r"is not a regular file|[iI]s a directory"):
        Store(str(path))


def test_a_file_that_another_program_keeps_for_itself_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Store(str(path)).close()
    monkeypatch.setattr(database, "LOCKED_SECONDS", 0.05)
    script = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None);"
    script += "c.execute('PRAGMA locking_mode=EXCLUSIVE'); c.execute('BEGIN EXCLUSIVE'); print(flush=True);"
    script += "sys.stdin.read()"
    with running(script, str(path)), pytest.raises(StoreError, match="locked by another program"):
        Store(str(path))


@pytest.mark.parametrize(
    ("statements", "said"),
    [
        (["CREATE TABLE notes (text)"], "holds something else"),
        (["CREATE TABLE notes (text)", f"PRAGMA user_version={VERSION}"], "holds something else"),
        (["PRAGMA application_id=7"], "holds something else"),
        ([f"PRAGMA user_version={VERSION}"], "holds something else"),
        (["CREATE TABLE notes (text)", "PRAGMA journal_mode=WAL"], "holds something else"),
        (
            [f"PRAGMA application_id={APPLICATION}", "PRAGMA user_version=2"],
            "of version 2, .* knows version 1",
        ),
    ],
)
def test_a_foreign_file_is_refused_and_left_as_it_is(path: Path, statements: list[str], said: str) -> None:
    with closing(sqlite3.connect(path)) as other:
        for statement in statements:
            other.execute(statement)
        other.commit()
    before = path.read_bytes()
    with pytest.raises(StoreError, match=said):
        Store(str(path))
    assert path.read_bytes() == before


def test_a_file_that_is_no_database_is_refused_and_left_as_it_is(path: Path) -> None:
    path.write_text("Dear diary, " * 100)
    for _ in range(2):  # the first left no lock behind
        with pytest.raises(StoreError, match="not a database"):
            Store(str(path))
    assert path.read_text() == "Dear diary, " * 100


# Locked by another process


LOCKS = """
import sqlite3, sys
other = sqlite3.connect(sys.argv[1], isolation_level=None)
other.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.readline()
"""


async def test_another_process_that_locks_the_file_makes_nobody_wait(path: Path, store: Store) -> None:
    here = a_session(store)
    turn = a_turn(here)
    with running(LOCKS, str(path)) as other:
        for write in (
            lambda: store.add_turn(turn),
            lambda: store.set_metadata(here, '{"a":1}'),
            lambda: store.delete_session(here),
            lambda: a_session(store),
            lambda: store.clean(0, 0, 10, ()),
        ):
            with pytest.raises(Locked):
                write()
        # SQLite's own way to wait is off: it would keep the event loop waiting.
        assert store._db.connection.execute("PRAGMA busy_timeout").fetchone() == (0,)
        store.touch(here, 77)
        assert (store.sessions, store._db.connection.in_transaction) == (1, False)
        assert (store.session(here), store.turn(1)) == ((here, 0, 77, "{}", None), None)
        storing = asyncio.create_task(when_unlocked(lambda: store.add_turn(turn)))
        await asyncio.sleep(0.02)
        assert not storing.done()
        other.kill()
        assert store.turn(await storing) is not None
    store.clean(0, -1, 10, ())
    assert store._db.execute("SELECT last_accessed FROM sessions").fetchall() == [(77,)]


async def test_a_file_that_stays_locked_is_told_as_overload(
    monkeypatch: pytest.MonkeyPatch, log: Log
) -> None:
    monkeypatch.setattr(database, "LOCKED_SECONDS", 0.05)

    def write() -> None:
        raise Locked

    with pytest.raises(ChatError) as caught:
        await when_unlocked(write)
    assert (caught.value.code, caught.value.retry_after) == ("overloaded", "5")
    assert log.lines(holding="another program has kept the database locked")


# The WAL


def until(condition: object) -> None:
    """Waits for what a thread does."""
    assert callable(condition)
    while not condition():
        time.sleep(0.005)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints are made often, and a WAL is soon large."""
    monkeypatch.setattr(checkpoint, "INTERVAL", 0.01)
    monkeypatch.setattr(checkpoint, "LARGE", 500_000)
    monkeypatch.setattr(checkpoint, "WARN", 1_000_000)


@pytest.mark.usefixtures("quick")
def test_the_wal_is_cut_short_under_load_and_none_of_it_is_lost(path: Path) -> None:
    with closing(Store(str(path))) as store:
        here, largest = a_session(store), 0
        chain: list[int] = []
        while (size := store.wal_bytes) >= largest:  # until it is cut, while turns are stored without a pause
            chain += a_chain(store, here, 1, chain[-1] if chain else None, reply="x" * 2000)
            largest = size
        assert largest > 500_000
        assert store.path(chain[-1]) == chain
        with closing(sqlite3.connect(path)) as reader:
            assert reader.execute("PRAGMA quick_check").fetchall() == [("ok",)]


def test_each_long_reader_is_warned_of_once_and_the_wal_is_cut_after_it(
    path: Path, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "INTERVAL", 60.0)
    monkeypatch.setattr(checkpoint, "WARN", 1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(2**23, 0, 2**23))
    with closing(Store(str(path))) as store, closing(sqlite3.connect(path)) as reader:
        assert store._checkpoints
        fold, here = store._checkpoints._fold, a_session(store)
        for readers in (1, 2):
            reader.execute("BEGIN")
            seen = reader.execute("SELECT count(*) FROM turns").fetchone()
            while store.wal_bytes < 1_500_000:
                a_chain(store, here, 1, reply="x" * 50_000)
            for _ in range(3):
                fold()
            assert len(log.lines(holding="another process is reading for long")) == readers
            assert reader.execute("SELECT count(*) FROM turns").fetchone() == seen
            reader.rollback()
            fold()
            assert store.wal_bytes == 0
            fold()


@pytest.mark.usefixtures("quick")
def test_a_wal_that_cannot_be_folded_back_is_said_once(
    path: Path, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = sqlite3.OperationalError("database or disk is full")
    folds = Mock(side_effect=[full, full, full, None, full, full, *[None] * 10_000])
    monkeypatch.setattr(checkpoint.Checkpoints, "_fold", folds)
    with closing(Store(str(path))):
        until(lambda: folds.call_count >= 7)
    assert len(log.lines(holding="the WAL could not be folded back: database or disk is full")) == 2


def test_in_memory_there_is_no_lock_no_thread_and_no_file(tmp_path: Path) -> None:
    threads = threading.active_count()
    with closing(Store()) as store:
        a_chain(store, a_session(store), 2)
        assert (threading.active_count(), store.wal_bytes, list(tmp_path.iterdir())) == (threads, 0, [])


def test_a_disk_that_fails_at_the_start_is_told_in_sqlites_words(tmp_path: Path) -> None:
    code = """
import resource, signal, sys
from chatbot.storage.database import Database
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
Database(sys.argv[1])
"""
    said = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "chat.db"], capture_output=True, text=True, check=False
    )
    assert said.stderr.endswith("chat.db: disk I/O error\n"), said.stderr
