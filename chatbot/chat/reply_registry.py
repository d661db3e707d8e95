"""All running replies: admits and starts them, finds them by ids and keys, and ends them at shutdown."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from chatbot.chat.asking import Asking, Question
from chatbot.chat.limits import ContextLimits
from chatbot.chat.reply import Reply
from chatbot.chat.reply_source import Outcome, ReplySource
from chatbot.chat.stored_reply import StoredReply
from chatbot.config import Config
from chatbot.errors import ChatError
from chatbot.llm.client import LLM
from chatbot.storage.store import Store

LAST_WRITES_SECONDS = 1.0
"""How long a shutdown waits for turns that are not stored yet because the file is locked."""


def key_hash(scope: str, key: str) -> str:
    """The hash that is kept of an idempotency key, which is valid in one scope (a session, an API key)."""
    return hashlib.sha256(f"{scope}\n{key}".encode()).hexdigest()


def shutting_down() -> ChatError:
    """The error that clients are sent during a shutdown."""
    return ChatError("shutting_down", "The server is shutting down.", retry_after="5")


@dataclass(eq=False, kw_only=True)
class ReplyRegistry:
    """All running replies. `on_end` is called with each reply or relayed answer that has ended."""

    config: Config
    store: Store
    llm: LLM
    limits: ContextLimits
    clock: Callable[[], float]
    on_end: Callable[[Outcome], None]

    def __post_init__(self) -> None:
        self.closing = False
        self._running: dict[str, Reply] = {}  # by message id
        self._by_key: dict[str, Reply] = {}
        self._by_response: dict[str, Reply] = {}
        self._by_session: dict[str, list[Reply]] = {}
        self._relays: set[asyncio.Task[Any]] = set()
        self._unfinished: set[asyncio.Task[None]] = set()
        self._enough = asyncio.Event()  # set when a shutdown need not wait any longer

    def __len__(self) -> int:
        return len(self._running) + len(self._relays)

    def __iter__(self) -> Iterator[Reply]:
        return iter(list(self._running.values()))

    @property
    def busy_sessions(self) -> Container[str]:
        """The sessions (their ids) in which a reply is running."""
        return self._by_session

    # Finding them

    def occupying(self, session_id: str) -> Reply | None:
        """The reply that occupies a session."""
        return next((reply for reply in self.replies_in(session_id) if reply.question.occupies), None)

    def replies_in(self, session_id: str) -> list[Reply]:
        """All running replies of a session."""
        return list(self._by_session.get(session_id, ()))

    def by_response(self, response_id: str) -> Reply | None:
        """The running reply that has this response id at OpenAI's door."""
        return self._by_response.get(response_id)

    def find(self, session_id: str, message_id: str) -> ReplySource:
        """A running or stored reply of a session; raises ChatError("message_not_found")."""
        reply = self._running.get(message_id)
        if reply and reply.session_id == session_id:
            return reply
        turn, place = self.store.turn_of(session_id, message_id) or (None, 0)
        if turn is None or place != 0:  # place 0 is the reply, others are what was said
            raise ChatError("message_not_found", "There is no such reply in this session.", "message_id")
        return StoredReply(turn, self.store)

    def known(self, key_hash: str, request_hash: str) -> ReplySource | None:
        """The reply that was given, or is being given, under an idempotency key.

        Raises ChatError("idempotency_key_reused") if the key was used for another request.
        """
        source: ReplySource
        used_for: str | None
        if not key_hash:
            return None
        if reply := self._by_key.get(key_hash):
            source, used_for = reply, reply.question.request_hash
        elif turn := self.store.turn_by_key(key_hash):
            source, used_for = StoredReply(turn, self.store), turn.request_hash
        else:
            return None
        if used_for != request_hash:
            message = "This key was used for a different request."
            raise ChatError("idempotency_key_reused", message, "Idempotency-Key")
        return source

    # Beginning them

    def refuse_if_closing(self) -> None:
        """Raises ChatError("shutting_down") once the shutdown has begun."""
        if self.closing:
            raise shutting_down()

    def admit(self, session_id: str, *, occupies: bool = True, stores: bool = True) -> None:
        """Checks that one more reply may begin, before anything is read for it.

        Raises ChatError: shutting_down, session_busy, overloaded, storage_full.
        """
        self.refuse_if_closing()
        if occupies and (running := self.occupying(session_id)):
            message = "The session is being given another reply."
            raise ChatError("session_busy", message, extra={"message_id": running.message_id})
        self._require_room()
        if stores:
            self.store.require_space()

    def _require_room(self) -> None:
        self.refuse_if_closing()
        if len(self) >= self.config.max_active_replies:
            raise ChatError("overloaded", "Too many replies are running.", retry_after="1")

    @contextmanager
    def relaying(self, outcome: Outcome) -> Iterator[None]:
        """Counts an answer that the current task passes on and that is not stored; close() cancels the task.

        A failure is noted in `outcome`. Raises ChatError: shutting_down, overloaded.
        """
        self._require_room()
        task = asyncio.current_task()
        assert task
        self._relays.add(task)
        try:
            yield
        except ChatError as error:
            outcome.error = error
            raise
        except asyncio.CancelledError:
            if not self.closing:
                raise
            outcome.error = shutting_down()
            raise outcome.error from None
        finally:
            self._relays.discard(task)
            self._note_end()
            self.on_end(outcome)

    def start(self, question: Question) -> Reply:
        """Starts a reply. There must be no await since admit(). The reply's end marks the session as used.

        The caller must join the reply before it awaits: else a client that goes would not stop the reply.
        """
        reply = Reply(
            Asking(question, config=self.config, store=self.store, llm=self.llm, limits=self.limits),
            grace=self.config.disconnect_grace_seconds,
            store=self.store,
            clock=self.clock,
            on_end=self._forget,
            keep_until_done=self._keep_until_done,
        )
        self._running[reply.message_id] = reply
        self._by_session.setdefault(question.session_id, []).append(reply)
        if question.key_hash:
            self._by_key[question.key_hash] = reply
        if question.response_id:
            self._by_response[question.response_id] = reply
        return reply

    # Their ends

    def _forget(self, reply: Reply) -> None:
        del self._running[reply.message_id]
        self._by_key.pop(reply.question.key_hash, None)
        self._by_response.pop(reply.question.response_id or "", None)
        others = self._by_session[reply.session_id]
        others.remove(reply)
        if not others:
            del self._by_session[reply.session_id]
        self._note_end()
        self.on_end(reply)

    def _note_end(self) -> None:
        if not len(self):
            self._enough.set()

    def _keep_until_done(self, task: asyncio.Task[None]) -> None:
        """Keeps a reply's task that must still close the connection to the LLM, or store the reply."""
        self._unfinished.add(task)
        task.add_done_callback(self._unfinished.discard)

    async def drain(self, grace: float, enough: asyncio.Event) -> None:
        """Admits no more replies, and waits for the running ones for at most `grace` s, or until `enough`.

        When the last reply ends, it sets `enough`, too.
        """
        self.closing, self._enough = True, enough
        if len(self):
            with suppress(TimeoutError):
                await asyncio.wait_for(enough.wait(), grace)

    async def close(self) -> None:
        """Stops the replies that still run, and stores what has arrived. Listeners are sent shutting_down."""
        self.closing = True
        for reply in self:
            reply.stop(shutting_down())
        for relay in self._relays:
            relay.cancel()
        if self._unfinished:
            await asyncio.wait(self._unfinished, timeout=LAST_WRITES_SECONDS)
        while self._unfinished:  # a cancelled write may begin a task that notes its failure: cancel that, too
            for task in self._unfinished:
                task.cancel()
            await asyncio.gather(*self._unfinished, return_exceptions=True)
