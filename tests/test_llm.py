"""Every way in which the LLM server can fail or differ, provoked through real sockets.

After each failure: the right status or frame, nothing stored, and the next turn in that session works.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from typing import Any
from unittest.mock import Mock

import pytest
from aiohttp import ClientResponse
from aioresponses import aioresponses

from chatbot import answers
from chatbot.config import Config
from chatbot.errors import ChatError, TooLong
from chatbot.frames import Frame
from chatbot.llm import LLM
from tests.tools.server import Clock, Running, StartServer, Stream, text_of, until
from tests.tools.scripted_llm import (
    DONE,
    END,
    SSE_HEAD,
    Abort,
    Close,
    Gate,
    Hang,
    ScriptedLLM,
    Step,
    answer,
    capture,
    completion,
    delta,
    events,
    http_chunk,
    reply,
)

LOADING = {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}
NO_MODEL = {"error": {"code": 404, "message": "model 'x' not found", "type": "not_found_error"}}


async def check_no_trace(server: Running, session: str, before: int = 0) -> None:
    """The failed turn left nothing, and the next turn works."""
    rows = server.sql("SELECT role, content FROM messages")
    assert len(rows) == before, f"a failed turn left {rows}"
    assert not len(server.replies), "a failed reply still runs"
    status, said, _ = await server.chat(session, "again")
    assert (status, said.get("content")) == (200, "Hello there."), said


def error_of(told: Any) -> tuple[str, str]:
    assert set(told) == {"error"}, told
    assert set(told["error"]) >= {"code", "message", "param", "type"}, told
    return told["error"]["code"], told["error"]["message"]


# Failures before the answer's body, the same for both ways of asking

HEADS: dict[str, tuple[list[Step], int, str, str]] = {
    # what it plays: (script, our status, our code, a part of our message)
    "400": (
        answer("400 Bad Request", {"error": {"message": "bad temperature"}}),
        400,
        "llm_rejected",
        "bad temperature",
    ),
    "400 in vLLM's shape": (
        answer("400 Bad Request", {"object": "error", "message": "bad temperature"}),
        400,
        "llm_rejected",
        "bad temperature",
    ),
    "401": (answer("401 Unauthorized", {"error": {"message": "no"}}), 502, "llm_error", "LLM_API_KEY"),
    "403": (answer("403 Forbidden", b"no"), 502, "llm_error", "LLM_API_KEY"),
    "404 model": (answer("404 Not Found", NO_MODEL), 502, "llm_error", "model 'x' not found"),
    "422 with a list": (
        answer("422 Unprocessable", {"detail": [{"loc": ["body"]}]}),
        400,
        "llm_rejected",
        "answered 422",
    ),
    "429": (
        answer("429 Too Many Requests", {"error": {"message": "slow"}}),
        429,
        "llm_rate_limited",
        "limits the rate",
    ),
    "500 with HTML": (answer("500 Oops", b"<html>secrets</html>"), 502, "llm_error", "answered 500"),
    "503 loading": (answer("503 Service Unavailable", LOADING), 502, "llm_unavailable", "Loading model"),
    "503 bare": (answer("503 Service Unavailable"), 502, "llm_unavailable", "answered 503"),
    "a redirect": (answer("302 Found", headers="Location: /elsewhere\r\n"), 502, "llm_error", "answered 302"),
    "204": (answer("204 No Content"), 502, "llm_error", "answered 204"),
    "compression, unasked": (
        answer(body=b"\x1f\x8b", headers="Content-Encoding: gzip\r\n"),
        502,
        "llm_error",
        "compressed",
    ),
    "something that is not HTTP": ([b"SSH-2.0-OpenSSH_9.6\r\n\r\n", Close], 502, "llm_error", "broke"),
    "a close at once": ([Close], 502, "llm_error", "broke"),
    "a reset at once": ([Abort], 502, "llm_error", "broke"),
    "a close in the head": ([b"HTTP/1.1 200 OK\r\nContent-", Close], 502, "llm_error", "broke"),
    "an error body cut short": (
        [b"HTTP/1.1 400 Bad Request\r\nContent-Length: 99\r\n\r\n{", Close],
        502,
        "llm_error",
        "broke",
    ),
    "an error body without end": (
        [b"HTTP/1.1 500 Oops\r\nContent-Length: 9999999\r\n\r\n", b"x" * 70_000, Hang],
        502,
        "llm_error",
        "answered 500",
    ),
}


@pytest.mark.parametrize("how", ["chat", "stream"])
@pytest.mark.parametrize("name", HEADS)
async def test_a_failure_before_the_answer_is_a_status(
    server: Running, llm: ScriptedLLM, name: str, how: str
) -> None:
    script, status, code, said = HEADS[name]
    llm.play(script)
    session = await server.session()
    body = {"session_id": session, "message": "Hi"}
    got, told, headers = await server.call("POST", f"/api/chat{'/stream' if how == 'stream' else ''}", body)
    assert got == status, told
    assert error_of(told)[0] == code
    assert said in error_of(told)[1]
    assert "secrets" not in error_of(told)[1]
    assert "Retry-After" not in headers
    assert headers["X-Session-ID"] == session
    await check_no_trace(server, session)


@pytest.mark.parametrize(
    ("status", "ours"), [("429 Too Many Requests", 429), ("503 Service Unavailable", 502)]
)
@pytest.mark.parametrize(
    ("given", "passed_on"),
    [
        ("7", "7"),
        ("Wed, 21 Oct 2026 07:28:00 GMT", "Wed, 21 Oct 2026 07:28:00 GMT"),
        ("soon", None),
        ("-1", None),
        ("", None),
    ],
)
async def test_retry_after_is_passed_on_if_it_is_one(
    server: Running, llm: ScriptedLLM, status: str, ours: int, given: str, passed_on: str | None
) -> None:
    llm.play(answer(status, LOADING, f"Retry-After: {given}\r\n"))
    got, told, headers = await server.chat(await server.session())
    assert got == ours, told
    assert headers.get("Retry-After") == passed_on


async def test_a_model_that_the_client_named_and_is_not_there_is_the_clients_error(
    server: Running, llm: ScriptedLLM
) -> None:
    llm.play(answer("404 Not Found", NO_MODEL))
    session = await server.session()
    status, told, _ = await server.chat(session, model="x")
    assert (status, error_of(told)[0]) == (400, "llm_rejected")
    assert "model 'x' not found" in error_of(told)[1]
    await check_no_trace(server, session)


# Failures in a streamed answer

STREAMS: dict[str, tuple[list[Step], str, str]] = {
    # what comes after any text: (the rest of the script, our code, a part of our message)
    "[DONE] without a finish_reason": ([*events(DONE)[1:], END], "llm_error", "ended before"),
    "an end without a finish_reason": ([END], "llm_error", "ended before"),
    "a close in the middle": ([Close], "llm_error", "broke"),
    "a reset in the middle": ([Abort], "llm_error", "broke"),
    "nonsense": ([http_chunk(b"data: <html>\n\n"), END], "llm_error", "not a chat completion"),
    "a number that is none": (
        [http_chunk(b'data: {"choices": NaN}\n\n'), END],
        "llm_error",
        "not a chat completion",
    ),
    "an error frame": (
        [http_chunk(b'data: {"error": {"message": "GPU lost", "code": 500}}\n\n'), http_chunk(DONE), END],
        "llm_error",
        "GPU lost",
    ),
    "an error frame of plain text": (
        [http_chunk(b'data: {"error": "GPU lost"}\n\n'), END],
        "llm_error",
        "GPU lost",
    ),
    "an error frame with its own event name": (
        [http_chunk(b'event: error\ndata: {"error": {"message": "GPU lost"}}\n\n'), END],
        "llm_error",
        "GPU lost",
    ),
    "an error after the finish_reason": (
        [http_chunk(delta(finish="stop") + b'data: {"error": "GPU lost"}\n\n'), END],
        "llm_error",
        "GPU lost",
    ),
    "a limit in the middle": (
        [http_chunk(b'data: {"error": {"message": "slow", "code": 429}}\n\n'), END],
        "llm_rate_limited",
        "limits the rate",
    ),
    "a line over 1 MiB": (
        [http_chunk(b"data: " + b"x" * (2**20 + 1)), Hang],
        "llm_error",
        "line of over 1 MiB",
    ),
}


@pytest.mark.parametrize("name", STREAMS)
async def test_a_stream_that_fails_in_the_middle_tells_it_in_a_frame(
    server: Running, llm: ScriptedLLM, name: str
) -> None:
    rest, code, said = STREAMS[name]
    gate = Gate()
    llm.play([*events(delta("one")), gate, *rest])
    session = await server.session()
    stream = await server.stream(session)
    assert stream.status == 200
    first = await stream.event()
    assert first
    assert first.text == "one"
    gate.open()
    told = await stream.rest()
    assert told, "the stream ended without a word"
    assert error_of(told[-1].json)[0] == code
    assert said in error_of(told[-1].json)[1]
    assert told[-1].id is None
    assert "[DONE]" not in [event.data for event in told]
    await check_no_trace(server, session)


async def test_broken_chunked_encoding_in_the_middle_is_a_failure(
    start: StartServer, llm: ScriptedLLM
) -> None:
    server = await start(llm_timeout_seconds=5)
    gate = Gate()
    llm.play([*events(delta("one")), gate, b"zzz\r\n", Hang])
    session = await server.session()
    stream = await server.stream(session)
    assert await stream.event()
    gate.open()
    await until(lambda: llm.exchanges[0].gone.is_set())
    told = await stream.rest()
    assert error_of(told[-1].json)[0] == "llm_error"
    await check_no_trace(server, session)


EMPTY: dict[str, tuple[list[Step], str]] = {
    "nothing but [DONE]": ([*events(DONE), END], "ended before"),
    "nothing at all": ([SSE_HEAD, END], "empty stream"),
    "nothing but a comment": ([*events(b": ping\n\n"), END], "ended before"),
    "a finish without text": ([*events(delta(finish="stop"), DONE), END], "without text"),
    "only tool calls": (
        [*events(delta(tool_calls=[{"index": 0}]), delta(finish="tool_calls"), DONE), END],
        "without text",
    ),
    "HTML": (answer(body=b"<html></html>"), "ended before"),
    "JSON, unstreamed": (answer(body=completion("Hi")), "ended before"),
    "an error, unstreamed": (answer(body=b'data: {"error": "GPU lost"}'), "GPU lost"),
    "nonsense": ([*events(b"data: nonsense\n\n"), END], "not a chat completion"),
    "a close": ([SSE_HEAD, Close], "broke"),
    "a reset": ([SSE_HEAD, Abort], "broke"),
}


@pytest.mark.parametrize("name", EMPTY)
async def test_a_stream_that_fails_before_its_first_word_is_an_llm_error(
    server: Running, llm: ScriptedLLM, name: str
) -> None:
    script, said = EMPTY[name]
    llm.play(script)
    session = await server.session()
    stream = await server.stream(session)
    if stream.status == 200:  # frames without text had already come
        told = (await stream.rest())[-1].json
    else:
        assert stream.status == 502
        told = await stream.response.json()
    assert error_of(told)[0] == "llm_error"
    assert said in error_of(told)[1]
    await check_no_trace(server, session)


@pytest.mark.parametrize(
    "ending",
    [[Abort], [Close], [END], [http_chunk(b'data: {"choi'), Close], [http_chunk(b'data: {"choi'), END]],
    ids=repr,
)
async def test_a_reply_whose_finish_was_seen_is_whole_whatever_becomes_of_the_connection(
    server: Running, llm: ScriptedLLM, ending: list[Step]
) -> None:
    gate = Gate()
    llm.play([*events(delta("one"), delta(finish="stop")), gate, *ending])
    session = await server.session()
    stream = await server.stream(session)
    seen = [await stream.event(), await stream.event()]
    gate.open()
    told = [event for event in [*seen, *await stream.rest()] if event]
    assert [event.finish_reason for event in told[:-1]] == [None, "stop"]
    assert told[-1].data == "[DONE]"
    assert await server.history(session) == [("user", "Hi"), ("assistant", "one")]


async def test_the_end_is_told_at_once_though_the_llm_keeps_its_connection_open(
    start: StartServer, llm: ScriptedLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FINISH_SECONDS", "LINGER_SECONDS"):
        monkeypatch.setattr(answers, name, 3600.0)
    server = await start(llm_timeout_seconds=3600)
    llm.play([*events(delta("one"), delta(finish="stop"), DONE), Hang])
    session = await server.session()
    stream = await server.stream(session)
    assert (await stream.rest())[-1].data == "[DONE]"
    assert (await server.chat(session, "again"))[0] == 200


async def test_silence_after_the_finish_costs_neither_the_reply_nor_the_clients_patience(
    server: Running, llm: ScriptedLLM, clock: Clock
) -> None:
    llm.play([*events(delta("one"), delta(finish="stop")), Hang])
    session = await server.session()
    stream = await server.stream(session)
    assert [event.finish_reason for event in [await stream.event(), await stream.event()] if event] == [
        None,
        "stop",
    ]
    clock.advance(5)
    told = await stream.rest()
    assert [event.data for event in told] == ["[DONE]"]
    assert await server.history(session) == [("user", "Hi"), ("assistant", "one")]


# Failures in a whole answer

WHOLE: dict[str, tuple[list[Step], str]] = {
    "nothing": (answer(), "not a chat completion"),
    "nonsense": (answer(body=b"nonsense"), "not a chat completion"),
    "HTML": (answer(body=b"<html></html>"), "not a chat completion"),
    "a list": (answer(body=[1]), "not a chat completion"),
    "an empty object": (answer(body={}), "not a chat completion"),
    "no choices": (answer(body={"choices": []}), "not a chat completion"),
    "no message": (answer(body={"choices": [{"finish_reason": "stop"}]}), "not a chat completion"),
    "no finish_reason": (answer(body=completion("Hi", None)), "with a finish_reason"),
    "a finish_reason that is no text": (answer(body=completion("Hi", 7)), "not a chat completion"),  # type: ignore[arg-type]
    "no text": (answer(body=completion("")), "without text"),
    "an error object": (answer(body={"error": {"message": "GPU lost"}}), "GPU lost"),
    "an error of plain text": (answer(body={"error": "GPU lost"}), "GPU lost"),
    "a close in the middle": ([b'HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"choices"', Close], "broke"),
    "a reset in the middle": ([b'HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"choices"', Abort], "broke"),
    "more than 8 MiB": (
        [b"HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\n" + b" " * 8_500_000, Hang],
        "over 8 MiB",
    ),
}


@pytest.mark.parametrize("name", WHOLE)
async def test_a_whole_answer_that_is_none_is_an_llm_error(
    server: Running, llm: ScriptedLLM, name: str
) -> None:
    script, said = WHOLE[name]
    llm.play(script)
    session = await server.session()
    status, told, _ = await server.chat(session)
    assert (status, error_of(told)[0]) == (502, "llm_error"), told
    assert said in error_of(told)[1]
    await check_no_trace(server, session)


# Silence


async def test_silence_before_the_head_is_a_timeout(
    start: StartServer, llm: ScriptedLLM, clock: Clock
) -> None:
    server = await start(llm_timeout_seconds=5)
    for path in ("/api/chat", "/api/chat/stream"):
        llm.play([Hang])
        session = await server.session()
        asking = asyncio.create_task(server.call("POST", path, {"session_id": session, "message": "Hi"}))
        exchange = await llm.asked(len(llm.exchanges) + 1)
        clock.advance(5)
        status, told, _ = await asking
        assert (status, error_of(told)[0]) == (504, "llm_timeout"), told
        assert "silent for 5 seconds" in error_of(told)[1]
        await exchange.gone.wait()
        await check_no_trace(server, session, before=server.sql("SELECT count(*) FROM messages")[0][0])


@pytest.mark.parametrize("text", [None, "one"])
async def test_silence_in_a_stream_is_a_timeout(
    start: StartServer, llm: ScriptedLLM, clock: Clock, text: str | None
) -> None:
    server = await start(llm_timeout_seconds=20)
    llm.play([*events(*([delta(text)] if text else [])), Hang])
    session = await server.session()
    asking = asyncio.create_task(server.stream(session))
    exchange = await llm.asked()
    if text:
        first = await (await asking).event()
        assert first
        assert first.text == text
    clock.advance(15)
    stream = await asking
    assert stream.status == 200, "the heartbeats have begun"
    clock.advance(19)
    while stream.comments == 0:
        assert await read_line(stream) == b": keep-alive\n"
    clock.advance(20)
    told = await stream.rest()
    assert [error_of(event.json)[0] for event in told] == ["llm_timeout"]
    await exchange.gone.wait()
    await check_no_trace(server, session)


async def read_line(stream: Stream) -> bytes:
    line = await stream.response.content.readline()
    stream.comments += line.startswith(b":")
    return line


async def test_a_reply_that_keeps_talking_is_never_timed_out(
    start: StartServer, llm: ScriptedLLM, clock: Clock
) -> None:
    server = await start(llm_timeout_seconds=5, stream_heartbeat_seconds=100)
    gates = [Gate() for _ in range(4)]
    llm.play(reply("a", gates[0], "b", gates[1], "c", gates[2], "d", gates[3], "e"))
    stream = await server.stream(await server.session())
    seen = ""
    for gate in gates:
        event = await stream.event()
        assert event
        seen += event.text
        clock.advance(4)
        gate.open()
    assert seen + text_of(await stream.rest()) == "abcde"


async def test_silence_in_a_whole_answer_is_a_timeout(
    start: StartServer, llm: ScriptedLLM, clock: Clock
) -> None:
    server = await start(llm_timeout_seconds=5)
    gate = Gate()
    llm.play([b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n", gate, b"{", Hang])
    session = await server.session()
    asking = asyncio.create_task(server.chat(session))
    await gate.reached.wait()
    gate.open()
    while not asking.done():  # however many turns of the loop the first byte takes
        clock.advance(1)
        await asyncio.sleep(0)
    status, told, _ = await asking
    assert (status, error_of(told)[0]) == (504, "llm_timeout"), told
    await check_no_trace(server, session)


# No connection


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.mark.parametrize("how", ["chat", "stream"])
async def test_a_refused_connection_is_unavailable_until_somebody_listens(
    start: StartServer, how: str
) -> None:
    port = free_port()
    server = await start(llm_server_url=f"http://127.0.0.1:{port}")
    session = await server.session()
    body = {"session_id": session, "message": "Hi"}
    status, told, _ = await server.call("POST", f"/api/chat{'/stream' if how == 'stream' else ''}", body)
    assert (status, error_of(told)[0]) == (502, "llm_unavailable"), told
    assert "LLM_SERVER_URL" in error_of(told)[1]
    assert str(port) not in error_of(told)[1], "where the LLM is, is nobody's business"
    late = ScriptedLLM()
    await late.start(port)
    await check_no_trace(server, session)
    await late.stop()


async def test_a_name_that_does_not_resolve_is_unavailable(start: StartServer) -> None:
    server = await start(llm_server_url="http://nowhere.invalid")
    session = await server.session()
    status, told, _ = await server.chat(session)
    assert (status, error_of(told)[0]) == (502, "llm_unavailable"), told
    assert server.sql("SELECT count(*) FROM messages") == [(0,)]


async def test_a_host_that_does_not_answer_is_unavailable_after_ten_seconds(
    start: StartServer, clock: Clock
) -> None:
    loop = asyncio.get_running_loop()
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        crowd = [socket.socket() for _ in range(4)]  # more than its backlog: all others knock in vain
        for one in crowd:
            one.setblocking(False)
            one.connect_ex(deaf.getsockname())
        server = await start(llm_server_url=f"http://127.0.0.1:{deaf.getsockname()[1]}")
        session = await server.session()
        asking = asyncio.create_task(server.chat(session))
        await until(lambda: len(server.replies) == 1)
        began = loop.time()
        while not asking.done():
            clock.advance(0.1)
            await asyncio.sleep(0)
        status, told, _ = await asking
        for one in crowd:
            one.close()
    assert (status, error_of(told)[0]) == (502, "llm_unavailable"), told
    assert loop.time() - began < 60, "it is the connecting that is given up, not the reply"


@pytest.mark.parametrize("death", [Close, Abort])
@pytest.mark.parametrize("how", ["chat", "stream"])
async def test_a_pooled_connection_that_died_is_replaced_once(
    server: Running, llm: ScriptedLLM, death: type[Close] | type[Abort], how: str
) -> None:
    session = await server.session()
    await server.chat(session, "first")  # leaves a connection in the pool
    llm.play([death])
    if how == "chat":
        status, told, _ = await server.chat(session, "second")
        assert status == 200, told
    else:
        assert text_of(await (await server.stream(session, "second")).rest()) == "Hello there."
    assert len(llm.exchanges) == 3, "asked on the dead connection and on a fresh one"
    assert llm.exchanges[1].body == llm.exchanges[2].body
    assert len(await server.history(session)) == 4


async def test_a_fresh_connection_that_dies_is_not_tried_again(server: Running, llm: ScriptedLLM) -> None:
    llm.play([Close], [Close], [Close])
    session = await server.session()
    status, told, _ = await server.chat(session)
    assert (status, error_of(told)[0]) == (502, "llm_error"), told
    assert len(llm.exchanges) == 1


async def test_a_second_death_in_a_row_is_an_error(server: Running, llm: ScriptedLLM) -> None:
    session = await server.session()
    await server.chat(session, "first")
    llm.play([Close], [Close])
    status, told, _ = await server.chat(session, "second")
    assert (status, error_of(told)[0]) == (502, "llm_error"), told
    assert len(llm.exchanges) == 3
    await check_no_trace(server, session, before=2)


async def test_a_pooled_connection_that_dies_in_its_answer_is_not_asked_twice(
    server: Running, llm: ScriptedLLM
) -> None:
    session = await server.session()
    await server.chat(session, "first")
    llm.play([*events(delta("one")), Abort])
    stream = await server.stream(session, "second")
    assert error_of((await stream.rest())[-1].json)[0] == "llm_error"
    assert len(llm.exchanges) == 2, "a reply that had begun was paid for twice"


async def test_back_to_back_turns_survive_a_server_that_closes_after_each_unannounced(
    server: Running, llm: ScriptedLLM
) -> None:
    session = await server.session()
    [stream, _] = capture("llama-server", "stream")
    assert isinstance(stream, bytes)
    unannounced = stream.replace(b"Connection: close\r\n", b"")
    for turn in range(20):
        llm.play([unannounced, Close])
        events = await (await server.stream(session, str(turn))).rest()
        assert text_of(events) == "- slot.", f"turn {turn}: {events}"
    assert len(await server.history(session)) == 40


async def test_connections_are_used_again(server: Running, llm: ScriptedLLM) -> None:
    session = await server.session()
    for _ in range(3):
        await server.chat(session)
        gate = Gate()  # what ends the answer comes after what ends the reply
        llm.play([*events(delta("one"), delta(finish="stop"), DONE), gate, http_chunk(b": bye\n\n"), END])
        await (await server.stream(session)).rest()
        gate.open()
        await until(lambda: not server.replies._lingering)
    assert llm.opened == 1, "an answer that had ended took its connection along"


# Which model


async def test_without_a_name_the_first_model_is_asked_for_and_remembered(
    start: StartServer, llm: ScriptedLLM
) -> None:
    server = await start(llm_model="")
    llm.models = answer(body={"data": [{"id": "first"}, {"id": "second"}]})
    session = await server.session()
    await server.chat(session)
    await (await server.stream(session)).rest()
    assert [exchange.body["model"] for exchange in llm.exchanges] == ["first", "first"]
    assert llm.model_requests == 1


async def test_a_remembered_model_that_is_refused_is_looked_up_again(
    start: StartServer, llm: ScriptedLLM
) -> None:
    server = await start(llm_model="")
    session = await server.session()
    await server.chat(session)
    llm.models = answer(body={"data": [{"id": "newer"}]})
    llm.play(answer("404 Not Found", NO_MODEL))
    status, _, _ = await server.chat(session)
    assert status == 200
    assert [exchange.body["model"] for exchange in llm.exchanges] == ["test-model", "test-model", "newer"]
    await server.chat(session)
    assert llm.exchanges[-1].body["model"] == "newer"
    assert llm.model_requests == 2


async def test_a_model_that_is_refused_as_soon_as_it_is_found_is_an_error(
    start: StartServer, llm: ScriptedLLM
) -> None:
    server = await start(llm_model="")
    session = await server.session()
    llm.play(answer("404 Not Found", NO_MODEL))
    status, told, _ = await server.chat(session)
    assert (status, error_of(told)[0]) == (502, "llm_error"), told
    assert len(llm.exchanges) == 1
    await check_no_trace(server, session)
    assert llm.model_requests == 2, "what was refused is not remembered"


@pytest.mark.parametrize(
    ("models", "status", "code"),
    [
        (answer(body={"data": []}), 502, "llm_error"),
        (answer(body={"data": ["x"]}), 502, "llm_error"),
        (answer(body={"data": [{"id": 7}]}), 502, "llm_error"),
        (answer(body={"data": [{"id": ""}]}), 502, "llm_error"),
        (answer(body={}), 502, "llm_error"),
        (answer(body=b"<html>"), 502, "llm_error"),
        (answer("401 Unauthorized"), 502, "llm_error"),
        (answer("404 Not Found"), 502, "llm_error"),
        (answer("503 Service Unavailable", LOADING), 502, "llm_unavailable"),
        (answer("429 Too Many Requests"), 429, "llm_rate_limited"),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", Close], 502, "llm_error"),
    ],
)
async def test_a_list_of_models_that_is_of_no_use_is_an_error(
    start: StartServer, llm: ScriptedLLM, models: list[Step], status: int, code: str
) -> None:
    server = await start(llm_model="")
    honest, llm.models = llm.models, models
    session = await server.session()
    got, told, _ = await server.chat(session)
    assert (got, error_of(told)[0]) == (status, code), told
    assert not llm.exchanges
    llm.models = honest
    await check_no_trace(server, session)


async def test_a_silent_list_of_models_is_a_timeout(
    start: StartServer, llm: ScriptedLLM, clock: Clock
) -> None:
    server = await start(llm_model="", llm_timeout_seconds=5)
    llm.models = [Hang]
    asking = asyncio.create_task(server.chat(await server.session()))
    await until(lambda: llm.model_requests == 1)
    clock.advance(5)
    status, told, _ = await asking
    assert (status, error_of(told)[0]) == (504, "llm_timeout"), told


@pytest.mark.parametrize(("configured", "asked_for"), [("ours", "ours"), ("", "theirs"), ("ours", "theirs")])
async def test_a_model_that_is_named_is_not_looked_up(
    start: StartServer, llm: ScriptedLLM, configured: str, asked_for: str
) -> None:
    server = await start(llm_model=configured)
    named = {"model": "theirs"} if asked_for == "theirs" else {}
    await server.chat(await server.session(), **named)
    assert llm.exchanges[0].body["model"] == asked_for
    assert llm.model_requests == 0


# What it is sent


async def test_the_request_is_what_the_api_wants(start: StartServer, llm: ScriptedLLM) -> None:
    server = await start(llm_api_key="sk-secret")
    session = await server.session()
    theirs = {"X-Conversation-Id": "7", "Cookie": "a=b", "Idempotency-Key": "k", "X-Request-ID": "r"}
    await server.chat(
        session, "Hi", headers=theirs | {"Authorization": "Bearer client", "User-Agent": "curl"}
    )
    await (await server.stream(session, "Hi")).rest()
    whole, streamed = llm.exchanges
    assert whole.body == {
        "model": "test-model",
        "stream": False,
        "messages": [{"role": "user", "content": "Hi"}],
    }
    assert streamed.body["stream"] is True
    assert streamed.body["stream_options"] == {"include_usage": True}
    for exchange in llm.exchanges:
        assert exchange.path == "/v1/chat/completions"
        assert exchange.headers["authorization"] == "Bearer sk-secret"
        assert exchange.headers["accept-encoding"] == "identity"
        assert exchange.headers["content-type"] == "application/json"
        assert not {name.lower() for name in theirs} & set(exchange.headers), (
            "a header of the client's was passed on"
        )
        assert "curl" not in exchange.headers["user-agent"]


async def test_without_a_key_none_is_sent(server: Running, llm: ScriptedLLM) -> None:
    await server.chat(await server.session())
    assert "authorization" not in llm.exchanges[0].headers


@pytest.mark.parametrize(
    ("path", "asked"),
    [("", "/v1/chat/completions"), ("/v1", "/v1/chat/completions"), ("/a/b", "/a/b/v1/chat/completions")],
)
async def test_a_url_that_ends_in_v1_is_taken_as_it_is(
    start: StartServer, llm: ScriptedLLM, path: str, asked: str
) -> None:
    server = await start(llm_server_url=llm.url + path)
    await server.chat(await server.session())
    assert llm.exchanges[0].path == asked


# Byte for byte what real servers have said

SERVERS = ["llama-server", "llama-cpp-python"]


def byte_by_byte(script: list[Step]) -> list[Step]:
    steps: list[Step] = []
    for step in script:
        steps += [bytes([byte]) for byte in step] if isinstance(step, bytes) else [step]
    return steps


@pytest.mark.parametrize("cut", [list, byte_by_byte])
@pytest.mark.parametrize("name", ["stream", "stream_usage"])
@pytest.mark.parametrize("kind", SERVERS)
async def test_a_real_stream_is_told_and_stored(
    server: Running, llm: ScriptedLLM, kind: str, name: str, cut: Any
) -> None:
    script = capture(kind, name)
    assert isinstance(script[0], bytes)
    llm.play(cut(script))
    session = await server.session()
    events = await (await server.stream(session)).rest()
    sent = [line[6:].decode() for line in script[0].split(b"\n") if line.startswith(b"data: ")]
    assert [event.data for event in events] == sent, "the frames are not the LLM's own"
    assert text_of(events) == "- slot."
    assert [event.id for event in events[:-1]][-1] == len("- slot.")
    _, history, _ = await server.call("GET", f"/api/sessions/{session}/messages")
    assert [message["content"] for message in history["messages"]] == ["Hi", "- slot."]
    assert history["messages"][1]["finish_reason"] == "length"
    has_usage = kind == "llama-server" and name == "stream_usage"
    assert (history["messages"][1]["token_usage"] or {}).get("total_tokens") == (19 if has_usage else None)


@pytest.mark.parametrize(
    ("name", "text", "finish_reason"),
    [
        ("nonstream", "- slot.", "stop"),
        ("nonstream_len", "- s", "length"),
        ("stop", "- slot", "stop"),
        ("tools", "- slot.", "stop"),
    ],
)
@pytest.mark.parametrize("kind", SERVERS)
async def test_a_real_whole_answer_is_told_and_stored(
    server: Running, llm: ScriptedLLM, kind: str, name: str, text: str, finish_reason: str
) -> None:
    script = capture(kind, name)
    assert isinstance(script[0], bytes)
    llm.play(script)
    session = await server.session()
    status, told, _ = await server.chat(session)
    assert status == 200, told
    assert (told["content"], told["finish_reason"]) == (text, finish_reason)
    assert told["token_usage"] == json.loads(script[0].partition(b"\r\n\r\n")[2])["usage"]
    assert await server.history(session) == [("user", "Hi"), ("assistant", text)]


@pytest.mark.parametrize("kind", SERVERS)
async def test_a_real_list_of_models_is_understood(start: StartServer, llm: ScriptedLLM, kind: str) -> None:
    server = await start(llm_model="")
    llm.models = capture(kind, "models")
    await server.chat(await server.session())
    assert llm.exchanges[0].body["model"] == "models/bigram.gguf"


@pytest.mark.parametrize(
    ("kind", "name", "status", "code", "said"),
    [
        ("llama-server", "bad_json", 502, "llm_error", "answered 500"),
        ("llama-server", "missing_messages", 400, "llm_rejected", "'messages' is required"),
        ("llama-server", "not_found", 502, "llm_error", "File Not Found"),
        ("llama-server", "too_long", 400, "context_too_long", "too long"),
        ("llama-server", "too_long_stream", 400, "context_too_long", "too long"),
        ("llama-cpp-python", "bad_json", 502, "llm_error", "answered 500"),
        ("llama-cpp-python", "not_found", 502, "llm_error", "Not Found"),
        ("llama-cpp-python", "too_long", 400, "context_too_long", "too long"),
    ],
)
async def test_a_real_error_is_understood(
    server: Running, llm: ScriptedLLM, kind: str, name: str, status: int, code: str, said: str
) -> None:
    llm.play(capture(kind, name))
    session = await server.session()
    got, told, _ = await server.chat(session)
    assert (got, error_of(told)[0]) == (status, code), told
    assert said in error_of(told)[1]
    await check_no_trace(server, session)


# Whether it is ready


@pytest.mark.parametrize(
    ("models", "status", "llm_is"),
    [
        (answer(body={"data": []}), 200, "ok"),
        (answer("503 Service Unavailable", LOADING), 503, "loading"),
        (answer("401 Unauthorized"), 503, "unauthorized"),
        (answer("403 Forbidden"), 503, "unauthorized"),
        (answer("500 Oops"), 503, "error"),
        (answer("404 Not Found"), 200, "ok"),
        ([Close], 503, "unreachable"),
    ],
)
async def test_ready_says_how_the_llm_is(
    server: Running, llm: ScriptedLLM, models: list[Step], status: int, llm_is: str
) -> None:
    llm.models = models
    got, told, _ = await server.call("GET", "/api/health/ready")
    assert (got, told["llm"]) == (status, llm_is)


async def test_an_llm_without_a_list_of_models_is_not_ready_if_none_is_named(
    start: StartServer, llm: ScriptedLLM
) -> None:
    server = await start(llm_model="")
    llm.models = answer("404 Not Found")
    got, told, _ = await server.call("GET", "/api/health/ready")
    assert (got, told["llm"]) == (503, "error")


async def test_an_llm_silent_for_two_seconds_is_unreachable(
    server: Running, llm: ScriptedLLM, clock: Clock
) -> None:
    llm.models = [Hang]
    asking = asyncio.create_task(server.call("GET", "/api/health/ready"))
    await until(lambda: llm.model_requests == 1)
    clock.advance(2)
    status, told, _ = await asking
    assert (status, told["llm"]) == (503, "unreachable")


# Statuses and whole answers without a socket


@pytest.fixture
def canned(monkeypatch: pytest.MonkeyPatch) -> Iterator[aioresponses]:
    """Canned answers; the library hands over a response that newer aiohttp wants more of."""

    class Response(ClientResponse):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, stream_writer=Mock(output_size=0), **kwargs)

    monkeypatch.setattr("aioresponses.core.ClientResponse", Response)
    with aioresponses(passthrough=["http://127.0.0.1"]) as mock:
        yield mock


URL = "http://llm.test/v1/chat/completions"


async def ask(**settings: Any) -> str:
    """Asks a canned LLM; returns the reply's text."""
    llm = LLM(Config(llm_server_url="http://llm.test", **settings))
    try:
        answer = await llm.ask('[{"role": "user", "content": "Hi"}]', {}, stream=False)
        taken: list[Frame] = []
        await answer.deliver(taken.extend)
        answer.close()
        return "".join(frame.text for frame in taken)
    finally:
        await llm.close()


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "llm_rejected"),
        (401, "llm_error"),
        (402, "llm_error"),
        (403, "llm_error"),
        (405, "llm_rejected"),
        (408, "llm_error"),
        (413, "llm_rejected"),
        (418, "llm_rejected"),
        (422, "llm_rejected"),
        (429, "llm_rate_limited"),
        (500, "llm_error"),
        (501, "llm_error"),
        (502, "llm_error"),
        (503, "llm_unavailable"),
        (504, "llm_error"),
        (529, "llm_error"),
    ],
)
async def test_each_status_has_its_code(canned: aioresponses, status: int, code: str) -> None:
    canned.post(URL, status=status, payload={"error": {"message": "why"}})
    with pytest.raises(ChatError) as caught:
        await ask(llm_model="m")
    assert caught.value.code == code


@pytest.mark.parametrize("status", [400, 413, 422, 500])
async def test_too_long_is_known_under_any_status_that_servers_give_it(
    canned: aioresponses, status: int
) -> None:
    message = "This model's maximum context length is 512 tokens."
    canned.post(URL, status=status, payload={"object": "error", "message": message})
    with pytest.raises(TooLong):
        await ask(llm_model="m")


async def test_a_whole_answer_is_read(canned: aioresponses) -> None:
    canned.get("http://llm.test/v1/models", payload={"data": [{"id": "m"}]})
    canned.post(URL, payload=completion("안녕 👋"))
    assert await ask() == "안녕 👋"


async def test_a_cancel_in_the_very_moment_of_the_timeout_is_a_cancel(llm: ScriptedLLM, clock: Clock) -> None:
    asked = LLM(Config(llm_server_url=llm.url, llm_model="m", llm_timeout_seconds=30))
    llm.play([Hang])
    task = asyncio.create_task(asked.ask("[]", {}, stream=False))
    await llm.asked()
    asyncio.get_running_loop().call_later(30, task.cancel)
    clock.advance(31)  # both are due in the same turn of the loop, the timeout first
    with pytest.raises(asyncio.CancelledError):
        await task
    await asked.close()
