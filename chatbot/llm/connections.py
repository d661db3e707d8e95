"""Connections to the LLM server: which were fresh, none that speaks before it is asked, and how one ends."""

from __future__ import annotations

import select
import socket
from contextvars import ContextVar
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.connector import Connection

_made: ContextVar[list[socket.socket]] = ContextVar("_made")
"""The sockets made for the request that runs: none if its connection comes from the pool.

aiohttp tells as much through a TraceConfig, at 30 to 60 µs a request.
"""

needs_fresh: ContextVar[bool] = ContextVar("needs_fresh", default=False)
"""Whether only a connection made for it will do for this task's request."""


def is_fresh() -> bool:
    """Whether this task's last connection was made for its request."""
    return bool(_made.get(None))


def _new_socket(address: tuple[Any, ...]) -> socket.socket:
    made = socket.socket(*address[:3])
    _made.get().append(made)
    return made


class Pool(aiohttp.TCPConnector):
    """Keeps connections; one that has bytes to read before it is asked is closed and not used.

    They would be an answer to nobody's question: the text of another conversation.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(limit=0, socket_factory=_new_socket, **options)

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
            if not needs_fresh.get() and not protocol.should_close and not poll.poll(0):
                return connection
            connection.close()

    def _release(self, key: ConnectionKey, protocol: ResponseHandler, *, should_close: bool = False) -> None:
        """Has a connection that is to be closed end at once; aiohttp calls it.

        Else it would first send what is left of a request, however long an LLM does not read that; and with
        TLS wait 30 s for the other side to say good-bye, of which nginx tells the LLM behind it nothing.
        """
        if should_close:
            protocol.abort()
        super()._release(key, protocol, should_close=should_close)
