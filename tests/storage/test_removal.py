"""What is deleted is gone at once, also after a kill; its rows are removed in pieces that delay nobody."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from chatbot.errors import ChatError
from chatbot.storage.store import Store
from chatbot.storage.tree import PIECE_SECONDS
from tests.storage.tools import a_chain, a_session, a_turn, count, run, turn_at, unlocked
from tests.tools.counting import Ticking


@pytest.fixture
def store() -> Iterator[Store]:
    store = Store()
    yield store
    store.close()


@pytest.fixture
def nothing_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that is deleted waits to be removed."""
    monkeypatch.setattr("chatbot.storage.tree.PIECE_SECONDS", -1)


def test_what_is_short_is_removed_at_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chatbot.storage.tree.PIECE_SECONDS", 1)
    here, there = a_session(store), a_session(store)
    chain = a_chain(store, here, 5)
    a_chain(store, there, 5)
    store.rewind(here, turn_at(store, chain[2]))
    store.delete_session(there)
    assert count(store, "gone") == 0
    assert (count(store, "turns"), count(store, "sessions"), store.sessions) == (2, 1, 1)
    store.delete_session(there)
    assert store.sessions == 1, "a session can be deleted once"


@pytest.mark.usefixtures("nothing_at_once")
def test_what_waits_to_be_removed_is_found_by_nothing(store: Store) -> None:
    here, there = a_session(store), a_session(store)
    root = store.add_turn(a_turn(here))
    gone = [
        store.add_turn(a_turn(here, root, idempotency_key="k1", request_hash="h", response_id="r1")),
        store.add_turn(a_turn(there, None, idempotency_key="k2", request_hash="h", response_id="r2")),
    ]
    store.add_background("r3", there, 1, "{}")
    turns = [turn_at(store, seq) for seq in gone]
    below = store.add_turn(a_turn(here, gone[0]))
    store.rewind(here, turns[0])
    for _ in range(2):  # who deletes it twice in one moment
        store.delete_session(there)
    assert count(store, "turns") == 4
    for turn in turns:
        assert store.turn_of(turn.session_id, turn.turn_id) is None
        assert store.turn_by_key(turn.idempotency_key or "") is None
        assert store.turn_by_response(turn.response_id or "") is None
        assert list(store.path_up(turn.seq)) == store.path(turn.seq) == []
    assert not store.is_alive(below)
    assert (store.children(here, root), store.newest_below(root)) == ([], root)
    assert (store.session(there), store.background("r3"), store.sessions) == (None, None, 1)
    store.add_turn(a_turn(here, root, idempotency_key="k1", request_hash="h"))  # its key is free
    store.add_turn(a_turn(here, root, idempotency_key="k2", request_hash="h"))


@pytest.fixture
def four_looks_are_a_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock that ends a piece has gone on by a quarter of it each time that it is looked at."""
    monkeypatch.setattr("chatbot.storage.tree.perf_counter", Ticking(PIECE_SECONDS / 4))


@pytest.mark.usefixtures("four_looks_are_a_piece")
async def test_a_long_conversation_is_removed_in_pieces(tmp_path: Path) -> None:
    with closing(Store(str(tmp_path / "chat.db"), max_bytes=2**40)) as store:
        here, there, large = a_session(store), a_session(store), a_session(store)
        chain = a_chain(store, here, 300)
        a_chain(store, there, 300)
        a_chain(store, large, 5, reply="x" * 4 * 2**20)
        for number in range(50):
            unlocked(lambda name=f"r{number}": store.add_background(name, there, 1, "x" * 100_000))

        def rows() -> int:
            return count(store, "turns") + count(store, "background")

        left = [rows()]
        for delete in (
            lambda: store.rewind(here, turn_at(store, chain[1])),
            lambda: store.delete_session(there),
            lambda: store.delete_session(large),
        ):
            unlocked(delete)
            left.append(rows())
        assert count(store, "gone")
        while not unlocked(store.remove_piece):
            left.append(rows())
        assert (rows(), count(store, "sessions"), count(store, "gone")) == (1, 1, 0)
        assert max(before - after for before, after in pairwise(left)) <= 4


def test_what_took_long_to_mark_is_removed_later(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both together kept others waiting for 25 ms, where 10,000 turns were deleted."""
    here, honest = a_session(store), store._db.run
    chain = a_chain(store, here, 5)
    now = [1.0]
    monkeypatch.setattr("chatbot.storage.tree.perf_counter", lambda: now[0])

    def marks_slowly(name: str, *parameters: Any) -> Any:
        now[0] += PIECE_SECONDS * (name == "mark")
        return honest(name, *parameters)

    monkeypatch.setattr(store._db, "run", marks_slowly)
    assert store.rewind(here, turn_at(store, chain[1])) == 8
    assert (count(store, "turns"), store.path(chain[4])) == (5, [])
    monkeypatch.undo()
    while not store.remove_piece():
        pass
    assert count(store, "turns") == 1


