"""A reply that ended long ago, to those who listen to it or ask for it again."""

from __future__ import annotations

import json
from functools import cached_property

from chatbot.errors import ChatError
from chatbot.store import Message


class StoredReply:
    """A stored reply, with what a listener asks of a `Reply`."""

    ended = True
    finish_told = True
    error: ChatError | None = None
    told_at = 0.0

    def __init__(self, message: Message) -> None:
        self.message: Message | None = message
        self.message_id = message.message_id
        self.created_at = message.created_at

    @cached_property
    def _text(self) -> str:
        assert self.message
        text: str = json.loads(self.message.content)
        self.message = self.message._replace(content="")  # a stream is told the text, and needs no JSON of it
        return text

    @property
    def length(self) -> int:
        """How many characters it has."""
        return len(self._text)

    def text(self, start: int, limit: int) -> str:
        """At most `limit` characters of the text from character `start`."""
        return self._text[start : start + limit]
