"""What an API door sees of a running or stored reply, and what a reply sees of a listener."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from chatbot.chat.reply_log import ReplyLog
from chatbot.errors import ChatError
from chatbot.records import Chunk, Turn


class Listener(Protocol):
    """A client that is being sent a reply."""

    def push(self, burst: Sequence[tuple[Chunk, int]]) -> None:
        """Takes the next chunks, each with the length of the reply (in characters) after that chunk."""

    def wake(self) -> None:
        """Is called when the reply has ended."""


class Outcome(Protocol):
    """The outcome of one answer of the LLM, for log and metrics. A relayed answer has one, too."""

    created_at: int  # when it was asked for, in milliseconds since 1970
    error: ChatError | None
    finish_reason: str | None
    usage: str | None  # the numbers of tokens that the LLM reported (JSON)
    first_token_ms: int | None

    @property
    def model(self) -> str:
        """The name of the model that answers; "" if it is not known."""


class ReplySource(Outcome, Protocol):
    """A reply while it is written and after.

    Once a reply has `ended`, either `error` says why it failed, or `finish_reason` says how it ended and
    `turn` is its turn (with seq 0 if it was not to be stored). If a shutdown cut it off, all three are set.
    """

    session_id: str
    message_id: str
    has_pushed: bool  # whether chunks were pushed to the listeners
    ended: bool

    @property
    def finish_sent(self) -> bool:
        """Whether the last chunks, with the finish_reason, were pushed to the listeners."""

    @property
    def context_messages(self) -> int:
        """How many messages of the conversation the LLM was sent."""

    @property
    def log(self) -> ReplyLog:
        """All of the reply that has arrived. Raises ChatError if the reply was deleted meanwhile."""

    @property
    def turn(self) -> Turn | None:
        """The reply's turn, once there is one. Raises ChatError if the turn was deleted meanwhile."""

    def join(self, listener: Listener) -> None:
        """Adds a listener: it is pushed each chunk and woken at the end, until it leaves.

        The caller must not await between finding a reply and joining it: if the reply has no other listeners,
        it may be stopped meanwhile.
        """

    def leave(self, listener: Listener) -> None:
        """Removes a listener."""

    def stop(self, error: ChatError | None = None) -> None:
        """Ends a running reply with what has arrived. If it is cut off, `error` (if given) is sent."""
