"""What an LLM with a prefix cache has to work on anew, compared to a window that slides by one turn."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from chatbot.chat.context import system_message
from chatbot.chat.limits import ContextLimits
from tests.context.conversation import Conversation, assistant, tool, user
from tests.tools.prefix_llm import PrefixLLM

TURNS, WORDS, PROMPT = 80, 30, "Be kind."


def talked(messages: int, tokens: int = 0, llm: PrefixLLM | None = None) -> Conversation:
    conversation = Conversation(llm or PrefixLLM(), ContextLimits(messages, tokens), PROMPT)
    conversation.talk(TURNS, WORDS)
    return conversation


def sliding(conversation: Conversation, fits: Callable[[PrefixLLM, list[str]], bool]) -> int:
    """What has to be worked on anew if each question goes with as many of the newest turns as fit."""
    llm = PrefixLLM()
    turns = [[*turn.messages, turn.output or ""] for turn in conversation.turns.values()]
    for number, (question, answer) in enumerate(turns):
        first = 0
        while not fits(llm, window := [*sum(turns[first:number], []), question]):
            first += 1
        llm.ask([system_message(PROMPT), *window], answer)
    return sum(llm.anew)


def share(sent: list[int], allowed: int) -> float:
    """How much of what is allowed is sent, from the first step on."""
    full = next(place for place, size in enumerate(sent) if size >= sent[place + 1])
    return sum(sent[full:]) / len(sent[full:]) / allowed


@pytest.mark.parametrize(("allowed", "times"), [(10, 2.5), (20, 5.0), (40, 10.0)])
def test_with_a_limit_of_messages(allowed: int, times: float) -> None:
    conversation = talked(allowed)
    anew = sum(conversation.llm.anew)
    slid = sliding(conversation, lambda _, window: len(window) <= allowed)
    assert slid >= times * anew, (slid, anew)
    assert share([context.count for context in conversation.contexts], allowed) >= 0.65


@pytest.mark.parametrize(("allowed", "times"), [(600, 2.5), (1200, 5.0), (2500, 10.0)])
def test_with_a_limit_of_tokens(allowed: int, times: float) -> None:
    conversation = talked(1000, allowed)
    assert max(conversation.llm.prompts) <= allowed
    anew = sum(conversation.llm.anew)
    slid = sliding(conversation, lambda llm, window: sum(map(llm.count, window)) <= allowed)
    assert slid >= times * anew, (slid, anew)
    assert share(conversation.llm.prompts, allowed) >= 0.65
