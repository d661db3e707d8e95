"""What the LLM is sent of a conversation: whole turns, from a beginning that stands still. Pure functions.

An LLM server keeps the work that it did on a prompt for as long as the next one begins the same. So a context
begins where its parent's did, and grows; when it is full, its older half is dropped at once. Each turn keeps
where its context began, and why: the same is found after a restart, a rewind or a change of branch.

A context begins with a turn that opens with a user's message, so a round of tool calls is never cut in two.
What is newly said goes whole, and so does the round that it belongs to, whatever the limits are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any, NamedTuple

from chatbot.chat import tokens
from chatbot.chat.limits import LISTED, MESSAGES, REFUSED, Budget
from chatbot.chat.turn_messages import may_open, opens, role_of, sent_of
from chatbot.errors import TooLong
from chatbot.ids import message_id
from chatbot.records import DELETED, Turn, as_json

WHOLE = "whole_conversation"
"""Why a context begins where it does if nothing was dropped; the other reasons are the words of limits.py."""


class Head(NamedTuple):
    """What stands before the turns: system messages (JSON). `key` is a hash by which it is known again.

    One whose tools aren't known has half of a key.
    """

    messages: tuple[str, ...]
    key: str
    length: int

    @classmethod
    def of(cls, model: str, fields: Mapping[str, Any] | None, messages: Iterable[str]) -> Head:
        """The head of a request; its tools stand before the turns, too. Without `fields` none are known."""
        messages, tools = tuple(messages), as_json(fields["tools"]) if fields and fields.get("tools") else ""
        key = _short_hash(as_json([model, *messages])) + (_short_hash(tools) if fields is not None else "")
        return cls(messages, key, sum(map(tokens.length_of, messages)) + tokens.length_of(tools))


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def system_message(content: str) -> str:
    """A system message as JSON."""
    return as_json({"role": "system", "content": content})


@dataclass
class _Material:
    """What a context is chosen from: turns, oldest first, what is sent of each and, last, what is newly said.

    `starts` are the places at which it may begin; `counts` and `totals` say how many messages and tokens it
    then has. `is_whole`: there is no turn above. `began` and `reason` are the last context's; it had another
    head if `began` is None.
    """

    head: Head
    turns: Sequence[Turn]
    sent: Sequence[Sequence[str]]
    starts: Sequence[int]
    counts: Sequence[int]
    is_whole: bool
    began: int | None
    reason: str
    send_reasoning: bool

    @cached_property
    def totals(self) -> list[int]:
        """How many tokens it has from each place on; measured only where tokens are limited."""
        lengths = [_lengths(turn, messages) for turn, messages in zip(self.turns, self.sent, strict=False)]
        return tokens.measure(
            self.turns,
            lengths,
            head=self.head.length,
            said=sum(map(tokens.length_of, self.sent[-1])),
            began=self.began,
            send_reasoning=self.send_reasoning,
        )

    def excess(self, start: int, budget: Budget) -> str | None:
        """The word for the limit that a context from there would exceed."""
        if self.counts[start] > budget.messages:
            return budget.messages_reason
        if budget.tokens is not None and self.totals[start] > budget.tokens:
            return budget.tokens_reason
        return None


@dataclass(frozen=True, slots=True)
class Context:
    """What is sent; made by plan() and shrink().

    `messages` are JSON texts, the head's first; `count` is how many there are besides the head's. `reason`
    says why it begins there; `key` is what the turn keeps as its context_key.
    """

    messages: list[str]
    count: int
    reason: str
    key: str
    _place: int
    _material: _Material

    @property
    def tokens(self) -> int:
        """About how many tokens all messages measure."""
        return self._material.totals[self._place]

    @property
    def turns(self) -> Sequence[Turn]:
        """The turns that are sent."""
        return self._material.turns[self._place :]

    @property
    def start(self) -> int | None:
        """What the turn keeps as its context_start: the first turn that is sent; None: the turn itself."""
        return self.turns[0].seq if self.turns else None

    @property
    def first(self) -> str | None:
        """The id of the first message that is sent; None: it is what is newly said."""
        if not self.turns:
            return None
        said = (place for place, text in enumerate(self.turns[0].messages, 1) if text != DELETED)
        return message_id(self.turns[0].turn_id, next(said, 0))

    @property
    def measured(self) -> int | None:
        """How many tokens it measured up to its newest answer by the LLM's own count, if that began there."""
        stands = self.turns and self._material.began == self.start
        return tokens.counted(self.turns[-1]) if stands else None


