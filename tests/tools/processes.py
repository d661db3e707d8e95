"""Runs programs as a user would, in an environment of their own, and ends them."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).parent.parent.parent
WAIT_SECONDS = 60.0
ENV = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
"""All that a process of the server is given of this one's environment."""


def free_port() -> int:
    """A port that was free a moment ago, for programs that cannot take one themselves."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Process:
    """A program that runs; a context that ends it. Its standard error is read all along, into `lines`."""

    def __init__(
        self, command: Sequence[str | Path], *, env: Mapping[str, str], cwd: Path | None = None
    ) -> None:
        self.lines: list[str] = []
        self.port = 0
        self._changed = threading.Condition()
        self._closed = False
        self._process = subprocess.Popen(
            [str(word) for word in command],
            cwd=cwd,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,  # so that it can be ended with the processes that it starts
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            with self._changed:
                self.lines.append(line.rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def output(self) -> str:
        """What the program has printed so far, on either stream."""
        with self._changed:
            return "\n".join(self.lines)

    def says(self, pattern: str) -> re.Match[str]:
        """Waits for a line of output; fails when the program ends without it."""
        found: list[re.Match[str]] = []

        def look() -> bool:
            found.extend(match for line in self.lines if (match := re.search(pattern, line)))
            return bool(found) or self._closed

        with self._changed:
            in_time = self._changed.wait_for(look, WAIT_SECONDS)
        assert found, f"{'no' if in_time else 'not in time:'} {pattern!r} in: {self.output}"
        return found[0]

    def ask(self, method: str, path: str, body: object = None, **headers: str) -> tuple[int, str]:
        """Makes a request to the server that it is; returns the status and the text of the answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_SECONDS)
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        return answer.status, text

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self) -> int:
        """Waits for the end; returns the exit code."""
        code = self._process.wait(WAIT_SECONDS)
        self._reader.join(WAIT_SECONDS)
        return code

    def end(self, number: signal.Signals) -> int:
        """Sends a signal, waits for the end, returns the exit code."""
        self.signal(number)
        return self.wait()

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.wait()
        assert self._process.stdout
        self._process.stdout.close()


@contextmanager
def start_chatbot(
    *arguments: str,
    command: Sequence[str | Path] = (sys.executable, "-m", "chatbot"),
    env: Mapping[str, str] = ENV,
    cwd: Path | None = None,
) -> Iterator[Process]:
    """Runs the server until the end of the block; `port` is where it listens."""
    with Process([*command, *arguments], env=env, cwd=cwd) as process:
        process.port = int(process.says(r"listening on http://\S+:(\d+)$")[1])
        yield process
