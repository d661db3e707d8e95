"""An LLM that floods, lies, redirects or talks nonsense costs bounded memory and harms nobody."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from chatbot.shapes import ERRORS
from tests.tools.server import Log, Running, StartServer, text_of
from tests.tools.scripted_llm import (
    END,
    SSE_HEAD,
    Close,
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

MAX_REPLY_BYTES = 4 * 1024 * 1024


async def is_well(server: Running) -> None:
    """Others are served, and the next chat with the same LLM works."""
    assert (await server.call("GET", "/api/health"))[0] == 200
    status, body, _ = await server.chat(await server.session())
    assert (status, body["content"]) == (200, "Hello there."), body


def endless(piece: bytes) -> Iterator[Step]:
    yield SSE_HEAD
    chunk = http_chunk(piece)
    while True:
        yield chunk


def once(llm: ScriptedLLM, script: Any) -> None:
    """Plays the script to the next request and behaves well to all after it."""

    def play(body: Any) -> Any:
        llm.script = None
        return script

    llm.script = play


async def test_an_endless_reply_is_cut_at_four_mebibytes_and_stored(
    server: Running, llm: ScriptedLLM
) -> None:
    once(llm, endless(delta("가" * 1000) * 10))
    session_id = await server.session()
    stream = await server.stream(session_id)
    found = await stream.rest()
    assert found[-1].data == "[DONE]"
    assert [event.finish_reason for event in found if event.finish_reason] == ["length"]
    text = text_of(found)
    assert MAX_REPLY_BYTES - 3 < len(text.encode()) <= MAX_REPLY_BYTES
    await asyncio.wait_for(llm.exchanges[0].gone.wait(), 10)
    assert (await server.history(session_id))[-1] == ("assistant", text)
    await is_well(server)


async def test_an_endless_stream_without_a_word_of_text_is_let_go_when_nobody_listens(
    start: StartServer, llm: ScriptedLLM
) -> None:
    server = await start(disconnect_grace_seconds=0)
    once(llm, endless(delta(reasoning_content="hm") * 100))
    session_id = await server.session()
    stream = await server.stream(session_id)
    assert await stream.event()
    await is_well(server)
    stream.leave()
    await asyncio.wait_for(llm.exchanges[0].gone.wait(), 10)
    await server.ended()
    assert await server.history(session_id) == []


@pytest.mark.parametrize(
    "piece", [b"x" * 65536, b"data: " + b"x" * 65536, b": " + b"x" * 65536, b"\x00" * 65536]
)
async def test_an_endless_line_is_an_error(server: Running, llm: ScriptedLLM, piece: bytes) -> None:
    once(llm, endless(piece.replace(b"\n", b"")))
    session_id = await server.session()
    stream = await server.stream(session_id)
    body = json.loads(await stream.response.read())
    assert (stream.status, body["error"]["code"]) == (502, "llm_error")
    await asyncio.wait_for(llm.exchanges[0].gone.wait(), 10)
    assert await server.history(session_id) == []
    await is_well(server)


async def test_an_endless_event_of_many_lines_is_an_error(server: Running, llm: ScriptedLLM) -> None:
    once(llm, endless(b"data: x\n" * 5000))
    stream = await server.stream(await server.session())
    assert stream.status == 502
    await is_well(server)


async def test_an_endless_answer_in_one_piece_is_an_error(server: Running, llm: ScriptedLLM) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"

    def script() -> Iterator[Step]:
        yield head
        while True:
            yield http_chunk(b'{"a":"' + b"x" * 65536)

    once(llm, script())
    status, body, _ = await server.chat(await server.session())
    assert (status, body["error"]["code"]) == (502, "llm_error")
    await asyncio.wait_for(llm.exchanges[0].gone.wait(), 10)
    await is_well(server)


async def test_an_endless_error_is_read_no_further_than_it_helps(server: Running, llm: ScriptedLLM) -> None:
    def script() -> Iterator[Step]:
        yield b"HTTP/1.1 400 Bad Request\r\nTransfer-Encoding: chunked\r\n\r\n"
        while True:
            yield http_chunk(b"x" * 65536)

    once(llm, script())
    status, body, _ = await server.chat(await server.session())
    assert (status, body["error"]["code"]) == (400, "llm_rejected")
    await asyncio.wait_for(llm.exchanges[0].gone.wait(), 10)
    await is_well(server)


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "frame", [b"data: {}\n\n", b"data:\n\n", b": ping\n\n", b"\n", delta("a"), delta("")]
)
async def test_a_hundred_thousand_tiny_frames_in_a_burst_keep_nobody_waiting_long(
    server: Running, llm: ScriptedLLM, frame: bytes
) -> None:
    """Ten such bursts make a million."""
    bursts = [http_chunk(frame * 10_000)] * 10
    once(llm, [SSE_HEAD, *bursts, *(http_chunk(step) for step in (delta("end", "stop"), usage())), END])
    session_id = await server.session()
    waited = []
    stream = await server.stream(session_id)
    reading = asyncio.create_task(stream.rest())
    while not reading.done():
        began = time.perf_counter()
        assert (await server.call("GET", "/api/health"))[0] == 200
        waited.append(time.perf_counter() - began)
    found = reading.result()
    assert found[-1].data == "[DONE]"
    expected = "a" * 100_000 + "end" if frame == delta("a") else "end"
    assert text_of(found) == expected
    assert (await server.history(session_id))[-1][1] == expected
    assert max(waited) < 3, f"others waited up to {max(waited)} s"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "GZIP"])
async def test_an_answer_compressed_unasked_is_an_error_and_never_unpacked(
    server: Running, llm: ScriptedLLM, stream: bool, encoding: str
) -> None:
    bomb = gzip.compress(b" " * 50_000_000, compresslevel=1)
    once(llm, answer("200 OK", bomb, f"Content-Encoding: {encoding}\r\nContent-Type: application/json\r\n"))
    session_id = await server.session()
    path = "/api/chat/stream" if stream else "/api/chat"
    status, body, _ = await server.call("POST", path, {"session_id": session_id, "message": "Hi"})
    assert (status, body["error"]["code"]) == (502, "llm_error")
    assert llm.exchanges[0].headers["accept-encoding"] == "identity"
    await is_well(server)


HEADS = {
    "a header of 1 MiB": b"HTTP/1.1 200 OK\r\nA: " + b"a" * 1_048_576 + b"\r\n\r\n",
    "a header of 1 MiB that never ends": b"HTTP/1.1 200 OK\r\nA: " + b"a" * 1_048_576,
    "headers of 1 MiB": b"HTTP/1.1 200 OK\r\n" + b"A: bcdefgh\r\n" * 90_000 + b"\r\n",
    "a reason of 1 MiB": b"HTTP/1.1 200 " + b"a" * 1_048_576 + b"\r\n\r\n",
    "a name of 1 MiB": b"HTTP/1.1 200 OK\r\n" + b"a" * 1_048_576 + b": b\r\n\r\n",
    "no HTTP": b"SSH-2.0-OpenSSH_9.6\r\n",
    "nothing": b"\r\n\r\n",
    "status 999": b"HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n",
    "status 204": b"HTTP/1.1 204 No Content\r\n\r\n",
    "status 101": b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "chunks that are none": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n",
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", HEADS)
async def test_an_answer_that_is_hardly_http_is_an_error(
    server: Running, llm: ScriptedLLM, log: Log, name: str, stream: bool
) -> None:
    once(llm, [HEADS[name], Close])
    session_id = await server.session()
    path = "/api/chat/stream" if stream else "/api/chat"
    status, body, _ = await server.call("POST", path, {"session_id": session_id, "message": "Hi"})
    assert (status, body["error"]["code"]) == (502, "llm_error"), body
    assert await server.history(session_id) == []
    assert not log.tracebacks, log.tracebacks[0]
    await is_well(server)


@pytest.mark.parametrize(
    "status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"]
)
@pytest.mark.parametrize("where", ["chat", "models"])
async def test_a_redirect_is_not_followed_and_the_key_does_not_travel(
    start: StartServer, llm: ScriptedLLM, status: str, where: str
) -> None:
    other = ScriptedLLM()
    await other.start()
    redirect = answer(status, b"", f"Location: {other.url}/v1/chat/completions\r\n")
    server = await start(llm_api_key="travels-not", llm_model="" if where == "models" else "m")
    if where == "models":
        llm.models = redirect
    else:
        llm.play(redirect, redirect)
    for path in ("/api/chat", "/api/chat/stream"):
        body = {"session_id": await server.session(), "message": "Hi"}
        answered, error, _ = await server.call("POST", path, body)
        assert (answered, error["error"]["code"]) == (502, "llm_error"), error
    await server.call("GET", "/api/health/ready")
    assert (len(other.exchanges), other.model_requests) == (0, 0), "the redirect was followed"
    if where == "chat":
        assert llm.exchanges[0].headers["authorization"] == "Bearer travels-not"
    await other.stop()


async def test_no_header_of_the_client_reaches_the_llm(start: StartServer, llm: ScriptedLLM) -> None:
    server = await start(api_keys=("the-clients-key",))
    headers = {
        "Authorization": "Bearer the-clients-key",
        "Cookie": "a=b",
        "X-Conversation-Id": "c",
        "X-Forwarded-For": "1.2.3.4",
        "X-Request-ID": "r",
    }
    _, session, _ = await server.call("POST", "/api/sessions", headers=headers)
    status, _, _ = await server.chat(session["session_id"], "Hi", headers)
    assert status == 200
    sent = llm.exchanges[0].headers
    assert set(sent) <= {
        "host",
        "accept",
        "accept-encoding",
        "user-agent",
        "content-type",
        "content-length",
    }, sent


@pytest.mark.parametrize(
    "type_", ["text/html", "image/png", "application/json", "", "text/event-stream; charset=bogus"]
)
async def test_a_content_type_that_lies_changes_nothing(
    server: Running, llm: ScriptedLLM, type_: str
) -> None:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {type_}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    once(llm, [head, *reply("Hel", "lo")[1:]])
    stream = await server.stream(await server.session())
    assert text_of(await stream.rest()) == "Hello"
    once(llm, answer(body=json.dumps(completion("Hi")).encode(), headers=f"Content-Type: {type_}\r\n"))
    assert (await server.chat(await server.session()))[1]["content"] == "Hi"


@pytest.mark.parametrize(
    "whole", [b"<html>Sign in</html>", json.dumps(completion("Hi")).encode(), b"", b"null"]
)
async def test_something_else_where_a_stream_was_asked_is_an_error(
    server: Running, llm: ScriptedLLM, whole: bytes
) -> None:
    once(llm, answer(body=whole, headers="Content-Type: text/event-stream\r\n"))
    stream = await server.stream(await server.session())
    assert (stream.status, json.loads(await stream.response.read())["error"]["code"]) == (502, "llm_error")


def nested(depth: int, kind: str) -> bytes:
    return (b"[" * depth + b"]" * depth) if kind == "arrays" else (b'{"a":' * depth + b"1" + b"}" * depth)


def chunk_with(field: str, value: bytes) -> bytes:
    """A last chunk with a field of the LLM's choice in the place of its choice."""
    places = {
        "chunk": b'{"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":"stop"}],"x":%b}',
        "delta": b'{"choices":[{"index":0,"delta":{"content":"x","x":%b},"finish_reason":"stop"}]}',
        "usage": b'{"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":"stop"}],"usage":{"a":%b}}',
        "content": b'{"choices":[{"index":0,"delta":{"content":%b},"finish_reason":"stop"}]}',
        "finish_reason": b'{"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":%b}]}',
        "choices": b'{"choices":%b}',
        "choice": b'{"choices":[%b]}',
        "delta itself": b'{"choices":[{"index":0,"delta":%b,"finish_reason":"stop"}]}',
        "usage itself": b'{"choices":[{"delta":{"content":"x"},"finish_reason":"stop"}],"usage":%b}',
        "error": b'{"error":%b}',
        "error message": b'{"error":{"message":%b}}',
        "everything": b"%b",
    }
    return places[field] % value


