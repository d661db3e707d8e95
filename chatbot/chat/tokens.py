"""How many tokens a context measures, without a tokenizer: by the counts that the LLM gave with its answers.

An answer's `token_usage` says what its prompt measured and what itself did. Two consecutive prompts that began at the
same turn differ by the answer between them and the next question. What was never counted is estimated by its length,
at the rate that was measured in this conversation: what is kept rather high, what is dropped rather low.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from chatbot.records import Turn

_RATE = 0.4  # tokens per unit of length where nothing was counted: rather many
LEAST_RATE, _MOST = (
    1 / 16,
    4,
)  # rates that tokenizers have; a count beyond is of something else, say of what was not cached
_PART = 4000  # the length that a picture or a file counts for: about a thousand tokens
_PARTS = re.compile(r'"type":"(?:image_url|input_audio|file)"')
_ENCODED = re.compile(r'(?:base64,|"data":")[A-Za-z0-9+/=_-]{64,}')


def length_of(message: str) -> int:
    """The length of a message (JSON): the mean of its characters and its bytes, for tokenizers are between them.

    What pictures and files hold is not text, so each of them counts the same.
    """
    length = len(message) if message.isascii() else (len(message) + len(message.encode())) // 2
    if '"content":[{' in message and (parts := len(_PARTS.findall(message))):
        length += parts * _PART - sum(len(encoded) for encoded in _ENCODED.findall(message))
    return length


class Lengths(NamedTuple):
    """The lengths of what is sent of a turn: of what was said, and of the answer."""

    said: int
    answer: int


def measure(
    turns: Sequence[Turn],
    lengths: Sequence[Lengths],
    *,
    head: int,
    said: int,
    began: int | None,
    send_reasoning: bool = False,
) -> list[int]:
    """About how many tokens are sent when the context begins at each of the turns, and last without any.

    `head` and `said` are the lengths of what stands before the turns and after them. `began` is the turn at which the
    context of the last one began, if the same stood before it.
    """
    counts = [_Count.of(turn, send_reasoning) for turn in turns]
    between = [_between(counts, lengths, number) for number in range(len(turns) - 1)]
    anchor = _anchor(counts, lengths, head, began)
    rate = _rate(counts, lengths, between, anchor, head)
    answers = [_answer(*each, rate) for each in zip(counts, lengths, [*between, None], strict=False)]
    questions = [_estimate(length.said, rate) for length in lengths]
    steps = []  # from each answer's beginning to the next one's
    for number, tokens in enumerate(between):
        low, high = answers[number]
        if tokens is not None:
            questions[number + 1] = _Range(tokens - high, tokens - low)
            steps.append(_Range(tokens, tokens))
        else:
            steps.append(_Range(low + questions[number + 1].low, high + questions[number + 1].high))
    if turns:
        steps.append(answers[-1])

    before = _estimate(head, rate).high if head else 0
    new = _estimate(said, rate).high if said else 0
    if anchor is None:
        rest, totals = new, [before + new]
        for question, step in zip(reversed(questions), reversed(steps), strict=True):
            rest += step.high
            totals.append(before + question.high + rest)
        return totals[::-1]
    whole = (counts[anchor].prompt or 0) + sum(step.high for step in steps[anchor:]) + new
    totals, gone = [whole], questions[0].low
    for number, (answer, step) in enumerate(zip(answers, steps, strict=True)):
        is_counted = number < anchor
        totals.append(whole - gone - (answer.low if is_counted else answer.high))
        gone += step.low if is_counted else step.high
    return totals


def counted(turn: Turn) -> int | None:
    """How many tokens the LLM counted up to a turn's answer."""
    count = _Count.of(turn, False)
    return count.prompt and count.prompt + (count.most or 0)


class _Range(NamedTuple):
    low: int
    high: int


class _Count(NamedTuple):
    """What the LLM counted: the prompt, at most how much of the answer, and just how much of what is sent back of it.

    Only prompts that began at the same turn (`began`), with the same `key`, can be compared.
    """

    began: int
    key: str
    prompt: int | None
    most: int | None
    answer: int | None

    @classmethod
    def of(cls, turn: Turn, send_reasoning: bool) -> _Count:
        usage: dict[str, Any] = json.loads(turn.token_usage) if turn.token_usage else {}
        most, answer = _number(usage.get("completion_tokens")), None
        details = usage.get("completion_tokens_details")
        thought = _number(details.get("reasoning_tokens")) if isinstance(details, dict) else None
        if most is not None and (send_reasoning or thought or not turn.reasoning):
            answer = most if send_reasoning else max(0, most - (thought or 0))
        began = turn.seq if turn.context_start is None else turn.context_start
        key = (turn.context_key or "").partition(":")[0]
        return cls(began, key, _number(usage.get("prompt_tokens")), most, answer)


def _number(value: object) -> int | None:
    return value if type(value) is int and value > 0 else None


def _between(counts: Sequence[_Count], lengths: Sequence[Lengths], number: int) -> int | None:
    """The tokens of a turn's answer and the next turn's question together, if they were counted."""
    one, two = counts[number], counts[number + 1]
    if one.prompt is None or two.prompt is None or (one.began, one.key) != (two.began, two.key):
        return None
    tokens, length = two.prompt - one.prompt, lengths[number].answer + lengths[number + 1].said
    return tokens if length * LEAST_RATE <= tokens <= length * _MOST else None


def _anchor(counts: Sequence[_Count], lengths: Sequence[Lengths], head: int, began: int | None) -> int | None:
    """The newest turn whose prompt tells what the whole context measured up to there."""
    anchor, most, length, answer = None, 0, head, 0
    for number, (count, each) in enumerate(zip(counts, lengths, strict=True)):
        length, answer = length + answer + each.said, each.answer
        if (
            count.prompt is not None
            and count.began == began
            and count.prompt >= max(most, length * LEAST_RATE)
        ):
            anchor, most = number, count.prompt
    return anchor


def _rate(
    counts: Sequence[_Count],
    lengths: Sequence[Lengths],
    between: Sequence[int | None],
    anchor: int | None,
    head: int,
) -> float:
    """How many tokens a unit of length is in this conversation."""
    tokens = length = 0
    for number, counted in enumerate(between):
        if counted is not None:
            tokens += counted
            length += lengths[number].answer + lengths[number + 1].said
    if not length and anchor is not None:
        tokens = counts[anchor].prompt or 0
        length = (
            head + sum(each.said + each.answer for each in lengths[: anchor + 1]) - lengths[anchor].answer
        )
    return min(max(tokens / length, LEAST_RATE), _MOST) if length else _RATE


def _estimate(length: float, rate: float) -> _Range:
    return _Range(int(length * rate / 2), int(length * rate * 17 / 16) + 4)


def _answer(count: _Count, lengths: Lengths, between: int | None, rate: float) -> _Range:
    """The tokens of an answer when it is sent back: they may come out a little other than it was counted."""
    if not lengths.answer:
        return _Range(0, 0)
    low, high = _estimate(lengths.answer, rate)
    if count.answer is not None and (between is None or count.answer <= between):
        low, high = count.answer, count.answer + (count.answer // 16 + 4 if between is None else 0)
    elif between is not None:
        low, high = min(low, between), min(high, between)
    elif count.most is not None:
        low, high = min(low, count.most), min(high, count.most)
    return _Range(low, high)
