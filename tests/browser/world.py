"""What stands around the page in its tests: a scripted LLM, the real server, a line that can break."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import sys
from collections import defaultdict, deque
from pathlib import Path

import aiohttp
from aiohttp import web

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Answer:
    """One answer of the LLM, written by the test piece by piece."""

    def __init__(self, question: str) -> None:
        self.question = question
        self.asked = asyncio.Event()  # the LLM has been asked
        self.left = asyncio.Event()  # whoever asked has closed the connection
        self.messages: list[dict[str, str]] = []
        self._steps: asyncio.Queue[tuple] = asyncio.Queue()

    def say(self, *pieces: str) -> Answer:
        for piece in pieces:
            self._steps.put_nowait(("say", piece))
        return self

    def delta(self, **fields: object) -> Answer:
        """Anything else that a model streams: reasoning_content, refusal, tool_calls."""
        self._steps.put_nowait(("delta", fields))
        return self

    def finish(self, reason: str = "stop", usage: dict[str, object] | None = None) -> Answer:
        self._steps.put_nowait(("finish", reason, usage))
        return self

    def refuse(
        self, status: int, message: str, headers: dict[str, str] | None = None, **error: str
    ) -> Answer:
        self._steps.put_nowait(("refuse", status, {"error": {"message": message, **error}}, headers))
        return self

    def break_off(self) -> Answer:
        self._steps.put_nowait(("break", None))
        return self

    async def play(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        try:
            while True:
                kind, *details = await self._steps.get()
                if kind == "refuse":
                    status, body, headers = details
                    return web.json_response(body, status=status, headers=headers)
                if not response.prepared:
                    await response.prepare(request)
                if kind == "break":
                    request.transport.abort()
                    return response
                if kind == "say":
                    await response.write(chunk({"content": details[0]}))
                if kind == "delta":
                    await response.write(chunk(details[0]))
                if kind == "finish":
                    reason, usage = details
                    await response.write(chunk({}, reason, usage) + b"data: [DONE]\n\n")
                    return response
        except (asyncio.CancelledError, ConnectionError):
            self.left.set()
            raise


def chunk(delta: dict, finish_reason: str | None = None, usage: dict | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    frame = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    frame |= {"usage": usage} if usage else {}
    return f"data: {json.dumps(frame)}\n\n".encode()


class ScriptedLLM:
    """An OpenAI-compatible server that answers each question with what the test has prepared for it."""

    def __init__(self) -> None:
        self.asked: list[list[dict[str, str]]] = []
        self.bodies: list[dict[str, object]] = []
        self._answers: defaultdict[str, deque[Answer]] = defaultdict(deque)
        app = web.Application(client_max_size=2**24)
        app.router.add_post("/v1/chat/completions", self._complete)
        app.router.add_get("/v1/models", self._models)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)

    def answers(self, question: str) -> Answer:
        """The answer that the next asker of `question` will be given."""
        answer = Answer(question)
        self._answers[question].append(answer)
        return answer

    def times_asked(self, question: str) -> int:
        return sum(messages[-1]["content"] == question for messages in self.asked)

    async def start(self) -> str:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        await self._runner.cleanup()

    async def _models(self, request: web.Request) -> web.Response:
        models = [{"id": name, "object": "model"} for name in ("m", "large-model")]
        return web.json_response({"object": "list", "data": models})

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        messages = body["messages"]
        content = messages[-1]["content"]
        question = content if isinstance(content, str) else content[-1].get("text", "")
        self.bodies.append(body)
        self.asked.append(messages)
        if not body.get("stream"):
            message = {"role": "assistant", "content": f"You said: {question}"}
            return web.json_response({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})
        if self._answers[question]:
            answer = self._answers[question].popleft()
        else:
            answer = Answer(question).say(f"You said: {question}").finish()
        answer.messages = messages
        answer.asked.set()
        return await answer.play(request)


class Server:
    """`python -m chatbot` in a directory of its own; it can be ended and started again on its port."""

    def __init__(self, directory: Path, llm_url: str, **environment: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._directory = directory
        self._environment = {
            **{name: os.environ[name] for name in ("PATH", "HOME", "SYSTEMROOT") if name in os.environ},
            "PYTHONPATH": str(ROOT),
            "LLM_SERVER_URL": llm_url,
            "PORT": str(self.port),
            "LOG_LEVEL": "WARNING",
            **environment,
        }
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> Server:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "chatbot", cwd=self._directory, env=self._environment
        )
        async with asyncio.timeout(60), aiohttp.ClientSession() as client:
            while True:
                with contextlib.suppress(aiohttp.ClientError):
                    async with client.get(f"{self.url}/api/health"):
                        return self
                assert self._process.returncode is None, "the server ended while it was starting"
                await asyncio.sleep(0.05)

    async def stop(self, *, kill: bool = False) -> None:
        process, self._process = self._process, None
        if process:
            (process.kill if kill else process.terminate)()
            await process.wait()

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
        self._swallow = False

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
