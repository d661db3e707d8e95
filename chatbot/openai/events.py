"""Makes the events of a streamed response from a reply's log, the same live and in a replay. No I/O.

An event's sequence_number depends on its place only: it is the number of characters up to the event's end,
plus the number of events without characters so far. So a replay needs only the log, which knows where the
LLM's chunks ended and where the kind changed. The numbers have gaps, which clients accept.

When another item follows the first run of a call, the call is done if its arguments are a complete object
or list. Any other call is done when the reply ends, for some LLMs write the arguments of calls alternately.
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
"""The most chunks of the LLM in one catch_up(); long chunks end it earlier. A chunk may be one letter."""


class ResponseEncoder:
    """Encodes one response for one client, which has the events up to the number `after` (-1: none).

    It goes through the reply from the beginning, at `offset`, and leaves out events that the client has.
    """

    def __init__(self, response: Response, after: int = -1) -> None:
        self.offset = 0
        self._response = response
        self._source = response.source
        self._after = after
        self._bare = -1  # events without characters so far, minus 1: the first has number 0
        self._outline = Outline(response.source.message_id)
        self._runs = 0  # how many runs have begun
        self._kind, self._call = "", 0  # of the newest run
        self._delta = ""  # template of the newest run's events, made once: most events are of this kind
        self._events = bytearray()  # made, but not taken yet
        first = "queued" if response.is_background else "in_progress"
        # Three events for a background response, else two: `first` then equals "in_progress".
        for name, status in {"created": first, first: first, "in_progress": "in_progress"}.items():
            self._event(name, response=response.without_output(status))
        self._opening = self._taken()

    # What web/streaming.py calls

    def opening(self) -> bytes:
        """The events before the first character."""
        return self._opening

    def live(self, chunk: Chunk, offset: int) -> bytes | None:
        """The events of a new chunk, after which the reply has `offset` characters; None if they are long."""
        if self.offset > MAX_UNSENT and any(map(self._begins, chunk.pieces)):
            return None  # the events that end an item repeat its text three times
        if len(chunk.pieces) == 1:  # nearly always; several pieces may belong to one run
            self._take(chunk.pieces[0])
        else:
            self._go_to(offset)
        return self._taken()

    def catch_up(self, source: ReplySource, start: int) -> tuple[bytes, int]:
        """The events of the next chunks in the log, and the offset after them."""
        log = source.log
        for end in [*islice(log.chunks(start), CATCH_UP_CHUNKS)] or [log.length]:
            self._go_to(end)
            if len(self._events) >= MAX_UNSENT:
                break
        return self._taken(), self.offset

    def ending(self, source: ReplySource, offset: int, *, live: bool) -> bytes:
        """The end of the stream of a reply that was stored."""
        for item in self._outline.items:
            is_cut = CUT.search(source.finish_reason or "") and item is self._outline.current
            self._close(item, "incomplete" if is_cut else "completed")
        return self._end(self._response.to_object())

    def error(self, error: ChatError) -> bytes:
        """The end of the stream of a reply that failed, or was cancelled before its first character."""
        if self._source.error and self._source.finish_reason:  # the shutdown stored what had come
            return self.ending(self._source, self.offset, live=False)
        # Nothing is stored of a reply that failed. A client that had events of it must still be sent the end.
        self._bare = max(self._bare, self._after - self.offset)
        return self._end(self._response.to_object(error))

    # The events

    def _end(self, response: Object) -> bytes:
        status = response["status"]
        self._event(status if status in ("failed", "incomplete") else "completed", response=response)
        return self._taken() + b"data: [DONE]\n\n"

    def _event(self, name: str, /, **fields: Any) -> None:
        """Adds an event without characters at this place, unless the client has it."""
        type_ = f"response.{name}"
        self._bare += 1
        number = self.offset + self._bare
        if number > self._after:
            data = as_json({"type": type_, "sequence_number": number} | fields)
            self._events += f"event: {type_}\ndata: {data}\n\n".encode()

    def _taken(self) -> bytes:
        events, self._events = bytes(self._events), bytearray()
        return events

    def _go_to(self, end: int) -> None:
        """Makes the events up to character `end` of the log."""
        for piece in self._source.log.pieces(self.offset, end - self.offset):
            self._take(piece)

    def _take(self, piece: Piece) -> None:
        """Makes the events of a piece, which belongs to one run."""
        text = piece.text
        if self._begins(piece):
            self._begin(piece)
        self.offset += len(text)
        if text and (number := self.offset + self._bare) > self._after:
            self._events += (self._delta % (number, as_json(text))).encode()

    def _begins(self, piece: Piece) -> bool:
        """Whether a piece begins a new run."""
        kind, text, call, head = piece
        return bool(head or (text and (kind != self._kind or call != self._call)))

    def _begin(self, run: Piece) -> None:
        """Makes the events that come before the characters of a run."""
        log, before, item = self._source.log, self._outline.current, self._outline.turn_to(run)
        if before and item is not before and before.has_ended(log):
            self._close(before, "completed")
        self.offset += run.head is not None
        if not item.runs:
            added = item.to_object("in_progress", log)
            self._event("output_item.added", output_index=item.index, item=added)
        elif not item.head:
            self._close_part(item, item.text(log))
        item.runs.append(self._runs)
        self._runs += 1
        self._kind, self._call = run.kind, run.call
        kind, at = KINDS[run.kind], self._at(item)
        if kind.part:
            self._event(f"{kind.part_events}.added", **at, part=part_object(run.kind, ""))
        type_, fields = f"response.{kind.events}.delta", as_json({**at, **kind.more})[1:-1]
        data = f'{{"type":"{type_}","sequence_number":%d,{fields},"delta":%s}}'
        self._delta = f"event: {type_}\ndata: {data}\n\n"

    def _at(self, item: Item) -> Object:
        """The fields of an event that say which item it is about, and which part of the item."""
        at: Object = {"item_id": item.id, "output_index": item.index}
        return at if item.head else at | {f"{item.kind.parts}_index": len(item.runs) - 1}

    def _close_part(self, item: Item, text: str) -> None:
        """Makes the events that end the newest part of an item."""
        name, at = self._source.log.runs[item.runs[-1]].kind, self._at(item)
        kind, head = KINDS[name], {"name": item.head.name} if item.head else {}
        self._event(f"{kind.events}.done", **at, **head, **kind.more, **{kind.field: text})
        if kind.part:
            self._event(f"{kind.part_events}.done", **at, part=part_object(name, text))

    def _close(self, item: Item, status: str) -> None:
        if not item.is_done:
            item.is_done, log = True, self._source.log
            done, text = item.to_object(status, log), item.text(log)
            if not text and (text := done.get("arguments", "")):  # the LLM sent none
                self._event("function_call_arguments.delta", **self._at(item), delta=text)
            self._close_part(item, text)
            self._event("output_item.done", output_index=item.index, item=done)
