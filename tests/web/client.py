"""A client made of a bare socket: it sends what it is told to and reads only when it is told to."""

from __future__ import annotations

import asyncio
import socket
import struct

from tests.tools.raw import RawClient


class Client(RawClient):
    """One connection; `received` is what came, `closed` whether it has ended."""

    def __init__(self, port: int, buffer: int = 32768) -> None:
        super().__init__()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self._socket.setblocking(True)
        self._socket.connect(("127.0.0.1", port))
        self._socket.setblocking(False)

    async def send(self, data: bytes, *, end: bool = False) -> None:
        """Sends; `end` ends this half of the connection."""
        await asyncio.get_running_loop().sock_sendall(self._socket, data)
        if end:
            self.end()

    def end(self) -> None:
        """Ends this half of the connection."""
        self._socket.shutdown(socket.SHUT_WR)

    async def get(self, path: str, *, end: bool = False, version: bytes = b"1.1") -> None:
        await self.send(b"GET %b HTTP/%b\r\nHost: x\r\n\r\n" % (path.encode(), version), end=end)

    async def read_until(self, text: bytes) -> None:
        while text not in self.received:
            assert await self.read(1), f"closed after {self.received[-200:]!r}"

    async def rest(self) -> bytearray:
        """All until the server closes the connection."""
        while await self.read(1):
            pass
        return self.received

    def leave(self, *, reset: bool = False) -> None:
        """Closes the connection."""
        if reset:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()
