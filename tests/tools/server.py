"""The instruments of the tests: a moved clock, the log, the real server on a free port, its client."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from chatbot import app
from chatbot.chat.reply import Reply
from chatbot.chat.reply_registry import ReplyRegistry
from chatbot.chat.sessions import Sessions
from chatbot.config import Config
from chatbot.server import Server
from chatbot.storage.store import Store

SECRETS: set[str] = set()
"""Session ids, messages and keys that the tests used: none may stand in a log (tests/test_logs.py)."""


class Log(logging.Handler):
    """What the server logged, at the most talkative level, as it would stand in its log."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        self.entries: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.entries.append(self.format(record))

    def lines(self, *, holding: str = "") -> list[str]:
        """The entries that hold a text."""
        return [entry for entry in self.entries if holding in entry]

    @property
    def tracebacks(self) -> list[str]:
        return self.lines(holding="Traceback")


WHOLE_LOG = Log()


class Clock:
    """Moves the time of the event loop, and with it every timer, and the server's wall clock."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._offset = 0.0
        self._loop = loop
        self._real = loop.time
        loop.time = lambda: self._real() + self._offset  # type: ignore[method-assign]

    def now(self) -> float:
        return time.time() + self._offset

    def advance(self, seconds: float) -> None:
        """Moves on at once; timers that became due run when the loop is next given a turn."""
        self._offset += seconds

    def restore(self) -> None:
        self._loop.time = self._real  # type: ignore[method-assign]


@dataclass
class Event:
    """One event of a stream: its id (None for an error or [DONE]) and its data."""

    id: int | None
    data: str

    @property
    def json(self) -> Any:
        return json.loads(self.data)

    @property
    def text(self) -> str:
        choices = [] if self.data == "[DONE]" else self.json.get("choices", [])
        return choices[0]["delta"].get("content") or "" if choices else ""

    @property
    def finish_reason(self) -> str | None:
        choices = [] if self.data == "[DONE]" else self.json.get("choices", [])
        return choices[0]["finish_reason"] if choices else None


class Stream:
    """An open stream of the server, read event by event."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response
        self.status = response.status
        self.headers = response.headers
        self.comments = 0

    @property
    def message_id(self) -> str:
        return self.headers["X-Message-ID"]

    async def event(self) -> Event | None:
        """The next event; None at the end of the stream."""
        number: int | None = None
        data: str | None = None
        while line := await self.response.content.readline():
            text = line.decode().rstrip("\n")
            if text.startswith(":"):
                self.comments += 1
            elif text.startswith("id: "):
                number = int(text[4:])
            elif text.startswith("data: "):
                data = text[6:]
            elif not text and data is not None:
                return Event(number, data)
        return None

    async def read(self, count: int = 1) -> list[Event]:
        """The next events, of which there must be so many."""
        found = [event for _ in range(count) if (event := await self.event())]
        assert len(found) == count, f"the stream ended after {found}"
        return found

    async def rest(self) -> list[Event]:
        """All events up to the end of the stream."""
        found = []
        while event := await self.event():
            found.append(event)
        return found

    def leave(self) -> None:
        """Closes the connection in the middle, as a closed tab does."""
        self.response.close()


def text_of(events: list[Event]) -> str:
    """The text that a list of events delivers."""
    return "".join(event.text for event in events)


