"""A process that was stopped (SIGSTOP, a laptop's lid) blames nobody for it: it reads and sends first."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator

import pytest

from tests.tools.processes import Process
from tests.tools.sockets import post
from tests.web.client import Client
from tests.web.conftest import StartSite

STOPPED = 2.5


@pytest.fixture
def process(start_site: StartSite) -> Process:
    """A site that is as impatient as it takes to test it in seconds."""
    return start_site(PATIENCE="1")


@pytest.fixture
async def one(process: Process) -> AsyncIterator[Client]:
    """A client of the site."""
    client = Client(process.port)
    yield client
    client.leave()


async def test_who_read_all_that_had_been_sent_is_not_dropped(process: Process, one: Client) -> None:
    await one.get("/events?size=400000")
    await asyncio.sleep(0.3)  # it is stalled by now
    process.signal(signal.SIGSTOP)
    await one.read(60_000)
    await asyncio.sleep(STOPPED)
    process.signal(signal.SIGCONT)
    await one.read(300_000)
    assert not one.closed, f"dropped after {len(one.received)} bytes"


async def test_who_reads_nothing_is_dropped(process: Process, one: Client) -> None:
    await one.get("/events?size=4000000")
    await asyncio.to_thread(process.says, "GET /events 499")


async def test_a_body_that_could_not_come_is_waited_for(process: Process, one: Client) -> None:
    body = b"x" * 6_000_000
    await one.send(post("/upload", b"", length=len(body)))
    await asyncio.sleep(0.3)
    process.signal(signal.SIGSTOP)
    sending = asyncio.create_task(one.send(body))
    await asyncio.sleep(STOPPED)
    process.signal(signal.SIGCONT)
    await sending
    await one.read_until(b'{"size":6000000}')


async def test_a_body_that_does_not_come_is_refused(one: Client) -> None:
    await one.send(post("/upload", b"half", length=10))
    await one.read_until(b"did not arrive")
