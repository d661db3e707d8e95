"""One running reply: its task, its text, its listeners, its end.

The rules:

1. A reply belongs to nobody who asked for it. It runs in its own task; requests listen to it, come
   and go. A session has at most one that runs.
2. A reply ends once (`_settle`), and its end is decided and stored in the same breath, with no await
   between: whoever comes later, be it a cancel, a client or the LLM, finds it ended.

       ASKING ──first frame──> TELLING ──┬─ the LLM finished ──────────────> stored, its finish_reason
         │                        │      ├─ its text passed 4 MiB ─────────> stored, "length"
         │                        │      └─ cancelled, nobody listened for
         │                        │         the grace, or shutdown ────────> stored, "cancelled"
         └── any of these without a word of text, an error of the LLM, ──────> absent, an error is told
             a deleted session, a rewound message

3. A turn is whole or absent: the question and the reply are stored as one row at the end, so what
   fails leaves no trace and frees its idempotency key.
4. The text is the log. A listener is at an offset in it; one that falls behind, comes back or comes
   late is given the text from there. So there are no queues, and no listener can slow the reply.
5. A cancelled reply whose finish_reason was already told is complete: it is stored as finished.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from chatbot import context, sse
from chatbot.answers import Answer
from chatbot.config import Config
from chatbot.errors import ChatError, TooLong
from chatbot.frames import Frame
from chatbot.ids import new_message_id
from chatbot.llm import LLM
from chatbot.store import Message, Store
from chatbot.text import Text, as_json

log = logging.getLogger(__name__)

MAX_REPLY_BYTES = 4 * 1024 * 1024


class Ask(NamedTuple):
    """What a client asks: its message, fields that go to the LLM as they are, and how to know it again.

    `message` is JSON text. Without an idempotency key `key` and `request_hash` are "".
    """

    message: str
    options: Mapping[str, Any]
    key: str = ""
    request_hash: str = ""


class Tools(NamedTuple):
    """What a reply works with; `now_ms` is the wall clock in milliseconds since 1970.

    `on_end` is told each reply that has ended, `linger` the task of one that has still to let go of the LLM.
    """

    config: Config
    store: Store
    llm: LLM
    loop: asyncio.AbstractEventLoop
    now_ms: Callable[[], int]
    on_end: Callable[[Reply], None]
    linger: Callable[[asyncio.Task[None]], None]


class Listener(Protocol):
    """One who is told the reply as it comes."""

    def push(self, data: bytes, offset: int) -> None:
        """Takes the next frames, after which `offset` characters are delivered; b"" for mere text."""

    def wake(self) -> None:
        """Notices that the reply has ended."""


class Reply:
    """A reply while it is written.

    `created_at` is when it was asked for; `context_messages` how many messages the LLM was sent; `told_at`
    when listeners last were told something (loop time; 0.0: not yet), `finish_told` whether the LLM's
    finish_reason was among it. Once `ended`, `message` is what was stored, and `error` what listeners are
    told instead of [DONE]; at shutdown both are set.
    """

    def __init__(self, tools: Tools, session_id: str, ask: Ask, prompt: str, history: str) -> None:
        self.session_id = session_id
        self.ask = ask
        self.created_at = tools.now_ms()
        self.message_id = new_message_id(self.created_at)
        self.context_messages = 0
        self.told_at = 0.0
        self.finish_told = False
        self.message: Message | None = None
        self.error: ChatError | None = None
        self.ended = False
        self._tools = tools
        self._loop = tools.loop
        self._prompt = prompt
        self._history = history  # until it is sent
        self._answer: Answer | None = None
        self._task: asyncio.Task[None] | None = None
        self._text = Text()
        self._listeners: tuple[Listener, ...] = ()
        self._abandon: asyncio.TimerHandle | None = None

    @property
    def length(self) -> int:
        """How many characters of it have come."""
        return self._text.length

    def text(self, start: int, limit: int) -> str:
        """At most `limit` characters of the text from character `start`."""
        return self._text.whole()[start : start + limit]

    # Its audience

    def join(self, listener: Listener) -> None:
        """From now on the `listener` is told each frame and the end, until it leaves."""
        if self._abandon:
            self._abandon.cancel()
            self._abandon = None
        self._listeners += (listener,)

    def leave(self, listener: Listener) -> None:
        """The `listener` goes; when the last has, the reply goes on for the grace and is then stopped."""
        listeners = list(self._listeners)  # a copy: one may go while all are being told
        listeners.remove(listener)
        self._listeners = tuple(listeners)
        if not self._listeners and not self.ended:
            grace = self._tools.config.disconnect_grace_seconds
            if grace:
                self._abandon = self._loop.call_later(grace, self.stop)
            else:
                self.stop()

    # Its ends

    def stop(self, error: ChatError | None = None) -> None:
        """Ends the reply with the text that has come, as cancelled; listeners are told `error` if given.

        One whose finish_reason was told is complete, and ends as such.
        """
        if self._answer and self._answer.said.finish_reason and self.length:
            self._settle(self._answer.said.finish_reason)
        else:
            self._settle("cancelled", error)

    def discard(self, error: ChatError) -> None:
        """Ends the reply and stores nothing of it."""
        self._settle(None, error)

    def _settle(self, finish_reason: str | None, error: ChatError | None = None) -> None:
        if self.ended:
            return
        if finish_reason and not self.length:
            if finish_reason == "cancelled":
                error = error or ChatError(
                    "reply_cancelled", "The reply was cancelled before its first word."
                )
            else:
                error = ChatError("llm_error", "The LLM server sent a reply without text.")
        elif finish_reason:
            try:
                self.message = self._store(finish_reason)
            except ChatError as full:
                error = full
            except Exception:
                log.exception("reply %s could not be stored", self.message_id)
                error = ChatError("internal_error", "Internal error.")
        if not self.message:
            try:
                self._tools.store.touch(self.session_id, self._tools.now_ms())
            except ChatError:
                pass  # a full disk
            except Exception:
                log.exception("session of reply %s could not be marked as used", self.message_id)
        if error:
            error.__traceback__ = error.__context__ = None  # whose frames hold the reply
        self.error = error
        self.ended = True
        self._tools.on_end(self)
        if self._abandon:
            self._abandon.cancel()
        # Not kept here: a cancelled task holds its exception, whose frames hold this.
        task, self._task = self._task, None
        if task and task is not asyncio.current_task():
            task.cancel()
            self._tools.linger(task)
        elif task and not (self._answer and self._answer.is_over):
            self._tools.linger(task)  # this task itself, which will not end at once
        for listener in self._listeners:
            listener.wake()

    def _store(self, finish_reason: str) -> Message:
        ask, text, now = self.ask, as_json(self._text.whole()), self._tools.now_ms()
        usage = self._answer.said.usage if self._answer else None
        question = Message(new_message_id(self.created_at), "user", ask.message, self.created_at)
        reply = Message(self.message_id, "assistant", text, now, usage, finish_reason)
        self._tools.store.add_turn(self.session_id, question, reply, ask.key, ask.request_hash)
        return reply

    # Its life

    def start(self, *, stream: bool) -> None:
        """Begins to ask the LLM, with or without streaming."""
        self._task = self._loop.create_task(self._run(stream), name="reply")

    async def _run(self, stream: bool) -> None:
        try:
            await self._ask(stream)
        except ChatError as error:
            log.warning("reply %s failed: %s", self.message_id, error.code)
            self._settle(None, error)
        except asyncio.CancelledError:
            self.stop()  # no-op unless the task was cancelled from outside, with the whole loop
            raise
        except Exception:
            log.exception("reply %s crashed", self.message_id)
            self._settle(None, ChatError("internal_error", "Internal error."))

    async def _ask(self, stream: bool) -> None:
        """Asks with less and less of the conversation until it fits."""
        while True:
            turns = context.count_turns(self._history)
            self.context_messages = 2 * turns + 1
            try:
                self._answer = await self._tools.llm.ask(self._messages(), self.ask.options, stream=stream)
                return await self._pass_on(self._answer)
            except TooLong:
                if self.told_at or not turns:
                    raise
            self._history = self._tools.store.history(self.session_id, turns // 2)

    def _messages(self) -> str:
        # A reply may run for long, and the conversation be long: nothing of it is kept.
        history, self._history = self._history, ""
        return context.messages(self._prompt, history, self.ask.message)

    async def _pass_on(self, answer: Answer) -> None:
        try:
            await answer.deliver(self._take)
            self._settle(answer.said.finish_reason)
            if not answer.is_over:
                await answer.finish()
        finally:
            answer.close()

    def _take(self, frames: list[Frame]) -> None:
        """Takes what the LLM said into the text, and tells the listeners, in the same breath."""
        if self.ended:
            return
        events, whole = [], self._text
        for payload, text in frames:
            if text:
                whole.append(text)
                if whole.size > MAX_REPLY_BYTES:
                    whole.cut(MAX_REPLY_BYTES)
                    self._settle("length")  # listeners catch up from the log
                    return
            if payload:
                events.append(sse.frame(whole.length, payload))
        data = events[0] if len(events) == 1 else b"".join(events)
        for listener in self._listeners:
            listener.push(data, whole.length)
        assert self._answer
        self.told_at = self._answer.silence.heard_at
        if self._answer.said.finish_reason:
            self.finish_told = True
