"""Clients that chat with a server that may die under them, and what each of them saw acknowledged."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
import threading
import time
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from tests.tools.scripted_llm import Step, answer, completion, reply

TURNS = 8  # in a session, after which a client begins another

Said = tuple[str, str, str]
"""Of a turn: its session, its question, its answer."""


def script(body: Any) -> list[Step]:
    """What the LLM answers: something that only belongs to this question."""
    text = answer_to(body["messages"][-1]["content"])
    return reply(text[:9], text[9:]) if body["stream"] else answer(body=completion(text))


def answer_to(question: str) -> str:
    return f"The answer to {question}: {question[::-1] * 20}"


@dataclass
class Load:
    """So many clients that talk to the server at `url`, `rate` turns a second if it can."""

    url: str
    clients: int = 16
    rate: float = 200
    acknowledged: dict[str, Said] = field(default_factory=dict)
    asked: dict[str, list[str]] = field(default_factory=dict)
    refused: list[int] = field(default_factory=list)
    key: str = ""
    began: float = field(default_factory=time.monotonic)

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}

    async def run(self) -> None:
        """Talks until it is cancelled."""
        async with aiohttp.ClientSession() as http, asyncio.TaskGroup() as group:
            for _ in range(self.clients):
                group.create_task(self._talk(http))

    async def _talk(self, http: aiohttp.ClientSession) -> None:
        due = time.monotonic()
        while True:
            try:
                async with http.post(f"{self.url}/api/sessions", headers=self.headers) as response:
                    session = (await response.json()).get("session_id")
                if session is None:
                    self.refused.append(response.status)
                    await asyncio.sleep(0.05)
                    continue
                questions = self.asked.setdefault(session, [])
                for number in range(TURNS):
                    due = max(due + self.clients / self.rate, time.monotonic() - 1)
                    await asyncio.sleep(due - time.monotonic())
                    questions.append(f"{session} {number}")
                    if not await self._ask(http, session, questions[-1]):
                        break
            except aiohttp.ClientError:
                await asyncio.sleep(0.05)  # the server was killed, and comes again

    async def _ask(self, http: aiohttp.ClientSession, session: str, question: str) -> bool:
        body = {"session_id": session, "message": question}
        async with http.post(f"{self.url}/api/chat", json=body, headers=self.headers) as response:
            turn = await response.json()
        if response.status != 200:
            self.refused.append(response.status)
            return False
        self.acknowledged[turn["message_id"]] = (session, question, turn["content"])
        return True

    async def goes_on(self, turns: int) -> None:
        """Waits for so many turns more."""
        seen = len(self.acknowledged)
        while len(self.acknowledged) < seen + turns:  # noqa: ASYNC110 (clients may see none for long)
            await asyncio.sleep(0.01)

    def turns_a_second(self) -> float:
        """How many there were, on the average."""
        return len(self.acknowledged) / (time.monotonic() - self.began)


def turns_in(path: Path) -> dict[str, Said]:
    """All turns of a database file that clients asked for, whole."""
    found = {}
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        for turn_id, session, said, output in db.execute(
            "SELECT turn_id, session_id, input, output FROM turns ORDER BY seq"
        ):
            question = json.loads(said)["content"]
            if question.startswith(session):
                found[turn_id] = (session, question, json.loads(output)["content"])
    return found


def check(copy: Path, load: Load, before: dict[str, Said]) -> None:
    """Compares a copy with what was acknowledged before it was begun and by now, turn by turn."""
    found = turns_in(copy)
    lost = {turn_id for turn_id, said in before.items() if found.get(turn_id) != said}
    assert not lost, f"{len(lost)} of {len(before)} acknowledged turns are missing or differ"
    questions: dict[str, list[str]] = {}
    for turn_id, said in found.items():
        session, question, text = said
        assert load.acknowledged.get(turn_id, said) == said
        assert text == answer_to(question)
        questions.setdefault(session, []).append(question)
    for session, asked in questions.items():
        assert asked == load.asked[session][: len(asked)], "a turn is there without the one before it"


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=1, isolation_level=None, check_same_thread=False)


class Litestream:
    """Does to a database what litestream 0.3 does, from its own two connections, until it is closed.

    A reader is kept open, so that nobody cuts the WAL; a row is written now and then. The reader is let go
    for a checkpoint, after which the file is locked for as long as the end of the WAL is copied.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.wal = path.with_name(f"{path.name}-wal")
        self.rounds = self.copied = 0
        self._writer = _connect(path)
        self._reader = _connect(path)
        self._insist("CREATE TABLE IF NOT EXISTS _litestream_seq (id INTEGER PRIMARY KEY, seq INTEGER)")
        self._insist("CREATE TABLE IF NOT EXISTS _litestream_lock (id INTEGER)")

    def _insist(self, sql: str) -> None:
        while True:
            with suppress(sqlite3.OperationalError):
                self._writer.execute(sql)
                return

    def work(self, stopped: threading.Event, pause: float) -> None:
        """Goes on until it is stopped."""
        while not stopped.wait(pause):
            self.rounds += 1
            if not self._reader.in_transaction:
                self._reader.execute("BEGIN")
                self._reader.execute("SELECT count(*) FROM _litestream_seq").fetchone()
            self.copied += len(self.wal.read_bytes())
            self._insist(
                "INSERT INTO _litestream_seq VALUES (1, 1) ON CONFLICT (id) DO UPDATE SET seq = seq + 1"
            )
            if self.rounds % 5 == 0:
                self._reader.execute("ROLLBACK")
                mode = "RESTART" if self.rounds % 10 == 0 else "PASSIVE"
                with suppress(sqlite3.OperationalError):
                    self._writer.execute(f"PRAGMA wal_checkpoint({mode})").fetchall()
                self._insist("BEGIN IMMEDIATE")
                self._writer.execute("INSERT INTO _litestream_lock VALUES (1)")
                self.copied += len(self.wal.read_bytes())
                self._writer.execute("ROLLBACK")

    def copy(self, target: Path) -> None:
        """Copies the files while nobody writes: what a replica is made of."""
        self._insist("BEGIN IMMEDIATE")
        for suffix in ("", "-wal"):
            shutil.copy(f"{self.path}{suffix}", f"{target}{suffix}")
        self._writer.execute("ROLLBACK")

    def close(self) -> None:
        self._writer.close()
        self._reader.close()
