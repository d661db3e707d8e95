"""Arranges what a reply's log holds into the items of an answer: reasoning, messages, function calls.

A message goes on while text and refusal follow each other, each run of them a part of it; anything else ends
it. A call goes on wherever its arguments do. Nothing is copied: an item knows which runs of the log it has.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from chatbot.chat.reply_log import ReplyLog, Run
from chatbot.openai.identifiers import FIRST_OUTPUT, item_id
from chatbot.records import CALL, CUT, FILTERED, REASONING, REFUSAL, TEXT, CallHead, Piece

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"?', re.DOTALL)


class Kind(NamedTuple):
    """What this API makes of a kind of pieces: names of types and fields. A call has no parts."""

    item: str
    events: str
    field: str  # of the whole text
    part: str = ""
    part_events: str = "content_part"
    more: Mapping[str, Any] = {}  # of each event with text


KINDS = {
    TEXT: Kind("message", "output_text", "text", "output_text", more={"logprobs": []}),
    REFUSAL: Kind("message", "refusal", "refusal", "refusal"),
    REASONING: Kind("reasoning", "reasoning_summary_text", "text", "summary_text", "reasoning_summary_part"),
    CALL: Kind("function_call", "function_call_arguments", "arguments"),
}


@dataclass(slots=True)
class Item:
    """An item of an answer; `runs` are the numbers of those in the log that it consists of."""

    type: str
    id: str
    index: int
    head: CallHead | None
    runs: list[int] = field(default_factory=list)
    is_done: bool = False

    def text(self, log: ReplyLog) -> str:
        """The characters of its newest part; of a call all of its arguments."""
        return "".join(_text_of(log, number) for number in (self.runs if self.head else self.runs[-1:]))

    def has_ended(self, log: ReplyLog) -> bool:
        """Whether nothing will go on in it when another begins: of a call, that its brackets are closed.

        Only the first run of a call is looked at: one that was interrupted may be so a thousand times.
        """
        if not self.head or len(self.runs) > 1:
            return not self.head
        bare = _STRING.sub("", self.text(log))
        return 0 < sum(map(bare.count, "{[")) <= sum(map(bare.count, "]}"))

    def to_object(self, status: str, log: ReplyLog) -> dict[str, Any]:
        """It as this API has it."""
        known: dict[str, Any] = {"id": self.id, "type": self.type, "status": status}
        if self.head:
            return known | {"call_id": self.head.id, "name": self.head.name, "arguments": self.text(log)}
        parts = [part_object(log.runs[number].kind, _text_of(log, number)) for number in self.runs]
        return known | (
            {"summary": parts} if self.type == "reasoning" else {"role": "assistant", "content": parts}
        )


class Outline:
    """The items of an answer, as they began; the `current` one has the newest run."""

    def __init__(self, message_id: str) -> None:
        self.items: list[Item] = []
        self.current: Item | None = None
        self._message_id = message_id
        self._calls: dict[int, Item] = {}

    def turn_to(self, run: Run | Piece) -> Item:
        """Makes the item current to which a run belongs: one that goes on, or a new one without runs."""
        type_ = KINDS[run.kind].item
        item = self._calls.get(run.call) if run.kind == CALL else self.current
        if not item or item.type != type_:
            place = len(self.items)
            item = Item(type_, item_id(type_, self._message_id, FIRST_OUTPUT + place), place, run.head)
            self.items.append(item)
        if run.kind == CALL:
            self._calls[run.call] = item
        self.current = item
        return item


def status_of(finish_reason: str) -> tuple[str, str | None]:
    """The status of a response that ended so, and what its incomplete_details call it."""
    if finish_reason == "cancelled" or not CUT.search(finish_reason):
        return "cancelled" if finish_reason == "cancelled" else "completed", None
    return "incomplete", "content_filter" if FILTERED.search(finish_reason) else "max_output_tokens"


def part_object(kind: str, text: str) -> dict[str, Any]:
    """A part of a message or of reasoning as this API has it."""
    kind_ = KINDS[kind]
    more = {"annotations": [], **kind_.more} if kind == TEXT else {}
    return {"type": kind_.part, kind_.field: text} | more


def items_of(log: ReplyLog, message_id: str, finish_reason: str | None) -> list[dict[str, Any]]:
    """The items of an answer, of one that still runs (finish_reason None) too."""
    outline = Outline(message_id)
    for number, run in enumerate(log.runs):
        outline.turn_to(run).runs.append(number)
    last = "in_progress"
    if finish_reason is not None:
        last = "incomplete" if CUT.search(finish_reason) else "completed"
    return [item.to_object(last if item is outline.current else "completed", log) for item in outline.items]


def _text_of(log: ReplyLog, number: int) -> str:
    """The characters of a run."""
    return next(log.pieces(log.runs[number].start, log.length)).text
