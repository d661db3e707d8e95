"""Estimates how many tokens a context has, without a tokenizer: from the counts in the LLM's answers.

An answer's `token_usage` has the tokens of its prompt and those of the answer. Two consecutive prompts that
began at the same turn differ by the answer between them and the next question:

    turn 1   prompt 100, answer 40
    turn 2   prompt 160, answer 50     so its question has 160 - 100 - 40 = 20
    next     160 + 50 + a few          because an answer that is sent back may have a few tokens more,
             + the new question        which is estimated from its length, at the rate of this conversation

Estimates are rather high for what is kept, and rather low for what is dropped.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from chatbot.records import Turn

LEAST_RATE, _MOST_RATE = 1 / 16, 4
"""Limits of tokens per unit of length. A count outside them is of something else, as of uncached tokens."""

_RATE = 0.4  # if nothing was counted; rather high
_TEMPLATE = 32  # tokens that a chat template may put before all messages
_JSON = 20  # characters that a message has only as JSON, not in a chat template
_PART = 4000  # the length for which a picture or a file counts: about a thousand tokens
_PARTS = re.compile(r'"type":"(?:image_url|input_audio|file)"')
_ENCODED = re.compile(r'(?:base64,|"data":")[A-Za-z0-9+/=_-]{64,}')


def length_of(message: str) -> int:
    """The length of a JSON message: the mean of its characters and its bytes, as tokenizers lie between them.

    The content of pictures and files is not text, so each of them counts the same.
    """
    length = len(message) if message.isascii() else (len(message) + len(message.encode())) // 2
    length = max(length - _JSON, 0)
    if '"content":[{' in message and (parts := len(_PARTS.findall(message))):
        length += parts * _PART - sum(map(len, _ENCODED.findall(message)))
    return length


class Lengths(NamedTuple):
    """The lengths of what is sent of a turn: of its new messages, and of its answer."""

    said: int
    answer: int


def measure(
    turns: Sequence[Turn],
    lengths: Sequence[Lengths],
    *,
    head: int,
    key: str,
    said: int,
    began: int | None,
    send_reasoning: bool,
) -> list[int]:
    """About how many tokens are sent if the context begins at each of the turns; the last number: at none.

    `head` and `said` are the lengths of what is sent before and after the turns. `key` identifies the head.
    `began` is the turn (its seq) at which the last context with this head began; the turn above `began` helps
    to estimate the size of the turn `began`.
    """
    counts = [_Count.of(*pair, send_reasoning) for pair in zip(turns, lengths, strict=True)]
    between = [_between(counts, lengths, place) for place in range(len(turns))]
    anchor = _anchor(counts, lengths, head, began, key)
    rate = _rate(lengths, between, anchor)
    before, new = _estimate(head, rate).most, _estimate(said, rate).most
    questions = [_estimate(length.said, rate) for length in lengths]
    for place, (count, tokens) in enumerate(zip(counts, between, strict=True), 1):
        if tokens is not None and count.sent_back is not None and count.sent_back <= tokens:
            questions[place] = _Range(tokens - count.sent_back, tokens - count.sent_back)
    answers = [_answer(count, length, rate) for count, length in zip(counts, lengths, strict=False)]
    steps = [  # from the beginning of each answer to that of the next one, or to the end
        answer.plus(question) if tokens is None else _Range(tokens, tokens)
        for answer, question, tokens in zip(answers, [*questions[1:], _Range(0, 0)], between, strict=False)
    ]
    first, whole = -1, sys.maxsize
    if anchor:
        # The anchor's count has the head and the turns up to it; the least estimate of these is subtracted.
        first = next(place for place, turn in enumerate(turns) if turn.seq >= (began or 0))
        after = questions[first].least + sum(step.least for step in steps[first : anchor.place])
        before = min(max(anchor.tokens - after, 0), 3 * before + _TEMPLATE)
        whole = anchor.tokens + sum(step.most for step in steps[anchor.place :]) + new
    rest, totals = new, [before + new]
    for place in reversed(range(len(turns))):
        rest += steps[place].most
        totals.append(min(before + questions[place].most + rest, whole) if place > first else whole)
    return totals[::-1]


def counted(turn: Turn) -> int | None:
    """How many tokens the LLM counted up to the end of a turn's answer; None if it did not count."""
    count = _Count.of(turn, Lengths(0, 0), send_reasoning=True)
    return count.prompt and count.prompt + (count.answer or 0)


