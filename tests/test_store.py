"""The database: constraints in SQL, no file but our own, and "full" is said, not suffered."""

from __future__ import annotations

import json
import random
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatbot import database
from chatbot.database import APPLICATION, VERSION, StoreError, load_statements
from chatbot.errors import ChatError
from chatbot.store import PAGE_CHARS, Message, Store
from chatbot.text import as_json

CHECKOUT = Path(database.__file__).parents[1]


@pytest.fixture
def store() -> Iterator[Store]:
    store = Store()
    yield store
    store.close()


def session(store: Store, now: int = 0) -> str:
    session_id = str(uuid4())
    store.add_session(session_id, now, "{}", None)
    return session_id


def turn(
    store: Store, session_id: str, question: str = "Q", reply: str = "A", now: int = 0
) -> tuple[str, str]:
    ids = str(uuid4()), str(uuid4())
    store.add_turn(
        session_id,
        Message(ids[0], "user", as_json(question), now),
        Message(ids[1], "assistant", as_json(reply), now, None, "stop"),
    )
    return ids


def count(store: Store, table: str) -> int:
    return store._db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]


# The schema


ROW = {
    "session_id": "s",
    "question_id": "q",
    "asked_at": 1,
    "question": '"x"',
    "reply_id": "r",
    "replied_at": 1,
    "reply": '"x"',
    "finish_reason": "stop",
    "token_usage": None,
    "idempotency_key": None,
    "request_hash": None,
}


def insert(store: Store, row: dict[str, Any]) -> None:
    columns = ", ".join(row)
    places = ", ".join(f":{name}" for name in row)
    store._db.execute(f"INSERT INTO turns ({columns}) VALUES ({places})", row)


@pytest.mark.parametrize(
    "row",
    [
        ROW | {"session_id": "nobody"},
        ROW | {"question_id": None},
        ROW | {"reply_id": None},
        ROW | {"question": None},
        ROW | {"reply": None},
        ROW | {"reply": b"\xff"},
        ROW | {"asked_at": "now"},
        ROW | {"replied_at": None},
        ROW | {"finish_reason": None},
        ROW | {"token_usage": "[1]"},
        ROW | {"token_usage": "{"},
        ROW | {"idempotency_key": "k"},
        ROW | {"request_hash": "h"},
    ],
    ids=repr,
)
def test_the_schema_refuses_a_turn_that_cannot_be(store: Store, row: dict[str, Any]) -> None:
    store.add_session("s", 0, "{}", None)
    with pytest.raises((sqlite3.IntegrityError, sqlite3.OperationalError)):
        insert(store, row)
    assert count(store, "messages") == 0


def test_the_schema_refuses_the_same_id_or_key_twice(store: Store) -> None:
    store.add_session("s", 0, "{}", None)
    store.add_session("t", 0, "{}", None)
    keyed = ROW | {"idempotency_key": "k", "request_hash": "h"}
    insert(store, keyed)
    # another session's key is another
    insert(store, keyed | {"question_id": "q2", "reply_id": "r2", "session_id": "t"})
    for again in (
        ROW | {"reply_id": "r3"},
        ROW | {"question_id": "q3"},
        keyed | {"question_id": "q3", "reply_id": "r3"},
    ):
        with pytest.raises(sqlite3.IntegrityError):
            insert(store, again)
    with pytest.raises(sqlite3.IntegrityError):
        store.add_session("s", 0, "{}", None)
    assert (store.sessions, count(store, "sessions")) == (2, 2)


@pytest.mark.parametrize("metadata", ["[]", "1", "{", "null"])
def test_the_schema_refuses_metadata_that_is_no_object(store: Store, metadata: str) -> None:
    with pytest.raises((sqlite3.IntegrityError, sqlite3.OperationalError)):
        store.add_session("s", 0, metadata, None)
    assert (store.sessions, count(store, "sessions")) == (0, 0)


