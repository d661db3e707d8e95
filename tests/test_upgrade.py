"""A database file of an earlier version becomes one of this version, and keeps all that it holds."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from chatbot import database
from chatbot.database import VERSION, StoreError
from chatbot.store import Message, Store
from chatbot.text import as_json

TRICKY = 'é😀 "quoted" \\ back\nline\x00nul\x1f\u2028 {"role":"user"'
USAGE = '{"total_tokens":7}'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file of version 1: two sessions that took turns, one with a prompt, and one that said nothing."""
    path = tmp_path / "chat.db"
    with closing(sqlite3.connect(path)) as db:
        db.executescript((Path(__file__).parent / "version_1.sql").read_text("utf-8"))
        db.executemany(
            "INSERT INTO sessions VALUES (?, ?, ?, ?)",
            [("a", 1, 5, '{"user":"u"}'), ("b", 2, 6, "{}"), ("c", 3, 7, "{}")],
        )
        say(db, "a", "prompt", "system", TRICKY, 1)
        for number, session in enumerate("abab"):
            say(db, session, f"q{number}", "user", f"{number}{TRICKY}", 10 + number)
            keyed = (f"key{number}", f"hash{number}") if session == "b" else (None, None)
            say(db, session, f"r{number}", "assistant", TRICKY[::-1], 20 + number, USAGE, "stop", *keyed)
        db.commit()
    return path


def say(db: sqlite3.Connection, session: str, *message: Any) -> None:
    """Adds a message; its fields are in the order of the columns but for the session."""
    row = [*message, *([None] * (8 - len(message)))]
    row.insert(1, session)
    db.execute("INSERT INTO messages VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)


def tables(path: str) -> dict[str, Any]:
    """What a file is made of: the columns of each table and view, and its indexes."""
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []
        assert db.execute("PRAGMA user_version").fetchone() == (VERSION,)
        names = db.execute("SELECT type, name FROM sqlite_master ORDER BY name").fetchall()
        return {
            name: (kind, db.execute(f"PRAGMA table_info({name})").fetchall() if kind != "index" else [])
            for kind, name in names
        }


def test_everything_is_found_again(path: Path) -> None:
    for _ in range(2):  # the second time it is of this version
        with closing(Store(str(path))) as store:
            assert store.sessions == 3
            assert store.session("a") == ("a", 1, 22, '{"user":"u"}')
            assert store.session("c") == ("c", 3, 7, "{}")
            page, more = store.page("a", 100, before=None, after=None)
            assert not more
            assert [(*message[:2], json.loads(message.content), *message[3:6]) for message in page] == [
                ("prompt", "system", TRICKY, 1, None, None),
                ("q0", "user", "0" + TRICKY, 10, None, None),
                ("r0", "assistant", TRICKY[::-1], 20, USAGE, "stop"),
                ("q2", "user", "2" + TRICKY, 12, None, None),
                ("r2", "assistant", TRICKY[::-1], 22, USAGE, "stop"),
            ]
            assert [store.message("a", message.message_id) for message in page] == page
            assert store.conversation("c", 9) == (7, None, "")
            found = store.conversation("b", 1)
            assert found
            assert json.loads(f"[{found[2]}]") == [
                {"role": "user", "content": "3" + TRICKY},
                {"role": "assistant", "content": TRICKY[::-1]},
            ]
            assert store.reply_by_key("b", "key3") == ("r3", "hash3")
            assert store.reply_by_key("a", "key3") is None


def test_it_goes_on_where_it_was(path: Path) -> None:
    with closing(Store(str(path))) as store:
        reply = Message("r4", "assistant", as_json("A"), 31, None, "stop")
        store.add_turn("a", Message("q4", "user", as_json("Q"), 30), reply)
        page, _ = store.page("a", 2, before=None, after=None)
        assert [message.message_id for message in page] == ["q4", "r4"]
        assert store.rewind("a", page[0]) == 2
        store.delete_session("b")
        assert store.count_messages("a") == 5


def test_what_it_took_to_get_there_is_given_back(path: Path) -> None:
    with closing(Store(str(path))) as store:
        assert Path(f"{path}-wal").stat().st_size == 0
        assert store.sessions == 3


def test_it_is_made_like_a_new_one(path: Path, tmp_path: Path) -> None:
    new = tmp_path / "new.db"
    for each in (path, new):
        Store(str(each)).close()
    assert tables(str(path)) == tables(str(new))


@pytest.mark.parametrize("place", range(6))
def test_one_that_fails_midway_leaves_the_file_as_it_was(
    path: Path, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    honest = database.load_statements

    def broken(text: str) -> dict[str, str]:
        statements = honest(text)
        steps = statements["upgrade_1"].split(";\n")
        steps.insert(place, "SELECT * FROM nowhere")
        return statements | {"upgrade_1": ";\n".join(steps)}

    with closing(sqlite3.connect(path)) as db:
        before = list(db.iterdump())
    with monkeypatch.context() as patch:
        patch.setattr(database, "load_statements", broken)
        with pytest.raises(StoreError, match="no such table: nowhere"):
            Store(str(path))
    with closing(sqlite3.connect(path)) as db:
        assert list(db.iterdump()) == before
        assert db.execute("PRAGMA user_version").fetchone() == (1,)
    test_everything_is_found_again(path)


@pytest.mark.parametrize(
    ("gone", "role"),
    [
        (["r2"], "a last question without a reply"),
        (["r0"], "a question without a reply before another"),
        (["q2"], "a last reply without a question"),
        (["q0"], "a first reply without a question"),
        (["prompt", "q0"], "a reply that begins its session"),
    ],
)
def test_a_message_that_no_turn_has_is_not_lost(path: Path, gone: list[str], role: str) -> None:
    """No program of then left such a file: it is refused as it is."""
    with closing(sqlite3.connect(path)) as db:
        db.executemany("DELETE FROM messages WHERE message_id = ?", [(message,) for message in gone])
        db.commit()
        before = list(db.iterdump())
    with pytest.raises(StoreError, match="NOT NULL constraint failed: turns"):
        Store(str(path))
    with closing(sqlite3.connect(path)) as db:
        assert list(db.iterdump()) == before, role
