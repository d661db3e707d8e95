"""A scripted LLM: a real server on a free port that plays what a test tells it to, byte for byte."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SSE_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


class Gate:
    """A step at which the LLM waits until the test opens it; `reached` is set when it gets there."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self._open = asyncio.Event()

    def open(self) -> None:
        self._open.set()

    async def wait(self) -> None:
        self.reached.set()
        await self._open.wait()


class Abort:
    """A step: the connection is reset (RST)."""


class Close:
    """A step: the connection is closed (FIN), without ceremony."""


class Hang:
    """A step: silence until the other side leaves."""


Step = bytes | Gate | type[Abort] | type[Close] | type[Hang]


@dataclass
class Exchange:
    """One chat request that the LLM was sent; `gone` is set when the other side closed the connection."""

    path: str
    headers: dict[str, str]
    body: Any
    raw: bytes = b""
    gone: asyncio.Event = field(default_factory=asyncio.Event)


def http_chunk(data: bytes) -> bytes:
    """One piece of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


END = b"0\r\n\r\n"


def delta(text: str | None = None, finish: str | None = None, **more: Any) -> bytes:
    """A chat-completion chunk as an event."""
    content = {} if text is None else {"content": text}
    choice = {"index": 0, "delta": content | more, "finish_reason": finish}
    chunk = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


def usage(total: int = 7) -> bytes:
    """The event that carries the usage."""
    chunk = {"id": "c1", "choices": [], "usage": {"total_tokens": total}}
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


def events(*steps: Step) -> list[Step]:
    """A streamed answer whose bytes are events, each sent as an HTTP chunk of its own."""
    return [SSE_HEAD, *(http_chunk(step) if isinstance(step, bytes) else step for step in steps)]


def reply(*said: str | Step, finish: str = "stop") -> list[Step]:
    """A well-behaved streamed answer."""
    steps: list[Step] = [delta(one) if isinstance(one, str) else one for one in said]
    return [*events(*steps, delta(finish=finish), usage(), DONE), END]


def answer(status: str = "200 OK", body: Any = b"", headers: str = "") -> list[Step]:
    """An answer in one piece; a body that is not bytes is sent as JSON."""
    if not isinstance(body, bytes):
        body = json.dumps(body).encode()
        headers += "Content-Type: application/json\r\n"
    return [f"HTTP/1.1 {status}\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body]


def completion(text: str, finish: str | None = "stop") -> dict[str, Any]:
    """A chat completion as JSON."""
    message = {"role": "assistant", "content": text}
    return {
        "id": "c1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": {"total_tokens": 7},
    }


def capture(server: str, name: str) -> list[Step]:
    """What a real server once answered, byte for byte; like it, closes the connection then."""
    return [(Path(__file__).parent.parent / "wire" / server / f"{name}.raw").read_bytes(), Close]


class ScriptedLLM:
    """Plays one script for each chat request, in order; when none is left, says "Hello there."

    `exchanges` are the chat requests so far; `models` answers GET /v1/models; `connections` counts
    the sockets that are open, `opened` all there were. `script` may be a function of the request's body
    instead.
    """

    def __init__(self) -> None:
        self.exchanges: list[Exchange] = []
        self.models: list[Step] = answer(body={"object": "list", "data": [{"id": "test-model"}]})
        self.model_requests = 0
        self.connections = 0
        self.opened = 0
        self.script: Callable[[Any], Iterable[Step]] | None = None
        self._scripts: list[list[Step]] = []
        self._arrived = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, port: int = 0) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port, backlog=4096)
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    async def stop(self) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def play(self, *scripts: list[Step]) -> None:
        """Queues a script for each of the next chat requests."""
        self._scripts.extend(scripts)

    async def asked(self, count: int = 1) -> Exchange:
        """Waits until `count` chat requests have come; returns the last of them."""
        async with self._arrived:
            await self._arrived.wait_for(lambda: len(self.exchanges) >= count)
        return self.exchanges[count - 1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        self.connections += 1
        self.opened += 1
        try:
            while await self._exchange(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.connections -= 1
            self._tasks.discard(task)
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        request, *lines = head.decode("latin-1").strip().split("\r\n")
        method, path, _ = request.split(" ")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        if method == "GET":
            self.model_requests += 1
            return await self._play(self.models, reader, writer, asyncio.Event())
        exchange = Exchange(path, headers, json.loads(body), body)
        steps: Iterable[Step]
        if self._scripts:
            steps = self._scripts.pop(0)
        elif self.script:
            steps = self.script(exchange.body)
        elif exchange.body.get("stream"):
            steps = reply("Hello", " there.")
        else:
            steps = answer(body=completion("Hello there."))
        async with self._arrived:
            self.exchanges.append(exchange)
            self._arrived.notify_all()
        return await self._play(steps, reader, writer, exchange.gone)

    async def _play(
        self,
        steps: Iterable[Step],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        gone: asyncio.Event,
    ) -> bool:
        """Plays the steps; returns whether the connection lives on."""
        watch = asyncio.create_task(self._watch(reader, gone))
        try:
            for step in steps:
                if isinstance(step, bytes):
                    writer.write(step)
                    await writer.drain()
                elif isinstance(step, Gate):
                    passing = asyncio.create_task(step.wait())
                    await asyncio.wait({passing, watch}, return_when=asyncio.FIRST_COMPLETED)
                    passing.cancel()
                    if gone.is_set():
                        return False
                elif step is Hang:
                    await gone.wait()
                    return False
                elif step is Abort:
                    linger = struct.pack("ii", 1, 0)
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    writer.transport.abort()
                    return False
                elif step is Close:
                    return False
        except ConnectionError:  # noticed by writing, before the watch did
            gone.set()
            raise
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
        return not gone.is_set()

    async def _watch(self, reader: asyncio.StreamReader, gone: asyncio.Event) -> None:
        """Notices that the other side leaves while a script plays; it never sends two requests at once."""
        # A look that takes nothing: the next request must stay where it is.
        while not reader.at_eof() and not reader._buffer:  # type: ignore[attr-defined]
            try:
                await reader._wait_for_data("watch")  # type: ignore[attr-defined]
            except ConnectionError:
                break
        if reader.at_eof() or reader.exception():
            gone.set()