FIELDS = [
    *(
        "chunk",
        "delta",
        "usage",
        "content",
        "finish_reason",
        "choices",
        "choice",
        "delta itself",
        "usage itself",
    ),
    *("error", "error message", "everything"),
]

NASTY = {
    **{
        f"{kind} nested {depth}": nested(depth, kind)
        for kind in ("arrays", "objects")
        for depth in (400, 100_000)
    },
    "a number beyond floats": b"1e999",
    "a number below floats": b"-1e999",
    "a number of 4,000 digits": b"9" * 4000,
    "a number of 5,000 digits": b"9" * 5000,
    "NaN": b"NaN",
    "Infinity": b"-Infinity",
    "half a surrogate pair": b'"\\ud800"',
    "the other half": b'"x\\udc00y"',
    "NUL": b'"\\u0000"',
    "bytes that are no UTF-8": b'"\xff\xfe"',
    "half a megabyte": b'"' + b"x" * 500_000 + b'"',
    "null": b"null",
    "true": b"true",
    "an object with a strange name": b'{"\\ud800":"\\udfff"}',
}


async def check_nasty(server: Running, stream: bool, log: Log) -> None:
    """Whatever the LLM said: a reply or an error, in valid Unicode and JSON, whole or absent."""
    session_id = await server.session()
    path = "/api/chat/stream" if stream else "/api/chat"
    body = {"session_id": session_id, "message": "Hi"}
    async with server.http.post(server.url + path, json=body) as response:
        text = (await response.read()).decode()
    assert not log.tracebacks, log.tracebacks[0]

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    def load(data: str) -> Any:
        # Python takes what JSON does not know; and a client need not be able to take what nests deeply.
        try:
            return json.loads(data, parse_constant=refuse)
        except RecursionError:
            return {}
        except ValueError as error:
            if "digits" not in str(error):
                raise
            return {}

    history = await server.history(session_id)
    if stream and response.status == 200:
        lines = [line.removeprefix("data: ") for line in text.split("\n") if line.startswith("data: ")]
        for line in lines:
            assert line == "[DONE]" or load(line) is not None
        assert (lines[-1] == "[DONE]") == bool(history), (lines[-1], history)
    elif response.status == 200:
        assert load(text)["content"] == history[-1][1]
    else:
        error = load(text)["error"]
        assert response.status == ERRORS[error["code"]][0]
        assert error["code"] != "internal_error", error
        assert history == []
    async with server.http.get(f"{server.url}/api/sessions/{session_id}/messages") as response:
        load((await response.read()).decode())


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("name", NASTY)
async def test_nonsense_in_a_chunk_harms_nobody(
    server: Running, llm: ScriptedLLM, log: Log, field: str, name: str
) -> None:
    chunk = chunk_with(field, NASTY[name])
    once(llm, [*events(delta("so"), b"data: " + chunk + b"\n\n", b"data: [DONE]\n\n"), END])
    await check_nasty(server, True, log)
    once(llm, answer(body=chunk.replace(b'"delta"', b'"message"')))
    await check_nasty(server, False, log)
    once(llm, answer("400 Bad Request", chunk))
    await check_nasty(server, False, log)
    await is_well(server)


