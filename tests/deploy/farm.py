"""Two real processes behind a real proxy, each with half of the ids."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from chatbot.config import Config
from tests.deploy.recipes import adapted, find_program, nginx, written
from tests.tools.processes import ROOT, Process, free_port, start_chatbot
from tests.tools.scripted_llm import Step, reply
from tests.tools.server import Running, Stream

PROXIES = ("haproxy", "nginx")
KEY = "key-of-the-farm"
Answer = tuple[int, Any, Any]


@dataclass
class Farm:
    """Two processes, `one` and `two`, each with half of the ids, and a proxy in front of them."""

    kind: str
    folder: Path
    env: dict[str, str]
    stack: ExitStack
    http: aiohttp.ClientSession
    port: int = field(default_factory=free_port)
    processes: dict[str, Process] = field(default_factory=dict)
    proxy: Process | None = None
    ranges: dict[str, str] = field(default_factory=lambda: {"one": "00-7f", "two": "80-ff"})
    slots: Path = ROOT / "deploy/slots.map"
    more_backends: str = ""

    def start(self, name: str) -> Process:
        """Starts a process, or starts it again on its port and its database."""
        port = self.processes[name].port if name in self.processes else 0
        database = f"sqlite:///{self.folder}/{name}.db"
        own = {"SESSION_ID_RANGE": self.ranges[name], "DATABASE_URL": database}
        process = self.stack.enter_context(start_chatbot("--port", str(port), env=self.env | own))
        self.processes[name] = process
        return process

    def start_proxy(self) -> None:
        """Starts the proxy with its recipe."""
        ports = {"8081": self.processes["one"].port, "8082": self.processes["two"].port}
        changes = {f"127.0.0.1:{port}": f"127.0.0.1:{real}" for port, real in ports.items()}
        if self.kind == "nginx":
            changes["listen 80"] = f"listen 127.0.0.1:{self.port}"
            self.proxy = self.stack.enter_context(nginx(self.folder, "nginx-many.conf", changes))
            return
        changes |= {"bind :80": f"bind 127.0.0.1:{self.port}", "/etc/haproxy/slots.map": str(self.slots)}
        changes["wait-for-body time 30s"] = "wait-for-body time 1s"
        config = written(self.folder / "haproxy.cfg", adapted("haproxy.cfg", changes) + self.more_backends)
        self.proxy = self.stack.enter_context(
            Process([find_program("haproxy"), "-f", config], env=os.environ)
        )

    async def restart_proxy(self) -> None:
        """Ends the proxy and starts it again."""
        assert self.proxy
        self.proxy.end(signal.SIGTERM)
        self.start_proxy()
        await self.listens()

    def at(self, port: int = 0) -> Running:
        """Ways to talk to the proxy, or to one process by its port."""
        return Running(None, self.http, Config(), f"http://127.0.0.1:{port or self.port}")

    async def call(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, port: int = 0
    ) -> Answer:
        """Makes a request of the proxy, or of one process; returns its status, its JSON and its headers."""
        return await self.at(port).call(method, path, body, headers)

    async def listens(self) -> None:
        """Waits until the proxy answers, and both processes are called ready by it."""
        while True:
            try:
                if (await self.call("POST", "/api/sessions", {}))[0] == 201:
                    return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.02)

    async def session_of(self, name: str) -> str:
        """A new session of one of the processes."""
        while True:
            status, session, _ = await self.call("POST", "/api/sessions", {})
            assert status == 201, session
            session_id: str = session["session_id"]
            if (session_id < "8") == (name == "one"):
                return session_id

    async def chat(self, session_id: str, message: str) -> Answer:
        body = {"session_id": session_id, "message": message}
        return await self.call("POST", "/api/chat", body, {"X-Session-ID": session_id})

    async def stream(self, session_id: str, message: str) -> Stream:
        return await self.at().stream(session_id, message, {"X-Session-ID": session_id})


def count_the_messages(body: Any) -> Iterable[Step]:
    """Says how many messages it was sent: a session that lost its history would show."""
    return reply(str(len(body["messages"])), " messages")
