"""A listener sends each event at once, falls behind when too much waits, and is then caught up."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from chatbot.api.events import Events
from chatbot.chat.reply_log import ReplyLog
from chatbot.errors import ChatError
from chatbot.records import TEXT, Chunk, Piece
from chatbot.web import streaming
from chatbot.web.backpressure import MAX_UNSENT
from chatbot.web.streaming import StreamListener
from tests.tools.counting import Counted
from tests.tools.server import turns


class Source:
    """A reply that says what a test says."""

    session_id, message_id, created_at, model, usage = "s", "m", 0, "llama", '{"total_tokens":7}'
    has_pushed = finish_sent = ended = False
    finish_reason: str | None = None
    error: ChatError | None = None

    def __init__(self) -> None:
        self.log = ReplyLog()
        self.listener: StreamListener

    def say(self, text: str, data: bytes = b"{}") -> None:
        pieces = (Piece(TEXT, text),) if text else ()
        self.log.append(pieces)
        self.listener.push([(Chunk(data, pieces), self.log.length)])
        self.has_pushed = True

    def finish(self) -> None:
        self.say("", b'"finish"')
        self.finish_sent, self.finish_reason = True, "stop"
        self.end()

    def end(self) -> None:
        self.ended = True
        self.listener.wake()


class Writer:
    """Takes what is sent; what waits unsent is as much as a test says."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.waiting = 0

    def unsent(self) -> int:
        return self.waiting

    def send(self, data: bytes) -> None:
        assert data, "nothing at all would end a chunked body"
        self.sent.append(data)

    async def wait_until_sent(self) -> None:
        while self.waiting > MAX_UNSENT:  # noqa: ASYNC110
            await asyncio.sleep(0)


@pytest.fixture
def writer(monkeypatch: pytest.MonkeyPatch) -> Writer:
    """Stands in for the connection."""
    writer = Writer()

    async def begin(request: Any, response: Any) -> Writer:
        writer.sent.append(b"HEADERS")
        return writer

    async def finish(request: Any, response: Any, data: bytes = b"") -> None:
        writer.sent.append(data)

    monkeypatch.setattr(streaming.backpressure, "begin", begin)
    monkeypatch.setattr(streaming.backpressure, "finish", finish)
    return writer


def listen(source: Source, after: int = 0, heartbeat: float = 1000) -> asyncio.Task[None]:
    """Has a client listen, as a handler does."""
    listener = source.listener = StreamListener(source, after, Events(), heartbeat)  # type: ignore[arg-type]

    async def run() -> None:
        await listener.begin()
        await listener.run({}, None)  # type: ignore[arg-type]

    return asyncio.create_task(run())


async def test_what_comes_before_the_headers_goes_after_them_and_the_rest_at_once(writer: Writer) -> None:
    source = Source()
    task = listen(source)
    await turns()
    assert writer.sent == [], "the headers wait for the first event"
    source.say("one", b"1")
    source.say("two", b"2")
    await turns()
    assert writer.sent == [b"HEADERS", b"id: 3\ndata: 1\n\nid: 6\ndata: 2\n\n"]
    source.say("three", b"3")
    assert writer.sent[2:] == [b"id: 11\ndata: 3\n\n"], "no task had to be woken"
    source.finish()
    await task
    assert writer.sent[3:] == [b'id: 11\ndata: "finish"\n\n', b"data: [DONE]\n\n"]


async def test_one_who_falls_behind_is_caught_up_and_live_again(writer: Writer) -> None:
    source = Source()
    task = listen(source)
    source.say("one", b"1")
    await turns()
    writer.waiting = MAX_UNSENT + 1
    for _ in range(3):
        source.say("z" * 10_000)
    await turns()
    assert len(writer.sent) == 2, "it reads nothing, so nothing more is made for it"
    writer.waiting = 0
    await turns(20)
    assert [event.count(b"z") for event in writer.sent[2:]] == [16 * 1024, 30_000 - 16 * 1024]
    source.say("live", b"4")
    assert writer.sent[-1] == b"id: 30007\ndata: 4\n\n"
    source.finish()
    await task
    assert writer.sent[-1] == b"data: [DONE]\n\n"


@pytest.mark.parametrize("has_fallen_behind", [True, False])
async def test_a_finish_that_was_missed_is_sent_once_and_one_that_was_not_is_not_sent_again(
    writer: Writer, has_fallen_behind: bool
) -> None:
    source = Source()
    task = listen(source)
    source.say("one")
    await turns()
    writer.waiting = MAX_UNSENT + 1
    if has_fallen_behind:
        source.say("two")
    source.finish()
    await turns()
    writer.waiting = 0
    await task
    everything = b"".join(writer.sent)
    assert everything.count(b'"finish_reason":"stop"') + everything.count(b'"finish"') == 1
    assert everything.count(b"total_tokens") == has_fallen_behind
    assert everything.endswith(b"data: [DONE]\n\n")


async def test_chunks_that_the_log_does_not_hold_are_bounded_too(writer: Writer) -> None:
    source = Source()
    task = listen(source)
    source.say("one")
    await turns()
    writer.waiting = 17 * MAX_UNSENT
    source.say("", b"usage")
    assert len(writer.sent) == 2
    writer.waiting = 0
    source.finish()
    await task
    assert b"total_tokens" in writer.sent[-1]


async def test_long_text_is_read_from_the_log_in_pieces(writer: Writer) -> None:
    source = Source()
    source.log.append((Piece(TEXT, "z" * 20_000),))
    source.has_pushed = True
    task = listen(source)
    await turns()
    source.finish()
    await task
    assert writer.sent[0] == b"HEADERS"
    assert [event.count(b"z") for event in writer.sent[1:-2]] == [16 * 1024, 20_000 - 16 * 1024]


async def test_one_who_comes_between_the_finish_and_the_end_waits_for_the_end(writer: Writer) -> None:
    source = Source()
    source.log.append((Piece(TEXT, "one"),))
    source.has_pushed = source.finish_sent = True
    task = listen(source, after=3)
    await turns()
    source.say("", b"never")
    source.finish_reason = "stop"
    source.end()
    await task
    assert b"never" not in b"".join(writer.sent)
    assert b'"finish_reason":"stop"' in writer.sent[-1]


async def test_a_silence_is_filled_after_a_heartbeat(writer: Writer) -> None:
    source = Source()
    task = listen(source, heartbeat=0.001)
    await asyncio.sleep(0.05)
    assert writer.sent[0] == b"HEADERS", "the headers wait for a heartbeat at most"
    assert set(writer.sent[1:]) == {b": keep-alive\n"}
    source.error = ChatError("llm_error", "It broke.")
    source.end()
    await task
    assert b'"code":"llm_error"' in writer.sent[-1]


def test_what_was_missed_is_made_in_bounded_pieces_however_often_the_kind_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = Source()
    for number in range(20_000):
        source.log.append((Piece(("text", "reasoning")[number % 2], "x"),))
    offset, pieces = 0, Counted(monkeypatch, type(source.log), "pieces")
    while offset < source.log.length:
        events, offset = Events().catch_up(source, offset)  # type: ignore[arg-type]
        assert len(events) < 70_000
        assert events.endswith(b"\n\n")
        assert b"id: %d\n" % offset in events
        assert pieces.take() == events.count(b"data: "), "it reads no more of the log than it sends"
