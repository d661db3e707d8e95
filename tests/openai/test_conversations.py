"""A conversation is a session: it goes on through both doors; its items are added, listed and deleted."""

from __future__ import annotations

from typing import Any

import pytest

from chatbot.storage.database import Locked
from tests.openai.door import Door, text_of
from tests.tools.scripted_llm import DONE, END, Hang, ScriptedLLM, delta, events
from tests.tools.server import StartServer

TOOL = {"type": "function", "name": "get_weather", "parameters": {}}


async def items(door: Door, conversation: str, query: str = "order=asc&limit=100") -> list[Any]:
    status, page = await door.call("GET", f"/conversations/{conversation}/items?{query}")
    assert status == 200, page
    return page["data"]


async def test_one_conversation_through_both_doors(door: Door, llm: ScriptedLLM):
    session_id = await door.server.session(system_prompt="Be kind.")
    await door.server.chat(session_id, "one")
    answer = await door.respond("two", conversation=f"conv_{session_id}")
    assert text_of(answer) == "You said: one / two"
    assert answer["id"].startswith(f"resp_{session_id[:2]}")
    _, third, _ = await door.server.chat(session_id, "three")
    assert third["content"] == "You said: one / two / three"
    assert llm.exchanges[1].body["messages"][0] == {"role": "system", "content": "Be kind."}
    said = [
        item["content"][0]["text"]
        for item in await items(door, f"conv_{session_id.replace('-', '').upper()}")
    ]
    assert said[::2] == ["one", "two", "three"]
    history = await door.server.history(session_id)
    assert [content for role, content in history if role == "user"] == ["one", "two", "three"]


async def test_a_branch_becomes_current_only_from_where_the_conversation_is(door: Door):
    _, conversation = await door.call("POST", "/conversations")
    root = await door.respond("root", conversation=conversation["id"])
    on = await door.respond("on", previous_response_id=root["id"])
    aside = await door.respond("aside", previous_response_id=root["id"])
    assert text_of(aside) == "You said: root / aside"
    more = await door.respond("more", conversation=conversation["id"])
    assert text_of(more) == "You said: root / on / more"
    assert on["conversation"] is None


async def test_pages_follow_each_other_in_both_orders(door: Door):
    body = {"items": [{"role": "user", "content": str(n)} for n in range(7)]}
    _, conversation = await door.call("POST", "/conversations", body)
    response = await door.respond("7", conversation=conversation["id"])
    whole = [item["id"] for item in await items(door, conversation["id"])]
    assert len(whole) == 9
    for order, expected in (("asc", whole), ("desc", whole[::-1])):
        found: list[str] = []
        while len(found) < 9:
            after = f"&after={found[-1]}" if found else ""
            found += [i["id"] for i in await items(door, conversation["id"], f"order={order}&limit=2{after}")]
        assert found == expected
    for path in (f"/conversations/{conversation['id']}/items", f"/responses/{response['id']}/input_items"):
        for query in ("limit=0", "limit=101", "order=up", "after=msg_1"):
            status, refused = await door.call("GET", f"{path}?{query}")
            assert (status in (400, 404), refused["error"]["param"]) == (True, query.split("=")[0]), query


@pytest.mark.parametrize("said", ["hello", "think", "weather", "weather in two"])
async def test_items_are_deleted_from_the_newest_on(door: Door, said: str):
    _, conversation = await door.call("POST", "/conversations", {"items": [{"role": "user", "content": "a"}]})
    response = await door.respond(said, conversation=conversation["id"], tools=[TOOL])
    path = f"/conversations/{conversation['id']}/items"
    first, question, *answers = await items(door, conversation["id"])
    assert (await door.call("DELETE", f"{path}/{question['id']}"))[1]["error"]["param"] == "item_id"
    while answers:
        assert (await door.call("GET", f"/responses/{response['id']}"))[1]["output"] == answers
        _, page, _ = await door.server.call("GET", f"/api/sessions/{conversation['id'][5:]}/messages?limit=1")
        assert page["messages"][0]["finish_reason"] == ("tool_calls" if "weather" in said else "stop")
        newest = f"{path}/{answers.pop()['id']}"
        assert [(await door.call("DELETE", newest))[0] for _ in range(2)] == [200, 404]
        assert await items(door, conversation["id"]) == [first, question, *answers]
    status, refused = await door.call("GET", f"/responses/{response['id']}")
    assert (status, refused["error"]["param"]) == (404, "response_id")
    await door.call("DELETE", f"{path}/{question['id']}")
    await door.call("DELETE", f"{path}/{first['id']}")
    assert await items(door, conversation["id"]) == []
    assert text_of(await door.respond("again", conversation=conversation["id"])) == "You said: again"


