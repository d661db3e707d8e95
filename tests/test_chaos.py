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

import aiohttp
import pytest

from chatbot.chat.reply import Reply
from chatbot.llm.response import Answer
from chatbot.web import stalls
from chatbot.web.streaming import StreamListener
from tests.chaos.random_llm import RandomLLM
from tests.chaos.visitor import Visitor
from tests.tools.scripted_llm import ScriptedLLM
from tests.tools.server import Running, StartServer, until

SECONDS = float(os.environ.get("CHAOS_SECONDS", "20"))
VISITORS = 30
KINDS = [
    *("turns", "turns: tool_calls", "turns: cancelled", "resumes", "retries", "cancels", "faults", "rewinds"),
    *("moves", "races", "asked again", "asked in place", "tool outputs", "deleted sessions", "double clicks"),
]


def descriptors() -> int:
    """How many files and sockets this process has open."""
    return len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else 0


def alive() -> Counter[str]:
    """The objects whose number tells a leak."""
    gc.collect()
    kinds = (Reply, StreamListener, Answer, aiohttp.web.Request)
    return Counter(type(thing).__name__ for thing in gc.get_objects() if isinstance(thing, kinds))


async def run(server: Running, llm: ScriptedLLM, rng: random.Random, figures: Counter[str]) -> None:
    """Lets the visitors live, and looks at what they leave behind."""
    allowed: Counter[str] = Counter()

    def may_be_asked(question: str) -> bool:
        pattern = f'"content":"{question}"}}'
        stored = "SELECT count(*) FROM turns WHERE substr(input, -length(?)) = ?"
        return bool(server.sql(stored, pattern, pattern)[0][0] <= allowed[question])

    random_llm = RandomLLM(random.Random(rng.random()), figures, may_be_asked)
    llm.script = random_llm.script
    visitors = [Visitor(server, random.Random(rng.random()), figures, allowed, n) for n in range(VISITORS)]
    end = asyncio.get_running_loop().time() + SECONDS
    async with asyncio.TaskGroup() as group:
        for visitor in visitors:
            group.create_task(visitor.live(end))
    await server.ended()
    for visitor in visitors:
        await visitor.check()
    figures["branches"] = sum(
        len(one.tree.nodes) - len({node.parent for node in one.tree.nodes.values()}) for one in visitors
    )
    assert random_llm.paid_twice == []
    for visitor in visitors:
        await server.call("DELETE", f"/api/sessions/{visitor.session}")


@pytest.mark.chaos
@pytest.mark.timeout(SECONDS * 3 + 120)
async def test_chaos(
    start: StartServer, llm: ScriptedLLM, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    seed = int(os.environ.get("CHAOS_SEED", random.randrange(2**32)))
    print(f"CHAOS_SEED={seed} CHAOS_SECONDS={SECONDS:g}")
    caplog.set_level(logging.ERROR)
    monkeypatch.setattr(stalls, "STALL_SECONDS", 1.0)
    monkeypatch.setattr(stalls, "LOOK_SECONDS", 0.2)
    server = await start(disconnect_grace_seconds=0.3, llm_timeout_seconds=1.0, stream_heartbeat_seconds=0.05)
    await server.call("GET", "/api/health")
    tasks, open_files = len(asyncio.all_tasks()), descriptors()
    figures: Counter[str] = Counter()
    try:
        await run(server, llm, random.Random(seed), figures)
    finally:
        print(", ".join(f"{name} {count}" for name, count in sorted(figures.items())))
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []
    while not server.store.remove_piece():
        pass
    assert [server.sql(f"SELECT count(*) FROM {table}") for table in ("turns", "sessions")] == [[(0,)]] * 2
    for stream in server.streams:
        stream.leave()
    server.streams.clear()
    await server.http.close()
    await until(lambda: not server.connections and not server.replies._unfinished)
    # What is left towards the LLM are idle connections, which are kept for the next reply.
    assert llm.connections <= VISITORS
    await llm.stop()
    await until(lambda: not llm.connections)
    llm.exchanges.clear()
    for _ in range(10):
        await asyncio.sleep(0)
    del stream
    assert alive() == Counter(), "still held after their end"
    assert len(server.replies) == server.store.sessions == 0
    assert len(asyncio.all_tasks()) <= tasks, asyncio.all_tasks()
    assert descriptors() <= open_files, "sockets are left open"
    assert [kind for kind in KINDS if not figures[kind]] == [], "that was no chaos"
