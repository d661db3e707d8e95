"""Replies without a server: what an LLM's chunks become, live and in every replay, as parsed events."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from chatbot.chat.reply_log import ReplyLog
from chatbot.errors import ChatError
from chatbot.openai.events import ResponseEncoder
from chatbot.openai.responses import Response
from chatbot.records import CALL, REASONING, REFUSAL, TEXT, CallHead, Chunk, Piece, Turn

SESSION = "1b4e28ba-2fa1-4d2e-883f-0016d3cca427"
MESSAGE = "01234567-89ab-7def-8123-456789abc000"
RESPONSE = "resp_1b00112233445566778899aabbccddeeff"


text, reasoning, refusal = partial(Piece, TEXT), partial(Piece, REASONING), partial(Piece, REFUSAL)


def call(number: int, arguments: str, name: str = "") -> Piece:
    return Piece(CALL, arguments, number, CallHead(f"call_{number}", name) if name else None)


@dataclass
class Source:
    """A reply that a test writes; a ReplySource."""

    log: ReplyLog = field(default_factory=ReplyLog)
    session_id: str = SESSION
    message_id: str = MESSAGE
    created_at: int = 1_700_000_000_000
    model: str = "test-model"
    has_pushed: bool = True
    finish_sent: bool = False
    heard_at: float = 0.0
    ended: bool = False
    error: ChatError | None = None
    finish_reason: str | None = None
    usage: str | None = '{"prompt_tokens":5,"completion_tokens":3,"total_tokens":8}'
    context_messages: int = 1
    turn: Turn | None = None

    def end(self, finish_reason: str) -> None:
        self.ended, self.finish_reason = True, finish_reason
        columns = self.log.to_columns()
        self.turn = Turn(
            seq=0,
            session_id=SESSION,
            parent=None,
            turn_id=MESSAGE,
            asked_at=self.created_at,
            replied_at=self.created_at + 1500,
            finish_reason=finish_reason,
            input='{"role":"user","content":"Hi"}',
            **columns,
        )


def response(source: Source, **settings: Any) -> Response:
    at = source.created_at
    asked = Turn(0, SESSION, None, MESSAGE, at, at, response_id=RESPONSE, response=json.dumps(settings))
    return Response(source, asked)


def parse(data: bytes) -> list[dict[str, Any]]:
    """The events in a stream; each one's event: is its type."""
    events = []
    for block in data.decode().removesuffix("data: [DONE]\n\n").split("\n\n")[:-1]:
        name, data_line = block.split("\n")
        event = json.loads(data_line.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        events.append(event)
    return events


def play(chunks: list[list[Piece]], finish: str = "stop", **settings: Any) -> tuple[list[Any], Source]:
    """The events that a client is sent live, and the reply."""
    source = Source()
    encoder = ResponseEncoder(response(source, **settings))
    data = encoder.opening()
    for pieces in chunks:
        source.log.append(pieces)
        data += encoder.live(Chunk(b"{}", tuple(pieces)), source.log.length)
    source.end(finish)
    return parse(data + encoder.ending(source, source.log.length, live=True)), source


def replay(source: Source, after: int = -1, **settings: Any) -> list[Any]:
    """The events that a client is sent who has those up to number `after`, from the stored reply."""
    assert source.turn
    source.log = ReplyLog.from_turn(source.turn)
    encoder = ResponseEncoder(response(source, **settings), after)
    data, offset = encoder.opening(), 0
    while offset < source.log.length:
        more, offset = encoder.catch_up(source, offset)
        data += more
    return parse(data + encoder.ending(source, offset, live=False))
