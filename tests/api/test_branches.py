"""A conversation is a tree: asking again loses nothing, and every branch can be gone back to."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from chatbot.errors import ChatError
from tests.tools.scripted_llm import Gate, ScriptedLLM, answer, reply
from tests.tools.server import Running, Stream


async def say(server: Running, llm: ScriptedLLM, session: str, text: str, **body: Any) -> str:
    """Has the LLM answer with a text; returns the reply's id."""
    llm.play(reply(text))
    status, told, _ = await server.call("POST", "/api/chat", {"session_id": session, **body})
    assert status == 200, told
    return str(told["message_id"])


async def messages(server: Running, session: str) -> list[dict[str, Any]]:
    _, told, _ = await server.call("GET", f"/api/sessions/{session}/messages")
    return list(told["messages"])


async def texts(server: Running, session: str) -> list[str]:
    return [message["content"] for message in await messages(server, session)]


def asked(llm: ScriptedLLM) -> list[str]:
    return [message["content"] for message in llm.exchanges[-1].body["messages"]]


async def test_a_reply_that_is_regenerated_stands_beside_the_first(server: Running, llm: ScriptedLLM) -> None:
    session = await server.session()
    await say(server, llm, session, "A1", message="Q1")
    first = await say(server, llm, session, "A2", message="Q2")
    again = await say(server, llm, session, "A2, again", replace=first)
    assert asked(llm) == ["Q1", "A1", "Q2"]
    assert await texts(server, session) == ["Q1", "A1", "Q2", "A2, again"]
    *_, question, newest = await messages(server, session)
    assert newest["versions"] == {"ids": [first, again], "index": 1}
    assert "versions" not in question, "it is the same question"
    status, told, _ = await server.call("PATCH", f"/api/sessions/{session}", {"current": first})
    assert (status, told["message_count"]) == (200, 4)
    assert await texts(server, session) == ["Q1", "A1", "Q2", "A2"]
    assert (await messages(server, session))[-1]["versions"] == {"ids": [first, again], "index": 0}
    await say(server, llm, session, "A3", message="Q3")
    assert asked(llm) == ["Q1", "A1", "Q2", "A2", "Q3"], "the other branch is not sent"


async def test_an_edited_question_stands_beside_the_first(server: Running, llm: ScriptedLLM) -> None:
    session = await server.session(system_prompt="p")
    await say(server, llm, session, "A1", message="Q1")
    await say(server, llm, session, "A2", message="Q2")
    _, question, *_ = await messages(server, session)
    await say(server, llm, session, "B1", message="Q1, edited", replace=question["message_id"])
    assert await texts(server, session) == ["p", "Q1, edited", "B1"]
    _, edited, answered = await messages(server, session)
    assert edited["versions"] == {"ids": [question["message_id"], edited["message_id"]], "index": 1}
    assert "versions" not in answered, "it is the only answer to this question"
    await server.call("PATCH", f"/api/sessions/{session}", {"current": question["message_id"]})
    assert await texts(server, session) == ["p", "Q1", "A1", "Q2", "A2"], "to the newest end below it"


@pytest.mark.parametrize(("how", "place"), [("fails", 0), ("is stopped", 1)])
async def test_until_the_new_reply_is_stored_nothing_has_changed(
    server: Running, llm: ScriptedLLM, how: str, place: int
) -> None:
    session = await server.session()
    old = [await say(server, llm, session, f"A{n}", message=f"Q{n}") for n in range(3)][place]
    before = await messages(server, session)
    gate = Gate()
    llm.play([gate, *answer("500 Broken", {"error": "no"})])
    asking = asyncio.create_task(server.call("POST", "/api/chat", {"session_id": session, "replace": old}))
    await gate.reached.wait()
    _, told, _ = await server.call("GET", f"/api/sessions/{session}")
    active = told["active_reply"]
    assert (active["message"], active["replace"]) == (f"Q{place}", old)
    assert await messages(server, session) == before
    path = f"/api/sessions/{session}/messages/{active['message_id']}/cancel"
    gate.open() if how == "fails" else await server.call("POST", path)
    status, _, _ = await asking
    assert status == (502 if how == "fails" else 409)
    assert await messages(server, session) == before


