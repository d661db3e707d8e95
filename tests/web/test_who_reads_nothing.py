"""Any byte that stays unsent for 30 s without anything being read drops the client, and nothing else does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tests.tools.server import Clock, turns, until
from tests.web.client import Client
from tests.web.site import Site

BIG = 4_000_000
"""More bytes than the kernel keeps for one who does not read."""


async def stalled(site: Site, clock: Clock, seconds: float) -> None:
    """Waits until a client is stalled, and so many seconds more."""
    await until(lambda: site.connections.stalled == 1)
    await turns(50)
    for _ in range(int(seconds)):
        clock.advance(1)
        await turns()


@pytest.mark.parametrize("path", [f"/events?size={BIG}", "/pieces?mb=4", "/whole?mb=4"])
async def test_who_reads_nothing_is_dropped_after_thirty_seconds(
    site: Site, clock: Clock, one: Client, path: str
) -> None:
    await one.get(path)
    await stalled(site, clock, 29)
    assert (site.connections.open, site.connections.dropped) == (1, 0)
    await stalled(site, clock, 7)
    await asyncio.wait_for(until(lambda: site.connections.open == 0), 10)
    assert (site.connections.dropped, site.connections.stalled) == (1, 0)


async def test_who_reads_nothing_of_what_is_left_when_it_is_closed_is_dropped_too(
    site: Site, clock: Clock, one: Client
) -> None:
    await one.get(f"/events?size={BIG}")
    await stalled(site, clock, 0)
    assert site._runner.server
    [connection] = site._runner.server.connections
    connection.force_close()
    await stalled(site, clock, 36)
    assert (site.connections.open, site.connections.stalled, site.connections.dropped) == (0, 0, 1)


async def test_a_stream_that_is_silent_drops_nobody_who_has_read_it_all(
    site: Site, clock: Clock, one: Client
) -> None:
    await one.get("/events?size=1")
    await one.read_until(b"x\n\n")
    clock.advance(1000)
    await turns(100)
    site.wave.set()
    await one.read_until(b"[DONE]")


@pytest.mark.parametrize("path", [f"/events?size={BIG}", "/pieces?mb=4"])
async def test_who_reads_a_little_now_and_then_gets_it_all(
    site: Site, clock: Clock, one: Client, path: str
) -> None:
    await one.get(path, version=b"1.0")  # ends with the connection
    site.wave.set()
    while not one.closed:
        clock.advance(20)
        await one.read(400_000)
    assert len(one.received) >= BIG, f"dropped after {len(one.received)} bytes"


async def test_one_who_reads_what_comes_more_slowly_than_it_comes_is_not_dropped(
    site: Site, clock: Clock, one: Client
) -> None:
    """What waits for it only grows, though it reads: the bytes that left are what counts."""
    await one.get(f"/events?size={BIG}")
    await stalled(site, clock, 0)
    for _ in range(20):
        site.more(300_000)
        await one.read(250_000)
        clock.advance(10)
        await turns(20)
    assert (site.connections.open, site.connections.dropped) == (1, 0)


async def test_pieces_are_made_no_faster_than_they_are_read(site: Site, one: Client) -> None:
    await one.get("/pieces?mb=24", version=b"1.0")
    await one.read(1)
    await until(lambda: site.connections.stalled == 1)
    await turns(1000)
    assert site.made < 8 * 2**20, f"{site.made} bytes were made for one who read nothing"
    assert (await one.rest()).endswith(b"000767 0")


async def test_what_nobody_reads_is_bounded_for_all_clients_together(
    site: Site, client: Callable[[], Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatbot.web.backpressure.MAX_HELD", 6 * 2**20)
    one = client()
    await one.get("/whole?mb=4")
    await until(lambda: site.connections.stalled == 1)
    for path, status in (("/whole?mb=4", b"503"), ("/api/health", b"200"), ("/pieces?mb=4", b"200")):
        other = client()
        await other.get(path, version=b"1.0")
        rest = await other.rest()
        assert (rest[9:12], b"Retry-After: 1" in rest) == (status, status == b"503"), path
    one.leave()
    await until(lambda: site.connections.open == 0)
    again = client()
    await again.get("/whole?mb=4", version=b"1.0")
    assert len(await again.rest()) > 4 * 2**20