def test_a_deleted_session_takes_its_messages_along_and_no_others(store: Store) -> None:
    gone, stays = session(store), session(store)
    turn(store, gone)
    turn(store, stays)
    store.delete_session(gone)
    assert (store.sessions, store.count_messages(gone), store.count_messages(stays)) == (1, 0, 2)
    store.delete_session(gone)
    assert store.sessions == 1, "a session can be deleted once"


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("turns_until", "turns_by_session (session_id=? AND seq<?)"),
        ("turns_from", "turns_by_session (session_id=? AND seq>?)"),
        ("conversation", "turns_by_session (session_id=? AND seq>?)"),
        ("count_messages", "COVERING INDEX turns_by_session (session_id=?)"),  # and reads no text
        ("get_message", "(question_id=?)"),
        ("get_message", "(reply_id=?)"),
        ("get_prompt", "(session_id=?)"),
        ("rewind", "turns_by_session (session_id=? AND seq>?)"),
        ("reply_by_key", "turns_by_key"),
        ("unmarked_sessions", "sessions_by_access"),
    ],
)
def test_no_statement_reads_a_whole_table(store: Store, name: str, index: str) -> None:
    sql = store._sql[name]
    plan = store._db.execute(f"EXPLAIN QUERY PLAN {sql}", database._nothing_for(sql)).fetchall()
    steps = "; ".join(row[3] for row in plan)
    assert index in steps, steps
    assert "SCAN turns" not in steps, steps
    assert "SCAN sessions" not in steps, steps
    assert "TEMP B-TREE" not in steps, steps


def test_every_statement_has_a_name_and_a_line_on_what_it_is_for() -> None:
    text = (CHECKOUT / "chatbot" / "schema.sql").read_text("utf-8")
    statements = load_statements(text)
    assert statements.pop("schema").startswith("CREATE TABLE")
    assert len(statements) > 10
    for name, sql in statements.items():
        assert sql.startswith("-- "), name


def test_a_typo_in_any_statement_is_found_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = database.load_statements

    def mistyped(text: str) -> dict[str, str]:
        return honest(text) | {"rewind": "DELETE FROM turms WHERE seq >= :seq"}

    monkeypatch.setattr(database, "load_statements", mistyped)
    with pytest.raises(StoreError, match="no such table: turms"):
        Store()


# A turn is whole or absent


def test_a_turn_is_stored_whole_or_not_at_all(store: Store) -> None:
    here = session(store)
    _, reply = turn(store, here)
    with pytest.raises(sqlite3.IntegrityError):
        store.add_turn(
            here, Message("q2", "user", '"Q"', 0), Message(reply, "assistant", '"A"', 0, None, "stop")
        )
    assert store.count_messages(here) == 2
    turn(store, here)
    assert store.count_messages(here) == 4, "and the next one is stored"


def test_a_turn_that_cannot_be_committed_leaves_nothing(store: Store) -> None:
    with pytest.raises(sqlite3.IntegrityError):
        turn(store, "nobody")
    assert not store._db.in_transaction
    assert count(store, "messages") == 0


def test_a_rewound_reply_takes_its_question_along(store: Store) -> None:
    here, other = session(store), session(store)
    turn(store, here)
    turn(store, other)
    _, reply = turn(store, here)
    turn(store, here)
    message = store.message(here, reply)
    assert message
    assert store.rewind(here, message) == 4
    assert (store.count_messages(here), store.count_messages(other)) == (2, 2)


def test_a_rewound_question_takes_all_after_it_along(store: Store) -> None:
    here = session(store)
    turn(store, here)
    question, _ = turn(store, here)
    turn(store, here)
    message = store.message(here, question)
    assert message
    assert store.rewind(here, message) == 4
    assert store.count_messages(here) == 2


# Prompts


def test_a_session_is_marked_without_its_prompt_being_written_again(tmp_path: Path) -> None:
    with closing(Store(str(tmp_path / "chat.db"))) as store:
        prompt = Message("p", "system", as_json("x" * 900_000), 0)
        store.add_session("s", 0, "{}", prompt)
        for mark in (lambda: store.touch("s", 9), lambda: store.set_metadata("s", '{"a":1}')):
            store._value("PRAGMA wal_checkpoint(TRUNCATE)")
            mark()
            _, written, _ = store._db.execute("PRAGMA wal_checkpoint").fetchone()
            assert 0 < written < 10, f"{written} pages"
        assert store.conversation("s", 1) == (9, prompt.content, "")


@pytest.mark.parametrize("prompt", [{"message_id": None}, {"content": None}, {"session_id": "nobody"}])
def test_a_prompt_that_cannot_be_is_refused(store: Store, prompt: dict[str, Any]) -> None:
    store.add_session("s", 0, "{}", None)
    row = {"session_id": "s", "message_id": "m", "created_at": 0, "content": "x"} | prompt
    with pytest.raises(sqlite3.IntegrityError):
        store._run("add_prompt", row)


# Pages


