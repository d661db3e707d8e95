"""A connection to the server that is spoken to byte for byte, as no well-behaved client would."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

from tests.tools.server import Running


class Socket:
    """A raw connection; `receive_buffer` makes the kernel take in no more than that for it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, server: Running, receive_buffer: int = 0) -> Socket:
        raw = socket.socket()
        if receive_buffer:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        raw.setblocking(False)
        await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", server.server.port))
        client = cls(*await asyncio.open_connection(sock=raw, limit=receive_buffer or 2**16))
        server.streams.append(client)  # type: ignore[arg-type]  # is left like them at the end of the test
        return client

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def head(self) -> tuple[int, dict[str, str]]:
        """The status and the headers (names in lower case) of the next answer."""
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines[1:-2])}
        return int(lines[0].split()[1]), headers

    async def answer(self) -> tuple[int, Any, dict[str, str]]:
        """The next answer: its status, its JSON and its headers."""
        status, headers = await self.head()
        while status == 100:
            status, headers = await self.head()
        body = await self.reader.readexactly(int(headers.get("content-length", 0)))
        return status, json.loads(body) if body else None, headers

    async def ended(self) -> bytes:
        """Waits until the server closes the connection; returns what came before that."""
        try:
            return await self.reader.read()
        except ConnectionError:
            return b""

    def leave(self) -> None:
        """Closes the connection, whatever it is in the middle of."""
        self.writer.transport.abort()


def post(path: str, body: bytes, headers: bytes = b"", length: int | None = None) -> bytes:
    """The bytes of a POST, with a Content-Length that may lie."""
    length = len(body) if length is None else length
    head = b"POST %b HTTP/1.1\r\nHost: x\r\n%bContent-Length: %d\r\n\r\n"
    return head % (path.encode(), headers, length) + body


def get(path: str, headers: bytes = b"") -> bytes:
    """The bytes of a GET."""
    return b"GET %b HTTP/1.1\r\nHost: x\r\n%b\r\n" % (path.encode(), headers)
