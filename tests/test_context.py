"""How much of a conversation the LLM is sent: the newest of it, no more than allowed, less when told so."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatbot import context
from tests.tools.server import Running, StartServer, text_of
from tests.tools.scripted_llm import (
    DONE,
    END,
    SSE_HEAD,
    Close,
    ScriptedLLM,
    Step,
    answer,
    capture,
    completion,
    delta,
    events,
    reply,
)


@given(st.integers(1, 2000))
def test_as_many_whole_turns_go_along_as_there_is_room_for(limit: int) -> None:
    sent = 2 * context.turns_within(limit) + 1
    assert limit - 1 <= sent <= limit


TRICKY = st.text(max_size=3) | st.sampled_from(['{"role":"user"', "[]", '"', "\\"])


@given(TRICKY | st.none(), st.lists(st.tuples(TRICKY, TRICKY), max_size=4), TRICKY)
def test_the_messages_are_the_prompt_the_turns_and_the_question(
    prompt: str | None, turns: list[tuple[str, str]], question: str
) -> None:
    history = [
        {"role": role, "content": content}
        for turn in turns
        for role, content in zip(("user", "assistant"), turn, strict=True)
    ]
    text = json.dumps(history, separators=(",", ":"))[1:-1]
    assert context.count_turns(text) == len(turns)
    expected = [{"role": "system", "content": prompt}] if prompt else []
    expected += [*history, {"role": "user", "content": question}]
    told = context.messages(json.dumps(prompt) if prompt else "", text, json.dumps(question))
    assert json.loads(told) == expected


def sent(llm: ScriptedLLM, number: int = -1) -> list[str]:
    """The messages of one request, as "role: content"."""
    return [f"{message['role']}: {message['content']}" for message in llm.exchanges[number].body["messages"]]


async def talk(server: Running, session: str, turns: int) -> None:
    for number in range(1, turns + 1):
        status, told, _ = await server.chat(session, f"Q{number}")
        assert status == 200, told


async def test_the_newest_messages_go_to_the_llm_in_order(start: StartServer, llm: ScriptedLLM) -> None:
    server = await start(max_context_messages=4)
    llm.script = lambda body: answer(body=completion("A" + body["messages"][-1]["content"][1:]))
    session = await server.session()
    await talk(server, session, 4)
    assert sent(llm, 0) == ["user: Q1"]
    assert sent(llm, 1) == ["user: Q1", "assistant: A1", "user: Q2"]
    # Four would begin with a reply, which many chat templates refuse.
    assert sent(llm, 3) == ["user: Q3", "assistant: A3", "user: Q4"]


async def test_a_context_of_one_is_the_message_alone(start: StartServer, llm: ScriptedLLM) -> None:
    server = await start(max_context_messages=1, system_prompt="Be kind.")
    session = await server.session()
    await talk(server, session, 2)
    assert sent(llm) == ["system: Be kind.", "user: Q2"]


@pytest.mark.parametrize(
    ("configured", "own", "expected"),
    [
        ("", {}, []),
        ("Be kind.", {}, ["system: Be kind."]),
        ("Be kind.", {"system_prompt": "Be brief."}, ["system: Be brief."]),
        ("Be kind.", {"system_prompt": ""}, ["system: Be kind."]),
        ("", {"system_prompt": "Be brief."}, ["system: Be brief."]),
    ],
)
async def test_the_sessions_own_system_prompt_goes_before_the_configured_one(
    start: StartServer, llm: ScriptedLLM, configured: str, own: dict[str, str], expected: list[str]
) -> None:
    server = await start(system_prompt=configured, max_context_messages=3)
    session = await server.session(**own)
    await talk(server, session, 5)
    assert sent(llm) == [*expected, "user: Q4", "assistant: Hello there.", "user: Q5"]


@pytest.mark.parametrize("how", ["chat", "stream"])
async def test_how_many_messages_went_is_told(server: Running, how: str) -> None:
    session = await server.session(system_prompt="Be kind.")
    for expected in ("1", "3", "5"):
        if how == "chat":
            _, _, headers = await server.chat(session)
        else:
            stream = await server.stream(session)
            headers = stream.headers
            await stream.rest()
        assert headers["X-Context-Messages"] == expected, "the system prompt is not counted"


# When the LLM says that it is too long

PROSE = answer(
    "400 Bad Request", {"object": "error", "message": "This model's maximum context length is 512 tokens."}
)
WAYS: dict[str, tuple[bool, list[Step]]] = {
    # how it is said: (whether in a stream, the answer)
    "llama-server": (False, capture("llama-server", "too_long")),
    "llama-server, asked for a stream": (True, capture("llama-server", "too_long_stream")),
    "llama-cpp-python": (False, capture("llama-cpp-python", "too_long")),
    "llama-cpp-python, asked for a stream, says nothing at all": (
        True,
        capture("llama-cpp-python", "too_long_stream"),
    ),
    "vLLM": (False, PROSE),
    "vLLM, asked for a stream": (True, PROSE),
    "in a frame": (
        True,
        [*events(b'data: {"error": {"message": "m", "code": "context_length_exceeded"}}\n\n', DONE), END],
    ),
}


@pytest.mark.parametrize("way", WAYS)
async def test_a_context_that_is_too_long_is_halved_until_it_fits(
    server: Running, llm: ScriptedLLM, way: str
) -> None:
    stream_wanted, too_long = WAYS[way]
    session = await server.session(system_prompt="Be kind.")
    await talk(server, session, 4)
    before = len(llm.exchanges)
    llm.play(too_long, too_long)
    if stream_wanted:
        stream = await server.stream(session, "Q5")
        assert stream.status == 200
        headers = stream.headers
        assert text_of(await stream.rest()) == "Hello there."
    else:
        status, told, headers = await server.chat(session, "Q5")
        assert (status, told["content"]) == (200, "Hello there.")
    windows = [sent(llm, number) for number in range(before, len(llm.exchanges))]
    a = "assistant: Hello there."
    assert windows == [
        ["system: Be kind.", "user: Q1", a, "user: Q2", a, "user: Q3", a, "user: Q4", a, "user: Q5"],
        ["system: Be kind.", "user: Q3", a, "user: Q4", a, "user: Q5"],
        ["system: Be kind.", "user: Q4", a, "user: Q5"],
    ]
    assert headers["X-Context-Messages"] == "3", "what was told is not what the answer was given to"
    assert len(await server.history(session)) == 11, "what the LLM is not sent is not forgotten"


@pytest.mark.parametrize("way", WAYS)
async def test_a_message_that_alone_is_too_long_is_refused(
    server: Running, llm: ScriptedLLM, way: str
) -> None:
    stream_wanted, too_long = WAYS[way]
    session = await server.session()
    await talk(server, session, 2)
    before = len(llm.exchanges)
    llm.play(*[too_long] * 3)
    path = "/api/chat/stream" if stream_wanted else "/api/chat"
    status, told, _ = await server.call("POST", path, {"session_id": session, "message": "Q3"})
    assert len(llm.exchanges) - before == 3, "5 messages, then 3, then the new one alone"
    assert sent(llm) == ["user: Q3"]
    if way.endswith("nothing at all"):  # nothing was said of a length, after all
        assert (status, told["error"]["code"]) == (502, "llm_error"), told
    else:
        assert (status, told["error"]["code"], told["error"]["param"]) == (
            400,
            "context_too_long",
            "message",
        ), told
    assert len(await server.history(session)) == 4
    status, _, _ = await server.chat(session, "Q3")
    assert status == 200, "the next turn works"


async def test_a_stream_that_had_begun_is_not_begun_again(server: Running, llm: ScriptedLLM) -> None:
    session = await server.session()
    await talk(server, session, 2)
    too_long = b'data: {"error": {"message": "m", "type": "exceed_context_size_error"}}\n\n'
    llm.play([*events(delta("one"), too_long), END])
    stream = await server.stream(session, "Q3")
    told = await stream.rest()
    assert text_of(told[:-1]) == "one"
    assert told[-1].json["error"]["code"] == "context_too_long"
    assert len(llm.exchanges) == 3
    assert len(await server.history(session)) == 4


async def test_another_error_is_not_tried_with_less(server: Running, llm: ScriptedLLM) -> None:
    session = await server.session()
    await talk(server, session, 2)
    failures: list[list[Step]] = [
        answer("500 Oops", b"<html>"),
        answer("400 Bad Request", {"error": {"message": "bad temperature"}}),
        [*events(b": only a comment\n\n"), END],
        [SSE_HEAD, Close],
    ]
    for number, failure in enumerate(failures):
        llm.play(failure)
        stream = await server.stream(session, "Q3")
        assert stream.status in (400, 502)
        assert len(llm.exchanges) == 3 + number


async def test_the_next_turn_is_sent_as_much_as_ever(server: Running, llm: ScriptedLLM) -> None:
    session = await server.session()
    await talk(server, session, 2)
    llm.play(PROSE)
    await server.chat(session, "Q3")
    llm.play(reply("ok"))
    headers: Any = (stream := await server.stream(session, "Q4")).headers
    await stream.rest()
    assert headers["X-Context-Messages"] == "7"
