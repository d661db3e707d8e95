"""What the LLM is sent of a conversation: whole turns from a beginning that stands still. Pure functions.

How a reply uses it, `path` being store.path_up(session_id, parent):

    head = Head.of(model, fields, [system_message(prompt)])
    context = plan(path, said, head, limits.budget(model, fields, listed))
    while True:
        try:
            answer = await llm.ask(context.messages, fields)
        except TooLong as error:
            limits.refused(model, fields, context.size, error)
            context = shrink(context, limits.budget(model, fields, listed), error)  # raises it when nothing is left
    turn.context_start, turn.context_key = context.start, context.key; limits.accepted(model, context.size, usage)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from chatbot.chat.limits import Budget, Sent
from chatbot.errors import TooLong
from chatbot.records import Turn

WHOLE = "whole conversation"


class Head(NamedTuple):
    """What stands before the turns: the system messages (JSON); `key` tells whether it is the same as before."""

    messages: tuple[str, ...]
    key: str
    size: int

    @classmethod
    def of(cls, model: str, fields: Mapping[str, Any], messages: Iterable[str]) -> Head:
        """The head of a request; of its `fields` the tools stand before the turns too."""
        raise NotImplementedError


class Context:
    """What is sent. `messages` are JSON texts, the head's first.

    `count` is how many there are besides the head's, `turns` of how many turns, `start` the first of these
    (its seq; None: there is none), `first` the id of the first message, `key` what the turn keeps as context_key, `reason`
    why it begins there (WHOLE, or a word of limits.py), `tokens` about how many tokens all of it measures.
    """

    messages: list[str]
    count: int
    turns: int
    start: int | None
    first: str | None
    key: str
    reason: str
    tokens: int
    size: Sent


def system_message(content: str) -> str:
    """A system message as JSON."""
    raise NotImplementedError


def plan(
    path: Iterable[Turn], said: Sequence[str], head: Head, budget: Budget, *, send_reasoning: bool = False
) -> Context:
    """What is sent with what is newly `said` (JSON messages; none: what the next question would be sent).

    `path` is the conversation from its newest turn upwards, and is read only as far as needed.
    """
    raise NotImplementedError


def shrink(context: Context, budget: Budget, error: TooLong) -> Context:
    """The context without its older half, after the LLM refused it; raises the error if nothing is left to drop."""
    raise NotImplementedError


def open_calls(turn: Turn) -> list[str]:
    """The ids of the tool calls of a turn that wait for their outputs: those that the LLM would be sent."""
    raise NotImplementedError
