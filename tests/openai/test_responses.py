"""A response is streamed, cancelled, repeated and deleted, and nobody else hears of it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.openai.door import Door, text_of
from tests.tools.scripted_llm import Gate, Hang, ScriptedLLM, delta, events, reply
from tests.tools.server import Clock, until


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
    stream = await door.stream("go on for ever")
    created = await stream.event()
    await stream.until("response.output_text.delta")
    while (await stream.event())["delta"] != "on":
        pass
    _, cancelled = await door.call("POST", f"/responses/{created['response']['id']}/cancel")
    assert (cancelled["status"], text_of(cancelled)) == ("cancelled", "On and on")
    rest = await stream.rest()
    assert rest[-1]["type"] == "response.completed"
    assert rest[-1]["response"] == cancelled


async def test_what_was_cancelled_before_its_first_word_is_cancelled(door: Door, llm: ScriptedLLM):
    llm.play(events(Hang))
    response = await door.respond(background=True)
    await llm.asked()
    _, cancelled = await door.call("POST", f"/responses/{response['id']}/cancel")
    assert (cancelled["status"], cancelled["output"]) == ("cancelled", [])
    assert (await door.call("GET", f"/responses/{response['id']}"))[1]["status"] == "cancelled"


async def test_what_a_shutdown_cuts_ends_like_any_that_is_cancelled(door: Door):
    stream = await door.stream("for ever")
    await stream.until("response.output_text.delta")
    hurry = asyncio.Event()
    hurry.set()
    stopping = asyncio.create_task(door.server.server.stop(hurry))
    *_, done, last = await stream.rest()
    await stopping
    door.server.stopped = True
    assert (done["type"], last["type"]) == ("response.output_item.done", "response.completed")
    assert last["response"]["status"] == "cancelled"


async def test_a_reply_with_text_after_its_finish_is_whole(door: Door, llm: ScriptedLLM):
    llm.play(reply(delta("Hel", finish="stop"), "lo"))
    seen = await (await door.stream()).rest()
    assert text_of(seen[-1]["response"]) == "Hello"


async def test_store_false_leaves_nothing_behind(door: Door):
    await door.respond("secret", store=False)
    conversation = await door.converse()
    one = await door.respond("one", conversation=conversation)
    aside = await door.respond("secret", conversation=conversation, store=False)
    assert text_of(aside) == "You said: one / secret"
    assert (await door.call("GET", f"/responses/{aside['id']}"))[0] == 404
    branch = await door.respond("secret", previous_response_id=one["id"], store=False)
    assert text_of(branch) == "You said: one / secret"
    assert door.server.sql("SELECT count(*) FROM turns") == [(1,)]
    assert door.server.sql("SELECT count(*) FROM sessions") == [(1,)]


async def test_a_response_that_is_deleted_is_missed_in_no_conversation(door: Door):
    conversation = await door.converse()
    named = await door.respond("one", conversation=conversation)
    root = await door.respond("root")
    leaf = await door.respond("leaf", previous_response_id=root["id"])
    for response in (named, root, leaf):
        await door.call("DELETE", f"/responses/{response['id']}")
        assert (await door.call("GET", f"/responses/{response['id']}"))[0] == 404
    assert len(await door.items(conversation)) == 2
    turns = door.server.sql("SELECT seq FROM turns")
    assert sum(door.server.store.is_alive(seq) for (seq,) in turns) == 2


async def test_the_headers_and_the_log_keep_a_response_to_itself(door: Door, log: Any):
    response = await door.respond("one")
    assert "X-Session-ID" not in door.headers
    await door.call("GET", f"/responses/{response['id']}")
    assert "X-Session-ID" not in door.headers
    await door.respond("two", previous_response_id=response["id"])
    assert not log.lines(holding=response["id"])
    assert len(log.lines(holding=f" session={response['id'][5:7]}")) == 3, "it begins as the response's id"
    conversation = await door.converse()
    assert conversation == f"conv_{door.headers['X-Session-ID']}"


async def test_an_idempotency_key_has_a_scope(door: Door, llm: ScriptedLLM):
    async def ask(body: Any, **headers: str) -> tuple[int, Any]:
        return await door.call("POST", "/responses", {"input": "Hi"} | body, Idempotency_Key="k", **headers)

    status, refused = await ask({})
    assert (status, refused["error"]["param"]) == (400, "Idempotency-Key")
    _, one = await ask({}, Authorization="Bearer a")
    assert (await ask({}, Authorization="Bearer a"))[1]["id"] == one["id"]
    assert door.headers["Idempotent-Replayed"] == "true"
    assert (await ask({}, Authorization="Bearer b"))[1]["id"] != one["id"]
    conversation = await door.converse()
    _, two = await ask({"conversation": conversation})
    assert (await ask({"conversation": conversation}))[1] == two
    assert (await ask({"conversation": conversation, "stream": False}))[1] == two
    status, reused = await ask({"conversation": conversation, "input": "other"})
    assert (status, reused["error"]["code"]) == (422, "idempotency_key_reused")
    assert len(llm.exchanges) == 3


async def test_a_response_that_is_repeated_by_its_key_is_kept_alive(door: Door, clock: Clock):
    used = list[int]()
    for _ in range(2):
        clock.advance(1)
        await door.call("POST", "/responses", {"input": "Hi"}, Idempotency_Key="k", Authorization="Bearer a")
        used += door.server.sql("SELECT last_accessed FROM sessions")[0]
    assert used[1] >= used[0] + 1000, "whoever was sent it may go on from it"


async def test_a_response_that_is_deleted_frees_its_idempotency_key(door: Door):
    conversation = await door.converse()
    body = {"input": "Hi", "conversation": conversation}
    _, one = await door.call("POST", "/responses", body, Idempotency_Key="k")
    await door.call("DELETE", f"/responses/{one['id']}")
    _, two = await door.call("POST", "/responses", body, Idempotency_Key="k")
    assert two["id"] not in ("", one["id"])
    assert (await door.call("GET", f"/responses/{two['id']}"))[1] == two


@pytest.mark.parametrize("response_id", ["resp_" + "0" * 34, "nonsense", "", "resp_ü"])
async def test_an_unknown_previous_response_is_refused(door: Door, response_id: str):
    error = await door.refused(404, "previous_response_id", previous_response_id=response_id)
    assert error["code"] == "not_found"
