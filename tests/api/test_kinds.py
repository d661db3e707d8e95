"""A model says more than text: reasoning, refusals, tool calls; all of it is passed on, stored and shown."""

from __future__ import annotations

from typing import Any

import pytest

from tests.tools.scripted_llm import END, Gate, ScriptedLLM, Step, answer, completion, delta, events, reply
from tests.tools.server import Running

CALL = {"id": "call_1", "type": "function", "function": {"name": "now", "arguments": '{"zone":"KST"}'}}
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
SIGNATURE = {"extra_content": {"google": {"thought_signature": "CuwB"}}}


def call(arguments: str, **head: Any) -> bytes:
    name = {"name": "now"} if head else {}
    return delta(tool_calls=[{"index": 0, **head, "function": {**name, "arguments": arguments}}])


CALLING = [call('{"zone":', id="call_1", type="function"), call('"KST"}'), delta(finish="tool_calls")]
CALLS = [*events(*CALLING, b"data: [DONE]\n\n"), END]
OUTPUTS = [{"tool_call_id": "call_1", "output": "12:30"}]


def calling(call: dict[str, Any]) -> list[Step]:
    """An answer that is one call, in one piece."""
    return [*events(delta(tool_calls=[call], finish="tool_calls")), END]


async def ask(server: Running, session: str, **body: Any) -> tuple[int, Any]:
    status, told, _ = await server.call("POST", "/api/chat", {"session_id": session, **body})
    return status, told


async def called(server: Running, llm: ScriptedLLM, script: list[Step] = CALLS) -> tuple[str, Any]:
    """A session whose newest reply called a tool, and that reply."""
    session = await server.session()
    llm.play(script)
    status, told = await ask(server, session, message="What time is it?")
    assert status == 200, told
    return session, told


async def test_a_round_of_tools(server: Running, llm: ScriptedLLM) -> None:
    session, told = await called(server, llm)
    assert (told["content"], told["tool_calls"], told["finish_reason"]) == (None, [CALL], "tool_calls")
    status, refused = await ask(server, session, tool_outputs=OUTPUTS, message="And?")
    assert (status, refused["error"]["param"]) == (400, "tool_outputs")
    status, told = await ask(server, session, tool_outputs=OUTPUTS)
    assert (status, told["content"]) == (200, "Hello there.")
    said = {"role": "tool", "tool_call_id": "call_1", "content": "12:30"}
    sent = llm.exchanges[-1].body["messages"]
    assert sent[1:] == [{"role": "assistant", "content": None, "tool_calls": [CALL]}, said]
    _, page, _ = await server.call("GET", f"/api/sessions/{session}/messages")
    assert [message["role"] for message in page["messages"]] == ["user", "assistant", "tool", "assistant"]
    shown = page["messages"][2]
    assert {name: shown[name] for name in said} == said
    status, again = await ask(server, session, tool_outputs=OUTPUTS, replace=told["message_id"])
    assert (status, again["versions"]["index"]) == (200, 1)
    assert llm.exchanges[-1].body["messages"] == sent


@pytest.mark.parametrize(("finish", "arguments"), [("tool_calls", "{}"), ("length", "")])
async def test_a_whole_call_without_arguments_has_an_empty_object(
    server: Running, llm: ScriptedLLM, finish: str, arguments: str
) -> None:
    session = await server.session()
    llm.play([*events(call("", id="call_1"), delta(finish=finish), b"data: [DONE]\n\n"), END])
    _, told = await ask(server, session, message="What time is it?")
    _, page, _ = await server.call("GET", f"/api/sessions/{session}/messages")
    for message in (told, page["messages"][1]):
        assert message["tool_calls"][0]["function"] == {"name": "now", "arguments": arguments}


async def test_tools_put_out_what_was_called_above_what_was_added_and_deleted(
    server: Running, llm: ScriptedLLM
) -> None:
    session, _ = await called(server, llm)
    path = f"/v1/conversations/conv_{session}/items"
    _, added, _ = await server.call("POST", path, {"items": [{"role": "user", "content": "Quick!"}]})
    assert (await server.call("DELETE", f"{path}/{added['data'][0]['id']}"))[0] == 200
    status, told = await ask(server, session, tool_outputs=OUTPUTS)
    assert (status, told.get("content")) == (200, "Hello there."), told


