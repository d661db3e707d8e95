"""Clients that hang up in the middle, or read nothing, leave and cost little memory."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from pathlib import Path

import pytest

from tests.tools.processes import Process
from tests.tools.sockets import get, post
from tests.web.client import Client
from tests.web.conftest import StartSite

COUNT = 300
MOST = 64 * 2**20

REQUESTS = {
    "page": get("/pieces?mb=14"),
    "whole": get("/whole?mb=14"),
    "upload": post("/upload", b"x" * 4_000_000, length=8_000_000),
    "pipeline": get("/events?beat=0.1") + post("/upload", b"x" * 100_000) * 30,
}


def resident(process: Process) -> int:
    """The bytes of memory that a process holds."""
    pages = Path(f"/proc/{process.pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


async def hang_up(process: Process, data: bytes, *, together: int) -> None:
    """Clients send what they have, read the first byte of an answer if there is one, and leave."""
    for _ in range(COUNT // together):
        clients = [Client(process.port) for _ in range(together)]
        for one in clients:
            with suppress(TimeoutError, ConnectionError):  # nobody reads any more, or it was refused
                await asyncio.wait_for(one.send(data), 1)
                if data.startswith(b"GET"):
                    await one.read(1)
        for one in clients:
            one.leave()


@pytest.mark.parametrize("name", REQUESTS)
async def test_three_hundred_hang_ups_leave_little(start_site: StartSite, name: str) -> None:
    process = start_site()
    before = resident(process)
    for together in (1, 3 if name == "whole" else 50):
        await hang_up(process, REQUESTS[name], together=together)
        await asyncio.sleep(0.3)
        left = resident(process) - before
        assert left < MOST, f"{COUNT} hang-ups, {together} together, left {left / 2**20:.0f} MiB"


async def test_two_hundred_clients_that_read_nothing_of_a_page_cost_little(start_site: StartSite) -> None:
    process = start_site()
    before = resident(process)
    clients = [Client(process.port, buffer=4096) for _ in range(200)]
    for one in clients:
        await one.get("/pieces?mb=4")
        await one.read(1)
    cost = resident(process) - before
    for one in clients:
        one.leave()
    assert cost < 100 * 10**6, f"200 silent clients cost {cost / 10**6:.0f} MB"


async def test_bodies_on_their_way_are_bounded_and_small_ones_served(start_site: StartSite) -> None:
    process = start_site()
    before = resident(process)
    clients = [Client(process.port) for _ in range(61)]
    *large, small = clients
    for one in large:
        with suppress(TimeoutError, ConnectionError):
            await asyncio.wait_for(one.send(REQUESTS["upload"]), 2)
    cost = resident(process) - before
    await small.send(post("/upload", b"x" * 40_000))
    await small.read_until(b'{"size":40000}')
    process.says("POST /upload 503")
    refused = sum(" POST /upload 503 " in line for line in process.lines)
    for one in clients:
        one.leave()
    assert cost < 200 * 2**20, f"60 halves of 8 MB cost {cost / 2**20:.0f} MiB"
    assert 20 <= refused <= 30, f"{refused} of 60 were refused; 128 MiB hold some 33 halves"
