"""Listens, and accepts no more connections than the process has file descriptors for."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from typing import Any, cast

from aiohttp import web

from chatbot.web.connection import Connection
from chatbot.web.stalls import Connections

log = logging.getLogger(__name__)

BACKLOG = 4096
ACCEPTS = 16
"""How many connections asyncio accepts in one iteration of the event loop."""

WARN_SECONDS = 60.0


class Acceptor:
    """Accepts connections for `server`, within the limits of `connections`."""

    def __init__(self, server: web.Server, connections: Connections) -> None:
        self._server = server
        self._connections = connections
        self._loop = asyncio.get_running_loop()
        self._warned = -WARN_SECONDS
        self._listeners: list[asyncio.Server] = []

    async def listen(self, host: str, port: int) -> int:
        """Begins to accept. Returns the port, which the system chooses if `port` is 0. Raises OSError."""
        sockets = open_sockets(host, port)
        self._loop.set_exception_handler(self._on_loop_error)
        for one in sockets:
            # asyncio accepts `backlog` times in a row. Without a file descriptor it logs as many errors.
            self._listeners.append(await self._loop.create_server(self._accept, sock=one, backlog=ACCEPTS))
            one.listen(BACKLOG)  # the queue in the kernel
        return int(sockets[0].getsockname()[1])

    def close(self) -> None:
        """Stops accepting."""
        for listener in self._listeners:
            listener.close()
        self._loop.set_exception_handler(None)

    def _accept(self) -> asyncio.Protocol:
        connections = self._connections
        if connections.is_full:
            connections.refused += 1
            self._warn(f"{connections.open} connections are open: no more are served")
            if connections.open >= connections.limit + connections.surplus:
                return Refusal()
        return Connection(self._server, self._loop, connections)

    def _on_loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Logs at most once a minute that no file descriptor is free; asyncio tries again after a second."""
        if "accept() out of system resource" in context.get("message", ""):
            self._warn(f"cannot accept connections: {context.get('exception')}")
        else:
            loop.default_exception_handler(context)

    def _warn(self, message: str) -> None:
        if self._loop.time() >= self._warned + WARN_SECONDS:
            self._warned = self._loop.time()
            log.warning("%s", message)


class Refusal(asyncio.Protocol):
    """A connection above the limit and its surplus: it is closed before anything is read."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Closes the connection."""
        cast(asyncio.Transport, transport).abort()


def open_sockets(host: str, port: int) -> list[socket.socket]:
    """Opens sockets that listen at `host`: for localhost two, ::1 on the same port. Raises OSError."""
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
