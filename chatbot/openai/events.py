"""Makes the events of a streamed response from a reply's chunks, the same live and in a replay. No I/O.

An event's sequence_number is computed from its place alone: the characters that were sent up to and with it,
and how many events without characters came so far. So a replay needs nothing but the log, which knows where
the LLM's chunks ended and the kinds changed. Numbers have gaps, which no client minds.

A call whose arguments are whole JSON when something else begins is done then; any other when the reply ends,
for some LLMs write the arguments of several calls by turns.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import chain
from typing import Any

from chatbot.chat.reply_source import ReplySource
from chatbot.errors import ChatError
from chatbot.openai.output import CUT, Item, Outline, Part, part_object
from chatbot.openai.responses import ResponseRecord, status_of
from chatbot.records import CALL, REASONING, REFUSAL, TEXT, CallHead, Chunk, Piece, as_json

CATCH_UP_CHARS = 16 * 1024
"""How many characters are caught up at once, unless a chunk is longer."""

_NAMES = {
    # of each kind: its events, the field that holds the text at last, its part's events, the part's number
    TEXT: ("output_text", "text", "content_part", "content_index"),
    REFUSAL: ("refusal", "refusal", "content_part", "content_index"),
    REASONING: ("reasoning_summary_text", "text", "reasoning_summary_part", "summary_index"),
    CALL: ("function_call_arguments", "arguments", "", ""),
}


class ResponseEncoder:
    """The events of one response to one client, who has all of them up to the number `after` (-1: none).

    It goes through the reply from its beginning, and leaves out what the client has. `offset` is where it is.
    """

    def __init__(self, record: ResponseRecord, source: ReplySource, after: int = -1) -> None:
        self.offset = 0
        self._record = record
        self._source = source
        self._after = after
        self._bare = 0  # how many events without characters came so far
        self._outline = Outline(source.message_id)
        self._kind, self._call = "", 0  # of the newest characters
        self._begun = 0  # where they begin
        self._head = self._tail = ""  # of their events, around number and text
        self._events: list[bytes] = []
        self._open()
        self._opening = self._taken()

    # What web/streaming.py asks for

    def opening(self) -> bytes:
        """What comes before the first character."""
        return self._opening

    def live(self, chunk: Chunk, offset: int) -> bytes:
        """The events of a chunk, after which the client has `offset` characters."""
        if len(chunk.pieces) == 1:
            kind, text, call, head = chunk.pieces[0]
            if kind == self._kind and call == self._call and head is None and text:  # nearly always
                self.offset = offset
                return self._delta(text)
        self._take(_joined(chunk.pieces))
        return self._taken()

    def catch_up(self, source: ReplySource, start: int) -> tuple[bytes, int]:
        """The events of the next chunks in the log, and how many characters the client has then."""
        log = source.log
        for end in chain(log.chunks(start), (log.length,)):
            if end > self.offset:
                self._take(log.read(self.offset, end - self.offset))
            if self.offset - start >= CATCH_UP_CHARS:
                break
        return self._taken(), self.offset

    def ending(self, source: ReplySource, offset: int, *, live: bool) -> bytes:
        """What ends the stream of a reply that was stored."""
        finish_reason = source.finish_reason or ""
        self._leave()
        for item in self._outline.items:
            is_cut = finish_reason in CUT and item is self._outline.current
            self._close(item, "incomplete" if is_cut else "completed")
        name = "incomplete" if status_of(finish_reason) == "incomplete" else "completed"
        self._event(name, self.offset, response=self._record.of_source(source))
        return self._taken()

    def error(self, error: ChatError) -> bytes:
        """What ends the stream of a reply that failed, or was cancelled before its first word."""
        source = self._source
        if source.turn:  # the server shuts down, and what came was stored
            return self.ending(source, self.offset, live=False)
        response = self._record.failed(source, error)
        self._event("failed" if response["error"] else "completed", self.offset, response=response)
        return self._taken()

    # The events

    def _open(self) -> None:
        record = self._record
        model = record.settings.get("model", "")  # as it was asked for: who answers is not known yet
        status = "queued" if record.is_background else "in_progress"
        names = ("created", "queued", "in_progress") if record.is_background else ("created", "in_progress")
        for name in names:
            response = record.to_object("in_progress" if name == "in_progress" else status, model=model)
            self._event(name, 0, response=response)

    def _event(self, name: str, end: int, /, **fields: Any) -> None:
        """An event without characters at the place `end`, unless the client has it."""
        type_ = f"response.{name}"
        number = end + self._bare
        self._bare += 1
        if number > self._after:
            data = as_json({"type": type_, "sequence_number": number} | fields)
            self._events.append(f"event: {type_}\ndata: {data}\n\n".encode())

    def _delta(self, text: str) -> bytes:
        number = self.offset + self._bare - 1
        if number <= self._after:
            return b""
        return f"{self._head}{number}{self._tail}{as_json(text)}}}\n\n".encode()

    def _taken(self) -> bytes:
        events, self._events = self._events, []
        return b"".join(events)

    def _take(self, pieces: Iterable[Piece]) -> None:
        for piece in pieces:
            end = self.offset + piece.length
            if piece.kind != self._kind or piece.call != self._call or piece.head:
                self._turn_to(piece.kind, piece.call, piece.head)
            self.offset = end
            if piece.text:
                self._events.append(self._delta(piece.text))

    def _turn_to(self, kind: str, call: int, head: CallHead | None) -> None:
        """What lies between characters of one kind and of another, which begin here."""
        self._leave()
        log, outline = self._source.log, self._outline
        before, item = outline.current, outline.find(kind, call, head)
        if before and item is not before and (not before.head or _is_json(before.parts[0].text(log))):
            self._close(before, "completed")
        self.offset += head is not None
        if not item.parts:
            added = item.to_object("in_progress", log)
            self._event("output_item.added", self.offset, output_index=item.index, item=added)
        outline.current = item
        if not item.parts or item.parts[-1].kind != kind:
            if item.parts:
                self._close_part(item)
            item.parts.append(Part(kind))
            if part_name := _NAMES[kind][2]:
                added = part_object(kind, "")
                self._event(f"{part_name}.added", self.offset, **self._at(item), part=added)
        self._kind, self._call, self._begun = kind, call, self.offset
        self._prepare_deltas(item)

    def _prepare_deltas(self, item: Item) -> None:
        type_ = f"response.{_NAMES[self._kind][0]}.delta"
        fields = as_json(self._at(item) | ({"logprobs": []} if self._kind == TEXT else {}))
        self._head = f'event: {type_}\ndata: {{"type":"{type_}","sequence_number":'
        self._tail = f',{fields[1:-1]},"delta":'

    def _at(self, item: Item) -> dict[str, Any]:
        """Which item and part of it an event speaks of."""
        at: dict[str, Any] = {"item_id": item.id, "output_index": item.index}
        index = _NAMES[item.parts[-1].kind][3] if item.parts else ""
        return at | ({index: len(item.parts) - 1} if index else {})

    def _leave(self) -> None:
        """Writes down which characters belong to the newest part."""
        if self._outline.current and self.offset > self._begun:
            self._outline.current.parts[-1].spans.append((self._begun, self.offset))
            self._begun = self.offset

    def _close_part(self, item: Item) -> None:
        part, at = item.parts[-1], self._at(item)
        name, field, part_name, _ = _NAMES[part.kind]
        text = part.text(self._source.log)
        more: dict[str, Any] = {"name": item.head.name} if item.head else {}
        if part.kind == TEXT:
            more["logprobs"] = []
        self._event(f"{name}.done", self.offset, **at, **more, **{field: text})
        if part_name:
            self._event(f"{part_name}.done", self.offset, **at, part=part_object(part.kind, text))

    def _close(self, item: Item, status: str) -> None:
        if not item.is_done:
            item.is_done = True
            self._close_part(item)
            done = item.to_object(status, self._source.log)
            self._event("output_item.done", self.offset, output_index=item.index, item=done)


def _joined(pieces: Iterable[Piece]) -> list[Piece]:
    """The pieces as the log has them: of each run one, and none that is empty."""
    joined: list[Piece] = []
    for piece in pieces:
        if joined and piece.head is None and (joined[-1].kind, joined[-1].call) == (piece.kind, piece.call):
            joined[-1] = joined[-1]._replace(text=joined[-1].text + piece.text)
        elif piece.length:
            joined.append(piece)
    return joined


def _is_json(arguments: str) -> bool:
    try:
        json.loads(arguments)
    except (ValueError, RecursionError):
        return False
    return True
