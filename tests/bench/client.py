"""A bare HTTP/1.1 client: the load must cost far less than what it loads.

Bytes are cut by hand on a raw Protocol; a token is timed in the callback that receives it.
"""

import asyncio
import json
import re
import time
from typing import Any, cast

from .procs import BenchError

TOKENS = re.compile(rb'"content": ?"([0-9 ]+)"')


class Refused(BenchError):
    """The target's answer was not the one the load asked for."""


class Tally:
    """What the tokens of one run of streams said when they arrived; times in nanoseconds."""

    def __init__(self, waiting: int = 1) -> None:
        # Held by each stream until its first token; whoever opens them may limit how many do.
        self.waiting = asyncio.Semaphore(waiting)
        self.first: list[int] = []  # from the request to the first token, one a stream
        self.late: list[int] = []  # from the LLM's write to here, one a token
        self.most = 0  # tokens that the stream furthest ahead has had


class Client(asyncio.Protocol):
    """One keep-alive connection, which asks one thing at a time."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.done: asyncio.Future[bytes] | None = None

    @classmethod
    async def connect(cls, port: int) -> "Client":
        loop = asyncio.get_running_loop()
        _, client = await loop.create_connection(lambda: cls(port), "127.0.0.1", port)
        return client

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is none by birth

    def connection_lost(self, exc: Exception | None) -> None:
        self.fail(f"closed early: {exc!r}")

    def close(self) -> None:
        self.transport.close()

    async def json(self, method: str, path: str, body: object = None) -> Any:
        """Asks and reads a whole JSON answer (None for an empty one)."""
        answer = await self.ask(method, path, json.dumps(body).encode() if body is not None else b"")
        return json.loads(answer) if answer else None

    async def stream(self, path: str, body: bytes, tally: Tally, tokens: int) -> None:
        """Asks and times every token of a stream, which must be whole."""
        await self.ask("POST", path, body, tally)
        if not self.complete:
            raise Refused(f"the stream ended without [DONE]: {self.last[-300:]!r}")
        if self.seen != tokens:
            raise Refused(f"{self.seen} tokens of {tokens} arrived")

    def ask(self, method: str, path: str, body: bytes, tally: Tally | None = None) -> "asyncio.Future[bytes]":
        self.buffer, self.text = b"", b""
        self.parts: list[bytes] = []
        self.head = self.complete = False
        self.tally, self.seen, self.last = tally, 0, b""
        self.done = asyncio.get_running_loop().create_future()
        self.sent = time.monotonic_ns()
        self.transport.write(
            b"%s %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (method.encode(), path.encode(), self.port, len(body), body)
        )
        return self.done

    def data_received(self, data: bytes) -> None:
        now = time.monotonic_ns()
        if self.buffer:
            data = self.buffer + data
        at = 0
        if not self.head:
            at = self.read_head(data)
            if not at:
                self.buffer = data
                return
        if self.length is not None:
            self.buffer = data[at:]
            if len(self.buffer) >= self.length:
                self.finish(self.buffer)
            return
        while True:
            line = data.find(b"\r\n", at)
            if line < 0:
                break
            size = int(data[at:line], 16)
            end = line + 2 + size
            if len(data) < end + 2:
                break
            at = end + 2
            if not size:
                self.finish(b"".join(self.parts))
                return
            if self.tally is None:
                self.parts.append(data[line + 2 : end])
            else:
                self.read_tokens(data[line + 2 : end], now)
        self.buffer = data[at:]

    def read_head(self, data: bytes) -> int:
        """Takes in the head of an answer; returns where its body begins, 0 if not there yet."""
        end = data.find(b"\r\n\r\n")
        if end < 0:
            return 0
        status, *lines = data[:end].lower().split(b"\r\n")
        fields = dict(line.partition(b":")[::2] for line in lines)
        self.head = True
        self.ok = status.split()[1].startswith(b"2")
        if not self.ok:
            self.tally = None  # an error is read whole
        if b"chunked" in fields.get(b"transfer-encoding", b""):
            self.length = None
        else:
            self.length = int(fields.get(b"content-length", 0))
        return end + 4

    def read_tokens(self, payload: bytes, now: int) -> None:
        """Counts the tokens of the events that are whole; a read may end anywhere."""
        tally = self.tally
        assert tally is not None
        text = self.text + payload
        cut = text.rfind(b"\n\n") + 2
        if cut == 1:
            self.text = text
            return
        self.text, self.last = text[cut:], text
        for run in TOKENS.findall(text, 0, cut):
            # Usually one; a listener that fell behind is caught up with several at once.
            for token in run.split():
                tally.late.append(now - int(token))
                self.seen += 1
                if self.seen == 1:
                    tally.first.append(now - self.sent)
                    tally.waiting.release()
        tally.most = max(tally.most, self.seen)
        if b"data: [DONE]" in text:
            self.complete = True

    def finish(self, body: bytes) -> None:
        if not self.ok:
            self.fail(body[:300].decode(errors="replace"))
        elif self.done and not self.done.done():
            self.done.set_result(body)

    def fail(self, why: str) -> None:
        if self.done and not self.done.done():
            self.done.set_exception(Refused(why))
