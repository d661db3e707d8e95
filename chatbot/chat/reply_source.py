"""What a door sees of a reply, be it one that runs or a stored one, and what a reply sees of a listener."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from chatbot.chat.reply_log import ReplyLog
from chatbot.errors import ChatError
from chatbot.records import Chunk, Turn


class Listener(Protocol):
    """A client that is being sent a reply."""

    def push(self, burst: Sequence[tuple[Chunk, int]]) -> None:
        """Takes the next chunks, each with how many characters of the reply have come after it."""

    def wake(self) -> None:
        """Notices that the reply has ended."""


class Outcome(Protocol):
    """What became of an answer of the LLM, as log and metrics have it; also of one that is only relayed."""

    created_at: int  # when it was asked for, in milliseconds since 1970
    error: ChatError | None
    finish_reason: str | None
    usage: str | None  # how many tokens it took, as the LLM says (JSON)
    first_token_ms: int | None

    @property
    def model(self) -> str:
        """Which of the LLM's models answers; "" if that is not known."""


class ReplySource(Outcome, Protocol):
    """A reply while it is written and after.

    Once `ended`, either `error` says why it came to nothing, or `finish_reason` how it ended and `turn` what
    was stored (its seq is 0 if it was not to be). Of a reply that shutdown cut short, all three are set.
    """

    session_id: str
    message_id: str
    has_pushed: bool  # something, to its listeners
    ended: bool

    @property
    def finish_sent(self) -> bool:
        """Whether its last chunks were pushed, with the finish_reason."""

    @property
    def context_messages(self) -> int:
        """How many messages the LLM was sent."""

    @property
    def log(self) -> ReplyLog:
        """All that it consists of so far. Raises ChatError if it was deleted meanwhile."""

    @property
    def turn(self) -> Turn | None:
        """Its turn, once there is one. Raises ChatError if it was deleted meanwhile."""

    def join(self, listener: Listener) -> None:
        """From now on the `listener` is pushed each chunk and woken at the end, until it leaves.

        Nothing may be awaited between finding a reply and this: if all other listeners have left it, it may
        be stopped meanwhile.
        """

    def leave(self, listener: Listener) -> None:
        """The `listener` goes."""

    def stop(self, error: ChatError | None = None) -> None:
        """Ends a reply that runs, with what has come; listeners are sent `error`, if given."""
