"""A browser, a server and a scripted LLM for all tests here; a fresh page for each."""

from __future__ import annotations

import importlib.util
import inspect
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from tests.browser.talking import Reader
from tests.browser.world import Line, ScriptedLLM, Server

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # A name of our own for this machine: a page opened under it has a foreign origin.
    "--host-resolver-rules=MAP chat.example 127.0.0.1",
]
HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One event loop for all: the browser, the server and the LLM outlive a test."""
    reason = None
    if importlib.util.find_spec("playwright") is None:
        reason = "playwright is not installed (the extra `browser`)"
    elif CHROMIUM is None:
        reason = "no chromium on the PATH"
    for item in items:
        if HERE not in item.path.parents:
            continue
        item.add_marker(pytest.mark.browser)
        item.add_marker(pytest.mark.timeout(600))
        if inspect.iscoroutinefunction(item.function):
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))


def shared(function: Callable) -> Callable:
    return pytest_asyncio.fixture(scope="session", loop_scope="session")(function)


def fresh(function: Callable) -> Callable:
    return pytest_asyncio.fixture(loop_scope="session")(function)


@shared
async def browser() -> AsyncIterator[object]:
    from playwright.async_api import async_playwright

    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        await browser.close()


@shared
async def llm() -> AsyncIterator[ScriptedLLM]:
    llm = ScriptedLLM()
    await llm.start()
    yield llm
    await llm.stop()


@shared
async def server(llm: ScriptedLLM, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    server = await Server(tmp_path_factory.mktemp("server"), llm.url).start()
    yield server
    await server.stop()


@fresh
async def own_server(llm: ScriptedLLM, tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[Server]]]:
    """Starts a server for this test alone, with settings of its own."""
    servers: list[Server] = []

    async def start(llm_url: str = llm.url, **environment: str) -> Server:
        servers.append(Server(tmp_path, llm_url, **environment))
        return await servers[-1].start()

    yield start
    for server in servers:
        await server.stop(kill=True)


@fresh
async def line(server: Server) -> AsyncIterator[Line]:
    line = await Line(server.port).open()
    yield line
    await line.close()


@fresh
async def open_page(
    browser: object, server: Server, own_server: object
) -> AsyncIterator[Callable[..., Awaitable[Reader]]]:
    """Opens the page as a new person would; at the end no console may have complained.

    That is before an `own_server` is killed, of which the console does complain.
    """
    contexts, readers = [], []

    async def open_page(
        url: str = server.url, *, width: int = 1200, height: int = 800, **options: object
    ) -> Reader:
        options = {"locale": "en-US", "viewport": {"width": width, "height": height}, **options}
        context = await browser.new_context(**options)
        contexts.append(context)
        reader = await Reader(url, context).open_tab()
        readers.append(reader)
        return reader

    yield open_page
    complaints = [complaint for reader in readers for complaint in reader.complaints()]
    for context in contexts:
        await context.close()
    assert complaints == []


@fresh
async def reader(open_page: Callable[..., Awaitable[Reader]]) -> Reader:
    return await open_page()
