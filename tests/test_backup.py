"""A copy is whole or not there, of one moment, under any load; a file can be checked, and divided."""

from __future__ import annotations

import errno
import os
import re
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from chatbot.records import as_json
from chatbot.storage import backup as backups
from chatbot.storage.backup import backup, check, prune
from chatbot.storage.lock import StoreError
from chatbot.storage.store import Store
from tests.storage.test_files import NOBODY
from tests.storage.tools import ROOT, a_chain, a_session, a_turn, count, run, running, turn_at


def test_a_copy_has_nothing_that_was_deleted(
    store: Store, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatbot.storage.tree.PIECE_SECONDS", 0.0)  # the rows are to be removed later
    here, there = a_session(store), a_session(store)
    kept, hushed = a_turn(here, reply="kept " * 1000), "hushed " * 1000
    first = store.add_turn(kept)
    store.rewind(here, turn_at(store, store.add_turn(a_turn(here, first, reply=hushed))))
    store.add_turn(a_turn(there, reply=hushed))
    store.add_background("resp_1", there, 0, as_json({"user": hushed}))
    store.delete_session(there)
    assert b"hushed" in path.read_bytes() + Path(f"{path}-wal").read_bytes()
    copy = tmp_path / "copy.db"
    assert f"{copy}: version 1, 1 sessions, 1 turns" in backup(str(path), str(copy))
    assert b"kept" in copy.read_bytes()
    assert b"hushed" not in copy.read_bytes()
    with closing(Store(str(copy))) as copied:
        rows = [count(copied, table) for table in ("turns", "gone", "gone_sessions", "background")]
        assert rows == [1, 0, 0, 0]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "chat.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    store = Store(str(path))
    yield store
    store.close()


WRITES = """
import sys
from tests.storage.tools import *
store = Store(sys.argv[1])
sessions = {a_session(store): [None] for _ in range(20)}
for number in range(10**6):
    here = list(sessions)[number % 20]
    turn = a_turn(here, sessions[here][-1], reply=f"{number} " * 100)
    sessions[here].append(unlocked(lambda: store.add_turn(turn)))
    print(number, turn.turn_id, flush=True)
    if number % 50 == 49:
        last = sessions[here].pop()
        unlocked(lambda: store.rewind(here, turn_at(store, last)))
"""


def rows(path: Path, until: int) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT * FROM turns WHERE seq <= ?", (until,)).fetchall()


def test_a_copy_under_load_is_the_database_of_one_moment(path: Path, tmp_path: Path) -> None:
    with running(WRITES, str(path)) as writer:
        assert writer.stdout
        for number in range(5):
            target = tmp_path / f"copy{number}"
            acknowledged = [writer.stdout.readline().split()[1] for _ in range(300)][:-50]  # none was rewound
            said = backup(str(path), str(target))
            assert "version 1, 20 sessions, " in said
            with closing(Store(str(target))) as copy:
                newest = copy._db.value("SELECT max(seq) FROM turns")
                kept = {row[0] for row in copy._db.execute("SELECT turn_id FROM turns")}
                orphans = "SELECT count(*) FROM turns WHERE parent NOT IN (SELECT seq FROM turns)"
                assert copy._db.value(orphans) == 0
            rewound = [turn_id for turn_id in acknowledged if turn_id not in kept]
            assert len(rewound) <= len(acknowledged) // 50 + 1
            assert set(rows(path, newest)) <= set(rows(target, newest))


def test_a_copy_is_compact_private_and_leaves_nothing_else(
    path: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = a_session(store)
    chain = a_chain(store, here, 20, reply="x" * 100_000)
    store.rewind(here, turn_at(store, chain[1]))
    while not store.remove_piece():  # on a slow machine not all of it went at once
        pass
    target = tmp_path / "copy"
    synced: list[bool] = []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(stat.S_ISDIR(os.fstat(file).st_mode)))
    old = os.umask(0)
    try:
        said = backup(str(path), str(target))
    finally:
        os.umask(old)
    assert said == f"{target}: version 1, 1 sessions, 1 turns, {target.stat().st_size} bytes"
    assert synced == [False, True], "the copy, then its name"
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert target.stat().st_size < 400_000
    names = {"copy", "chat.db", "chat.db.lock", "chat.db-wal", "chat.db-shm"}
    assert {file.name for file in tmp_path.iterdir()} == names


def test_an_existing_file_is_replaced_only_if_asked_for(path: Path, store: Store, tmp_path: Path) -> None:
    target = tmp_path / "copy"
    target.write_text("precious")
    with pytest.raises(StoreError, match="copy exists; it is replaced only with --force"):
        backup(str(path), str(target))
    assert target.read_text() == "precious"
    backup(str(path), str(target), force=True)
    assert "0 sessions" in check(str(target))
    os.mkfifo(tmp_path / "pipe")
    for name, said in (
        ("chat.db", "is the database itself"),
        ("chat.db-wal", "or a part of it"),
        ("chat.db.lock", "or a part of it"),
        ("pipe", "pipe is not a regular file"),
        ("copy", "was a database in use"),
    ):
        (tmp_path / "copy-wal").touch()
        with pytest.raises(StoreError, match=said):
            backup(str(path), str(tmp_path / name), force=True)
    with pytest.raises(StoreError, match="No such file or directory"):
        backup(str(path), str(tmp_path / "nowhere" / "copy"))


def test_what_a_resting_database_will_need_is_no_target_either(path: Path, store: Store) -> None:
    store.close()
    with pytest.raises(StoreError, match="or a part of it"):
        backup(str(path), f"{path}-wal")
    assert not Path(f"{path}-wal").exists()


def test_a_file_that_came_meanwhile_is_not_replaced(
    path: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "copy"
    monkeypatch.setattr(backups, "_refuse_target", lambda *_: target.write_text("precious"))
    with pytest.raises(StoreError, match="File exists"):
        backup(str(path), str(target))
    assert target.read_text() == "precious"


COPIES = """
import os, signal, sys
from contextlib import nullcontext
from chatbot.__main__ import main
from chatbot.storage import backup
backup._STEPS = 10
def show(count):
    if count > 500_000: print("half", flush=True); sys.stdin.readline()
backup._progress = lambda *_: nullcontext(show)
os.environ["DATABASE_URL"] = "sqlite:///" + sys.argv[1]
signal.signal(signal.SIGINT, signal.default_int_handler)  # in a script's background it is ignored
sys.exit(main(["--backup", sys.argv[2]]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_copy_that_is_stopped_in_the_middle_leaves_nothing_that_could_be_taken_for_one(
    number: signal.Signals, path: Path, store: Store, tmp_path: Path
) -> None:
    a_chain(store, a_session(store), 50, reply="x" * 100_000)
    target = tmp_path / "copy"
    with running(COPIES, str(path), str(target)) as copying:
        copying.send_signal(number)
        assert copying.wait() == (-number if number == signal.SIGKILL else 2)
    assert not target.exists()
    assert number == signal.SIGKILL or not list(tmp_path.glob("*copy*"))
    backup(str(path), str(target))
    assert "50 turns" in check(str(target))


def test_a_copy_needs_no_links_of_the_file_system(
    path: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: str, target: str) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    backup(str(path), str(tmp_path / "copy"))
    monkeypatch.setattr(backups, "_STEPS", 1)
    assert "0 sessions" in check(str(tmp_path / "copy"))
    assert not list(tmp_path.glob("*unfinished*"))


@pytest.mark.parametrize("name", ["folder", "new/", ""])
def test_a_folder_is_no_target_for_a_copy(path: Path, store: Store, tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    target = f"{tmp_path}/{name}" if name else ""
    with pytest.raises(StoreError, match="is a directory, or names none of its files"):
        backup(str(path), target, force=True)


def test_a_resting_database_is_copied_also_after_a_kill(path: Path, tmp_path: Path) -> None:
    with running(WRITES, str(path)) as writer:
        assert writer.stdout
        for _ in range(200):
            writer.stdout.readline()
    backup(str(path), str(tmp_path / "copy"))
    with closing(Store(str(tmp_path / "copy"))) as copy, closing(Store(str(path))) as store:
        assert count(copy, "turns") == count(store, "turns") >= 190


def test_a_copy_that_fails_its_check_is_thrown_away(
    path: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(path: str, pragma: str) -> str:
        raise StoreError("it is damaged")

    monkeypatch.setattr(backups, "_examine", damaged)
    with pytest.raises(StoreError, match="damaged"):
        backup(str(path), str(tmp_path / "copy"))
    assert not list(tmp_path.glob("*copy*"))


def test_a_copy_for_which_there_is_no_room_is_told(path: Path, store: Store, tmp_path: Path) -> None:
    a_chain(store, a_session(store), 20, reply="x" * 100_000)
    script = """
import resource, signal, sys
from chatbot.storage.backup import backup
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))
backup(sys.argv[1], sys.argv[2])
"""
    failed = run(script, str(path), str(tmp_path / "copy"))
    assert f"StoreError: cannot copy {path}: " in failed.stderr
    assert not list(tmp_path.glob("*copy*"))


# Check


def test_a_damaged_file_is_told(path: Path) -> None:
    with closing(Store(str(path))) as store:
        a_chain(store, a_session(store), 2000)
    assert check(str(path)) == f"{path}: whole, version 1, 1 sessions, 2000 turns"
    data = bytearray(path.read_bytes())
    for page in range(60, 80):
        data[page * 4096 : page * 4096 + 2000] = b"\x07" * 2000
    path.write_bytes(data)
    with pytest.raises(StoreError, match=r"damaged|malformed"):
        check(str(path))


def test_a_file_that_lacks_its_last_byte_is_told(path: Path) -> None:
    with closing(Store(str(path))) as store:
        a_chain(store, a_session(store), 20)
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(StoreError, match="damaged: its last page is cut"):
        check(str(path))


def test_whatever_bit_is_wrong_is_told_in_one_line(path: Path) -> None:
    Store(str(path)).close()
    whole = path.read_bytes()
    for place in range(0, 4096, 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x80]) + whole[place + 1 :])
        try:
            said = check(str(path))
        except StoreError as error:
            said = str(error)
        assert len(said.splitlines()) == 1, place


def test_a_file_of_another_version_is_told_as_that(path: Path) -> None:
    Store(str(path)).close()
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("ALTER TABLE sessions RENAME TO pages; PRAGMA user_version=2")
    assert check(str(path)) == f"{path}: whole, version 2, whose tables are not those of 1"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version=1")
    with pytest.raises(StoreError, match="no such table: sessions"):
        check(str(path))


def test_a_row_that_belongs_to_nothing_is_damage(path: Path) -> None:
    with closing(Store(str(path))) as store:
        store._db.execute("PRAGMA foreign_keys=OFF")
        store._db.run("set_prompt", ("nobody", "p", 0, "x"))
    with pytest.raises(StoreError, match="a row of prompts belongs to nothing"):
        check(str(path))


def test_what_is_no_database_of_ours_is_told(tmp_path: Path) -> None:
    text, other = tmp_path / "a?b#c%20.txt", tmp_path / "other.db"
    text.write_text("Dear diary, " * 100)
    with closing(sqlite3.connect(other)) as connection:
        connection.execute("CREATE TABLE notes (text)")
    for file, said in ((text, "not a database"), (other, "something else"), (tmp_path / "no", "no file")):
        for command in (lambda file=file: check(str(file)), lambda file=file: backup(str(file), "copy")):
            with pytest.raises(StoreError, match=said):
                command()
    assert not (tmp_path / "no").exists()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")
def test_a_file_is_read_where_nothing_can_be_made_beside_it(path: Path, tmp_path: Path) -> None:
    for parent in path.parents[:3]:
        parent.chmod(0o755)
    script = f"""
