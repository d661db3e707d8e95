"""What the storage's tests are made of: a store, sessions and turns in it, and a look behind its back."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from chatbot import ids
from chatbot.records import Turn, as_json
from chatbot.storage.database import Locked
from chatbot.storage.store import Store

T = TypeVar("T")

ROOT = Path(__file__).parents[2]


def a_session(store: Store, now: int = 0) -> str:
    """Makes a session; returns its id."""
    session_id = ids.new_session_id()
    store.add_session(session_id, now, "{}")
    return session_id


def a_turn(
    session_id: str, parent: int | None = None, said: str = "Q", reply: str = "A", **more: Any
) -> Turn:
    """A turn that can be stored."""
    turn = Turn(
        seq=0,
        session_id=session_id,
        parent=parent,
        turn_id=ids.new_turn_id(0),
        asked_at=1,
        replied_at=2,
        finish_reason="stop",
        context_start=None,
        context_key=None,
        model="m",
        first_token_ms=1,
        token_usage='{"prompt_tokens":1}',
        idempotency_key=None,
        request_hash=None,
        response_id=None,
        response=None,
        input=as_json({"role": "user", "content": said}),
        output=as_json({"role": "assistant", "content": reply}),
        reasoning=None,
        layout=None,
        chunk_ends=b"\x01",
    )
    return turn._replace(**more)


def a_chain(store: Store, session_id: str, length: int, parent: int | None = None, **more: Any) -> list[int]:
    """Stores turns of which each follows the one before; returns their numbers."""
    numbers = []
    for _ in range(length):
        turn = a_turn(session_id, parent, **more)
        parent = unlocked(lambda turn=turn: store.add_turn(turn))
        numbers.append(parent)
    return numbers


def unlocked(write: Callable[[], T]) -> T:
    """Runs a write, again while the file is locked: the thread that cuts the WAL does so for a moment."""
    while True:
        try:
            return write()
        except Locked:
            time.sleep(0.001)


def turn_at(store: Store, seq: int) -> Turn:
    """A turn that there is."""
    turn = store.turn(seq)
    assert turn
    return turn


def count(store: Store, table: str) -> int:
    """How many rows a table has."""
    return int(store._db.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def run(script: str, *arguments: str, uid: int | None = None) -> subprocess.CompletedProcess[str]:
    """Runs a script in a process of its own, from the checkout."""
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, user=uid)


@contextmanager
def running(script: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Runs a script that is waited for until it says a line, and killed at the end of the block."""
    process = subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout
        assert process.stdout.readline(), "it ended at once"
        try:
            yield process
        finally:
            process.kill()