class _Count(NamedTuple):
    """The LLM's counts for a turn: prompt, answer, and what is sent back of the answer. None: not known.

    Only prompts that began at the same turn (`began`), after the same head (`key`), can be compared.
    """

    seq: int
    began: int
    key: str
    prompt: int | None
    answer: int | None
    sent_back: int | None

    @classmethod
    def of(cls, turn: Turn, length: Lengths, send_reasoning: bool) -> _Count:
        usage: dict[str, Any] = json.loads(turn.token_usage) if turn.token_usage else {}
        names = ("prompt_tokens", "completion_tokens", "total_tokens")
        prompt, answer, total = (_number(usage.get(name)) for name in names)
        details = usage.get("completion_tokens_details")
        thought = _number(details.get("reasoning_tokens")) if isinstance(details, dict) else None
        sent_back = answer
        if answer is not None and not send_reasoning:
            # xAI counts the reasoning only in the total. vLLM may count all of an answer as reasoning.
            sent_back = min(answer, max(answer, (total or 0) - (prompt or 0)) - (thought or 0))
            if (turn.reasoning and not thought) or sent_back < length.answer * LEAST_RATE:
                sent_back = None
        key = (turn.context_key or "").partition(":")[0]
        return cls(turn.seq, turn.began, key, prompt, answer, sent_back)


def _number(value: object) -> int | None:
    return value if type(value) is int and value > 0 else None


def _between(counts: Sequence[_Count], lengths: Sequence[Lengths], place: int) -> int | None:
    """The tokens of a turn's answer and the next turn's question together; None if they were not counted."""
    if place + 1 == len(counts):
        return None
    one, two = counts[place], counts[place + 1]
    if one.prompt is None or two.prompt is None or (one.began, one.key) != (two.began, two.key):
        return None
    tokens, length = two.prompt - one.prompt, lengths[place].answer + lengths[place + 1].said
    return tokens if length * LEAST_RATE <= tokens <= length * _MOST_RATE + _TEMPLATE else None


class _Anchor(NamedTuple):
    """The newest turn whose prompt's count can be used: its place, and the tokens and length up to there."""

    place: int
    tokens: int
    length: int


def _anchor(
    counts: Sequence[_Count], lengths: Sequence[Lengths], head: int, began: int | None, key: str
) -> _Anchor | None:
    anchor, length = _Anchor(-1, 0, 0), head
    for place, (count, each) in enumerate(zip(counts, lengths, strict=True)):
        if began is None or count.seq < began:
            continue
        length += each.said
        if count.prompt is not None and count.began == began and count.key.startswith(key):
            grown = length - anchor.length
            if anchor.tokens + grown * LEAST_RATE <= count.prompt:
                anchor = _Anchor(place, count.prompt, length)
        length += each.answer
    return anchor if anchor.place >= 0 else None


def _rate(lengths: Sequence[Lengths], between: Sequence[int | None], anchor: _Anchor | None) -> float:
    """The tokens per unit of length in this conversation."""
    counted = [(tokens, place) for place, tokens in enumerate(between) if tokens is not None]
    tokens = sum(tokens for tokens, _ in counted)
    length = sum(lengths[place].answer + lengths[place + 1].said for _, place in counted)
    if not length and anchor:
        _, tokens, length = anchor
    return min(tokens / length, _MOST_RATE) if length else _RATE


class _Range(NamedTuple):
    """The least and the most tokens: half of an estimate and a little more than it, or equal if counted."""

    least: int
    most: int

    def plus(self, other: _Range) -> _Range:
        """The sum of both ranges."""
        return _Range(self.least + other.least, self.most + other.most)


def _estimate(length: int, rate: float) -> _Range:
    return _Range(int(length * rate / 2), int(length * rate * 17 / 16) + 4) if length else _Range(0, 0)


def _answer(count: _Count, lengths: Lengths, rate: float) -> _Range:
    """The tokens of an answer when it is sent back: they may be a few more than were counted."""
    likely, exact = _estimate(lengths.answer, rate), count.sent_back
    if exact is None or exact > likely.most * 4:
        return likely
    return _Range(exact, exact + exact // 16 + 4)