import os, sys, urllib.parse  # which newer Pythons import only when it is needed
from chatbot.storage.backup import backup, check
os.setuid({NOBODY})
print(check(sys.argv[1]))
"""
    with closing(Store(str(path))) as store:
        a_session(store)
        assert f"user {NOBODY} may not read" in run(script, str(path)).stderr.splitlines()[-1]
        path.chmod(0o644)
        refused = run(script, str(path)).stderr.splitlines()[-1]
        assert f"user {NOBODY} may not write {path.resolve()}-wal, which belongs to user 0" in refused
    assert "whole, version 1, 1 sessions" in run(script, str(path)).stdout
    path.parent.chmod(0o777)
    assert "whole, version 1, 1 sessions" in run(script, str(path)).stdout
    assert {file.name for file in path.parent.iterdir()} == {"chat.db", "chat.db.lock"}, "nothing is left"


# Prune


def test_a_file_is_divided_by_the_first_digits_of_its_ids(path: Path) -> None:
    with closing(Store(str(path))) as store:
        for number in range(256):
            session_id = f"{number:02x}000000-0000-4000-8000-000000000000"
            store.add_session(session_id, 0, "{}")
            a_chain(store, session_id, 2)
    asked: list[str] = []
    said = prune(str(path), 0x10, 0x7F, lambda question: bool(asked.append(question)))
    assert asked == ["144 of 256 sessions are outside of 10-7f"]
    assert said == "144 of 256 sessions are outside of 10-7f; nothing was deleted"
    said = prune(str(path), 0x10, 0x7F, lambda question: True)
    assert said == f"{path}: deleted 144 sessions, 112 are left"
    with closing(Store(str(path))) as store:
        assert (count(store, "sessions"), count(store, "turns")) == (112, 224)
        assert [min(store.session_ids())[:2], max(store.session_ids())[:2]] == ["10", "7f"]
        with pytest.raises(StoreError, match="in use by another server"):
            prune(str(path), 0, 0, lambda question: True)
    assert "nothing was deleted" in prune(str(path), 0x10, 0x7F, lambda question: True)
    with pytest.raises(StoreError, match="there is no file"):
        prune(str(path.with_name("no")), 0, 1, lambda question: True)
    path.with_name("empty").touch()
    with pytest.raises(StoreError, match="holds something else"):
        prune(str(path.with_name("empty")), 0, 1, lambda question: True)
    assert path.with_name("empty").stat().st_size == 0
    assert not path.with_name("no").exists()


# Progress


def test_progress_is_shown_on_a_terminal_and_nowhere_else(path: Path, tmp_path: Path) -> None:
    with closing(Store(str(path))) as store:
        a_chain(store, a_session(store), 30, reply="x" * 100_000)
    script = """
import sys, time
from chatbot.storage import backup
times = iter(range(10**9))
time.monotonic = lambda: next(times)
backup._STEPS = 10
print(backup.backup(sys.argv[1], sys.argv[2]))
print(backup.check(sys.argv[2]))
"""
    for is_terminal in (False, True):
        ours, theirs = os.openpty() if is_terminal else os.pipe()
        command = [sys.executable, "-c", script, str(path), str(tmp_path / f"copy{is_terminal}")]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=theirs, text=True, check=True)
        os.write(theirs, b".")
        shown = ""
        while not shown.endswith("."):
            shown += os.read(ours, 1000).decode()
        os.close(ours)
        os.close(theirs)
        assert len(done.stdout.splitlines()) == 2
        assert ("% copied, " in shown) == is_terminal
        assert shown.endswith("\r.") == is_terminal, "what is printed next begins a line"
        shares = [int(share) for share in re.findall(r"(\d+)% checked, ", shown)]
        assert (min(shares) < 50 < max(shares)) if is_terminal else not shares
