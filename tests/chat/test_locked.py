"""A turn that finds the database file locked by another program is kept and tried again, for 5 s."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from chatbot.chat.reply import Reply
from chatbot.errors import ChatError
from tests.chat.conftest import HELLO, FakeAnswer, Room, StartRoom, text, turns_of_the_loop


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "chat.db")


@pytest.fixture
def room(start_room: StartRoom, path: str) -> Room:
    return start_room(path)


@pytest.fixture
def lock(room: Room, path: str) -> Iterator[sqlite3.Connection]:
    """Another program's connection, which locks the file."""
    connection = sqlite3.connect(path, isolation_level=None)
    yield connection
    connection.close()


async def finished(room: Room, session_id: str, lock: sqlite3.Connection, **question: object) -> Reply:
    """A reply that has finished while the file was locked."""
    lock.execute("BEGIN IMMEDIATE")
    room.llm.answers.append(FakeAnswer().say(text("Hi")).finish())
    reply = room.ask(session_id, **question)
    await turns_of_the_loop()
    assert room.llm.given[-1].closed
    assert not reply.ended
    return reply


async def advance(room: Room, seconds: float) -> None:
    for _ in range(round(seconds / 0.05)):
        await room.clock.advance(0.05)


async def test_a_turn_is_stored_when_the_file_is_free_again(room: Room, lock: sqlite3.Connection) -> None:
    session_id = room.session()
    reply = await finished(room, session_id, lock, key_hash="k", request_hash="h")
    await advance(room, 4)
    assert not reply.ended
    assert room.registry.occupying(session_id) is reply, "the session is still busy"
    assert room.registry.known("k", "h") is reply
    reply.stop()
    lock.execute("ROLLBACK")
    await advance(room, 0.1)
    assert reply.turn
    assert (reply.error, reply.turn.finish_reason) == (None, "stop")
    assert room.at(session_id).current == reply.turn.seq


async def test_after_5_s_it_is_given_up_and_an_error(room: Room, lock: sqlite3.Connection) -> None:
    reply = await finished(room, room.session(), lock)
    await advance(room, 5.2)
    assert reply.error
    assert (reply.error.code, reply.turn, reply.finish_reason) == ("overloaded", None, None)


async def test_what_is_deleted_meanwhile_is_not_stored(room: Room, lock: sqlite3.Connection) -> None:
    session_id = room.session()
    reply = await finished(room, session_id, lock)
    assert room.sessions.rewind(session_id, reply.message_id) == 0
    assert reply.error
    assert reply.error.code == "message_not_found"
    lock.execute("ROLLBACK")
    await advance(room, 0.2)
    assert reply.turn is None
    assert room.at(session_id).current is None


async def test_a_shutdown_waits_for_the_file_for_a_moment(room: Room, lock: sqlite3.Connection) -> None:
    session_id = room.session()
    lock.execute("BEGIN IMMEDIATE")
    reply = room.ask(session_id)
    await turns_of_the_loop()
    room.llm.given[0].say(text("Once "))
    await turns_of_the_loop()
    reply.join(release := Release(lock))
    reply._loop.call_later(0.1, lock.execute, "ROLLBACK")
    await room.registry.close()
    assert reply.turn
    assert reply.error
    assert (reply.turn.finish_reason, reply.error.code) == ("cancelled", "shutting_down")
    assert release.woken == 1


class Release:
    """A listener that counts how often it was woken."""

    def __init__(self, _: object) -> None:
        self.woken = 0

    def push(self, burst: object) -> None:
        """Nothing of it is looked at."""

    def wake(self) -> None:
        self.woken += 1


async def test_a_shutdown_gives_up_in_the_end(room: Room, lock: sqlite3.Connection) -> None:
    reply = await finished(room, room.session(), lock)
    await room.registry.close()
    assert reply.error
    assert (reply.error.code, reply.turn) == ("overloaded", None)


async def test_a_shutdown_that_gives_up_leaves_nothing_to_be_waited_for_again(
    room: Room, lock: sqlite3.Connection
) -> None:
    session_id = room.session()
    room.store.add_background("resp_1", session_id, 0, "{}")
    lock.execute("BEGIN IMMEDIATE")
    reply = room.ask(session_id, response_id="resp_1", response="{}", detached=True)
    await turns_of_the_loop()
    room.llm.given[0].say(text("Once "))
    await turns_of_the_loop()
    await room.registry.close()
    assert reply.ended
    assert not room.registry._unfinished


async def test_a_disk_that_is_full_is_told_and_other_failures_are_logged(
    room: Room, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failures = [ChatError("storage_full", "The storage is full."), ValueError("odd")]

    def fail(*_: object, **__: object) -> int:
        raise failures.pop(0)

    monkeypatch.setattr(room.store, "add_turn", fail)
    for code in ("storage_full", "internal_error"):
        room.llm.answers.append(FakeAnswer().say(text("Hi")).finish())
        reply = room.ask(room.session(), HELLO)
        await turns_of_the_loop()
        assert reply.error
        assert (reply.error.code, reply.finish_reason) == (code, None)
    assert "could not be stored" in caplog.text


async def test_a_background_reply_that_fails_is_remembered_as_failed(
    room: Room, lock: sqlite3.Connection
) -> None:
    session_id = room.session()
    for number, locked in enumerate((False, True)):
        room.store.add_background(f"resp_{number}", session_id, 0, "{}")
        if locked:
            lock.execute("BEGIN IMMEDIATE")
        room.llm.answers.append(ChatError("llm_error", "Sorry."))
        room.ask(session_id, response_id=f"resp_{number}", response="{}", detached=True)
        await turns_of_the_loop()
        if locked:
            lock.execute("ROLLBACK")
            await advance(room, 0.2)
        kept = room.store.background(f"resp_{number}")
        assert kept
        assert kept.error == '{"code":"llm_error","message":"Sorry.","param":null,"type":"server_error"}'
