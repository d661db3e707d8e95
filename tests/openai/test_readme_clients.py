"""The README's lines for each client of OpenAI's API, run as they are printed against the demo."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tools.processes import ROOT, start_chatbot

README = (ROOT / "README.md").read_text("utf-8")
NODE = os.environ.get("NODE_CLIENTS", "")
PACKAGES = {
    "from openai import": "openai",
    "from agents import": "agents",
    "from langchain_": "langchain_openai",
}
ANSWERS = {
    "from openai import": ("Your name is Ada.", "1, 2, 3, 4, 5."),
    "from agents import": ("Ada", "Your name is Ada."),
    "from langchain_": ("Ada", "Your name is Ada."),
    "import OpenAI": ("1, 2, 3, 4, 5.",),
    "import { createOpenAI": ("Ada",),
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def expected(block: str) -> tuple[str, ...]:
    return next(said for start, said in ANSWERS.items() if block.startswith(start))


def run(command: list[str], block: str, cwd: Path) -> None:
    with start_chatbot("--demo", "--port", "0") as server:
        script = block.replace("localhost:8080", f"127.0.0.1:{server.port}")
        suffix = ".py" if command[0] == sys.executable else ".mjs"
        file = cwd / f"readme{suffix}"
        file.write_text(script, "utf-8")
        done = subprocess.run(
            [*command, file.name], cwd=cwd, capture_output=True, text=True, timeout=100, check=False
        )
    assert done.returncode == 0, done.stderr
    for said in expected(block):
        assert said in done.stdout, done.stdout


def test_there_are_lines_for_every_client() -> None:
    assert {
        start for start in ANSWERS for block in blocks("(?:python|js)") if block.startswith(start)
    } == set(ANSWERS)


@pytest.mark.parametrize("block", blocks("python"), ids=lambda block: block.split()[1])
def test_the_lines_for_a_python_client_work(block: str, tmp_path: Path) -> None:
    package = next(name for start, name in PACKAGES.items() if block.startswith(start))
    if not importlib.util.find_spec(package):
        pytest.skip("the extra `clients` is not installed")
    run([sys.executable], block, tmp_path)


@pytest.mark.parametrize("block", blocks("js"), ids=lambda block: block.split()[1])
def test_the_lines_for_a_javascript_client_work(block: str) -> None:
    if not NODE or not shutil.which("node"):
        pytest.skip("NODE_CLIENTS names no folder with the packages of npm")
    run(["node"], block, Path(NODE))


def test_llm_takes_it_as_one_more_model(tmp_path: Path) -> None:
    if not importlib.util.find_spec("llm"):
        pytest.skip("the extra `clients` is not installed")
    (yaml,) = blocks("yaml")
    with start_chatbot("--demo", "--port", "0") as server:
        text = yaml.replace("localhost:8080", f"127.0.0.1:{server.port}")
        (tmp_path / "extra-openai-models.yaml").write_text(text, "utf-8")
        env = {"PATH": os.environ["PATH"], "LLM_USER_PATH": str(tmp_path), "HOME": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-m", "llm", "-m", "here", "--key", "any", "Count to 3"],
            env=env,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
    assert (done.returncode, done.stdout.strip()) == (0, "1, 2, 3."), done.stderr
