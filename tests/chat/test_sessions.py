"""A session lives for as long as it is used, and what is done to it is done to the replies that run there."""

from __future__ import annotations

import asyncio

import pytest

from chatbot.errors import ChatError
from chatbot.records import Turn
from tests.chat.conftest import Clock, FakeAnswer, Room, StartRoom, text, turns_of_the_loop

HOUR = 3600.0


def is_alive(room: Room, session_id: str) -> bool:
    try:
        return bool(room.sessions.use(session_id))
    except ChatError as error:
        return (error.code, error.param) != ("session_not_found", "session_id")


async def test_a_session_expires_to_the_moment_swept_or_not(room: Room) -> None:
    idle, used, asked = (room.session() for _ in range(3))
    await room.clock.advance(24 * HOUR - 1)
    assert is_alive(room, used)
    await room.turn(asked)
    await room.clock.advance(1)
    assert [is_alive(room, one) for one in (idle, used, asked)] == [False, True, True]
    while not room.sessions.clean():
        pass
    assert room.store.session(idle) is None
    assert [is_alive(room, one) for one in (used, asked)] == [True, True]


@pytest.mark.parametrize("occupies", [True, False])
async def test_a_session_with_a_running_reply_never_expires(room: Room, occupies: bool) -> None:
    session_id = room.session()
    reply = room.ask(session_id, occupies=occupies, detached=True)
    await room.clock.advance(100 * HOUR)
    while not room.sessions.clean():
        pass
    assert is_alive(room, session_id)
    await room.clock.advance(100 * HOUR)
    assert is_alive(room, session_id), "and not only because the sweep found it in use"
    await room.clock.advance(100 * HOUR)
    reply.stop()
    assert is_alive(room, session_id), "the end of a reply counts as use, also if nothing came of it"


async def test_new_ids_are_drawn_from_the_range(start_room: StartRoom) -> None:
    room = start_room()
    room.sessions._id_range = (0x3A, 0x3C)
    assert {room.session()[:2] for _ in range(60)} == {"3a", "3b", "3c"}


async def test_all_that_expired_is_deleted_in_pieces(room: Room) -> None:
    for _ in range(35):
        room.session()
    await room.clock.advance(24 * HOUR)
    left = []
    while not room.sessions.clean():
        left.append(room.store.sessions)
    assert (left[:3], room.store.sessions) == ([25, 15, 5], 0)


@pytest.mark.parametrize(("failure", "logged"), [(ValueError("odd"), 3), (ChatError("storage_full", ""), 0)])
async def test_the_cleaning_goes_on_after_a_failure(
    room: Room,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    failure: Exception,
    logged: int,
) -> None:
    calls = []

    def fail(*_: object) -> bool:
        calls.append(_)
        raise failure

    monkeypatch.setattr(room.store, "clean", fail)
    cleaning = asyncio.create_task(room.sessions.clean_forever())
    await turns_of_the_loop()
    for _ in range(2):
        await clock.advance(1)
    assert len(calls) == 3
    assert caplog.text.count("will be tried again") == logged  # a full disk was logged where it was met
    cleaning.cancel()


async def test_what_was_deleted_is_removed_in_the_background(room: Room, clock: Clock) -> None:
    session_id = room.session()
    for _ in range(60):
        await room.turn(session_id)
    cleaning = asyncio.create_task(room.sessions.clean_forever())
    first = room.store.path(room.at(session_id).current)[0]
    turn = room.store.turn(first)
    assert turn
    assert room.sessions.rewind(session_id, turn.turn_id) == 120
    for _ in range(20):
        await clock.advance(1)
    assert room.store._db.value("SELECT count(*) FROM gone") == 0
    assert room.store.used_bytes
    cleaning.cancel()


# A deleted session


async def test_a_deleted_session_takes_its_replies_along(room: Room) -> None:
    session_id, other = room.session(), room.session()
    replies = [room.ask(session_id), room.ask(session_id, occupies=False), room.ask(other)]
    await turns_of_the_loop()
    for answer in room.llm.given:
        answer.say(text("Once "))
    await turns_of_the_loop()
    room.sessions.delete(session_id)
    assert not is_alive(room, session_id)
    assert [reply.error and reply.error.code for reply in replies] == ["session_not_found"] * 2 + [None]
    assert [reply.ended for reply in replies] == [True, True, False]
    await turns_of_the_loop()
    assert [answer.closed for answer in room.llm.given] == [True, True, False]


# Rewinding


async def tree(room: Room, session_id: str) -> list[Turn]:
    """0 <- 1 <- 2, and 0 <- 3: the conversation is at 3."""
    first = await room.turn(session_id, answer="0")
    second = await room.turn(session_id, answer="1")
    third = await room.turn(session_id, answer="2")
    return [first, second, third, await room.turn(session_id, answer="3", parent=first.seq)]


