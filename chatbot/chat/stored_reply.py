"""A reply that is stored, for clients that listen to it or ask for it again."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, lru_cache

from chatbot.chat.reply_log import ReplyLog
from chatbot.chat.reply_source import Listener
from chatbot.errors import ChatError, message_gone
from chatbot.records import Turn

KEPT_LOGS = 8
"""How many stored replies are kept in memory for those who are being sent them: of 4 MiB at most each."""


class StoredTurns:
    """Reads turns of the store by their numbers, with its `turn` and `has_reply`.

    A stored reply asks here each time and keeps nothing, so that many slow clients cost bounded memory.
    """

    def __init__(self, read: Callable[[int], Turn | None], has_reply: Callable[[int], bool]) -> None:
        self._read = read
        self._has_reply = has_reply
        self._logs = lru_cache(KEPT_LOGS)(lambda seq: ReplyLog.from_turn(self.turn(seq)))

    def turn(self, seq: int) -> Turn:
        """The turn `seq`; raises ChatError if it was deleted."""
        if turn := self._read(seq):
            return turn
        raise message_gone()

    def log(self, seq: int) -> ReplyLog:
        """The log of the turn's reply; raises ChatError if it was deleted."""
        if self._has_reply(seq):
            return self._logs(seq)
        self._logs.cache_clear()  # so that no deleted text stays in memory
        raise message_gone()


class StoredReply:
    """A stored reply: a `ReplySource`, which explains what it shows. Long texts are read when needed."""

    has_pushed = finish_sent = ended = True
    error: ChatError | None = None
    context_messages = 0

    def __init__(self, turn: Turn, turns: StoredTurns) -> None:
        self.session_id = turn.session_id
        self.message_id = turn.turn_id
        self.created_at = turn.asked_at
        self.model = turn.model or ""
        self.finish_reason = turn.finish_reason
        self.usage = turn.token_usage
        self.first_token_ms = turn.first_token_ms
        self._seq = turn.seq
        self._turns = turns

    @property
    def log(self) -> ReplyLog:
        return self._turns.log(self._seq)

    @cached_property
    def length(self) -> int:
        return self.log.length

    @property
    def turn(self) -> Turn | None:
        return self._turns.turn(self._seq)

    # Nothing will come any more, and nobody is missed.

    def join(self, listener: Listener) -> None:
        pass

    def leave(self, listener: Listener) -> None:
        pass

    def stop(self, error: ChatError | None = None) -> None:
        pass