async def test_a_reply_that_follows_a_deleted_turn_is_gone_and_one_beside_it_is_not(
    server: Running, llm: ScriptedLLM
) -> None:
    session = await server.session()
    await say(server, llm, session, "A1", message="Q1")
    second = await say(server, llm, session, "A2", message="Q2")
    gate = Gate()
    llm.play(reply("A2, ", gate, "again"))
    body = {"session_id": session, "replace": second}
    stream = Stream(await server.http.post(server.url + "/api/chat/stream", json=body))
    assert await stream.event()
    status, told, _ = await server.call("DELETE", f"/api/sessions/{session}/messages/{second}")
    assert (status, told) == (200, {"deleted": 2})
    gate.open()
    assert (await stream.rest())[-1].data == "[DONE]", "the turn that it follows is still there"
    assert await texts(server, session) == ["Q1", "A1", "Q2", "A2, again"]
    assert "versions" not in (await messages(server, session))[-1]


@pytest.mark.parametrize("place", ["prompt", "other", "nonsense"])
async def test_what_is_not_there_is_neither_replaced_nor_gone_to(
    server: Running, llm: ScriptedLLM, place: str
) -> None:
    session, other = await server.session(system_prompt="p"), await server.session()
    theirs = await say(server, llm, other, "A1", message="Q1")
    [prompt] = await messages(server, session)
    named = {"prompt": prompt["message_id"], "other": theirs, "nonsense": "x"}[place]
    replacing = await server.chat(session, "Hi", replace=named)
    going = await server.call("PATCH", f"/api/sessions/{session}", {"current": named})
    for (status, told, _), param in ((replacing, "replace"), (going, "current")):
        found = (status, told["error"]["code"], told["error"]["param"])
        assert found == (404, "message_not_found", param)
    assert len(llm.exchanges) == 1


async def test_before_follows_a_branch_and_after_only_the_current_path(
    server: Running, llm: ScriptedLLM
) -> None:
    session = await server.session()
    first = await say(server, llm, session, "A1", message="Q1")
    left = await say(server, llm, session, "A2", message="Q2")
    await say(server, llm, session, "B1", message="Q1, edited", replace=first)
    path = f"/api/sessions/{session}/messages"
    _, told, _ = await server.call("GET", f"{path}?before={left}")
    assert [message["content"] for message in told["messages"]] == ["Q1", "A1", "Q2"]
    assert (await server.call("GET", f"{path}?after={left}"))[0] == 404
    assert (await server.call("GET", f"{path}/{left}"))[1]["content"] == "A2", "one message is found anywhere"


async def test_in_a_full_database_one_may_go_to_another_branch_and_nothing_is_changed_by_half(
    server: Running, llm: ScriptedLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await server.session()
    first = await say(server, llm, session, "A1", message="Q1")
    second = await say(server, llm, session, "B1", replace=first)

    def full() -> None:
        raise ChatError("storage_full", "The database is full.", retry_after="60")

    monkeypatch.setattr(server.store, "require_space", full)
    path = f"/api/sessions/{session}"
    assert (await server.call("PATCH", path, {"current": first}))[0] == 200
    assert (await server.call("PATCH", path, {"current": second, "metadata": {}}))[0] == 503
    assert await texts(server, session) == ["Q1", "A1"]


async def test_a_reply_of_a_branch_that_was_left_replaces_nothing(server: Running, llm: ScriptedLLM) -> None:
    session = await server.session()
    first = await say(server, llm, session, "A1", message="Q1")
    second = await say(server, llm, session, "B1", replace=first)
    await server.call("PATCH", f"/api/sessions/{session}", {"current": first})
    gate = Gate()
    llm.play(reply("A2", gate))
    stream = await server.stream(session, "Q2")
    assert await stream.event()
    _, told, _ = await server.call("PATCH", f"/api/sessions/{session}", {"current": second})
    assert told["active_reply"]["replace"] is None
