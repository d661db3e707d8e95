"""Replies are found by whatever names them, begin only where they may, and are never paid for twice."""

from __future__ import annotations

import asyncio

import pytest

from chatbot.chat.reply_log import ReplyLog
from chatbot.chat.reply_registry import key_hash
from chatbot.chat.stored_reply import _log_of, forget_logs
from chatbot.errors import ChatError
from chatbot.records import Piece, Turn
from tests.chat.conftest import FakeAnswer, Room, StartRoom, text, turns_of_the_loop


def refused(room: Room, session_id: str, **how: bool) -> ChatError:
    with pytest.raises(ChatError) as error:
        room.registry.admit(session_id, **how)
    return error.value


async def test_a_session_is_busy_while_a_reply_occupies_it_and_not_with_others(room: Room) -> None:
    session_id = room.session()
    aside = room.ask(session_id, occupies=False)
    room.registry.admit(session_id)
    reply = room.ask(session_id)
    assert (refused(room, session_id).code, refused(room, session_id).extra) == (
        "session_busy",
        {"message_id": reply.message_id},
    )
    room.registry.admit(session_id, occupies=False)
    room.registry.admit(room.session())
    assert room.registry.replies_in(session_id) == [aside, reply]
    reply.stop()
    room.registry.admit(session_id)
    assert room.registry.occupying(session_id) is None
    assert room.registry.replies_in(session_id) == [aside]


async def test_no_more_replies_run_than_may(start_room: StartRoom) -> None:
    room = start_room(max_active_replies=2)
    replies = [room.ask(room.session()), room.ask("", occupies=False, stored=False)]
    error = refused(room, room.session())
    assert (error.code, error.retry_after, len(room.registry)) == ("overloaded", "1", 2)
    replies[1].stop()
    room.registry.admit(room.session())


