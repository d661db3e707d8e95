"""What an LLM does wrong, seen by a client: a status or, after the first word, an event; no trace."""

from __future__ import annotations

from typing import Any

import pytest

from tests.llm.asking import STOP, chunk, failure, stream, text
from tests.tools.scripted_llm import Close, Gate, Hang, ScriptedLLM, Step, answer
from tests.tools.server import Clock, Running, StartServer


async def check_no_trace(server: Running, session: str) -> None:
    """The failed turn left nothing, and the next one works."""
    assert await server.history(session) == []
    status, said, _ = await server.chat(session, "again")
    assert (status, said.get("content")) == (200, "Hello there."), said


@pytest.mark.parametrize("path", ["/api/chat", "/api/chat/stream"])
@pytest.mark.parametrize(
    ("script", "status", "code"),
    [
        (answer("400 X", failure("bad temperature")), 400, "llm_rejected"),
        (answer("401 X", failure("no")), 502, "llm_error"),
        (answer("429 X", failure("slow"), "Retry-After: 7\r\n"), 429, "llm_rate_limited"),
        (answer("503 X", failure("Loading model")), 502, "llm_unavailable"),
        (answer("400 X", failure("prompt is too long")), 400, "context_too_long"),
        (stream(failure("bad grammar", code=400)), 400, "llm_rejected"),
    ],
    ids=repr,
)
async def test_a_failure_before_the_first_word_is_a_status(
    server: Running, llm: ScriptedLLM, path: str, script: list[Step], status: int, code: str
) -> None:
    session = await server.session()
    llm.play(script)
    got, told, headers = await server.call("POST", path, {"session_id": session, "message": "Hi"})
    assert (got, told["error"]["code"]) == (status, code), told
    assert headers.get("Retry-After") == ("7" if status == 429 else None)
    await check_no_trace(server, session)


@pytest.mark.parametrize(
    ("rest", "code"),
    [
        ([failure("GPU lost")], "llm_error"),
        ([chunk(finish="error")], "llm_error"),
        ([STOP, text("two"), Close], "llm_error"),
        ([Close], "llm_error"),
        ([Hang], "llm_timeout"),
    ],
    ids=repr,
)
async def test_a_failure_in_the_middle_is_an_event(
    start: StartServer, llm: ScriptedLLM, clock: Clock, rest: list[Any], code: str
) -> None:
    server = await start(llm_timeout_seconds=5, stream_heartbeat_seconds=100)
    gate = Gate()
    llm.play(stream(text("one"), gate, *rest))
    session = await server.session()
    listening = await server.stream(session)
    event = await listening.event()
    assert event
    assert event.text == "one"
    gate.open()
    if rest == [Hang]:
        clock.advance(5)
    *_, last = await listening.rest()
    assert last.json["error"]["code"] == code, "and not [DONE]"
    await check_no_trace(server, session)
