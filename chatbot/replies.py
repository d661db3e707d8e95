"""All replies that run: at most one a session, found again by id or key, ended at shutdown."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from chatbot.config import Config
from chatbot.errors import ChatError
from chatbot.llm import LLM
from chatbot.reply import Ask, Reply, Tools
from chatbot.store import Store
from chatbot.stored import StoredReply
from chatbot.text import as_json


class Replies:
    """All replies that run, at most one a session, and what they need."""

    def __init__(self, config: Config, store: Store, llm: LLM, now: Callable[[], float]) -> None:
        self.config = config
        self.store = store
        self.llm = llm
        self._now = now
        self.loop = asyncio.get_running_loop()  # handed on: to ask for it is a system call in CPython 3.11
        self._tools = Tools(config, store, llm, self.loop, self.now_ms, self._forget, self._linger)
        self._prompt = as_json(config.system_prompt) if config.system_prompt else ""
        self._running: dict[str, Reply] = {}
        self._lingering: set[asyncio.Task[None]] = set()
        self._closing = False
        self._emptied = asyncio.Event()  # once nothing new may begin: the last has ended

    def now_ms(self) -> int:
        """The wall clock in milliseconds since 1970."""
        return int(self._now() * 1000)

    def __len__(self) -> int:
        return len(self._running)

    def __contains__(self, session_id: object) -> bool:
        return session_id in self._running

    @property
    def closing(self) -> bool:
        """Whether the process is shutting down."""
        return self._closing

    def refuse_if_closing(self) -> None:
        """Raises ChatError("shutting_down") once nothing new may begin."""
        if self._closing:
            raise shutting_down()

    def running(self, session_id: str) -> Reply | None:
        """The reply that a session is being given."""
        return self._running.get(session_id)

    def find(self, session_id: str, message_id: str) -> Reply | StoredReply:
        """A running or stored reply of a session; raises ChatError("message_not_found")."""
        reply = self._running.get(session_id)
        if reply and reply.message_id == message_id:
            return reply
        message = self.store.message(session_id, message_id)
        if not message or message.role != "assistant":
            raise ChatError("message_not_found", "There is no such reply in this session.", "message_id")
        return StoredReply(message)

    def known(self, session_id: str, ask: Ask) -> Reply | StoredReply | None:
        """The reply that was already given, or is being given, under the ask's idempotency key.

        Raises ChatError("idempotency_key_reused") if the key was used for something else.
        """
        if not ask.key:
            return None
        reply = self._running.get(session_id)
        if reply and reply.ask.key == ask.key:
            request_hash, message_id = reply.ask.request_hash, reply.message_id
        elif row := self.store.reply_by_key(session_id, ask.key):
            message_id, request_hash = row
        else:
            return None
        if request_hash != ask.request_hash:
            raise ChatError(
                "idempotency_key_reused",
                "This key was used for a different request.",
                "Idempotency-Key",
            )
        return self.find(session_id, message_id)

    def admit(self, session_id: str) -> None:
        """Whether the session may be given a reply, asked before anything is read for it.

        Raises ChatError: session_busy, shutting_down, overloaded, storage_full.
        """
        if running := self._running.get(session_id):
            message = "The session is being given another reply."
            raise ChatError("session_busy", message, extra={"message_id": running.message_id})
        self.refuse_if_closing()
        if len(self._running) >= self.config.max_active_replies:
            raise ChatError("overloaded", "Too many replies are running.", retry_after="1")
        self.store.require_space()

    def start(self, session_id: str, ask: Ask, prompt: str | None, history: str, *, stream: bool) -> Reply:
        """Begins a reply that was admitted; the caller joins it before it awaits anything.

        The LLM is sent the session's own `prompt`, its `history`, both JSON, and what is asked.
        The session counts as used when the reply ends.
        """
        reply = Reply(self._tools, session_id, ask, prompt or self._prompt, history)
        self._running[session_id] = reply
        reply.start(stream=stream)
        return reply

    def _linger(self, task: asyncio.Task[None]) -> None:
        """Remembers the task of a reply that has ended and still has to let go of the LLM."""
        self._lingering.add(task)
        task.add_done_callback(self._lingering.discard)

    def _forget(self, reply: Reply) -> None:
        self._running.pop(reply.session_id, None)
        if self._closing and not self._running:
            self._emptied.set()

    async def drain(self, grace: float, hurry: asyncio.Event) -> None:
        """Begins no more replies and waits for those that run: at most `grace` seconds, or until `hurry`."""
        self._closing = True
        hurried = asyncio.create_task(hurry.wait())
        idle = asyncio.create_task(self._idle())
        await asyncio.wait({hurried, idle}, timeout=grace, return_when=asyncio.FIRST_COMPLETED)
        for task in (hurried, idle):
            task.cancel()
        await asyncio.gather(hurried, idle, return_exceptions=True)

    async def _idle(self) -> None:
        if self._running:
            await self._emptied.wait()

    async def close(self) -> None:
        """Stops what still runs: its text is stored as cancelled, its listeners are told of the shutdown."""
        self._closing = True
        for reply in list(self._running.values()):
            reply.stop(shutting_down())
        for task in self._lingering:
            task.cancel()
        await asyncio.gather(*self._lingering, return_exceptions=True)


def shutting_down() -> ChatError:
    """What clients are told while the process ends."""
    return ChatError("shutting_down", "The server is shutting down.", retry_after="5")