async def test_what_is_not_stored_may_begin_while_the_storage_is_full(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    session_id = room.session()
    monkeypatch.setattr(type(room.store), "is_full", True)
    assert refused(room, session_id).code == "storage_full"
    room.registry.admit("", occupies=False, stores=False)


async def test_a_session_is_not_called_busy_once_the_shutdown_has_begun(room: Room) -> None:
    session_id = room.session()
    room.ask(session_id)
    room.registry.closing = True
    assert refused(room, session_id).code == "shutting_down", "a client may try this again, but not a 409"


async def test_a_key_finds_the_reply_while_it_runs_and_after_and_no_other(room: Room) -> None:
    session_id, key = room.session(), key_hash("scope", "key")
    assert key_hash("scop", "ekey") != key != key_hash("other", "key")
    assert room.registry.known("", "hash") is None
    assert room.registry.known(key, "hash") is None
    room.llm.answers.append(FakeAnswer().say(text("Hi")).finish())
    reply = room.ask(session_id, key_hash=key, request_hash="hash")
    assert room.registry.known(key, "hash") is reply
    await turns_of_the_loop()
    stored = room.registry.known(key, "hash")
    assert stored
    assert stored is not reply
    assert (stored.message_id, stored.turn, stored.log.length) == (reply.message_id, reply.turn, 2)
    for _ in range(2):
        with pytest.raises(ChatError) as error:
            room.registry.known(key, "another")
        assert (error.value.code, error.value.param) == ("idempotency_key_reused", "Idempotency-Key")
    room.sessions.rewind(session_id, reply.message_id)
    assert room.registry.known(key, "hash") is None


async def test_a_stored_reply_is_what_the_running_one_was(room: Room) -> None:
    session_id = room.session()
    turn = await room.turn(session_id)
    stored = room.registry.find(session_id, turn.turn_id)
    was = room.ended[0]
    for name in (
        "session_id",
        "message_id",
        "created_at",
        "model",
        "finish_reason",
        "usage",
        "turn",
    ):
        assert getattr(stored, name) == getattr(was, name), name
    assert [*stored.log.pieces(0, 99)] == [*was.log.pieces(0, 99)]
    assert (stored.has_pushed, stored.finish_sent, stored.ended, stored.error) == (True, True, True, None)
    stored.stop()
    room.sessions.rewind(session_id, turn.turn_id)
    with pytest.raises(ChatError, match="deleted"):
        _ = stored.turn


async def test_only_replies_of_the_session_are_found(room: Room) -> None:
    session_id, other = room.session("Be kind."), room.session()
    turn = await room.turn(session_id)
    running = room.ask(session_id)
    assert room.registry.find(session_id, running.message_id) is running
    said = room.store.turn_of(session_id, turn.turn_id[:-3] + "001")
    assert said
    prompt = room.store.prompt(session_id)
    assert prompt
    for message_id in (turn.turn_id[:-3] + "001", turn.turn_id[:-3] + "801", prompt.message_id, "x", ""):
        with pytest.raises(ChatError, match="no such reply"):
            room.registry.find(session_id, message_id)
    for message_id in (turn.turn_id, running.message_id):
        with pytest.raises(ChatError, match="no such reply"):
            room.registry.find(other, message_id)


async def test_a_reply_of_openais_door_is_found_by_its_response(room: Room) -> None:
    reply = room.ask(room.session(), response_id="resp_1", response="{}")
    assert room.registry.by_response("resp_1") is reply
    reply.stop()
    assert room.registry.by_response("resp_1") is None


@pytest.mark.parametrize("how", ["deleted", "shortened"])
async def test_who_is_being_sent_a_stored_reply_that_is_deleted_gets_no_more_of_it(
    room: Room, how: str
) -> None:
    session_id = room.session()
    turn = await room.turn(session_id)
    source = room.registry.find(session_id, turn.turn_id)
    assert [*source.log.pieces(0, 99)]
    if how == "deleted":
        room.sessions.rewind(session_id, turn.turn_id)
    else:
        shorter = ReplyLog()
        shorter.append([Piece("text", "H")])
        room.store.keep_only(turn.seq, turn.input, shorter.to_columns())
        forget_logs()
        assert room.registry.find(session_id, turn.turn_id).log.length == 1
    with pytest.raises(ChatError, match="deleted"):
        source.log.pieces(0, 99)


async def test_many_who_are_sent_long_stored_replies_share_a_bounded_memory(room: Room) -> None:
    session_id = room.session()
    turns: list[Turn] = [await room.turn(session_id, answer="a" * 3_000_000) for _ in range(15)]
    sources = [room.registry.find(session_id, turn.turn_id) for turn in turns for _ in range(3)]
    for source in sources:
        assert source.log.length == 3_000_000
    assert _log_of.cache_info().currsize == 8
    assert len({id(source.log) for source in sources[-6:]}) == 2
    assert len(next(sources[0].log.pieces(5, 10)).text) == 10, "one that was forgotten is read again"


# Shutdown


async def test_a_shutdown_lets_what_runs_end_within_the_grace(room: Room) -> None:
    reply = room.ask(room.session())
    await turns_of_the_loop()
    draining = asyncio.create_task(room.registry.drain(10, asyncio.Event()))
    await turns_of_the_loop()
    with pytest.raises(ChatError) as error:
        room.session()
    assert (error.value.code, error.value.retry_after) == ("shutting_down", "5")
    assert not draining.done()
    room.llm.given[0].say(text("Hi")).finish()
    await turns_of_the_loop()
    assert draining.done()
    assert reply.finish_reason == "stop"


@pytest.mark.parametrize("hurried", [False, True])
async def test_a_shutdown_stops_what_still_runs_after_the_grace_or_when_it_is_hurried(
    room: Room, hurried: bool
) -> None:
    session_id = room.session()
    replies = [room.ask(session_id), room.ask(session_id, occupies=False)]
    await turns_of_the_loop()
    room.llm.given[0].say(text("Once "))
    await turns_of_the_loop()
    hurry = asyncio.Event()
    draining = asyncio.create_task(room.registry.drain(10, hurry))
    await turns_of_the_loop()
    await room.clock.advance(9)
    assert not draining.done()
    if hurried:
        hurry.set()
    await room.clock.advance(0 if hurried else 1.5)
    assert draining.done()
    await room.registry.close()
    assert [reply.finish_reason for reply in replies] == ["cancelled", None]
    assert [reply.error and reply.error.code for reply in replies] == ["shutting_down", "shutting_down"]
    assert len(room.registry) == 0


async def test_a_shutdown_of_nothing_takes_no_time(room: Room) -> None:
    await room.registry.drain(10, asyncio.Event())
    await room.registry.close()