def test_a_page_ends_early_rather_than_hold_more_than_4_mebicharacters(store: Store) -> None:
    here = session(store)
    text = "x" * (PAGE_CHARS // 2 - 5)
    for _ in range(3):
        turn(store, here, "Q", text)
    page, more = store.page(here, 1000, before=None, after=None)
    assert more
    assert sum(len(message.content) for message in page) <= PAGE_CHARS
    assert [message.role for message in page] == ["user", "assistant", "user", "assistant"]
    older, more = store.page(here, 1000, before=page[0].place, after=None)
    assert (len(older), more) == (2, False)
    newer, more = store.page(here, 1000, before=None, after=older[0].place - 1)
    assert more
    assert len(newer) == 4


def test_a_message_larger_than_a_page_is_a_page_of_its_own(store: Store) -> None:
    here = session(store)
    turn(store, here, "Q", "x" * (PAGE_CHARS + 1))
    page, more = store.page(here, 1000, before=None, after=None)
    assert ([message.role for message in page], more) == (["assistant"], True)


# Files


def test_a_file_keeps_what_was_stored(tmp_path: Path) -> None:
    path = str(tmp_path / "chat.db")
    store = Store(path)
    here = session(store)
    turn(store, here)
    store.close()
    store = Store(path)
    assert (store.sessions, store.count_messages(here)) == (1, 2)
    store.close()
    assert [file.name for file in tmp_path.iterdir()] == ["chat.db"], "the WAL is folded back"


def test_a_file_is_in_wal_mode_for_this_process_alone(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    store = Store(str(path))
    settings = {
        name: store._db.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("journal_mode", "locking_mode", "foreign_keys", "synchronous")
    }
    assert settings == {
        "journal_mode": "wal",
        "locking_mode": "exclusive",
        "foreign_keys": 1,
        "synchronous": 1,
    }
    session(store)
    other = f"from chatbot.store import Store; Store({str(path)!r})"
    second = subprocess.run(
        [sys.executable, "-c", other], cwd=CHECKOUT, capture_output=True, text=True, check=False
    )
    assert second.returncode
    assert f"StoreError: {path} is in use by another process" in second.stderr
    with pytest.raises(StoreError, match="in use by another process"):
        Store(str(path))
    session(store)
    store.close()
    Store(str(path)).close()


def test_what_was_stored_survives_a_process_that_dies(tmp_path: Path) -> None:
    path = str(tmp_path / "chat.db")
    script = (
        "import os, signal; from tests.test_store import *; "
        f"store = Store({path!r}); store.add_session('s', 0, '{{}}', None); turn(store, 's'); "
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    died = subprocess.run([sys.executable, "-c", script], cwd=CHECKOUT, capture_output=True, check=False)
    assert died.returncode == -9, died.stderr
    store = Store(path)
    assert (store.sessions, store.count_messages("s")) == (1, 2)
    store.close()


def foreign(path: Path, *statements: str) -> bytes:
    other = sqlite3.connect(path)
    for statement in statements:
        other.execute(statement)
    other.commit()
    other.close()
    return path.read_bytes()


@pytest.mark.parametrize(
    ("statements", "said"),
    [
        (["CREATE TABLE notes (text)"], "holds something else"),
        (["CREATE TABLE notes (text)", "PRAGMA user_version=1"], "holds something else"),
        (["CREATE TABLE notes (text)", "PRAGMA application_id=7"], "holds something else"),
        (["PRAGMA user_version=1"], "holds something else"),
        (["CREATE TABLE notes (text)", "PRAGMA journal_mode=WAL"], "holds something else"),
        (
            [f"PRAGMA application_id={APPLICATION}", f"PRAGMA user_version={VERSION + 1}"],
            f"of version {VERSION + 1}",
        ),
    ],
)
def test_a_foreign_file_is_refused_and_left_as_it_is(
    tmp_path: Path, statements: list[str], said: str
) -> None:
    path = tmp_path / "other.db"
    before = foreign(path, *statements)
    with pytest.raises(StoreError, match=said):
        Store(str(path))
    assert path.read_bytes() == before


def test_a_file_that_is_no_database_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("Dear diary, " * 100)
    with pytest.raises(StoreError, match="not a database"):
        Store(str(path))
    assert path.read_text() == "Dear diary, " * 100


@pytest.mark.parametrize("path", [".", "nowhere/chat.db"])
def test_a_path_that_cannot_be_opened_is_refused_by_name(path: str) -> None:
    with pytest.raises(StoreError, match=f"cannot open {path}"):
        Store(path)


# Full


def fill(store: Store, session_id: str) -> None:
    """Stores turns without end."""
    for _ in range(1000):
        turn(store, session_id, reply="x" * 100_000)


def test_a_full_disk_is_told_and_nothing_is_half_stored(store: Store) -> None:
    here = session(store)
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count={pages + 100}")
    with pytest.raises(ChatError) as caught:
        fill(store, here)
    assert (caught.value.code, caught.value.retry_after) == ("storage_full", "60")
    assert not store._db.in_transaction
    stored = store.count_messages(here)
    assert stored > 0
    assert stored % 2 == 0, "a turn is whole or absent"
    # Reading goes on, and so do deletes, which make room again.
    assert len(store.page(here, 1000, before=None, after=None)[0]) == stored
    store.delete_session(here)
    turn(store, session(store), reply="x" * 100_000)


@pytest.mark.parametrize("prompt", [None, "Be kind."])
def test_a_conversation_is_its_newest_turns_and_the_prompt_wherever_it_is(
    store: Store, prompt: str | None
) -> None:
    here, another = str(uuid4()), session(store)
    store.add_session(here, 7, "{}", Message(str(uuid4()), "system", as_json(prompt), 0) if prompt else None)
    told: list[dict[str, str]] = []
    for number in range(4):
        for turns in range(5):
            found = store.conversation(here, turns)
            assert found
            expected = told[-2 * turns :] if turns else []
            assert found[:2] == (7, as_json(prompt) if prompt else None)
            assert json.loads(f"[{found[2]}]") == expected, (number, turns)
            assert store.history(here, turns) == found[2]
        turn(store, here, f"Q{number}", f"A{number}", now=7)
        turn(store, another)
        told += [{"role": "user", "content": f"Q{number}"}, {"role": "assistant", "content": f"A{number}"}]


def test_a_conversation_beyond_all_bounds_is_halved(store: Store) -> None:
    here = session(store)
    for number in range(4):
        turn(store, here, f"Q{number}", "\x01" * 1000)  # \u0001 in JSON
    store._db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 15_000)
    assert [message["content"] for message in json.loads(f"[{store.history(here, 4)}]")][::2] == ["Q2", "Q3"]
    store._db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 5_000)
    assert store.history(here, 4) == ""


def test_there_is_no_conversation_without_a_session(store: Store) -> None:
    assert store.conversation("no", 4) is None
    assert store.history("no", 4) == ""


@given(
    st.text(st.characters(exclude_categories=["Cs"])), st.text(st.sampled_from('\0\x1f\x7f\n\u2028"\\/é😀'))
)
def test_any_text_is_a_message_in_json(question: str, reply: str) -> None:
    with closing(Store()) as store:
        here = session(store)
        turn(store, here, question, reply)
        told = json.loads(f"[{store.history(here, 1)}]")
        assert [message["content"] for message in told] == [question, reply]


def test_full_memory_is_told_as_full_storage(store: Store) -> None:
    with pytest.raises(ChatError, match="memory is full") as caught, store._transaction:
        raise MemoryError
    assert caught.value.code == "storage_full"
    assert not store._db.in_transaction


def test_past_the_limit_nothing_new_is_begun_and_what_runs_is_stored() -> None:
    store = Store(max_bytes=500_000)
    here = session(store)
    for _ in range(6):
        turn(store, here, reply="x" * 100_000)
    for begin in (
        store.require_space,
        lambda: session(store),
        lambda: store.set_metadata(here, "{}"),
    ):
        with pytest.raises(ChatError) as caught:
            begin()
        assert (caught.value.code, caught.value.retry_after) == ("storage_full", "60")
    turn(store, here)  # one that was running
    assert store.count_messages(here) == 14
    store.touch(here, 1)
    store.delete_session(here)
    store.require_space()
    session(store)
    store.close()


def test_the_limit_is_never_passed_by_what_was_admitted_beyond_one_turn() -> None:
    """The size is estimated between two measurements: no estimate may be below what was written."""
    limit, rng = 3_000_000, random.Random(1)
    store = Store(max_bytes=limit)

    def used() -> int:
        page_count, free = (store._value(f"PRAGMA {name}") for name in ("page_count", "freelist_count"))
        return (page_count - free) * store._page_size

    def fill() -> None:
        for _ in range(100_000):
            store.require_space()
            assert used() < limit, "a full database was said to have room"
            turn(store, rng.choice(sessions), "😀" * rng.randrange(300), "x" * rng.randrange(3000))

    sessions = [session(store) for _ in range(20)]
    with pytest.raises(ChatError, match="full"):
        fill()
    assert used() >= limit, "refused though there was room"
    store.close()
