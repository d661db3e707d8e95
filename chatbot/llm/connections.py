"""Connections to the LLM server: which are new, which pooled ones are unusable, how one is closed."""

from __future__ import annotations

import select
from contextvars import ContextVar
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.connector import Connection

is_fresh: ContextVar[bool] = ContextVar("is_fresh", default=False)
"""Whether this task's last connection was opened for its request, and did not come from the pool."""

needs_fresh: ContextVar[bool] = ContextVar("needs_fresh", default=False)
"""Whether this task's request must not use a connection from the pool."""


class Pool(aiohttp.TCPConnector):
    """Keeps connections for reuse. Closes a pooled one that has bytes to read before a request is sent.

    These bytes would be read as the answer to the request, and may be the text of another conversation.
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
        """Notes that the pool had no connection. aiohttp calls this; its TraceConfig would cost more time."""
        is_fresh.set(True)
        return await super()._create_connection(*args, **kwargs)

    def _release(self, key: ConnectionKey, protocol: ResponseHandler, *, should_close: bool = False) -> None:
        """Aborts a connection that is to be closed. aiohttp calls this.

        Otherwise closing would first send the rest of the request, even if the LLM reads nothing; with
        TLS, it would wait 30 s for the peer's close_notify, and nginx would not tell the LLM behind it.
        """
        if should_close:
            protocol.abort()
        super()._release(key, protocol, should_close=should_close)
