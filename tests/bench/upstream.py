"""A fast OpenAI-compatible LLM that plays a script: the load's other end.

Every streamed token carries the nanosecond at which it was sent, so that a reader on the same
machine knows how long it was on the way.
Usage: python -m tests.bench.upstream PORT TOKENS INTERVAL_MS
"""

import asyncio
import json
import sys
import time
from typing import cast

from .loop import run

HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
    b"Cache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n"
)
CHUNK = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "bench"}
# What one token looks like; written out because ten thousand a second are made of it.
TOKEN = (
    b'{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"bench",'
    b'"choices":[{"index":0,"delta":{"content":"%d "},"logprobs":null,"finish_reason":null}]}'
)
# Successive streams tick this fraction of an interval apart (the golden ratio spreads any number
# of them evenly). The spacing is the LLM's own, so that no target is spared or burdened by the pace
# at which it happened to open its streams.
SPREAD = 0.6180339887


def event(payload: bytes) -> bytes:
    body = b"data: " + payload + b"\n\n"
    return b"%x\r\n%s\r\n" % (len(body), body)


class Script:
    """The one answer this LLM knows: so many tokens, so many seconds apart."""

    def __init__(self, tokens: int, interval: float) -> None:
        self.tokens, self.interval, self.streams = tokens, interval, 0
        usage = {"prompt_tokens": 10, "completion_tokens": tokens, "total_tokens": tokens + 10}
        stop = {**CHUNK, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
        self.last = (
            event(json.dumps(stop).encode())
            + event(json.dumps({**CHUNK, "choices": [], "usage": usage}).encode())
            + event(b"[DONE]")
            + b"0\r\n\r\n"
        )
        message = {"role": "assistant", "content": "word " * tokens}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        whole = {**CHUNK, "object": "chat.completion", "choices": [choice], "usage": usage}
        self.whole = json.dumps(whole).encode()


class Connection(asyncio.Protocol):
    """One keep-alive connection, which asks one thing at a time."""

    def __init__(self, script: Script) -> None:
        self.script, self.buffer, self.gone = script, b"", False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is none by birth
        self.loop = asyncio.get_running_loop()

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone = True

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while True:
            head, mark, rest = self.buffer.partition(b"\r\n\r\n")
            if not mark:
                return
            length = 0
            for line in head.split(b"\r\n")[1:]:
                name, _, value = line.partition(b":")
                if name.lower() == b"content-length":
                    length = int(value)
            if len(rest) < length:
                return
            body, self.buffer = rest[:length], rest[length:]
            self.answer(body)

    def answer(self, body: bytes) -> None:
        script, asked = self.script, json.loads(body)
        if not asked.get("stream"):
            self.transport.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
                % (len(script.whole), script.whole)
            )
            return
        self.transport.write(HEAD)
        if "max_tokens" in asked:  # a warm-up: that many, as fast as they go
            tokens = (event(TOKEN % time.monotonic_ns()) for _ in range(asked["max_tokens"]))
            self.transport.write(b"".join(tokens) + script.last)
            return
        script.streams += 1
        phase = script.streams * SPREAD % 1
        self.left = script.tokens
        # The first token leaves with the head; the second falls on the stream's own phase.
        self.due = self.loop.time() + (phase - 1) * script.interval
        self.tick()

    def tick(self) -> None:
        if self.gone:
            return
        if not self.left:
            self.transport.write(self.script.last)
            return
        self.left -= 1
        self.transport.write(event(TOKEN % time.monotonic_ns()))
        self.due += self.script.interval
        self.loop.call_at(self.due, self.tick)


async def serve(port: int, tokens: int, interval: float) -> None:
    script = Script(tokens, interval)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(script), "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    run(serve(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]) / 1000))
