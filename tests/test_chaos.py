"""Clients and an LLM that do everything wrong at random, and what must be true all the while and afterwards.

CHAOS_SECONDS says for how long (20), CHAOS_SEED repeats a run as far as real sockets can be repeated.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import aiohttp
import pytest

from chatbot import delivery
from chatbot.answers import Answer
from chatbot.listener import StreamListener
from chatbot.reply import Reply
from chatbot.text import as_json
from tests.tools.server import Running, StartServer, Stream, until
from tests.tools.raw import RawClient
from tests.tools.scripted_llm import (
    DONE,
    END,
    SSE_HEAD,
    Abort,
    Gate,
    Hang,
    ScriptedLLM,
    Step,
    completion,
    delta,
    http_chunk,
    usage,
)
from tests.tools.scripted_llm import answer as whole_answer

SECONDS = float(os.environ.get("CHAOS_SECONDS", "20"))
VISITORS = 30
WORDS = [
    "안녕",
    "하세요 ",
    "word ",
    "👩\u200d👧",
    "e\u0301 ",
    "😀",
    "a longer piece of text, ",
    "\n\n",
    "끝. ",
]
FAILURES = {
    "llm_error",
    "llm_unavailable",
    "llm_rate_limited",
    "llm_timeout",
    "llm_rejected",
    "context_too_long",
}


def words(question: str) -> list[str]:
    """What the LLM says to a question, if it is let."""
    rng = random.Random(question)
    if question.startswith("long"):
        return [f"{number:04d}" * 8192 for number in range(115)]
    return [f"{question}: ", *rng.choices(WORDS, k=rng.randint(1, 30))]


class RandomLLM:
    """Answers with words(), a little now and a little then; one time in four something goes wrong."""

    def __init__(self, rng: random.Random, figures: Counter[str], is_stored: Callable[[str], bool]) -> None:
        self._rng = rng
        self._figures = figures
        self._is_stored = is_stored
        self.paid_twice: list[str] = []

    def script(self, body: Any) -> Iterator[Step]:
        question = body["messages"][-1]["content"]
        self._figures["asked"] += 1
        if self._is_stored(question):
            self.paid_twice.append(question)
        fault = ""
        if self._rng.random() < 0.25 and not question.startswith("long"):
            fault = self._rng.choice(
                ["500", "429", "503", "long", "abort", "cut", "error", "noise", "hang", "empty"]
            )
            self._figures["faults"] += 1
        return self._play(question, fault, stream=body["stream"])

    def _play(self, question: str, fault: str, *, stream: bool) -> Iterator[Step]:
        said = words(question)
        yield from self._pause()
        if fault in ("500", "429", "503"):
            yield from whole_answer(f"{fault} Sorry", {"error": {"message": "random"}})
        elif fault == "long":
            error = {"code": "context_length_exceeded", "message": "too long"}
            yield from whole_answer("400 Bad Request", {"error": error})
        elif not stream:
            if fault:
                yield Hang if fault == "hang" else Abort
            yield from whole_answer(body=completion("".join(said)))
        else:
            if fault == "abort" and self._rng.random() < 0.3:
                yield Abort
            yield SSE_HEAD
            place = self._rng.randint(1, len(said)) if fault else len(said)
            for word in [] if fault == "empty" else said[:place]:
                yield from self._pause()
                yield http_chunk(delta(word))
            yield from self._end(fault)

    def _end(self, fault: str) -> Iterator[Step]:
        if fault == "abort":
            yield Abort
        if fault == "hang":
            yield Hang
        if fault == "error":
            yield http_chunk(b'data: {"error": {"message": "random"}}\n\n')
        elif fault == "noise":
            yield http_chunk(b"data: \xff\xfe{]\n\n")
        elif fault != "cut":
            yield http_chunk(delta(finish="stop"))
            yield from self._pause()
            yield http_chunk(usage()) + http_chunk(DONE)
        yield END

    def _pause(self) -> Iterator[Step]:
        if self._rng.random() < 0.5:
            gate = Gate()
            asyncio.get_running_loop().call_later(self._rng.random() * 0.02, gate.open)
            yield gate


class Gone(Exception):
    """The reply that was listened to came to nothing."""


class Visitor:
    """A client with a session of its own, who trusts nothing that it is told.

    `seen` are the turns of which it saw the end: message id -> (question, text, finish_reason).
    """

    def __init__(self, server: Running, rng: random.Random, figures: Counter[str], number: int) -> None:
        self._server = server
        self._rng = rng
        self._figures = figures
        self._number = number
        self._count = 0
        self.session = ""
        self.asked: set[str] = set()
        self.seen: dict[str, tuple[str, str, str]] = {}

    async def live(self, until: float) -> None:
        self.session = await self._server.session()
        loop = asyncio.get_running_loop()
        while loop.time() < until:
            action = self._rng.choices(
                [self.talk, self.ask_twice, self.rewind, self.delete, self.stall], [80, 10, 5, 2, 0.2]
            )[0]
            await action()

    def _question(self, kind: str = "") -> tuple[str, dict[str, str]]:
        self._count += 1
        question = f"{kind}{self._number}-{self._count}"
        self.asked.add(question)
        return question, {"Idempotency-Key": question}

    async def talk(self) -> None:
        """Asks, and listens in one way or another."""
        question, key = self._question()
        if self._rng.random() < 0.3:
            key = {}
        if self._rng.random() < 0.2:
            return await self._ask_whole(question, key)
        try:
            stream = await self._open(question, key, 0)
            if self._rng.random() < 0.1:
                self._figures["left for good"] += 1
                return stream.leave()
            await self._follow(question, key, stream)
        except Gone:
            self._figures["turns failed"] += 1

    async def _ask_whole(self, question: str, key: dict[str, str]) -> None:
        asking = self._server.chat(self.session, question, key)
        patience = self._rng.choice([0.01, 5, 5])
        try:
            async with asyncio.timeout(patience):
                status, body, _ = await asking
        except TimeoutError:
            self._figures["left for good"] += 1
            return
        if status == 200:
            self._saw(body["message_id"], question, body["content"], body["finish_reason"])
        else:
            await self._refused(status, body["error"])

    async def _open(self, question: str, key: dict[str, str], after: int) -> Stream:
        """Opens the stream of a question, new or again; raises Gone if there is to be none."""
        headers = key | ({"Last-Event-ID": str(after)} if after else {})
        for _ in range(50):
            stream = await self._server.stream(self.session, question, headers)
            if stream.status == 200:
                return stream
            error = (await stream.response.json())["error"]
            if stream.status == 400 and error["param"] == "Last-Event-ID" and after:
                raise Gone  # it failed while nobody listened: there is nothing to go on with
            await self._refused(stream.status, error)
            if error["code"] != "session_busy":
                raise Gone
        raise Gone

    async def _refused(self, status: int, error: dict[str, Any]) -> None:
        """Whatever is refused must be for a reason that this test gave."""
        code = error["code"]
        self._figures[f"told {code}"] += 1
        assert code in FAILURES | {"session_busy", "reply_cancelled"}, (status, error)
        if code == "session_busy":  # by a reply that was left for good, or another's
            stream = await self._server.resume(self.session, error["message_id"])
            if stream.status == 200 and self._rng.random() < 0.5:
                await self._cancel(error["message_id"])
            await stream.rest() if stream.status == 200 else None
            stream.leave()

    async def _cancel(self, message_id: str) -> None:
        path = f"/api/sessions/{self.session}/messages/{message_id}/cancel"
        status, body, _ = await self._server.call("POST", path)
        self._figures["cancels"] += 1
        assert status in (200, 204, 404), body

    async def _follow(self, question: str, key: dict[str, str], stream: Stream) -> None:
        """Listens to the end, with interruptions; raises Gone if the reply comes to nothing."""
        whole = "".join(words(question))
        text, reason = "", ""
        message_id = stream.message_id
        while True:
            event = await stream.event()
            if event is None:  # dropped, or the connection failed
                stream = await self._again(question, key, stream, len(text))
                continue
            if event.data == "[DONE]":
                return self._saw(message_id, question, text, reason)
            if event.id is None:
                await self._refused(200, event.json["error"])
                raise Gone
            text += event.text
            reason = event.finish_reason or reason
            assert whole.startswith(text), f"{text!r} is not how {whole!r} begins"
            assert event.id == len(text)
            dice = self._rng.random()
            if dice < 0.06:
                stream = await self._again(question, key, stream, len(text))
                assert stream.message_id == message_id
            elif dice < 0.07:
                await self._cancel(message_id)

    async def _again(self, question: str, key: dict[str, str], stream: Stream, after: int) -> Stream:
        """Cuts the stream and goes on with it, in one of two ways."""
        stream.leave()
        if key and after and self._rng.random() < 0.5:
            self._figures["retries"] += 1
            return await self._open(question, key, after)
        self._figures["resumes"] += 1
        again = await self._server.resume(self.session, stream.message_id, after)
        if again.status == 404:
            raise Gone
        assert again.status == 200, await again.response.text()
        return again

    def _saw(self, message_id: str, question: str, text: str, reason: str) -> None:
        whole = "".join(words(question))
        assert text == whole if reason == "stop" else whole.startswith(text), (question, reason, text)
        assert reason in ("stop", "cancelled"), reason
        self._figures["turns"] += 1
        self._figures[f"turns: {reason}"] += 1
        self.seen[message_id] = (question, text, reason)

    async def ask_twice(self) -> None:
        """The double click: the same key several times at once, on both endpoints."""
        question, key = self._question()
        self._figures["double clicks"] += 1

        async def one(*, stream: bool) -> None:
            try:
                if stream:
                    await self._follow(question, key, await self._open(question, key, 0))
                else:
                    await self._ask_whole(question, key)
            except Gone:
                pass

        before = len(self.seen)
        await asyncio.gather(*(one(stream=self._rng.random() < 0.5) for _ in range(4)))
        assert len(self.seen) <= before + 1, f"{question} was answered more than once"

    async def rewind(self) -> None:
        _, page, _ = await self._server.call("GET", f"/api/sessions/{self.session}/messages?limit=1000")
        if not page["messages"]:
            return
        place = self._rng.randrange(len(page["messages"]))
        chosen = page["messages"][place]["message_id"]
        status, body, _ = await self._server.call("DELETE", f"/api/sessions/{self.session}/messages/{chosen}")
        assert status == 200, body
        self._figures["rewinds"] += 1
        kept = {message["message_id"] for message in page["messages"][: place - place % 2]}
        # A reply that was still running is gone as well, and one that ended meanwhile.
        self.seen = {message_id: turn for message_id, turn in self.seen.items() if message_id in kept}

    async def delete(self) -> None:
        old = self.session
        if self._rng.random() < 0.5:  # with a reply that runs
            await self._server.stream(old, self._question()[0])
        status, _, _ = await self._server.call("DELETE", f"/api/sessions/{old}")
        assert status == 204
        self._figures["deleted sessions"] += 1
        self.session, self.seen = await self._server.session(), {}

    async def stall(self) -> None:
        """Asks for much and does not read it, until it is let go; then comes back for the rest."""
        question, key = self._question("long")
        client = RawClient()
        body = {"session_id": self.session, "message": question}
        await client.request(self._server.server.port, "POST", "/api/chat/stream", body, key)
        try:
            assert await client.read(1)
            if b" 200 OK" not in client.received[:100]:  # the session was busy
                return
            await asyncio.sleep(self._rng.random() * 2)  # it is let go after 1
            while not client.received.endswith(b"\r\n0\r\n\r\n") and await client.read(1):
                pass
            found = client.events
            self._figures["stalls" if client.closed else "stalls in vain"] += 1
        finally:
            client.close()
        head = bytes(client.received).partition(b"\r\n\r\n")[0].decode()
        message_id = head.partition("X-Message-ID: ")[2].partition("\r\n")[0]
        text = "".join(event.text for event in found)
        assert "".join(words(question)).startswith(text)
        stream = await self._server.resume(self.session, message_id, len(text))
        if stream.status == 404:
            return
        rest = await stream.rest()
        if rest[-1].data == "[DONE]":
            reason = next(event.finish_reason for event in rest if event.finish_reason)
            self._saw(message_id, question, text + "".join(event.text for event in rest), reason)

    async def check(self) -> None:
        """The history: whole turns, each with what the LLM said, and every one that was seen."""
        messages: list[dict[str, Any]] = []
        path, more = f"/api/sessions/{self.session}/messages?limit=1000", True
        while more:
            before = f"&before={messages[0]['message_id']}" if messages else ""
            _, page, _ = await self._server.call("GET", path + before)
            messages = page["messages"] + messages
            more = page["has_more"]
        assert [message["role"] for message in messages] == ["user", "assistant"] * (len(messages) // 2)
        stored = {}
        for question, reply in zip(messages[::2], messages[1::2], strict=True):
            whole = "".join(words(question["content"]))
            assert question["content"] in self.asked
            if reply["finish_reason"] == "stop":
                assert reply["content"] == whole
            else:
                assert reply["finish_reason"] == "cancelled"
                assert reply["content"]
                assert whole.startswith(reply["content"])
            stored[reply["message_id"]] = (question["content"], reply["content"], reply["finish_reason"])
        questions = [question for question, _, _ in stored.values()]
        assert len(set(questions)) == len(questions), "a question is stored twice"
        if not page["has_more"]:
            lost = {message_id: turn for message_id, turn in self.seen.items() if message_id not in stored}
            assert not lost, "turns whose end was seen are lost"
        for message_id, turn in self.seen.items():
            assert stored.get(message_id, turn) == turn, "stored otherwise than told"


def descriptors() -> int:
    """How many files and sockets this process has open."""
    return len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else 0


def alive() -> Counter[str]:
    """The objects whose number tells a leak."""
    gc.collect()
    kinds = (Reply, StreamListener, Answer, aiohttp.web.Request)
    return Counter(type(thing).__name__ for thing in gc.get_objects() if isinstance(thing, kinds))


@pytest.mark.chaos
@pytest.mark.timeout(SECONDS * 3 + 120)
async def test_chaos(
    start: StartServer,
    llm: ScriptedLLM,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    seed = int(os.environ.get("CHAOS_SEED", random.randrange(2**32)))
    print(f"CHAOS_SEED={seed} CHAOS_SECONDS={SECONDS:g}")
    rng = random.Random(seed)
    caplog.set_level(logging.ERROR)
    monkeypatch.setattr(delivery, "STALL_SECONDS", 1.0)
    server = await start(
        disconnect_grace_seconds=0.3,
        llm_timeout_seconds=1.0,
        stream_heartbeat_seconds=0.05,
    )
    await server.call("GET", "/api/health")
    figures: Counter[str] = Counter()

    def is_stored(question: str) -> bool:
        return bool(server.sql("SELECT 1 FROM turns WHERE question = ?", as_json(question)))

    random_llm = RandomLLM(random.Random(rng.random()), figures, is_stored)
    llm.script = random_llm.script
    tasks, open_files = len(asyncio.all_tasks()), descriptors()
    visitors = [Visitor(server, random.Random(rng.random()), figures, n) for n in range(VISITORS)]
    end = asyncio.get_running_loop().time() + SECONDS
    async with asyncio.TaskGroup() as group:
        for visitor in visitors:
            group.create_task(visitor.live(end))
    await server.ended()
    for visitor in visitors:
        await visitor.check()
    print(", ".join(f"{name} {count}" for name, count in sorted(figures.items())))
    assert random_llm.paid_twice == []
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []
    # Nothing is left over.
    for visitor in visitors:
        await server.call("DELETE", f"/api/sessions/{visitor.session}")
    assert server.sql("SELECT count(*) FROM messages") == [(0,)]
    assert server.sql("SELECT count(*) FROM sessions") == [(0,)]
    for stream in server.streams:
        stream.leave()
    server.streams.clear()
    await server.http.close()
    await until(lambda: not server.connections)
    await until(lambda: not server.replies._lingering)
    # What is left towards the LLM are idle connections, which are kept for the next reply.
    assert llm.connections <= VISITORS
    await llm.stop()
    await until(lambda: not llm.connections)
    llm.exchanges.clear()
    for _ in range(10):
        await asyncio.sleep(0)
    del visitors, visitor, stream
    assert alive() == Counter(), "still held after their end"
    assert len(server.replies) == server.replies.store.sessions == 0
    assert len(asyncio.all_tasks()) <= tasks, asyncio.all_tasks()
    assert descriptors() <= open_files, "sockets are left open"
    for kind in (
        "turns",
        "resumes",
        "retries",
        "cancels",
        "faults",
        "rewinds",
        "deleted sessions",
        "double clicks",
    ):
        assert figures[kind], f"no {kind}: that was no chaos"
