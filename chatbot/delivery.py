"""Delivers bytes to a client that may read slowly, or never: bounded memory, bounded patience."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from aiohttp import web

MAX_UNSENT = 64 * 1024
"""Bytes that may wait for one client beyond the kernel's own buffers."""

STALL_SECONDS = 30.0
"""How long a client may read nothing of what waits for it."""


def transport_of(request: web.Request) -> asyncio.Transport:
    """The connection; raises ConnectionResetError if the client has already gone."""
    if request.transport is None:
        raise ConnectionResetError("the client has gone")
    return request.transport


async def finish(request: web.Request, response: web.StreamResponse, data: bytes = b"") -> None:
    """Sends what is still to be sent of an answer, all of it or the end of a stream, and waits until it is.

    Drops a client that reads nothing for STALL_SECONDS, and raises ConnectionResetError.
    """
    transport = transport_of(request)
    await response.prepare(request)
    size = (response.content_length or 0) + len(data)
    if not transport.get_write_buffer_size() and size <= MAX_UNSENT // 2:
        await response.write_eof(data)  # which waits for nothing, with room for headers
    else:
        await _patiently(transport, response.write_eof(data))
    if transport.get_write_buffer_size():
        transport.set_write_buffer_limits(0)  # drain() now waits for the last byte
        try:
            await _patiently(transport, request.writer.drain())
        finally:
            transport.set_write_buffer_limits()


async def little_left(request: web.Request) -> None:
    """Waits until little waits to be sent; drops a client that does not read, as finish() does."""
    await _patiently(transport_of(request), request.writer.drain())


async def _patiently(transport: asyncio.Transport, sending: Coroutine[Any, Any, None]) -> None:
    # A task of its own: a timeout that cancelled drain() would cancel what aiohttp waits on, for all.
    task = asyncio.create_task(sending)
    task.add_done_callback(lambda task: task.cancelled() or task.exception())  # also if nobody waits for it
    try:
        await asyncio.sleep(0)  # it has written now what it writes
        while True:
            unsent = transport.get_write_buffer_size()
            done, _ = await asyncio.wait({task}, timeout=STALL_SECONDS)
            if done:
                return task.result()
            if transport.get_write_buffer_size() >= unsent:
                transport.abort()
                raise ConnectionResetError("the client does not read")
    finally:
        task.cancel()
