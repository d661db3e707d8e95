"""What is full is said, and room is made before it is: a limit, a disk, the memory."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from chatbot.errors import ChatError
from chatbot.records import Prompt
from chatbot.storage import checkpoint
from chatbot.storage.store import FAILED_RESPONSE_MS, Store
from tests.storage.tools import a_chain, a_session, a_turn, count, turn_at


@pytest.fixture
def store() -> Iterator[Store]:
    store = Store()
    yield store
    store.close()


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is removed at once is, however slow the machine is."""
    monkeypatch.setattr("chatbot.storage.tree.PIECE_SECONDS", 1)


def test_past_the_limit_nothing_new_is_begun_and_what_runs_is_stored() -> None:
    with closing(Store(max_bytes=500_000)) as store:
        here = a_session(store)
        chain = a_chain(store, here, 6, reply="x" * 100_000)
        for begin in (
            store.require_space,
            lambda: a_session(store),
            lambda: store.set_metadata(here, "{}"),
            lambda: store.set_prompt(here, Prompt("p", 0, "x")),
            lambda: store.add_background("r", here, 0, "{}"),
        ):
            with pytest.raises(ChatError) as caught:
                begin()
            assert (caught.value.code, caught.value.retry_after) == ("storage_full", "60")
        assert store.is_full
        store.add_turn(a_turn(here, chain[-1]))  # one that was running
        store.touch(here, 1)
        store.delete_session(here)
        assert not store.is_full
        a_session(store)


def test_a_write_that_finds_it_full_first_removes_what_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(Store(max_bytes=500_000)) as store:
        here = a_session(store)
        chain = a_chain(store, here, 6, reply="x" * 100_000)
        with monkeypatch.context() as patch:
            patch.setattr("chatbot.storage.tree.PIECE_SECONDS", -1)
            store.rewind(here, turn_at(store, chain[1]))
        assert (count(store, "gone"), count(store, "turns")) == (5, 6)
        a_session(store)
        assert count(store, "turns") < 6


def test_the_limit_is_never_passed_by_what_was_admitted_beyond_one_turn() -> None:
    """The size is estimated between two measurements: no estimate may be below what was written."""
    limit, rng = 3_000_000, random.Random(1)
    with closing(Store(max_bytes=limit)) as store:
        ends: dict[str, int | None] = {a_session(store): None for _ in range(20)}

        def fill() -> None:
            for _ in range(100_000):
                store.require_space()
                assert store.used_bytes < limit, "a full database was said to have room"
                here = rng.choice(list(ends))
                said, reply = "😀" * rng.randrange(300), "x" * rng.randrange(3000)
                ends[here] = store.add_turn(a_turn(here, ends[here], said, reply))

        with pytest.raises(ChatError, match="full"):
            fill()
        assert store.used_bytes >= limit, "refused though there was room"


def test_a_full_disk_is_told_and_nothing_is_half_stored(store: Store) -> None:
    here = a_session(store)
    store._db.execute(f"PRAGMA max_page_count={store._db.value('PRAGMA page_count') + 100}")
    with pytest.raises(ChatError) as caught:
        a_chain(store, here, 1000, reply="x" * 100_000)
    assert (caught.value.code, caught.value.retry_after) == ("storage_full", "60")
    assert not store._db.connection.in_transaction
    session = store.session(here)
    assert session
    assert len(store.path(session.current)) == count(store, "turns") > 0
    # Reading goes on, and so do deletes, which make room again.
    store.delete_session(here)
    store.add_turn(a_turn(a_session(store), reply="x" * 100_000))


def test_a_turn_that_finds_the_disk_full_takes_the_room_of_what_is_gone(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = a_session(store), a_session(store)
    a_chain(store, here, 3, reply="x" * 100_000)
    with monkeypatch.context() as patch:
        patch.setattr("chatbot.storage.tree.PIECE_SECONDS", -1)
        store.delete_session(here)
    store._db.execute(f"PRAGMA max_page_count={store._db.value('PRAGMA page_count')}")
    assert store.add_turn(a_turn(there, reply="x" * 100_000))


def test_a_disk_with_nothing_left_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(Store(str(tmp_path / "chat.db"))) as store:
        assert not store.is_full
        monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 8, 1))
        assert store.is_full


