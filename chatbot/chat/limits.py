"""The limits of a context: those configured, those that the LLM reports, and those learned from refusals.

No source is reliable, so two explanations of refusals are kept for each model: too many tokens, or else too
many messages. Each is kept only until an answer contradicts it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from chatbot.errors import TooLong
from chatbot.llm.chunks import MAX_MODEL_CHARS

MESSAGES, TOKENS, LISTED, REFUSED = (
    "max_context_messages",
    "max_context_tokens",
    "llm_context_size",
    "llm_refused",
)
"""What may limit a context: the two settings, the size that the LLM reports, and what it refused."""

_MAX_ROOM = 4096  # tokens that are kept free for the answer at most, if the request does not say how many
_MAX_MODELS = 1000  # clients choose the names, and some LLM servers answer under any name


class Budget(NamedTuple):
    """How many messages a context may have besides the system prompt, and how many tokens (None: any number).

    The reasons are the words for these limits. `is_strict`: the messages must be in_order().
    """

    messages: int
    tokens: int | None = None
    messages_reason: str = MESSAGES
    tokens_reason: str = TOKENS
    is_strict: bool = False


@dataclass
class _Learned:
    """What is known of a model.

    `size` is the limit of tokens that its error named. The other numbers are the least that was refused and
    the most that was answered. `is_strict`: its template refused the order of some messages.
    """

    size: int | None = None
    refused_tokens: int | None = None
    refused_messages: int | None = None
    answered_tokens: int = 0
    answered_messages: int = 0
    is_strict: bool = False


class ContextLimits:
    """The limits of contexts, learned for each model separately, and kept until the process ends."""

    def __init__(self, max_messages: int, max_tokens: int = 0) -> None:
        self._max_messages = max_messages
        self._max_tokens = max_tokens
        self._models: dict[str, _Learned] = {}

    def budget(self, model: str, fields: Mapping[str, Any], listed: int | None = None) -> Budget:
        """The budget of a request with these fields; `listed`: the model's size in the list of models."""
        known, asked = self._models.get(model) or _Learned(), _asked_room(fields)
        choices, size = [], known.size
        if self._max_tokens:
            choices.append((self._max_tokens, TOKENS))
        elif size is None and listed and listed > known.answered_tokens:
            size = listed
        if size is not None:
            room = asked if asked is not None and asked < size else min(size // 8, _MAX_ROOM)
            choices.append((size - room, LISTED))
        if known.refused_tokens is not None:
            # A sixteenth less: the sizes are estimates.
            choices.append((max(1, known.refused_tokens * 15 // 16 - (asked or 0)), REFUSED))
        tokens, tokens_reason = min(choices) if choices else (None, TOKENS)
        messages, reason = self._max_messages, MESSAGES
        if known.refused_messages is not None and known.refused_messages <= messages:
            messages, reason = max(1, known.refused_messages - 1), REFUSED
        return Budget(messages, tokens, reason, tokens_reason, known.is_strict)

    def refused(
        self, model: str, fields: Mapping[str, Any], messages: int, tokens: int, error: TooLong
    ) -> None:
        """Learns that this size was too long: it is not sent again, whatever limit the error names."""
        if not error.teaches:
            return
        known = self._known(model)
        total = tokens + (_asked_room(fields) or 0)
        if total > known.answered_tokens:
            known.refused_tokens = min(known.refused_tokens or total, total)
        elif messages > known.answered_messages:
            known.refused_messages = min(known.refused_messages or messages, messages)
        else:  # more than that was answered before: the LLM has changed, or our estimate is bad
            known.answered_tokens = known.answered_messages = 0
        if error.limit is not None and error.limit > known.answered_tokens:
            known.size = error.limit

    def sizes_refused(self, model: str) -> tuple[int | None, int | None]:
        """The least tokens and messages that were refused, for unlearn()."""
        known = self._models.get(model) or _Learned()
        return known.refused_tokens, known.refused_messages

    def unlearn(self, model: str, sizes: tuple[int | None, int | None]) -> None:
        """Forgets all that was refused after these sizes."""
        known = self._known(model)
        known.refused_tokens, known.refused_messages = sizes

    def answered(self, model: str, messages: int, tokens: int) -> None:
        """Learns that this size was answered; `tokens` is the LLM's own count if there is one."""
        known = self._known(model)
        known.answered_tokens = max(known.answered_tokens, tokens)
        known.answered_messages = max(known.answered_messages, messages)
        if known.size is not None and tokens > known.size:
            known.size = None
        if known.refused_tokens is not None and tokens >= known.refused_tokens:
            known.refused_tokens = None
        if known.refused_messages is not None and messages >= known.refused_messages:
            known.refused_messages = None

    def refused_order(self, model: str) -> None:
        """Learns that the model's template refused the order of some messages."""
        self._known(model).is_strict = True

    def _known(self, model: str) -> _Learned:
        """What is known of a model, for the caller to update. It is not kept if the name is very long."""
        if len(model) > MAX_MODEL_CHARS:
            return _Learned()
        if model not in self._models and len(self._models) >= _MAX_MODELS:
            del self._models[next(iter(self._models))]
        return self._models.setdefault(model, _Learned())


def _asked_room(fields: Mapping[str, Any]) -> int | None:
    """How many tokens the request allows for the answer; None if it does not say."""
    for name in ("max_completion_tokens", "max_tokens"):
        value = fields.get(name)
        if type(value) is int and value > 0:
            return value
    return None
