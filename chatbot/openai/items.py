"""Makes a turn's items: those of the input from the turn's messages, those of the answer from its log.

An item's id is its turn's id with the item's place as the last three digits: input from 001 on, answers from
800 on. A call in the input has eight more, a hash of the call's id, as a message may have several calls.

In an answer, a message item goes on while text and refusals follow each other; each run of them is a part.
Anything else ends the item. A call goes on wherever more of its arguments come. Items do not copy the text:
they have the numbers of their runs in the log.
"""

from __future__ import annotations

import json
import re
import sys
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from zlib import crc32

from chatbot.chat.reply_log import ReplyLog, Run
from chatbot.ids import message_id
from chatbot.records import CALL, CUT, DELETED, REASONING, REFUSAL, TEXT, CallHead, Piece, Turn

Object = dict[str, Any]

FIRST_OUTPUT = 0x800
"""The place of the first item of an answer."""

NOT_ENCRYPTED = {"encrypted_content": "see summary"}
"""A further field of reasoning items: clients that use store=false send back only items that have it."""

_PREFIXES = {"message": "msg", "reasoning": "rs", "function_call": "fc", "function_call_output": "fco"}
_ID = re.compile(r"(?:msg|rs|fc|fco)_([0-9a-f]{29})([0-9a-f]{3})(?:[0-9a-f]{8})?")


class Kind(NamedTuple):
    """The names of this API's types and fields for a kind of pieces. A call has no parts."""

    item: str
    events: str
    field: str  # the field with the whole text
    parts: str = ""  # the item's field with the parts
    part: str = ""
    part_events: str = "content_part"
    more: Mapping[str, Any] = {}  # fields of each event with text


KINDS = {
    TEXT: Kind("message", "output_text", "text", "content", "output_text", more={"logprobs": []}),
    REFUSAL: Kind("message", "refusal", "refusal", "content", "refusal"),
    REASONING: Kind(
        "reasoning", "reasoning_summary_text", "text", "summary", "summary_text", "reasoning_summary_part"
    ),
    CALL: Kind("function_call", "function_call_arguments", "arguments"),
}


def item_id(type_: str, turn_id: str, place: int) -> str:
    """The id of an item of a turn, if it is the only one at its place."""
    return f"{_PREFIXES[type_]}_{message_id(turn_id, place).replace('-', '')}"


def place_of(id_: str) -> tuple[str, int]:
    """The id of an item's turn, and the item's place there; ("", 0) if `id_` is not an item's id."""
    found = _ID.fullmatch(id_)
    return (str(uuid.UUID(f"{found[1]}000")), int(found[2], 16)) if found else ("", 0)


def part_object(kind: str, text: str) -> Object:
    """A part of a message or of reasoning in an answer."""
    kind_ = KINDS[kind]
    more = {"annotations": [], **kind_.more} if kind == TEXT else {}
    return {"type": kind_.part, kind_.field: text} | more


# What was said


def said_items(messages: Iterable[str], turn_id: str) -> list[Object]:
    """The items of a turn's messages; a deleted message has none."""
    return [
        {"id": item_id(type_, turn_id, place) + suffix, "type": type_, "status": "completed"} | fields
        for place, line in enumerate(messages, 1)
        if line != DELETED
        for type_, suffix, fields in _items_of_message(json.loads(line))
    ]


def _items_of_message(message: Object) -> Iterator[tuple[str, str, Object]]:
    """Yields the type of each item of a message, the suffix of its id, and its other fields."""
    role, content = message["role"], message.get("content")
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content or []
    shown = [_part_object(part, role) for part in parts]
    if "reasoning" in message:
        yield "reasoning", "", NOT_ENCRYPTED | {"summary": [part_object(REASONING, message["reasoning"])]}
    if role == "tool":
        output = content if isinstance(content, str) else shown
        yield "function_call_output", "", {"call_id": message["tool_call_id"], "output": output}
    elif content is not None:
        yield "message", "", {"role": role, "content": shown}
    for call in message.get("tool_calls") or ():
        yield "function_call", f"{crc32(call['id'].encode()):08x}", _call_fields(call)


def _call_fields(call: Object) -> Object:
    """The fields of a call's item, with its signature (extra_content), which clients repeat with the call."""
    more = {"extra_content": call["extra_content"]} if "extra_content" in call else {}
    return {"call_id": call["id"], **call["function"]} | more


