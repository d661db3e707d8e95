"""A conversation is a session: it goes on through both doors; its items are added, listed and deleted."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from chatbot.storage.database import Locked
from tests.openai.door import Door, text_of
from tests.tools.scripted_llm import Gate, Hang, ScriptedLLM, delta, events, reply
from tests.tools.server import StartServer, until

TOOL = {"type": "function", "name": "get_weather", "parameters": {}}


async def test_one_conversation_through_both_doors(door: Door, llm: ScriptedLLM):
    session_id = await door.server.session(system_prompt="Be kind.")
    await door.server.chat(session_id, "one")
    answer = await door.respond("two", conversation=f"conv_{session_id}")
    assert text_of(answer) == "You said: one / two"
    assert answer["id"].startswith(f"resp_{session_id[:2]}")
    _, third, _ = await door.server.chat(session_id, "three")
    assert third["content"] == "You said: one / two / three"
    assert llm.exchanges[1].body["messages"][0] == {"role": "system", "content": "Be kind."}
    items = await door.items(f"conv_{session_id.replace('-', '').upper()}")
    assert [item["content"][0]["text"] for item in items][::2] == ["one", "two", "three"]
    history = await door.server.history(session_id)
    assert [content for role, content in history if role == "user"] == ["one", "two", "three"]


async def test_a_branch_becomes_current_only_from_where_the_conversation_is(door: Door):
    conversation = await door.converse()
    root = await door.respond("root", conversation=conversation)
    on = await door.respond("on", previous_response_id=root["id"])
    aside = await door.respond("aside", previous_response_id=root["id"])
    assert text_of(aside) == "You said: root / aside"
    more = await door.respond("more", conversation=conversation)
    assert text_of(more) == "You said: root / on / more"
    assert on["conversation"] is None


async def test_pages_follow_each_other_in_both_orders(door: Door):
    conversation = await door.converse(*({"role": "user", "content": str(n)} for n in range(7)))
    await door.respond("7", conversation=conversation)
    whole = [item["id"] for item in await door.items(conversation)]
    assert len(whole) == 9
    for order, expected in (("asc", whole), ("desc", whole[::-1])):
        found: list[str] = []
        while len(found) < 9:
            after = f"&after={found[-1]}" if found else ""
            found += [i["id"] for i in await door.items(conversation, f"order={order}&limit=2{after}")]
        assert found == expected


@pytest.mark.parametrize("said", ["hello", "think", "weather", "weather in two"])
async def test_items_are_deleted_from_the_newest_on(door: Door, said: str):
    conversation = await door.converse({"role": "user", "content": "a"})
    response = await door.respond(said, conversation=conversation, tools=[TOOL])
    path = f"/conversations/{conversation}/items"
    first, question, *answers = await door.items(conversation)
    assert (await door.call("DELETE", f"{path}/{question['id']}"))[1]["error"]["param"] == "item_id"
    while answers:
        assert (await door.call("GET", f"/responses/{response['id']}"))[1]["output"] == answers
        _, page, _ = await door.server.call("GET", f"/api/sessions/{conversation[5:]}/messages?limit=1")
        assert page["messages"][0]["finish_reason"] == ("tool_calls" if "weather" in said else "stop")
        newest = f"{path}/{answers.pop()['id']}"
        assert [(await door.call("DELETE", newest))[0] for _ in range(2)] == [200, 404]
        assert await door.items(conversation) == [first, question, *answers]
    status, refused = await door.call("GET", f"/responses/{response['id']}")
    assert (status, refused["error"]["param"]) == (404, "response_id")
    await door.call("DELETE", f"{path}/{question['id']}")
    await door.call("DELETE", f"{path}/{first['id']}")
    assert await door.items(conversation) == []
    assert text_of(await door.respond("again", conversation=conversation)) == "You said: again"


async def test_an_item_is_deleted_whole_or_not_at_all(door: Door, monkeypatch: pytest.MonkeyPatch):
    conversation = await door.converse()
    await door.respond("weather in two", conversation=conversation, tools=[TOOL])
    before = await door.items(conversation)
    store, run, found_locked = door.server.store, door.server.store._db.run, []

    def locked_at_first(name: str, *values: Any) -> Any:
        if name == "keep_only" and not found_locked:
            found_locked.append(name)
            raise Locked("by another program, that came between")
        return run(name, *values)

    monkeypatch.setattr(store._db, "run", locked_at_first)
    path = f"/conversations/{conversation}/items/{before[-1]['id']}"
    assert (await door.call("DELETE", path))[0] == 200
    assert found_locked
    left = [one["type"] for one in await door.items(conversation)]
    assert left == [one["type"] for one in before[:-1]]


async def test_an_item_is_deleted_once_and_the_others_keep_their_ids(door: Door, llm: ScriptedLLM):
    def call(number: int) -> dict[str, Any]:
        return {"type": "function_call", "call_id": f"c{number}", "name": "f", "arguments": "{}"}

    said = [{"role": "assistant", "content": "Wait."}, call(1), call(2), call(3)]
    output = {"type": "function_call_output", "call_id": "c3", "output": "x"}
    conversation = await door.converse(*said, output)
    path, session_id = f"/conversations/{conversation}/items", conversation[5:]
    before = await door.items(conversation)
    for number in (1, 2, 0):
        item = before[number]["id"]
        assert [(await door.call("DELETE", f"{path}/{item}"))[0] for _ in range(2)] == [200, 404]
    assert await door.items(conversation) == before[3:]
    _, page, _ = await door.server.call("GET", f"/api/sessions/{session_id}/messages")
    assert [call["id"] for call in page["messages"][0]["tool_calls"]] == ["c3"]
    await door.respond("Hi", conversation=conversation)
    calling, *_ = llm.exchanges[-1].body["messages"]
    assert (calling["content"], [call["id"] for call in calling["tool_calls"]]) == (None, ["c3"])
    for number in (3, 4):
        await door.server.call("DELETE", f"/v1{path}/{before[number]['id']}")
    assert len(await door.items(conversation)) == 2


async def test_of_several_messages_of_an_answer_the_newest_is_deleted_alone(door: Door, llm: ScriptedLLM):
    llm.play(reply("One.", delta(reasoning_content="Hm"), "Two."))
    conversation = await door.converse()
    await door.respond("Hi", conversation=conversation)
    newest = (await door.items(conversation))[-1]
    assert (await door.call("DELETE", f"/conversations/{conversation}/items/{newest['id']}"))[0] == 200
    left = [one.get("content") or one["summary"] for one in await door.items(conversation)]
    assert [parts[0]["text"] for parts in left] == ["Hi", "One.", "Hm"]


async def test_a_page_ends_early_before_it_is_long(door: Door):
    url = "data:image/png;base64," + "A" * 1_000_000
    photo = {"role": "user", "content": [{"type": "input_image", "image_url": url}]}
    conversation = await door.converse()
    path = f"/conversations/{conversation}/items"
    for _ in range(6):
        await door.call("POST", path, {"items": [photo]})
    _, first = await door.call("GET", f"{path}?order=asc")
    assert (len(first["data"]), first["has_more"]) == (4, True)
    _, rest = await door.call("GET", f"{path}?order=asc&after={first['last_id']}")
    assert (len(rest["data"]), rest["has_more"]) == (2, False)
    again = [{"type": "item_reference", "id": item["id"]} for item in first["data"] + rest["data"]]
    _, added = await door.call("POST", path, {"items": again})
    assert (len(added["data"]), added["has_more"]) == (6, False)


@pytest.mark.parametrize(
    "query",
    [
        *(f"limit={odd}" for odd in ("0", "101", "0000000011", "0" * 8 + "1" * 4400, "\u0663", "-1", "")),
        *("order=up", "after=msg_1"),
    ],
)
async def test_a_page_that_cannot_be_is_refused_by_name(door: Door, query: str):
    """A limit is a number up to a hundred."""
    conversation = await door.converse()
    response = await door.respond(conversation=conversation)
    for path in (f"/conversations/{conversation}/items", f"/responses/{response['id']}/input_items"):
        status, refused = await door.call("GET", f"{path}?{query}")
        name = query.split("=")[0]
        assert (status, refused["error"]["param"]) == (404 if name == "after" else 400, name)


async def test_two_at_once_are_not_mixed_and_branches_go_on(door: Door, llm: ScriptedLLM):
    conversation, gate = await door.converse(), Gate()
    first = await door.respond("a", conversation=conversation)
    llm.play(reply("One", gate, "."))
    asked = asyncio.create_task(door.respond("b", conversation=conversation))
    await gate.reached.wait()
    error = await door.refused(409, "conversation", conversation=conversation)
    assert (error["code"], door.headers["x-should-retry"]) == ("conversation_locked", "false")
    body = {"items": [{"role": "user", "content": "x"}]}
    status, refused = await door.call("POST", f"/conversations/{conversation}/items", body)
    assert (status, refused["error"]["code"]) == (409, "conversation_locked")
    assert (await door.respond("two", previous_response_id=first["id"]))["status"] == "completed"
    gate.open()
    assert text_of(await asked) == "One."
    assert text_of(await door.respond("c", conversation=conversation)) == "You said: a / b / c"


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


async def test_a_conversation_may_be_an_object_and_be_made_without_a_body(door: Door):
    for body in (None, {}, {"items": []}, {"metadata": {"a": "b"}}, {"items": None, "metadata": None}):
        status, made = await door.call("POST", "/conversations", body)
        assert status == 200
        answer = await door.respond("Hi", conversation={"id": made["id"]})
        assert answer["conversation"] == {"id": made["id"]}


async def test_items_are_a_list(door: Door):
    conversation = await door.converse()
    for path in ("/conversations", f"/conversations/{conversation}/items"):
        status, answer = await door.call("POST", path, {"items": "one"})
        assert (status, answer["error"]["param"]) == (400, "items")


async def test_the_calls_of_one_message_are_paged_however_many(door: Door):
    call = {"type": "function_call", "name": "f", "arguments": "{}"}
    calls = [call | {"call_id": f"c{number}"} for number in range(300)]
    conversation = await door.converse(*calls)
    found: list[Any] = []
    while page := await door.items(conversation, "order=asc&limit=90&after=" + "".join(found[-1:])):
        found += [item["id"] for item in page]
    assert len(set(found)) == len(found) == 300


async def test_what_a_request_refers_to_is_read_once_and_is_bounded(
    start: StartServer, llm: ScriptedLLM, monkeypatch: pytest.MonkeyPatch
):
    door = Door(await start(max_request_bytes=200_000))
    added = [{"role": "user", "content": "x" * 100} for _ in range(800)]
    conversation = await door.converse(*added)
    ids = [item["id"] for item in await door.items(conversation)]
    read: list[str] = []
    turn_by_id = door.server.store.turn_by_id
    monkeypatch.setattr(door.server.store, "turn_by_id", lambda id_: read.append(id_) or turn_by_id(id_))
    await door.respond([{"type": "item_reference", "id": item_id} for item_id in ids])
    assert len(read) == 1, "the turn was read for each of its items"
    large = {"items": [{"role": "user", "content": "x" * 190_000}]}
    await door.call("POST", f"/conversations/{conversation}/items", large)
    (newest,) = await door.items(conversation, "limit=1")
    reference = {"type": "item_reference", "id": newest["id"]}
    await door.respond([reference] * 2)
    await door.refused(404, "input[0].id", input=[reference | {"id": "msg_" + "0" * 32}])
    error = await door.refused(413, "input[7].id", input=[reference] * 20)
    assert error["code"] == "request_too_large"


async def test_what_was_added_is_answered_without_saying_more(door: Door, llm: ScriptedLLM):
    for nothing in (None, []):
        await door.refused(400, "input", input=nothing)
    conversation = await door.converse()
    named = {"conversation": conversation}
    await door.refused(400, "input", input=None, **named)
    added = [{"role": "user", "content": "one"}]
    await door.call("POST", f"/conversations/{conversation}/items", {"items": added})
    llm.play(events(delta("On"), Hang))
    running = await door.respond(None, background=True, **named)
    await llm.asked()
    session_id = conversation.removeprefix("conv_")
    _, session, _ = await door.server.call("GET", f"/api/sessions/{session_id}")
    assert session["active_reply"]["message"] is None
    await door.call("POST", f"/responses/{running['id']}/cancel")
    response = await door.respond(None, **named)
    assert [message["content"] for message in llm.exchanges[-1].body["messages"]] == ["one", "On"]
    assert (await door.call("GET", f"/responses/{response['id']}/input_items"))[1]["data"] == []
    assert len(await door.items(conversation)) == 3
    _, session, _ = await door.server.call("GET", f"/api/sessions/{session_id}")
    assert session["message_count"] == 3
    assert [role for role, _ in await door.server.history(session_id)] == ["user", "assistant", "assistant"]
    branch = await door.respond([], previous_response_id=response["id"])
    assert branch["status"] == "completed"
    for item in [*branch["output"], *await door.items(conversation)]:
        await door.call("DELETE", f"/conversations/{conversation}/items/{item['id']}")
    assert await door.items(conversation) == await door.server.history(session_id) == []
    _, context, _ = await door.server.call("GET", f"/api/sessions/{session_id}/context")
    assert context["first_message_id"] is None
    await door.refused(400, "input", input=None, **named)
    assert (await door.respond("two", **named))["status"] == "completed"
    assert [message["content"] for message in llm.exchanges[-1].body["messages"]] == ["two"]


CALL = {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"}
THOUGHT = {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Hm."}]}


@pytest.mark.parametrize("said", [CALL, THOUGHT, {"role": "assistant", "content": ""}])
async def test_the_llm_is_not_asked_if_it_would_be_sent_nothing(
    door: Door, llm: ScriptedLLM, said: dict[str, Any]
):
    await door.refused(400, "input", input=[said], background=True)
    conversation = await door.converse(said)
    await door.refused(400, "input", input=[], conversation=conversation)
    assert not llm.exchanges


async def test_a_call_and_its_output_that_were_added_apart_are_answered(door: Door, llm: ScriptedLLM):
    conversation = await door.converse(CALL)
    output = {"type": "function_call_output", "call_id": "call_1", "output": "x"}
    await door.call("POST", f"/conversations/{conversation}/items", {"items": [output]})
    await door.respond([], conversation=conversation)
    assert [message["role"] for message in llm.exchanges[0].body["messages"]] == ["assistant", "tool"]


async def test_an_answer_to_what_was_added_can_be_asked_for_again(door: Door, llm: ScriptedLLM):
    conversation = await door.converse({"role": "user", "content": "one"})
    first = await door.respond(None, conversation=conversation)
    session_id = conversation.removeprefix("conv_")
    _, page, _ = await door.server.call("GET", f"/api/sessions/{session_id}/messages?limit=1")
    body = {"session_id": session_id, "replace": page["messages"][0]["message_id"]}
    status, again, _ = await door.server.call("POST", "/api/chat", body)
    assert (status, again["versions"]["index"]) == (200, 1)
    assert [message["content"] for message in llm.exchanges[-1].body["messages"]] == ["one"]
    assert (await door.call("GET", f"/responses/{first['id']}"))[1] == first
    (item,) = await door.items(conversation, "order=asc&limit=1")
    await door.call("DELETE", f"/conversations/{conversation}/items/{item['id']}")
    status, refused, _ = await door.server.call("POST", "/api/chat", body)
    assert (status, refused["error"]["param"]) == (400, "replace")


async def test_what_was_added_goes_whole_if_nothing_more_is_said(start: StartServer, llm: ScriptedLLM):
    door = Door(await start(max_context_messages=2))
    added = [{"role": role, "content": "one"} for role in ("user", "assistant", "user")]
    conversation = await door.converse(*added)
    for count in (3, 4, 5):
        await door.respond(None, conversation=conversation)
        assert len(llm.exchanges[-1].body["messages"]) == count


async def test_what_was_deleted_is_not_said_to_be_too_long(start: StartServer):
    door = Door(await start(max_context_messages=4))
    conversation = await door.converse()
    named = {"conversation": conversation, "truncation": "disabled"}
    for _ in range(3):
        await door.respond(**named | {"truncation": "auto"})
    await door.refused(400, "input", **named)
    for item in (await door.items(conversation, "order=asc"))[3::-1]:
        await door.call("DELETE", f"/conversations/{conversation}/items/{item['id']}")
    assert (await door.respond(**named))["status"] == "completed"


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "", {"metadata": 7}),
        ("POST", "", {}),
        ("GET", "/items?limit=0", None),
        ("POST", "/items", {"items": [{"role": "nobody", "content": "x"}]}),
    ],
)
async def test_a_refusal_says_what_conversation_it_is_about(door: Door, method: str, path: str, body: Any):
    _, made = await door.call("POST", "/conversations")
    status, _ = await door.call(method, f"/conversations/{made['id']}{path}", body)
    assert (status, f"conv_{door.headers.get('X-Session-ID')}") == (400, made["id"])
