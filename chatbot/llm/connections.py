"""Connections to the LLM server: which were fresh, none that speaks before it is asked, and how one ends."""

from __future__ import annotations

import select
from contextvars import ContextVar
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.connector import Connection

is_fresh: ContextVar[bool] = ContextVar("is_fresh", default=False)
"""Whether this task's last connection was made for its request, and does not come from the pool."""

needs_fresh: ContextVar[bool] = ContextVar("needs_fresh", default=False)
"""Whether only a connection made for it will do for this task's request."""


class Pool(aiohttp.TCPConnector):
    """Keeps connections; one that has bytes to read before it is asked is closed and not used.

    They would be an answer to nobody's question: the text of another conversation.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(limit=0, **options)

    async def connect(self, *args: Any, **kwargs: Any) -> Connection:
        while True:
            is_fresh.set(False)
            connection = await super().connect(*args, **kwargs)
            protocol, transport = connection.protocol, connection.transport
            if is_fresh.get() or protocol is None or transport is None:
                return connection
            poll = select.poll()
            poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
            if not needs_fresh.get() and not protocol.should_close and not poll.poll(0):
                return connection
            connection.close()

    async def _create_connection(self, *args: Any, **kwargs: Any) -> ResponseHandler:
        """Notes that the pool had none; aiohttp calls it. (Its TraceConfig costs 30 to 60 µs a request.)"""
        is_fresh.set(True)
        return await super()._create_connection(*args, **kwargs)

    def _release(self, key: ConnectionKey, protocol: ResponseHandler, *, should_close: bool = False) -> None:
        """Ends a connection that is to be closed at once; aiohttp calls it.

        Else it would first send what is left of a request, however long an LLM does not read that; and with
        TLS wait 30 s for the other side to say good-bye, of which nginx tells the LLM behind it nothing.
        """
        if should_close:
            protocol.abort()
        super()._release(key, protocol, should_close=should_close)
