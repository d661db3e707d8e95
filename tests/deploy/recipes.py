"""Adapts a recipe of deploy/ to a test (other ports, other paths, nothing else); checks what each must do."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import pytest

from tests.tools.processes import ROOT, Process
from tests.tools.scripted_llm import Gate, ScriptedLLM, reply
from tests.tools.server import Stream

PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


def find_program(name: str) -> str:
    """The path of a program of the distribution; skips the test where it is missing."""
    return shutil.which(name, path=PATH) or pytest.skip(f"{name} is not installed")


def adapted(name: str, changes: Mapping[str, str]) -> str:
    """The text of a recipe with every change made; each must have something to change."""
    text = (ROOT / "deploy" / name).read_text("utf-8")
    for old, new in changes.items():
        assert old in text, f"deploy/{name} no longer has {old!r}"
        text = text.replace(old, new)
    return text


def written(path: Path, text: str) -> Path:
    path.write_text(text, "utf-8")
    return path


NGINX = """
{user}
worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log stderr notice;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    include {folder}/chatbot.conf;
}}
"""


def nginx(folder: Path, recipe: str, changes: Mapping[str, str]) -> Process:
    """Starts nginx with a recipe; its access log is `access.log`."""
    program = find_program("nginx")
    logs = {
        "/var/log/nginx/chatbot.log": f"{folder}/access.log",
        "/var/log/nginx/chatbot.error.log crit": "stderr warn",
    }
    written(folder / "chatbot.conf", adapted(recipe, {**changes, **logs}))
    user = "user root;" if os.geteuid() == 0 else ""  # whose directory the test's is
    main = written(folder / "nginx.conf", NGINX.format(folder=folder, user=user))
    return Process([program, "-e", "stderr", "-c", main], env=os.environ)


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """A key and a certificate that it has signed itself, for chat.example.com and 127.0.0.1."""
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    names = "subjectAltName=DNS:chat.example.com,IP:127.0.0.1"
    command = [find_program("openssl"), "req", "-x509", "-newkey", "ec", "-nodes", "-days", "1"]
    command += ["-pkeyopt", "ec_paramgen_curve:prime256v1"]
    command += ["-subj", "/CN=chat.example.com", "-addext", names]
    command += ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return key, certificate


async def each_token_comes_through(llm: ScriptedLLM, begin: Callable[[], Awaitable[Stream]]) -> Stream:
    """Sees each token of a stream come through the proxy before the LLM sends the next one."""
    gates = [Gate() for _ in range(20)]
    llm.play(reply(*(step for number, gate in enumerate(gates) for step in (f"{number} ", gate))))
    stream = await begin()
    for number, gate in enumerate(gates):
        event = await stream.event()
        assert event is not None
        assert event.text == f"{number} "
        gate.open()
    assert (await stream.rest())[-1].data == "[DONE]"
    return stream
