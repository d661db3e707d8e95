"""Listens, and accepts no more connections than there are files for."""

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
"""How many connections are accepted between two turns of the event loop."""

WARN_SECONDS = 60.0


class Acceptor:
    """Gives each connection that comes to `server`, within the limits of `connections`."""

    def __init__(self, server: web.Server, connections: Connections) -> None:
        self._server = server
        self._connections = connections
        self._loop = asyncio.get_running_loop()
        self._warned = -WARN_SECONDS
        self._listeners: list[asyncio.Server] = []

    async def listen(self, host: str, port: int) -> int:
        """Begins to accept; returns the port, which was chosen if it was 0. Raises OSError."""
        sockets = open_sockets(host, port)
        self._loop.set_exception_handler(self._on_loop_error)
        for one in sockets:
            # asyncio accepts as many at once as may wait, and without files would log as many errors.
            self._listeners.append(await self._loop.create_server(self._accept, sock=one, backlog=ACCEPTS))
            one.listen(BACKLOG)
        return int(sockets[0].getsockname()[1])

    def close(self) -> None:
        """Accepts no more."""
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
        """Says in one line a minute that there are no files; asyncio tries again each second."""
        if "accept() out of system resource" in context.get("message", ""):
            self._warn(f"cannot accept connections: {context.get('exception')}")
        else:
            loop.default_exception_handler(context)

    def _warn(self, message: str) -> None:
        if self._loop.time() >= self._warned + WARN_SECONDS:
            self._warned = self._loop.time()
            log.warning("%s", message)


class Refusal(asyncio.Protocol):
    """A connection for which there is no room at all: it is closed unread."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Closes it."""
        cast(asyncio.Transport, transport).abort()


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