async def test_an_item_is_deleted_whole_or_not_at_all(door: Door, monkeypatch: pytest.MonkeyPatch):
    _, conversation = await door.call("POST", "/conversations")
    await door.respond("weather in two", conversation=conversation["id"], tools=[TOOL])
    before = await items(door, conversation["id"])
    store, run, found_locked = door.server.store, door.server.store._db.run, []

    def locked_at_first(name: str, *values: Any) -> Any:
        if name == "keep_only" and not found_locked:
            found_locked.append(name)
            raise Locked("by another program, that came between")
        return run(name, *values)

    monkeypatch.setattr(store._db, "run", locked_at_first)
    path = f"/conversations/{conversation['id']}/items/{before[-1]['id']}"
    assert (await door.call("DELETE", path))[0] == 200
    assert found_locked
    left = [one["type"] for one in await items(door, conversation["id"])]
    assert left == [one["type"] for one in before[:-1]]


async def test_an_item_is_deleted_once_and_the_others_keep_their_ids(door: Door, llm: ScriptedLLM):
    def call(number: int) -> dict[str, Any]:
        return {"type": "function_call", "call_id": f"c{number}", "name": "f", "arguments": "{}"}

    said = [{"role": "assistant", "content": "Wait."}, call(1), call(2), call(3)]
    output = {"type": "function_call_output", "call_id": "c3", "output": "x"}
    _, conversation = await door.call("POST", "/conversations", {"items": [*said, output]})
    path, session_id = f"/conversations/{conversation['id']}/items", conversation["id"][5:]
    before = await items(door, conversation["id"])
    for number in (1, 2, 0):
        item = before[number]["id"]
        assert [(await door.call("DELETE", f"{path}/{item}"))[0] for _ in range(2)] == [200, 404]
    assert await items(door, conversation["id"]) == before[3:]
    _, page, _ = await door.server.call("GET", f"/api/sessions/{session_id}/messages")
    assert [call["id"] for call in page["messages"][0]["tool_calls"]] == ["c3"]
    await door.respond("Hi", conversation=conversation["id"])
    calling, *_ = llm.exchanges[-1].body["messages"]
    assert (calling["content"], [call["id"] for call in calling["tool_calls"]]) == (None, ["c3"])
    for number in (3, 4):
        await door.server.call("DELETE", f"/v1{path}/{before[number]['id']}")
    assert len(await items(door, conversation["id"])) == 2


async def test_of_several_messages_of_an_answer_the_newest_is_deleted_alone(door: Door, llm: ScriptedLLM):
    chunks = [delta("One."), delta(reasoning_content="Hm"), delta("Two."), delta(finish="stop")]
    llm.play([*events(*chunks, DONE), END])
    _, conversation = await door.call("POST", "/conversations")
    await door.respond("Hi", conversation=conversation["id"])
    newest = (await items(door, conversation["id"]))[-1]
    assert (await door.call("DELETE", f"/conversations/{conversation['id']}/items/{newest['id']}"))[0] == 200
    left = [one.get("content") or one["summary"] for one in await items(door, conversation["id"])]
    assert [parts[0]["text"] for parts in left] == ["Hi", "One.", "Hm"]


