"""A context stays within its tokens by the LLM's own counts, whatever the language and the tokenizer."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatbot.chat.context import WHOLE, Context
from chatbot.chat.limits import ContextLimits
from chatbot.chat.tokens import length_of
from tests.context.conversation import Conversation, assistant, user
from tests.tools.prefix_llm import PrefixLLM, by_length

CONVERSATIONS = int(os.environ.get("CONVERSATIONS", "60"))
"""How many conversations are tried; 1000 by the long run."""

LANGUAGES = ["some words of it ", "가나다 라마바사 ", "ሀለሐ መሠረሰ ", "กขค งจฉช ", "слово за слово ", "😀😃 "]


def tokenizer(characters: float) -> Callable[[str], int]:
    """So many characters a token, up to twice as many from one text to another, and four for each message."""

    def count(message: str) -> int:
        text = json.loads(message)["content"]
        return int(len(text) / characters / (1 + crc32(text.encode()) / 2**32)) + 4

    return count


def new_tokens(talked: Conversation, said: str) -> int:
    """What a question is estimated to measure: it is what sending it adds."""
    limits, talked.limits = talked.limits, ContextLimits(1)
    estimate = talked.next(said).tokens - talked.next().tokens
    talked.limits = limits
    return estimate


@st.composite
def conversations(draw: st.DrawFn) -> tuple[float, int, str, list[tuple[str, str]]]:
    """Characters a token, the tokens allowed, a prompt, and questions with answers, short and long ones."""
    characters = draw(st.sampled_from([0.5, 1, 2, 4]))
    allowed = draw(st.sampled_from([500, 1000, 4000]))
    languages = st.sampled_from([draw(st.sampled_from(LANGUAGES))] if draw(st.booleans()) else LANGUAGES)
    sizes = st.sampled_from([0.005, 0.01, 0.02, 0.05, 0.1])

    def text(number: int) -> str:
        size = int(draw(sizes) * allowed * characters)
        return f"{number}{draw(languages) * size}"[: max(size, 2)]

    turns = [(text(2 * number), text(2 * number + 1)) for number in range(draw(st.integers(20, 60)))]
    return characters, allowed, draw(st.sampled_from(["", "Be kind. " * 5])), turns


def is_half_used(context: Context, tokens: int, allowed: int, above: int) -> bool:
    """Half of what is allowed is used, but for the error of the estimates, or a turn more had no room."""
    return context.reason == WHOLE or tokens >= allowed * 0.36 or tokens + above > allowed * 0.9


@settings(max_examples=CONVERSATIONS, deadline=None)
@given(conversations())
def test_the_limit_holds_and_at_least_half_of_it_is_used(
    drawn: tuple[float, int, str, list[tuple[str, str]]],
) -> None:
    characters, allowed, prompt, turns = drawn
    llm = PrefixLLM(tokenizer(characters))
    talked = Conversation(llm, ContextLimits(10_000, allowed), prompt)
    for question, answer in turns:
        said, path = user(question), list(talked.path())
        new = new_tokens(talked, said)
        context = talked.ask(said, output=assistant(answer))
        tokens, sent = llm.prompts[-1], len(context.turns)
        over = tokens - llm.count(said) + new  # had the estimate of what is new been right
        assert not sent or min(tokens, over) <= allowed * 1.02, (tokens, over, context.reason)
        above = path[sent : sent + 1]
        room = sum(llm.count(text) for turn in above for text in (turn.input, turn.output or ""))
        assert is_half_used(context, tokens, allowed, room), (tokens, context.tokens)


HM, DETAILS = "hm " * 5000, {"completion_tokens_details": {"reasoning_tokens": 5000}}


@pytest.mark.parametrize(
    ("thought", "within", "details"),
    [(HM, 5000, DETAILS), (HM, 5000, {}), (None, 5000, {}), (HM, 0, DETAILS | {"total_tokens": 9000})],
    ids=["counted twice", "counted with the answer", "hidden", "counted apart, as by xAI"],
)
def test_reasoning_is_not_taken_for_what_is_sent_back(
    thought: str | None, within: int, details: dict[str, Any]
) -> None:
    talked = Conversation(PrefixLLM(), ContextLimits(1000, 2000))
    for number in range(30):
        answer = assistant(f"A{number}" + " word" * (number * 97 % 200))
        usage = {"completion_tokens": by_length(answer) + within} | details
        talked.ask(user(f"Q{number}"), output=answer, usage=usage, reasoning=thought)
    assert max(talked.llm.prompts) <= 2000
    assert sum(talked.llm.prompts[20:]) >= 0.65 * 2000 * 10


def test_an_answer_that_was_counted_as_reasoning_is_sent_back_all_the_same() -> None:
    """vLLM may do so where the prompt ended the reasoning before it began."""
    talked = Conversation(PrefixLLM(), ContextLimits(1000, 2000))
    for number in range(30):
        answer = assistant(f"A{number}" + " word" * 200)
        usage = {"completion_tokens_details": {"reasoning_tokens": talked.llm.count(answer) - 1}}
        talked.ask(user(f"Q{number}"), output=answer, usage=usage)
    assert max(talked.llm.prompts) <= 2000


def test_without_counts_the_length_decides_rather_carefully() -> None:
    talked = Conversation(PrefixLLM(), ContextLimits(1000, 2000), reports=False)
    talked.talk(60, 30)
    assert max(talked.llm.prompts) <= 2000
    assert sum(talked.llm.prompts[20:]) >= 0.35 * 2000 * 40


def test_counts_of_what_was_not_cached_are_not_believed() -> None:
    """Some servers leave out of prompt_tokens what their cache had."""
    talked = Conversation(PrefixLLM(hides_kept=True), ContextLimits(1000, 2000))
    talked.talk(60, 30)
    assert max(talked.llm.prompts) <= 2000
    assert sum(talked.llm.prompts[20:]) >= 0.5 * 2000 * 40


def test_an_answer_of_many_tokens_counts_as_it_was_counted() -> None:
    llm = PrefixLLM(lambda message: by_length(message) * (3 if "dense" in message else 1))
    talked = Conversation(llm, ContextLimits(1000, 2000))
    for number in range(30):
        words = " dense" * 80 if number % 5 == 4 else " word" * 60
        talked.ask(user(f"Q{number}"), output=assistant(f"A{number}{words}"))
    assert max(llm.prompts) <= 2000


@pytest.mark.parametrize("every", [1, 2])
def test_what_a_chat_template_adds_is_counted_too(every: int) -> None:
    llm = PrefixLLM(lambda message: by_length(message) + 1000 * ('"system"' in message))
    talked = Conversation(llm, ContextLimits(1000, 2000))
    for number in range(60):
        talked.prompt = "Be kind." if number % every == 0 else ""
        talked.talk(1, 30)
    assert max(llm.prompts) <= 2000
    assert sum(llm.prompts[21::2]) >= 0.65 * 2000 * 20, "and it is not added where it was not"


def test_what_a_chat_template_adds_is_not_taken_for_a_language_of_many_tokens() -> None:
    llm = PrefixLLM(lambda message: by_length(message) + 1000 * ('"system"' in message))
    talked = Conversation(llm, ContextLimits(1000, 8000), "Be kind.")
    talked.talk(1, 0)
    assert talked.ask(user("word " * 200), output=assistant("A")).count == 3


def test_a_question_alone_may_be_over_the_limit() -> None:
    talked = Conversation(PrefixLLM(), ContextLimits(1000, 1000))
    talked.talk(5)
    context = talked.ask(user("word " * 2000), output=assistant("Long."))
    assert (context.count, context.reason) == (1, "max_context_tokens")
    talked.talk(1)
    assert talked.contexts[-1].count == 1, "the next one goes without it"
    assert talked.llm.prompts[-1] < 1000


@pytest.mark.parametrize("kind", ["image_url", "input_audio", "file"])
def test_pictures_do_not_count_by_their_characters(kind: str) -> None:
    data = "A" * 1_000_000
    value = {
        "image_url": {"url": f"data:image/png;base64,{data}"},
        "input_audio": {"data": data, "format": "wav"},
        "file": {"file_data": f"data:application/pdf;base64,{data}"},
    }[kind]
    part = {"type": kind, kind: value}
    assert length_of(user([{"type": "text", "text": "What is this?"}, part])) < 5000
    assert length_of(user([part, part])) > 7000
    assert length_of(user(json.dumps([part]))) > 1_000_000, "in a text it is text"


def test_how_much_was_measured_is_known_where_it_was() -> None:
    talked = Conversation(PrefixLLM(), ContextLimits(10))
    talked.talk(5)
    measured = talked.llm.prompts[-1] + talked.llm.count(talked.turns[5].output or "")
    assert talked.next().measured is None, "another step: it was not sent from there yet"
    talked.current = 4
    measured = talked.llm.prompts[3] + talked.llm.count(talked.turns[4].output or "")
    assert talked.next().measured == measured
    talked.model = "n"
    talked.talk(1)
    talked.model = "m"
    assert talked.next().measured is None, "another model counted last"


def test_no_estimate_is_below_what_is_newly_said() -> None:
    """An LLM may count more for an answer than it counts for it in the next prompt."""
    talked = Conversation(PrefixLLM(), ContextLimits(4))
    for number in range(12):
        answer = assistant(f"A{number}" + " word" * 10)
        talked.ask(user(f"Q{number}"), output=answer, usage={"completion_tokens": 60})
        assert min(talked.next().totals) >= 0
        assert min(talked.next(user("How many?")).totals) > 0
