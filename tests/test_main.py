"""The command line, run as a user runs it."""

from __future__ import annotations

import json
import signal
import socket
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from unittest.mock import Mock

import pytest

import chatbot
from chatbot import __main__, server
from chatbot.config import Config
from tests.tools import processes
from tests.tools.processes import start_chatbot

ENV = processes.ENV | {"PYTHONWARNINGS": "error"}


def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Runs the program to its end, which is expected to come by itself."""
    command = [sys.executable, "-m", "chatbot", *arguments]
    return subprocess.run(command, env=ENV | env, capture_output=True, text=True, check=False, timeout=60)


def refused(result: subprocess.CompletedProcess[str]) -> str:
    """The one line that a start that failed says."""
    assert result.returncode == 2, result
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("chatbot: ")
    return lines[0]


def test_version_is_told() -> None:
    result = run("--version")
    assert result.returncode == 0
    assert result.stdout.startswith(f"chatbot {chatbot.__version__} (aiohttp 3.")


def test_help_names_the_options() -> None:
    result = run("--help")
    assert result.returncode == 0
    for option in ("--host", "--port", "--demo", "--version", "--backup", "--check", "--prune"):
        assert option in result.stdout


@pytest.mark.parametrize(
    ("arguments", "env", "name"),
    [
        ((), {"LLM_SERVER_URL": "localhost:8000"}, "LLM_SERVER_URL"),
        ((), {"SESSION_TIMEOUT_HOURS": "-1"}, "SESSION_TIMEOUT_HOURS"),
        (("--port", "http"), {"PORT": "8080"}, "--port"),
        (("--host", "a..b", "--port", "0"), {}, "--host"),
        ((), {"HOST": "x86_64-conda-linux-gnu"}, "HOST"),
        ((), {"API_KEYS": "keys are words of printable ASCII"}, "API_KEYS"),
    ],
)
def test_a_bad_setting_ends_the_start_with_one_line_that_names_it(
    arguments: tuple[str, ...], env: dict[str, str], name: str
) -> None:
    assert refused(run(*arguments, **env)).startswith(f"chatbot: {name} must be ")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--prot", "1"),
        ("--backup", ""),
        ("--backup", "\udcff.db"),
        ("--check", ""),
        ("--check", "a.db", "--backup", "b.db"),
        ("--range", "00-7f"),
        ("--force",),
        ("--prune", "a.db"),
    ],
)
def test_options_that_make_no_sense_are_refused(arguments: tuple[str, ...]) -> None:
    result = run(*arguments, PORT="0")
    assert result.returncode == 2
    assert "chatbot: error: " in result.stderr


def test_a_port_in_use_is_told() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert f"cannot listen on 127.0.0.1 port {port}: " in refused(run("--port", str(port)))


def test_an_address_that_is_not_ours_is_told() -> None:
    assert "cannot listen on 192.0.2.1 port 0: " in refused(run("--host", "192.0.2.1", "--port", "0"))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sqlite:///nowhere/chat.db", "cannot open nowhere/chat.db"),
        ("sqlite:////", "DATABASE_URL must be"),
        ("sqlite:////dev/full", "/dev/full"),
        ("sqlite:///.", "cannot open ."),
        ("sqlite:///notes.txt", "cannot use notes.txt: file is not a database"),
        ("sqlite:///other.db", "cannot use other.db: the database holds something else"),
    ],
)
def test_a_database_that_cannot_be_used_is_told_and_left_alone(tmp_path: Path, url: str, said: str) -> None:
    files = [tmp_path / "notes.txt", tmp_path / "other.db"]
    files[0].write_text("Dear diary, " * 100)
    with closing(sqlite3.connect(files[1])) as other:
        other.execute("CREATE TABLE notes (text)")
    before = [file.read_bytes() for file in files]
    assert said in refused(run("--port", "0", DATABASE_URL=url))
    assert [file.read_bytes() for file in files] == before


def test_a_second_process_on_the_same_database_is_refused(tmp_path: Path) -> None:
    env = ENV | {"DATABASE_URL": "sqlite:///chat.db"}
    with start_chatbot("--port", "0", env=env, cwd=tmp_path) as first:
        assert "chat.db is in use by another server" in refused(
            run("--port", "0", DATABASE_URL="sqlite:///chat.db")
        )
        assert first.ask("GET", "/api/health")[0] == 200
        assert f"the page is at {first.url}/" in first.output
        assert first.end(signal.SIGTERM) == 0, first.output
    with start_chatbot("--port", "0", env=env, cwd=tmp_path) as second:
        assert second.end(signal.SIGTERM) == 0, second.output


def test_the_settings_are_read_from_dotenv_under_the_environment_and_the_options(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(
        "PORT=nonsense\nHOST=x86_64-conda-linux-gnu\nDATABASE_URL=sqlite:///kept.db\n", "utf-8"
    )
    assert " PORT must be " in refused(run(HOST="127.0.0.1"))
    assert " HOST must be " in refused(run(PORT="0"))
    with start_chatbot("--host", "127.0.0.1", env=ENV | {"PORT": "0"}, cwd=tmp_path) as process:
        status, _ = process.ask("POST", "/api/sessions")
        assert status == 201
        assert process.end(signal.SIGTERM) == 0, process.output
    assert (tmp_path / "kept.db").exists()
    with start_chatbot("--port", "0", "--host", "127.0.0.1", env=ENV, cwd=tmp_path) as process:
        assert json.loads(process.ask("GET", "/api/health")[1])["sessions"] == 1


@pytest.mark.parametrize(
    ("content", "arguments", "said"),
    [
        (b"PORT=\xe9\n", [], ".env cannot be read"),
        (b"\nPORT 80\n", [], ".env: line 2 cannot be read"),
        (b"", ["--port", "http"], "--port must be "),
    ],
)
def test_settings_that_cannot_be_read_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, arguments: list[str], said: str
) -> None:
    (tmp_path / ".env").write_bytes(content)
    assert __main__.main(arguments) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"chatbot: {said}")


def test_a_directory_is_no_file_of_settings(tmp_path: Path) -> None:
    (tmp_path / ".env").mkdir()
    assert " PORT must be " in refused(run(PORT="x"))


def test_certificates_are_found_by_what_dotenv_says(tmp_path: Path) -> None:
    """aiohttp reads them when it is imported, which must not be before .env was read."""
    (tmp_path / ".env").write_text(f"SSL_CERT_FILE={tmp_path}/none.pem\n")
    script = "import sys; from chatbot.__main__ import _load_dotenv; _load_dotenv();"
    script += " assert 'aiohttp' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", script], env=ENV, check=False).returncode == 0


def test_the_first_lines_of_the_log_say_what_it_works_with(tmp_path: Path) -> None:
    env = ENV | {"DATABASE_URL": "sqlite:///kept.db", "LLM_MODEL": "m7"}
    env["LLM_SERVER_URL"] = "http://me:secret@llm.example/v1?key=secret"
    with start_chatbot("--host", "localhost", "--port", "0", env=env, cwd=tmp_path) as process:
        first = process.lines[:3]
        words = ("kept.db", "http://llm.example/v1 m7", f"http://localhost:{process.port}/")
        assert [word in line for word, line in zip(words, first, strict=True)] == [True] * 3, first
        assert "secret" not in process.output
        for address in ("127.0.0.1", "::1"):
            with socket.create_connection((address, process.port), 10):
                pass  # both addresses of localhost have this one port


def test_a_database_is_copied_checked_and_divided_from_the_command_line(tmp_path: Path) -> None:
    env = {"DATABASE_URL": "sqlite:///chat.db"}
    with start_chatbot("--port", "0", env=ENV | env, cwd=tmp_path) as process:
        assert process.ask("POST", "/api/sessions")[0] == 201
        assert "1 sessions" in run("--backup", "copy.db", **env).stdout
    assert "copy.db exists" in refused(run("--backup", "copy.db", **env))
    assert run("--backup", "copy.db", "--force", **env).returncode == 0
    assert "whole, version 1, 1 sessions" in run("--check", "copy.db").stdout
    assert " --range must be " in refused(run("--prune", "copy.db", "--range", "7f"))
    assert run("--prune", "copy.db", "--range", "00-ff").returncode == 0
    assert "there is nothing to copy" in refused(run("--backup", "other.db"))
    (tmp_path / "copy.db").write_text("not a database")
    assert "copy.db" in refused(run("--check", "copy.db"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_a_process_with_nothing_to_do_at_once_in_good_order(number: signal.Signals) -> None:
    with start_chatbot("--port", "0", env=ENV | {"SHUTDOWN_GRACE_SECONDS": "3600"}) as process:
        assert process.ask("GET", "/api/health")[0] == 200
        assert process.end(number) == 0, process.output
        assert process.output.endswith("bye")
        assert "Traceback" not in process.output


def test_sighup_stays_ignored_where_it_was() -> None:
    with start_chatbot("--port", "0", command=("nohup", sys.executable, "-m", "chatbot"), env=ENV) as process:
        process.signal(signal.SIGHUP)
        assert process.ask("GET", "/api/health")[0] == 200
        assert process.end(signal.SIGTERM) == 0, process.output


# In this process, where a subprocess would show no more


@pytest.fixture
def logging_to(monkeypatch: pytest.MonkeyPatch) -> Mock:
    """Keeps the tests' own logging; knows what it would have been."""
    mock = Mock()
    monkeypatch.setattr("logging.basicConfig", mock)
    return mock