def test_a_disk_that_others_fill_takes_nothing_new_until_something_is_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(Store(str(tmp_path / "chat.db"))) as store:
        here, there = a_session(store), a_session(store)
        a_chain(store, here, 100, reply="x" * 50_000)
        store._db.value("PRAGMA wal_checkpoint(TRUNCATE)")
        monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(2**22, 2**22, 0))
        for begin in (store.require_space, lambda: store.add_session("s", 0, "{}")):
            with pytest.raises(ChatError, match="full") as caught:
                begin()
            assert caught.value.code == "storage_full"
        assert store.is_full
        store.add_turn(a_turn(there))  # it was admitted before
        store.delete_session(here)
        while not store.remove_piece():
            pass
        assert not store.is_full
        store.require_space()


def test_of_a_small_disk_a_quarter_is_spared_and_what_the_wal_will_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "INTERVAL", 60.0)
    with closing(Store(str(tmp_path / "chat.db"))) as store:
        store._db.value("PRAGMA wal_checkpoint(TRUNCATE)")
        monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(2**22, 0, 2**22))
        assert store.free_bytes == 3 * 2**20
        a_chain(store, a_session(store), 20, reply="x" * 50_000)
        assert store.free_bytes < 2**21 + 2**20 - 20 * 50_000


def test_full_memory_is_told_as_full_storage(store: Store) -> None:
    with pytest.raises(ChatError, match="memory is full") as caught, store._db.transaction():
        raise MemoryError
    assert caught.value.code == "storage_full"
    assert not store._db.connection.in_transaction


def test_a_session_is_marked_without_its_prompt_being_written(tmp_path: Path) -> None:
    with closing(Store(str(tmp_path / "chat.db"))) as store:
        prompt = Prompt("p", 0, "x" * 900_000)
        store.add_session("s", 0, "{}", prompt)
        for mark, pages in (
            (lambda: store.touch("s", 9), 2),
            (lambda: store.set_metadata("s", '{"a":1}'), 1),
        ):
            store._db.value("PRAGMA wal_checkpoint(TRUNCATE)")
            mark()
            assert store._db.execute("PRAGMA wal_checkpoint").fetchone()[1] == pages
        assert store.prompt("s") == prompt


def test_a_response_in_the_background_is_one_until_it_has_its_turn(store: Store) -> None:
    here = a_session(store)
    for name in ("r1", "r2", "r3"):
        store.add_background(name, here, 5, '{"a":1}')
    assert store.background("r1") == ("r1", here, 5, '{"a":1}', None)
    store.add_turn(a_turn(here, response_id="r1"))
    store.fail_background("r2", '{"code":"x"}')
    assert store.background("r1") is None
    errors = [found and found.error for found in map(store.background, ("r2", "r3"))]
    assert errors == ['{"code":"x"}', None]
    store.drop_background("r3")
    store.delete_session(here)
    assert count(store, "background") == 0


def test_who_asks_a_dead_llm_again_and_again_does_not_fill_the_disk(store: Store) -> None:
    here, there, hour = a_session(store), a_session(store), FAILED_RESPONSE_MS
    store.add_background("runs", here, 0, "{}")
    for name, session_id, asked_at in (
        *((f"old{number}", here, 0) for number in range(5)),
        ("other", there, 0),
        *(("new", here, hour - 1), ("newer", here, hour)),
    ):
        store.add_background(name, session_id, asked_at, "{}")
        store.fail_background(name, '{"code":"llm_unavailable"}')
    assert count(store, "background") == 5, "few at once, for they may be long"
    store.add_background("newest", here, hour, "{}")
    names = ("new", "newer", "newest", "other", "runs")
    assert all(map(store.background, names))
    assert count(store, "background") == len(names)
