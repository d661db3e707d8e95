"""Delivers bytes to a client that may read slowly, or never: bounded memory, bounded patience."""

from __future__ import annotations

import asyncio
import sys

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


async def whole(request: web.Request, response: web.StreamResponse) -> None:
    """Sends an answer that is not streamed, and waits for it with the same patience as for a stream."""
    transport = transport_of(request)
    is_large = (response.content_length or 0) > MAX_UNSENT
    if is_large:
        transport.set_write_buffer_limits(sys.maxsize)  # or aiohttp would wait in write_eof(), and for ever
    try:
        await response.prepare(request)
        await response.write_eof()
    finally:
        if is_large:
            transport.set_write_buffer_limits()
    if transport.get_write_buffer_size():
        await sent(request, everything=True)


async def sent(request: web.Request, *, everything: bool) -> None:
    """Waits until little or, if asked, nothing waits to be sent to the client.

    Drops a client that reads nothing for STALL_SECONDS, and raises ConnectionResetError.
    """
    transport = transport_of(request)
    if everything:
        transport.set_write_buffer_limits(0)  # drain() now waits for the last byte
    # A task of its own: a timeout that cancelled drain() would cancel what aiohttp waits on, for all.
    draining = asyncio.ensure_future(request.writer.drain())
    try:
        while True:
            unsent = transport.get_write_buffer_size()
            done, _ = await asyncio.wait({draining}, timeout=STALL_SECONDS)
            if done:
                return draining.result()
            if transport.get_write_buffer_size() >= unsent:
                transport.abort()
                raise ConnectionResetError("the client does not read")
    finally:
        draining.cancel()
        transport.set_write_buffer_limits()
