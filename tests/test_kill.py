"""What was acknowledged survives kill -9 at any moment, half a turn does not, and nothing deleted comes back.

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
from typing import Any, NamedTuple

import aiohttp
import pytest

from tests.tools.processes import ENV, Process, start_chatbot
from tests.tools.scripted_llm import ScriptedLLM, Step, reply
from tests.tools.server import Stream, text_of

KILLS = int(os.environ.get("KILLS", "20"))
CLIENTS = 8


def texts(question: str) -> list[str]:
    """What the LLM says to a question."""
    rng = random.Random(question)
    return [f"{question}·{number} " for number in range(rng.randint(1, 6))]


def script(body: Any) -> list[Step]:
    return reply(*texts(body["messages"][-1]["content"]))


class Turn(NamedTuple):
    """A turn as a client saw it, and the id of the reply that it follows."""

    message_id: str
    parent: str | None
    question: str
    text: str


@dataclass
class Talk:
    """What a client was told of its session, over which the server died in the end."""

    turns: dict[str, Turn] = field(default_factory=dict)
    current: str | None = None
    asking: str | None = None
    """The question that was being answered when the server died."""
    deleting: set[str] = field(default_factory=set)
    """The replies that were being deleted when the server died."""
    moving: str | None = None
    """The reply that the conversation was being moved to when the server died."""

    def below(self, message_id: str) -> set[str]:
        """A turn and all that follow from it."""
        found = {message_id}
        for turn in self.turns.values():  # in the order in which they were stored
            if turn.parent in found:
                found.add(turn.message_id)
        return found


class Client:
    """Makes a session and talks, asks again and deletes, until the server is gone."""

    def __init__(
        self, http: aiohttp.ClientSession, url: str, rng: random.Random, saw: Callable[[], None]
    ) -> None:
        self.http, self.url, self.rng, self.saw = http, url, rng, saw

    async def live(self, talks: dict[str, Talk]) -> None:
        try:
            async with self.http.post(f"{self.url}/api/sessions", json={}) as response:
                session = str((await response.json())["session_id"])
            talk = talks[session] = Talk()
            for number in range(1_000_000):
                if talk.current and self.rng.random() < 0.1:
                    await self.delete(session, talk)
                else:
                    await self.ask(session, talk, f"{session}/{number}")
                self.saw()
        except aiohttp.ClientError:
            return

    async def ask(self, session: str, talk: Talk, question: str) -> None:
        body: dict[str, Any] = {"session_id": session, "message": question}
        parent = talk.current
        if talk.turns and self.rng.random() < 0.2:
            replaced = self.rng.choice(list(talk.turns.values()))
            body["replace"], parent = replaced.message_id, replaced.parent
        talk.asking = question
        self.saw()
        if self.rng.random() < 0.3:
            async with self.http.post(f"{self.url}/api/chat", json=body) as response:
                told = await response.json()
            assert response.status == 200, told
            turn = Turn(told["message_id"], parent, question, told["content"])
        else:
            async with self.http.post(f"{self.url}/api/chat/stream", json=body) as response:
                stream, found = Stream(response), []
                while (event := await stream.event()) and event.data != "[DONE]":
                    found.append(event)
                    self.saw()
            if not event:
                raise aiohttp.ClientError("it was cut")
            turn = Turn(stream.message_id, parent, question, text_of(found))
        talk.turns[turn.message_id], talk.current, talk.asking = turn, turn.message_id, None

    async def delete(self, session: str, talk: Talk) -> None:
        chosen = self.rng.choice(list(talk.turns))
        talk.deleting = talk.below(chosen)
        path = f"{self.url}/api/sessions/{session}/messages/{chosen}"
        async with self.http.delete(path) as response:
            deleted = (await response.json())["deleted"]
        assert deleted == 2 * len(talk.deleting)
        if talk.current in talk.deleting:
            talk.current = talk.turns[chosen].parent
        for message_id in talk.deleting:
            del talk.turns[message_id]
        talk.deleting = set()
        if not talk.current and talk.turns:  # the client goes on somewhere
            talk.moving = newest = list(talk.turns)[-1]
            path = f"{self.url}/api/sessions/{session}"
            async with self.http.patch(path, json={"current": newest}) as response:
                assert response.status == 200, await response.text()
            talk.current, talk.moving = newest, None


def check_file(file: Path, copy: Path, talks: dict[str, Talk]) -> None:
    """Looks into a copy of what the dead process left: what the next one will find."""
    for suffix in ("", "-wal"):
        if (source := Path(f"{file}{suffix}")).exists():
            shutil.copy(source, f"{copy}{suffix}")
    with closing(sqlite3.connect(copy)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []
        known = {row[0] for row in db.execute("SELECT session_id FROM sessions")}
        visible = {row[0] for row in db.execute("SELECT message_id FROM messages WHERE role = 'assistant'")}
        said = {row[0] for row in db.execute("SELECT message_id FROM messages WHERE role = 'user'")}
        assert {f"{one[:-3]}001" for one in visible} == said, "half of a turn"
        found: dict[str, dict[str, Turn]] = {}
        for session, turn_id, parent, question, answer in db.execute(
            "SELECT t.session_id, t.turn_id, p.turn_id, t.input, t.output"
            " FROM turns AS t LEFT JOIN turns AS p ON p.seq = t.parent ORDER BY t.seq"
        ):
            turn = Turn(turn_id, parent, json.loads(question)["content"], json.loads(answer)["content"])
            if turn_id in visible:
                found.setdefault(session, {})[turn_id] = turn
    assert set(talks) <= known, "a session whose 201 was seen is lost"
    for session, talk in talks.items():
        check_talk(talk, found.get(session, {}))
    for suffix in ("", "-wal", "-shm"):
        Path(f"{copy}{suffix}").unlink(missing_ok=True)


def check_talk(talk: Talk, found: dict[str, Turn]) -> None:
    """What a client was told and what is stored are the same, but for what was just being done."""
    surely = {one: turn for one, turn in talk.turns.items() if one not in talk.deleting}
    assert {one: found.get(one) for one in surely} == surely, "what was acknowledged is lost"
    kept = talk.deleting & set(found)
    assert kept in (set(), talk.deleting), "a deletion was done by half"
    more = [turn for one, turn in found.items() if one not in talk.turns]
    assert [turn.question for turn in more] in ([], [talk.asking]), "what was deleted came back"
    assert all(turn.text == "".join(texts(turn.question)) for turn in found.values())


@pytest.mark.timeout(30 + 5 * KILLS)
async def test_what_was_acknowledged_survives_being_killed(llm: ScriptedLLM, tmp_path: Path) -> None:
    seed = int(os.environ.get("KILL_SEED", random.randrange(2**32)))
    print(f"KILL_SEED={seed} KILLS={KILLS}")
    rng = random.Random(seed)
    llm.script = script
    file = tmp_path / "chat.db"
    env = ENV | {"MAX_CONTEXT_MESSAGES": "3", "DATABASE_URL": f"sqlite:///{file}"}
    env |= {"LLM_SERVER_URL": llm.url, "LLM_MODEL": "m"}
    talks: dict[str, Talk] = {}
    for _ in range(KILLS):
        with start_chatbot("--port", "0", env=env) as process:
            await live_and_kill(process, rng, talks)
        check_file(file, tmp_path / "copy.db", talks)
    with start_chatbot("--port", "0", env=env) as process:
        await check_server(process.url, rng, talks)
    turns = sum(len(talk.turns) for talk in talks.values())
    parents = sum(len({turn.parent for turn in talk.turns.values()}) for talk in talks.values())
    branches = turns - parents
    print(f"kills {KILLS}, sessions {len(talks)}, turns seen and not deleted {turns}, branches {branches}")
    assert turns > KILLS, "there was no load: the test shows nothing"


async def live_and_kill(process: Process, rng: random.Random, talks: dict[str, Talk]) -> None:
    """Lets clients talk to the server, and kills it at any moment."""
    left, now = rng.randrange(400), asyncio.Event()

    def saw() -> None:
        nonlocal left
        left -= 1
        if left < 0:
            now.set()

    async with aiohttp.ClientSession() as http:
        clients = [
            asyncio.create_task(Client(http, process.url, rng, saw).live(talks)) for _ in range(CLIENTS)
        ]
        async with asyncio.timeout(30):
            await now.wait()
            # So far the moment is one at which this process runs; now it is any.
            await asyncio.sleep(rng.random() * 0.01)
        process.signal(signal.SIGKILL)
        await asyncio.gather(*clients)
    await asyncio.to_thread(process.wait)
    assert "Traceback" not in process.output, process.output


async def check_server(url: str, rng: random.Random, talks: dict[str, Talk]) -> None:
    """The next server shows the path at which each conversation was, or came to be just then."""
    sure = [session for session, talk in talks.items() if not talk.deleting]
    async with aiohttp.ClientSession() as http:
        for session in rng.sample(sure, min(200, len(sure))):
            async with http.get(f"{url}/api/sessions/{session}/messages?limit=1000") as response:
                messages = (await response.json())["messages"]
            talk = talks[session]
            shown = [one["message_id"] for one in messages if one["role"] == "assistant"]
            if shown and shown[-1] not in talk.turns:
                assert messages[-2]["content"] == talk.asking
                shown.pop()
                at = shown[-1] if shown else None
            else:
                at = talk.moving if talk.moving and talk.moving in shown else talk.current
            path: list[str] = []
            while at:
                path.insert(0, at)
                at = talk.turns[at].parent
            assert shown == path
