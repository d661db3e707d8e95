"""What is measured: how each target starts, and how its chat calls are spoken."""

import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

from tests.tools.processes import ROOT, free_port

from .client import Client, Tally
from .procs import Process

# sbin is not on every user's PATH.
NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
NAMES = ["LLM itself", *(["nginx"] if NGINX else []), "relay", "chatbot"]

NGINX_CONF = """
worker_processes 1;
daemon off;
pid {dir}/nginx.pid;
error_log {dir}/error.log;
events {{ worker_connections 18000; }}
http {{
    access_log off;
    keepalive_requests 100000000;
    client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy;
    fastcgi_temp_path {dir}/fcgi; uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;
    upstream llm {{
        server 127.0.0.1:{llm}; keepalive 1000; keepalive_requests 100000000;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{
            proxy_pass http://llm; proxy_http_version 1.1; proxy_set_header Connection "";
            proxy_buffering off;
        }}
    }}
}}
"""


def start_llm(tokens: int, interval_ms: float) -> Process:
    port = free_port()
    script = [str(port), str(tokens), str(interval_ms)]
    llm = Process("LLM", [sys.executable, "-m", "tests.bench.upstream", *script], port)
    return llm.wait_ready()


def start_relay(llm: int) -> Process:
    port = free_port()
    upstream = f"http://127.0.0.1:{llm}"
    return Process("relay", [sys.executable, "-m", "tests.bench.relay", str(port), upstream], port)


def start_nginx(llm: int, directory: Path) -> Process:
    assert NGINX
    port = free_port()
    conf = directory / "nginx.conf"
    conf.write_text(NGINX_CONF.format(dir=directory, llm=llm, port=port))
    return Process("nginx", [NGINX, "-p", str(directory), "-c", str(conf)], port)


def start_chatbot(
    llm: int, directory: Path, env: Mapping[str, str] | None = None, root: Path = ROOT
) -> Process:
    """This server, or the one in the checkout `root`, in a directory without an .env."""
    port = free_port()
    settings = {
        "LLM_SERVER_URL": f"http://127.0.0.1:{llm}",
        "LLM_MODEL": "bench",
        "LOG_LEVEL": "WARNING",
        "MAX_ACTIVE_REPLIES": "20000",
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "PYTHONPATH": str(root),
    }
    argv = [sys.executable, "-m", "chatbot"]
    return Process("chatbot", argv, port, {**settings, **(env or {})}, directory)


class Chat:
    """The chat calls of one connection, in the target's own words."""

    stream_path = whole_path = "/v1/chat/completions"

    def __init__(self, client: Client) -> None:
        self.client = client
        self.whole = self.say()
        self.stream = self.say(stream=True)

    def say(self, **options: object) -> bytes:
        messages = [{"role": "user", "content": "hello"}]
        return json.dumps({"model": "bench", "messages": messages, **options}).encode()

    async def open(self) -> None:
        """Does what comes before a first turn."""

    async def close(self) -> None:
        """Does what comes after the last one."""

    async def warm_up(self, turns: int = 20) -> None:
        """Takes every path a few times, so that none is measured cold."""
        await self.open()
        short, whole = self.say(stream=True, max_tokens=2), self.say(max_tokens=2)
        for _ in range(turns):
            await self.client.ask("POST", self.whole_path, whole)
            await self.client.stream(self.stream_path, short, Tally(), 2)
        await self.close()


class Session(Chat):
    """This server's: a session is created before its first turn."""

    stream_path, whole_path = "/api/chat/stream", "/api/chat"
    id = ""

    def say(self, **options: object) -> bytes:
        options.pop("stream", None)  # the path says it
        return json.dumps({"session_id": self.id, "message": "hello", **options}).encode()

    async def open(self) -> None:
        self.id = (await self.client.json("POST", "/api/sessions", {}))["session_id"]
        self.whole = self.stream = self.say()

    async def close(self) -> None:
        await self.client.json("DELETE", f"/api/sessions/{self.id}")


class Target:
    """A process that answers chats; `with` stops it."""

    process: Process | None = None  # None: the LLM itself, which answers without one between

    def __init__(self, name: str, llm: Process, directory: Path, other: Path | None = None) -> None:
        self.name = name
        if name == "nginx":
            self.process = start_nginx(llm.port, directory)
        elif name == "relay":
            self.process = start_relay(llm.port)
        elif name == "chatbot":
            self.process = start_chatbot(llm.port, directory)
        elif name == "other":
            assert other
            self.process = start_chatbot(llm.port, directory, root=other)
        self.port = self.process.port if self.process else llm.port
        self.dialect = Session if name in ("chatbot", "other") else Chat
        if self.process:
            self.process.wait_ready()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.process:
            self.process.stop()

    async def connect(self) -> Chat:
        return self.dialect(await Client.connect(self.port))

    def cpu_ns(self) -> int:
        return self.process.cpu_ns() if self.process else 0

    def rss(self) -> int:
        return self.process.rss() if self.process else 0

    def tail(self) -> str:
        return self.process.tail() if self.process else ""


@contextmanager
def playing(
    name: str, tokens: int, interval_ms: float, other: Path | None = None
) -> Iterator[tuple[Target, Process]]:
    """One target in front of an LLM that plays a script, both started for this measurement only.

    A process that has measured before would show neither its true memory nor, from round to
    round, the luck of its memory layout.
    """
    with (
        TemporaryDirectory(prefix="bench-") as directory,
        start_llm(tokens, interval_ms) as llm,
        Target(name, llm, Path(directory), other) as target,
    ):
        yield target, llm
