"""The unchanged clients of six families work with this server, each as installed.

Python's are in the extra `clients`; JavaScript's are looked for where NODE_CLIENTS names a folder in which
`npm install openai @openai/agents ai @ai-sdk/openai zod` was run.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.openai.clever_llm import clever
from tests.tools.scripted_llm import ScriptedLLM
from tests.tools.server import StartServer

CLIENTS = Path(__file__).parent / "clients"
NODE = os.environ.get("NODE_CLIENTS", "")


async def run(start: StartServer, llm: ScriptedLLM, *command: str, cwd: str | Path) -> str:
    llm.script = clever
    server = await start(stream_heartbeat_seconds=1)
    env = os.environ | {"BASE_URL": f"{server.url}/v1"}
    client = await asyncio.create_subprocess_exec(
        *command, cwd=cwd, env=env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        said, _ = await client.communicate()
    finally:
        if client.returncode is None:
            client.kill()
    assert client.returncode == 0, said.decode()
    return said.decode()


@pytest.mark.parametrize(
    ("script", "package"),
    [("openai_python", "openai"), ("agents_python", "agents"), ("langchain_python", "langchain_openai")],
)
async def test_a_python_client_works(start: StartServer, llm: ScriptedLLM, script: str, package: str):
    if not importlib.util.find_spec(package):
        pytest.skip("the extra `clients` is not installed")
    print(await run(start, llm, sys.executable, f"{script}.py", cwd=CLIENTS))


@pytest.mark.parametrize("script", ["openai_js", "agents_js", "ai_sdk"])
async def test_a_javascript_client_works(start: StartServer, llm: ScriptedLLM, script: str):
    if not NODE or not shutil.which("node"):
        pytest.skip("NODE_CLIENTS names no folder with the packages of npm")
    for file in ("steps.mjs", f"{script}.mjs"):
        shutil.copy(CLIENTS / file, NODE)
    print(await run(start, llm, "node", f"{script}.mjs", cwd=NODE))