@pytest.mark.parametrize(
    ("rewound", "deleted", "current", "running"),
    # `running`: which of the replies that follow turn 0, 1, 2, 3 go on
    [(0, 8, None, []), (1, 4, 3, [0, 3]), (2, 2, 3, [0, 1, 3]), (3, 2, 0, [0, 1, 2])],
)
@pytest.mark.parametrize("place", ["000", "001"])
async def test_a_rewind_takes_what_follows_and_the_replies_that_follow_it(
    room: Room, rewound: int, deleted: int, current: int | None, running: list[int], place: str
) -> None:
    session_id = room.session()
    turns = await tree(room, session_id)
    replies = [room.ask(session_id, parent=turn.seq, occupies=False) for turn in turns]
    fresh = room.ask(session_id, parent=None, occupies=False)
    assert room.sessions.rewind(session_id, turns[rewound].turn_id[:-3] + place) == deleted
    assert room.at(session_id).current == (None if current is None else turns[current].seq)
    assert [number for number, reply in enumerate(replies) if not reply.ended] == running
    assert not fresh.ended, "it follows nothing that is gone"
    codes = {reply.error.code for reply in replies if reply.error}
    assert codes == {"message_not_found"}
    with pytest.raises(ChatError, match="no such message"):
        room.sessions.rewind(session_id, turns[rewound].turn_id)


@pytest.mark.parametrize("place", ["000", "001"])
async def test_a_running_reply_may_be_named_itself(room: Room, place: str) -> None:
    session_id = room.session()
    await room.turn(session_id)
    reply = room.ask(session_id)
    assert room.sessions.rewind(session_id, reply.message_id[:-3] + place) == 0
    assert reply.ended
    assert room.store.count_messages(session_id, room.at(session_id).current) == 2


async def test_the_system_prompt_takes_everything_along(room: Room) -> None:
    session_id = room.session("Be kind.")
    await tree(room, session_id)
    prompt = room.store.prompt(session_id)
    assert prompt
    replies = [room.ask(session_id), room.ask(session_id, parent=None, occupies=False)]
    assert room.sessions.rewind(session_id, prompt.message_id) == 9
    assert all(reply.ended for reply in replies)
    assert (room.at(session_id).current, room.store.prompt(session_id)) == (None, None)


async def test_a_reply_in_place_of_one_that_is_rewound_is_no_longer_a_sibling_and_is_stored(
    room: Room,
) -> None:
    session_id = room.session()
    turn = await room.turn(session_id)
    reply = room.ask(session_id, parent=turn.parent)
    await turns_of_the_loop()
    room.sessions.rewind(session_id, turn.turn_id)
    room.llm.given[-1].say(text("Again")).finish()
    await turns_of_the_loop()
    assert reply.turn
    assert room.store.path(room.at(session_id).current) == [reply.turn.seq]


# Moving about


async def test_a_session_moves_to_the_newest_end_below_a_message(room: Room) -> None:
    session_id = room.session("Be kind.")
    turns = await tree(room, session_id)
    for named, end in ((1, 2), (2, 2), (3, 3), (0, 3)):
        for place in ("000", "001"):
            assert room.sessions.set_current(session_id, turns[named].turn_id[:-3] + place) == turns[end].seq
            assert room.at(session_id).current == turns[end].seq
    prompt = room.store.prompt(session_id)
    other = await room.turn(room.session())
    assert prompt
    for message_id in (prompt.message_id, other.turn_id, turns[0].turn_id[:-3] + "002", "x"):
        with pytest.raises(ChatError) as error:
            room.sessions.set_current(session_id, message_id)
        assert (error.value.code, error.value.param) == ("message_not_found", "current")
    assert room.at(session_id).current == turns[3].seq


async def test_a_reply_that_runs_while_a_session_moves_is_stored_where_it_was_asked(room: Room) -> None:
    session_id = room.session()
    turns = await tree(room, session_id)
    reply = room.ask(session_id)
    room.sessions.set_current(session_id, turns[2].turn_id)
    await turns_of_the_loop()
    room.llm.given[-1].say(text("Hi")).finish()
    await turns_of_the_loop()
    assert reply.turn
    assert reply.turn.parent == turns[3].seq
    assert room.at(session_id).current == reply.turn.seq


async def test_a_new_system_prompt_is_sent_from_the_next_turn_on(room: Room) -> None:
    session_id = room.session("Be kind.")
    old = room.store.prompt(session_id)
    for content in ("Be short.", "", "Be long."):
        room.sessions.set_prompt(session_id, content)
        room.llm.answers.append(FakeAnswer().say(text("Hi")).finish())
        room.ask(session_id)
        await turns_of_the_loop()
        system = [one["content"] for one in room.llm.asked[-1][0] if one["role"] == "system"]
        assert system == ([content] if content else [])
        prompt = room.store.prompt(session_id)
        if content == "Be short.":
            assert prompt
            assert old
            assert prompt.message_id == old.message_id
