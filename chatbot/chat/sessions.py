"""Creates, finds, changes and deletes sessions, and removes those that have expired.

A method that writes raises Locked before anything has changed; storage.database.when_unlocked retries it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from time import perf_counter

from chatbot.chat.history import find_message
from chatbot.chat.reply_registry import ReplyRegistry
from chatbot.config import Config
from chatbot.errors import ChatError, message_gone, session_gone
from chatbot.ids import new_session_id, new_turn_id, turn_and_place
from chatbot.records import Prompt, Session
from chatbot.storage.database import Locked
from chatbot.storage.store import Store

log = logging.getLogger(__name__)

CLEANING_SECONDS = 1.0
"""The pause between two searches for sessions to delete and rows to remove."""

CLEANING_BATCH = 10
"""Sessions deleted in one event-loop iteration: some 3 ms in a file; a request takes four iterations."""


class Sessions:
    """The sessions that are alive. A session with a running reply never expires."""

    def __init__(
        self, *, config: Config, store: Store, registry: ReplyRegistry, clock: Callable[[], float]
    ) -> None:
        self.timeout_ms = round(config.session_timeout_hours * 3_600_000)
        self._id_range = config.session_id_range
        self._store = store
        self._registry = registry
        self._clock = clock
        self.expired = 0
        """How many sessions were deleted because they were idle."""

    def _now(self) -> int:
        return int(self._clock() * 1000)

    # Finding and making them

    def create(self, metadata: str, system_prompt: str | None = None) -> Session:
        """Makes a session; `metadata` is JSON text. Raises ChatError: storage_full, shutting_down."""
        self._registry.refuse_if_closing()
        session_id, now = new_session_id(*self._id_range), self._now()
        prompt = Prompt(new_turn_id(now), now, system_prompt) if system_prompt else None
        self._store.add_session(session_id, now, metadata, prompt)
        return Session(session_id, now, now, metadata)

    def use(self, session_id: str, param: str = "session_id") -> Session:
        """Finds a session and marks it as used; raises ChatError("session_not_found") about `param`."""
        now, session_id = self._now(), session_id.lower()  # clients may write UUIDs in capitals
        session = self._store.session(session_id)
        if not session or (
            session.last_accessed <= now - self.timeout_ms and session_id not in self._registry.busy_sessions
        ):
            raise session_gone(param)
        with suppress(ChatError):  # a full disk must not stop reading
            self._store.touch(session_id, now)
        return session._replace(last_accessed=max(now, session.last_accessed))

    # Changing them

    def set_prompt(self, session_id: str, content: str) -> None:
        """Replaces a session's system prompt, or removes it if `content` is "". Old answers do not change."""
        now = self._now()
        old = self._store.prompt(session_id) or Prompt(new_turn_id(now), now, "")
        self._store.set_prompt(session_id, old._replace(content=content) if content else None)

    def set_current(self, session_id: str, message_id: str) -> int:
        """Moves a session to the newest turn below a message. Raises ChatError("message_not_found")."""
        turn, _ = find_message(self._store, session_id, message_id, "current")
        current = self._store.newest_below(turn.seq)
        self._store.set_current(session_id, current)
        return current

    def delete(self, session_id: str) -> None:
        """Deletes a session and discards its running replies."""
        self._store.delete_session(session_id)
        for reply in self._registry.replies_in(session_id):
            reply.discard(ChatError("session_not_found", "The session was deleted.", "session_id"))

    def rewind(self, session_id: str, message_id: str) -> int:
        """Deletes a message's turn with all that follow it, also running replies. Returns how many messages.

        For the system prompt, everything is deleted. Raises ChatError("message_not_found").
        """
        for reply in self._registry.replies_in(session_id):
            if (turn_and_place(message_id) or [""])[0] == reply.message_id:
                reply.discard(message_gone())
                return 0
        prompt = self._store.prompt(session_id)
        is_prompt = prompt is not None and prompt.message_id == message_id
        turn = None if is_prompt else find_message(self._store, session_id, message_id, "message_id")[0]
        deleted = self._store.rewind(session_id, turn)
        for reply in self._registry.replies_in(session_id):
            parent = reply.question.parent
            if is_prompt or (parent is not None and not self._store.is_alive(parent)):
                reply.discard(message_gone())
        return deleted

    # Cleaning up

    async def clean_forever(self) -> None:
        """Deletes expired sessions, and removes rows of deleted ones, in pieces, until it is cancelled."""
        while True:
            began, pause = perf_counter(), CLEANING_SECONDS
            try:
                if not self.clean():
                    pause = perf_counter() - began  # as long as it took: others get half of the time
            except (Locked, ChatError):
                pass  # it is tried again after the pause; a full disk was logged
            except Exception:
                log.exception("the cleaning failed and will be tried again")
            await asyncio.sleep(pause)

    def clean(self) -> bool:
        """Does a piece of it. Returns whether nothing is left to do."""
        now, before = self._now(), self._store.sessions
        is_done = self._store.clean(now, now - self.timeout_ms, CLEANING_BATCH, self._registry.busy_sessions)
        self.expired += before - self._store.sessions
        return is_done
