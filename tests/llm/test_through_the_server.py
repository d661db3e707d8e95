"""What an LLM does wrong, seen by a client: a status or, after the first word, an event; no trace."""

from __future__ import annotations

from typing import Any

import pytest

from tests.llm.asking import CUT, chunk, stream
from tests.llm.test_answers import text
from tests.llm.test_ends import STOP
from tests.tools.scripted_llm import Gate, Hang, ScriptedLLM, Step, answer
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
        (answer("400 X", {"error": {"message": "bad temperature"}}), 400, "llm_rejected"),
        (answer("401 X", {"error": {"message": "no"}}), 502, "llm_error"),
        (answer("429 X", {"error": {"message": "slow"}}, "Retry-After: 7\r\n"), 429, "llm_rate_limited"),
        (answer("503 X", {"error": {"message": "Loading model"}}), 502, "llm_unavailable"),
        (answer("400 X", {"error": {"message": "prompt is too long"}}), 400, "context_too_long"),
        (stream({"error": {"message": "bad grammar", "code": 400}}), 400, "llm_rejected"),
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
    ("rest", "end", "code"),
    [
        ([{"error": {"message": "GPU lost"}}], (), "llm_error"),
        ([chunk(finish="error")], (), "llm_error"),
        ([STOP, text("two")], CUT, "llm_error"),
        ([], CUT, "llm_error"),
    ],
    ids=repr,
)
async def test_a_failure_in_the_middle_is_an_event(
    server: Running, llm: ScriptedLLM, rest: list[Any], end: tuple[Step, ...], code: str
) -> None:
    gate = Gate()
    first, *more = stream(text("one"), *rest, end=end or (b"0\r\n\r\n",))
    llm.play([first, more[0], gate, *more[1:]])
    session = await server.session()
    listening = await server.stream(session)
    event = await listening.event()
    assert event
    assert event.text == "one"
    gate.open()
    told = await listening.rest()
    assert told[-1].json["error"]["code"] == code
    assert "[DONE]" not in [event.data for event in told]
    await check_no_trace(server, session)


async def test_silence_after_the_first_word_is_a_timeout(
    start: StartServer, llm: ScriptedLLM, clock: Clock
) -> None:
    server = await start(llm_timeout_seconds=5, stream_heartbeat_seconds=100)
    llm.play(stream(text("one"), end=(Hang,)))
    session = await server.session()
    listening = await server.stream(session)
    assert await listening.event()
    clock.advance(5)
    told = await listening.rest()
    assert [event.json["error"]["code"] for event in told] == ["llm_timeout"]
    await llm.exchanges[0].gone.wait()
    await check_no_trace(server, session)