async def test_a_page_ends_early_before_it_is_long(door: Door):
    url = "data:image/png;base64," + "A" * 1_000_000
    photo = {"role": "user", "content": [{"type": "input_image", "image_url": url}]}
    _, conversation = await door.call("POST", "/conversations")
    path = f"/conversations/{conversation['id']}/items"
    for _ in range(6):
        await door.call("POST", path, {"items": [photo]})
    _, first = await door.call("GET", f"{path}?order=asc")
    assert (len(first["data"]), first["has_more"]) == (4, True)
    _, rest = await door.call("GET", f"{path}?order=asc&after={first['last_id']}")
    assert (len(rest["data"]), rest["has_more"]) == (2, False)
    again = [{"type": "item_reference", "id": item["id"]} for item in first["data"] + rest["data"]]
    _, added = await door.call("POST", path, {"items": again})
    assert (len(added["data"]), added["has_more"]) == (6, False)


@pytest.mark.parametrize("limit", ["0000000011", "0" * 8 + "1" * 4400, "101", "\u0663", "-1", ""])
async def test_a_limit_is_a_number_up_to_a_hundred(door: Door, limit: str):
    _, conversation = await door.call("POST", "/conversations")
    status, refused = await door.call("GET", f"/conversations/{conversation['id']}/items?limit={limit}")
    assert (status, refused["error"]["param"]) == (400, "limit")


async def test_while_a_response_is_written_items_are_refused_and_branches_are_not(door: Door):
    _, conversation = await door.call("POST", "/conversations")
    first = await door.respond("one", conversation=conversation["id"])
    stream = await door.stream("for ever", conversation=conversation["id"])
    await stream.event()
    body = {"items": [{"role": "user", "content": "x"}]}
    status, refused = await door.call("POST", f"/conversations/{conversation['id']}/items", body)
    assert (status, refused["error"]["code"]) == (409, "conversation_locked")
    assert (await door.respond("two", previous_response_id=first["id"]))["status"] == "completed"
    stream.leave()


async def test_items_are_a_list(door: Door):
    _, conversation = await door.call("POST", "/conversations")
    for path in ("/conversations", f"/conversations/{conversation['id']}/items"):
        status, answer = await door.call("POST", path, {"items": "one"})
        assert (status, answer["error"]["param"]) == (400, "items")


async def test_the_calls_of_one_message_are_paged_however_many(door: Door):
    calls = [
        {"type": "function_call", "call_id": f"c{n}", "name": "f", "arguments": "{}"} for n in range(300)
    ]
    _, conversation = await door.call("POST", "/conversations", {"items": calls})
    found: list[Any] = []
    while page := await items(door, conversation["id"], "order=asc&limit=90&after=" + "".join(found[-1:])):
        found += [item["id"] for item in page]
    assert len(set(found)) == len(found) == 300


async def test_what_a_request_refers_to_is_read_once_and_is_bounded(
    start: StartServer, llm: ScriptedLLM, monkeypatch: pytest.MonkeyPatch
):
    door = Door(await start(max_request_bytes=200_000))
    added = [{"role": "user", "content": "x" * 100} for _ in range(800)]
    _, conversation = await door.call("POST", "/conversations", {"items": added})
    ids = [item["id"] for item in await items(door, conversation["id"])]
    read: list[str] = []
    turn_by_id = door.server.store.turn_by_id
    monkeypatch.setattr(door.server.store, "turn_by_id", lambda id_: read.append(id_) or turn_by_id(id_))
    await door.respond([{"type": "item_reference", "id": item_id} for item_id in ids])
    assert len(read) == 1, "the turn was read for each of its items"
    large = {"items": [{"role": "user", "content": "x" * 190_000}]}
    await door.call("POST", f"/conversations/{conversation['id']}/items", large)
    (newest,) = await items(door, conversation["id"], "limit=1")
    reference = {"type": "item_reference", "id": newest["id"]}
    await door.respond([reference] * 2)
    await door.refused(404, "input[0].id", input=[reference | {"id": "msg_" + "0" * 32}])
    error = await door.refused(413, "input[7].id", input=[reference] * 20)
    assert error["code"] == "request_too_large"


