"""deploy/haproxy.cfg and deploy/nginx-many.conf, run by the real programs in front of two real processes."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from collections import Counter

import pytest

from tests.deploy.farm import Farm
from tests.deploy.recipes import adapted, each_token_comes_through
from tests.tools.scripted_llm import Gate, ScriptedLLM, reply

GONE = {502, 503}  # it was not there, or died before it answered


async def test_what_begins_goes_to_both_and_what_goes_on_to_its_own(farm: Farm) -> None:
    sessions = [(await farm.call("POST", "/api/sessions", {}))[1]["session_id"] for _ in range(40)]
    halves = Counter(session_id < "8" for session_id in sessions)
    assert min(halves[True], halves[False]) >= 5, f"one had next to nothing to do: {halves}"
    for number in (1, 3):
        answers = [await farm.chat(session_id, "And?") for session_id in sessions]
        assert {answer["content"] for _, answer, _ in answers} == {f"{number} messages"}
    for session_id in sessions:
        own, other = ("one", "two") if session_id < "8" else ("two", "one")
        path = f"/api/sessions/{session_id}"
        assert (await farm.call("GET", path, port=farm.processes[own].port))[0] == 200
        assert (await farm.call("GET", path, port=farm.processes[other].port))[0] == 404


async def test_openais_ids_lead_to_their_process_too(farm: Farm) -> None:
    for name in ("one", "two"):
        session_id = await farm.session_of(name)
        hint = {"X-Session-ID": session_id}
        body = {"model": "m", "input": "Hi", "conversation": f"conv_{session_id}"}
        status, response, _ = await farm.call("POST", "/v1/responses", body, hint)
        assert (status, response["id"][5:7]) == (200, session_id[:2]), response
        assert (await farm.call("GET", f"/v1/responses/{response['id']}"))[0] == 200
        assert (await farm.call("GET", f"/v1/conversations/conv_{session_id}/items"))[0] == 200
        body = {"model": "m", "input": "On", "previous_response_id": response["id"]}
        status, answer, _ = await farm.call("POST", "/v1/responses", body, {"X-Session-ID": response["id"]})
        assert (status, answer["output"][0]["content"][0]["text"]) == (200, "3 messages")


@pytest.mark.parametrize("farm", ["haproxy"], indirect=True)
async def test_haproxy_finds_the_conversation_in_a_body(farm: Farm) -> None:
    for name in ("one", "two"):
        session_id = await farm.session_of(name)
        for body in (
            {"session_id": session_id, "message": "x" * 1_000_000},
            {"message": "x" * 100_000, "session_id": session_id},
            {"message": 'not this: "session_id": "ff"', "session_id": session_id},
        ):
            assert (await farm.call("POST", "/api/chat", body))[0] == 200
        for conversation in (f"conv_{session_id}", {"id": f"conv_{session_id}"}):
            body = {"model": "m", "input": "Hi", "conversation": conversation}
            status, response, _ = await farm.call("POST", "/v1/responses", body)
            assert status == 200, response
        body = {"model": "m", "input": "Hi", "previous_response_id": response["id"]}
        assert (await farm.call("POST", "/v1/responses", body))[0] == 200


@pytest.mark.parametrize("farm", ["haproxy"], indirect=True)
async def test_a_body_that_does_not_arrive_is_a_clear_error(farm: Farm) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", farm.port)
    writer.write(b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    assert head.startswith(b"HTTP/1.1 408 ")
    assert json.loads(body)["error"]["code"] == "invalid_request"


async def test_a_beginning_that_is_repeated_goes_to_the_same_process(farm: Farm, llm: ScriptedLLM) -> None:
    for number in range(10):
        body, headers = {"model": "m", "input": "Hi"}, {"Idempotency-Key": f"key-{number}"}
        answers = [await farm.call("POST", "/v1/responses", body, headers) for _ in range(3)]
        assert {status for status, _, _ in answers} == {200}, answers[0]
        assert len({answer["id"] for _, answer, _ in answers}) == 1
    assert len(llm.exchanges) == 10


async def test_a_dead_process_takes_only_its_own_along(farm: Farm) -> None:
    ids = {name: await farm.session_of(name) for name in ("one", "two")}
    for session_id in ids.values():
        assert (await farm.chat(session_id, "Hi"))[0] == 200
    farm.processes["two"].end(signal.SIGKILL)
    assert (await farm.chat(ids["one"], "And?"))[1]["content"] == "3 messages"
    for _ in range(4):  # the page and what begins something are had from the other one
        assert (await farm.call("GET", "/api/openapi.json"))[0] == 200
        assert (await farm.call("POST", "/v1/responses", {"model": "m", "input": "Hi"}))[0] == 200
    status, error, headers = await farm.chat(ids["two"], "And?")
    assert (error["error"]["code"], headers["Retry-After"]) == ("overloaded", "5")
    assert status in GONE
    await asyncio.to_thread(farm.start, "two")
    while (answer := await farm.chat(ids["two"], "And?"))[0] in GONE:  # noqa: ASYNC110 (until the proxy sees it)
        await asyncio.sleep(0.05)
    assert answer[1]["content"] == "3 messages"


@pytest.mark.parametrize("farm", ["haproxy"], indirect=True)
async def test_an_llm_that_is_away_takes_neither_history_nor_page_along(farm: Farm, llm: ScriptedLLM) -> None:
    session_id = await farm.session_of("two")
    await llm.stop()
    assert farm.proxy
    await asyncio.to_thread(farm.proxy.says, "backend new has no server available")
    assert (await farm.call("GET", "/api/openapi.json"))[0] == 200  # it goes the way of the page
    assert (await farm.call("GET", f"/api/sessions/{session_id}/messages"))[0] == 200
    status, begun, _ = await farm.call("POST", "/api/sessions", {})
    assert status == 201, begun
    assert (await farm.chat(begun["session_id"], "Hi"))[1]["error"]["code"] == "llm_unavailable"


def test_nginx_soon_tries_a_process_again_that_was_restarted() -> None:
    """It would not for ten seconds, in which the next one may be restarted: none would be left."""
    shared = re.findall(r"^upstream \w+ \{[^}]*:8081[^}]*:8082[^}]*\}", adapted("nginx-many.conf", {}), re.M)
    assert [upstream.count(" fail_timeout=1s;") for upstream in shared] == [2, 2]


async def test_a_process_that_dies_before_it_answers_is_a_clear_error(farm: Farm, llm: ScriptedLLM) -> None:
    session_id = await farm.session_of("two")
    # HAProxy closes without a word where the connection had an earlier request: this one is to be its first.
    await farm.call("GET", f"/api/sessions/{session_id}", headers={"Connection": "close"})
    llm.play([Gate()])
    asked = asyncio.create_task(farm.chat(session_id, "Hi"))
    await llm.asked()
    farm.processes["two"].end(signal.SIGKILL)
    status, error, headers = await asked
    assert (error["error"]["code"], headers["Retry-After"]) == ("overloaded", "5")
    assert status in GONE


async def test_a_process_that_drains_is_still_reached(farm: Farm, llm: ScriptedLLM) -> None:
    gate = Gate()
    session_id = await farm.session_of("one")
    llm.play(reply("To be", gate, " continued"))
    stream = await farm.stream(session_id, "Go on")
    assert await stream.event()
    farm.processes["one"].signal(signal.SIGTERM)
    await asyncio.to_thread(farm.processes["one"].says, "shutting down")
    status, session, _ = await farm.call("GET", f"/api/sessions/{session_id}")
    assert (status, session["active_reply"]["message"]) == (200, "Go on")
    assert (await farm.call("POST", "/api/sessions", {}))[1]["session_id"] >= "8"  # the other makes it
    gate.open()
    assert (await stream.rest())[-1].data == "[DONE]"


async def test_a_proxy_that_is_restarted_has_nothing_to_learn(farm: Farm) -> None:
    sessions = [await farm.session_of(name) for name in ("one", "two") * 3]
    await farm.restart_proxy()
    for session_id in sessions:
        assert (await farm.call("GET", f"/api/sessions/{session_id}"))[0] == 200


async def test_each_token_comes_through_before_the_next_is_sent(farm: Farm, llm: ScriptedLLM) -> None:
    session_id = await farm.session_of("one")
    await each_token_comes_through(llm, lambda: farm.stream(session_id, "Count"))


@pytest.mark.parametrize("farm", ["haproxy"], indirect=True)
async def test_the_log_has_request_ids_and_no_session_ids(farm: Farm) -> None:
    session_id = await farm.session_of("one")
    _, _, headers = await farm.call("GET", f"/api/sessions/{session_id}")
    assert farm.proxy
    line = await asyncio.to_thread(farm.proxy.says, re.escape(headers["X-Request-ID"]))
    assert "GET 200" in line.string
    assert session_id not in farm.proxy.output
