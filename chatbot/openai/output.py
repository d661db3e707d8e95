"""Arranges what a reply's log holds into the items of an answer: reasoning, messages, function calls.

A message goes on while text and refusal follow each other, each a part of it; anything else ends it. A call
goes on wherever its arguments go on. Nothing is copied: a part knows where in the log its characters stand.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from chatbot.chat.reply_log import ReplyLog
from chatbot.openai.identifiers import FIRST_OUTPUT, item_id
from chatbot.records import CALL, REASONING, REFUSAL, CallHead

CUT = {"length": "max_output_tokens", "content_filter": "content_filter", "cancelled": None}
"""The finish_reasons of answers that were cut, and what incomplete_details call them."""

_NO_HEAD = CallHead("", "")
_PREFIXES = {"reasoning": "rs", "message": "msg", "function_call": "fc"}


@dataclass(slots=True)
class Part:
    """A part of an item, of one kind: the places in the log where its characters stand."""

    kind: str
    spans: list[tuple[int, int]] = field(default_factory=list)

    def text(self, log: ReplyLog) -> str:
        """Its characters."""
        return "".join(piece.text for start, end in self.spans for piece in log.read(start, end - start))

    def to_object(self, text: str) -> dict[str, Any]:
        """It as this API has it, with the text given."""
        if self.kind == REASONING:
            return {"type": "summary_text", "text": text}
        if self.kind == REFUSAL:
            return {"type": "refusal", "refusal": text}
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


@dataclass(slots=True)
class Item:
    """An item of an answer; a call's arguments are its one part."""

    type: str
    id: str
    index: int
    call: int = 0
    head: CallHead = _NO_HEAD
    is_done: bool = False
    parts: list[Part] = field(default_factory=list)

    def to_object(self, status: str, texts: list[str]) -> dict[str, Any]:
        """It as this API has it, with the texts of its parts."""
        known: dict[str, Any] = {"id": self.id, "type": self.type, "status": status}
        if self.type == "function_call":
            return known | {"call_id": self.head.id, "name": self.head.name, "arguments": "".join(texts)}
        content = [part.to_object(text) for part, text in zip(self.parts, texts, strict=False)]
        if self.type == "reasoning":
            return known | {"summary": content}
        return known | {"role": "assistant", "content": content}


class Outline:
    """The items of an answer, and which of them its newest characters belong to."""

    def __init__(self, message_id: str) -> None:
        self.items: list[Item] = []
        self.current: Item | None = None
        self._message_id = message_id
        self._calls: dict[int, Item] = {}

    def goes_on(self, kind: str, call: int) -> bool:
        """Whether characters of this kind belong to the current item."""
        if not self.current:
            return False
        if kind == CALL:
            return self.current is self._calls.get(call)
        return self.current.type == ("reasoning" if kind == REASONING else "message")

    def turn_to(self, kind: str, call: int, head: CallHead | None) -> bool:
        """Makes the item to which such characters belong the current one; tells whether it is new."""
        if kind == CALL and call in self._calls:
            self.current = self._calls[call]
            return False
        type_ = "function_call" if kind == CALL else "reasoning" if kind == REASONING else "message"
        place = FIRST_OUTPUT + len(self.items)
        self.current = Item(
            type_,
            item_id(_PREFIXES[type_], self._message_id, place),
            len(self.items),
            call,
            head or _NO_HEAD,
        )
        self.items.append(self.current)
        if kind == CALL:
            self._calls[call] = self.current
            self.current.parts.append(Part(CALL))
        return True


def items_of(log: ReplyLog, message_id: str, finish_reason: str | None) -> list[dict[str, Any]]:
    """The items of an answer, of one that still runs (finish_reason None) too."""
    outline = Outline(message_id)
    starts = [run.start for run in log.runs[1:]]
    for run, end in zip(log.runs, [*starts, log.length], strict=False):
        if not outline.goes_on(run.kind, run.call):
            outline.turn_to(run.kind, run.call, run.head)
        item = outline.current
        assert item
        if not item.parts or item.parts[-1].kind != run.kind:
            item.parts.append(Part(run.kind))
        item.parts[-1].spans.append((run.start, end))
    last = "in_progress" if finish_reason is None else "incomplete" if finish_reason in CUT else "completed"
    objects = []
    for item in outline.items:
        texts = [part.text(log) for part in item.parts]
        objects.append(item.to_object(last if item is outline.current else "completed", texts))
    return objects
