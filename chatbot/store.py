"""Keeps sessions and messages in SQLite: one method a statement of schema.sql, and no await.

Being synchronous is what makes it simple: a turn is stored whole or not at all, also from a `finally`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Container, Iterator
from typing import NamedTuple

from chatbot.database import Database, told
from chatbot.errors import ChatError

# A page of history ends early rather than hold more than this (in characters of JSON).
PAGE_CHARS = 4 * 1024 * 1024


class Session(NamedTuple):
    """A conversation; times in milliseconds since 1970, `metadata` as JSON text."""

    session_id: str
    created_at: int
    last_accessed: int
    metadata: str


class Message(NamedTuple):
    """A message; `content`, a string, and `token_usage`, an object, are JSON text.

    Once it is stored its `place` orders the conversation: 0 for the system prompt, and of the turn `seq`
    2 * seq for the question, 2 * seq + 1 for the reply.
    """

    message_id: str
    role: str
    content: str
    created_at: int
    token_usage: str | None = None
    finish_reason: str | None = None
    place: int = 0


class Store(Database):
    """What is kept of the conversations.

    Beyond `max_bytes` nothing new is begun (`require_space`), but what runs is still stored. Every method
    may raise ChatError("storage_full") when the disk or the memory really is full.
    """

    def __init__(self, path: str = ":memory:", max_bytes: int = 2**30) -> None:
        super().__init__(path)
        self._max_bytes = max_bytes
        self._page_size: int = self._value("PRAGMA page_size")
        self._room = 0
        self.sessions: int = self._value(self._sql["count_sessions"])
        """How many sessions are stored, expired ones not yet swept among them."""

    def require_space(self) -> None:
        """Raises ChatError("storage_full") if the database has reached its limit.

        Asked before something new is begun and not when it is stored: a reply that was admitted is
        never lost to the limit, which is passed by no more than the replies that are running.
        """
        if self._room > 0:
            return
        used = (self._value("PRAGMA page_count") - self._value("PRAGMA freelist_count")) * self._page_size
        if used >= self._max_bytes:
            raise ChatError("storage_full", "The database is full.", retry_after="60")
        self._room = self._max_bytes - used

    def _fill(self, chars: int) -> None:
        """Deducts from the room what a write of so much text takes at most, with a new page at each place."""
        self._room -= 32 * self._page_size + 4 * chars

    # Sessions

    def add_session(self, session_id: str, now: int, metadata: str, prompt: Message | None) -> None:
        """Makes a session, with its system prompt as the first message if it has one."""
        self.require_space()
        with self._transaction:
            self._run("add_session", {"session_id": session_id, "now": now, "metadata": metadata})
            if prompt:
                self._run("add_prompt", {"session_id": session_id, **prompt._asdict()})
        self._fill(len(metadata) + (len(prompt.content) if prompt else 0))
        self.sessions += 1

    def session(self, session_id: str) -> Session | None:
        """A session, also one that has expired and was not yet swept."""
        rows = self._all("get_session", (session_id,))
        return Session(*rows[0]) if rows else None

    def conversation(self, session_id: str, turns: int) -> tuple[int, str | None, str] | None:
        """When a session was accessed, its own system prompt, and its newest `turns` (two messages each).

        The prompt is JSON text. So are the turns, as LLMs read them, oldest first: an object for each
        message, compact, the role before the content, with commas between. There are fewer of them if
        that passes a gigabyte.
        """
        try:
            rows = self._cursor.execute(self._sql["conversation"], (turns, session_id)).fetchall()
        except sqlite3.DataError:  # SQLITE_TOOBIG: no LLM takes so much
            if not turns:
                raise
            return self.conversation(session_id, turns // 2)
        except Exception as error:
            raise told(error) from None
        return rows[0] if rows else None

    def history(self, session_id: str, turns: int) -> str:
        """The newest `turns` of a session, as in conversation()."""
        found = self.conversation(session_id, turns)
        return found[2] if found else ""

    def touch(self, session_id: str, now: int) -> None:
        """Marks a session as accessed `now`, whatever its age; nothing happens if it is gone."""
        self._run("touch", (now, session_id))

    def set_metadata(self, session_id: str, metadata: str) -> None:
        """Replaces a session's metadata."""
        self.require_space()
        self._run("set_metadata", {"session_id": session_id, "metadata": metadata})
        self._fill(len(metadata))

    def delete_session(self, session_id: str) -> None:
        """Deletes a session and its messages."""
        self.sessions -= self._run("delete_session", {"session_id": session_id})

    def evict(self, now: int, cutoff: int, limit: int, in_use: Container[str]) -> int:
        """Deletes up to `limit` sessions idle since `cutoff`; returns how many rows it looked at.

        Those `in_use`, or used by a chat since, are marked instead, which takes them out of the sweep's way.
        """
        with self._transaction:
            unmarked = self._all("unmarked_sessions", {"cutoff": cutoff, "limit": limit})
            gone = 0
            for session_id, last_accessed in unmarked:
                if session_id in in_use:
                    self.touch(session_id, now)
                elif last_accessed > cutoff:
                    self.touch(session_id, last_accessed)
                else:
                    gone += self._run("delete_session", {"session_id": session_id})
        self.sessions -= gone
        return len(unmarked)

    # Messages

    def add_turn(
        self, session_id: str, question: Message, reply: Message, key: str = "", request_hash: str = ""
    ) -> None:
        """Stores a question and its reply, both or neither; by their time the session was used.

        With the idempotency `key` the reply is found again, and told by the hash from another request's.
        """
        usage = reply.token_usage or ""  # not None: Python takes longer to bind one than a text
        self._run(
            "add_turn",
            (
                *(session_id, question.message_id, question.created_at),
                *(reply.message_id, reply.created_at, reply.finish_reason, usage, key, request_hash),
                *(question.content, reply.content),
            ),
        )
        self._fill(len(question.content) + len(reply.content) + len(usage))

    def count_messages(self, session_id: str) -> int:
        """How many messages a session has, its system prompt among them."""
        rows: list[tuple[int]] = self._all("count_messages", {"session_id": session_id})
        return rows[0][0]

    def message(self, session_id: str, message_id: str) -> Message | None:
        """One message of one session."""
        rows = self._all("get_message", {"session_id": session_id, "message_id": message_id})
        return Message(*rows[0]) if rows else None

    def page(
        self, session_id: str, limit: int, *, before: int | None, after: int | None
    ) -> tuple[list[Message], bool]:
        """Up to `limit` messages, oldest first, and whether there are more in the paging direction.

        `before` and `after` are places (`Message.place`); with neither it is the newest page. It ends early
        when its JSON passes PAGE_CHARS, so that no page is larger than a client and this process can bear.
        """
        if after is not None:
            messages = self._messages_after(session_id, after)
        else:
            messages = self._messages_before(session_id, 2**63 - 1 if before is None else before)
        page: list[Message] = []
        size, more = 0, False
        try:
            for message in messages:
                size += len(message.content)
                if page and (len(page) == limit or size > PAGE_CHARS):
                    more = True
                    break
                page.append(message)
        except Exception as error:
            raise told(error) from None
        return (page if after is not None else page[::-1]), more

    def _messages_after(self, session_id: str, place: int) -> Iterator[Message]:
        """The messages after a place, oldest first; the prompt is none of them, being first of all."""
        rows = self._db.execute(self._sql["turns_from"], {"session_id": session_id, "seq": place // 2})
        yield from (message for row in rows for message in _turn(*row) if message.place > place)

    def _messages_before(self, session_id: str, place: int) -> Iterator[Message]:
        """The messages before a place, newest first."""
        rows = self._db.execute(self._sql["turns_until"], {"session_id": session_id, "seq": place // 2})
        yield from (message for row in rows for message in _turn(*row)[::-1] if message.place < place)
        if place:
            yield from (Message(*row) for row in self._all("get_prompt", {"session_id": session_id}))

    def rewind(self, session_id: str, message: Message) -> int:
        """Deletes `message` and all after it; returns how many.

        A reply takes its question along: a turn is whole or absent.
        """
        with self._transaction:
            gone = 2 * self._run("rewind", {"session_id": session_id, "seq": message.place // 2})
            if message.role == "system":
                gone += self._run("drop_prompt", {"session_id": session_id})
        return gone

    def reply_by_key(self, session_id: str, key: str) -> tuple[str, str] | None:
        """The (message_id, request_hash) of the stored reply that an idempotency key stands for."""
        rows = self._all("reply_by_key", {"session_id": session_id, "idempotency_key": key})
        return rows[0] if rows else None


def _turn(
    seq: int,
    question_id: str,
    question: str,
    asked_at: int,
    reply_id: str,
    reply: str,
    replied_at: int,
    token_usage: str | None,
    finish_reason: str,
) -> tuple[Message, Message]:
    """The two messages of a turn from its row."""
    return (
        Message(question_id, "user", question, asked_at, None, None, 2 * seq),
        Message(reply_id, "assistant", reply, replied_at, token_usage, finish_reason, 2 * seq + 1),
    )
