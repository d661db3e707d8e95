"""Chooses what the LLM is sent of a conversation: whole turns, from a fixed beginning. Pure functions.

An LLM server caches its work on a prompt, to use it again if the next prompt begins in the same way. So a
context begins where its parent's began, and grows; when it is full, its older half is dropped at once. Each
turn stores where its context began and why, to be found after a restart, a rewind or a change of branch.

A context begins with a turn that opens with a user's message, so a round of tool calls is never cut in two.
The new messages and the round to which they belong are always sent whole, whatever the limits are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, chain
from typing import Any, NamedTuple

from chatbot.chat import tokens
from chatbot.chat.limits import LISTED, MESSAGES, REFUSED, Budget
from chatbot.chat.turn_messages import is_nothing, may_open, opens, role_of, sent_of
from chatbot.errors import TooLong
from chatbot.ids import message_id
from chatbot.records import DELETED, Turn, as_json

WHOLE = "whole_conversation"
"""The reason of a context from which nothing was dropped. The other reasons are the words of limits.py."""


class Head(NamedTuple):
    """What is sent before the turns: system messages and tools (JSON). The hash `key` identifies it.

    If the tools are not known, the key is only its first half.
    """

    messages: tuple[str, ...]
    tools: str
    key: str

    @classmethod
    def of(cls, model: str, fields: Mapping[str, Any] | None, messages: Iterable[str]) -> Head:
        """The head of a request with these `fields`. Without `fields` its tools are not known."""
        messages, tools = tuple(messages), as_json(fields["tools"]) if fields and fields.get("tools") else ""
        key = _short_hash(as_json([model, *messages])) + (_short_hash(tools) if fields is not None else "")
        return cls(messages, tools, key)

    @property
    def length(self) -> int:
        """The length of the head, as tokens.py measures lengths."""
        return sum(map(tokens.length_of, (*self.messages, self.tools)))


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def system_message(content: str) -> str:
    """A system message as JSON."""
    return as_json({"role": "system", "content": content})


@dataclass
class Context:
    """What is sent, and what it was chosen from. plan() and shrink() make it.

    `path` has the turns that were read, oldest first; `parts` the messages of each turn and, last, the new
    ones. The context begins at `place`, one of the `places` where it may begin; `reason` says why. The last
    context with this head began at the turn `began`, if there is one. `is_asked`: there are new messages.
    """

    head: Head
    path: Sequence[Turn]
    parts: Sequence[Sequence[str]]
    places: Sequence[int]
    began: int | None
    send_reasoning: bool
    is_asked: bool
    place: int
    reason: str

    @property
    def messages(self) -> list[str]:
        """The messages that are sent, as JSON, the head's first."""
        return [*self.head.messages, *chain.from_iterable(self.parts[self.place :])]

    @property
    def count(self) -> int:
        """How many messages are sent besides the head's."""
        return sum(map(len, self.parts[self.place :]))

    @property
    def key(self) -> str:
        """What the turn stores as its context_key."""
        return f"{self.head.key}:{self.reason}"

    @property
    def tokens(self) -> int:
        """About how many tokens are sent."""
        return self.totals[self.place]

    @property
    def turns(self) -> Sequence[Turn]:
        """The turns that are sent."""
        return self.path[self.place :]

    @property
    def is_least(self) -> bool:
        """Whether no turn that is sent can be dropped."""
        return self.place == self.places[-1]

    @property
    def start(self) -> int | None:
        """What the turn stores as its context_start: the first turn that is sent; None: the turn itself."""
        return self.turns[0].seq if self.turns else None

    @property
    def first(self) -> str | None:
        """The id of the first message that is sent; None if that is a new message."""
        turn = next((turn for turn in self.turns if not is_nothing((turn,))), None)
        if turn is None:
            return None
        said = (place for place, text in enumerate(turn.messages, 1) if text != DELETED)
        return message_id(turn.turn_id, next(said, 0))

    @property
    def measured(self) -> int | None:
        """The LLM's own count of its tokens up to the newest answer; None if that had another beginning."""
        newest = self.turns[-1] if self.turns else None
        if newest and newest.had_head(self.head.key) and newest.began == self.start:
            return tokens.counted(newest)
        return None

    @cached_property
    def totals(self) -> list[int]:
        """About how many tokens the context would have from each place on; computed when first needed."""
        return tokens.measure(
            self.path,
            [_lengths(turn, messages) for turn, messages in zip(self.path, self.parts, strict=False)],
            head=self.head.length,
            key=self.head.key,
            said=sum(map(tokens.length_of, self.parts[-1])),
            began=self.began,
            send_reasoning=self.send_reasoning,
        )

    @cached_property
    def sizes(self) -> list[int]:
        """How many messages the context would have from each place on. If none is new yet, one is added."""
        return [*accumulate(map(len, reversed(self.parts)), initial=0 if self.is_asked else 1)][:0:-1]

    def excess(self, place: int, budget: Budget) -> str | None:
        """The word for the limit that the context would exceed if it began at `place`; None if it fits."""
        if self.sizes[place] > budget.messages:
            return budget.messages_reason
        if budget.tokens is not None and self.totals[place] > budget.tokens:
            return budget.tokens_reason
        return None

    def half(self, budget: Budget) -> int:
        """The place that leaves about half of the budget, if the context exceeds it; else its own place."""
        half = self.place
        if self.sizes[half] > budget.messages:
            # The newest turn does not count: without it, the context was within the limit.
            half = len(self.path) - max(1, (len(self.turns) - 1) // 2)
        if budget.tokens is not None and self.tokens > budget.tokens:
            # The head (about a quarter of its length), half of the tokens beside it, and a little more.
            least = (budget.tokens + self.head.length // 4) // 2 + budget.tokens // 32
            half = max([half, *(place for place in self.places if self.totals[place] >= least)])
        return half

    def step(self, wanted: int, budget: Budget) -> int:
        """The first place after the current one, and not before `wanted`, that is within the limits.

        If the last round began before `wanted`, it is kept whole if it fits.
        """
        later = [place for place in self.places if place > self.place] or [self.place]
        with_turns = [place for place in later if place < len(self.path)]
        if wanted < len(self.path) and with_turns:
            wanted = min(wanted, with_turns[-1])
        fitting = (place for place in later if place >= wanted and not self.excess(place, budget))
        return next(fitting, later[-1])


def plan(
    path: Iterator[Turn], said: Sequence[str], head: Head, budget: Budget, *, send_reasoning: bool = False
) -> Context:
    """Chooses what is sent with the new messages `said` (JSON; if empty, with whatever a user may say next).

    `path` is the conversation from its newest turn upwards. It is read only as far as needed.
    """
    is_round = bool(said) and not may_open(said[0])  # the new messages continue the round of the newest turn
    turns, began, reason = _read(path, is_round, head, budget)
    parts = sent_of(turns, said, send_reasoning=send_reasoning)
    places = [place for place, turn in enumerate(turns) if opens(turn) or turn.parent is None]
    if began is not None:
        places = [place for place in places if turns[place].seq >= began] or places[-1:]
    if not is_round or not places:
        places.append(len(turns))
    context = Context(head, turns, parts, places, began, send_reasoning, bool(said), places[0], reason)
    if excess := context.excess(places[0], budget):
        wanted = context.place if began is None else context.half(budget)  # with a new head, as many as fit
        context.place, context.reason = context.step(wanted, budget), excess
    if is_nothing(turns[: context.place]) and is_nothing(path):
        context.reason = WHOLE
    return context


def shrink(context: Context, budget: Budget, error: TooLong) -> Context:
    """The context without its older half, after the LLM refused it. Raises the error if nothing can go."""
    if context.is_least:
        raise error
    is_named = context.excess(context.place, budget) == LISTED
    wanted = context.half(budget) if is_named else context.place + (len(context.turns) + 1) // 2
    shrunk = copy(context)  # with its cached totals and sizes
    shrunk.place, shrunk.reason = context.step(wanted, budget), LISTED if is_named else REFUSED
    return shrunk


def _read(
    path: Iterator[Turn], is_round: bool, head: Head, budget: Budget
) -> tuple[list[Turn], int | None, str]:
    """Returns the turns that may be sent, oldest first; where the last context with this head began; and why.

    Contexts with another head (another model, other tools) have beginnings of their own, which are ignored.
    If no turn has this head, as many turns are read as may fit.
    """
    turns: list[Turn] = []
    began, reason, count, length = None, MESSAGES, 0, 0
    for turn in path:
        if began is None and turn.had_head(head.key):
            began, reason = turn.began, str(turn.context_key).partition(":")[2]
        if turn.parent is not None and is_nothing((turn,)):
            continue  # empty turns must not count when half of the turns are dropped
        turns.append(turn)
        is_round = is_round and not opens(turn)
        if began is not None:
            # The turn above helps to count tokens, and may open the context if messages here were deleted.
            is_enough = turn.seq < began or (turn.seq == began and budget.tokens is None and opens(turn))
        else:
            count += len(turn.messages) - turn.messages.count(DELETED) + (turn.output is not None)
            is_enough = count >= budget.messages
            if budget.tokens is not None:
                length += tokens.length_of(turn.input) + tokens.length_of(turn.output or "")
                is_enough = is_enough or length * tokens.LEAST_RATE > budget.tokens
        if is_enough and not is_round:
            break
    return turns[::-1], began, reason


def _lengths(turn: Turn, sent: Sequence[str]) -> tokens.Lengths:
    answer = sent[-1:] if turn.output is not None and sent and role_of(sent[-1]) == "assistant" else ()
    said = sent[: len(sent) - len(answer)]
    return tokens.Lengths(sum(map(tokens.length_of, said)), sum(map(tokens.length_of, answer)))