@pytest.mark.parametrize("field", ["chunk", "delta", "usage"])
@pytest.mark.parametrize("kind", ["arrays", "objects"])
async def test_nesting_around_what_can_be_read_harms_nobody(
    server: Running, llm: ScriptedLLM, log: Log, field: str, kind: str
) -> None:
    """Somewhere below Python's limit what was read can no longer be written."""
    for depth in range(860, 1000, 2):
        chunk = chunk_with(field, nested(depth, kind))
        split = chunk.replace(b'"x"', b'"\\ude00"', 1)  # joined with the half before it, so written anew
        once(llm, [*events(delta("\ud83d"), b"data: " + split + b"\n\n", b"data: [DONE]\n\n"), END])
        await check_nasty(server, True, log)
        once(llm, answer(body=chunk.replace(b'"delta"', b'"message"')))
        await check_nasty(server, False, log)


@pytest.mark.parametrize(
    "model",
    [
        '"\\ud800"',
        '"' + "x" * 1_000_000 + '"',
        "1e999",
        "[[]]",
        "null",
        '""',
        nested(100_000, "arrays").decode(),
    ],
)
async def test_a_list_of_models_that_makes_no_sense_harms_nobody(
    start: StartServer, llm: ScriptedLLM, log: Log, model: str
) -> None:
    server = await start(llm_model="")
    llm.models = answer(body=b'{"data":[{"id":%b}]}' % model.encode())
    status, body, _ = await server.chat(await server.session())
    assert status in (200, 502), body
    assert not log.tracebacks, log.tracebacks[0]
    llm.models = answer(body={"data": [{"id": "good"}]})
    status, body, _ = await server.chat(await server.session())
    assert status in (200, 502)


