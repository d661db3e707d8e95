"""The fixtures of the site: one in this process, whose clock can be moved, and one in its own."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack

import pytest

from chatbot.web.stalls import Connections
from tests.tools.processes import ROOT, Process
from tests.web.client import Client
from tests.web.site import Site


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    site = Site(Connections())
    await site.start()
    yield site
    await site.stop()


@pytest.fixture
async def client(site: Site) -> AsyncIterator[Callable[[], Client]]:
    """Makes clients of the site, which leave at the end."""
    made: list[Client] = []

    def make() -> Client:
        made.append(Client(site.port))
        return made[-1]

    yield make
    for one in made:
        one.leave()
    await asyncio.sleep(0)


@pytest.fixture
async def one(client: Callable[[], Client]) -> Client:
    """A client of the site."""
    return client()


StartSite = Callable[..., Process]


@pytest.fixture
def start_site() -> Iterator[StartSite]:
    """Runs sites in processes of their own; `before` is what a shell is to do first."""
    with ExitStack() as stack:

        def start(before: str = "", **env: str) -> Process:
            command = ["sh", "-c", f"{before or 'true'} && exec {sys.executable} -m tests.web.site"]
            environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)} | env
            process = stack.enter_context(Process(command, env=environ))
            process.port = int(process.says(r"listening on http://\S+:(\d+)$")[1])
            return process

        yield start
