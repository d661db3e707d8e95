"""The door of a running server whose LLM does what it is told."""

from __future__ import annotations

import pytest

from tests.openai.clever_llm import clever
from tests.openai.door import Door
from tests.tools.scripted_llm import ScriptedLLM
from tests.tools.server import StartServer


@pytest.fixture
async def door(start: StartServer, llm: ScriptedLLM) -> Door:
    llm.script = clever
    return Door(await start())
