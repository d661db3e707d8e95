"""The outside of the server with handlers that need no LLM; `python -m tests.web.site` runs it alone."""

from __future__ import annotations

import asyncio
import itertools
import math
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from aiohttp import web

from chatbot import process
from chatbot.web import backpressure, bodies, stalls
from chatbot.web.accept import Acceptor
from chatbot.web.access import Access
from chatbot.web.answers import json_response
from chatbot.web.backpressure import Pieces
from chatbot.web.bodies import parse_json, read_body
from chatbot.web.logs import set_up
from chatbot.web.middleware import Gate
from chatbot.web.stalls import Connections


class Site:
    """A running site; `wave` ends the silence of its streams and slow answers."""

    def __init__(self, connections: Connections, *, max_size: int = 8 * 2**20) -> None:
        self.connections = connections
        self.wave = asyncio.Event()
        self.begun = asyncio.Event()
        self.left = 0
        """How many handlers were told that their client has gone."""
        self.made = 0
        """How many bytes of pieces were made."""
        self._events: backpressure.EventWriter | None = None
        self.app = web.Application(client_max_size=max_size)
        Gate(Access((), ())).install(self.app)
        self.app.router.add_get("/api/health", self.health)
        self.app.router.add_get("/pieces", self.pieces)
        self.app.router.add_get("/whole", self.whole)
        self.app.router.add_get("/slow", self.slow)
        self.app.router.add_get("/events", self.events)
        self.app.router.add_post("/upload", self.upload)
        self.app.router.add_post("/json", self.json)

    async def start(self) -> int:
        """Serves; returns the port."""
        self._runner = web.AppRunner(self.app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        assert self._runner.server
        self._acceptor = Acceptor(self._runner.server, self.connections)
        self.port = await self._acceptor.listen("127.0.0.1", 0)
        return self.port

    async def stop(self) -> None:
        self.wave.set()
        self._acceptor.close()
        await self._runner.cleanup()

    async def health(self, request: web.Request) -> web.StreamResponse:
        return json_response({"status": "ok"})

    async def pieces(self, request: web.Request) -> web.StreamResponse:
        """`?mb=4` of pieces that are made when they are asked for."""

        def pieces() -> Iterator[bytes]:
            for number in range(_megabytes(request) * 32):
                self.made += 32 * 1024
                yield (b"%06d " % number * 4682)[: 32 * 1024]

        return web.Response(body=Pieces(pieces()))

    async def whole(self, request: web.Request) -> web.StreamResponse:
        return web.Response(body=b"x" * (_megabytes(request) * 2**20))

    async def slow(self, request: web.Request) -> web.StreamResponse:
        self.begun.set()
        try:
            await self.wave.wait()
        except asyncio.CancelledError:
            self.left += 1
            raise
        return json_response({"done": True})

    async def events(self, request: web.Request) -> web.StreamResponse:
        """A stream: an event of `?size=` bytes, heartbeats each `?beat=` seconds, at the wave the end.

        With `?unsent=1` the end doesn't wait until the client was sent the rest.
        """
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        held = b"data: " + b"x" * int(request.query.get("size", "1")) + b"\n\n"
        events = await backpressure.begin(request, response)
        events.send(held)
        self._events = events
        self.begun.set()
        try:
            beat = float(request.query.get("beat", "inf"))
            while not self.wave.is_set():
                with suppress(TimeoutError):
                    await asyncio.wait_for(self.wave.wait(), None if beat == math.inf else beat)
                events.keep_alive()
            if "unsent" not in request.query:
                await events.wait_until_sent()
            await backpressure.finish(request, response, b"data: [DONE]\n\n")
        except asyncio.CancelledError:
            self.left += 1
            raise
        return response

    def more(self, size: int) -> None:
        """One more event of the last stream that has begun."""
        assert self._events
        self._events.send(b"data: " + b"y" * size + b"\n\n")

    async def upload(self, request: web.Request) -> web.StreamResponse:
        return json_response({"size": len(await read_body(request))})

    async def json(self, request: web.Request) -> web.StreamResponse:
        return json_response({"is": type(parse_json(await read_body(request))).__name__})


def _megabytes(request: web.Request) -> int:
    asked = request.query.get("mb", "")
    return int(asked) if asked.isdecimal() else 0


def count_work(loop: Any) -> None:
    """Has SIGUSR1 say what the event loop has done since the one before: its rounds, and what it caught."""
    done = {"rounds": 0, "errors": 0}

    def counted(name: str, do: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*args: Any) -> Any:
            done[name] += 1
            return do(*args)

        return counting

    def answer(numbers: Iterator[int] = itertools.count()) -> None:  # noqa: B008
        print(f"work {next(numbers)}: {sum(done.values())} {done}", file=sys.stderr, flush=True)
        done.update(rounds=0, errors=0)

    loop._selector.select = counted("rounds", loop._selector.select)
    loop.call_exception_handler = counted("errors", loop.call_exception_handler)
    loop.add_signal_handler(signal.SIGUSR1, answer)


async def main() -> None:
    """Serves for ever, with as many connections as there are files for."""
    set_up("INFO", "text")
    count_work(asyncio.get_running_loop())
    if patience := os.environ.get("PATIENCE"):
        bodies.BODY_SECONDS = stalls.STALL_SECONDS = float(patience)
        bodies.LOOK_SECONDS = stalls.LOOK_SECONDS = float(patience) / 10
    process.on_stop_signal(asyncio.current_task().cancel)  # type: ignore[union-attr]
    connections = Connections(process.connection_limit(process.raise_file_limit()), process.SURPLUS)
    site = Site(connections)
    port = await site.start()
    process.tune_memory()
    print(f"listening on http://127.0.0.1:{port}", file=sys.stderr, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except asyncio.CancelledError:
        pass
