"""Fills a database file with conversations, faster than talking could.

One short conversation is held with the server itself, which also makes the tables; then, with the
server stopped, its rows are copied under new ids. What they look like stays the server's affair.
"""

import sqlite3
import uuid
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

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
    made = [(str(uuid.uuid4()), [str(uuid.uuid4()) for _ in range(count)]) for count in messages]
    with closing(sqlite3.connect(file)) as db:
        db.row_factory = sqlite3.Row
        session = dict(db.execute("SELECT * FROM sessions").fetchone())
        spoken = [dict(row) for row in db.execute("SELECT * FROM turns ORDER BY seq")]
        for row in (session, *spoken):
            row.pop("seq", None)  # the table numbers them itself
            for column in {"created_at", "last_accessed", "asked_at", "replied_at"} & row.keys():
                row[column] -= age_hours * HOUR_MS
        db.execute("PRAGMA synchronous=OFF")
        with db:
            db.execute("DELETE FROM turns")
            db.execute("DELETE FROM sessions")
            insert(db, "sessions", ({**session, "session_id": own} for own, _ in made))
            insert(db, "turns", copies(spoken, made))
    return made


def copies(spoken: list[Row], made: list[tuple[str, list[str]]]) -> Iterator[Row]:
    """The turns of all sessions, in the order of sessions that talk at the same time."""
    longest = max(len(ids) for _, ids in made)
    for place in range(0, longest, 2):
        for session_id, ids in made:
            if pair := ids[place : place + 2]:
                original = spoken[place // 2 % len(spoken)]
                yield {**original, "session_id": session_id, "question_id": pair[0], "reply_id": pair[1]}


def insert(db: sqlite3.Connection, table: str, rows: Iterable[Row]) -> None:
    columns = [row[1] for row in db.execute(f"PRAGMA table_info({table})") if row[1] != "seq"]
    values = ", ".join(f":{column}" for column in columns)
    db.executemany(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({values})", rows)


async def converse(port: int) -> None:
    chat = Session(await Client.connect(port))
    await chat.open()
    for _ in range(TURNS):
        await chat.client.ask("POST", chat.whole_path, chat.whole)
    chat.client.close()
