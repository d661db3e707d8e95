"""The fixture of the tests of many processes."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path

import aiohttp
import pytest

from tests.deploy.farm import KEY, PROXIES, Farm, count_the_messages
from tests.deploy.recipes import find_program
from tests.tools.processes import ROOT
from tests.tools.scripted_llm import ScriptedLLM


@pytest.fixture(params=PROXIES)
async def farm(request: pytest.FixtureRequest, llm: ScriptedLLM, tmp_path: Path) -> AsyncIterator[Farm]:
    find_program(request.param)
    llm.script = count_the_messages
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "LLM_SERVER_URL": llm.url}
    env |= {"LLM_MODEL": "test-model", "MAX_CONTEXT_MESSAGES": "100", "API_KEYS": KEY}
    with ExitStack() as stack:
        key, connector = {"Authorization": f"Bearer {KEY}"}, aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, headers=key) as http:
            farm = Farm(request.param, tmp_path, env, stack, http)
            farm.start("one")
            farm.start("two")
            farm.start_proxy()
            await farm.listens()
            yield farm
