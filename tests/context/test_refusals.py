"""What was refused is not asked for again, whatever the LLM says of its size."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest

from chatbot.chat.limits import Budget, ContextLimits
from chatbot.errors import TooLong
from tests.context.conversation import Conversation, assistant, user
from tests.tools.prefix_llm import PrefixLLM


def refusal(limit: int | None = None, *, is_certain: bool = True) -> TooLong:
    return TooLong("context_too_long", "too long", limit=limit, is_certain=is_certain)


def limits(*refused: tuple[int, int, int | None], tokens: int = 0) -> ContextLimits:
    """Limits that learned of refusals: messages, tokens, and the number that was named."""
    learned = ContextLimits(40, tokens)
    for messages, measured, named in refused:
        learned.refused("m", {}, messages, measured, refusal(named))
    return learned


def test_when_the_size_is_named_the_step_is_to_its_measure() -> None:
    talked = Conversation(PrefixLLM(takes=1000, named=1000), ContextLimits(1000))
    while talked.llm.asks == len(talked.turns):
        talked.talk(1, 30)
    context = talked.contexts[-1]
    assert talked.llm.asks == len(talked.turns) + 1
    assert context.reason == "llm_context_size"
    assert 875 / 2 <= context.tokens <= 875, (
        "half of what is left beside an eighth for the answer, and not less"
    )


def ask_three_hundred(llm: PrefixLLM, limit: int, words: Sequence[int], *, reports: bool = True) -> None:
    """Asks in five sessions, in messages of so many words; with `reports`, the LLM says what it counted."""
    drawn, learned = random.Random(7), ContextLimits(limit)
    for session in range(5):
        talked = Conversation(llm, learned, f"Be kind to {session}.", reports=reports)
        for number in range(60):
            text = " word" * drawn.choice(words)
            talked.ask(user(f"Q{number}{text}"), output=assistant(f"A{text}"))


@pytest.mark.parametrize("named", [None, 512, 3, 10**6])
@pytest.mark.parametrize(
    ("words", "reports", "sent"),
    [([30], True, 7), (range(1, 61), True, 7), ([1, 1, 1, 200], False, 5)],
    ids=["alike", "varied", "not counted, and some are long"],
)
def test_an_llm_that_takes_11_messages_is_asked_once_a_question(
    named: int | None, words: Sequence[int], reports: bool, sent: int
) -> None:
    llm = PrefixLLM(takes_messages=12, named=named)
    ask_three_hundred(llm, 40, words, reports=reports)
    assert llm.asks <= 300 * 1.03, llm.asks
    assert sum(llm.counts) / len(llm.counts) >= sent, "and is sent most of what it takes"


@pytest.mark.parametrize("named", [None, 2000, 900])
def test_an_llm_that_takes_so_many_tokens_is_asked_once_a_question(named: int | None) -> None:
    llm = PrefixLLM(takes=2000, named=named)
    ask_three_hundred(llm, 1000, [1, 10, 100])
    assert llm.asks <= 300 * 1.03, llm.asks
    assert sum(llm.prompts) / len(llm.prompts) >= 0.5 * 2000


def test_other_models_are_other_llms() -> None:
    learned = limits((9, 1000, 900))
    assert learned.budget("m", {}).tokens is not None
    assert learned.budget("n", {}) == Budget(40)


@pytest.mark.parametrize(
    ("fields", "listed", "expected"),
    [
        ({}, 8000, 7000),
        ({}, 100_000, 100_000 - 4096),
        ({"max_tokens": 500}, 8000, 7500),
        ({"max_tokens": 500, "max_completion_tokens": 2000}, 8000, 6000),
        ({"max_tokens": 9000}, 8000, 7000),
        ({"max_tokens": None}, 8000, 7000),
        ({"max_tokens": True}, 8000, 7000),
        ({}, None, None),
    ],
)
def test_room_is_left_for_the_answer(
    fields: dict[str, Any], listed: int | None, expected: int | None
) -> None:
    assert ContextLimits(40).budget("m", fields, listed).tokens == expected


def test_the_setting_wins_over_what_the_list_says_and_a_refusal_over_both() -> None:
    assert limits(tokens=5000).budget("m", {}, 4000).tokens == 5000
    assert limits((9, 4500, 4000), tokens=5000).budget("m", {}, 8000) == Budget(
        40, 3500, tokens_reason="llm_context_size"
    )
    assert limits((9, 4500, None), tokens=5000).budget("m", {}) == Budget(
        40, 4500 * 15 // 16, tokens_reason="llm_refused"
    )


def test_what_was_refused_with_room_for_a_long_answer_may_go_with_less() -> None:
    learned = ContextLimits(40)
    learned.refused("m", {"max_tokens": 3000}, 9, 2000, refusal())
    assert (learned.budget("m", {"max_tokens": 3000}).tokens or 0) < 2000
    assert (learned.budget("m", {}).tokens or 0) > 4000


def test_nothing_is_learned_of_what_may_have_been_something_else() -> None:
    learned = ContextLimits(40)
    learned.refused("m", {}, 9, 1000, refusal(900, is_certain=False))
    assert learned.budget("m", {}) == Budget(40)


def test_what_is_answered_disproves_what_was_learned() -> None:
    learned = limits((9, 1000, 900))
    learned.answered("m", 9, 1200)
    assert learned.budget("m", {}) == Budget(40)
    assert learned.budget("m", {}, 1000) == Budget(40), "nor is the list"
    learned.refused("m", {}, 9, 1500, refusal(900))
    assert learned.budget("m", {}).tokens == 1500 * 15 // 16, "a number that is wrong is not believed again"


def test_an_llm_that_was_replaced_by_a_smaller_one_is_noticed() -> None:
    learned = ContextLimits(40)
    learned.answered("m", 39, 8000)
    learned.refused("m", {}, 39, 6000, refusal())
    assert learned.budget("m", {}) == Budget(40), "it took more before"
    learned.refused("m", {}, 19, 3000, refusal())
    assert learned.budget("m", {}).tokens == 3000 * 15 // 16


def test_so_many_models_are_remembered() -> None:
    learned = ContextLimits(40)
    for number in range(5000):
        learned.answered(f"m{number}", 1, 10)
    assert len(learned._models) == 1000


def test_of_a_model_whose_name_is_a_book_nothing_is_kept() -> None:
    """Some LLM servers answer under any name: a thousand of 8 MiB would be kept for ever."""
    learned = ContextLimits(9)
    for number in range(3):
        learned.refused(f"{number}" * 300, {}, 9, 1000, refusal(900))
        learned.answered(f"{number}" * 300, 5, 100)
    assert not learned._models
