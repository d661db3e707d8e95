"""A client made of a bare socket, for what no HTTP client does: not to read."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

from tests.tools.server import Event

CHUNKED_HEAD = b"transfer-encoding: chunked"


class RawClient:
    """One connection with small buffers; `received` is what came, `closed` whether it has ended."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.closed = False
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._socket.setblocking(False)

    async def request(
        self, port: int, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> None:
        """Connects and sends a request; reads nothing of the answer."""
        data = b"" if body is None else json.dumps(body).encode()
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(data)}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        loop = asyncio.get_running_loop()
        await loop.sock_connect(self._socket, ("127.0.0.1", port))
        await loop.sock_sendall(self._socket, "\r\n".join([*lines, "", ""]).encode() + data)

    async def read(self, size: int) -> bool:
        """Receives at least `size` bytes more; returns False if the connection ends before."""
        loop = asyncio.get_running_loop()
        wanted = len(self.received) + size
        while len(self.received) < wanted and not self.closed:
            try:
                data = await loop.sock_recv(self._socket, 65536)
            except ConnectionError:
                data = b""
            self.received += data
            self.closed = not data
        return not self.closed

    async def read_to_done(self) -> None:
        """Receives all up to [DONE] and what ends the answer."""
        while not self.received.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n"):
            assert await self.read(1), f"closed after {bytes(self.received[-200:])!r}"

    def close(self) -> None:
        self._socket.close()

    @property
    def body(self) -> bytes:
        """What has been received of the body, the chunks of HTTP taken off."""
        head, _, rest = bytes(self.received).partition(b"\r\n\r\n")
        assert CHUNKED_HEAD in head.lower(), head
        body = bytearray()
        while rest:
            size, line_end, rest = rest.partition(b"\r\n")
            if not line_end:
                break
            body += rest[: int(size, 16)]
            rest = rest[int(size, 16) + 2 :]
        return bytes(body)

    @property
    def events(self) -> list[Event]:
        """The events that have been received whole."""
        found = []
        for block in self.body.decode("utf-8", "ignore").split("\n\n")[:-1]:
            lines = [line for line in block.split("\n") if not line.startswith(":")]
            ids = [int(line[4:]) for line in lines if line.startswith("id: ")]
            data = [line[6:] for line in lines if line.startswith("data: ")]
            assert len(data) == 1, block[:200]
            found.append(Event(ids[0] if ids else None, data[0]))
        return found
