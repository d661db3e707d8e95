"""One reply while it is written: its task, its log, its listeners, its end.

The rules:

1. A reply does not belong to its client. It runs in its own task; clients start and stop listening to it.
2. A reply's log holds all that has arrived. A listener is an offset in the log, so it cannot slow the reply.
3. A turn is whole or absent. Its new messages and its answer are stored as one row at the end. So a reply
   that fails leaves no trace, and its idempotency key can be used again.
4. A reply ends once. Its end is decided (`_decide`) and stored (`_write`) with no await in between. A cancel
   or a chunk that comes later changes nothing. If the file is locked, the write is retried for 5 s; in this
   time a cancel changes nothing, but a deletion discards the reply.
5. A reply that is stopped was paid for, so what has arrived is stored:
   - as finished, if the LLM has sent a finish_reason, and either its whole answer or more than reasoning;
   - as cancelled otherwise, even if the reasoning or a tool call is incomplete.
   Nothing is stored if the reply failed, or if it was stopped before its first character.
6. A reply follows its parent turn, or begins the conversation. If the parent is deleted together with all
   turns that follow it, the reply is discarded.

    asking ──first chunk──> streaming ──the LLM ended, it was stopped, or the log is full──> storing ──> ended
       └──────────────────────────┴────────────────────── it failed ────────────────────────────┴──────> ended
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

from chatbot.chat.asking import Asking
from chatbot.chat.reply_log import ReplyLog
from chatbot.chat.reply_source import Listener
from chatbot.errors import ChatError, crashed, file_locked, without_frames
from chatbot.ids import new_turn_id
from chatbot.records import Chunk, Turn, as_json
from chatbot.storage.database import Locked, when_unlocked
from chatbot.storage.store import Store

logger = logging.getLogger(__name__)


class Reply:
    """A reply while it is written. It is a `ReplySource`, which documents its public attributes.

    `on_end` is called when the reply has ended. `keep_until_done` is called with a task that must still close
    the connection to the LLM, or write to the database.
    """

    def __init__(
        self,
        asking: Asking,
        *,
        grace: float,
        store: Store,
        clock: Callable[[], float],
        on_end: Callable[[Reply], None],
        keep_until_done: Callable[[asyncio.Task[None]], None],
    ) -> None:
        self.question = asking.question
        self.session_id = self.question.session_id
        self.created_at = int(clock() * 1000)
        self.message_id = new_turn_id(self.created_at)
        self.has_pushed = self.finish_sent = self.ended = False
        self.error: ChatError | None = None
        self.finish_reason: str | None = None
        self.usage: str | None = None
        self.first_token_ms: int | None = None
        self.log = ReplyLog()
        self.turn: Turn | None = None
        self._asking = asking
        self._grace = grace
        self._store = store
        self._clock = clock
        self._on_end = on_end
        self._keep_until_done = keep_until_done
        self._loop = asyncio.get_running_loop()
        self._asked_at = self._loop.time()
        self._is_decided = False  # whether the end is decided
        self._writing: asyncio.Task[None] | None = None
        self._listeners: tuple[Listener, ...] = ()
        self._grace_timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = self._loop.create_task(self._run(), name="reply")

    # Its life

    async def _run(self) -> None:
        try:
            await self._asking.run(self._take)
            # Without a finish_reason `_take` has refused chunks: the end is decided, and this does nothing.
            self._finish(self._asking.answer.reader.finish_reason or "")
        except ChatError as error:
            logger.warning("reply %s failed: %s", self.message_id, error.code)
            self._fail(error)
        except Exception as error:
            logger.exception("reply %s crashed", self.message_id)
            self._fail(crashed(error))

    def _take(self, chunks: list[Chunk]) -> bool:
        """Appends chunks to the log and pushes them to the listeners; returns False to get no more chunks."""
        if self._is_decided:
            return False
        log, burst = self.log, []
        for chunk in chunks:
            if not log.append(chunk.pieces):
                self._finish("length")  # listeners read the last characters from the log
                return False
            burst.append((chunk, log.length))
        for listener in self._listeners:
            listener.push(burst)
        self.has_pushed = True
        self.finish_sent = self._asking.answer.is_complete
        if self.first_token_ms is None and log.length:
            self.first_token_ms = round((self._loop.time() - self._asked_at) * 1000)
        return True

    # Its end

    def stop(self, error: ChatError | None = None) -> None:
        """Ends the reply with what has arrived. Listeners are sent `error`, if given, if this cuts it off."""
        finish_reason = self._asking.answer.reader.finish_reason
        if finish_reason and (self.log.has_answer or self.finish_sent):
            self._finish(finish_reason)
        elif self.log.length:
            self._finish("cancelled", error)
        else:
            words = "The reply was cancelled before its first word."
            self._fail(error or ChatError("reply_cancelled", words))

    def discard(self, error: ChatError) -> None:
        """Ends the reply and stores nothing, even if its write is waiting for a locked file."""
        self._fail(error)
        if self._writing:
            self._writing.cancel()
            self._announce_end(error)

    def _finish(self, finish_reason: str, error: ChatError | None = None) -> None:
        """Ends the reply with a turn, and sends listeners `error`, if given. No-op if the end is decided."""
        if not self.log.length:  # nothing fitted into the log, as when a tool's name has megabytes
            self._fail(ChatError("llm_error", "The LLM server sent a reply without an answer."))
        elif self._decide():
            turn = self._new_turn(finish_reason)
            try:
                self._write(turn, error)
            except Locked:
                self._writing = self._write_later(lambda: self._write(turn, error))

    def _fail(self, error: ChatError) -> None:
        """Ends the reply without a turn. No-op if the end is decided."""
        if self._decide():
            self._announce_end(error)

    def _decide(self) -> bool:
        """Decides the end: from now on no chunk is taken. Returns False if it was decided before."""
        if self._is_decided:
            return False
        self._is_decided = True
        if self._grace_timer:
            self._grace_timer.cancel()
        # The reply must not keep the task: a cancelled task holds its exception, whose frames hold the reply.
        task, self._task = self._task, None
        if task and task is not asyncio.current_task():
            task.cancel()
            self._keep_until_done(task)
        self.usage = self._asking.answer.reader.usage
        return True

    def _new_turn(self, finish_reason: str) -> Turn:
        asking, question = self._asking, self.question
        return Turn(
            seq=0,
            session_id=question.session_id,
            parent=question.parent,
            turn_id=self.message_id,
            asked_at=self.created_at,
            replied_at=int(self._clock() * 1000),
            finish_reason=finish_reason,
            context_start=asking.context_start,
            context_key=asking.context_key,
            model=asking.model or None,
            first_token_ms=self.first_token_ms,
            token_usage=self.usage,
            idempotency_key=question.key_hash or None,
            request_hash=question.request_hash or None,
            response_id=question.response_id,
            response=question.response,
            input="\n".join(question.input),
            **self.log.to_columns(),
        )

    def _write_later(self, write: Callable[[], None]) -> asyncio.Task[None]:
        """Writes as soon as the file is unlocked. If it stays locked, the reply ends with an error."""

        async def write_when_unlocked() -> None:
            try:
                with suppress(ChatError):  # the file stays locked, or the disk is full
                    await when_unlocked(write)
            finally:
                self._announce_end(file_locked())  # no-op if the reply has ended

        task = self._loop.create_task(write_when_unlocked())
        self._keep_until_done(task)
        return task

    def _write(self, turn: Turn, error: ChatError | None) -> None:
        """Writes the turn and announces the end. Raises Locked."""
        try:
            seq = 0
            if self.question.stored:
                seq = self._store.add_turn(turn, if_at_parent=not self.question.occupies)
            self.turn, self.finish_reason = turn._replace(seq=seq), turn.finish_reason
        except Locked:
            raise
        except ChatError as failure:
            error = failure
        except Exception as failure:
            logger.exception("reply %s could not be stored", self.message_id)
            error = crashed(failure)
        self._announce_end(error)

    def _announce_end(self, error: ChatError | None) -> None:
        """Reports to the listeners and the registry that the reply has ended."""
        if self.ended:
            return
        self.error = without_frames(error) if error else None
        self.ended = True
        for listener in self._listeners:
            listener.wake()
        self._on_end(self)
        if not (self.turn and self.turn.seq):
            # Storing a turn marks the session as used, but no turn was stored.
            self._note_failure()
            with suppress(ChatError):  # the disk is full
                self._store.touch(self.session_id, int(self._clock() * 1000))

    # Its listeners

    def join(self, listener: Listener) -> None:
        if self._grace_timer:
            self._grace_timer.cancel()
        self._listeners += (listener,)

    def leave(self, listener: Listener) -> None:
        """Removes a listener. After the last one and the grace period, a reply is stopped unless detached."""
        self._listeners = tuple(other for other in self._listeners if other is not listener)
        if self._listeners or self._is_decided or self.question.detached:
            return
        if self._grace:
            self._grace_timer = self._loop.call_later(self._grace, self.stop)
        else:
            self.stop()

    # What other modules read

    @property
    def listeners(self) -> int:
        """How many clients listen to the reply."""
        return len(self._listeners)

    @property
    def model(self) -> str:
        return self._asking.model

    @property
    def context_messages(self) -> int:
        return self._asking.context_messages

    # Only for OpenAI's door

    def _note_failure(self) -> None:
        """Stores the failure of a response that was accepted in the background."""
        response_id = self.question.response_id
        if self.question.detached and response_id and self.error:
            failed_of = as_json(self.error.to_object()["error"])
            self._write_later(lambda: self._store.fail_background(response_id, failed_of))
