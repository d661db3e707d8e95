"""What the LLM is sent of a conversation: whole turns, from a beginning that stands still. Pure functions.

An LLM server keeps the work that it did on a prompt for as long as the next one begins the same. So a context
begins where its parent's did, and grows; when it is full, its older half is dropped at once. Each turn keeps
where its context began, and why: the same is found after a restart, a rewind or a change of branch.

A context begins with a turn that opens with a user's message, so a round of tool calls is never cut in two.
What is newly said goes whole, and so does the round that it belongs to, whatever the limits are.
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
"""Why a context begins where it does if nothing was dropped; the other reasons are the words of limits.py."""


class Head(NamedTuple):
    """What stands before the turns: system messages, and tools (JSON). By the hash `key` it is known again.

    One whose tools aren't known has half of a key.
    """

    messages: tuple[str, ...]
    tools: str
    key: str

    @classmethod
    def of(cls, model: str, fields: Mapping[str, Any] | None, messages: Iterable[str]) -> Head:
        """The head of a request; its tools stand before the turns, too. Without `fields` none are known."""
        messages, tools = tuple(messages), as_json(fields["tools"]) if fields and fields.get("tools") else ""
        key = _short_hash(as_json([model, *messages])) + (_short_hash(tools) if fields is not None else "")
        return cls(messages, tools, key)

    @property
    def length(self) -> int:
        """How long it is, as tokens.py measures it."""
        return sum(map(tokens.length_of, (*self.messages, self.tools)))


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def system_message(content: str) -> str:
    """A system message as JSON."""
    return as_json({"role": "system", "content": content})


@dataclass
class Context:
    """What is sent, and what it was chosen from; made by plan() and shrink().

    `path` are the turns that were read, oldest first; `parts` what is sent of each and, last, what is newly
    said. It begins at `place`, one of the `places` at which it may, and `reason` says why. The last context
    began at the turn `began`; it had another head if that is None. `is_asked`: something is newly said.
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
        """The messages as JSON, the head's first."""
        return [*self.head.messages, *chain.from_iterable(self.parts[self.place :])]

    @property
    def count(self) -> int:
        """How many messages there are besides the head's."""
        return sum(map(len, self.parts[self.place :]))

    @property
    def key(self) -> str:
        """What the turn keeps as its context_key."""
        return f"{self.head.key}:{self.reason}"

    @property
    def tokens(self) -> int:
        """About how many tokens all messages measure."""
        return self.totals[self.place]

    @property
    def turns(self) -> Sequence[Turn]:
        """The turns that are sent."""
        return self.path[self.place :]

    @property
    def start(self) -> int | None:
        """What the turn keeps as its context_start: the first turn that is sent; None: the turn itself."""
        return self.turns[0].seq if self.turns else None

    @property
    def first(self) -> str | None:
        """The id of the first message that is sent; None: it is what is newly said."""
        turn = next((turn for turn in self.turns if not is_nothing((turn,))), None)
        if turn is None:
            return None
        said = (place for place, text in enumerate(turn.messages, 1) if text != DELETED)
        return message_id(turn.turn_id, next(said, 0))

    @property
    def measured(self) -> int | None:
        """How many tokens it measured up to its newest answer by the LLM's own count, if that began there."""
        newest = self.turns[-1] if self.turns else None
        if newest and newest.had_head(self.head.key) and newest.began == self.start:
            return tokens.counted(newest)
        return None

    @cached_property
    def totals(self) -> list[int]:
        """How many tokens it has from each place on; measured only where tokens are limited."""
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
        """How many messages it would have from each place on; where nothing is said yet, one will be."""
        return [*accumulate(map(len, reversed(self.parts)), initial=0 if self.is_asked else 1)][:0:-1]

    def excess(self, place: int, budget: Budget) -> str | None:
        """The word for the limit that it would exceed if it began there."""
        if self.sizes[place] > budget.messages:
            return budget.messages_reason
        if budget.tokens is not None and self.totals[place] > budget.tokens:
            return budget.tokens_reason
        return None

    def half(self, budget: Budget) -> int:
        """Where half of what is allowed begins, if it has more."""
        half = self.place
        if self.sizes[half] > budget.messages:
            # The newest turn is on top of those that were within the limit.
            half = len(self.path) - max(1, (len(self.turns) - 1) // 2)
        if budget.tokens is not None and self.tokens > budget.tokens:
            # Half of what is left beside the head and what is newly said, and a little more.
            least = (budget.tokens + self.head.length // 4) // 2 + budget.tokens // 32
            half = max([half, *(place for place in self.places if self.totals[place] >= least)])
        return half

    def step(self, wanted: int, budget: Budget) -> int:
        """The first place after its own, and from the `wanted` one on, that is within the limits.

        The last round stays where it can, if it is longer than what was wanted.
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
    """What is sent with what is newly `said` (JSON messages; none: with whatever a user may say next).

    `path` is the conversation from its newest turn upwards, and is read only as far as needed.
    """
    is_round = bool(said) and not may_open(said[0])  # what is said belongs to the round above it
    turns, began, reason = _read(path, is_round, head, budget)
    parts = sent_of(turns, said, send_reasoning=send_reasoning)
    is_whole = not turns or turns[0].parent is None
    places = [place for place, turn in enumerate(turns) if opens(turn) or (place == 0 and is_whole)]
    if began is not None:
        places = [place for place in places if turns[place].seq >= began] or places[-1:]
    if not is_round or not places:
        places.append(len(turns))
    context = Context(head, turns, parts, places, began, send_reasoning, bool(said), places[0], reason)
    if excess := context.excess(places[0], budget):
        wanted = context.place if began is None else context.half(budget)  # of another head as many as fit
        context.place, context.reason = context.step(wanted, budget), excess
    if is_nothing(turns[: context.place]) and (is_whole or is_nothing(path)):
        context.reason = WHOLE
    return context


def shrink(context: Context, budget: Budget, error: TooLong) -> Context:
    """The context without its older half, after the LLM refused it; raises the error if none of it can go."""
    if context.place == context.places[-1]:
        raise error
    is_named = budget.tokens_reason == LISTED and context.excess(context.place, budget) == LISTED
    wanted = context.half(budget) if is_named else context.place + (len(context.turns) + 1) // 2
    shrunk = copy(context)  # with what was measured
    shrunk.place, shrunk.reason = context.step(wanted, budget), LISTED if is_named else REFUSED
    return shrunk


def _read(
    path: Iterator[Turn], is_round: bool, head: Head, budget: Budget
) -> tuple[list[Turn], int | None, str]:
    """The turns that may be sent, oldest first; where the last context began, and why.

    Of other heads, as of another model or other tools, the turns between say nothing: each has a beginning of
    its own. If none says it of this head, there are as many turns as might fit.
    """
    turns: list[Turn] = []
    began, reason, count, length = None, MESSAGES, 0, 0
    for turn in path:
        if began is None and turn.had_head(head.key):
            began, reason = turn.began, str(turn.context_key).partition(":")[2]
        if turn.parent is not None and is_nothing((turn,)):
            continue  # no part of a half of the turns
        turns.append(turn)
        is_round = is_round and not opens(turn)
        if began is not None:
            # The turn above helps to measure, and may open a context if messages of this one were deleted.
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
