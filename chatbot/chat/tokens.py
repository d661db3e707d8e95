"""How many tokens a context measures, without a tokenizer: by the counts that the LLM gave with its answers.

An answer's `token_usage` says what its prompt measured, and what itself did. Two consecutive prompts that
began at the same turn differ by the answer between them and the next question. What was never counted is
estimated by its length, at the rate that was measured in this conversation: rather high what is kept, rather
low what is dropped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from chatbot.records import Turn

LEAST_RATE, _MOST_RATE = 1 / 16, 4
"""Tokens per unit of length that tokenizers make: a count beyond is of something else, as of the uncached."""

_RATE = 0.4  # where nothing was counted: rather many
_TEMPLATE = 32  # tokens that a chat template may put before all messages
_JSON = 20  # characters that a message has as JSON, and in no chat template
_PART = 4000  # the length that a picture or a file counts for: about a thousand tokens
_PARTS = re.compile(r'"type":"(?:image_url|input_audio|file)"')
_ENCODED = re.compile(r'(?:base64,|"data":")[A-Za-z0-9+/=_-]{64,}')


def length_of(message: str) -> int:
    """The length of a JSON message: the mean of its characters and its bytes, between which tokenizers are.

    What pictures and files hold is not text, so each of them counts the same.
    """
    length = len(message) if message.isascii() else (len(message) + len(message.encode())) // 2
    length = max(length - _JSON, 0)
    if '"content":[{' in message and (parts := len(_PARTS.findall(message))):
        length += parts * _PART - sum(map(len, _ENCODED.findall(message)))
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

    `head` and `said` are the lengths of what stands before the turns and after them. `began` is the turn (its
    seq) at which the last one's context began, if the same stood before it; the turn above it helps to
    measure it.
    """
    counts = [_Count.of(turn, send_reasoning) for turn in turns]
    between = [_between(counts, lengths, place) for place in range(len(turns) - 1)]
    anchor = _anchor(counts, lengths, head, began)
    rate = _rate(lengths, between, anchor)
    answers = [_answer(*each, rate) for each in zip(counts, lengths, [*between, None], strict=False)]
    questions = [_estimate(length.said, rate) for length in lengths]
    steps = []  # from an answer's beginning to the next one's
    for place, tokens in enumerate(between):
        answer = answers[place]
        if tokens is not None:
            questions[place + 1] = _Range(tokens - answer.high, tokens - answer.low, answer.is_counted)
        steps.append(answer.plus(questions[place + 1]) if tokens is None else _Range(tokens, tokens))
    steps += answers[-1:]
    before, new = _estimate(head, rate), _estimate(said, rate)

    rest, up = _Range(new.high, new.high), []
    for question, step in reversed([*zip(questions, steps, strict=True)]):
        rest = rest.plus(step)
        up.append(rest.plus(question))
    kept = [*reversed(up), _Range(new.high, new.high)]
    if anchor is None:
        return [before.high + tokens.high for tokens in kept]

    # What was counted less what is dropped; or a rather high head and what is kept, if that was counted.
    whole = anchor.tokens + sum(step.high for step in steps[anchor.place :]) + new.high
    first = next(place for place, turn in enumerate(turns) if turn.seq >= (began or 0))
    totals, gone = [whole] * (first + 1), questions[first].low
    for place in range(first, len(turns)):
        is_counted = place < anchor.place
        left = whole - gone - (answers[place].low if is_counted else answers[place].high)
        total = max(left, new.high)  # some LLMs count more for an answer than for the prompt with it
        if kept[place + 1].is_counted:
            total = min(total, before.high * 3 + _TEMPLATE + kept[place + 1].high)
        totals.append(total)
        gone += steps[place].low if is_counted else steps[place].high
    return totals


def counted(turn: Turn) -> int | None:
    """How many tokens the LLM counted up to a turn's answer."""
    count = _Count.of(turn, send_reasoning=True)
    return count.prompt and count.prompt + (count.answer or 0)


