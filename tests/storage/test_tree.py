"""Turns are a tree: paths, versions, rewinds and single deletions, and what costs what."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import closing
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatbot import ids
from chatbot.errors import ChatError
from chatbot.records import Prompt
from chatbot.storage.store import Store
from tests.storage.tools import a_chain, a_session, a_turn, count, turn_at
from tests.tools.counting import Steps


@pytest.fixture
def store() -> Iterator[Store]:
    store = Store()
    yield store
    store.close()


def current(store: Store, session_id: str) -> int | None:
    session = store.session(session_id)
    assert session
    return session.current


# Storing


def test_a_turn_is_kept_as_it_is_and_found_by_all_its_names(store: Store) -> None:
    here = a_session(store)
    turn = a_turn(
        here,
        reasoning="hm",
        layout='[["r",2],["t",1]]',
        idempotency_key="k",
        request_hash="h",
        response_id="r",
    )
    seq = store.add_turn(turn)
    kept = turn._replace(seq=seq)
    assert store.turn(seq) == kept
    assert store.turn_of(here, turn.turn_id) == (kept, 0)
    assert store.turn_of(here, ids.message_id(turn.turn_id, 1)) == (kept, 1)
    assert (store.turn_by_key("k"), store.turn_by_response("r")) == (kept, kept)
    assert store.turn_of(a_session(store), turn.turn_id) is None, "it is another session's"
    for wrong in ("x", ids.message_id(turn.turn_id, 2), ids.new_turn_id(0)):
        assert store.turn_of(here, wrong) is None


def test_a_stored_turn_is_where_the_session_is_and_a_use_of_it(store: Store) -> None:
    here = a_session(store)
    first = store.add_turn(a_turn(here, replied_at=50))
    assert store.session(here) == (here, 0, 50, "{}", first)
    store.add_turn(a_turn(here, None, replied_at=60), if_at_parent=True)
    assert store.session(here) == (here, 0, 60, "{}", first)
    second = store.add_turn(a_turn(here, first, replied_at=40), if_at_parent=True)
    assert store.session(here) == (here, 0, 60, "{}", second)
    store.add_turn(a_turn(here, first), if_at_parent=True)
    store.add_turn(a_turn(here, None), if_at_parent=True)
    assert current(store, here) == second


def test_a_turn_follows_nothing_that_is_gone(store: Store) -> None:
    here, there = a_session(store), a_session(store)
    chain = a_chain(store, here, 3)
    store.rewind(here, turn_at(store, chain[1]))
    for parent in (chain[1], chain[2], 999):
        with pytest.raises(ChatError) as caught:
            store.add_turn(a_turn(here, parent))
        assert caught.value.code == "message_not_found"
    with pytest.raises(ChatError, match="gone"):
        store.add_turn(a_turn(there, chain[0]))
    store.delete_session(there)
    with pytest.raises(ChatError) as caught:
        store.add_turn(a_turn(there))
    assert caught.value.code == "session_not_found"
    while not store.remove_piece():
        pass
    assert count(store, "turns") == 1


def test_numbers_of_turns_are_never_given_again(store: Store) -> None:
    here = a_session(store)
    last = a_chain(store, here, 3)[-1]
    store.rewind(here, turn_at(store, last))
    assert store.add_turn(a_turn(here)) > last


# Paths and versions


def test_a_path_is_one_branch_and_nothing_of_the_others(store: Store) -> None:
    here = a_session(store)
    trunk = a_chain(store, here, 3)
    left, right = a_chain(store, here, 2, trunk[1]), a_chain(store, here, 2, trunk[1])
    assert store.path(left[-1]) == trunk[:2] + left
    assert [turn.seq for turn in store.path_up(right[-1])] == (trunk[:2] + right)[::-1]
    assert store.path(right[-1], above=trunk[1]) == right
    assert store.path(trunk[1], above=trunk[1]) == []
    assert store.path(None) == list(store.path_up(None)) == []
    assert [version.seq for version in store.children(here, trunk[1])] == [trunk[2], left[0], right[0]]
    assert [version.seq for version in store.children(here, None)] == [trunk[0]]
    assert [len(store.children(here, trunk[place], least=2)) for place in (0, 1)] == [0, 3]
    assert store.newest_below(trunk[0]) == right[-1]
    assert store.newest_below(left[0]) == left[-1]


def test_messages_are_counted_along_the_path(store: Store) -> None:
    here = a_session(store)
    store.set_prompt(here, Prompt("p", 0, "Be kind."))
    assert store.count_messages(here, None) == 1
    three = store.add_turn(a_turn(here, input='{"role":"user"}\n{"role":"user"}'))
    alone = store.add_turn(a_turn(here, three, output=None, finish_reason=None))
    store.add_turn(a_turn(here, three))
    assert store.count_messages(here, alone) == 1 + 3 + 1


# Deleting


def test_a_rewind_takes_what_follows_along_and_no_others(store: Store) -> None:
    here, there = a_session(store), a_session(store)
    trunk, other = a_chain(store, here, 3), a_chain(store, there, 3)
    branch = a_chain(store, here, 2, trunk[0])
    assert store.rewind(here, turn_at(store, trunk[1])) == 4
    assert current(store, here) == branch[-1], "it was not at one of them"
    assert store.rewind(here, turn_at(store, branch[0])) == 4
    assert current(store, here) == trunk[0]
    assert store.rewind(here, turn_at(store, trunk[0])) == 2
    assert (current(store, here), current(store, there)) == (None, other[-1])
    assert count(store, "turns") == 3


def test_a_rewind_of_the_prompt_leaves_an_empty_conversation(store: Store) -> None:
    here = a_session(store)
    store.set_prompt(here, Prompt("p", 0, "Be kind."))
    a_chain(store, here, 3)
    store.add_turn(a_turn(here))
    assert store.rewind(here, None) == 9
    assert (current(store, here), store.prompt(here), store.children(here, None)) == (None, None, [])


def test_a_message_deleted_alone_leaves_the_ids_of_the_others(store: Store) -> None:
    here = a_session(store)
    first = store.add_turn(a_turn(here, input='{"a":1}\n{"b":2}', idempotency_key="k", request_hash="h"))
    second = store.add_turn(a_turn(here, first))
    turn = turn_at(store, first)
    store.keep_only(first, 'null\n{"b":2}')
    assert store.turn_of(here, ids.message_id(turn.turn_id, 1)) is None
    found = store.turn_of(here, ids.message_id(turn.turn_id, 2))
    assert found
    assert found[1] == 2
    assert store.turn_of(here, turn.turn_id) is None
    assert store.count_messages(here, second) == 3
    assert turn_at(store, first).token_usage is None, "it counted what is deleted"
    store.add_turn(a_turn(here, second, idempotency_key="k", request_hash="h"))


def test_a_response_that_is_deleted_leaves_its_turn_and_nothing_of_its_own(store: Store) -> None:
    here = a_session(store)
    turns = [
        a_turn(here, response_id=f"r{name}", response="{}", idempotency_key=name, request_hash="h")
        for name in "kl"
    ]
    first, second = map(store.add_turn, turns)
    store.forget_response(first)
    nothing = dict.fromkeys(("response_id", "response", "idempotency_key", "request_hash"))
    assert store.turn(first) == turns[0]._replace(seq=first, **nothing)
    assert store.turn(second) == turns[1]._replace(seq=second)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.booleans())
def test_the_tree_is_what_a_model_of_it_says(seed: int, at_once: bool) -> None:
    """Turns are added, rewound and made current at random; what is gone waits to be removed, or not."""
    rng = random.Random(seed)
    with closing(Store()) as store, pytest.MonkeyPatch.context() as patch:
        patch.setattr("chatbot.storage.tree.PIECE_SECONDS", 1 if at_once else -1)
        here, model, at = a_session(store), dict[int, int | None](), None

        def above(seq: int | None) -> list[int]:
            path = []
            while seq is not None:
                path.append(seq)
                seq = model[seq]
            return path

        for _ in range(40):
            some = rng.choice([*model, None])
            if rng.random() < 0.6:
                at = store.add_turn(a_turn(here, some))
                model[at] = some
            elif some is not None and rng.random() < 0.5:
                gone = {seq for seq in model if some in above(seq)}
                parent = model[some]
                assert store.rewind(here, turn_at(store, some)) == 2 * len(gone)
                at = parent if at in gone else at
                model = {seq: above for seq, above in model.items() if seq not in gone}
                assert not any(store.is_alive(seq) for seq in gone)
            elif some is not None:
                at = store.newest_below(some)
                assert at == max(seq for seq in model if some in above(seq))
                store.set_current(here, at)
            if rng.random() < 0.1:
                store.remove_piece()
        assert current(store, here) == at
        for seq in model:
            assert [turn.seq for turn in store.path_up(seq)] == store.path(seq)[::-1] == above(seq)
        for parent in [*model, None]:
            found = [version.seq for version in store.children(here, parent)]
            assert found == sorted(seq for seq, above in model.items() if above == parent)
        patch.setattr("chatbot.storage.tree.PIECE_SECONDS", 1)
        store.remove_piece()
        assert (count(store, "turns"), count(store, "gone")) == (len(model), 0)


# What it costs


def test_the_newest_turns_cost_the_same_in_a_conversation_of_any_length(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    short, long = a_session(store), a_session(store)
    ends = {here: a_chain(store, here, length)[-1] for here, length in ((short, 10), (long, 10_000))}
    steps = Steps(store._db.connection)

    def cost_of_newest(here: str) -> int:
        newest = store.add_turn(a_turn(here, ends[here]))
        steps.take()
        assert len(list(islice(store.path_up(newest), 10))) == 10
        with monkeypatch.context() as patch:
            patch.setattr(
                "chatbot.storage.tree.PIECE_SECONDS", 1
            )  # its row is removed, however slow the machine is
            store.rewind(here, turn_at(store, newest))
        return steps.take()

    # Newer SQLites take a few steps more now and then.
    assert cost_of_newest(long) < 1.1 * cost_of_newest(short)
    assert len(store.path(ends[long])) == 10_000
    one_walk = steps.take()
    assert store.rewind(long, turn_at(store, store.path(ends[long])[0])) == 20_000
    assert steps.take() < 5 * one_walk, "a few walks along all of it"
