"""Which sessions are alive: found and kept alive by use, expired to the moment, swept in the background."""

from __future__ import annotations

import asyncio
import logging

from chatbot.errors import ChatError
from chatbot.ids import new_id
from chatbot.replies import Replies
from chatbot.store import NewMessage, Session

log = logging.getLogger(__name__)

SWEEP_BATCH = 10
"""Sessions deleted between two turns of the event loop: below 1 ms; a request takes some four turns."""


class Sessions:
    """The sessions that are alive; one with a running reply never expires."""

    def __init__(self, replies: Replies) -> None:
        self._replies = replies
        self._store = replies.store
        self.timeout_ms = max(1, round(replies.config.session_timeout_hours * 3_600_000))
        self._sweep_seconds = min(60.0, max(1.0, self.timeout_ms / 10_000))

    def create(self, metadata: str, system_prompt: str | None) -> Session:
        """Makes a session; `metadata` is JSON text. Raises ChatError: storage_full, shutting_down."""
        self._replies.refuse_if_closing()
        session_id, now = new_id(), self._replies.now_ms()
        first = NewMessage(new_id(), "system", system_prompt, now) if system_prompt else None
        self._store.add_session(session_id, now, metadata, first)
        return Session(session_id, now, now, metadata)

    def find(self, session_id: str) -> Session:
        """Finds a session; raises ChatError("session_not_found").

        Never was, deleted and expired are one answer: it says nothing about other people's sessions.
        """
        cutoff = self._replies.now_ms() - self.timeout_ms
        session = self._store.session(session_id, cutoff, in_use=session_id in self._replies)
        if not session:
            raise ChatError("session_not_found", "There is no such session, or it has expired.", "session_id")
        return session

    def find_to_ask(self, session_id: str) -> Session:
        """Finds a session that is to be given a reply; raises ChatError("session_not_found").

        The end of the reply marks it accessed. It is marked now only if it has not been for long: should
        the process die, or the disk be full in the end, it does not expire while it is in use.
        """
        session = self.find(session_id)
        if session.last_accessed < self._replies.now_ms() - self.timeout_ms // 100:
            return self.open(session_id)
        return session

    def open(self, session_id: str) -> Session:
        """Finds a session and marks it accessed; raises ChatError("session_not_found")."""
        session, now = self.find(session_id), self._replies.now_ms()
        try:
            self._store.touch(session_id, now)
        except ChatError:  # a full disk must not stop reading
            return session
        return session._replace(last_accessed=now)

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
