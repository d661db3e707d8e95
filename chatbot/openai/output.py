"""Arranges what a reply's log holds into the items of an answer: reasoning, messages, function calls.

A message goes on while text and refusal follow each other, each run of them a part of it; anything else ends
it. A call goes on wherever its arguments do. Nothing is copied: an item knows which runs of the log it has.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from chatbot.chat.reply_log import ReplyLog, Run
from chatbot.openai.identifiers import FIRST_OUTPUT, item_id
from chatbot.records import CALL, REASONING, REFUSAL, TEXT, CallHead

CUT = {
    # finish_reason: the status of such a response, and what its incomplete_details call it
    "length": ("incomplete", "max_output_tokens"),
    "content_filter": ("incomplete", "content_filter"),
    "cancelled": ("cancelled", None),
}
"""The answers that were cut; all others are completed."""


_MARKS = re.compile(r"""\\.?|["{}\[\]]""", re.DOTALL)
"""What is to be looked at in JSON to see where it ends; an escape is one, be it cut at its end."""

_ITEM_TYPES = {TEXT: "message", REFUSAL: "message", REASONING: "reasoning", CALL: "function_call"}


@dataclass(slots=True)
class Item:
    """An item of an answer; `runs` are the numbers of those in the log that it consists of."""

    type: str
    id: str
    index: int
    head: CallHead | None
    runs: list[int] = field(default_factory=list)
    is_done: bool = False
    depth: int = 0  # of a call's arguments, as far as its runs were looked at: how many brackets are open
    in_string: bool = False
    rest: str = ""  # the backslash of an escape that was cut

    def text(self, log: ReplyLog) -> str:
        """The characters of its newest part; of a call all of its arguments."""
        return "".join(_text_of(log, number) for number in (self.runs if self.head else self.runs[-1:]))

    def has_ended(self, log: ReplyLog) -> bool:
        """Whether nothing will go on in it when another begins: of a call, that its brackets are closed.

        It is asked once after each run, and looks at that alone: calls written by turns may have thousands.
        """
        if not self.head:
            return True
        was_begun = self.depth > 0
        text, self.rest = self.rest + _text_of(log, self.runs[-1]), ""
        for mark in _MARKS.findall(text):
            if mark == "\\":
                self.rest = mark
            elif mark == '"':
                self.in_string = not self.in_string
            elif mark in ("{", "[") and not self.in_string:
                self.depth, was_begun = self.depth + 1, True
            elif mark in ("}", "]") and not self.in_string:
                self.depth -= 1
        return was_begun and self.depth <= 0

    def to_object(self, status: str, log: ReplyLog) -> dict[str, Any]:
        """It as this API has it."""
        known: dict[str, Any] = {"id": self.id, "type": self.type, "status": status}
        if self.head:
            return known | {"call_id": self.head.id, "name": self.head.name, "arguments": self.text(log)}
        parts = [part_object(log.runs[number].kind, _text_of(log, number)) for number in self.runs]
        if self.type == "reasoning":
            return known | {"summary": parts}
        return known | {"role": "assistant", "content": parts}


class Outline:
    """The items of an answer, as they began; the `current` one has the newest run."""

    def __init__(self, message_id: str) -> None:
        self.items: list[Item] = []
        self.current: Item | None = None
        self._message_id = message_id
        self._calls: dict[int, Item] = {}

    def turn_to(self, run: Run) -> Item:
        """Makes the item current to which a run belongs: one that goes on, or a new one without runs."""
        type_ = _ITEM_TYPES[run.kind]
        item = self._calls.get(run.call) if run.kind == CALL else self.current
        if not item or item.type != type_:
            place = len(self.items)
            item = Item(type_, item_id(type_, self._message_id, FIRST_OUTPUT + place), place, run.head)
            self.items.append(item)
        if run.kind == CALL:
            self._calls[run.call] = item
        self.current = item
        return item


def part_object(kind: str, text: str) -> dict[str, Any]:
    """A part of a message or of reasoning as this API has it."""
    if kind == REASONING:
        return {"type": "summary_text", "text": text}
    if kind == REFUSAL:
        return {"type": "refusal", "refusal": text}
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def items_of(log: ReplyLog, message_id: str, finish_reason: str | None) -> list[dict[str, Any]]:
    """The items of an answer, of one that still runs (finish_reason None) too."""
    outline = Outline(message_id)
    for number, run in enumerate(log.runs):
        outline.turn_to(run).runs.append(number)
    last = "in_progress" if finish_reason is None else "incomplete" if finish_reason in CUT else "completed"
    return [item.to_object(last if item is outline.current else "completed", log) for item in outline.items]


def _text_of(log: ReplyLog, number: int) -> str:
    """The characters of a run."""
    start = log.runs[number].start
    end = log.runs[number + 1].start if number + 1 < len(log.runs) else log.length
    return log.read(start, end - start)[0].text