@dataclass
class Running:
    """A server that runs, and ways to talk to it."""

    server: Server
    http: aiohttp.ClientSession
    config: Config
    url: str = ""
    streams: list[Stream] = field(default_factory=list)
    stopped: bool = False

    @property
    def replies(self) -> ReplyRegistry:
        return self.server.app[app.REGISTRY]

    @property
    def store(self) -> Store:
        return self.server.app[app.STORE]

    @property
    def sessions(self) -> Sessions:
        return self.server.app[app.SESSIONS]

    @property
    def connections(self) -> int:
        """How many connections of clients are open, as the server sees it."""
        assert self.server._runner.server
        return len(self.server._runner.server.connections)

    async def leave(self, stream: Stream) -> None:
        """Leaves a stream in the middle; returns when the server has noticed."""
        before, open_still = self.connections, stream.response.connection is not None
        stream.leave()
        await until(lambda: self.connections < before or not open_still)
        await asyncio.sleep(0)  # the handler is cancelled in the turn after

    def running(self, session_id: str) -> Reply:
        """The reply that a session is being given."""
        reply = self.replies.occupying(session_id)
        assert reply, "no reply runs"
        return reply

    async def finish_is_held(self, session_id: str) -> None:
        """Waits until the LLM has said how the reply ends, and not yet that it does."""
        running = self.running(session_id)
        await until(lambda: running._asking.answer.reader.finish_reason is not None)

    async def stop(self) -> None:
        """Stops the server before the end of the test."""
        self.stopped = True
        await self.server.stop()

    async def heard_by(self, session_id: str, count: int) -> None:
        """Waits until so many wait for the reply that a session is being given."""

        def audience() -> int:
            reply = self.replies.occupying(session_id)
            return len(reply._listeners) if reply else 0

        await until(lambda: audience() >= count)

    async def ended(self) -> None:
        """Waits until no reply runs."""
        await until(lambda: not len(self.replies))

    def sql(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Looks into the database behind the server's back."""
        return self.store._db.execute(statement, parameters).fetchall()

    async def call(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any, Any]:
        """Makes a request; returns its status, its JSON (None if it has none) and its headers."""
        async with self.http.request(method, self.url + path, json=body, headers=headers) as response:
            text = await response.text()
            return response.status, json.loads(text) if text else None, response.headers

    async def session(self, **body: Any) -> str:
        """Makes a session; returns its id."""
        status, answer, _ = await self.call("POST", "/api/sessions", body)
        assert status == 201, answer
        SECRETS.add(answer["session_id"])
        return answer["session_id"]

    async def chat(self, session_id: str, message: str = "Hi", headers: Any = None, **options: Any) -> Any:
        """POST /api/chat; returns what call() returns."""
        body = {"session_id": session_id, "message": message, **options}
        SECRETS.add(message)
        return await self.call("POST", "/api/chat", body, headers)

    async def stream(
        self, session_id: str, message: str = "Hi", headers: Any = None, **options: Any
    ) -> Stream:
        """POST /api/chat/stream; returns when its headers have come."""
        body = {"session_id": session_id, "message": message, **options}
        SECRETS.add(message)
        stream = Stream(await self.http.post(self.url + "/api/chat/stream", json=body, headers=headers))
        self.streams.append(stream)
        return stream

    async def begin(self, message: str = "Hi", read: int = 1, headers: Any = None) -> tuple[str, Stream]:
        """Makes a session and asks in it; returns its id and the stream after so many events."""
        session_id = await self.session()
        stream = await self.stream(session_id, message, headers)
        await stream.read(read)
        return session_id, stream

    async def resume(self, session_id: str, message_id: str, after: int | None = None) -> Stream:
        """GET the stream of a reply, from a character on."""
        headers = {} if after is None else {"Last-Event-ID": str(after)}
        url = f"{self.url}/api/sessions/{session_id}/messages/{message_id}/stream"
        stream = Stream(await self.http.get(url, headers=headers))
        self.streams.append(stream)
        return stream

    async def history(self, session_id: str) -> list[tuple[str, str]]:
        """The conversation as (role, content)."""
        _, answer, _ = await self.call("GET", f"/api/sessions/{session_id}/messages?limit=1000")
        return [(message["role"], message["content"]) for message in answer["messages"]]


StartServer = Callable[..., Awaitable[Running]]


async def until(condition: Callable[[], bool]) -> None:
    """Gives the event loop turns until something has come about; the test's timeout ends it otherwise."""
    while not condition():  # noqa: ASYNC110 (it gives turns and waits for no time to pass)
        await asyncio.sleep(0)


async def turns(count: int = 5) -> None:
    """Gives the event loop so many turns."""
    for _ in range(count):
        await asyncio.sleep(0)
