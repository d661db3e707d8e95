"""Clients that trickle, stall, lie, leave or come by the thousand are let go, and others are served."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from chatbot.process import raise_file_limit
from tests.tools.scripted_llm import Gate, ScriptedLLM, answer, completion, reply
from tests.tools.server import Clock, Log, Running, StartServer, text_of, until
from tests.tools.sockets import Socket, get, post


async def is_well(server: Running) -> None:
    """The server serves others."""
    assert (await server.call("GET", "/api/health"))[0] == 200


async def is_deserted(server: Running) -> None:
    """Waits until the connections of offenders are gone (all but the test's own)."""
    await until(lambda: server.connections <= 1)


def chat(path: str, session_id: str) -> bytes:
    """The bytes of a chat."""
    return post(path, b'{"session_id":"%b","message":"Hi"}' % session_id.encode())


@asynccontextmanager
async def probed(server: Running) -> AsyncIterator[None]:
    """Asks for health all the while, and once more at the end."""
    answers = 0

    async def probe() -> None:
        nonlocal answers
        while True:
            await is_well(server)
            answers += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(probe())
    try:
        yield
        count = answers
        await until(lambda: answers > count or task.done())
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert answers


# Trickles


@pytest.mark.parametrize("first", [b"", get("/api/health")])
async def test_a_header_that_trickles_is_let_go(server: Running, clock: Clock, first: bytes) -> None:
    await is_well(server)
    client = await Socket.open(server)
    await client.send(first)
    if first:
        await client.answer()
    for byte in b"GET /":
        await client.send(bytes([byte]))
        clock.advance(14)
        await is_well(server)
    clock.advance(10)
    assert await client.ended() == b""


@pytest.mark.parametrize("headers", [b"Content-Length: 1000", b"Transfer-Encoding: chunked"])
async def test_a_body_that_trickles_is_refused_after_thirty_seconds(
    server: Running, clock: Clock, log: Log, headers: bytes
) -> None:
    client = await Socket.open(server)
    await client.send(b"POST /api/sessions HTTP/1.1\r\nHost: x\r\n" + headers + b"\r\n\r\n")
    for _ in range(3):
        await client.send(b"1\r\n{\r\n")
        await is_well(server)
        clock.advance(9.9)
    await is_well(server)
    clock.advance(0.5)
    status, body, answered = await client.answer()
    assert (status, body["error"]["code"]) == (400, "invalid_request"), body
    assert "30 seconds" in body["error"]["message"]
    assert answered["connection"] == "close"
    clock.advance(11)
    assert await client.ended() == b""
    assert not log.tracebacks, log.tracebacks[0]
    assert server.sql("SELECT count(*) FROM sessions") == [(0,)]


async def test_two_thousand_idle_connections_keep_nobody_waiting_and_are_let_go(
    server: Running, clock: Clock
) -> None:
    raise_file_limit()
    clients = [await Socket.open(server) for _ in range(2000)]
    for half in clients[::2]:
        await half.send(b"GET /api/hea")
    await until(lambda: server.connections >= 2000)
    for _ in range(20):
        await is_well(server)
    clock.advance(76)
    await asyncio.gather(*(client.ended() for client in clients))
    await is_well(server)


# Cut, garbled, lied about

SESSION_BODY = b'{"metadata":{"a":1},"system_prompt":"Be brief."}'


@pytest.mark.parametrize("how", ["FIN", "RST"])
async def test_a_request_cut_anywhere_does_nothing(server: Running, log: Log, how: str) -> None:
    whole = post("/api/sessions", SESSION_BODY, b"Content-Type: application/json\r\n")
    for length in range(len(whole)):
        client = await Socket.open(server)
        await client.send(whole[:length])
        if how == "FIN":
            client.writer.write_eof()
            await client.ended()
        client.leave()
    await is_well(server)
    await is_deserted(server)
    assert server.sql("SELECT count(*) FROM sessions") == [(0,)]
    assert not log.tracebacks, log.tracebacks[0]


async def test_a_chat_cut_anywhere_leaves_a_whole_turn_or_none(
    server: Running, llm: ScriptedLLM, log: Log
) -> None:
    session_id = await server.session()
    whole = chat("/api/chat/stream", session_id)
    for length in range(0, len(whole) + 1, 3):
        client = await Socket.open(server)
        await client.send(whole[:length])
        client.leave()
    client = await Socket.open(server)
    await client.send(whole)
    client.leave()
    await is_well(server)
    await is_deserted(server)
    await server.ended()
    turns = await server.history(session_id)
    assert turns == [("user", "Hi"), ("assistant", "Hello there.")] * (len(turns) // 2)
    assert not log.tracebacks, log.tracebacks[0]


async def test_a_client_that_leaves_leaves_no_traceback(server: Running, llm: ScriptedLLM, log: Log) -> None:
    session_id = await server.session()
    for data in (
        get("/api/health"),
        get("/api/openapi.json"),
        post("/api/sessions", b"{}"),
        chat("/api/chat", session_id),
        chat("/api/chat/stream", session_id),
    ):
        for how in ("FIN", "RST"):
            for turns in range(12):  # to be gone at every point of the handler's way
                client = await Socket.open(server)
                client.writer.write(data)
                for _ in range(turns):
                    await asyncio.sleep(0)
                if how == "FIN":
                    client.writer.write_eof()
                    await client.ended()
                client.leave()
                await is_deserted(server)
                await server.ended()
    await is_well(server)
    assert not log.tracebacks, log.tracebacks[0]
    assert not log.lines(holding="ERROR"), log.lines(holding="ERROR")


@pytest.mark.parametrize("path", ["/api/sessions", "/api/nothing"])
@pytest.mark.parametrize(
    "garbage",
    [
        *(b"zz\r\nhello\r\n", b"5\r\nhelloX", b"-1\r\n", b"f" * 40 + b"\r\n"),
        *(b"\x00\xff\x00", b"2;" + b"x" * 20_000),
    ],
)
async def test_garbage_where_a_chunk_is_due_is_refused(
    server: Running, log: Log, path: str, garbage: bytes
) -> None:
    client = await Socket.open(server)
    await client.send(
        b"POST %b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n" % path.encode()
    )
    await is_well(server)  # the request has begun when the garbage comes
    await client.send(garbage)
    client.writer.write_eof()
    for status in re.findall(rb"HTTP/1\.\d (\d+)", await client.ended()):
        assert status in (b"400", b"404")
    await is_well(server)
    assert not log.tracebacks, log.tracebacks[0]
    assert server.sql("SELECT count(*) FROM sessions") == [(0,)]


async def test_a_body_longer_than_it_says_is_no_second_request(server: Running, log: Log) -> None:
    client = await Socket.open(server)
    await client.send(post("/api/sessions", b'{}{"metadata":{}}', length=2))
    statuses = re.findall(rb"HTTP/1\.\d (\d+)", await client.ended())
    assert statuses in ([b"201", b"400"], [b"400"])
    assert server.sql("SELECT count(*) FROM sessions") == [(len(statuses) - 1,)]
    assert not log.tracebacks, log.tracebacks[0]


@pytest.mark.parametrize(
    "name", [b"X-Session-ID", b"X-Request-ID", b"Idempotency-Key", b"Last-Event-ID", b"Origin"]
)
async def test_a_header_whose_bytes_are_no_text_is_refused_or_ignored(
    server: Running, log: Log, name: bytes
) -> None:
    client = await Socket.open(server)
    for headers in (name + b": \xff\r\n", name + b": \xff\r\nIdempotency-Key: k\r\n"):
        await client.send(post("/api/chat/stream", b'{"session_id":"x","message":"Hi"}', headers))
        assert (await client.answer())[0] in (400, 403, 404)
    await client.send(post("/api/chat", b'{"message":"Hi"}', b"X-Session-ID: \xff\r\nIdempotency-Key: k\r\n"))
    assert (await client.answer())[1]["error"]["code"] == "session_not_found"
    assert not log.tracebacks, log.tracebacks[0]


async def test_a_body_larger_than_all_may_hold_is_too_large(start: StartServer) -> None:
    client = await Socket.open(await start(max_request_bytes=2**30))
    await client.send(post("/api/sessions", b"{", length=2**27))
    status, answer, _ = await client.answer()
    assert (status, answer["error"]["code"]) == (413, "request_too_large"), "to try again later is vain"


# Pipelines


async def test_pipelined_requests_are_answered_in_order(server: Running) -> None:
    client = await Socket.open(server)
    ids = [f"request-{number}" for number in range(500)]
    await client.send(b"".join(get("/api/health", b"X-Request-ID: %b\r\n" % name.encode()) for name in ids))
    assert [(await client.answer())[2]["x-request-id"] for _ in ids] == ids


async def test_requests_pipelined_behind_a_stream_wait_for_it_and_nobody_else_does(
    server: Running, llm: ScriptedLLM
) -> None:
    gate = Gate()
    llm.play(reply("Hel", gate, "lo"))
    session_id = await server.session()
    client = await Socket.open(server)
    client.writer.write(
        chat("/api/chat/stream", session_id) + get("/api/health", b"X-Request-ID: behind\r\n") * 5000
    )
    await gate.reached.wait()
    async with probed(server):
        pass
    gate.open()
    await client.reader.readuntil(b"[DONE]\n\n\r\n0\r\n\r\n")
    for _ in range(5000):
        assert (await client.answer())[2]["x-request-id"] == "behind"


# Stalls


async def big_history(server: Running, llm: ScriptedLLM) -> str:
    """The path of a history of 3 MB."""
    session_id = await server.session()
    llm.script = lambda body: answer(body=completion("x" * 1_000_000))
    for _ in range(3):
        assert (await server.chat(session_id))[0] == 200
    return f"/api/sessions/{session_id}/messages"


async def test_a_client_that_does_not_read_a_long_answer_is_dropped(
    start: StartServer, llm: ScriptedLLM, clock: Clock, log: Log
) -> None:
    server = await start(max_context_messages=1)
    path = await big_history(server, llm)
    client = await Socket.open(server, receive_buffer=4096)
    connections = server.connections
    await client.send(get(path))
    await client.reader.readexactly(20)  # the answer has begun
    clock.advance(29)
    await is_well(server)
    assert server.connections == connections
    clock.advance(2)
    await until(lambda: server.connections < connections)
    await until(lambda: bool(log.lines(holding=" 499 ")))
    assert not log.tracebacks, log.tracebacks[0]


async def test_a_client_that_reads_a_long_answer_slowly_gets_it_all(
    start: StartServer, llm: ScriptedLLM, clock: Clock, log: Log
) -> None:
    server = await start(max_context_messages=1)
    path = await big_history(server, llm)
    client = await Socket.open(server, receive_buffer=4096)
    await client.send(b"GET %b HTTP/1.0\r\n\r\n" % path.encode())  # ends with the connection
    received = 0
    while not client.reader.at_eof():
        for _ in range(300_000 // 4096):
            received += len(await client.reader.read(4096))
        clock.advance(20)
        await is_well(server)
    assert received > 3_000_000, f"dropped after {received} bytes"
    assert not log.lines(holding=" 499 ")


# Overload


@pytest.mark.timeout(180)
async def test_three_thousand_chats_at_once_are_a_hundred_and_refusals(
    start: StartServer, llm: ScriptedLLM, log: Log
) -> None:
    raise_file_limit()
    server = await start(max_active_replies=100)
    gate = Gate()
    llm.script = lambda body: [gate, *answer(body=completion("Hello."))]
    ids = [server.sessions.create("{}", None).session_id for _ in range(3000)]
    clients = [await Socket.open(server) for _ in ids]
    async with probed(server):
        for client, session_id in zip(clients, ids, strict=True):
            client.writer.write(chat("/api/chat", session_id))
        answers = [asyncio.create_task(client.answer()) for client in clients]
        await until(lambda: sum(task.done() for task in answers) >= 2900)
        await llm.asked(100)
        refused = [task.result() for task in answers if task.done()]
        assert len(refused) == 2900
        assert len(server.replies) == 100
        _, state, _ = await server.call("GET", "/api/health")
        assert state["active_replies"] == 100
        gate.open()
        every = await asyncio.gather(*answers)
    assert sum(status == 200 for status, _, _ in every) == 100
    for status, refusal, headers in refused:
        assert (status, refusal["error"]["code"]) == (503, "overloaded")
        assert int(headers["retry-after"]) > 0
    assert len(llm.exchanges) == 100, "more were asked than may run"
    assert len(log.lines(holding="POST /api/chat 503")) == 2900
    assert server.sql("SELECT count(*) FROM turns") == [(100,)]
    for session_id in ids[-100:]:
        assert (await server.chat(session_id))[0] == 200, "afterwards not everything runs again"


# Storage


@pytest.fixture(params=["memory", "file"])
async def small(start: StartServer, tmp_path: Path, request: pytest.FixtureRequest) -> Running:
    """A server whose database may have 1 MiB."""
    database = ":memory:" if request.param == "memory" else str(tmp_path / "chat.db")
    return await start(max_database_mb=1, database_url=database)


async def fill(server: Running) -> list[str]:
    """Makes sessions until there is no more space; returns their ids."""
    made = []
    while True:
        status, answer, headers = await server.call("POST", "/api/sessions", {"system_prompt": "x" * 50_000})
        if status != 201:
            assert (status, answer["error"]["code"]) == (503, "storage_full"), answer
            assert int(headers["Retry-After"]) > 0
            return made
        made.append(answer["session_id"])


async def test_a_full_database_begins_nothing_new_and_asks_no_llm(small: Running, llm: ScriptedLLM) -> None:
    session_id = await small.session()
    await fill(small)
    body = {"session_id": session_id, "message": "Hi"}
    requests: list[tuple[str, str, Any]] = [
        ("POST", "/api/chat", body),
        ("POST", "/api/chat/stream", body),
        ("PATCH", f"/api/sessions/{session_id}", {"metadata": {"a": 1}}),
    ]
    for method, path, asked in requests:
        status, told, headers = await small.call(method, path, asked)
        assert (status, told["error"]["code"]) == (503, "storage_full")
        assert int(headers["Retry-After"]) > 0
    assert not llm.exchanges, "the LLM worked for a turn that could not be stored"
    await is_well(small)


async def test_a_reply_that_runs_when_the_database_becomes_full_is_still_stored(
    small: Running, llm: ScriptedLLM
) -> None:
    gate = Gate()
    llm.play(reply("Hel", gate, "lo"))
    session_id, stream = await small.begin()
    await fill(small)
    gate.open()
    assert (await stream.rest())[-1].data == "[DONE]"
    assert await small.history(session_id) == [("user", "Hi"), ("assistant", "Hello")]


async def test_a_full_database_is_read_and_deleted_from_and_the_space_is_used_again(small: Running) -> None:
    session_id = await small.session()
    _, message, _ = await small.chat(session_id)
    made = await fill(small)
    path = f"/api/sessions/{session_id}"
    assert (await small.call("GET", path))[1]["message_count"] == 2
    assert len(await small.history(session_id)) == 2
    reply_path = f"{path}/messages/{message['message_id']}"
    assert (await small.call("GET", reply_path))[0] == 200
    assert text_of(await (await small.resume(session_id, message["message_id"])).rest()) == "Hello there."
    assert (await small.call("DELETE", reply_path))[1] == {"deleted": 2}
    for other in made[:2]:
        assert (await small.call("DELETE", f"/api/sessions/{other}"))[0] == 204
    assert (await small.chat(session_id))[0] == 200
    assert await fill(small), "the space of a deleted session was not used again"


async def test_eviction_goes_on_in_a_full_database_and_its_space_is_used_again(
    small: Running, clock: Clock
) -> None:
    made = await fill(small)
    clock.advance(24 * 3600 + 1)
    await is_well(small)  # on a connection that is not a day old
    while not small.sessions.clean():
        pass
    await until(lambda: small.sql("SELECT count(*) FROM sessions") == [(0,)])
    assert len(await fill(small)) == len(made)


async def test_a_reply_that_cannot_be_stored_is_told_as_such_and_leaves_no_trace(
    small: Running, llm: ScriptedLLM, log: Log
) -> None:
    """The disk itself is full: SQLite says so."""
    session_id = await small.session(metadata={"a": 1})
    kept = await small.chat(session_id, "Keep this")
    assert kept[0] == 200
    pages = small.sql("PRAGMA page_count")[0][0]
    limit = small.sql("PRAGMA max_page_count")[0][0]
    small.sql(f"PRAGMA max_page_count={pages}")
    llm.play(reply("x" * 100_000))
    stream = await small.stream(session_id, "And this", {"Idempotency-Key": "k"})
    assert (await stream.rest())[-1].json["error"]["code"] == "storage_full"
    llm.play(answer(body=completion("x" * 100_000)))
    status, told, headers = await small.chat(session_id, "And this")
    assert (status, told["error"]["code"], headers["Retry-After"]) == (503, "storage_full", "60")
    status, told, _ = await small.call("POST", "/api/sessions", {"system_prompt": "x" * 100_000})
    assert (status, told["error"]["code"]) == (503, "storage_full")
    assert await small.history(session_id) == [("user", "Keep this"), ("assistant", "Hello there.")]
    assert small.sql("SELECT count(*) FROM sessions") == [(1,)]
    assert (await small.call("GET", "/api/health"))[1]["sessions"] == 1
    small.sql(f"PRAGMA max_page_count={limit}")
    status, told, headers = await small.chat(session_id, "And this", {"Idempotency-Key": "k"})
    assert (status, told["content"]) == (200, "Hello there."), "the failed turn did not free its key"
    assert "Idempotent-Replayed" not in headers
    assert not log.tracebacks, log.tracebacks[0]
