"""What is asked in place of a turn follows what that one followed; tools answer the calls that were made."""

from __future__ import annotations

import json

import pytest

from chatbot.chat.questions import in_place_of, tool_messages
from chatbot.errors import ChatError
from chatbot.ids import MAX_INPUT_MESSAGES, message_id
from chatbot.records import DELETED
from tests.chat.conftest import HELLO, FakeAnswer, Room, call, turns_of_the_loop
from tests.tools.counting import Compared


async def test_a_question_in_place_of_a_turn_becomes_its_sibling(room: Room) -> None:
    session_id = room.session("Be kind.")
    first = await room.turn(session_id)
    said = ('{"role":"user","content":"One"}', '{"role":"user","content":"Two"}')
    second = await room.turn(session_id, *said)
    for place in (0, 1, 2):
        named = message_id(second.turn_id, place)
        assert in_place_of(room.store, session_id, named, None) == (first.seq, said)
        assert in_place_of(room.store, session_id, named, (HELLO,)) == (first.seq, (HELLO,))
    assert in_place_of(room.store, session_id, first.turn_id, None) == (None, (HELLO,))
    more = await room.turn(session_id, DELETED)
    assert in_place_of(room.store, session_id, more.turn_id, None) == (second.seq, (DELETED,))
    room.store.keep_only(second.seq, f"{said[0]}\n{DELETED}")
    assert in_place_of(room.store, session_id, message_id(second.turn_id, 1), None) == (first.seq, said[:1])
    for turn in (first, second):
        room.store.keep_only(turn.seq, DELETED)
    with pytest.raises(ChatError) as error:
        in_place_of(room.store, session_id, more.turn_id, None)
    assert (error.value.code, error.value.param) == ("invalid_request", "replace")
    prompt = room.store.prompt(session_id)
    assert prompt
    for unknown in (prompt.message_id, "x", message_id(first.turn_id, 2)):
        with pytest.raises(ChatError) as error:
            in_place_of(room.store, session_id, unknown, None)
        assert (error.value.code, error.value.param) == ("message_not_found", "replace")


async def test_a_reply_in_place_of_another_changes_nothing_until_it_is_stored(room: Room) -> None:
    session_id = room.session()
    turn = await room.turn(session_id)
    parent, said = in_place_of(room.store, session_id, turn.turn_id, None)
    for answer in (ChatError("llm_error", "Sorry."), FakeAnswer()):
        room.llm.answers.append(answer)
        reply = room.ask(session_id, *said, parent=parent)
        await turns_of_the_loop()
        reply.stop()
        assert room.at(session_id).current == turn.seq
        assert [one.seq for one in room.store.children(session_id, None)] == [turn.seq]
    again = await room.turn(session_id, *said, parent=parent)
    assert room.at(session_id).current == again.seq
    assert [one.seq for one in room.store.children(session_id, None)] == [turn.seq, again.seq]


async def test_the_outputs_of_tools_follow_the_calls(room: Room) -> None:
    session_id = room.session()
    room.llm.answers.append(FakeAnswer().say(call("call_1"), call("call_2", number=1)).finish("tool_calls"))
    reply = room.ask(session_id)
    await turns_of_the_loop()
    said = tool_messages([reply.turn], [("call_2", "12:00"), ("call_1", "one\ntwo")])
    assert [json.loads(one) for one in said] == [
        {"role": "tool", "tool_call_id": "call_2", "content": "12:00"},
        {"role": "tool", "tool_call_id": "call_1", "content": "one\ntwo"},
    ]
    assert not any("\n" in one for one in said)
    await room.turn(session_id, *said)
    assert [one["role"] for one in room.llm.asked[-1][0]] == ["user", "assistant", "tool", "tool"]


async def test_outputs_of_what_was_not_called_are_refused(room: Room) -> None:
    session_id = room.session()
    room.llm.answers.append(FakeAnswer().say(call("call_1"), call("call_2", '{"h', 1)).finish("length"))
    reply = room.ask(session_id)
    await turns_of_the_loop()
    assert tool_messages([reply.turn], [("call_1", "12:00")])
    for turn, ids in ((reply.turn, ["call_2"]), (reply.turn, ["call_1", "call_1"]), (None, ["call_1"])):
        with pytest.raises(ChatError) as error:
            tool_messages([turn] if turn else [], [(one, "12:00") for one in ids])
        assert (error.value.code, error.value.param) == ("invalid_request", "tool_outputs")


async def test_each_output_is_looked_for_among_the_calls_once_however_many_there_are(room: Room) -> None:
    session_id = room.session()
    calls = [call(f"call_{number}", number=number) for number in range(100)]
    room.llm.answers.append(FakeAnswer().say(*calls).finish("tool_calls"))
    reply = room.ask(session_id)
    await turns_of_the_loop()
    Compared.count = 0
    said = tool_messages([reply.turn], [(Compared(f"call_{number}"), "") for number in range(99, -1, -1)])
    assert (len(said), Compared.count <= 300) == (100, True)


async def test_outputs_are_no_more_than_a_turn_has_ids_for(room: Room) -> None:
    """The ids of those beyond were no UUIDs, and none of them could be read alone."""
    session_id = room.session()
    calls = [call(f"call_{number}", number=number) for number in range(MAX_INPUT_MESSAGES + 1)]
    room.llm.answers.append(FakeAnswer().say(*calls).finish("tool_calls"))
    reply = room.ask(session_id)
    await turns_of_the_loop()
    outputs = [(f"call_{number}", "") for number in range(MAX_INPUT_MESSAGES + 1)]
    assert len(tool_messages([reply.turn], outputs[:-1])) == MAX_INPUT_MESSAGES
    with pytest.raises(ChatError) as error:
        tool_messages([reply.turn], outputs)
    assert (error.value.code, error.value.param) == ("invalid_request", "tool_outputs")
