"""The schema refuses what cannot be, its statements are right from the start and read no whole table."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest

from chatbot.records import Prompt
from chatbot.storage import database
from chatbot.storage.database import load_statements
from chatbot.storage.lock import StoreError
from chatbot.storage.store import Store
from tests.storage.tools import ROOT, a_chain, a_session, a_turn, count, turn_at


@pytest.fixture
def store() -> Iterator[Store]:
    store = Store()
    yield store
    store.close()


@pytest.mark.parametrize(
    "wrong",
    [
        {"turn_id": None},
        {"asked_at": "now"},
        {"replied_at": None},
        {"output": None},
        {"output": b"\xff"},
        {"finish_reason": None},
        {"token_usage": "[1]"},
        {"token_usage": "{"},
        {"idempotency_key": "k"},
        {"request_hash": "h"},
    ],
    ids=repr,
)
def test_the_schema_refuses_a_turn_that_cannot_be(store: Store, wrong: dict[str, Any]) -> None:
    turn = a_turn(a_session(store))
    with pytest.raises((sqlite3.IntegrityError, sqlite3.OperationalError)):
        store.add_turn(turn._replace(**wrong))
    assert count(store, "turns") == 0
    assert not store._db.connection.in_transaction
    store.add_turn(turn)


def test_the_schema_refuses_the_same_id_key_or_response_twice(store: Store) -> None:
    here, there = a_session(store), a_session(store)
    first = a_turn(here, idempotency_key="k", request_hash="h", response_id="r")
    store.add_turn(first)
    for same in ("turn_id", "idempotency_key", "response_id"):
        again = a_turn(there, request_hash="h" if same == "idempotency_key" else None)
        with pytest.raises(sqlite3.IntegrityError):
            store.add_turn(again._replace(**{same: getattr(first, same)}))
    with pytest.raises(sqlite3.IntegrityError):
        store.add_session(here, 0, "{}")
    assert (store.sessions, count(store, "sessions"), count(store, "turns")) == (2, 2, 1)


@pytest.mark.parametrize("metadata", ["[]", "1", "{", "null"])
def test_the_schema_refuses_metadata_that_is_no_object(store: Store, metadata: str) -> None:
    with pytest.raises((sqlite3.IntegrityError, sqlite3.OperationalError)):
        store.add_session("s", 0, metadata)
    assert (store.sessions, count(store, "sessions")) == (0, 0)


def nothing_for(sql: str) -> dict[str, None] | tuple[None, ...]:
    """Binds every parameter to NULL."""
    return dict.fromkeys(re.findall(r":(\w+)", sql)) or (None,) * sql.count("?")


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("get_session", "(session_id=?)"),
        ("idle_sessions", "sessions_by_idleness (last_accessed<?)"),
        ("path", "INTEGER PRIMARY KEY (rowid=?)"),
        ("count_path", "INTEGER PRIMARY KEY (rowid=?)"),
        ("turns_up", "INTEGER PRIMARY KEY (rowid=?)"),
        ("children", "turns_by_parent (session_id=? AND parent=?)"),
        ("below", "turns_by_parent (session_id=? AND parent=?)"),
        ("drop_of_session", "turns_by_parent (session_id=?)"),
        ("drop_gone", "SCAN gone"),
        ("drop_gone_by_key", "turns_by_key (idempotency_key=?"),
        ("turns_up", "(turn_id=?)"),
        ("turns_up", "turns_by_key (idempotency_key=?)"),
        ("turns_up", "turns_by_response (response_id=?)"),
    ],
)
def test_no_statement_reads_a_whole_table(store: Store, name: str, index: str) -> None:
    sql = store._db.sql[name]
    plan = store._db.execute(f"EXPLAIN QUERY PLAN {sql}", nothing_for(sql)).fetchall()
    steps = "; ".join(row[3] for row in plan)
    assert index in steps, steps
    assert "SCAN turns" not in steps, steps
    assert "SCAN sessions" not in steps, steps
    assert "TEMP B-TREE" not in steps, steps


def test_every_statement_has_a_name_a_purpose_and_somebody_who_runs_it() -> None:
    text = (ROOT / "schema.sql").read_text("utf-8")
    statements = load_statements(text)
    assert statements.pop("schema").startswith("CREATE TABLE")
    assert len(statements) == text.count("\n-- name: ") - 1
    code = "".join(file.read_text("utf-8") for file in (ROOT / "chatbot/storage").glob("*.py"))
    assert [name for name in statements if f'"{name}"' not in code] == []


def test_a_typo_in_any_statement_is_found_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def mistyped(text: str) -> dict[str, str]:
        return load_statements(text) | {"drop_gone": "DELETE FROM turms"}

    monkeypatch.setattr(database, "load_statements", mistyped)
    with pytest.raises(StoreError, match="no such table: turms"):
        Store()


def test_an_old_sqlite_is_refused_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sqlite3.sqlite_version_info", (3, 34, 1))
    with pytest.raises(StoreError, match=r"3\.38 or newer is needed"):
        Store()


# The view


def test_the_view_has_a_row_for_each_message_of_each_branch(store: Store) -> None:
    store.add_session("s", 5, "{}", Prompt("p", 5, "Be kind."))
    root = store.add_turn(a_turn("s"))
    said = '{"role":"user","content":[{"type":"text","text":"x"}]}\nnull\n{"role":"tool","content":"7"}'
    seq = store.add_turn(a_turn("s", root, input=said, output='{"role":"assistant","content":null}'))
    store.add_turn(a_turn("s", root, output=None, finish_reason=None, token_usage=None))
    turn, parts = turn_at(store, seq), '[{"type":"text","text":"x"}]'
    rows = store._db.execute("SELECT * FROM messages ORDER BY created_at, message_id").fetchall()
    assert [row[2:4] for row in rows if row[0].startswith(turn.turn_id[:-3])] == [
        ("user", parts),
        ("tool", "7"),
        ("assistant", None),
    ]
    assert [row[0][-3:] for row in rows if row[0].startswith(turn.turn_id[:-3])] == ["001", "003", "000"]
    assert [row for row in rows if row[2] == "system"] == [("p", "s", "system", "Be kind.", 5, None)]
    assert len(rows) == 1 + 2 + 3 + 1
    assert {row[5] for row in rows} == {None, '{"prompt_tokens":1}'}


def test_the_view_shows_nothing_that_is_gone(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chatbot.storage.tree.PIECE_SECONDS", -1)  # nothing is removed at once
    here, there = a_session(store), a_session(store)
    store.set_prompt(there, Prompt("p", 5, "Be kind."))
    chain = a_chain(store, here, 4)
    a_chain(store, there, 2)
    store.rewind(here, turn_at(store, chain[1]))
    store.delete_session(there)
    assert (count(store, "turns"), count(store, "messages")) == (6, 2)