async def test_what_was_added_is_answered_without_saying_more(door: Door, llm: ScriptedLLM):
    for nothing in (None, []):
        await door.refused(400, "input", input=nothing)
    _, conversation = await door.call("POST", "/conversations")
    named = {"conversation": conversation["id"]}
    await door.refused(400, "input", input=None, **named)
    added = [{"role": "user", "content": "one"}]
    await door.call("POST", f"/conversations/{conversation['id']}/items", {"items": added})
    llm.play(events(delta("On"), Hang))
    running = await door.respond(None, background=True, **named)
    await llm.asked()
    session_id = conversation["id"].removeprefix("conv_")
    _, session, _ = await door.server.call("GET", f"/api/sessions/{session_id}")
    assert session["active_reply"]["message"] is None
    await door.call("POST", f"/responses/{running['id']}/cancel")
    response = await door.respond(None, **named)
    assert [message["content"] for message in llm.exchanges[-1].body["messages"]] == ["one", "On"]
    assert (await door.call("GET", f"/responses/{response['id']}/input_items"))[1]["data"] == []
    assert len(await items(door, conversation["id"])) == 3
    _, session, _ = await door.server.call("GET", f"/api/sessions/{session_id}")
    assert session["message_count"] == 3
    assert [role for role, _ in await door.server.history(session_id)] == ["user", "assistant", "assistant"]
    branch = await door.respond([], previous_response_id=response["id"])
    assert branch["status"] == "completed"
    for item in [*branch["output"], *await items(door, conversation["id"])]:
        await door.call("DELETE", f"/conversations/{conversation['id']}/items/{item['id']}")
    assert await items(door, conversation["id"]) == await door.server.history(session_id) == []
    _, context, _ = await door.server.call("GET", f"/api/sessions/{session_id}/context")
    assert context["first_message_id"] is None
    await door.refused(400, "input", input=None, **named)
    assert (await door.respond("two", **named))["status"] == "completed"
    assert [message["content"] for message in llm.exchanges[-1].body["messages"]] == ["two"]


async def test_an_answer_to_what_was_added_can_be_asked_for_again(door: Door, llm: ScriptedLLM):
    added = {"items": [{"role": "user", "content": "one"}]}
    _, conversation = await door.call("POST", "/conversations", added)
    first = await door.respond(None, conversation=conversation["id"])
    session_id = conversation["id"].removeprefix("conv_")
    _, page, _ = await door.server.call("GET", f"/api/sessions/{session_id}/messages?limit=1")
    body = {"session_id": session_id, "replace": page["messages"][0]["message_id"]}
    status, again, _ = await door.server.call("POST", "/api/chat", body)
    assert (status, again["versions"]["index"]) == (200, 1)
    assert [message["content"] for message in llm.exchanges[-1].body["messages"]] == ["one"]
    assert (await door.call("GET", f"/responses/{first['id']}"))[1] == first
    (item,) = await items(door, conversation["id"], "order=asc&limit=1")
    await door.call("DELETE", f"/conversations/{conversation['id']}/items/{item['id']}")
    status, refused, _ = await door.server.call("POST", "/api/chat", body)
    assert (status, refused["error"]["param"]) == (400, "replace")


async def test_what_was_added_goes_whole_if_nothing_more_is_said(start: StartServer, llm: ScriptedLLM):
    door = Door(await start(max_context_messages=2))
    added = [{"role": role, "content": "one"} for role in ("user", "assistant", "user")]
    _, conversation = await door.call("POST", "/conversations", {"items": added})
    for count in (3, 4, 5):
        await door.respond(None, conversation=conversation["id"])
        assert len(llm.exchanges[-1].body["messages"]) == count


