"""What an event is at this door: `id:` with the characters delivered so far, and a chat-completion chunk."""

from __future__ import annotations

import json
from typing import Any

from chatbot.chat.reply_source import ReplySource
from chatbot.errors import ChatError
from chatbot.records import CALL, FIELDS, Chunk, Piece, dumps

CATCH_UP_CHARS = 16 * 1024
"""The most characters of one event of what was missed."""

MAX_CATCH_UP_BYTES = 64 * 1024
"""About how much is made at once of what was missed: pieces may be many and small."""

DONE = b"data: [DONE]\n\n"


class Events:
    """An `Encoder`: the LLM's own chunks while they come; for what was missed ours, made from the log."""

    def opening(self) -> bytes:
        """Nothing stands before the reply's own events."""
        return b""

    def live(self, chunk: Chunk, offset: int) -> bytes:
        """The event of a chunk that has just come."""
        return b"id: %d\ndata: %b\n\n" % (offset, chunk.data)

    def catch_up(self, source: ReplySource, start: int) -> tuple[bytes, int]:
        """The events of some of what follows offset `start`, and the offset after them."""
        events = bytearray()
        for piece in source.log.pieces(start, CATCH_UP_CHARS):
            start += piece.length
            events += _event(start, _chunk(source, [_choice(_delta(piece))]))
            if len(events) > MAX_CATCH_UP_BYTES:
                break
        return bytes(events), start

    def ending(self, source: ReplySource, offset: int, *, live: bool) -> bytes:
        """What ends a stream; one that was not live at the finish is sent that too."""
        if live:
            return DONE
        events = _event(offset, _chunk(source, [_choice({}, source.finish_reason)]))
        if source.usage:
            events += _event(offset, _chunk(source, []) | {"usage": json.loads(source.usage)})
        return events + DONE

    def error(self, error: ChatError) -> bytes:
        """What ends a stream that failed: without an id, for nothing of the reply comes with it."""
        return b"data: %b\n\n" % dumps(error.to_object())


def _event(offset: int, chunk: dict[str, Any]) -> bytes:
    return b"id: %d\ndata: %b\n\n" % (offset, dumps(chunk))


def _chunk(source: ReplySource, choices: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": source.message_id,
        "object": "chat.completion.chunk",
        "created": source.created_at // 1000,
        "model": source.model,
        "choices": choices,
    }


def _choice(delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "finish_reason": finish_reason}


def _delta(piece: Piece) -> dict[str, Any]:
    if piece.kind != CALL:
        return {"role": "assistant", FIELDS[piece.kind]: piece.text}
    call = piece.head.to_call(piece.text) if piece.head else {"function": {"arguments": piece.text}}
    return {"role": "assistant", "tool_calls": [{"index": piece.call} | call]}
