"""Runs the server in front of the clever LLM until standard input ends: for clients tried by hand.

python -m tests.openai.serve 18080
"""

from __future__ import annotations

import asyncio
import sys

from chatbot.config import Config
from chatbot.server import Server
from tests.openai.clever_llm import clever
from tests.tools.scripted_llm import ScriptedLLM


async def main() -> None:
    llm = ScriptedLLM()
    llm.script = clever
    await llm.start()
    config = Config(
        port=int(sys.argv[1]), llm_server_url=llm.url, llm_model="test-model", stream_heartbeat_seconds=1
    )
    server = Server(config)
    await server.start()
    print(f"http://127.0.0.1:{server.port}/v1", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await server.stop(asyncio.Event())
    await llm.stop()


asyncio.run(main())
