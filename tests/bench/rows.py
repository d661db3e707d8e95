"""Fills a database file with conversations, faster than talking could.

One short conversation is held with the server itself, which also makes the tables; then, with the
server stopped, its rows are copied under new ids. What they look like stays the server's affair.
"""

import itertools
import sqlite3
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from chatbot.ids import message_id, new_turn_id

from . import loop
from .client import Client
from .targets import Session, start_chatbot, start_llm

HOUR_MS = 3_600_000
TURNS = 2  # of the conversation that is copied

Row = dict[str, Any]


def settings(file: Path) -> dict[str, str]:
    return {"DATABASE_URL": f"sqlite:///{file}"}


def fill(file: Path, messages: list[int], age_hours: int = 0) -> list[tuple[str, list[str]]]:
    """Makes one session for each number of messages; returns (its id, the ids of its messages)."""
    llm = start_llm(100, 0)
    with llm, start_chatbot(llm.port, file.parent, settings(file)) as chatbot:
        chatbot.wait_ready()
        loop.run(converse(chatbot.port), limit=30)
    now = int(time.time() * 1000) - age_hours * HOUR_MS
    made = [(str(uuid.uuid4()), [new_turn_id(now) for _ in range(count // 2)]) for count in messages]
    with closing(sqlite3.connect(file)) as db:
        db.row_factory = sqlite3.Row
        session = dict(db.execute("SELECT * FROM sessions").fetchone())
        spoken = [dict(row) for row in db.execute("SELECT * FROM turns ORDER BY seq")]
        for row in (session, *spoken):
            for column in {"created_at", "last_accessed", "asked_at", "replied_at"} & row.keys():
                row[column] -= age_hours * HOUR_MS
        db.execute("PRAGMA synchronous=OFF")
        with db:
            db.execute("DELETE FROM turns")
            db.execute("DELETE FROM sessions")
            turns = list(copies(spoken, made))
            current = {row["session_id"]: row["seq"] for row in turns}
            insert(
                db, "sessions", ({**session, "session_id": own, "current": current[own]} for own, _ in made)
            )
            insert(db, "turns", turns)
    return [(own, [message_id(turn, place) for turn in turns for place in (1, 0)]) for own, turns in made]


def copies(spoken: list[Row], made: list[tuple[str, list[str]]]) -> Iterator[Row]:
    """The turns of all sessions, in the order of sessions that talk at the same time."""
    longest = max(len(turns) for _, turns in made)
    numbers, newest = itertools.count(1), dict[str, int]()
    for place in range(longest):
        for session_id, turns in made:
            if place < len(turns):
                seq, parent = next(numbers), newest.get(session_id)
                own = {"seq": seq, "parent": parent, "session_id": session_id, "turn_id": turns[place]}
                yield {**spoken[place % len(spoken)], **own, "context_start": None, "context_key": None}
                newest[session_id] = seq


def insert(db: sqlite3.Connection, table: str, rows: Iterable[Row]) -> None:
    columns = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
    values = ", ".join(f":{column}" for column in columns)
    db.executemany(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({values})", rows)


async def converse(port: int) -> None:
    chat = Session(await Client.connect(port))
    await chat.open()
    for _ in range(TURNS):
        await chat.client.ask("POST", chat.whole_path, chat.whole)
    chat.client.close()