async def test_the_signature_of_a_call_goes_back_with_it(server: Running, llm: ScriptedLLM) -> None:
    """Gemini refuses a round of tools without it."""
    session, told = await called(server, llm, calling(CALL | SIGNATURE))
    assert told["tool_calls"] == [CALL | SIGNATURE]
    assert (await ask(server, session, tool_outputs=OUTPUTS))[0] == 200
    assert llm.exchanges[-1].body["messages"][1]["tool_calls"] == [CALL | SIGNATURE]


@pytest.mark.parametrize("id_", ["call_1", None], ids=["as it came", "rewritten"])
async def test_the_signature_of_a_call_is_in_the_stream_and_in_its_replay(
    server: Running, llm: ScriptedLLM, id_: str | None
) -> None:
    session = await server.session()
    signed = delta(tool_calls=[CALL | SIGNATURE | {"index": 0, "id": id_}])
    llm.play([*events(signed, delta(finish="tool_calls")), END])
    live = await server.stream(session, "What time is it?")
    first, *_ = await live.rest()
    again, *_ = await (await server.resume(session, live.message_id)).rest()
    for event in (first, again):
        [call] = event.json["choices"][0]["delta"]["tool_calls"]
        assert call["extra_content"] == SIGNATURE["extra_content"]


@pytest.mark.parametrize("odd", [rb'"\ud800"', b"1e999", b"[" * 99 + b"]" * 99])
async def test_a_signature_that_could_not_be_stored_costs_no_reply(
    server: Running, llm: ScriptedLLM, odd: bytes
) -> None:
    said = delta(tool_calls=[CALL | {"extra_content": "odd"}], finish="tool_calls").replace(b'"odd"', odd)
    _, told = await called(server, llm, [*events(said), END])
    assert told["tool_calls"] == [CALL]


@pytest.mark.parametrize("outputs", [[OUTPUTS[0] | {"tool_call_id": "call_2"}], OUTPUTS * 2])
async def test_outputs_of_what_was_not_called_are_refused(
    server: Running, llm: ScriptedLLM, outputs: list[dict[str, str]]
) -> None:
    session, _ = await called(server, llm)
    status, told = await ask(server, session, tool_outputs=outputs)
    assert (status, told["error"]["param"]) == (400, "tool_outputs")
    assert len(llm.exchanges) == 1


async def test_a_call_without_its_output_is_shown_and_not_sent(server: Running, llm: ScriptedLLM) -> None:
    session, _ = await called(server, llm)
    await ask(server, session, message="Never mind.")
    assert "tool_calls" not in str(llm.exchanges[-1].body["messages"])
    assert "call_1" in str((await server.call("GET", f"/api/sessions/{session}/messages"))[1])


@pytest.mark.parametrize("how", ["stream", "whole"])
async def test_reasoning_is_stored_and_shown_and_not_sent_back(
    server: Running, llm: ScriptedLLM, how: str
) -> None:
    whole = completion("one")
    whole["choices"][0]["message"]["reasoning"] = "Hm."
    stream = [*events(delta("<thi"), delta("nk>Hm.</think>"), delta("one"), delta(finish="stop")), END]
    llm.play(stream if how == "stream" else answer(body=whole))
    session = await server.session()
    found = await (await server.stream(session)).rest()
    deltas = [choice["delta"] for event in found[:-1] for choice in event.json["choices"]]
    assert "".join(one.get("reasoning_content") or "" for one in deltas) == "Hm."
    assert "".join(one.get("content") or "" for one in deltas) == "one"
    assert [event.id for event in found if event.id is not None][-1] == 6
    _, told, _ = await server.call("GET", f"/api/sessions/{session}/messages")
    assert (told["messages"][1]["reasoning"], told["messages"][1]["content"]) == ("Hm.", "one")
    await server.chat(session)
    assert "Hm." not in str(llm.exchanges[-1].body)


async def test_a_refusal_is_told_apart_from_the_text(server: Running, llm: ScriptedLLM) -> None:
    session = await server.session()
    for said in ((None, "I cannot."), ("Well, ", "no.")):
        llm.play([*events(delta(said[0]), *(delta(refusal=c) for c in said[1]), delta(finish="stop")), END])
        _, told = await ask(server, session, message="Hi")
        assert (told["content"], told["refusal"]) == said
    assert llm.exchanges[-1].body["messages"][1]["content"] == "I cannot."


