"""deploy/Caddyfile, run by the real Caddy in front of the real server."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from tests.deploy.recipes import adapted, each_token_comes_through, find_program, make_certificate, written
from tests.tools.processes import Process, free_port
from tests.tools.scripted_llm import Gate, ScriptedLLM, delta, events
from tests.tools.server import Running, StartServer

Front = tuple[Running, Process]


@pytest.fixture
async def front(start: StartServer, tmp_path: Path) -> AsyncIterator[Front]:
    """The server, talked to through Caddy, which stops a reply as soon as nobody listens; and Caddy."""
    caddy = find_program("caddy")
    key, certificate = make_certificate(tmp_path)
    running = await start(disconnect_grace_seconds=0.0)
    port = free_port()
    changes = {
        "127.0.0.1:8080": f"127.0.0.1:{running.server.port}",
        "\nchat.example.com {": f"\nhttps://127.0.0.1:{port} {{\n\ttls {certificate} {key}",
        "\n{\n": "\n{\n\tadmin off\n\tauto_https disable_redirects\n",
    }
    recipe = written(tmp_path / "Caddyfile", adapted("Caddyfile", changes))
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    with Process([caddy, "run", "--config", recipe], env=env, cwd=tmp_path) as process:
        process.says("serving initial configuration")
        tls = ssl.create_default_context(cafile=str(certificate))
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls)) as http:
            yield replace(running, http=http, url=f"https://127.0.0.1:{port}", streams=[]), process


async def test_each_token_comes_through_before_the_next_is_sent(front: Front, llm: ScriptedLLM) -> None:
    running, _ = front
    session_id = await running.session()
    await each_token_comes_through(llm, lambda: running.stream(session_id))


async def test_a_client_that_leaves_frees_the_llm(front: Front, llm: ScriptedLLM) -> None:
    running, _ = front
    for path in ("/api/chat", "/api/chat/stream"):
        waits = Gate()
        llm.play(events(delta("Well,"), waits))
        asked = {"session_id": await running.session(), "message": "Hi"}
        client = asyncio.create_task(running.call("POST", path, asked))
        await waits.reached.wait()
        client.cancel()  # aiohttp then closes its connection
        await llm.exchanges[-1].gone.wait()


async def test_no_log_has_a_path_and_who_is_away_is_told_in_our_shape(front: Front) -> None:
    running, caddy = front
    session_id = await running.session()
    await running.server.stop()
    path = f"/api/sessions/{session_id}"
    status, answer, headers = await running.call("GET", path)
    assert (status, answer["error"]["code"], headers["Retry-After"]) == (503, "overloaded", "5")
    await asyncio.to_thread(caddy.says, '"status":503')
    assert session_id not in caddy.output