async def test_what_was_deleted_is_not_said_to_be_too_long(start: StartServer):
    door = Door(await start(max_context_messages=4))
    _, conversation = await door.call("POST", "/conversations")
    named = {"conversation": conversation["id"], "truncation": "disabled"}
    for _ in range(3):
        await door.respond(**named | {"truncation": "auto"})
    await door.refused(400, "input", **named)
    for item in (await items(door, conversation["id"], "order=asc"))[3::-1]:
        await door.call("DELETE", f"/conversations/{conversation['id']}/items/{item['id']}")
    assert (await door.respond(**named))["status"] == "completed"


async def test_store_false_leaves_nothing_behind(door: Door):
    await door.respond("secret", store=False)
    _, conversation = await door.call("POST", "/conversations")
    one = await door.respond("one", conversation=conversation["id"])
    aside = await door.respond("secret", conversation=conversation["id"], store=False)
    assert text_of(aside) == "You said: one / secret"
    assert (await door.call("GET", f"/responses/{aside['id']}"))[0] == 404
    branch = await door.respond("secret", previous_response_id=one["id"], store=False)
    assert text_of(branch) == "You said: one / secret"
    assert door.server.sql("SELECT count(*) FROM turns") == [(1,)]
    assert door.server.sql("SELECT count(*) FROM sessions") == [(1,)]


async def test_a_response_that_is_deleted_is_missed_in_no_conversation(door: Door):
    _, conversation = await door.call("POST", "/conversations")
    named = await door.respond("one", conversation=conversation["id"])
    root = await door.respond("root")
    leaf = await door.respond("leaf", previous_response_id=root["id"])
    for response in (named, root, leaf):
        await door.call("DELETE", f"/responses/{response['id']}")
        assert (await door.call("GET", f"/responses/{response['id']}"))[0] == 404
    assert len(await items(door, conversation["id"])) == 2
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
    _, conversation = await door.call("POST", "/conversations")
    assert conversation["id"] == f"conv_{door.headers['X-Session-ID']}"


async def test_an_idempotency_key_has_a_scope(door: Door, llm: ScriptedLLM):
    async def ask(body: Any, **headers: str) -> tuple[int, Any]:
        return await door.call("POST", "/responses", {"input": "Hi"} | body, Idempotency_Key="k", **headers)

    status, refused = await ask({})
    assert (status, refused["error"]["param"]) == (400, "Idempotency-Key")
    _, one = await ask({}, Authorization="Bearer a")
    assert (await ask({}, Authorization="Bearer a"))[1]["id"] == one["id"]
    assert door.headers["Idempotent-Replayed"] == "true"
    assert (await ask({}, Authorization="Bearer b"))[1]["id"] != one["id"]
    _, conversation = await door.call("POST", "/conversations")
    _, two = await ask({"conversation": conversation["id"]})
    assert (await ask({"conversation": conversation["id"]}))[1] == two
    assert (await ask({"conversation": conversation["id"], "stream": False}))[1] == two
    status, reused = await ask({"conversation": conversation["id"], "input": "other"})
    assert (status, reused["error"]["code"]) == (422, "idempotency_key_reused")
    assert len(llm.exchanges) == 3


async def test_a_response_that_is_deleted_frees_its_idempotency_key(door: Door):
    _, conversation = await door.call("POST", "/conversations")
    body = {"input": "Hi", "conversation": conversation["id"]}
    _, one = await door.call("POST", "/responses", body, Idempotency_Key="k")
    await door.call("DELETE", f"/responses/{one['id']}")
    _, two = await door.call("POST", "/responses", body, Idempotency_Key="k")
    assert two["id"] not in ("", one["id"])
    assert (await door.call("GET", f"/responses/{two['id']}"))[1] == two


async def test_what_was_cancelled_before_its_first_word_is_cancelled(door: Door, llm: ScriptedLLM):
    llm.play(events(Hang), [*events(delta("a"), DONE), END])
    response = await door.respond(background=True)
    await llm.asked()
    _, cancelled = await door.call("POST", f"/responses/{response['id']}/cancel")
    assert (cancelled["status"], cancelled["output"]) == ("cancelled", [])
    assert (await door.call("GET", f"/responses/{response['id']}"))[1]["status"] == "cancelled"


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
