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
PACKAGES = {"from openai": "openai", "from agents": "agents", "from langchain": "langchain_openai"}
ANSWERS = {
    "from openai import": ("Your name is Ada.", "1, 2, 3, 4, 5."),
    "from agents import": ("Ada", "Your name is Ada."),
    "from langchain_": ("Ada", "Your name is Ada."),
    "import OpenAI": ("1, 2, 3, 4, 5.",),
    "import { createOpenAI": ("Ada",),
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def output_of(command: list[str], cwd: Path, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def run(program: str, block: str, file: Path) -> None:
    with start_chatbot("--demo", "--port", "0") as server:
        file.write_text(block.replace("localhost:8080", f"127.0.0.1:{server.port}"), "utf-8")
        output = output_of([program, file.name], file.parent)
    for said in next(said for start, said in ANSWERS.items() if block.startswith(start)):
        assert said in output, output


def test_there_are_lines_for_every_client() -> None:
    lines = tuple(blocks("(?:python|js)"))
    assert [start for start in ANSWERS if not any(block.startswith(start) for block in lines)] == []


@pytest.mark.parametrize("block", blocks("python"), ids=lambda block: block.split()[1])
def test_the_lines_for_a_python_client_work(block: str, tmp_path: Path) -> None:
    package = next(name for start, name in PACKAGES.items() if block.startswith(start))
    if not importlib.util.find_spec(package):
        pytest.skip("the extra `clients` is not installed")
    run(sys.executable, block, tmp_path / "readme.py")


@pytest.mark.parametrize("block", blocks("js"), ids=lambda block: block.split()[1])
def test_the_lines_for_a_javascript_client_work(block: str) -> None:
    if not NODE or not shutil.which("node"):
        pytest.skip("NODE_CLIENTS names no folder with the packages of npm")
    run("node", block, Path(NODE) / "readme.mjs")


def test_llm_takes_it_as_one_more_model(tmp_path: Path) -> None:
    if not importlib.util.find_spec("llm"):
        pytest.skip("the extra `clients` is not installed")
    (yaml,) = blocks("yaml")
    with start_chatbot("--demo", "--port", "0") as server:
        text = yaml.replace("localhost:8080", f"127.0.0.1:{server.port}")
        (tmp_path / "extra-openai-models.yaml").write_text(text, "utf-8")
        env = {"PATH": os.environ["PATH"], "LLM_USER_PATH": str(tmp_path), "HOME": str(tmp_path)}
        command = [sys.executable, "-m", "llm", "-m", "here", "--key", "any", "Count to 3"]
        assert output_of(command, tmp_path, env).strip() == "1, 2, 3."
