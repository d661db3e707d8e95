"""Schemathesis against the running server: what the description allows or forbids is answered as it says."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import sys
from pathlib import Path

import pytest

from tests.tools.server import Log, StartServer

EXAMPLES = os.environ.get("SCHEMATHESIS_EXAMPLES", "40")
"""How many inputs of each kind it makes for each operation."""


HAS_SCHEMATHESIS = importlib.util.find_spec("schemathesis") is not None


@pytest.mark.skipif(not HAS_SCHEMATHESIS, reason="schemathesis comes with the extra dev")
@pytest.mark.timeout(300)
async def test_schemathesis_finds_nothing(
    start: StartServer, log: Log, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = await start(api_keys=("the-key",))
    program = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()"),
        *("--config-file", str(Path(__file__).with_name("schemathesis.toml"))),
        *("run", f"{server.url}/api/openapi.json", "--checks", "all", "--continue-on-failure"),
        # PATCH with a `current` that names no message is a 404, though the session is there.
        *("--exclude-checks", "ensure_resource_availability"),
        *("--phases", "examples,coverage,fuzzing,stateful", "--max-examples", EXAMPLES),
        *("--header", "Authorization: Bearer the-key", "--no-color"),
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await program.communicate()
    text = output.decode()
    with capsys.disabled():
        summary = re.search(r"^  (\d+ generated.*)$", text, re.MULTILINE)
        last_line = text.strip().splitlines()[-1].strip("= ")
        print(f"\nschemathesis: {summary[1] if summary else 'no summary'}; {last_line}")
    assert program.returncode == 0, text
    assert re.search(r"([1-9]\d*) selected / \1 total", text), text
    assert not log.tracebacks, log.tracebacks[0]
