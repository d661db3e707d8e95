"""deploy/chatbot.service, judged by systemd, and its command run in its environment."""

from __future__ import annotations

import http.client
import json
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from chatbot.config import Config
from tests.deploy.recipes import adapted, find_program, written
from tests.tools.processes import ROOT, Process, start_chatbot


def unit_for_here(folder: Path) -> Path:
    """The unit with the Python of the tests, which is not where the distribution's would be."""
    text = adapted("chatbot.service", {"/usr/bin/python3": sys.executable})
    return written(folder / "chatbot.service", text)


def values(name: str) -> list[str]:
    """What the unit sets an option to, each time it does."""
    text = (ROOT / "deploy/chatbot.service").read_text("utf-8")
    return re.findall(rf"^{name}=(.*)$", text, re.MULTILINE)


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [find_program("systemd-analyze"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_systemd_calls_the_unit_well_protected(tmp_path: Path) -> None:
    # From 0 (nothing to fear) to 10; a service without any protection has 9.6.
    verdict = analyze("security", "--offline=yes", "--threshold=15", unit_for_here(tmp_path))
    assert verdict.returncode == 0, verdict.stdout


def test_systemd_waits_longer_than_a_shutdown_takes() -> None:
    (seconds,) = values("TimeoutStopSec")
    assert int(seconds) > Config().shutdown_grace_seconds + 2


def ask(server: Process, method: str, path: str) -> tuple[int, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request(method, path)
    response = connection.getresponse()
    answer = json.loads(response.read())
    connection.close()
    return response.status, answer


def test_the_units_command_keeps_sessions_in_the_state_directory(tmp_path: Path) -> None:
    (command,) = values("ExecStart")
    python, isolated, _ = shlex.split(command)
    assert (python, isolated) == ("/usr/bin/python3", "-I")
    (directory,), (state,) = values("WorkingDirectory"), values("StateDirectory")
    assert directory == f"/var/lib/{state}"
    (setting,) = values("Environment")
    name, _, url = setting.partition("=")
    moved = url.replace(directory, str(tmp_path))
    assert moved != url

    # As the module: the .pyz has tests of its own and takes long to build.
    env = {"PYTHONPATH": str(ROOT), name: moved}
    with start_chatbot("--port", "0", env=env, cwd=tmp_path) as server:
        status, session = ask(server, "POST", "/api/sessions")
        assert status == 201
        assert server.end(signal.SIGTERM) == 0
    with start_chatbot("--port", "0", env=env, cwd=tmp_path) as server:
        assert ask(server, "GET", f"/api/sessions/{session['session_id']}")[0] == 200
    assert [path.name for path in tmp_path.glob("*.db")] == ["chat.db"]


def drop_in() -> str:
    """What the unit's notes tell to add for keys that are credentials."""
    text = (ROOT / "deploy/chatbot.service").read_text("utf-8")
    lines = re.findall(r"^#     (\[Service\]|\w+=.*)$", text, re.MULTILINE)
    assert lines[0] == "[Service]"
    return "\n".join([*lines, ""])


@pytest.mark.parametrize("keys_are_credentials", [False, True])
def test_systemd_finds_no_fault_with_the_unit(tmp_path: Path, keys_are_credentials: bool) -> None:
    if keys_are_credentials:
        (tmp_path / "chatbot.service.d").mkdir()
        written(tmp_path / "chatbot.service.d/keys.conf", drop_in())
    verdict = analyze("verify", "--recursive-errors=no", unit_for_here(tmp_path))
    assert (verdict.returncode, verdict.stderr) == (0, "")


def test_keys_are_read_from_the_directory_of_credentials(tmp_path: Path) -> None:
    (name,) = re.findall(r"^LoadCredentialEncrypted=([^:]+):", drop_in(), re.MULTILINE)
    assert "WorkingDirectory=%d" in drop_in()
    written(tmp_path / name, "API_KEYS=one-key\n").chmod(0o400)
    tmp_path.chmod(0o500)
    with start_chatbot("--port", "0", env={"PYTHONPATH": str(ROOT)}, cwd=tmp_path) as server:
        assert ask(server, "POST", "/api/sessions")[0] == 401
    tmp_path.chmod(0o700)
