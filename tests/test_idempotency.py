"""The same Idempotency-Key is one turn and one question to the LLM, however often it is sent."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.tools.scripted_llm import (
    END,
    Abort,
    Close,
    Gate,
    Hang,
    ScriptedLLM,
    Step,
    answer,
    delta,
    events,
    reply,
)
from tests.tools.server import Running, StartServer, text_of

KEY = {"Idempotency-Key": "k1"}


async def told(server: Running, session: str, *, stream: bool, message: str = "Hi") -> dict[str, Any]:
    """Asks with the key on either endpoint; returns what one was told, in one shape for both."""
    if not stream:
        status, body, headers = await server.chat(session, message, KEY)
        told = {"status": status, "replayed": headers.get("Idempotent-Replayed")}
        if status != 200:
            return told | {"error": body["error"]["code"]}
        return told | {"id": body["message_id"], "text": body["content"], "reason": body["finish_reason"]}
    opened = await server.stream(session, message, KEY)
    told = {"status": opened.status, "replayed": opened.headers.get("Idempotent-Replayed")}
    if opened.status != 200:
        return told | {"error": (await opened.response.json())["error"]["code"]}
    found = await opened.rest()
    if found[-1].data != "[DONE]":
        return told | {"error": found[-1].json["error"]["code"]}
    reasons = [event.finish_reason for event in found if event.finish_reason]
    return told | {"id": opened.message_id, "text": text_of(found), "reason": "/".join(reasons)}


def without_replayed(found: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in found.items() if name != "replayed"}


@pytest.mark.parametrize("first", ["whole", "stream"])
async def test_ten_at_once_are_one_question_and_ten_equal_answers(
    server: Running, llm: ScriptedLLM, first: str
) -> None:
    gate = Gate()
    llm.play([gate, *reply("Once ", "upon")])
    session = await server.session()
    asking = [
        asyncio.create_task(told(server, session, stream=bool(n % 2) == (first == "whole")))
        for n in range(10)
    ]
    await gate.reached.wait()
    await server.heard_by(session, 10)
    gate.open()
    found = await asyncio.gather(*asking)
    expected = {"status": 200, "id": found[0]["id"], "text": "Once upon", "reason": "stop"}
    assert [without_replayed(one) for one in found] == [expected] * 10
    assert sorted(one["replayed"] or "" for one in found) == [""] + ["true"] * 9
    assert len(llm.exchanges) == 1, "the LLM was paid more than once"
    assert await server.history(session) == [("user", "Hi"), ("assistant", "Once upon")]


@pytest.mark.parametrize("first", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("then", [False, True], ids=["whole", "stream"])
async def test_a_finished_turn_is_told_again_and_not_asked_again(
    server: Running, llm: ScriptedLLM, first: bool, then: bool
) -> None:
    session = await server.session()
    one = await told(server, session, stream=first)
    two = await told(server, session, stream=then)
    assert without_replayed(one) == without_replayed(two)
    assert (one["replayed"], two["replayed"]) == (None, "true")
    assert len(llm.exchanges) == 1
    assert len(await server.history(session)) == 2


FAILURES: dict[str, list[Step]] = {
    "refused": answer("500 Internal Server Error", {"error": {"message": "boom"}}),
    "aborted": [*events(delta("Once ")), Abort],
    "cut short": [*events(delta("Once ")), END],
    "closed": [*events(delta("Once ")), Close],
    "an error in the stream": [*events(delta("Once "), b'data: {"error": {"message": "boom"}}\n\n'), END],
    "empty": [*events(delta(finish="stop")), END],
}


@pytest.mark.parametrize("failure", FAILURES)
async def test_a_failed_turn_frees_its_key(server: Running, llm: ScriptedLLM, failure: str) -> None:
    llm.play(FAILURES[failure], reply("Once ", "upon"))
    session = await server.session()
    found = await told(server, session, stream=True)
    assert found.get("error") == "llm_error", found
    assert await server.history(session) == [], "a failed turn leaves no trace"
    found = await told(server, session, stream=True)
    assert (found["text"], found["replayed"]) == ("Once upon", None)
    assert len(llm.exchanges) == 2
    assert await server.history(session) == [("user", "Hi"), ("assistant", "Once upon")]


async def test_ten_at_once_are_told_one_failure(server: Running, llm: ScriptedLLM) -> None:
    gate = Gate()
    llm.play([gate, *answer("500 Internal Server Error")])
    session = await server.session()
    asking = [asyncio.create_task(told(server, session, stream=bool(n % 2))) for n in range(10)]
    await server.heard_by(session, 10)
    gate.open()
    found = await asyncio.gather(*asking)
    assert [(one["status"], one.get("error")) for one in found] == [(502, "llm_error")] * 10
    assert len(llm.exchanges) == 1
    assert await server.history(session) == []


async def test_a_turn_cancelled_before_its_first_word_frees_its_key(
    server: Running, llm: ScriptedLLM
) -> None:
    llm.play([Hang])
    session = await server.session()
    asking = asyncio.create_task(told(server, session, stream=True))
    await llm.asked()
    running = server.running(session)
    await server.call("POST", f"/api/sessions/{session}/messages/{running.message_id}/cancel")
    assert await asking == {"status": 409, "replayed": None, "error": "reply_cancelled"}
    assert await server.history(session) == []
    assert (await told(server, session, stream=True))["text"] == "Hello there."


async def test_a_cancelled_turn_is_told_again_as_it_was_stored(server: Running, llm: ScriptedLLM) -> None:
    llm.play(events(delta("Once "), Hang))
    session, stream = await server.begin(headers=KEY)
    await server.call("POST", f"/api/sessions/{session}/messages/{stream.message_id}/cancel")
    for again in (True, False):
        found = await told(server, session, stream=again)
        assert (found["text"], found["reason"]) == ("Once ", "cancelled")
    assert len(llm.exchanges) == 1


async def test_a_key_is_refused_for_another_message_or_other_options(
    server: Running, llm: ScriptedLLM
) -> None:
    gate = Gate()
    llm.play([gate, *reply("Hello there.")])
    session = await server.session()
    asking = asyncio.create_task(told(server, session, stream=True))
    await gate.reached.wait()
    for moment in ("running", "stored"):
        for ask in (
            server.chat(session, "Ho", KEY),
            server.chat(session, "Hi", KEY, temperature=0.5),
            server.call("POST", "/api/chat/stream", {"session_id": session, "message": "Hi", "seed": 1}, KEY),
        ):
            status, body, _ = await ask
            assert (status, body["error"]["code"]) == (422, "idempotency_key_reused"), moment
        gate.open()
        found = await asking
        assert found["text"] == "Hello there.", found
    assert len(llm.exchanges) == 1


async def test_the_same_options_in_another_order_are_the_same_request(
    server: Running, llm: ScriptedLLM
) -> None:
    session = await server.session()
    options = {"temperature": 0.5, "response_format": {"type": "json_object", "a": 1}}
    turned = {"response_format": {"a": 1, "type": "json_object"}, "temperature": 0.5}
    _, one, _ = await server.chat(session, "Hi", KEY, **options)
    _, two, _ = await server.chat(session, "Hi", KEY, **turned)
    assert one == two
    assert len(llm.exchanges) == 1


async def test_a_key_belongs_to_its_session(server: Running, llm: ScriptedLLM) -> None:
    one, two = await server.session(), await server.session()
    found = [await told(server, session, stream=False) for session in (one, two)]
    assert [each["replayed"] for each in found] == [None, None]
    assert found[0]["id"] != found[1]["id"]
    assert len(llm.exchanges) == 2


async def test_another_key_while_a_reply_runs_is_busy_and_an_old_one_is_answered(
    server: Running, llm: ScriptedLLM
) -> None:
    session = await server.session()
    old = await told(server, session, stream=False)
    gate = Gate()
    llm.play(reply("Once ", gate))
    stream = await server.stream(session, "Next", {"Idempotency-Key": "k2"})
    assert without_replayed(await told(server, session, stream=False)) == without_replayed(old)
    status, body, _ = await server.chat(session, "Third", {"Idempotency-Key": "k3"})
    assert (status, body["error"]["message_id"]) == (409, stream.message_id)
    gate.open()
    await stream.rest()


async def test_a_key_survives_a_restart_on_a_file(
    start: StartServer, llm: ScriptedLLM, tmp_path: Path
) -> None:
    file = str(tmp_path / "chat.db")
    server = await start(database_url=file)
    session = await server.session()
    before = await told(server, session, stream=True)
    await server.stop()
    again = await start(database_url=file)
    for stream in (True, False):
        after = await told(again, session, stream=stream)
        assert without_replayed(after) == without_replayed(before)
        assert after["replayed"] == "true"
    assert (await told(again, session, stream=True, message="Ho"))["error"] == "idempotency_key_reused"
    assert len(llm.exchanges) == 1


@pytest.mark.parametrize("role", ["user", "assistant"])
async def test_a_rewound_turn_frees_its_key(server: Running, llm: ScriptedLLM, role: str) -> None:
    session = await server.session()
    before = await told(server, session, stream=True)
    _, page, _ = await server.call("GET", f"/api/sessions/{session}/messages")
    rewound = next(message["message_id"] for message in page["messages"] if message["role"] == role)
    _, body, _ = await server.call("DELETE", f"/api/sessions/{session}/messages/{rewound}")
    assert body == {"deleted": 2}
    after = await told(server, session, stream=True, message="Ho")
    assert (after["status"], after["replayed"]) == (200, None)
    assert after["id"] != before["id"]
    assert len(llm.exchanges) == 2


async def test_a_running_turn_that_is_rewound_frees_its_key(server: Running, llm: ScriptedLLM) -> None:
    llm.play(events(delta("Once "), Hang))
    session, stream = await server.begin(headers=KEY)
    await server.call("DELETE", f"/api/sessions/{session}/messages/{stream.message_id}")
    found = await told(server, session, stream=True, message="Ho")
    assert (found["text"], found["replayed"]) == ("Hello there.", None)


async def test_a_retry_goes_on_where_the_first_try_was_cut(server: Running, llm: ScriptedLLM) -> None:
    gate = Gate()
    llm.play(reply("Once ", "upon ", gate, "a time"))
    session, stream = await server.begin(headers=KEY)
    await server.leave(stream)
    again = await server.stream(session, "Hi", KEY | {"Last-Event-ID": "5"})
    assert (again.headers["Idempotent-Replayed"], again.message_id) == ("true", stream.message_id)
    gate.open()
    assert text_of(await again.rest()) == "upon a time"
    stored = await server.stream(session, "Hi", KEY | {"Last-Event-ID": "10"})
    assert text_of(await stored.rest()) == "a time"
    assert len(llm.exchanges) == 1


@pytest.mark.parametrize("key", [KEY, {}], ids=["key", "no key"])
async def test_an_offset_into_a_reply_that_is_yet_to_be_asked_for_asks_nothing(
    server: Running, llm: ScriptedLLM, key: dict[str, str]
) -> None:
    session = await server.session()
    stream = await server.stream(session, "Hi", key | {"Last-Event-ID": "5"})
    assert stream.status == 400, "there is no reply of which the client could have five characters"
    assert (await stream.response.json())["error"]["param"] == "Last-Event-ID"
    assert len(server.replies) == 0, "a reply runs that nobody listens to and nobody will stop"
    assert llm.exchanges == []


@pytest.mark.parametrize("key", ["", "k" * 256, "schlüssel", "a\tb"])
async def test_a_key_that_is_none_is_refused(server: Running, llm: ScriptedLLM, key: str) -> None:
    session = await server.session()
    status, body, _ = await server.chat(session, "Hi", {"Idempotency-Key": key})
    assert (status, body["error"]["param"]) == (400, "Idempotency-Key"), body
    assert llm.exchanges == []


async def test_a_key_of_every_printable_character_will_do(server: Running, llm: ScriptedLLM) -> None:
    key = "".join(map(chr, range(33, 127))) + " " + "k" * 160
    session = await server.session()
    for _ in range(2):
        status, _, _ = await server.chat(session, "Hi", {"Idempotency-Key": key})
        assert status == 200
    assert len(llm.exchanges) == 1
