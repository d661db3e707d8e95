"""deploy/haproxy.cfg and deploy/nginx-many.conf, run by the real programs in front of two real processes."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.deploy.recipes import adapted, find_program, written
from tests.deploy.test_nginx import MAIN
from tests.tools.processes import ROOT, Process, free_port, start_chatbot
from tests.tools.scripted_llm import Gate, ScriptedLLM, Step, reply
from tests.tools.server import Stream

RANGES = {"one": "00-7f", "two": "80-ff"}
PROXIES = ("haproxy", "nginx")
KEY = "key-of-the-farm"
Answer = tuple[int, Any, dict[str, str]]


@dataclass
class Farm:
    """Two processes, `one` and `two`, each with half of the ids, and a proxy in front of them."""

    kind: str
    folder: Path
    env: dict[str, str]
    stack: ExitStack
    http: aiohttp.ClientSession
    port: int = field(default_factory=free_port)
    processes: dict[str, Process] = field(default_factory=dict)
    proxy: Process | None = None

    def start(self, name: str) -> Process:
        """Starts a process, or starts it again on its port and its database."""
        port = self.processes[name].port if name in self.processes else 0
        database = f"sqlite:///{self.folder}/{name}.db"
        own = {"SESSION_ID_RANGE": RANGES[name], "DATABASE_URL": database}
        process = self.stack.enter_context(start_chatbot("--port", str(port), env=self.env | own))
        self.processes[name] = process
        return process

    def start_proxy(self) -> None:
        """Starts the proxy with its recipe."""
        ports = {"8081": self.processes["one"].port, "8082": self.processes["two"].port}
        at = {f"127.0.0.1:{port}": f"127.0.0.1:{real}" for port, real in ports.items()}
        if self.kind == "haproxy":
            slots = str(ROOT / "deploy/slots.map")
            changes = {"bind :80": f"bind 127.0.0.1:{self.port}", "/etc/haproxy/slots.map": slots}
            config = written(self.folder / "haproxy.cfg", adapted("haproxy.cfg", at | changes))
            command = [find_program("haproxy"), "-f", config]
            self.proxy = self.stack.enter_context(Process(command, env=os.environ))
            return
        changes = {
            "listen 80": f"listen 127.0.0.1:{self.port}",
            "/var/log/nginx/chatbot.log": f"{self.folder}/access.log",
            "/var/log/nginx/chatbot.error.log crit": "stderr warn",
        }
        written(self.folder / "chatbot.conf", adapted("nginx-many.conf", at | changes))
        user = "user root;" if os.geteuid() == 0 else ""
        main = written(self.folder / "nginx.conf", MAIN.format(folder=self.folder, user=user))
        command = [find_program("nginx"), "-e", "stderr", "-c", main]
        self.proxy = self.stack.enter_context(Process(command, env=os.environ))

    async def call(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, port: int = 0
    ) -> Answer:
        """Makes a request of the proxy, or of one process by its port; returns status, JSON, headers."""
        url = f"http://127.0.0.1:{port or self.port}{path}"
        async with self.http.request(method, url, json=body, headers=headers) as response:
            text = await response.text()
            return response.status, json.loads(text) if text else None, dict(response.headers)

    async def listens(self) -> None:
        """Waits until the proxy answers, and both processes are called ready by it."""
        while True:
            try:
                if (await self.call("POST", "/api/sessions", {}))[0] == 201:
                    return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.02)

    async def session_of(self, name: str) -> str:
        """A new session of one of the processes."""
        while True:
            status, session, _ = await self.call("POST", "/api/sessions", {})
            assert status == 201, session
            session_id: str = session["session_id"]
            if (session_id < "8") == (name == "one"):
                return session_id

    async def chat(self, session_id: str, message: str, **more: Any) -> Answer:
        body = {"session_id": session_id, "message": message, **more}
        return await self.call("POST", "/api/chat", body, {"X-Session-ID": session_id})

    async def stream(self, session_id: str, message: str) -> Stream:
        body = {"session_id": session_id, "message": message}
        url, headers = f"http://127.0.0.1:{self.port}/api/chat/stream", {"X-Session-ID": session_id}
        return Stream(await self.http.post(url, json=body, headers=headers))


def count_the_messages(body: Any) -> Iterable[Step]:
    """Says how many messages it was sent: a session that lost its history would show."""
    return reply(str(len(body["messages"])), " messages")


@pytest.fixture(params=PROXIES)
async def farm(request: pytest.FixtureRequest, llm: ScriptedLLM, tmp_path: Path) -> AsyncIterator[Farm]:
    find_program(request.param)
    llm.script = count_the_messages
    settings = {
        "LLM_SERVER_URL": llm.url,
        "LLM_MODEL": "test-model",
        "MAX_CONTEXT_MESSAGES": "100",
        "API_KEYS": KEY,
    }
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **settings}
    with ExitStack() as stack:
        key, connector = {"Authorization": f"Bearer {KEY}"}, aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, headers=key) as http:
            farm = Farm(request.param, tmp_path, env, stack, http)
            farm.start("one")
            farm.start("two")
            farm.start_proxy()
            await farm.listens()
            yield farm


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
    status, error, headers = await farm.chat(ids["two"], "And?")
    assert (status, error["error"]["code"], headers["Retry-After"]) == (503, "overloaded", "5")
    await asyncio.to_thread(farm.start, "two")
    while (answer := await farm.chat(ids["two"], "And?"))[0] == 503:  # noqa: ASYNC110 (until the proxy sees it)
        await asyncio.sleep(0.05)
    assert answer[1]["content"] == "3 messages"


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
    assert farm.proxy
    farm.proxy.end(signal.SIGTERM)
    farm.start_proxy()
    await farm.listens()
    for session_id in sessions:
        assert (await farm.call("GET", f"/api/sessions/{session_id}"))[0] == 200


async def test_each_token_comes_through_before_the_next_is_sent(farm: Farm, llm: ScriptedLLM) -> None:
    gates = [Gate() for _ in range(20)]
    llm.play(reply(*(step for number, gate in enumerate(gates) for step in (f"{number} ", gate))))
    stream = await farm.stream(await farm.session_of("one"), "Count")
    for number, gate in enumerate(gates):
        event = await stream.event()
        assert event is not None
        assert event.text == f"{number} "
        gate.open()
    assert (await stream.rest())[-1].data == "[DONE]"


@pytest.mark.parametrize("farm", ["haproxy"], indirect=True)
async def test_the_log_has_request_ids_and_no_session_ids(farm: Farm) -> None:
    session_id = await farm.session_of("one")
    _, _, headers = await farm.call("GET", f"/api/sessions/{session_id}")
    assert farm.proxy
    line = await asyncio.to_thread(farm.proxy.says, re.escape(headers["X-Request-ID"]))
    assert "GET 200" in line.string
    assert session_id not in farm.proxy.output