@pytest.mark.parametrize(
    "retry_after", ["7", "Wed, 21 Oct 2026 07:28:00 GMT", "soon", "-1", "1\x0bX-Evil: 1", "9" * 500, "\xff"]
)
async def test_only_a_retry_after_that_is_one_is_passed_on(
    server: Running, llm: ScriptedLLM, retry_after: str
) -> None:
    head = f"HTTP/1.1 429 Slow\r\nRetry-After: {retry_after}\r\nContent-Length: 0\r\n\r\n".encode("latin-1")
    once(llm, [head])
    status, body, headers = await server.chat(await server.session())
    if "\x0b" in retry_after:
        assert status in (429, 502)
    else:
        assert (status, body["error"]["code"]) == (429, "llm_rate_limited")
    passed_on = retry_after if retry_after in ("7", "Wed, 21 Oct 2026 07:28:00 GMT") else None
    assert headers.get("Retry-After") == passed_on


async def test_a_conversation_of_several_megabytes_is_sent_whole(server: Running, llm: ScriptedLLM) -> None:
    llm.script = lambda body: answer(body=completion("y" * 700_000))
    session_id = await server.session()
    for _ in range(3):
        status, body, _ = await server.chat(session_id, "x" * 300_000)
        assert status == 200, body
    sent = llm.exchanges[-1].body["messages"]
    assert [len(message["content"]) for message in sent] == [300_000, 700_000, 300_000, 700_000, 300_000]
