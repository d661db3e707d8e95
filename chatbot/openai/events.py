"""Makes the events of a streamed response from a reply's log, the same live and in a replay. No I/O.

An event's sequence_number is computed from its place alone: the characters that were sent up to and with it,
and how many events without characters came so far. So a replay needs nothing but the log, which knows where
the LLM's chunks ended and the kinds changed. Numbers have gaps, which no client minds.

A call whose arguments are a whole JSON object when something else begins for the first time is done then;
any other when the reply ends, for some LLMs write the arguments of several calls by turns.
"""

from __future__ import annotations

from itertools import islice
from typing import Any

from chatbot.chat.reply_source import ReplySource
from chatbot.errors import ChatError
from chatbot.openai.items import KINDS, Item, Object, Outline, part_object
from chatbot.openai.responses import Response
from chatbot.records import CUT, Chunk, Piece, as_json
from chatbot.web.backpressure import MAX_UNSENT

CATCH_UP_CHUNKS = 256
"""How many of the LLM's chunks are caught up at once, unless they are long: each may be one letter."""


class ResponseEncoder:
    """The events of one response to one client, who has all of them up to the number `after` (-1: none).

    It goes through the reply from its beginning, and leaves out what the client has. `offset` is where it is.
    """

    def __init__(self, response: Response, after: int = -1) -> None:
        self.offset = 0
        self._response = response
        self._source = response.source
        self._after = after
        self._bare = 0  # how many events without characters came so far
        self._outline = Outline(response.source.message_id)
        self._runs = 0  # how many have begun
        self._kind, self._call = "", 0  # of the newest one
        self._head = self._tail = ""  # of its events, around number and text
        self._events = bytearray()  # that were made and not taken yet
        first = "queued" if response.is_background else "in_progress"
        self._event("created", response=response.without_output(first))
        if response.is_background:
            self._event("queued", response=response.without_output(first))
        self._event("in_progress", response=response.without_output("in_progress"))
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
        self._go_to(offset)
        return self._taken()

    def catch_up(self, source: ReplySource, start: int) -> tuple[bytes, int]:
        """The events of the next chunks in the log, and how many characters the client has then."""
        log = source.log
        for end in [*islice(log.chunks(start), CATCH_UP_CHUNKS)] or [log.length]:
            self._go_to(end)
            if len(self._events) >= MAX_UNSENT:
                break
        return self._taken(), self.offset

    def ending(self, source: ReplySource, offset: int, *, live: bool) -> bytes:
        """What ends the stream of a reply that was stored."""
        for item in self._outline.items:
            is_cut = CUT.search(source.finish_reason or "") and item is self._outline.current
            self._close(item, "incomplete" if is_cut else "completed")
        return self._end(self._response.to_object())

    def error(self, error: ChatError) -> bytes:
        """What ends the stream of a reply that failed, or was cancelled before its first word."""
        if self._source.error and self._source.finish_reason:  # what came was stored at shutdown
            return self.ending(self._source, self.offset, live=False)
        # Nothing is kept of what came before a failure; who had that must be sent the end all the same.
        self._bare = max(self._bare, self._after + 1 - self.offset)
        return self._end(self._response.to_object(error))

    # The events

    def _end(self, response: Object) -> bytes:
        status = response["status"]
        self._event(status if status in ("failed", "incomplete") else "completed", response=response)
        return self._taken() + b"data: [DONE]\n\n"

    def _event(self, name: str, /, **fields: Any) -> None:
        """An event without characters at this place, unless the client has it."""
        type_ = f"response.{name}"
        number = self.offset + self._bare
        self._bare += 1
        if number > self._after:
            data = as_json({"type": type_, "sequence_number": number} | fields)
            self._events += f"event: {type_}\ndata: {data}\n\n".encode()

    def _delta(self, text: str) -> bytes:
        number = self.offset + self._bare - 1
        if number <= self._after:
            return b""
        return f"{self._head}{number}{self._tail}{as_json(text)}}}\n\n".encode()

    def _taken(self) -> bytes:
        events, self._events = bytes(self._events), bytearray()
        return events

    def _go_to(self, end: int) -> None:
        """Makes the events up to character `end` of the log."""
        log = self._source.log
        for piece in log.pieces(self.offset, end - self.offset):
            if piece.head or piece.kind != self._kind or piece.call != self._call:
                self._begin(piece)
            self.offset += len(piece.text)
            if piece.text:
                self._events += self._delta(piece.text)

    def _begin(self, run: Piece) -> None:
        """The events that lie before the characters of a run."""
        log, before, item = self._source.log, self._outline.current, self._outline.turn_to(run)
        if before and item is not before and before.has_ended(log):
            self._close(before, "completed")
        self.offset += run.head is not None
        if not item.runs:
            added = item.to_object("in_progress", log)
            self._event("output_item.added", output_index=item.index, item=added)
        elif not item.head:
            self._close_part(item)
        item.runs.append(self._runs)
        self._runs += 1
        self._kind, self._call = run.kind, run.call
        at, kind = self._at(item), KINDS[run.kind]
        if kind.part:
            self._event(f"{kind.part_events}.added", **at, part=part_object(run.kind, ""))
        type_, fields = f"response.{kind.events}.delta", as_json({**at, **kind.more})
        self._head = f'event: {type_}\ndata: {{"type":"{type_}","sequence_number":'
        self._tail = f',{fields[1:-1]},"delta":'

    def _at(self, item: Item) -> Object:
        """Which item and part of it an event speaks of."""
        at: Object = {"item_id": item.id, "output_index": item.index}
        return at if item.head else at | {f"{item.kind.parts}_index": len(item.runs) - 1}

    def _close_part(self, item: Item) -> None:
        """The events that end the newest part of an item."""
        log, at = self._source.log, self._at(item)
        name, text = log.runs[item.runs[-1]].kind, item.text(log)
        kind, head = KINDS[name], {"name": item.head.name} if item.head else {}
        self._event(f"{kind.events}.done", **at, **head, **kind.more, **{kind.field: text})
        if kind.part:
            self._event(f"{kind.part_events}.done", **at, part=part_object(name, text))

    def _close(self, item: Item, status: str) -> None:
        if not item.is_done:
            item.is_done = True
            self._close_part(item)
            done = item.to_object(status, self._source.log)
            self._event("output_item.done", output_index=item.index, item=done)