@pytest.mark.usefixtures("four_looks_are_a_piece")
async def test_a_sweep_marks_many_and_delays_nobody(tmp_path: Path) -> None:
    with closing(Store(str(tmp_path / "chat.db"))) as store:
        for _ in range(200):
            a_chain(store, unlocked(lambda: a_session(store)), 1, reply="x" * 100_000)
        used = unlocked(lambda: a_session(store, 9))

        def clean() -> bool:
            return store.clean(now=10, cutoff=5, limit=100, in_use=())

        assert not unlocked(clean)
        assert store.sessions == 101
        assert count(store, "turns") >= 196, "the rest is removed in pieces"
        while not unlocked(clean):
            pass
        assert (store.sessions, count(store, "turns")) == (1, 0)
        assert store.session(used)


def test_a_sweep_deletes_nothing_that_is_in_use_or_was_used(store: Store) -> None:
    idle, busy, used = (a_session(store) for _ in range(3))
    store.touch(used, 50)
    store.touch(used, 20)  # a mark that had to wait for a locked file
    assert store.clean(now=100, cutoff=40, limit=10, in_use={busy})
    assert store.clean(now=100, cutoff=40, limit=10, in_use=()), "they are out of its way"
    assert store.session(idle) is None
    found = [store.session(session_id) for session_id in (busy, used)]
    assert [session and session.last_accessed for session in found] == [100, 50]


def test_what_was_deleted_stays_so_after_a_kill_at_any_moment(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    script = """
import os, signal, sys
from chatbot.storage import tree
from chatbot.storage.store import Store
from tests.storage.tools import *
store = Store(sys.argv[1])
stays = a_session(store)
ends = []
for _ in range(2):
    chain = a_chain(store, stays, 300, ends[0] if ends else None)
    ends.append(chain[0])
    there = a_session(store)
    a_chain(store, there, 300)
    tree.PIECE_SECONDS = -1
    store.rewind(stays, turn_at(store, chain[1]))
    store.delete_session(there)
    tree.PIECE_SECONDS = 0.001
all_of_them = count(store, "turns")
while count(store, "turns") == all_of_them:
    store.remove_piece()
print(stays, *ends, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    died = run(script, str(path))
    assert died.returncode == -9, died.stderr
    stays, *ends = died.stdout.split()
    with closing(Store(str(path))) as store:
        assert count(store, "gone")
        left = count(store, "turns")
        assert left < 1200, "something was removed"
        assert store.sessions == 1
        assert store.path(int(ends[1])) == [int(end) for end in ends]
        assert [version.seq for version in store.children(stays, int(ends[0]))] == [int(ends[1])]
        while not store.remove_piece():
            pass
        assert (count(store, "turns"), count(store, "sessions"), count(store, "gone")) == (2, 1, 0)


@pytest.mark.usefixtures("nothing_at_once")
def test_a_removal_that_fails_in_between_forgets_no_turn(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = a_session(store)
    chain = a_chain(store, here, 10)
    store.rewind(here, turn_at(store, chain[0]))
    honest, runs = store._db.run, [0]

    def fails(name: str, parameters: tuple[int, ...] = ()) -> Any:
        runs[0] += 1
        if runs[0] == 6:
            raise ChatError("storage_full", "The storage is full.")
        return honest(name, parameters)

    monkeypatch.setattr("chatbot.storage.tree.PIECE_SECONDS", 1)
    monkeypatch.setattr(store._db, "run", fails)
    with pytest.raises(ChatError):
        store.remove_piece()
    assert count(store, "turns") == 10
    store.remove_piece()
    assert (count(store, "turns"), count(store, "gone")) == (0, 0)
