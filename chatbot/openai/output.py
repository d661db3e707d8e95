"""Arranges what a reply's log holds into the items of an answer: reasoning, messages, function calls.

A message goes on while text and refusal follow each other, each a part of it; anything else ends it. A call
goes on wherever its arguments do. Nothing is copied: a part knows where in the log its characters stand.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from chatbot.chat.reply_log import ReplyLog
from chatbot.openai.identifiers import FIRST_OUTPUT, item_id
from chatbot.records import CALL, REASONING, REFUSAL, CallHead

CUT = {"length": "max_output_tokens", "content_filter": "content_filter", "cancelled": None}
"""The finish_reasons of answers that were cut, and what incomplete_details call them."""

_PREFIXES = {"reasoning": "rs", "message": "msg", "function_call": "fc"}


@dataclass(slots=True)
class Part:
    """A part of an item, of one kind; `spans` are the places in the log where its characters stand."""

    kind: str
    spans: list[tuple[int, int]] = field(default_factory=list)

    def text(self, log: ReplyLog) -> str:
        """Its characters."""
        return "".join(piece.text for start, end in self.spans for piece in log.read(start, end - start))


@dataclass(slots=True)
class Item:
    """An item of an answer; a call's arguments are its one part."""

    type: str
    id: str
    index: int
    head: CallHead | None
    is_done: bool = False
    parts: list[Part] = field(default_factory=list)

    def to_object(self, status: str, log: ReplyLog) -> dict[str, Any]:
        """It as this API has it."""
        known: dict[str, Any] = {"id": self.id, "type": self.type, "status": status}
        texts = [part.text(log) for part in self.parts]
        if self.head:
            return known | {"call_id": self.head.id, "name": self.head.name, "arguments": "".join(texts)}
        content = [part_object(part.kind, text) for part, text in zip(self.parts, texts, strict=True)]
        return known | (
            {"summary": content} if self.type == "reasoning" else {"role": "assistant", "content": content}
        )


class Outline:
    """The items of an answer, and which of them its newest characters belong to."""

    def __init__(self, message_id: str) -> None:
        self.items: list[Item] = []
        self.current: Item | None = None
        self._message_id = message_id
        self._calls: dict[int, Item] = {}

    def find(self, kind: str, call: int, head: CallHead | None) -> Item:
        """The item to which such characters belong: one that goes on, or a new one without parts."""
        type_ = {CALL: "function_call", REASONING: "reasoning"}.get(kind, "message")
        known = self._calls.get(call) if kind == CALL else self.current
        if known and known.type == type_:
            return known
        place = len(self.items)
        item = Item(type_, item_id(_PREFIXES[type_], self._message_id, FIRST_OUTPUT + place), place, head)
        self.items.append(item)
        if kind == CALL:
            self._calls[call] = item
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
    ends = [run.start for run in log.runs[1:]] + [log.length]
    for run, end in zip(log.runs, ends, strict=False):
        item = outline.current = outline.find(run.kind, run.call, run.head)
        if not item.parts or item.parts[-1].kind != run.kind:
            item.parts.append(Part(run.kind))
        item.parts[-1].spans.append((run.start, end))
    last = "in_progress" if finish_reason is None else "incomplete" if finish_reason in CUT else "completed"
    return [item.to_object(last if item is outline.current else "completed", log) for item in outline.items]
