"""A reply that ended long ago, for those who listen to it or ask for it again."""

from __future__ import annotations

from collections import OrderedDict

from chatbot.chat.reply_log import ReplyLog
from chatbot.chat.reply_source import Listener
from chatbot.errors import ChatError
from chatbot.records import Turn
from chatbot.storage.store import Store

CACHE_BYTES = 32 * 1024 * 1024
"""How much of stored replies is kept in memory for those who are being sent them."""


class LogCache:
    """The logs of stored replies that were read last.

    A stored reply asks here each time and keeps nothing: so many slow clients cost bounded memory.
    """

    def __init__(self, store: Store, max_bytes: int = CACHE_BYTES) -> None:
        self._store = store
        self._room = max_bytes
        self._logs: OrderedDict[int, ReplyLog] = OrderedDict()  # the one that was read last is last

    def log(self, seq: int) -> ReplyLog:
        """The log of the turn `seq`; raises ChatError if it was deleted."""
        if log := self._logs.get(seq):
            self._logs.move_to_end(seq)
            return log
        log = self._logs[seq] = ReplyLog.from_turn(self.turn(seq))
        self._room -= log.size
        while self._room < 0 and len(self._logs) > 1:
            _, oldest = self._logs.popitem(last=False)
            self._room += oldest.size
        return log

    def turn(self, seq: int) -> Turn:
        """The turn `seq`, which is not kept; raises ChatError if it was deleted."""
        if turn := self._store.turn(seq):
            return turn
        raise ChatError("message_not_found", "The message was deleted.", "message_id")


class StoredReply:
    """A stored reply as a `ReplySource`; its long texts are read when they are needed."""

    started = finish_sent = ended = True
    error: ChatError | None = None
    context_messages = 0

    def __init__(self, turn: Turn, cache: LogCache) -> None:
        self.session_id = turn.session_id
        self.message_id = turn.turn_id
        self.created_at = turn.asked_at
        self.model = turn.model or ""
        self.finish_reason = turn.finish_reason
        self.usage = turn.token_usage
        self.first_token_ms = turn.first_token_ms
        self.request_hash = turn.request_hash
        self._seq = turn.seq
        self._cache = cache
        self._length: int | None = None

    @property
    def log(self) -> ReplyLog:
        """All that it consists of. Raises ChatError if it was deleted meanwhile."""
        return self._cache.log(self._seq)

    @property
    def length(self) -> int:
        """How many characters it has."""
        if self._length is None:
            self._length = self.log.length
        return self._length

    @property
    def turn(self) -> Turn | None:
        """Its turn, read anew. Raises ChatError if it was deleted meanwhile."""
        return self._cache.turn(self._seq)

    def join(self, listener: Listener) -> None:
        """Nothing will come any more."""

    def leave(self, listener: Listener) -> None:
        """Nobody is missed."""

    def stop(self, error: ChatError | None = None) -> None:
        """It has ended."""
