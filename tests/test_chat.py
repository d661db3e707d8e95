"""A turn from end to end, in one piece and streamed."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from unittest.mock import Mock

import pytest

from chatbot.chat.reply_log import MAX_BYTES
from chatbot.chat.sessions import Sessions
from chatbot.llm.client import LLM
from chatbot.storage.database import Locked
from tests.tools.scripted_llm import (
    DONE,
    END,
    SSE_HEAD,
    Gate,
    Hang,
    ScriptedLLM,
    Step,
    answer,
    completion,
    delta,
    events,
    http_chunk,
    reply,
    usage,
)
from tests.tools.server import Clock, Event, Log, Running, Stream, text_of, until


async def streamed(server: Running, llm: ScriptedLLM, *said: bytes) -> tuple[str, list[Event]]:
    """Makes a session and asks in it; returns its id, and what is sent of these events of the LLM."""
    llm.play([*events(*said), END])
    session = await server.session()
    return session, await (await server.stream(session)).rest()


async def test_a_frame_reaches_the_client_before_the_next_one_is_sent(
    server: Running, llm: ScriptedLLM
) -> None:
    gates = [Gate(), Gate()]
    llm.play(reply("one", gates[0], "two", gates[1], "three"))
    stream = await server.stream(await server.session())
    for gate, text in zip(gates, ("one", "two"), strict=True):
        assert text_of(await stream.read()) == text
        gate.open()
    assert text_of(await stream.rest()) == "three"


# Shapes


async def test_a_whole_answer_has_the_documented_shape(server: Running) -> None:
    session = await server.session()
    status, told, headers = await server.chat(session, "Hi")
    assert status == 200
    assert headers["X-Message-ID"] == told["message_id"]
    assert headers["X-Session-ID"] == session
    assert headers["X-Context-Messages"] == "1"
    assert headers["Content-Type"].startswith("application/json")
    assert told.pop("message_id")
    assert told.pop("created_at").endswith("Z")
    assert told.pop("first_token_ms") >= 0
    assert told == {
        "role": "assistant",
        "content": "Hello there.",
        "finish_reason": "stop",
        "token_usage": {"total_tokens": 7},
        "model": "m",
    }
    assert await server.history(session) == [("user", "Hi"), ("assistant", "Hello there.")]


@pytest.mark.parametrize("how", ["live", "resumed"])
async def test_a_stream_has_the_documented_headers_and_is_in_the_history_once_done_is_seen(
    server: Running, how: str
) -> None:
    session = await server.session()
    stream = await server.stream(session)
    where = f"/api/sessions/{session}/messages/{stream.message_id}/stream"
    if how == "resumed":
        await stream.rest()
        stream = Stream(await server.http.get(server.url + where))
    assert stream.status == 200
    assert stream.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert stream.headers["Cache-Control"] == "no-cache, no-transform"
    assert stream.headers["X-Accel-Buffering"] == "no"
    assert stream.headers["X-Session-ID"] == session
    assert stream.headers["Content-Location"] == where
    assert "Content-Length" not in stream.headers
    found = await stream.rest()
    assert (text_of(found), found[-1].data) == ("Hello there.", "[DONE]")
    _, told, _ = await server.call("GET", where.removesuffix("/stream"))
    assert (told["role"], told["content"]) == ("assistant", "Hello there.")
    assert await server.history(session) == [("user", "Hi"), ("assistant", "Hello there.")]


async def test_the_id_of_a_frame_counts_the_characters_delivered_with_it(
    server: Running, llm: ScriptedLLM
) -> None:
    texts = ["안녕", " 👋", "e\u0301"]
    _, told = await streamed(server, llm, delta(role="assistant"), *map(delta, texts), delta(finish="stop"))
    assert [event.id for event in told] == [0, 2, 4, 6, 6, None]
    assert told[-1].data == "[DONE]"


async def test_a_frame_is_two_lines_and_a_blank_one_and_the_llms_own_comments_and_pings_are_none(
    server: Running, llm: ScriptedLLM
) -> None:
    chunk = delta("one").removeprefix(b"data: ").strip()
    last = delta(finish="stop").removeprefix(b"data: ").strip()
    pings = [b": ping\n\n", b": OPENROUTER PROCESSING\n\n", b"event: ping\n\n"]
    said = [b"data:" + chunk + b"\r\n\r\n", *pings, b"id: 77\nretry: 1\ndata: " + last + b"\n\n"]
    llm.play([*events(pings[0], *said), END])
    stream = await server.stream(await server.session())
    told = await stream.response.read()
    assert told == b"id: 3\ndata: " + chunk + b"\n\nid: 3\ndata: " + last + b"\n\ndata: [DONE]\n\n"


async def test_the_llms_chunks_are_passed_on_as_they_are(server: Running, llm: ScriptedLLM) -> None:
    """Logprobs, odd numbers, and fields that nobody has thought of yet."""
    chunks: list[dict[str, Any]] = [
        {"choices": [{"delta": {"reasoning_content": "Hm."}, "finish_reason": None}]},
        {"choices": [{"delta": {"content": "one"}, "logprobs": {"a": [1.50, 1e-7]}, "finish_reason": None}]},
        {"new": True, "choices": [{"delta": {"content": None}, "finish_reason": "stop"}]},
        {"choices": [], "usage": {"total_tokens": 7, "details": {"cached": 1}}},
    ]
    sent = [json.dumps(chunk, ensure_ascii=False) for chunk in chunks]
    _, told = await streamed(server, llm, *(f"data: {one}\n\n".encode() for one in sent), DONE)
    assert [event.data for event in told] == [*sent, "[DONE]"]
    [(usage_,)] = server.sql("SELECT token_usage FROM turns")
    assert json.loads(usage_) == {"total_tokens": 7, "details": {"cached": 1}}


@pytest.mark.parametrize("how", ["chat", "stream"])
@pytest.mark.parametrize("finish", ["stop", "length", "content_filter", "tool_calls", "eos"])
async def test_any_finish_reason_is_the_llms_to_give(
    server: Running, llm: ScriptedLLM, finish: str, how: str
) -> None:
    session = await server.session()
    if how == "chat":
        llm.play(answer(body=completion("one", finish)))
        await server.chat(session)
    else:
        llm.play(reply("one", finish=finish))
        told = await (await server.stream(session)).rest()
        assert [event.finish_reason for event in told if event.finish_reason] == [finish]
    assert server.sql("SELECT finish_reason FROM turns") == [(finish,)]


async def test_usage_is_stored_as_reported_or_not_at_all(server: Running, llm: ScriptedLLM) -> None:
    session, _ = await streamed(server, llm, delta("one"), delta(finish="stop"))
    whole = completion("two")
    del whole["usage"]
    llm.play(answer(body=whole), answer(body=completion("three") | {"usage": None}))
    for _ in range(2):
        _, told, _ = await server.chat(session)
        assert told["token_usage"] is None
    assert server.sql("SELECT DISTINCT token_usage FROM messages") == [(None,)]


# What goes to the LLM

OPTIONS: dict[str, Any] = {
    "model": "other",
    "temperature": 0.7,
    "top_p": 1,
    "max_tokens": 5,
    "stop": ["\n", "안녕"],
    "seed": 2**63,
    "presence_penalty": -2,
    "frequency_penalty": 1e-9,
    "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}},
    "max_completion_tokens": 6,
    "tools": [{"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}}],
    "tool_choice": "auto",
    "parallel_tool_calls": False,
    "reasoning_effort": "low",
    "top_k": 40,
    "min_p": 0.05,
    "repetition_penalty": 1.1,
    "logit_bias": {"50256": -100},
    "verbosity": "low",
    "user": "kim",
    "extra_body": {"mirostat": 2, "chat_template_kwargs": {"enable_thinking": False}},
}


@pytest.mark.parametrize("how", ["chat", "stream"])
async def test_options_go_to_the_llm_as_they_are(server: Running, llm: ScriptedLLM, how: str) -> None:
    session = await server.session()
    if how == "chat":
        status, _, _ = await server.chat(session, "Hi", **OPTIONS)
        assert status == 200
    else:
        await (await server.stream(session, "Hi", **OPTIONS)).rest()
    sent = llm.exchanges[0].body
    owned = {"messages": [{"role": "user", "content": "Hi"}], "stream": True}
    expected = {name: value for name, value in OPTIONS.items() if name != "extra_body"}
    assert sent == expected | OPTIONS["extra_body"] | owned | {"stream_options": {"include_usage": True}}


async def test_options_are_of_one_turn(server: Running, llm: ScriptedLLM) -> None:
    session = await server.session()
    await server.chat(session, "Hi", temperature=0.1, stop="x")
    await server.chat(session, "Hi")
    assert {"temperature", "stop"} <= set(llm.exchanges[0].body)
    assert set(llm.exchanges[1].body) == {"model", "messages", "stream", "stream_options"}


async def test_null_is_as_if_it_were_absent(server: Running, llm: ScriptedLLM) -> None:
    session = await server.session(metadata=None, system_prompt=None)
    nulls = dict.fromkeys(("seed", "stop", "tools", "replace", "tool_outputs", "extra_body"))
    status, _, _ = await server.chat(session, **nulls)
    assert status == 200
    assert not set(nulls) & set(llm.exchanges[0].body)


WRONG: dict[str, list[Any]] = {
    "session_id": [None, "", 7],
    "message": [
        *(None, "", 7, [], ["Hi"], [{"type": "text"}], [{"type": ["text"], "text": "Hi"}]),
        [{"type": "image_url", "image_url": "data:"}],
        [{"type": "image_url", "image_url": {"url": ""}}],
        [{"type": "input_audio", "input_audio": {"data": "x"}}],
        [{"type": "video", "video": {}}],
    ],
    "tool_outputs": [[], [{"tool_call_id": "c"}], [{"tool_call_id": "c", "output": "", "x": 1}]],
    "replace": ["", 7],
    "extra_body": [{"n": 2}, {"messages": []}, {"stream": None}, {"stream_options": {}}, []],
    "n": [2],
    "tools": [{}, ["now"]],
    "tool_choice": [1],
    "parallel_tool_calls": [1],
    "stream": [True],
    "messages": [[]],
    "model": [""],
    "temperature": ["hot", True],
    "max_tokens": [0, 1.5],
    "stop": [[""]],
    "seed": [1.5],
    "response_format": ["json"],
}


@pytest.mark.parametrize("path", ["/api/chat", "/api/chat/stream"])
@pytest.mark.parametrize(("param", "value"), [(name, value) for name in WRONG for value in WRONG[name]])
async def test_what_cannot_be_asked_is_refused_by_name_and_not_sent(
    server: Running, llm: ScriptedLLM, path: str, param: str, value: Any
) -> None:
    asked: dict[str, Any] = {"session_id": await server.session(), "message": "Hi", param: value}
    if param == "tool_outputs":
        del asked["message"]
    status, told, _ = await server.call("POST", path, asked)
    assert (status, told["error"]["code"], told["error"]["param"]) == (400, "invalid_request", param)
    assert not llm.exchanges


async def test_a_message_and_the_outputs_of_tools_exclude_each_other(server: Running) -> None:
    outputs = [{"tool_call_id": "c", "output": "x"}]
    status, told, _ = await server.chat(await server.session(), tool_outputs=outputs)
    assert (status, told["error"]["code"], told["error"]["param"]) == (400, "invalid_request", "tool_outputs")


# Unicode


async def test_text_is_valid_unicode_though_pairs_are_split_over_chunks(
    server: Running, llm: ScriptedLLM
) -> None:
    texts = ["a\ud83d", "\udc4b", "b\ud83d", "c"]
    session, told = await streamed(server, llm, *map(delta, texts), delta(finish="stop"), DONE)
    assert text_of(told) == "a👋b\ufffdc"
    for event in told[:-1]:
        json.dumps(event.json, ensure_ascii=False).encode()
    assert told[-3].id == len("a👋b\ufffdc")
    assert await server.history(session) == [("user", "Hi"), ("assistant", "a👋b\ufffdc")]


async def test_a_whole_answer_with_half_a_pair_is_valid_unicode(server: Running, llm: ScriptedLLM) -> None:
    llm.play(answer(body=completion("a\ud83d")))
    session = await server.session()
    status, told, _ = await server.chat(session)
    assert (status, told["content"]) == (200, "a\ufffd")


async def test_bytes_cut_anywhere_make_the_same_text(server: Running, llm: ScriptedLLM) -> None:
    whole = delta("안녕 👋") + delta("!") + delta(finish="stop") + usage() + DONE
    llm.play([SSE_HEAD, *(http_chunk(bytes([byte])) for byte in whole), END])
    session = await server.session()
    assert text_of(await (await server.stream(session)).rest()) == "안녕 👋!"
    assert await server.history(session) == [("user", "Hi"), ("assistant", "안녕 👋!")]


FINISHES = {
    "in its last chunk": delta("one", "stop"),
    "in an event that nothing ends": delta("one") + delta(finish="stop").strip(),
    "with CR line ends": delta("one") + delta(finish="stop").replace(b"\n", b"\r"),
    "after empty events": b"data:\n\n" + delta("one") + b"data: \n\n" + delta(finish="stop"),
    "before [DONE]": b"\xef\xbb\xbf" + delta("one") + delta("", "stop") + DONE + delta("not of this reply"),
}


@pytest.mark.parametrize("where", FINISHES)
async def test_a_finish_is_seen_wherever_it_stands(server: Running, llm: ScriptedLLM, where: str) -> None:
    session, told = await streamed(server, llm, FINISHES[where])
    assert text_of(told) == "one"
    assert [event.finish_reason for event in told if event.finish_reason] == ["stop"]
    assert told[-1].data == "[DONE]"
    assert await server.history(session) == [("user", "Hi"), ("assistant", "one")]


@pytest.mark.parametrize(
    "message", ["\0", "안녕\r\n\u2028👋", "x" * 500_000, " ", "'); DROP TABLE messages; --"]
)
async def test_any_text_can_be_asked_and_is_kept_as_it_is(
    server: Running, llm: ScriptedLLM, message: str
) -> None:
    llm.play(answer(body=completion(message)))
    session = await server.session()
    _, told, _ = await server.chat(session, message)
    assert told["content"] == message
    assert llm.exchanges[0].body["messages"] == [{"role": "user", "content": message}]
    assert await server.history(session) == [("user", message), ("assistant", message)]


# The end


async def test_done_is_sent_only_after_the_turn_is_stored(
    server: Running, llm: ScriptedLLM, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = True

    def add_turn(*args: Any, **named: Any) -> int:
        if locked:
            raise Locked
        return add(*args, **named)

    add = server.store.add_turn
    monkeypatch.setattr(server.store, "add_turn", add_turn)
    llm.play([*events(delta("one"), delta(finish="stop"), DONE), END])
    _, stream = await server.begin()
    assert [event.finish_reason for event in await stream.read()] == ["stop"]
    done = asyncio.create_task(stream.read())
    for _ in range(3):
        await server.call("GET", "/api/health")
    assert not done.done(), "[DONE] came before the turn was stored"
    assert server.sql("SELECT count(*) FROM messages") == [(0,)]
    locked = False
    clock.advance(1)
    assert [event.data for event in await done] == ["[DONE]"]
    assert server.sql("SELECT count(*) FROM messages") == [(2,)]


# Silence


async def test_silence_is_filled_with_comments_that_end_no_event(
    server: Running, llm: ScriptedLLM, clock: Clock
) -> None:
    gate = Gate()
    llm.play(reply("one", gate, "two"))
    _, stream = await server.begin()
    for _ in range(3):
        clock.advance(15)
        assert await stream.response.content.readline() == b": keep-alive\n"
    gate.open()
    line = await stream.response.content.readline()
    assert line.startswith(b"id: 6"), "a blank line after the comment"
    told = await stream.rest()
    assert told[-1].data == "[DONE]"


async def test_a_heartbeat_waits_for_the_whole_of_its_silence(
    server: Running, llm: ScriptedLLM, clock: Clock
) -> None:
    gates = [Gate(), Gate(), Gate()]
    llm.play(reply("one", gates[0], "two", gates[1], "three", gates[2], "four"))
    stream = await server.stream(await server.session())
    for gate in gates:
        await stream.read()
        clock.advance(10)
        gate.open()
    await stream.rest()
    assert stream.comments == 0


async def begun_with_heartbeats(server: Running, llm: ScriptedLLM, clock: Clock, *script: Step) -> Stream:
    """Asks an LLM that is silent for longer than a heartbeat before it plays the script."""
    gate = Gate()
    llm.play([gate, *script])
    asking = asyncio.create_task(server.stream(await server.session()))
    await gate.reached.wait()
    clock.advance(15)
    stream = await asking
    assert stream.status == 200
    assert stream.message_id
    assert "X-Context-Messages" not in stream.headers, "it is not known yet"
    clock.advance(15)
    assert await stream.response.content.readline() == b": keep-alive\n"
    gate.open()
    return stream


async def test_a_slow_llm_begins_with_heartbeats(server: Running, llm: ScriptedLLM, clock: Clock) -> None:
    stream = await begun_with_heartbeats(server, llm, clock, *reply("one"))
    told = await stream.rest()
    assert (text_of(told), told[-1].data) == ("one", "[DONE]")
    assert await server.history(stream.headers["X-Session-ID"]) == [("user", "Hi"), ("assistant", "one")]


async def test_an_error_after_the_heartbeats_began_is_a_frame(
    server: Running, llm: ScriptedLLM, clock: Clock
) -> None:
    refusal = answer("429 Too Many Requests", headers="Retry-After: 7\r\n")
    stream = await begun_with_heartbeats(server, llm, clock, *refusal)
    told = await stream.rest()
    assert [(event.id, event.json["error"]["code"]) for event in told] == [(None, "llm_rate_limited")]
    assert await server.history(stream.headers["X-Session-ID"]) == []


# Length


@pytest.mark.parametrize("letter", ["x", "é", "한", "👋"])
@pytest.mark.parametrize("how", ["chat", "stream"])
async def test_a_reply_is_cut_at_4_mib_of_utf8(
    server: Running, llm: ScriptedLLM, letter: str, how: str
) -> None:
    size = len(letter.encode())
    text = "a" + letter * (MAX_BYTES // size + 1)
    kept = "a" + letter * ((MAX_BYTES - 1) // size)
    session = await server.session()
    if how == "chat":
        body = json.dumps(completion(text), ensure_ascii=False).encode()
        llm.play(answer(body=body))
        status, told, _ = await server.chat(session)
        assert (status, told["finish_reason"]) == (200, "length")
        assert told["content"] == kept
    else:
        pieces = [text[place : place + 40_000] for place in range(0, len(text), 40_000)]
        llm.play([*events(*map(delta, pieces)), Hang])
        told = await (await server.stream(session)).rest()
        assert told[-1].data == "[DONE]"
        assert text_of(told) == kept
        assert [event.finish_reason for event in told if event.finish_reason] == ["length"]
        await llm.exchanges[0].gone.wait()
    [(content, finish)] = server.sql("SELECT output ->> 'content', finish_reason FROM turns")
    assert (content == kept, finish) == (True, "length")


async def test_a_reply_of_exactly_4_mib_is_whole(server: Running, llm: ScriptedLLM) -> None:
    llm.play(answer(body=completion("x" * MAX_BYTES)))
    _, told, _ = await server.chat(await server.session())
    assert told["finish_reason"] == "stop"
    assert len(told["content"]) == MAX_BYTES


# Many


async def test_many_conversations_at_once_do_not_mix(server: Running, llm: ScriptedLLM) -> None:
    llm.script = lambda body: reply(*(f"{body['messages'][-1]['content']}:{part} " for part in range(5)))
    sessions = [await server.session() for _ in range(30)]

    async def talk(number: int, session: str) -> list[Event]:
        return await (await server.stream(session, f"Q{number}")).rest()

    told = await asyncio.gather(*(talk(number, session) for number, session in enumerate(sessions)))
    for number, session in enumerate(sessions):
        text = "".join(f"Q{number}:{part} " for part in range(5))
        assert text_of(told[number]) == text
        assert await server.history(session) == [("user", f"Q{number}"), ("assistant", text)]
    await until(lambda: len(server.replies) == 0)


@pytest.mark.parametrize(
    ("room", "name", "failure", "status", "code", "retry_after"),
    [
        (LLM, "ask", RuntimeError("secret"), 500, "internal_error", None),
        (LLM, "ask", MemoryError(), 503, "overloaded", "5"),
        (Sessions, "use", MemoryError(), 503, "overloaded", "5"),
    ],
)
async def test_a_crash_is_told_and_says_nothing_of_the_inside_and_a_full_memory_is_told_as_that(
    server: Running,
    monkeypatch: pytest.MonkeyPatch,
    log: Log,
    room: type,
    name: str,
    failure: Exception,
    status: int,
    code: str,
    retry_after: str | None,
) -> None:
    session = await server.session()
    with monkeypatch.context() as patch:
        patch.setattr(room, name, Mock(side_effect=failure))
        found, told, headers = await server.chat(session)
    assert (found, told["error"]["code"], headers.get("Retry-After")) == (status, code, retry_after)
    assert "secret" not in json.dumps(told)
    assert bool(log.lines(holding="RuntimeError: secret")) == (code == "internal_error")
    assert (await server.chat(session))[0] == 200