@pytest.mark.parametrize("finish", ["length", "content_filter"])
async def test_reasoning_alone_that_was_cut_is_told_as_that(
    server: Running, llm: ScriptedLLM, finish: str
) -> None:
    session = await server.session()
    llm.play([*events(delta(reasoning_content="Hm."), delta(finish=finish)), END])
    status, told = await ask(server, session, message="Hi")
    assert (status, told["content"], told["reasoning"]) == (200, None, "Hm.")
    assert told["finish_reason"] == finish


async def test_a_reply_that_is_cancelled_in_the_middle_of_a_call_keeps_what_came(
    server: Running, llm: ScriptedLLM
) -> None:
    session = await server.session()
    gate = Gate()
    llm.play([*events(delta("Let me see."), call('{"zo', id="call_1", type="function")), gate])
    stream = await server.stream(session)
    await stream.event()
    await stream.event()
    path = f"/api/sessions/{session}/messages/{stream.message_id}"
    _, told, _ = await server.call("POST", path + "/cancel")
    assert (told["finish_reason"], told["content"]) == ("cancelled", "Let me see.")
    assert told["tool_calls"][0]["function"] == {"name": "now", "arguments": '{"zo'}
    assert [event.finish_reason for event in (await stream.rest())[:-1]] == ["cancelled"]
    status, refused = await ask(server, session, tool_outputs=[{"tool_call_id": "call_1", "output": ""}])
    assert (status, refused["error"]["param"]) == (400, "tool_outputs")
    await ask(server, session, message="Go on")
    assert llm.exchanges[-1].body["messages"][1] == {"role": "assistant", "content": "Let me see."}


async def test_content_parts_go_to_the_llm_and_into_the_history_as_they_are(
    server: Running, llm: ScriptedLLM
) -> None:
    session = await server.session()
    parts = [
        {"type": "text", "text": ""},
        PICTURE | {"cache_control": {"type": "ephemeral"}},
        {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERg=="}},
    ]
    await ask(server, session, message=parts)
    assert llm.exchanges[0].body["messages"] == [{"role": "user", "content": parts}]
    assert (await server.history(session))[0] == ("user", parts)
    gate = Gate()
    llm.play(reply("one", gate))
    body = {"session_id": session, "message": [PICTURE]}
    async with server.http.post(server.url + "/api/chat/stream", json=body):
        _, told, _ = await server.call("GET", f"/api/sessions/{session}")
    assert told["active_reply"]["message"] == [{"type": "image_url", "omitted": 34}]


# Which session, and what is in extra_body


@pytest.mark.parametrize(
    ("header", "body", "status"),
    [("a", "a", 200), ("a", None, 200), ("a", "b", 400), (None, None, 400), ("", "a", 200), ("", None, 400)],
)
async def test_the_session_is_named_by_the_header_or_the_body(
    server: Running, header: str | None, body: str | None, status: int
) -> None:
    ids = {"a": await server.session(), "b": await server.session(), "": None, None: None}
    asked = {"session_id": ids[body], "message": "Hi"}
    headers = {"X-Session-ID": ids[header] or ""} if header is not None else {}
    found, told, _ = await server.call("POST", "/api/chat", asked, headers)
    assert found == status
    if status == 400:
        assert told["error"]["param"] == "session_id"


async def test_what_is_named_beside_extra_body_wins(server: Running, llm: ScriptedLLM) -> None:
    session = await server.session()
    await ask(server, session, message="Hi", seed=1, extra_body={"seed": 2, "mirostat": 2})
    assert (llm.exchanges[0].body["seed"], llm.exchanges[0].body["mirostat"]) == (1, 2)


async def test_null_and_absent_are_one_request_to_a_key(server: Running, llm: ScriptedLLM) -> None:
    session, key = await server.session(), {"Idempotency-Key": "k"}
    _, first, _ = await server.chat(session, "Hi", key, seed=None)
    status, again, headers = await server.chat(session, "Hi", key, replace=None)
    assert (status, again, headers["Idempotent-Replayed"]) == (200, first, "true")
    assert (await server.chat(session, "Hi", key, replace=first["message_id"]))[0] == 422
    assert len(llm.exchanges) == 1
