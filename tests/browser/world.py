"""What stands around the page in its tests: a scripted LLM, the real server, a line that can break."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import aiohttp

from tests.tools import scripted_llm
from tests.tools.processes import ROOT, free_port, start_chatbot
from tests.tools.scripted_llm import DONE, END, SSE_HEAD, Close, Exchange, Gate, Step, delta, http_chunk


class Answer:
    """One answer of the LLM, written by the test piece by piece."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()  # the LLM has been asked
        self._exchange: Exchange | None = None
        self._head = SSE_HEAD
        self._steps: deque[Step] = deque()
        self._more = Gate()
        self._is_whole = False

    @property
    def left(self) -> asyncio.Event:
        """Whoever asked has closed the connection."""
        assert self._exchange, "the LLM has not been asked"
        return self._exchange.gone

    def say(self, *pieces: str) -> Answer:
        return self._stream(*map(delta, pieces))

    def delta(self, **fields: object) -> Answer:
        """Anything else that a model streams: reasoning_content, refusal, tool_calls."""
        return self._stream(delta(**fields))

    def finish(self, reason: str = "stop", usage: dict[str, object] | None = None) -> Answer:
        counted = b"data: %b\n\n" % json.dumps({"id": "c1", "choices": [], "usage": usage}).encode()
        self._is_whole = True
        return self._stream(delta(finish=reason), *([counted] if usage else ()), DONE)._add(END)

    def refuse(self, status: int, message: str, headers: str = "", **error: str) -> Answer:
        body = {"error": {"message": message, **error}}
        self._is_whole = True
        return self._add(*scripted_llm.answer(f"{status} Refused", body, headers))

    def break_off(self) -> Answer:
        return self._add(Close)

    def _stream(self, *events: bytes) -> Answer:
        head, self._head = self._head, b""
        return self._add(head + b"".join(map(http_chunk, events)))

    def _add(self, *steps: Step) -> Answer:
        self._steps += steps
        self._more.open()
        return self

    def play(self, exchange: Exchange) -> Iterator[Step]:
        """Each step as soon as the test has made it."""
        self._exchange = exchange
        self.asked.set()
        while self._steps or not self._is_whole:
            if not self._steps:
                self._more = Gate()
            yield self._steps.popleft() if self._steps else self._more


class ScriptedLLM(scripted_llm.ScriptedLLM):
    """Answers each question with what the test has prepared for it, or with "You said: ..."."""

    def __init__(self) -> None:
        super().__init__()
        models = [{"id": name, "object": "model"} for name in ("m", "large-model")]
        self.models = scripted_llm.answer(body={"object": "list", "data": models})
        self.script = self._script
        self._answers: defaultdict[str, deque[Answer]] = defaultdict(deque)

    @property
    def bodies(self) -> list[Any]:
        """What it was asked."""
        return [exchange.body for exchange in self.exchanges]

    def answers(self, question: str) -> Answer:
        """The answer that the next asker of `question` will be given."""
        self._answers[question].append(answer := Answer())
        return answer

    def times_asked(self, question: str) -> int:
        return sum(body["messages"][-1]["content"] == question for body in self.bodies)

    def _script(self, body: Any) -> Iterator[Step]:
        content = body["messages"][-1]["content"]
        question = content if isinstance(content, str) else content[-1].get("text", "")
        prepared, said = self._answers[question], f"You said: {question}"
        if not body.get("stream"):
            yield from scripted_llm.answer(body=scripted_llm.completion(said))
        else:
            answer = prepared.popleft() if prepared else Answer().say(said).finish()
            yield from answer.play(next(one for one in self.exchanges if one.body is body))


class Server:
    """`python -m chatbot` in a directory of its own; it can be ended and started again on its port."""

    def __init__(self, directory: Path, llm_url: str, **environment: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._directory = directory
        self._environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **environment}
        self._environment |= {"LLM_SERVER_URL": llm_url, "PORT": str(self.port)}
        self._running = ExitStack()

    async def start(self) -> Server:
        starting = start_chatbot(env=self._environment, cwd=self._directory)
        self._process = await asyncio.to_thread(self._running.enter_context, starting)
        return self

    async def stop(self, *, kill: bool = False) -> None:
        if not kill:
            await asyncio.to_thread(self._process.end, signal.SIGTERM)
        self._running.close()

    async def call(self, method: str, path: str, body: object = None, **headers: str) -> tuple[int, dict]:
        """What another client of the same server would see."""
        async with (
            aiohttp.ClientSession() as client,
            client.request(method, f"{self.url}/api{path}", json=body, headers=headers) as response,
        ):
            text = await response.text()
            return response.status, json.loads(text) if text.startswith("{") else {"text": text}

    async def history(self, session_id: str) -> list[tuple[str, str]]:
        _, page = await self.call("GET", f"/sessions/{session_id}/messages?limit=1000")
        return [(message["role"], message["content"]) for message in page["messages"]]


class Line:
    """A TCP line to the server that the test can cut and take away."""

    def __init__(self, port: int) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.requests: list[bytes] = []  # the first line and headers of each, as they were sent
        self._to = port
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener: asyncio.Server | None = None

    async def open(self) -> Line:
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        return self

    async def close(self) -> None:
        """Takes the line away: open connections are cut, new ones refused."""
        listener, self._listener = self._listener, None
        if listener:
            listener.close()
        await self.cut()

    async def cut(self) -> None:
        """Cuts the connections that are open now."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        self._tasks.add(task)
        up_writer = None
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._to)
            await asyncio.gather(self._pump(reader, up_writer, self.requests), self._pump(up_reader, writer))
        except (asyncio.CancelledError, OSError):
            pass
        finally:
            self._tasks.discard(task)
            for end in (writer, up_writer):
                if end:
                    end.transport.abort()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: list[bytes] | None = None
    ) -> None:
        while data := await reader.read(65536):
            if seen is not None:
                seen.append(data)
            writer.write(data)
            await writer.drain()
        writer.close()
