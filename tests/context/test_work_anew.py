"""What an LLM with a prefix cache has to work on anew, compared to a window that slides by one turn."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from chatbot.chat.context import system_message
from chatbot.chat.limits import ContextLimits
from tests.context.conversation import Conversation, assistant, tool, user
from tests.tools.prefix_llm import PrefixLLM

TURNS, WORDS, PROMPT = 80, 30, "Be kind."
Fits = Callable[[PrefixLLM, list[str]], bool]


def begin(messages: int, tokens: int = 0, llm: PrefixLLM | None = None) -> Conversation:
    return Conversation(llm or PrefixLLM(), ContextLimits(messages, tokens), PROMPT)


def sliding(talked: Conversation, fits: Fits) -> int:
    """What has to be worked on anew if each question goes with as many of the newest turns as fit."""
    llm, before = PrefixLLM(), list[list[str]]()
    for turn in talked.turns.values():
        question, answer = turn.messages[0], turn.output or ""
        first = 0
        while not fits(llm, window := [text for one in before[first:] for text in one] + [question]):
            first += 1
        llm.ask([system_message(PROMPT), *window], answer)
        before.append([question, answer])
    return sum(llm.anew)


def share(sent: list[int], allowed: int) -> float:
    """How much of what is allowed is sent, from the first step on."""
    full = next(place for place, size in enumerate(sent) if size >= sent[place + 1])
    return sum(sent[full:]) / len(sent[full:]) / allowed


@pytest.mark.parametrize(("allowed", "times"), [(10, 2.5), (20, 5), (40, 10)])
@pytest.mark.parametrize("restart", [False, True])
def test_with_a_limit_of_messages(allowed: int, times: float, restart: bool) -> None:
    talked = begin(allowed)
    talked.talk(TURNS // 2, WORDS)
    if restart:
        talked.limits = ContextLimits(allowed)
    talked.talk(TURNS // 2, WORDS)
    anew, slid = sum(talked.llm.anew), sliding(talked, lambda _, window: len(window) <= allowed)
    assert slid >= times * anew, (slid, anew)
    assert share([context.count for context in talked.contexts], allowed) >= 0.65


@pytest.mark.parametrize(("allowed", "times"), [(650, 2.5), (1200, 5), (2500, 10)])
def test_with_a_limit_of_tokens(allowed: int, times: float) -> None:
    talked = begin(1000, allowed)
    talked.talk(TURNS, WORDS)
    assert max(talked.llm.prompts) <= allowed
    anew = sum(talked.llm.anew)
    slid = sliding(talked, lambda llm, window: sum(map(llm.count, window)) <= allowed)
    assert slid >= times * anew, (slid, anew)
    assert share(talked.llm.prompts, allowed) >= 0.65


@pytest.mark.parametrize("named", [None, 2500, 512, 10**6])
def test_with_an_llm_that_refuses(named: int | None) -> None:
    talked = begin(1000, llm=PrefixLLM(takes=2500, named=named))
    talked.talk(TURNS, WORDS)
    slid = sliding(talked, lambda llm, window: sum(map(llm.count, window)) <= 2500)
    assert slid >= 8 * sum(talked.llm.anew), (slid, sum(talked.llm.anew))
    assert talked.llm.asks == TURNS + 1, "it refuses once"
    assert share(talked.llm.prompts, 2500) >= 0.6


def test_on_a_branch_the_work_of_the_trunk_is_kept() -> None:
    talked = begin(40)
    talked.talk(30, WORDS)
    anew = []
    for branch in range(5):
        talked.current = 25
        talked.ask(user(f"branch {branch}"), output=assistant("yes"))
        anew.append(talked.llm.anew[-1])
    # The first turn after the point is what the cache of a single slot has lost.
    assert max(anew[1:]) <= 20, anew
    assert talked.contexts[-1].start == talked.contexts[25].start


def test_with_tools() -> None:
    talked = begin(40)
    for number in range(TURNS):
        talked.ask(user(f"Q{number}" + " word" * WORDS), output=assistant(None, f"c{number}"))
        found = tool(f"c{number}", "found" + " word" * WORDS)
        talked.ask(found, output=assistant(f"A{number}" + " word" * WORDS))
    counts = [context.count for context in talked.contexts]
    assert max(counts) <= 40
    assert share(counts, 40) >= 0.65
    assert sum(talked.llm.prompts) >= 8 * sum(talked.llm.anew)


@pytest.mark.parametrize("model", ["m", "n"])
@pytest.mark.parametrize(("messages", "tokens"), [(40, 0), (10_000, 2000)])
def test_models_that_answer_by_turns_have_each_a_beginning(messages: int, tokens: int, model: str) -> None:
    talked, llms = begin(messages, tokens), {name: PrefixLLM() for name in "mn"}
    for number in range(TURNS):
        talked.model = "mn"[number % 2]
        talked.llm = llms[talked.model]
        talked.talk(1, WORDS)
    assert sum(llms[model].prompts) >= 3.5 * sum(llms[model].anew)
    if tokens:
        assert share(llms[model].prompts, tokens) >= 0.65
    else:
        assert share([context.count for context in talked.contexts], messages) >= 0.65
