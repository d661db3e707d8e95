"""A reply ends once: what becomes of it, whatever came and however it ended, and what its listeners see."""

from __future__ import annotations

import json

import pytest

from chatbot.errors import ChatError, TooLong
from chatbot.records import REASONING, REFUSAL, Chunk, Piece
from tests.chat.conftest import HELLO, FakeAnswer, Recorder, Room, StartRoom, call, text, turns_of_the_loop

THOUGHT = Chunk(b"{}", (Piece(REASONING, "Hm, "),))
ANSWERS = {
    "text": [text("Hi")],
    "refusal": [Chunk(b"{}", (Piece(REFUSAL, "No."),))],
    "calls": [call("call_1")],
    "reasoning": [THOUGHT],
    "nothing": [Chunk(b"{}")],
}


async def test_a_stored_turn_tells_all_that_was_said_and_how(room: Room) -> None:
    session_id = room.session()
    first = await room.turn(session_id)
    said = ('{"role":"user","content":"One"}', '{"role":"user","content":"Two"}')
    reply = room.ask(session_id, *said, options={"model": "big"}, key_hash="k", request_hash="h")
    await turns_of_the_loop()
    await room.clock.advance(2)
    answer = room.llm.given[-1].say(THOUGHT, text("Hi"), call("call_1"))
    await turns_of_the_loop()
    await room.clock.advance(3)
    answer.finish("tool_calls", '{"total_tokens":9}')
    await turns_of_the_loop()
    turn = reply.turn
    assert turn == room.store.turn(turn.seq if turn else 0)
    assert turn
    assert (turn.parent, turn.turn_id, turn.messages) == (first.seq, reply.message_id, list(said))
    assert (turn.finish_reason, turn.reasoning) == ("tool_calls", "Hm, ")
    assert (turn.model, turn.token_usage) == ("parrot-1", '{"total_tokens":9}')
    assert (turn.idempotency_key, turn.request_hash) == ("k", "h")
    assert turn.asked_at == 1_000_000_000
    assert turn.replied_at == 1_000_005_000
    assert turn.first_token_ms is not None
    assert 2000 <= turn.first_token_ms < 3000
    assert room.at(session_id).current == turn.seq
    assert answer.closed
    assert room.ended[-1] is reply


async def test_listeners_are_pushed_each_chunk_with_its_offset_and_woken_at_the_end(room: Room) -> None:
    reply, listeners = room.ask(room.session()), [Recorder(), Recorder()]
    reply.join(listeners[0])
    await turns_of_the_loop()
    room.llm.given[0].say(THOUGHT, text("Once "))
    await turns_of_the_loop()
    reply.join(listeners[1])
    assert [*reply.log.pieces(0, 99)] == [Piece(REASONING, "Hm, "), Piece("text", "Once ")]
    room.llm.given[0].say(text("upon")).finish()
    await turns_of_the_loop()
    live = [(b'"upon"', 13), (b"finish", 13)]
    assert listeners[0].pushed == [(b"{}", 4), (b'"Once "', 9), *live]
    assert listeners[1].pushed == live
    assert [one.woken for one in listeners] == [1, 1]
    assert (reply.has_pushed, reply.finish_sent, reply.ended, reply.error) == (True, True, True, None)


@pytest.mark.parametrize("said", ANSWERS)
@pytest.mark.parametrize("finish_reason", ["stop", "odd", "length", "content_filter", None])
async def test_whatever_came_is_stored_however_it_ended_and_nothing_is_not(
    room: Room, said: str, finish_reason: str | None
) -> None:
    session_id = room.session()
    reply = room.ask(session_id)
    await turns_of_the_loop()
    answer = room.llm.given[0].say(*ANSWERS[said])
    if finish_reason:
        answer.finish(finish_reason)
    await turns_of_the_loop()
    reply.stop()
    assert reply.ended
    await turns_of_the_loop()
    assert answer.closed
    if said == "nothing":
        code = "llm_error" if finish_reason else "reply_cancelled"
        assert (reply.error and reply.error.code, reply.turn, reply.finish_reason) == (code, None, None)
        assert room.at(session_id).current is None
    else:
        assert reply.turn
        assert reply.turn.finish_reason == reply.finish_reason == (finish_reason or "cancelled")
        assert (reply.error, room.at(session_id).current) == (None, reply.turn.seq)


async def test_a_reply_that_is_stopped_lets_go_of_the_llm_at_once_and_ends_once(room: Room) -> None:
    reply = room.ask(room.session())
    await turns_of_the_loop()
    room.llm.given[0].say(text("Once "), call("call_1", '{"half'))
    await turns_of_the_loop()
    reply.stop()
    turn = reply.turn
    assert turn
    assert json.loads(turn.output or "")["tool_calls"][0]["function"]["arguments"] == '{"half'
    room.llm.given[0].say(text("upon"))
    await turns_of_the_loop()
    reply.stop()
    reply.discard(ChatError("message_not_found", "Gone."))
    assert (reply.turn, reply.error, reply.log.length) == (turn, None, 12)
    assert room.llm.given[0].closed
    assert len(room.ended) == 1


