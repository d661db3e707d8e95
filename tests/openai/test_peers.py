"""What others who offer this API get wrong."""

from __future__ import annotations

import asyncio

import pytest

from tests.openai.door import Door, EventStream, text_of
from tests.tools.scripted_llm import Gate, ScriptedLLM, delta, events, reply
from tests.tools.server import Clock, until


async def test_two_at_once_in_a_conversation_are_not_mixed(door: Door, llm: ScriptedLLM):
    _, conversation = await door.call("POST", "/conversations")
    gate = Gate()
    llm.play(reply("One", gate, "."))
    asked = asyncio.create_task(door.respond("a", conversation=conversation["id"]))
    await gate.reached.wait()
    error = await door.refused(409, "conversation", conversation=conversation["id"])
    assert error["code"] == "conversation_locked"
    assert door.headers["x-should-retry"] == "false"
    gate.open()
    assert text_of(await asked) == "One."
    assert text_of(await door.respond("b", conversation=conversation["id"])) == "You said: a / b"


async def test_several_from_one_response_run_at_once(door: Door, llm: ScriptedLLM):
    root = await door.respond("root")
    gate = Gate()
    llm.play(*[reply(gate, "done")] * 3)
    asked = [asyncio.create_task(door.respond(n, previous_response_id=root["id"])) for n in "abc"]
    await until(lambda: len(door.server.replies) == 3)
    gate.open()
    children = await asyncio.gather(*asked)
    assert {child["previous_response_id"] for child in children} == {root["id"]}
    more = await door.respond("more", previous_response_id=children[1]["id"])
    assert text_of(more) == "You said: root / b / more"


async def test_a_hang_up_leaves_what_came(door: Door, clock: Clock):
    stream = await door.stream("go on for ever")
    created = await stream.event()
    await stream.until("response.output_text.delta")
    stream.leave()
    response_id = created["response"]["id"]
    await until(lambda: door.server.replies.by_response(response_id)._grace_timer is not None)  # type: ignore[union-attr]
    clock.advance(61)
    await door.server.ended()
    _, response = await door.call("GET", f"/responses/{response_id}")
    assert (response["status"], text_of(response)) == ("cancelled", "On and on")


async def test_a_failure_in_the_middle_ends_with_response_failed(door: Door):
    types = [event["type"] for event in await (await door.stream("break")).rest()]
    assert types[-1] == "response.failed"
    assert "response.output_text.delta" in types


async def test_a_conversation_may_be_an_object_and_be_made_without_a_body(door: Door):
    for body in (None, {}, {"items": []}, {"metadata": {"a": "b"}}, {"items": None, "metadata": None}):
        status, conversation = await door.call("POST", "/conversations", body)
        assert status == 200
        answer = await door.respond("Hi", conversation={"id": conversation["id"]})
        assert answer["conversation"] == {"id": conversation["id"]}


async def test_content_is_a_list_of_parts_wherever_it_is_listed(door: Door):
    _, conversation = await door.call(
        "POST", "/conversations", {"items": [{"role": "user", "content": "Hi"}]}
    )
    await door.respond("Ho", conversation=conversation["id"])
    _, page = await door.call("GET", f"/conversations/{conversation['id']}/items?order=asc")
    assert [[part["text"] for part in item["content"]] for item in page["data"]] == [
        ["Hi"],
        ["Ho"],
        ["You said: Hi / Ho"],
    ]


@pytest.mark.parametrize("response_id", ["resp_" + "0" * 34, "nonsense", "", "resp_ü"])
async def test_an_unknown_previous_response_is_refused(door: Door, response_id: str):
    error = await door.refused(404, "previous_response_id", previous_response_id=response_id)
    assert error["code"] == "not_found"


async def test_a_silent_llm_is_bridged(door: Door, llm: ScriptedLLM, clock: Clock):
    gate = Gate()
    llm.play(reply(gate, "Hi"))
    opening = asyncio.create_task(door.stream("Hi"))
    await gate.reached.wait()
    clock.advance(16)
    stream = await opening
    assert [(await stream.event())["type"] for _ in range(2)] == ["response.created", "response.in_progress"]
    clock.advance(16)
    reading = asyncio.create_task(stream.event())
    await until(lambda: stream.comments > 0)
    gate.open()
    assert (await reading)["type"] == "response.output_item.added"


async def test_cancel_keeps_the_text_that_came(door: Door):
    stream: EventStream = await door.stream("go on for ever")
    created = await stream.event()
    await stream.until("response.output_text.delta")
    while (await stream.event())["delta"] != "on":
        pass
    _, cancelled = await door.call("POST", f"/responses/{created['response']['id']}/cancel")
    assert (cancelled["status"], text_of(cancelled)) == ("cancelled", "On and on")
    rest = await stream.rest()
    assert rest[-1]["type"] == "response.completed"
    assert rest[-1]["response"] == cancelled


async def test_a_reply_with_text_after_its_finish_is_whole(door: Door, llm: ScriptedLLM):
    llm.play([*events(delta("Hel", finish="stop"), delta("lo"), delta(finish="stop")), b"0\r\n\r\n"])
    seen = await (await door.stream()).rest()
    assert text_of(seen[-1]["response"]) == "Hello"
