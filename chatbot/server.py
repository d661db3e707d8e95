"""The server: listens, waits for a signal, lets the running replies finish, ends."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import time
from collections.abc import Callable
from typing import Any

from aiohttp import web

from chatbot import process
from chatbot.app import REGISTRY, create_app
from chatbot.config import Config
from chatbot.storage.store import Store
from chatbot.web.connection import Connection, Refusal, Room

log = logging.getLogger(__name__)

BACKLOG = 4096
ACCEPTS = 16
"""How many connections are accepted between two turns of the event loop."""

WARN_SECONDS = 60.0


class Server:
    """The server with the given settings; `now` is the wall clock in seconds.

    start() raises OSError (the port) or StoreError (the database); `port` is then the real one.
    """

    def __init__(
        self, config: Config, *, now: Callable[[], float] = time.time, room: Room | None = None
    ) -> None:
        self._config = config
        self._now = now
        self._room = room or Room()
        self._warned = -WARN_SECONDS
        self.port = config.port

    async def start(self) -> None:
        """Opens the database and listens."""
        config = self._config
        store = Store(config.database_url, config.max_database_mb * 1024 * 1024, config.database_sync)
        self.app = create_app(config, store, now=self._now, room=self._room)
        self._runner = web.AppRunner(
            self.app,
            handler_cancellation=True,  # a client that leaves ends its handler, in tests and out
            shutdown_timeout=0.5,
        )
        try:
            await self._runner.setup()
        except BaseException:
            store.close()
            raise
        try:
            await self._listen()
        except BaseException:
            await self._runner.cleanup()
            raise

    async def _listen(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(self._on_loop_error)
        sockets = open_sockets(self._config.host, self._config.port)
        self.port = sockets[0].getsockname()[1]
        self._listeners = []
        for one in sockets:
            # asyncio accepts as many at once as may wait, and out of files would log as many errors.
            self._listeners.append(await self._loop.create_server(self._accept, sock=one, backlog=ACCEPTS))
            one.listen(BACKLOG)

    def _accept(self) -> asyncio.Protocol:
        server, room = self._runner.server, self._room
        assert server is not None
        if room.is_full:
            room.refused += 1
            self._warn(f"{room.open} connections are open, and no more are served")
            if room.open >= room.limit + room.surplus:
                return Refusal()
        return Connection(server, self._loop, room)

    def _on_loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Says in one line a minute that there are no files; asyncio tries again each second."""
        if "accept() out of system resource" in context.get("message", ""):
            self._warn(f"cannot accept connections: {context.get('exception')}")
        else:
            loop.default_exception_handler(context)

    def _warn(self, message: str) -> None:
        if self._loop.time() >= self._warned + WARN_SECONDS:
            self._warned = self._loop.time()
            log.warning("%s", message)

    async def stop(self, hurry: asyncio.Event | None = None) -> None:
        """Lets running replies finish within the grace, or until `hurry`; then ends everything.

        It goes on listening meanwhile, so that clients are told and a proxy's health check sees it.
        """
        await self.app[REGISTRY].drain(self._config.shutdown_grace_seconds, hurry or asyncio.Event())
        for listener in self._listeners:
            listener.close()
        await self._runner.cleanup()
        self._loop.set_exception_handler(None)


def open_sockets(host: str, port: int) -> list[socket.socket]:
    """Sockets that listen at `host`; localhost is two addresses, and both get one port. Raises OSError."""
    if host != "localhost":
        return [_bind(host, port)]
    attempts = 1 if port else 10
    while True:
        attempts -= 1
        first = _bind("127.0.0.1", port)
        try:
            return [first, _bind("::1", first.getsockname()[1])]
        except OSError as error:
            if error.errno != errno.EADDRINUSE:  # there is no IPv6 here
                return [first]
            first.close()
            if not attempts:
                raise


def _bind(address: str, port: int) -> socket.socket:
    [(family, _, _, _, name), *_] = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)
    bound = socket.create_server(name, family=family)
    bound.setblocking(False)
    return bound


async def serve(config: Config, *, llm: str = "") -> None:
    """Runs a server until SIGINT, SIGTERM or SIGHUP; a second one ends the grace. `llm`: what is asked."""
    stop, hurry = asyncio.Event(), asyncio.Event()
    process.on_stop_signal(lambda: (hurry if stop.is_set() else stop).set())
    limit = process.connection_limit(process.raise_file_limit())
    server = Server(config, room=Room(limit, process.SURPLUS))
    await server.start()
    process.tune_memory()
    is_file = config.database_url != ":memory:"
    log.info(
        "conversations are kept in %s", config.database_url if is_file else "memory, until the process ends"
    )
    log.info("the LLM is %s", llm or f"{config.llm_shown} {config.llm_model}".strip())
    host = f"[{config.host}]" if ":" in config.host else config.host
    log.info(
        "the page is at http://%s:%d/", "localhost" if host in ("0.0.0.0", "[::]") else host, server.port
    )
    log.info("listening on http://%s:%d", host, server.port)
    try:
        await stop.wait()
        log.info("shutting down; running replies have %g s", config.shutdown_grace_seconds)
    finally:
        await server.stop(hurry)
    log.info("bye")
