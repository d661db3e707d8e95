"""Connections to the LLM server: which were fresh, and none that has something to say before it is asked."""

from __future__ import annotations

import asyncio
import concurrent.futures
import select
import socket
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, cast

import aiohttp
from aiohttp.connector import Connection

_made: ContextVar[list[socket.socket]] = ContextVar("_made")
"""The sockets made for the request that runs: none if its connection comes from the pool.

aiohttp tells as much through a TraceConfig, at 30 to 60 µs a request.
"""


def is_fresh() -> bool:
    """Whether this task's last connection was made for its request."""
    return bool(_made.get(None))


def _new_socket(address: tuple[Any, ...]) -> socket.socket:
    made = socket.socket(*address[:3])
    _made.get().append(made)
    return made


class Names:
    """Looks up names as an event loop does, but in threads that the end of the process does not wait for.

    A name server may be silent for a minute, and nothing can stop a thread that waits for it.
    """

    async def getaddrinfo(self, *args: Any, **options: Any) -> Any:
        """What socket.getaddrinfo returns; raises OSError."""
        return await self._in_thread(lambda: socket.getaddrinfo(*args, **options))

    async def getnameinfo(self, *args: Any) -> Any:
        """What socket.getnameinfo returns; raises OSError."""
        return await self._in_thread(lambda: socket.getnameinfo(*args))

    def _in_thread(self, call: Callable[[], Any]) -> asyncio.Future[Any]:
        found: concurrent.futures.Future[Any] = concurrent.futures.Future()
        found.set_running_or_notify_cancel()  # so that the thread can still set it if nobody waits any more

        def run() -> None:
            try:
                found.set_result(call())
            except Exception as error:
                found.set_exception(error)

        threading.Thread(target=run, name="lookup", daemon=True).start()
        return asyncio.wrap_future(found)


def resolver() -> aiohttp.ThreadedResolver:
    """Finds the addresses of names."""
    return aiohttp.ThreadedResolver(cast(asyncio.AbstractEventLoop, Names()))


class Pool(aiohttp.TCPConnector):
    """Keeps connections; one that has bytes to read before it is asked is closed and not used.

    They would be an answer to nobody's question: the text of another conversation.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(socket_factory=_new_socket, **options)

    async def connect(self, *args: Any, **kwargs: Any) -> Connection:
        while True:
            made: list[socket.socket] = []
            _made.set(made)
            connection = await super().connect(*args, **kwargs)
            protocol, transport = connection.protocol, connection.transport
            if made or protocol is None or transport is None:
                return connection
            poll = select.poll()
            poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
            if not protocol.should_close and not poll.poll(0):
                return connection
            connection.close()