def test_main_gives_the_settings_to_the_server(monkeypatch: pytest.MonkeyPatch, logging_to: Mock) -> None:
    given: list[Config] = []

    async def serve(config: Config, *, llm: str = "") -> None:
        given.append(config)

    monkeypatch.setattr(server, "serve", serve)
    monkeypatch.setenv("PORT", "1")
    monkeypatch.setenv("LLM_MODEL", "m")
    monkeypatch.setenv("LOG_LEVEL", "warning")
    assert __main__.main(["--port", "2", "--host", "::1"]) == 0
    assert __main__.main(["--demo"]) == 0
    plain, demo = given
    assert (plain.port, plain.host, plain.llm_model) == (2, "::1", "m")
    assert (demo.port, demo.llm_model, demo.llm_api_key) == (1, "", "")
    assert demo.llm_server_url.startswith("http://127.0.0.1:")
    assert logging_to.call_args.kwargs["level"] == "WARNING"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(98, "It is in use"), "cannot listen on 127.0.0.1 port 8080: It is in use"),
        (OSError("odd"), "cannot listen on 127.0.0.1 port 8080: odd"),
        (KeyboardInterrupt(), "interrupted"),
    ],
)
def test_main_turns_what_ends_the_start_into_one_line_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch,
    logging_to: Mock,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    said: str,
) -> None:
    monkeypatch.setattr(__main__.asyncio, "run", lambda coroutine: (coroutine.close(), throw(error)))
    assert __main__.main([]) == 2
    assert capsys.readouterr().err == f"chatbot: {said}\n"


def throw(error: BaseException) -> None:
    raise error
