"""A stored reply, for clients that listen to it or ask for it again."""

from __future__ import annotations

from functools import lru_cache

from chatbot.chat.reply_log import ReplyLog
from chatbot.chat.reply_source import Listener
from chatbot.errors import ChatError, message_gone
from chatbot.records import Turn
from chatbot.storage.store import Store

KEPT_LOGS = 8
"""How many logs of stored replies are kept in memory while clients are sent them, each of at most 4 MiB."""


@lru_cache(KEPT_LOGS)
def _log_of(store: Store, seq: int) -> ReplyLog:
    turn = store.turn(seq)
    return ReplyLog.from_turn(turn) if turn else ReplyLog()


def forget_logs() -> None:
    """Drops the logs in memory; to be called when a stored reply was shortened."""
    _log_of.cache_clear()


class StoredReply:
    """A stored reply, or one that failed in the background. `ReplySource` documents its public attributes.

    Long texts are read when they are needed and not kept here, so memory is bounded with many slow clients.
    """

    has_pushed = finish_sent = ended = True
    context_messages = 0

    def __init__(self, turn: Turn, store: Store, error: ChatError | None = None) -> None:
        self.error = error
        self.session_id = turn.session_id
        self.message_id = turn.turn_id
        self.created_at = turn.asked_at
        self.model = turn.model or ""
        self.finish_reason = turn.finish_reason
        self.usage = turn.token_usage
        self.first_token_ms = turn.first_token_ms
        self._seq = turn.seq
        self._length = 0  # of the log when it was last read
        self._store = store

    @property
    def log(self) -> ReplyLog:
        if self.error:
            return ReplyLog()
        if self._store.has_reply(self._seq):
            log = _log_of(self._store, self._seq)
            if log.length >= self._length:  # else a part of the reply was deleted while a client was sent it
                self._length = log.length
                return log
        forget_logs()  # no deleted text may stay in memory
        raise message_gone()

    @property
    def turn(self) -> Turn | None:
        turn = self._store.turn(self._seq)
        if not turn and not self.error:
            raise message_gone()
        return turn

    # A stored reply has ended, so it does not need its listeners.

    def join(self, listener: Listener) -> None:
        pass

    def leave(self, listener: Listener) -> None:
        pass

    def stop(self, error: ChatError | None = None) -> None:
        pass
