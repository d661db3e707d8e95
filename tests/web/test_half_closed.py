"""A client that ends its half of the connection gets its answers; one that has gone is noticed."""

from __future__ import annotations

import asyncio

import pytest

from chatbot.web.backpressure import KEEP_ALIVE
from tests.tools.server import until
from tests.tools.sockets import post
from tests.web.client import Client
from tests.web.site import Site

HEALTH = b"GET /api/health HTTP/1.1\r\nHost: x\r\n\r\n"


async def test_what_was_asked_is_answered_and_the_connection_closed(site: Site, one: Client) -> None:
    await one.send(HEALTH * 3, end=True)
    assert (await one.rest()).count(b'{"status":"ok"}') == 3
    await until(lambda: site.connections.open == 0)


async def test_a_long_answer_is_sent_whole(one: Client) -> None:
    await one.get("/pieces?mb=4", end=True)
    assert len(await one.rest()) > 4 * 2**20


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_a_slow_answer_is_waited_for(site: Site, one: Client, version: bytes) -> None:
    await one.get("/slow", end=True, version=version)
    await site.begun.wait()
    await asyncio.sleep(0.3)  # real time: the network is asked whether the client is still there
    assert site.left == 0
    site.wave.set()
    rest = await one.rest()
    assert b'{"done":true}' in rest
    assert (b" 100 Continue" in rest) == (version == b"1.1"), "HTTP/1.0 knows no such answer"


async def test_a_stream_goes_on(site: Site, one: Client) -> None:
    await one.get("/events", end=True)
    await one.read_until(KEEP_ALIVE)
    site.wave.set()
    assert b"[DONE]" in await one.rest()


async def test_nothing_is_sent_after_the_end_of_a_stream(site: Site, one: Client) -> None:
    await one.get("/events?size=3000000&unsent=1")
    await site.begun.wait()
    site.wave.set()
    await asyncio.sleep(0.05)  # real time: the end is written, and most of the stream is not read
    one.end()
    await asyncio.sleep(0.1)  # and so is this: the client is asked whether it is still there
    assert (await one.rest()).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


@pytest.mark.parametrize("path", ["/slow", "/events"])
@pytest.mark.parametrize("reset", [False, True])
async def test_one_who_has_gone_is_noticed(site: Site, one: Client, path: str, reset: bool) -> None:
    await one.get(path)
    await site.begun.wait()
    if path == "/events":
        await one.read_until(b"data: x\n\n")
    one.leave(reset=reset)
    await until(lambda: site.left == 1)
    await until(lambda: site.connections.open == 0)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GET /api/hea",
        post("/upload", b"half", length=10),
        post("/api/health", b"half", length=10),
        b"POST /upload HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    ],
)
async def test_half_a_request_is_not_waited_for(site: Site, one: Client, data: bytes) -> None:
    await one.send(data, end=True)
    assert b" 200 " not in await one.rest()
    await until(lambda: site.connections.open == 0)
