"""deploy/nginx.conf, run by the real nginx in front of the real server."""

from __future__ import annotations

import asyncio
import io
import re
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import aiohttp
import pytest

from tests.deploy.recipes import adapted, each_token_comes_through, make_certificate, nginx
from tests.tools.processes import free_port
from tests.tools.scripted_llm import Gate, ScriptedLLM, delta, events
from tests.tools.server import Running, StartServer, until


@dataclass
class Front:
    """The server behind nginx: `running` talks to it through nginx."""

    running: Running
    tls: ssl.SSLContext
    tls_port: int
    plain_port: int
    log: Path


@pytest.fixture
async def front(start: StartServer, tmp_path: Path) -> AsyncIterator[Front]:
    """nginx with the recipe, in front of a server that stops a reply as soon as nobody listens."""
    key, certificate = make_certificate(tmp_path)
    running = await start(disconnect_grace_seconds=0.0, allowed_origins=("https://chat.example.com",))
    tls_port, plain_port = free_port(), free_port()
    changes = {
        "127.0.0.1:8080": f"127.0.0.1:{running.server.port}",
        "    listen [::]:443 ssl http2;\n": "",
        "    listen [::]:80;\n": "",
        "listen 443 ssl": f"listen 127.0.0.1:{tls_port} ssl",
        "listen 80": f"listen 127.0.0.1:{plain_port}",
        "/etc/letsencrypt/live/chat.example.com/fullchain.pem": str(certificate),
        "/etc/letsencrypt/live/chat.example.com/privkey.pem": str(key),
    }
    with nginx(tmp_path, "nginx.conf", changes) as process:
        process.says("start worker process ")
        tls = ssl.create_default_context(cafile=str(certificate))
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls)) as http:
            through = replace(running, http=http, url=f"https://127.0.0.1:{tls_port}", streams=[])
            yield Front(through, tls, tls_port, plain_port, tmp_path / "access.log")


async def test_each_token_comes_through_before_the_next_is_sent(front: Front, llm: ScriptedLLM) -> None:
    session_id = await front.running.session()
    stream = await each_token_comes_through(llm, lambda: front.running.stream(session_id))
    assert stream.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert stream.headers["X-Message-ID"]


async def test_a_client_that_leaves_is_noticed(front: Front, llm: ScriptedLLM) -> None:
    llm.play(events(delta("Well,"), Gate()))
    stream = await front.running.stream(await front.running.session())
    assert await stream.event()
    connection = stream.response.connection
    assert connection
    assert connection.transport
    connection.transport.abort()  # close() would wait for nginx to agree, as no browser does
    exchange = await llm.asked()
    await exchange.gone.wait()
    stream.leave()  # aiohttp does not see by itself what became of the connection


async def test_the_request_id_is_kept_and_logged_and_the_path_is_not(front: Front) -> None:
    session_id = await front.running.session()
    path = f"/api/sessions/{session_id}"
    status, _, headers = await front.running.call("GET", path, headers={"X-Request-ID": "from-afar-1"})
    assert (status, headers["X-Request-ID"], headers["X-Session-ID"]) == (200, "from-afar-1", session_id)
    _, _, headers = await front.running.call("GET", path)
    # nginx writes the line when the answer has gone out, so the client may be here first.
    await until(lambda: headers["X-Request-ID"] in front.log.read_text())
    log = front.log.read_text()
    assert "from-afar-1" in log
    assert session_id not in log


async def test_a_page_of_the_servers_name_or_address_is_let_in(front: Front) -> None:
    there = {"Host": "chat.example.com", "Origin": "https://chat.example.com"}
    status, _, headers = await front.running.call("POST", "/api/sessions", headers=there)
    assert (status, headers["Access-Control-Allow-Origin"]) == (201, "https://chat.example.com")
    by_address = {"Origin": front.running.url}  # with a port
    assert (await front.running.call("POST", "/api/sessions", headers=by_address))[0] == 201
    elsewhere = {"Host": "chat.example.com", "Origin": "https://example.org"}
    assert (await front.running.call("POST", "/api/sessions", headers=elsewhere))[0] == 403


async def test_http_1_0_without_a_host_is_served(front: Front) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", front.tls_port, ssl=front.tls)
    writer.write(b"GET /api/health HTTP/1.0\r\n\r\n")
    assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
    writer.close()


async def test_who_refuses_a_request_says_so_in_our_shape(front: Front) -> None:
    async def refused(size: int) -> tuple[int, str, str | None]:
        async with front.running.http.post(
            front.running.url + "/api/chat", data=io.BytesIO(b" " * size)
        ) as response:
            code = (await response.json())["error"]["code"]
            return response.status, code, response.headers.get("Retry-After")

    assert await refused(8_500_000) == (413, "request_too_large", None)  # the server itself
    assert await refused(9_500_000) == (413, "request_too_large", None)  # nginx, as the next
    await front.running.server.stop()
    assert await refused(10) == (503, "overloaded", "5")


@pytest.mark.parametrize(("size", "answered"), [(30_000, 200), (36_000, 431)])
async def test_many_cookies_are_for_the_server_to_judge(front: Front, size: int, answered: int) -> None:
    status, body, _ = await front.running.call("GET", "/api/health", headers={"Cookie": "x" * size})
    assert (status, "error" in body) == (answered, answered == 431)


async def test_a_reply_in_one_piece_comes_through(front: Front) -> None:
    status, answer, _ = await front.running.chat(await front.running.session())
    assert (status, answer["content"]) == (200, "Hello there.")


async def test_browsers_are_offered_http2_and_sent_to_tls(front: Front) -> None:
    front.tls.set_alpn_protocols(["h2", "http/1.1"])
    async with front.running.http.get(
        f"http://127.0.0.1:{front.plain_port}/x?y=1", allow_redirects=False
    ) as redirect:
        assert redirect.status == 308
        assert redirect.headers["Location"] == "https://127.0.0.1/x?y=1"
    # Not with aiohttp, which speaks HTTP/1.1 only.
    _, writer = await asyncio.open_connection("127.0.0.1", front.tls_port, ssl=front.tls)
    assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
    writer.transport.abort()


@pytest.mark.parametrize("name", ["nginx.conf", "nginx-many.conf", "haproxy.cfg", "Caddyfile"])
def test_every_proxy_waits_for_a_reply_in_one_piece_as_long_as_openais_clients(name: str) -> None:
    text = adapted(name, {})
    assert re.search(r"(proxy_read_timeout|timeout server|response_header_timeout) 600s;?\n", text)