class _Range(NamedTuple):
    """A number of tokens: half of an estimate, and a little more than it. `is_counted`: it is no estimate."""

    low: int
    high: int
    is_counted: bool = True

    def plus(self, other: _Range) -> _Range:
        """Both together."""
        return _Range(self.low + other.low, self.high + other.high, self.is_counted and other.is_counted)


class _Count(NamedTuple):
    """What the LLM counted of a turn: its prompt, its answer, and what is sent back of that, if it's known.

    Only prompts that began at the same turn (`began`), after the same head (`key`), can be compared.
    """

    seq: int
    began: int
    key: str
    prompt: int | None
    answer: int | None
    sent_back: int | None

    @classmethod
    def of(cls, turn: Turn, send_reasoning: bool) -> _Count:
        usage: dict[str, Any] = json.loads(turn.token_usage) if turn.token_usage else {}
        answer = _number(usage.get("completion_tokens"))
        details = usage.get("completion_tokens_details")
        thought = _number(details.get("reasoning_tokens")) if isinstance(details, dict) else None
        sent_back = answer
        if answer is not None and not send_reasoning:
            sent_back = None if turn.reasoning and not thought else max(0, answer - (thought or 0))
        began = turn.seq if turn.context_start is None else turn.context_start
        key = (turn.context_key or "").partition(":")[0]
        return cls(turn.seq, began, key, _number(usage.get("prompt_tokens")), answer, sent_back)


def _number(value: object) -> int | None:
    return value if type(value) is int and value > 0 else None


def _between(counts: Sequence[_Count], lengths: Sequence[Lengths], place: int) -> int | None:
    """The tokens of a turn's answer and the next one's question together, if they were counted."""
    one, two = counts[place], counts[place + 1]
    if one.prompt is None or two.prompt is None or (one.began, one.key) != (two.began, two.key):
        return None
    tokens, length = two.prompt - one.prompt, lengths[place].answer + lengths[place + 1].said
    return tokens if length * LEAST_RATE <= tokens <= length * _MOST_RATE + _TEMPLATE else None


class _Anchor(NamedTuple):
    """The newest turn whose prompt tells what the context measured: its place, tokens and length."""

    place: int
    tokens: int
    length: int


def _anchor(
    counts: Sequence[_Count], lengths: Sequence[Lengths], head: int, began: int | None
) -> _Anchor | None:
    anchor, length = _Anchor(-1, 0, 0), head
    for place, (count, each) in enumerate(zip(counts, lengths, strict=True)):
        if began is None or count.seq < began:
            continue
        length += each.said
        if count.prompt is not None and count.began == began:
            grown = length - anchor.length
            if anchor.tokens + grown * LEAST_RATE <= count.prompt:
                anchor = _Anchor(place, count.prompt, length)
        length += each.answer
    return anchor if anchor.place >= 0 else None


def _rate(lengths: Sequence[Lengths], between: Sequence[int | None], anchor: _Anchor | None) -> float:
    """How many tokens a unit of length is in this conversation."""
    counted = [(tokens, place) for place, tokens in enumerate(between) if tokens is not None]
    tokens = sum(tokens for tokens, _ in counted)
    length = sum(lengths[place].answer + lengths[place + 1].said for _, place in counted)
    if not length and anchor:
        _, tokens, length = anchor
    return min(max(tokens / length, LEAST_RATE), _MOST_RATE) if length else _RATE


def _estimate(length: int, rate: float) -> _Range:
    if not length:
        return _Range(0, 0)
    return _Range(int(length * rate / 2), int(length * rate * 17 / 16) + 4, is_counted=False)


def _answer(count: _Count, lengths: Lengths, between: int | None, rate: float) -> _Range:
    """The tokens of an answer when it is sent back: perhaps a few others than those that were counted."""
    likely = _estimate(lengths.answer, rate)
    exact = count.sent_back
    if exact is None or exact > likely.high * 4 or (between is not None and exact > between):
        most = min(tokens for tokens in (likely.high, between, count.answer) if tokens is not None)
        return _Range(min(likely.low, most), most, is_counted=not lengths.answer)
    return _Range(exact, exact if between is not None else exact + exact // 16 + 4)
