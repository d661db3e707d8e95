"""What large replies took goes back to the system."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp

from tests.tools.processes import ENV, start_chatbot
from tests.tools.scripted_llm import ScriptedLLM, reply
from tests.tools.server import until
from tests.web.test_hang_ups import MOST, resident


async def test_thirty_long_replies_at_once_leave_little(llm: ScriptedLLM, tmp_path: Path) -> None:
    long = reply(*["x" * 20_000] * 200)
    llm.script = lambda body: long
    env = ENV | {"LLM_SERVER_URL": llm.url, "LLM_MODEL": "m"}
    with start_chatbot("--port", "0", env=env, cwd=tmp_path) as process:
        before = resident(process)
        url = f"{process.url}/v1/chat/completions"

        async def ask(http: aiohttp.ClientSession) -> None:
            async with http.post(url, json={"messages": [{"role": "user", "content": "Hi"}]}) as answer:
                assert answer.status == 200  # and leaves

        async with aiohttp.ClientSession() as http:
            await asyncio.gather(*(ask(http) for _ in range(30)))
        await until(lambda: resident(process) - before < MOST)
