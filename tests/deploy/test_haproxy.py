"""deploy/haproxy.cfg, run by the real HAProxy in front of two real processes."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp
import pytest

from tests.tools.server import Stream
from tests.deploy.recipes import adapted, find_program, written
from tests.tools.processes import ROOT, Process, free_port, start_chatbot
from tests.tools.scripted_llm import Gate, ScriptedLLM, Step, answer, completion, reply

SESSIONS = 200


@dataclass
class Farm:
    """Two processes, `one` and `two`, and HAProxy in front of them."""

    one: Process
    two: Process
    proxy: Process
    port: int
    http: aiohttp.ClientSession
    admin: str

    async def call(
        self, method: str, path: str, body: Any = None, port: int = 0
    ) -> tuple[int, Any, dict[str, str]]:
        """Makes a request of the proxy, or of one process by its port; returns status, JSON, headers."""
        url = f"http://127.0.0.1:{port or self.port}{path}"
        async with self.http.request(method, url, json=body) as response:
            text = await response.text()
            return response.status, json.loads(text) if text else None, dict(response.headers)

    async def session(self) -> str:
        status, session, _ = await self.call("POST", "/api/sessions", {})
        assert status == 201, session
        return session["session_id"]

    async def stream(self, session_id: str, message: str) -> Stream:
        body = {"session_id": session_id, "message": message}
        return Stream(await self.http.post(f"http://127.0.0.1:{self.port}/api/chat/stream", json=body))

    async def turn(self, session_id: str, message: str) -> str:
        """One streamed turn; returns the reply."""
        stream = await self.stream(session_id, message)
        assert stream.status == 200, await stream.response.text()
        events = await stream.rest()
        assert events[-1].data == "[DONE]"
        return "".join(event.text for event in events)

    async def proxy_says(self, command: str, wanted: str) -> None:
        """Asks HAProxy about itself until its answer has something."""
        told = ""
        while wanted not in told:
            reader, writer = await asyncio.open_unix_connection(self.admin)
            writer.write(f"{command}\n".encode())
            told = (await reader.read()).decode()
            writer.close()
            await writer.wait_closed()
            await asyncio.sleep(0.02)

    async def is_at(self, process: Process, session_id: str) -> bool:
        return (await self.call("GET", f"/api/sessions/{session_id}", port=process.port))[0] == 200


async def in_order(*work: Any, at_once: int = 20) -> list[Any]:
    """Runs everything, so many at a time; returns the results in order."""
    limit = asyncio.Semaphore(at_once)

    async def one(job: Any) -> Any:
        async with limit:
            return await job

    return await asyncio.gather(*map(one, work))


def count_the_messages(body: Any) -> Iterable[Step]:
    """Says how many messages it was sent: a session that lost its history would tell."""
    count = str(len(body["messages"]))
    return reply(count, " messages") if body.get("stream") else answer(body=completion(count))


@pytest.fixture
async def farm(llm: ScriptedLLM, tmp_path: Path) -> AsyncIterator[Farm]:
    haproxy = find_program("haproxy")
    llm.script = count_the_messages
    settings = {"LLM_SERVER_URL": llm.url, "LLM_MODEL": "test-model", "MAX_CONTEXT_MESSAGES": "100"}
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **settings}
    with ExitStack() as stack:
        one, two = (stack.enter_context(start_chatbot("--port", "0", env=env)) for _ in range(2))
        port = free_port()
        admin = stack.enter_context(TemporaryDirectory()) + "/s"  # pytest's are too long for a socket's name
        recipe = adapted(
            "haproxy.cfg",
            {
                "bind :80": f"bind 127.0.0.1:{port}",
                "    localpeer proxy\n": f"    localpeer proxy\n    stats socket {admin}\n",
                "127.0.0.1:8090": f"127.0.0.1:{free_port()}",
                "127.0.0.1:8081": f"127.0.0.1:{one.port}",
                "127.0.0.1:8082": f"127.0.0.1:{two.port}",
            },
        )
        config = written(tmp_path / "haproxy.cfg", recipe)
        proxy = stack.enter_context(Process([haproxy, "-W", "-f", config], env=os.environ))
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
            farm = Farm(one, two, proxy, port, http, admin)
            while True:  # until it listens
                try:
                    if (await farm.call("GET", "/api/health"))[0] == 200:
                        break
                except aiohttp.ClientConnectorError:
                    await asyncio.sleep(0)
            yield farm


async def test_sessions_stay_with_their_process_and_outlive_the_others(farm: Farm) -> None:
    sessions = await in_order(*(farm.session() for _ in range(SESSIONS)))
    for number in (1, 3, 5):
        replies = await in_order(*(farm.turn(session_id, f"turn {number}") for session_id in sessions))
        assert Counter(replies) == {f"{number} messages": SESSIONS}
    at_one = await in_order(*(farm.is_at(farm.one, session_id) for session_id in sessions))
    kept = [session_id for session_id, there in zip(sessions, at_one, strict=True) if there]
    lost = [session_id for session_id, there in zip(sessions, at_one, strict=True) if not there]
    assert min(len(kept), len(lost)) >= 10, "one of the processes had next to nothing to do"

    farm.two.end(signal.SIGKILL)

    replies = await in_order(*(farm.turn(session_id, "turn 7") for session_id in kept))
    assert Counter(replies) == {"7 messages": len(kept)}
    for session_id in kept:
        _, history, _ = await farm.call("GET", f"/api/sessions/{session_id}/messages")
        assert [message["content"] for message in history["messages"]][::2] == [
            f"turn {n}" for n in (1, 3, 5, 7)
        ]
    calls = [
        farm.call("POST", "/api/chat", {"session_id": session_id, "message": "?"}) for session_id in lost
    ]
    calls += [farm.call("GET", f"/api/sessions/{session_id}/messages") for session_id in lost]
    told = Counter((status, body["error"]["code"]) for status, body, _ in await in_order(*calls))
    assert told == {(404, "session_not_found"): 2 * len(lost)}
    assert [await farm.turn(await farm.session(), "new") for _ in range(10)] == ["1 messages"] * 10


async def test_a_process_that_is_told_to_end_finishes_its_replies(farm: Farm, llm: ScriptedLLM) -> None:
    gate = Gate()
    llm.play(reply("To be", gate, " continued"))
    session_id = await farm.session()
    first, second = (farm.one, farm.two) if await farm.is_at(farm.one, session_id) else (farm.two, farm.one)
    stream = await farm.stream(session_id, "Go on")
    assert await stream.event()

    first.signal(signal.SIGTERM)
    await asyncio.to_thread(first.says, "shutting down")
    # New sessions are made all the while. HAProxy has noticed once they go to the other of the two although
    # that has more to do.
    held = [Gate() for _ in range(3)]
    llm.play(*(reply("held", other) for other in held))
    others: list[Stream] = []
    while len(others) < 3:
        new = await farm.session()
        if await farm.is_at(second, new):
            others.append(await farm.stream(new, "wait"))
    # Its own session is still served: how far the reply is can be asked, and no other is begun.
    status, session, _ = await farm.call("GET", f"/api/sessions/{session_id}")
    assert (status, session["active_reply"]["message"]) == (200, "Go on")
    status, error, _ = await farm.call("POST", "/api/chat", {"session_id": session_id, "message": "And?"})
    assert (status, error["error"]["code"]) in {(409, "session_busy"), (503, "shutting_down")}

    for one in (gate, *held):
        one.open()
    assert [event.data for event in await stream.rest()][-1] == "[DONE]"
    for other in others:
        assert [event.data for event in await other.rest()][-1] == "[DONE]"
    assert await asyncio.to_thread(first.wait) == 0
    assert (await farm.call("GET", f"/api/sessions/{session_id}"))[0] == 404


async def test_a_reload_forgets_no_session(farm: Farm, llm: ScriptedLLM) -> None:
    gate = Gate()
    llm.play(reply("To be", gate, " continued"))
    sessions = [await farm.session() for _ in range(20)]
    stream = await farm.stream(sessions[0], "Go on")
    assert await stream.event()

    # It hands over what is complete, and believes that of its own table 5 s after the start.
    await farm.proxy_says("show peers", "resync_timeout=<PAST>")
    farm.proxy.signal(signal.SIGUSR2)
    await asyncio.to_thread(farm.proxy.says, "Proxy chatbots stopped")
    await farm.proxy_says("show table chatbots", f"used:{len(sessions)}")
    async with aiohttp.ClientSession() as http:  # connections of before still lead to the old process
        reloaded = replace(farm, http=http)
        for session_id in sessions:
            assert (await reloaded.call("GET", f"/api/sessions/{session_id}"))[0] == 200
    gate.open()
    assert [event.data for event in await stream.rest()][-1] == "[DONE]"


async def test_each_token_comes_through_before_the_next_is_sent(farm: Farm, llm: ScriptedLLM) -> None:
    gates = [Gate() for _ in range(20)]
    llm.play(reply(*(step for number, gate in enumerate(gates) for step in (f"{number} ", gate))))
    stream = await farm.stream(await farm.session(), "Count")
    for number, gate in enumerate(gates):
        event = await stream.event()
        assert event is not None
        assert event.text == f"{number} "
        gate.open()
    assert (await stream.rest())[-1].data == "[DONE]"


async def test_a_chat_finds_its_session_wherever_its_body_names_it(farm: Farm) -> None:
    for session_id in [await farm.session() for _ in range(8)]:
        bodies = [
            {"message": "x" * 100_000, "session_id": session_id},
            {"session_id": session_id, "message": "x" * 1_000_000},
            {"message": 'not this: "session_id": "here"', "stop": ["session_id"], "session_id": session_id},
        ]
        for body in bodies:
            data = io.BytesIO(json.dumps(body, indent=1).encode())
            url = f"http://127.0.0.1:{farm.port}/api/chat"
            async with farm.http.post(url, data=data) as response:
                assert response.status == 200, await response.text()


async def test_without_any_process_it_says_so_as_the_server_would(farm: Farm) -> None:
    session_id = await farm.session()
    farm.one.end(signal.SIGKILL)
    farm.two.end(signal.SIGKILL)
    status, body, headers = await farm.call("GET", f"/api/sessions/{session_id}")
    assert (status, body["error"]["code"], headers["Retry-After"]) == (503, "overloaded", "5")


async def test_the_log_has_request_ids_and_no_session_ids(farm: Farm) -> None:
    session_id = await farm.session()
    _, _, headers = await farm.call("GET", f"/api/sessions/{session_id}")
    line = await asyncio.to_thread(farm.proxy.says, re.escape(headers["X-Request-ID"]))
    assert "GET 200" in line.string
    assert session_id not in farm.proxy.output
