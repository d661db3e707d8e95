"""The fixtures of the tests; what they are made of stands in tests/tools/."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
from hypothesis import HealthCheck, settings

from chatbot.config import Config
from chatbot.server import Server
from tests.tools.scripted_llm import ScriptedLLM
from tests.tools.server import WHOLE_LOG, Clock, Log, Running, StartServer

# A busy machine is slow, and no test asserts a time.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


@pytest.fixture(scope="session", autouse=True)
def whole_log() -> Iterator[Log]:
    """The log of all tests of this run."""
    root = logging.getLogger()
    root.addHandler(WHOLE_LOG)
    root.setLevel(logging.INFO)
    logging.getLogger("chatbot").setLevel(logging.DEBUG)
    yield WHOLE_LOG
    root.removeHandler(WHOLE_LOG)


@pytest.fixture
def log() -> Iterator[Log]:
    """The log of one test."""
    log = Log()
    logging.getLogger().addHandler(log)
    yield log
    logging.getLogger().removeHandler(log)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "last: runs after all other tests")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the tests that look at the log of all others last."""
    items.sort(key=lambda item: item.get_closest_marker("last") is not None)


@pytest.fixture
async def clock() -> AsyncIterator[Clock]:
    clock = Clock(asyncio.get_running_loop())
    yield clock
    clock.restore()


@pytest.fixture
async def llm() -> AsyncIterator[ScriptedLLM]:
    llm = ScriptedLLM()
    await llm.start()
    yield llm
    await llm.stop()


@pytest.fixture
async def start(llm: ScriptedLLM, clock: Clock) -> AsyncIterator[StartServer]:
    """Starts the real server on a free port in front of the scripted LLM, with settings of choice."""
    running: list[Running] = []

    async def start(**settings: Any) -> Running:
        config = replace(Config(port=0, llm_server_url=llm.url, llm_model="test-model"), **settings)
        server = Server(config, now=clock.now)
        await server.start()
        no_limit = aiohttp.ClientTimeout()  # it would be the moved clock's
        http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=no_limit)
        one = Running(server, http, config, f"http://127.0.0.1:{server.port}")
        running.append(one)
        return one

    yield start
    for one in running:
        for stream in one.streams:
            stream.leave()
        await one.http.close()
        hurry = asyncio.Event()
        hurry.set()
        if not one.stopped:
            await one.server.stop(hurry)


@pytest.fixture
async def server(start: StartServer) -> Running:
    """The server with default settings."""
    return await start()


@pytest.fixture(autouse=True)
def no_dotenv(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tests run where there is no .env, so that a developer's own settings change nothing."""
    monkeypatch.chdir(tmp_path)
    return