def plan(
    path: Iterable[Turn], said: Sequence[str], head: Head, budget: Budget, *, send_reasoning: bool = False
) -> Context:
    """What is sent with what is newly `said` (JSON messages; none: with whatever a user may say next).

    `path` is the conversation from its newest turn upwards, and is read only as far as needed.
    """
    material = _material(path, said, head, budget, send_reasoning)
    starts, end = material.starts, len(material.turns)
    begin, reason = starts[0], material.excess(starts[0], budget)
    if reason and material.began is None:  # as many turns as fit
        begin = next((start for start in starts if not material.excess(start, budget)), starts[-1])
    elif reason:
        is_counted = material.counts[begin] > budget.messages
        # The newest turn is on top of those that were within the limit.
        wanted = end - max(1, (end - begin - 1) // 2) if is_counted else begin
        begin = _step(material, begin, max(wanted, _half(material, begin, budget)), budget)
    if begin == 0 and material.is_whole:
        reason = WHOLE
    return _context(material, begin, reason or material.reason)


def shrink(context: Context, budget: Budget, error: TooLong) -> Context:
    """The context without its older half, after the LLM refused it; raises the error if none of it can go."""
    material, begin = context._material, context._place
    if begin == material.starts[-1]:
        raise error
    is_named = budget.tokens_reason == LISTED and material.excess(begin, budget) == LISTED
    size = len(context.turns)
    wanted = _half(material, begin, budget) if is_named else begin + size - size // 2
    return _context(material, _step(material, begin, wanted, budget), LISTED if is_named else REFUSED)


def _half(material: _Material, begin: int, budget: Budget) -> int:
    """Where too many tokens are sent: the last place from which on more than half of what is allowed is used.

    That is half of what is left beside the head and what is newly said, and a little more, for it's an
    estimate.
    """
    if budget.tokens is None or material.totals[begin] <= budget.tokens:
        return begin
    half = (budget.tokens + material.head.length // 4) // 2 + budget.tokens // 32
    return max((start for start in material.starts if material.totals[start] >= half), default=begin)


def _step(material: _Material, begin: int, wanted: int, budget: Budget) -> int:
    """The first place after `begin`, and from the `wanted` one on, that is within the limits.

    The last round stays where it can, if it is longer than what was wanted.
    """
    later = [start for start in material.starts if start > begin] or [begin]
    with_turns = [start for start in later if start < len(material.turns)]
    if wanted < len(material.turns) and with_turns:
        wanted = min(wanted, with_turns[-1])
    fitting = (start for start in later if start >= wanted and not material.excess(start, budget))
    return next(fitting, later[-1])


def _context(material: _Material, begin: int, reason: str) -> Context:
    sent = [message for messages in material.sent[begin:] for message in messages]
    messages, key = [*material.head.messages, *sent], f"{material.head.key}:{reason}"
    return Context(messages, len(sent), reason, key, begin, material)


def _material(
    path: Iterable[Turn], said: Sequence[str], head: Head, budget: Budget, send_reasoning: bool
) -> _Material:
    is_round = bool(said) and not may_open(said[0])  # what is said belongs to the round above it
    turns, began, reason, is_whole = _read(path, is_round, head, budget)
    sent = sent_of(turns, said, send_reasoning=send_reasoning)
    counts = [*accumulate((len(messages) for messages in reversed(sent)), initial=0 if said else 1)]
    starts = [place for place, turn in enumerate(turns) if opens(turn) or (place == 0 and is_whole)]
    later = [place for place in starts if began is None or turns[place].seq >= began] or starts[-1:]
    starts = later if is_round and later else [*later, len(turns)]
    return _Material(head, turns, sent, starts, counts[:0:-1], is_whole, began, reason, send_reasoning)


def _read(
    path: Iterable[Turn], is_round: bool, head: Head, budget: Budget
) -> tuple[list[Turn], int | None, str, bool]:
    """The turns that may be sent, oldest first; where the last context began, and why; whether it is all.

    One turn above the beginning is read with them. A turn that only added messages was not sent, so it
    doesn't say where a context began; if none says it of this head, there are as many turns as might fit.
    """
    turns: list[Turn] = []
    began, reason, count, length, is_known = None, MESSAGES, 0, 0, False
    for turn in path:
        if not is_known and turn.context_key:
            is_known = True
            key, _, why = turn.context_key.partition(":")
            if key.startswith(head.key):
                began, reason = turn.seq if turn.context_start is None else turn.context_start, why
        turns.append(turn)
        count += len(turn.messages) + (turn.output is not None)
        is_enough = count >= budget.messages
        if budget.tokens is not None:
            length += tokens.length_of(turn.input) + tokens.length_of(turn.output or "")
            is_enough = is_enough or length * tokens.LEAST_RATE > budget.tokens
        is_round = is_round and not opens(turn)
        if not is_round and (is_enough if began is None else turn.seq < began):
            return turns[::-1], began, reason, False
    return turns[::-1], began, reason, True


def _lengths(turn: Turn, sent: Sequence[str]) -> tokens.Lengths:
    answer = sent[-1:] if turn.output is not None and sent and role_of(sent[-1]) == "assistant" else ()
    said = sent[: len(sent) - len(answer)]
    return tokens.Lengths(sum(map(tokens.length_of, said)), sum(map(tokens.length_of, answer)))
