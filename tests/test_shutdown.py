"""A signal ends the process in time; whoever listens is told, and what was said is kept."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from chatbot.web.backpressure import MAX_UNSENT
from tests.test_slow_listeners import unsent
from tests.tools.processes import ENV, Process, start_chatbot
from tests.tools.raw import RawClient
from tests.tools.scripted_llm import Gate, Hang, ScriptedLLM, Step, delta, events, reply
from tests.tools.server import Event, Log, Running, StartServer, Stream, text_of, until


def chatbot(llm: ScriptedLLM, tmp_path: Path, grace: float) -> AbstractContextManager[Process]:
    env = {"LLM_SERVER_URL": llm.url, "LLM_MODEL": "m", "SHUTDOWN_GRACE_SECONDS": str(grace)}
    env["DATABASE_URL"] = f"sqlite:///{tmp_path / 'chat.db'}"
    return start_chatbot("--port", "0", env=ENV | env, cwd=tmp_path)


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        yield http


class Client:
    """Talks to a process."""

    def __init__(self, http: aiohttp.ClientSession, process: Process) -> None:
        self.http = http
        self.url = process.url

    async def session(self) -> str:
        async with self.http.post(f"{self.url}/api/sessions", json={}) as response:
            return str((await response.json())["session_id"])

    async def stream(self, session: str, message: str) -> Stream:
        body = {"session_id": session, "message": message}
        return Stream(await self.http.post(f"{self.url}/api/chat/stream", json=body))

    async def get(self, path: str) -> tuple[int, Any]:
        async with self.http.get(self.url + path) as response:
            return response.status, await response.json()


async def terminate(process: Process) -> None:
    """Sends SIGTERM; returns when the process lets no more chats begin."""
    process.signal(signal.SIGTERM)
    await asyncio.to_thread(process.says, "shutting down")


async def exit_of(process: Process) -> int:
    """Its exit code; it is waited for no longer than `WAIT_SECONDS` of tests/tools/processes.py."""
    return await asyncio.to_thread(process.wait)


def check_log(process: Process) -> None:
    for word in ("Traceback", "ERROR", "CRITICAL", "Warning", "never retrieved", "Task was destroyed"):
        assert word not in process.output, process.output


def ended_properly(found: list[Event]) -> str:
    """The code of the error that a stream ended with, or "[DONE]"."""
    assert found, "the stream ended without a word"
    return found[-1].data if found[-1].data == "[DONE]" else found[-1].json["error"]["code"]


async def test_fifty_streams_end_properly_and_in_time(
    llm: ScriptedLLM, tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    gate = Gate()

    def script(body: Any) -> list[Step]:
        number = int(body["messages"][-1]["content"])
        # Half of them finish within the grace, the other half never do.
        return reply("Once ", gate, "upon") if number % 2 else events(delta("Once "), Hang)

    llm.script = script
    grace = 1.0
    with chatbot(llm, tmp_path, grace) as process:
        client = Client(http, process)
        sessions = [await client.session() for _ in range(50)]
        streams = [await client.stream(session, str(n)) for n, session in enumerate(sessions)]
        begun = await asyncio.gather(*(stream.read() for stream in streams))
        assert list(map(text_of, begun)) == ["Once "] * 50
        await terminate(process)
        gate.open()
        ends = await asyncio.gather(*(stream.rest() for stream in streams))
        code = await exit_of(process)
    assert code == 0, process.output
    assert [ended_properly(found) for found in ends] == ["shutting_down", "[DONE]"] * 25
    assert [text_of(found[:-1]) for found in ends[1::2]] == ["upon"] * 25
    check_log(process)
    with chatbot(llm, tmp_path, grace) as process:
        client = Client(http, process)
        for number, session in enumerate(sessions):
            _, page = await client.get(f"/api/sessions/{session}/messages")
            found = [(message["content"], message["finish_reason"]) for message in page["messages"]]
            whole = ("Once upon", "stop") if number % 2 else ("Once ", "cancelled")
            assert found == [(str(number), None), whole], "what was told must be kept"


async def test_what_is_only_relayed_is_waited_for_and_told(
    llm: ScriptedLLM, tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    gate = Gate()
    llm.play(reply("Once ", gate, "upon"), events(delta("Once "), Hang), events(delta("Once "), Hang))
    with chatbot(llm, tmp_path, 1.0) as process:
        url = f"{process.url}/v1/chat/completions"
        body = {"messages": [{"role": "user", "content": "Hi"}], "stream": True}
        streams = [Stream(await http.post(url, json=body)) for _ in range(2)]
        whole = asyncio.create_task(http.post(url, json=body | {"stream": False}))
        await llm.asked(3)
        await terminate(process)
        async with http.post(url, json=body) as refused:
            assert (refused.status, (await refused.json())["error"]["code"]) == (503, "shutting_down")
        gate.open()
        assert [ended_properly(await stream.rest()) for stream in streams] == ["[DONE]", "shutting_down"]
        assert (await whole).status == 503
        assert (await (await whole).json())["error"]["code"] == "shutting_down"
        assert await exit_of(process) == 0
    assert process.output.count(" end=shutting_down") == 2, "the stream and the whole one that were cut"
    check_log(process)


async def test_one_who_reads_slowly_what_is_relayed_is_told_too(
    start: StartServer, llm: ScriptedLLM, log: Log
) -> None:
    server = await start(shutdown_grace_seconds=0)
    llm.play(events(*[delta("x" * 20_000)] * 100, Hang))
    slow = RawClient()
    body = {"messages": [{"role": "user", "content": "Hi"}], "stream": True}
    await slow.request(server.server.port, "POST", "/v1/chat/completions", body)
    await until(lambda: max(unsent(server), default=0) > MAX_UNSENT)
    stopped = await stopping(server)
    await server.ended()
    await slow.read(10_000_000)
    await stopped
    assert slow.events[-1].json["error"]["code"] == "shutting_down"
    assert log.lines(holding=" end=shutting_down")
    slow.close()


async def test_a_second_signal_ends_the_grace(
    llm: ScriptedLLM, tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    llm.play(events(delta("Once "), Hang))
    with chatbot(llm, tmp_path, 3600) as process:
        client = Client(http, process)
        stream = await client.stream(await client.session(), "Hi")
        await stream.event()
        await terminate(process)
        process.signal(signal.SIGTERM)
        assert ended_properly(await stream.rest()) == "shutting_down"
        assert await exit_of(process) == 0
    check_log(process)


async def test_a_name_server_that_does_not_answer_does_not_hold_the_exit_up(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    script = """
import socket, sys, threading
from chatbot.__main__ import main
known = socket.getaddrinfo
def look_up(host, *more, **named):
    if host != "llm":
        return known(host, *more, **named)
    print("looking up", file=sys.stderr, flush=True)
    threading.Event().wait()
