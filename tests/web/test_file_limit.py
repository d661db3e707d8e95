"""Out of connections or of open files it says so, cheaply, and all is well again when there is room."""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress

import pytest

from chatbot import process as limits
from tests.tools.processes import Process
from tests.tools.sockets import get, post
from tests.web.client import Client
from tests.web.conftest import StartSite

HEALTH, OTHER = get("/api/health"), post("/upload", b"{}")
FILES = 256
LIMIT = limits.connection_limit(FILES)


async def answer_to(port: int, data: bytes) -> bytes:
    """What comes until the connection is closed, or the first kilobyte."""
    one = Client(port)
    with suppress(ConnectionError):
        await one.send(data)
        await one.read(1)
    one.leave()
    return bytes(one.received)


async def well(port: int) -> None:
    """Waits until it serves again; the test's timeout ends it otherwise."""
    while b" 200 OK" not in await answer_to(port, OTHER):  # noqa: ASYNC110 (another process)
        await asyncio.sleep(0.05)


def warnings(process: Process) -> list[str]:
    return [line for line in process.lines if " WARNING " in line]


def test_each_connection_may_need_another_to_the_llm() -> None:
    for files in (256, 1024, 20_000):
        limit = limits.connection_limit(files)
        assert 0.3 * files < 2 * limit + limits.SURPLUS + limits.RESERVED_FILES <= files
    assert limits.connection_limit(1) == 1


async def test_above_the_limit_health_is_answered_all_else_refused_and_the_rest_closed(
    start_site: StartSite,
) -> None:
    process = start_site(f"ulimit -n {FILES}")
    clients = [Client(process.port) for _ in range(LIMIT)]
    for one in clients:
        await one.send(HEALTH)
        await one.read(1)
    healthy, refused = await answer_to(process.port, HEALTH), await answer_to(process.port, OTHER)
    assert b" 200 OK" in healthy
    for said in (b" 503 ", b'"overloaded"', b"Retry-After: 1"):
        assert said in refused, refused
    for answer in (healthy, refused):
        assert b"Connection: close" in answer
    surplus = [Client(process.port) for _ in range(limits.SURPLUS)]
    await asyncio.sleep(0.2)
    assert await answer_to(process.port, HEALTH) == b"", "it is read though there is no room"
    for one in surplus:
        assert not await one.rest(), "a connection above the limit lives for a second"
        one.leave()
    assert len(warnings(process)) == 1, warnings(process)
    for one in clients:
        await one.send(HEALTH)
        assert await one.read(1), "one of those that were served is not any more"
        one.leave()
    await well(process.port)


@pytest.mark.parametrize("files", [40, FILES])
async def test_a_thousand_connections_cost_little_and_say_little(start_site: StartSite, files: int) -> None:
    process = start_site(f"ulimit -n {files}")
    clients = [Client(process.port) for _ in range(1000 if files == FILES else 200)]
    await asyncio.sleep(0.5)
    process.signal(signal.SIGUSR1)
    await asyncio.to_thread(process.says, "work 0")
    await asyncio.sleep(3)
    process.signal(signal.SIGUSR1)
    work = await asyncio.to_thread(process.says, r"work 1: (\d+) .*")
    assert int(work[1]) < 500, f"it is busy with connections that it cannot serve: {work[0]}"
    assert len(process.output) < 20_000, f"{len(process.output)} characters of log"
    assert "Traceback" not in process.output, process.output[:3000]
    assert 1 <= len(warnings(process)) <= 2, warnings(process)
    for one in clients:
        one.leave()
    await well(process.port)
