"""Which sessions are alive: found and kept alive by use, expired to the moment, swept in the background."""

from __future__ import annotations

import asyncio
import logging

from chatbot import context
from chatbot.errors import ChatError
from chatbot.ids import new_id, new_message_id
from chatbot.replies import Replies
from chatbot.store import Message, Session
from chatbot.text import as_json

log = logging.getLogger(__name__)

SWEEP_BATCH = 10
"""Sessions deleted between two turns of the event loop: below 1 ms in memory, some 3 ms in a file, and a
request takes some four turns."""


class Sessions:
    """The sessions that are alive; one with a running reply never expires."""

    def __init__(self, replies: Replies) -> None:
        self._replies = replies
        self._store = replies.store
        self.timeout_ms = max(1, round(replies.config.session_timeout_hours * 3_600_000))
        self._turns = context.turns_within(replies.config.max_context_messages)
        self._sweep_seconds = min(60.0, max(1.0, self.timeout_ms / 10_000))

    def create(self, metadata: str, system_prompt: str | None) -> Session:
        """Makes a session; `metadata` is JSON text. Raises ChatError: storage_full, shutting_down."""
        self._replies.refuse_if_closing()
        session_id, now = new_id(), self._replies.now_ms()
        prompt = (
            Message(new_message_id(now), "system", as_json(system_prompt), now) if system_prompt else None
        )
        self._store.add_session(session_id, now, metadata, prompt)
        return Session(session_id, now, now, metadata)

    def find_to_ask(self, session_id: str) -> tuple[str | None, str]:
        """Finds a session that is to be given a reply; raises ChatError("session_not_found").

        Returns its own system prompt and its newest turns, as many as the LLM is sent, both as JSON.
        The end of the reply counts as use. It is marked now only if it was not used for long: should the
        process die, or the disk be full in the end, it does not expire while it is in use.
        """
        now = self._replies.now_ms()
        found = self._store.conversation(session_id, self._turns)
        if not found or self._has_expired(session_id, found[0], now):
            raise _not_found()
        last_accessed, prompt, history = found
        if last_accessed < now - self.timeout_ms // 100:
            self._mark(session_id, now)
        return prompt, history

    def open(self, session_id: str) -> Session:
        """Finds a session and marks it accessed; raises ChatError("session_not_found")."""
        now = self._replies.now_ms()
        session = self._store.session(session_id)
        if not session or self._has_expired(session_id, session.last_accessed, now):
            raise _not_found()
        return session._replace(last_accessed=now) if self._mark(session_id, now) else session

    def _has_expired(self, session_id: str, last_accessed: int, now: int) -> bool:
        return last_accessed <= now - self.timeout_ms and session_id not in self._replies

    def _mark(self, session_id: str, now: int) -> bool:
        try:
            self._store.touch(session_id, now)
        except ChatError:  # a full disk must not stop reading
            return False
        return True

    def delete(self, session_id: str) -> None:
        """Deletes a session, and stops the reply that it is being given."""
        if reply := self._replies.running(session_id):
            reply.discard(ChatError("session_not_found", "The session was deleted.", "session_id"))
        self._store.delete_session(session_id)

    async def sweep_forever(self) -> None:
        """Deletes expired sessions from time to time, until it is cancelled."""
        while True:
            await asyncio.sleep(self._sweep_seconds)
            try:
                await self.sweep()
            except Exception:
                log.exception("the sweep failed and will be tried again")

    async def sweep(self) -> None:
        """Deletes all expired sessions in small batches, with the event loop free in between."""
        full = SWEEP_BATCH
        while full == SWEEP_BATCH:
            now = self._replies.now_ms()
            full = self._store.evict(now, now - self.timeout_ms, SWEEP_BATCH, self._replies)
            await asyncio.sleep(0)


def _not_found() -> ChatError:
    """Never was, deleted and expired are one answer: it says nothing about other people's sessions."""
    return ChatError("session_not_found", "There is no such session, or it has expired.", "session_id")
