"""Encodes events for this door: `id:` has the characters sent so far, `data:` a chat-completion chunk."""

from __future__ import annotations

import json
from typing import Any

from chatbot.chat.reply_source import ReplySource
from chatbot.errors import ChatError
from chatbot.records import CALL, FIELDS, Chunk, Piece, dumps

CATCH_UP_CHARS = 16 * 1024
"""The most characters in one event of the catch-up."""

MAX_CATCH_UP_BYTES = 64 * 1024
"""About how many bytes of events one catch_up() makes: the pieces may be many and small."""

DONE = b"data: [DONE]\n\n"


class Events:
    """An `Encoder`: live events are the LLM's own chunks; the catch-up has our chunks, made from the log."""

    def opening(self) -> bytes:
        """Returns b"": no event comes before the reply's own events."""
        return b""

    def live(self, chunk: Chunk, offset: int) -> bytes:
        """The event of a chunk that has just come."""
        return b"id: %d\ndata: %b\n\n" % (offset, chunk.data)

    def catch_up(self, source: ReplySource, start: int) -> tuple[bytes, int]:
        """The events of the next part of the log, from offset `start` on, and the offset after them."""
        events = bytearray()
        for piece in source.log.pieces(start, CATCH_UP_CHARS):
            start += piece.length
            events += _event(start, _chunk(source, [_choice(_delta(piece))]))
            if len(events) > MAX_CATCH_UP_BYTES:
                break
        return bytes(events), start

    def ending(self, source: ReplySource, offset: int, *, live: bool) -> bytes:
        """The end of the stream; a client that was not `live` when the finish came is sent it here."""
        if live:
            return DONE
        events = _event(offset, _chunk(source, [_choice({}, source.finish_reason)]))
        if source.usage:
            events += _event(offset, _chunk(source, []) | {"usage": json.loads(source.usage)})
        return events + DONE

    def error(self, error: ChatError) -> bytes:
        """The end of a stream that failed. It has no `id:`, because it brings no characters of the reply."""
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