socket.getaddrinfo = look_up
sys.exit(main())"""
    env = ENV | {"LLM_SERVER_URL": "http://llm", "SHUTDOWN_GRACE_SECONDS": "0"}
    with start_chatbot("--port", "0", command=(sys.executable, "-c", script), env=env) as process:
        client = Client(http, process)
        asking = asyncio.create_task(client.stream(await client.session(), "Hi"))
        await asyncio.to_thread(process.says, "looking up")
        process.signal(signal.SIGTERM)
        assert (await asking).status == 503
        assert await exit_of(process) == 0
    check_log(process)


async def test_a_client_that_does_not_read_does_not_hold_the_exit_up(
    llm: ScriptedLLM, tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    gate = Gate()
    llm.play([*events(*(delta("x" * 32768) for _ in range(120)), gate, Hang)])
    silent = RawClient()
    with chatbot(llm, tmp_path, 0.2) as process:
        client = Client(http, process)
        body = {"session_id": await client.session(), "message": "Hi"}
        await silent.request(process.port, "POST", "/api/chat/stream", body)
        await gate.reached.wait()
        process.signal(signal.SIGTERM)
        assert await exit_of(process) == 0
    silent.close()
    check_log(process)


async def stopping(server: Running, hurry: asyncio.Event | None = None) -> asyncio.Task[None]:
    """Begins to stop the server; returns when it lets no more chats begin."""
    task = asyncio.create_task(server.server.stop(hurry))
    server.stopped = True
    await until(lambda: server.replies.closing)
    return task


async def test_while_it_drains_no_chat_begins_and_all_else_is_served_and_the_last_reply_ends_it(
    start: StartServer, llm: ScriptedLLM
) -> None:
    server = await start(shutdown_grace_seconds=3600)
    gate = Gate()
    other = await server.session()
    key = {"Idempotency-Key": "k"}
    await server.chat(other, "Before", key)
    llm.play(reply("Once ", gate, "upon"))
    session, stream = await server.begin(headers=key)
    task = await stopping(server)
    for path in ("/api/chat", "/api/chat/stream"):
        body = {"session_id": other, "message": "Hi"}
        status, answer, headers = await server.call("POST", path, body)
        assert (status, answer["error"]["code"]) == (503, "shutting_down")
        assert int(headers["Retry-After"]) > 0
    status, answer, _ = await server.chat(other, "Before", key)
    assert (status, answer["content"]) == (200, "Hello there."), "a turn that is stored can be told again"
    assert len(await server.history(other)) == 2
    status, answer, _ = await server.call("GET", "/api/health/ready")
    assert (status, answer["status"]) == (503, "shutting_down")
    status, _, _ = await server.call("GET", "/api/health")
    assert status == 200, "it is alive while it drains"
    resumed = await server.resume(session, stream.message_id, 0)
    joined = await server.stream(session, "Hi", key)
    assert joined.status == 200, "a running reply can be joined"
    gate.open()
    for listener, text in ((stream, "upon"), (resumed, "Once upon"), (joined, "Once upon")):
        found = await listener.rest()
        assert (text_of(found), ended_properly(found)) == (text, "[DONE]")
    await task
    assert len(llm.exchanges) == 2


async def test_text_told_by_the_end_of_the_grace_is_stored_as_cancelled(
    start: StartServer, llm: ScriptedLLM, tmp_path: Path
) -> None:
    file = str(tmp_path / "chat.db")
    server = await start(database_url=file, shutdown_grace_seconds=0)
    llm.play([Hang], events(delta("Once "), Hang))
    wordless = await server.session()
    waiting = asyncio.create_task(server.chat(wordless, "Hi"))
    silent = await llm.asked()
    session, stream = await server.begin()
    await (await stopping(server))
    status, body, headers = await waiting
    assert (status, body["error"]["code"], headers["Retry-After"]) == (503, "shutting_down", "5")
    assert ended_properly(await stream.rest()) == "shutting_down"
    async with asyncio.timeout(5):
        await asyncio.gather(silent.gone.wait(), llm.exchanges[1].gone.wait())
    again = await start(database_url=file)
    assert await again.history(wordless) == []
    assert await again.history(session) == [("user", "Hi"), ("assistant", "Once ")]
    finish, done = await (await again.resume(session, stream.message_id, 5)).rest()
    assert (finish.finish_reason, done.data) == ("cancelled", "[DONE]")


async def test_a_reply_that_had_finished_by_the_end_of_the_grace_is_done(
    start: StartServer, llm: ScriptedLLM, tmp_path: Path
) -> None:
    file = str(tmp_path / "chat.db")
    server = await start(database_url=file, shutdown_grace_seconds=0)
    llm.play(events(delta("Once "), delta(finish="stop"), Hang))
    session, stream = await server.begin()
    await server.finish_is_held(session)
    await (await stopping(server))
    found = await stream.rest()
    assert ended_properly(found) == "[DONE]", "the turn is complete and stored: nothing to come back for"
    again = await start(database_url=file)
    _, body, _ = await again.call("GET", f"/api/sessions/{session}/messages/{stream.message_id}")
    assert (body["content"], body["finish_reason"]) == ("Once ", "stop")