def _part_object(part: Any, role: str) -> Any:
    """Converts a part of a chat-completions message in the input to a part of this API."""
    match part["type"]:
        case "text" if role == "assistant":
            return part_object(TEXT, part["text"])
        case "text":
            return {"type": "input_text", "text": part["text"]}
        case "image_url":
            image = part["image_url"]
            return {"type": "input_image", "image_url": image["url"], "detail": image.get("detail") or "auto"}
        case "file":
            return part["file"] | {"type": "input_file"}
    return part


# What was answered


@dataclass(slots=True)
class Item:
    """An item of an answer; `runs` are the numbers of its runs in the log."""

    kind: Kind
    id: str
    index: int
    head: CallHead | None
    runs: list[int] = field(default_factory=list)
    is_done: bool = False

    def text(self, log: ReplyLog) -> str:
        """The text of the item's newest part; for a call, all of its arguments."""
        return "".join(_text_of(log, number) for number in (self.runs if self.head else self.runs[-1:]))

    def has_ended(self, log: ReplyLog) -> bool:
        """Whether the item is done when another begins: a call, if its arguments are an object or a list.

        They are parsed only while the call has one run: a call may be interrupted a thousand times.
        """
        if self.head and len(self.runs) == 1:
            with suppress(ValueError, RecursionError):
                return isinstance(json.loads(self.text(log)), dict | list)  # a number may go on
        return not self.head

    def to_object(self, status: str, log: ReplyLog) -> Object:
        """The item as an object of this API."""
        begun: Object = {"id": self.id, "type": self.kind.item, "status": status}
        if self.head:  # clients parse arguments even if the function takes none
            arguments = self.text(log) or ("{}" if status == "completed" else "")
            return begun | _call_fields(self.head.to_call(arguments))
        more = {"role": "assistant"} if self.kind.item == "message" else NOT_ENCRYPTED
        parts = [part_object(log.runs[number].kind, _text_of(log, number)) for number in self.runs]
        return begun | more | {self.kind.parts: parts}


class Outline:
    """The items of an answer, in the order in which they began; `current` has the newest run."""

    def __init__(self, turn_id: str) -> None:
        self.items: list[Item] = []
        self.current: Item | None = None
        self._turn_id = turn_id
        self._calls: dict[int, Item] = {}

    def turn_to(self, run: Run | Piece) -> Item:
        """Makes the item of a run current: an item that goes on, or a new item, still without runs."""
        kind = KINDS[run.kind]
        item = self._calls.get(run.call) if run.kind == CALL else self.current
        if not item or item.kind.item != kind.item:
            index = len(self.items)
            item = Item(kind, item_id(kind.item, self._turn_id, FIRST_OUTPUT + index), index, run.head)
            self.items.append(item)
        if run.kind == CALL:
            self._calls[run.call] = item
        self.current = item
        return item


def items_of(log: ReplyLog, turn_id: str, finish_reason: str | None) -> list[Object]:
    """The items of an answer; with finish_reason None, of an answer that is still running."""
    outline = Outline(turn_id)
    for number, run in enumerate(log.runs):
        outline.turn_to(run).runs.append(number)
    last = "in_progress"
    if finish_reason is not None:
        last = "incomplete" if CUT.search(finish_reason) else "completed"
    return [item.to_object(last if item is outline.current else "completed", log) for item in outline.items]


def answer_items(turn: Turn) -> list[Object]:
    """The items of a turn's answer; none if the turn has no answer."""
    return items_of(ReplyLog.from_turn(turn), turn.turn_id, turn.finish_reason or "")


def without_newest(turn: Turn) -> Object:
    """Returns a turn's columns for its answer without the newest item; {} if no other item is left."""
    log, left, outline = ReplyLog.from_turn(turn), ReplyLog(max_bytes=sys.maxsize), Outline(turn.turn_id)
    items = [outline.turn_to(run) for run in log.runs]
    for run, item in zip(log.runs, items, strict=True):
        if item is not outline.items[-1]:
            left.append([next(log.pieces(run.start, log.length))])
    return left.to_columns() if left.runs else {}


def _text_of(log: ReplyLog, number: int) -> str:
    """The characters of a run."""
    return next(log.pieces(log.runs[number].start, log.length)).text
