"""chatbot.pyz, built by the README's commands: runs anywhere, on any Python, the same on every build."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

from tests.tools.processes import ROOT, start_chatbot

SOURCES = ["chatbot", "tools", "schema.sql", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"]
VERSIONS = ["3.11", "3.12", "3.13", "3.14", "3.15"]
OFFLINE = re.compile(r"NewConnectionError|Failed to establish|Name or service not known|name resolution")


def build(folder: Path, sources: Path, **environ: str) -> Path:
    """Copies the sources into a folder and runs there what the README says."""
    folder.mkdir()
    for name in SOURCES:
        source = sources / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    # The commands say python3; here that is the Python that runs the tests.
    python3 = folder.parent / f"{folder.name}-bin" / "python3"
    python3.parent.mkdir()
    python3.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python3.chmod(0o755)
    readme = (ROOT / "README.md").read_text("utf-8")
    (commands,) = (block for block in re.findall(r"```sh\n(.*?)```", readme, re.DOTALL) if "pyz.py" in block)
    path = f"{python3.parent}{os.pathsep}{os.environ['PATH']}"
    run = subprocess.run(
        ["sh", "-eu", "-c", commands],
        cwd=folder,
        env=os.environ | {"PATH": path} | environ,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    if run.returncode and OFFLINE.search(run.stderr):
        pytest.skip("pip cannot reach a package index from here")
    assert run.returncode == 0, run.stderr
    return folder / "chatbot.pyz"


@pytest.fixture(scope="session")
def pyz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not importlib.util.find_spec("pip"):
        pytest.skip("this environment has no pip")
    return build(tmp_path_factory.mktemp("pyz") / "first", ROOT)


def find_python(version: str) -> str:
    """The path of a Python of that version; skips the test when the machine has none."""
    if version == f"{sys.version_info.major}.{sys.version_info.minor}":
        return sys.executable
    candidates = [shutil.which(f"python{version}")]
    if pyenv := shutil.which("pyenv"):
        root = subprocess.run([pyenv, "root"], capture_output=True, text=True, check=False).stdout.strip()
        candidates += map(str, sorted(Path(root).glob(f"versions/{version}.*/bin/python")))
    for candidate in filter(None, candidates):
        code = "import sqlite3, sys; print('%d.%d' % sys.version_info[:2])"
        run = subprocess.run([candidate, "-I", "-c", code], capture_output=True, text=True, check=False)
        if run.stdout.strip() == version:
            return candidate
    pytest.skip(f"this machine has no Python {version}")


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Path]:
    """A directory that may not be written to, to run in; checks that nothing was."""
    folder = tmp_path / "bare"
    folder.mkdir()
    folder.chmod(0o555)
    yield folder
    folder.chmod(0o755)
    assert list(folder.iterdir()) == []


def run(
    *command: str | Path, cwd: Path, env: Mapping[str, str] = MappingProxyType({})
) -> subprocess.CompletedProcess[str]:
    """Runs a program to its end, in an empty environment unless one is given."""
    words = [str(word) for word in command]
    return subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("version", VERSIONS)
def test_it_tells_its_version_and_its_options_to_every_python(version: str, pyz: Path, bare: Path) -> None:
    python = find_python(version)
    told = run(python, "-I", pyz, "--version", cwd=bare)
    assert re.fullmatch(r"chatbot \d+\.\d+\.\d+ \(aiohttp 3\.\S+\)\n", told.stdout), told.stderr
    told = run(python, "-I", pyz, "--help", cwd=bare)
    assert "--demo" in told.stdout
    assert (told.returncode, told.stderr) == (0, "")


@pytest.mark.parametrize("version", ["3.6", "3.10"])
def test_an_old_python_is_told_what_is_needed(version: str, pyz: Path, bare: Path) -> None:
    told = run(find_python(version), pyz, "--demo", cwd=bare)
    assert told.stderr.startswith(f"chatbot: Python 3.11 or newer is needed, this is {version}")
    assert (told.returncode, told.stdout) == (2, "")


@pytest.mark.parametrize("version", VERSIONS)
def test_it_serves_a_conversation_with_nothing_but_a_python(version: str, pyz: Path, bare: Path) -> None:
    command = [find_python(version), "-I", pyz]
    with start_chatbot("--demo", "--port", "0", command=command, env={}, cwd=bare) as server:
        status, health = server.ask("GET", "/api/health")
        assert (status, json.loads(health)["status"]) == (200, "ok")
        session_id = json.loads(server.ask("POST", "/api/sessions", {})[1])["session_id"]
        question = {"session_id": session_id, "message": "My name is Ada."}
        events = server.ask("POST", "/api/chat/stream", question)[1].strip().split("\n\n")
        assert events[-1] == "data: [DONE]"
        chunks = [json.loads(event.partition("data: ")[2]) for event in events[:-1]]
        choices = [choice for chunk in chunks for choice in chunk["choices"]]
        assert "".join(choice["delta"].get("content", "") for choice in choices).startswith("Hello, Ada!")
        assert len(choices) > 3
        history = json.loads(server.ask("GET", f"/api/sessions/{session_id}/messages")[1])["messages"]
        assert [message["role"] for message in history] == ["user", "assistant"]
        assert server.end(signal.SIGTERM) == 0, server.output


def test_it_holds_the_page_and_the_description(pyz: Path, bare: Path) -> None:
    command = [sys.executable, "-I", pyz]
    with start_chatbot("--demo", "--port", "0", command=command, env={}, cwd=bare) as server:
        status, page = server.ask("GET", "/")
        assert (status, "<main" in page) == (200, True)
        style = (ROOT / "chatbot/page/style.css").read_text("utf-8")
        assert server.ask("GET", "/page/style.css") == (200, style)
        assert server.ask("GET", "/page/markdown/writer.js")[0] == 200
        assert json.loads(server.ask("GET", "/api/openapi.json")[1])["openapi"].startswith("3.1")
        assert server.ask("GET", "/docs")[0] == 200


def test_it_reads_the_dotenv_of_the_working_directory(pyz: Path, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("PORT=0\nAPI_KEYS=open-sesame\nDATABASE_URL=sqlite:///here.db\n")
    with start_chatbot("--demo", command=[sys.executable, "-I", pyz], env={}, cwd=tmp_path) as server:
        assert server.ask("GET", "/api/sessions/x")[0] == 401
        assert server.ask("GET", "/api/sessions/x", Authorization="Bearer open-sesame")[0] == 404
        assert (tmp_path / "here.db").exists()


def test_it_says_what_is_wrong_and_exits_with_2(pyz: Path, bare: Path) -> None:
    told = run(sys.executable, "-I", pyz, "--port", "nowhere", cwd=bare)
    assert told.returncode == 2
    assert re.fullmatch(r"chatbot: --port must be .*\n", told.stderr)


def test_it_runs_by_its_own_name(pyz: Path, bare: Path) -> None:
    told = run(pyz, "--version", cwd=bare, env={"PATH": os.environ["PATH"]})
    assert told.returncode == 0, told.stderr


def test_it_is_the_same_on_every_build(pyz: Path, tmp_path: Path) -> None:
    old = os.umask(0o077)
    try:
        elsewhere = tmp_path / "a folder of another name"
        again = build(elsewhere, pyz.parent, TZ="Asia/Seoul", PYTHONHASHSEED="42", LC_ALL="C")
    finally:
        os.umask(old)
    with zipfile.ZipFile(pyz) as first, zipfile.ZipFile(again) as second:
        assert first.namelist() == second.namelist()
        assert [name for name in first.namelist() if first.read(name) != second.read(name)] == []
    assert again.read_bytes() == pyz.read_bytes()


def test_it_is_small_and_tells_nothing_of_where_it_was_built(pyz: Path) -> None:
    assert pyz.stat().st_size < 3 * 1000 * 1000
    where = str(pyz.parent).encode()
    with zipfile.ZipFile(pyz) as archive:
        names = archive.namelist()
        assert [name for name in names if where in archive.read(name)] == []
    assert names == sorted(names)
    assert {"chatbot/schema.sql", "chatbot/app.py", "chatbot/app.pyc"} <= set(names)
    assert any("aiohttp" in name and "LICENSE" in name for name in names), "the licences must go along"


def test_every_module_comes_compiled_and_is_never_compiled_anew(pyz: Path) -> None:
    with zipfile.ZipFile(pyz) as archive:
        names = set(archive.namelist())
        modules = {name for name in names if name.endswith(".py") and name != "__main__.py"}
        assert {f"{name}c" for name in modules} <= names
        for name in modules:
            flags = int.from_bytes(archive.read(f"{name}c")[4:8], "little")
            assert flags == 0b01, f"{name} is compared with its source at each start"  # PEP 552