async def test_a_reply_takes_nothing_more_once_its_end_is_decided(room: Room) -> None:
    reply, listener = room.ask(room.session()), Recorder()
    reply.join(listener)
    await turns_of_the_loop()
    room.llm.given[0].say(text("Once "))
    await turns_of_the_loop()
    reply.stop()
    room.llm.given[0].is_complete = True
    assert not reply._take([text("upon")])
    assert (reply.log.length, reply.finish_sent, len(listener.pushed)) == (5, False, 1)


@pytest.mark.parametrize(
    ("said", "reason", "expected"),
    [("text", "length", "length"), ("nothing", "stop", None), ("reasoning", "stop", "cancelled")],
)
async def test_a_reply_that_is_stopped_after_the_llm_said_how_it_ends_is_stored_as_that(
    room: Room, said: str, reason: str, expected: str | None
) -> None:
    reply, listener = room.ask(room.session()), Recorder()
    reply.join(listener)
    await turns_of_the_loop()
    room.llm.given[0].say(*ANSWERS[said])
    await turns_of_the_loop()
    room.llm.given[0].finish_reason = reason  # and it is not known yet whether more comes
    reply.stop()
    assert (reply.finish_reason, reply.finish_sent) == (expected, False)
    assert (reply.error.code if reply.error else None) == (None if expected else "reply_cancelled")


async def test_thoughts_alone_that_are_complete_are_stored_as_that_though_it_is_stopped(room: Room) -> None:
    reply, listener = room.ask(room.session()), Recorder()
    reply.join(listener)
    await turns_of_the_loop()
    room.llm.given[0].say(THOUGHT)
    await turns_of_the_loop()
    room.llm.given[0].finish_reason, room.llm.given[0].is_complete = "length", True
    assert reply._take([Chunk(b"finish")])  # as it is called in the transport's callback
    reply.stop()  # before the task wakes
    assert (reply.finish_reason, reply.finish_sent, reply.error) == ("length", True, None)


