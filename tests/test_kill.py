"""What was acknowledged survives kill -9 at any moment, and no half of a turn does.

KILLS says how often it is tried (20), KILL_SEED repeats a run.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.tools.server import Stream, text_of
from tests.tools.processes import ROOT, start_chatbot
from tests.tools.scripted_llm import ScriptedLLM, Step, answer, completion, reply

KILLS = int(os.environ.get("KILLS", "20"))
CLIENTS = 8


def texts(question: str) -> list[str]:
    """What the LLM says to a question."""
    rng = random.Random(question)
    return [f"{question}·{number} " for number in range(rng.randint(1, 6))]


def script(body: Any) -> list[Step]:
    said = texts(body["messages"][-1]["content"])
    return reply(*said) if body["stream"] else answer(body=completion("".join(said)))


@dataclass
class Told:
    """What clients were told, over all the lives of the server."""

    sessions: list[str] = field(default_factory=list)
    turns: dict[str, list[tuple[str, str, str]]] = field(default_factory=dict)
    """Session: [(question, message id, text)], each seen to its [DONE] or 200."""
    unsure: dict[str, str] = field(default_factory=dict)
    """Session: the question that was being answered when the server died."""
    frames: int = 0


async def talk(
    http: aiohttp.ClientSession, url: str, told: Told, rng: random.Random, saw: Callable[[], None]
) -> None:
    """One client: makes a session and talks until the server is gone."""
    try:
        async with http.post(f"{url}/api/sessions", json={}) as response:
            session = str((await response.json())["session_id"])
        told.sessions.append(session)
        told.turns[session] = []
        for number in range(1_000_000):
            question = f"{session}/{number}"
            body = {"session_id": session, "message": question}
            told.unsure[session] = question
            saw()
            if rng.random() < 0.3:
                async with http.post(f"{url}/api/chat", json=body) as response:
                    turn = await response.json()
                assert response.status == 200, turn
                told.turns[session].append((question, turn["message_id"], turn["content"]))
            else:
                async with http.post(f"{url}/api/chat/stream", json=body) as response:
                    stream, found = Stream(response), []
                    while (event := await stream.event()) and event.data != "[DONE]":
                        found.append(event)
                        saw()
                if not event:
                    return
                told.turns[session].append((question, stream.message_id, text_of(found)))
            told.unsure.pop(session)
            saw()
    except aiohttp.ClientError:
        return


def check_file(file: Path, copy: Path, told: Told) -> None:
    """Looks into a copy of what the dead process left: what the next one will find."""
    for suffix in ("", "-wal"):
        source = Path(f"{file}{suffix}")
        if source.exists():
            shutil.copy(source, f"{copy}{suffix}")
    with closing(sqlite3.connect(copy)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []
        found: dict[str, list[tuple[str, str, str]]] = {}
        for session, role, content, message_id in db.execute(
            "SELECT session_id, role, content, message_id FROM messages ORDER BY place"
        ):
            found.setdefault(session, []).append((role, json.loads(content), message_id))
        known = {row[0] for row in db.execute("SELECT session_id FROM sessions")}
    assert set(told.sessions) <= known, "a session whose 201 was seen is lost"
    for session, messages in found.items():
        turns = told.turns.get(session, [])
        asked = [question for question, _, _ in turns]
        if len(messages) > 2 * len(turns):  # stored, and killed before the client was told
            asked.append(told.unsure[session])
        assert [role for role, _, _ in messages] == ["user", "assistant"] * len(asked), session
        assert [content for role, content, _ in messages if role == "user"] == asked
        replies = [(content, message_id) for role, content, message_id in messages if role == "assistant"]
        assert [content for content, _ in replies] == ["".join(texts(question)) for question in asked]
        seen = [(text, message_id) for _, message_id, text in turns]
        assert replies[: len(seen)] == seen, "what a client was told and what is stored differ"
    lost = [session for session, turns in told.turns.items() if turns and session not in found]
    assert not lost, f"turns whose end was seen are lost: {lost}"
    for suffix in ("", "-wal", "-shm"):
        Path(f"{copy}{suffix}").unlink(missing_ok=True)


@pytest.mark.timeout(30 + 5 * KILLS)
async def test_what_was_acknowledged_survives_being_killed(llm: ScriptedLLM, tmp_path: Path) -> None:
    seed = int(os.environ.get("KILL_SEED", random.randrange(2**32)))
    print(f"KILL_SEED={seed} KILLS={KILLS}")
    rng = random.Random(seed)
    llm.script = script
    file = tmp_path / "chat.db"
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    env |= {"LLM_SERVER_URL": llm.url, "LLM_MODEL": "m", "DATABASE_URL": f"sqlite:///{file}"}
    told = Told()
    for _ in range(KILLS):
        with start_chatbot("--port", "0", env=env) as process:
            moment = rng.randrange(400)
            now = asyncio.Event()
            seen = 0

            def saw(moment: int = moment, now: asyncio.Event = now) -> None:
                nonlocal seen
                seen += 1
                if seen > moment:
                    now.set()

            url = f"http://127.0.0.1:{process.port}"
            async with aiohttp.ClientSession() as http:
                clients = [asyncio.create_task(talk(http, url, told, rng, saw)) for _ in range(CLIENTS)]
                async with asyncio.timeout(30):
                    await now.wait()
                    # So far the moment is one at which this process runs; now it is any.
                    await asyncio.sleep(rng.random() * 0.01)
                process.signal(signal.SIGKILL)
                await asyncio.gather(*clients)
            told.frames += seen
            await asyncio.to_thread(process.wait)
        check_file(file, tmp_path / "copy.db", told)
    with start_chatbot("--port", "0", env=env) as process:
        url = f"http://127.0.0.1:{process.port}"
        async with aiohttp.ClientSession() as http:
            for session in rng.sample(told.sessions, min(100, len(told.sessions))):
                async with http.get(f"{url}/api/sessions/{session}/messages?limit=1000") as response:
                    messages = (await response.json())["messages"]
                seen_turns = [
                    (message["message_id"], message["content"])
                    for message in messages
                    if message["role"] == "assistant"
                ]
                expected = [(message_id, text) for _, message_id, text in told.turns[session]]
                assert seen_turns[: len(expected)] == expected
    turns = sum(map(len, told.turns.values()))
    print(
        f"kills {KILLS}, sessions {len(told.sessions)}, turns seen to their end {turns}, events {told.frames}"
    )
    assert turns > KILLS, "there was no load: the test shows nothing"
