"""What an LLM takes: the limits of its contexts, as configured, as its server says, and as its refusals teach."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from chatbot.errors import TooLong

MESSAGES, TOKENS, LISTED, REFUSED = (
    "max_context_messages",
    "max_context_tokens",
    "llm_context_size",
    "llm_refused",
)
"""What may limit a context: the two settings, what the LLM says that it takes, and what it refused."""


class Budget(NamedTuple):
    """What a context may be: so many messages besides the system prompt, so many tokens in all (None: any).

    The reasons are the words for what limits it.
    """

    messages: int
    tokens: int | None = None
    messages_reason: str = MESSAGES
    tokens_reason: str = TOKENS


class Sent(NamedTuple):
    """The size of a context: how many messages besides the system prompt, and about how many tokens."""

    messages: int
    tokens: int


class ContextLimits:
    """The limits of contexts, learned for as long as the process lives, for each model apart."""

    def __init__(self, max_messages: int, max_tokens: int = 0) -> None:
        raise NotImplementedError

    def budget(self, model: str, fields: Mapping[str, Any], listed: int | None) -> Budget:
        """What a context may be for a request with these fields; `listed`: what the list of models says."""
        raise NotImplementedError

    def refused(self, model: str, fields: Mapping[str, Any], sent: Sent, error: TooLong) -> None:
        """Learns that so much was too long: it is not asked for again, whatever number the words name."""
        raise NotImplementedError

    def accepted(self, model: str, sent: Sent, usage: str | None) -> None:
        """Learns that so much was answered; `usage` is the LLM's own count, as JSON, if it gave one."""
        raise NotImplementedError