async def test_a_reply_that_passes_4_mib_is_cut_there(room: Room) -> None:
    reply, listener = room.ask(room.session()), Recorder()
    reply.join(listener)
    await turns_of_the_loop()
    for _ in range(5):
        room.llm.given[0].say(text("책" * (1024 * 1024 // 3)))
    await turns_of_the_loop()
    assert (reply.finish_reason, reply.finish_sent) == ("length", False)
    assert 4 * 1024 * 1024 - 3 < reply.log.size <= 4 * 1024 * 1024
    assert len(listener.pushed) == 4, "the last of it is read from the log"
    assert room.llm.given[0].closed


@pytest.mark.parametrize("said", ["text", "nothing"])
async def test_a_failure_leaves_no_trace_whatever_had_come(room: Room, said: str) -> None:
    session_id = room.session()
    reply = room.ask(session_id, key_hash="k", request_hash="h")
    await turns_of_the_loop()
    room.llm.given[0].say(*ANSWERS[said]).fail(ChatError("llm_error", "Sorry."))
    await turns_of_the_loop()
    assert reply.error
    assert reply.error.code == "llm_error"
    assert reply.error.__traceback__ is None
    assert room.store.count_messages(session_id, room.at(session_id).current) == 0
    assert room.registry.known("k", "h") is None, "the key is free again"


async def test_an_unforeseen_crash_is_an_internal_error(room: Room, caplog: pytest.LogCaptureFixture) -> None:
    reply = room.ask(room.session())
    await turns_of_the_loop()
    room.llm.given[0].say(Chunk(b"{}", (None,)))  # type: ignore[arg-type]
    await turns_of_the_loop()
    assert reply.error
    assert reply.error.code == "internal_error"
    assert "crashed" in caplog.text


# Nobody listens


@pytest.mark.parametrize(("detached", "expected"), [(False, "cancelled"), (True, None)])
async def test_a_reply_to_nobody_goes_on_for_the_grace_unless_it_is_detached(
    room: Room, detached: bool, expected: str | None
) -> None:
    reply, listener = room.ask(room.session(), detached=detached), Recorder()
    reply.join(listener)
    await turns_of_the_loop()
    room.llm.given[0].say(text("Once "))
    await turns_of_the_loop()
    for _ in range(2):
        reply.leave(listener)
        await room.clock.advance(59)
        assert not reply.ended
        reply.join(listener)
        await room.clock.advance(60)
        assert not reply.ended, "somebody listens"
    reply.leave(listener)
    await room.clock.advance(61)
    assert reply.finish_reason == expected


async def test_without_a_grace_a_reply_is_stopped_when_the_last_listener_leaves(
    start_room: StartRoom,
) -> None:
    room = start_room(disconnect_grace_seconds=0)
    reply, listeners = room.ask(room.session()), [Recorder(), Recorder()]
    for listener in listeners:
        reply.join(listener)
    await turns_of_the_loop()
    reply.leave(listeners[0])
    assert not reply.ended
    reply.leave(listeners[1])
    assert reply.error
    assert reply.error.code == "reply_cancelled"


# Where it stands in the tree


async def test_a_reply_that_occupies_nothing_becomes_current_only_if_its_parent_still_is(room: Room) -> None:
    session_id = room.session()
    first = await room.turn(session_id)
    aside = [room.ask(session_id, occupies=False) for _ in range(2)]
    await turns_of_the_loop()
    for answer in room.llm.given[-2:]:
        answer.say(text("Hi")).finish()
        await turns_of_the_loop()
    assert all(reply.turn and reply.turn.parent == first.seq for reply in aside)
    assert aside[0].turn
    assert room.at(session_id).current == aside[0].turn.seq


async def test_a_reply_that_is_not_to_be_stored_leaves_nothing_and_is_shown_all_the_same(room: Room) -> None:
    session_id = room.session()
    reply = room.ask(session_id, stored=False, occupies=False)
    alone = room.ask("", stored=False, occupies=False)
    await turns_of_the_loop()
    await room.clock.advance(800)
    for answer in room.llm.given:
        answer.say(text("Hi")).finish()
    await turns_of_the_loop()
    for one in (reply, alone):
        assert one.turn
        assert (one.turn.seq, one.turn.output) == (0, '{"role":"assistant","content":"Hi"}')
    assert room.store.count_messages(session_id, None) == 0
    assert room.at(session_id).current is None
    assert room.at(session_id).last_accessed == 1_000_800_000, "the session was used"
    assert [affinity is None for _, _, affinity in room.llm.asked] == [False, True]


# What the LLM is sent


async def test_the_llm_knows_a_conversation_by_a_key_that_is_the_same_for_its_branches(room: Room) -> None:
    sessions = [room.session(), room.session()]
    for session_id in sessions:
        first = await room.turn(session_id)
        await room.turn(session_id, parent=first.parent)
    keys = [affinity or "" for _, _, affinity in room.llm.asked]
    assert (keys[0], keys[2]) == (keys[1], keys[3])
    assert keys[0] != keys[2]
    assert not any(session_id in key or key in session_id for session_id in sessions for key in keys)


@pytest.mark.parametrize("own", [None, "Be kind."])
@pytest.mark.parametrize("instructions", [None, "Be short."])
async def test_what_stands_before_the_turns_is_one_system_message(
    start_room: StartRoom, own: str | None, instructions: str | None
) -> None:
    room = start_room(system_prompt="Be good.")
    await room.turn(room.session(own), instructions=instructions)
    expected = "\n\n".join(filter(None, (own, instructions))) or "Be good."
    messages = room.llm.asked[0][0]
    assert messages == [{"role": "system", "content": expected}, json.loads(HELLO)]


@pytest.mark.parametrize(("words", "usage"), [(1, '{"prompt_tokens":9000}'), (9000, None)])
async def test_what_was_too_long_is_asked_again_with_less(room: Room, words: int, usage: str | None) -> None:
    session_id = room.session()
    for _ in range(4):
        await room.turn(session_id)
    room.llm.answers = [
        TooLong("context_too_long", "Too long."),
        FakeAnswer().fail(TooLong("context_too_long", "!")),
    ]
    turn = await room.turn(session_id)
    sent = [len(messages) for messages, _, _ in room.llm.asked[4:]]
    assert sent[0] == 9
    assert sorted(sent, reverse=True) == sent
    assert len(set(sent)) == 3
    assert room.ended[-1].context_messages == sent[-1]
    assert turn.context_start != room.store.children(session_id, None)[0].seq
    assert room.registry.limits.budget("parrot", {}).tokens
    room.llm.answers = [FakeAnswer().say(text("Hi")).finish(usage=usage)]
    room.ask(session_id, HELLO.replace("Hello", "Hello " * words))
    await turns_of_the_loop()
    assert room.registry.limits.budget("parrot", {}).tokens is None, "it took more than it had refused"


async def test_what_may_have_been_too_long_is_asked_again_once(room: Room) -> None:
    session_id = room.session()
    for _ in range(4):
        await room.turn(session_id)
    room.llm.answers = [TooLong("llm_error", "It ended.", is_certain=False) for _ in range(3)]
    reply = room.ask(session_id)
    await turns_of_the_loop()
    assert reply.error
    assert reply.error.code == "llm_error"
    assert len(room.llm.asked) == 6


async def test_what_is_too_long_is_not_asked_again_once_something_was_sent(room: Room) -> None:
    session_id = room.session()
    await room.turn(session_id)
    room.llm.answers = [FakeAnswer().say(text("Once ")).fail(TooLong("context_too_long", "Too long."))]
    reply = room.ask(session_id)
    await turns_of_the_loop()
    assert reply.error
    assert (reply.error.code, len(room.llm.asked)) == ("context_too_long", 2)


async def test_what_is_said_and_not_sent_takes_no_place_in_a_context(start_room: StartRoom) -> None:
    room = start_room(max_context_messages=4)
    session_id = room.session()
    for _ in range(2):
        await room.turn(session_id)
    room.ask(session_id, '{"role":"assistant","content":""}')
    await turns_of_the_loop()
    assert len(room.llm.asked[-1][0]) == 4, "the context was full, and not over"
