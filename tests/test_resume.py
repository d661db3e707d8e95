"""A stream that was cut goes on where it was cut, character for character, at any time."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from chatbot.api.events import Events
from chatbot.chat.reply_source import ReplySource
from tests.tools.scripted_llm import END, Gate, ScriptedLLM, Step, delta, events, reply, usage
from tests.tools.server import Clock, Event, Running, StartServer, Stream, text_of

TOKENS = [
    "안",
    "녕",
    "하세요 ",
    "\u1112",  # a Hangul syllable in three jamo
    "\u1161",
    "\u11ab",
    " e",
    "\u0301",  # a combining accent
    "👩",  # a family that zero-width joiners hold together
    "\u200d",
    "👩\u200d👧",
    "\ud83d",  # a surrogate pair that the LLM split
    "\ude00",
    "\U0001f1f0",  # a flag of two letters
    "\U0001f1f7",
    "\n\n",
    "\u2028\x85",  # line ends to some, not to server-sent events
    'data: "\\',
    "끝",
]
WHOLE = "".join(TOKENS).encode("utf-16", "surrogatepass").decode("utf-16")


def raw_delta(text: str) -> bytes:
    """A chunk with the text in UTF-8 instead of escapes."""
    chunk = {"id": "c1", "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}
    return b"data: " + json.dumps(chunk, ensure_ascii=False).encode() + b"\n\n"


def call(index: int, arguments: str, call_id: str = "", name: str = "") -> bytes:
    """A chunk with a piece of a tool call; the one with its id and name begins it."""
    head = {"id": call_id, "type": "function"} if call_id else {}
    function = {"name": name} if name else {}
    return delta(tool_calls=[{"index": index, **head, "function": {**function, "arguments": arguments}}])


def told(*, escaped: bool) -> list[bytes]:
    """The events of a reply of all kinds: a role, some thinking, text, calls, a refusal, finish and usage."""
    texts = [
        delta(token) if escaped or "\ud800" <= token <= "\udfff" else raw_delta(token) for token in TOKENS
    ]
    thinking = [delta(role="assistant"), delta(reasoning_content="생각"), delta(reasoning_content="…")]
    calls = [call(0, '{"도시":', "c1", "weather"), call(0, '"서울"}')]
    calls += [call(1, "", "c2", "now"), call(1, "{}")]
    refusal = [delta(refusal="No"), delta(refusal="pe.")]
    return [*thinking, *texts, *calls, *refusal, delta(finish="stop"), usage()]


FRAMES = len(told(escaped=True)) - 2
"""The finish and the usage are held until it is known that they are the last."""


def units(found: list[Event]) -> list[tuple[str, Any]]:
    """All that events deliver: each character with its kind, and of each call its head."""
    units: list[tuple[str, Any]] = []
    for event in found:
        for choice in [] if event.data == "[DONE]" else event.json["choices"]:
            for name in ("reasoning_content", "content", "refusal"):
                units += [(name, letter) for letter in choice["delta"].get(name) or ""]
            for one in choice["delta"].get("tool_calls", ()):
                kind, function = f"call {one['index']}", one["function"]
                if "name" in function:
                    units.append((kind, (one["id"], function["name"])))
                units += [(kind, letter) for letter in function["arguments"]]
    return units


ALL = [
    *(("reasoning_content", letter) for letter in "생각…"),
    *(("content", letter) for letter in WHOLE),
    *[("call 0", ("c1", "weather")), *(("call 0", letter) for letter in '{"도시":"서울"}')],
    *[("call 1", ("c2", "now")), *(("call 1", letter) for letter in "{}")],
    *(("refusal", letter) for letter in "Nope."),
]


def check_ids(found: list[Event], after: int = 0) -> None:
    """Every id says how many characters have been delivered with its event."""
    length = after
    for event in found:
        length += len(units([event]))
        if event.data != "[DONE]":
            assert event.id == length, f"{event} after {length} characters"


def last_id(found: list[Event]) -> int:
    return found[-1].id or 0 if found else 0


@pytest.mark.parametrize("escaped", [True, False], ids=["escaped", "utf8"])
@pytest.mark.parametrize("meanwhile", ["running", "ended"])
async def test_a_stream_cut_after_any_frame_goes_on_without_losing_a_character(
    server: Running, llm: ScriptedLLM, meanwhile: str, escaped: bool
) -> None:
    for cut in range(FRAMES + 1):
        gate = Gate()
        steps: list[Step] = list(told(escaped=escaped))
        steps.insert(max(cut, 1), gate)
        llm.play([*events(*steps), END])
        session = await server.session()
        stream = await server.stream(session, "인사해")
        before = await stream.read(cut)
        await server.leave(stream)
        if meanwhile == "ended":
            gate.open()
            await server.ended()
        again = await server.resume(session, stream.message_id, last_id(before))
        gate.open()
        after = await again.rest()
        where = f"cut after frame {cut} of {FRAMES}"
        assert units(before) + units(after) == ALL, where
        assert after[-1].data == "[DONE]", where
        check_ids(before)
        check_ids(after, last_id(before))
        assert [event.finish_reason for event in after if event.finish_reason] == ["stop"], where
        _, message, _ = await server.call("GET", f"/api/sessions/{session}/messages/{stream.message_id}")
        kept = (message["reasoning"], message["content"], message["refusal"])
        assert kept == ("생각…", WHOLE, "Nope."), where


async def test_a_reply_that_ended_long_ago_is_told_from_any_character_also_after_a_restart(
    start: StartServer, llm: ScriptedLLM, clock: Clock, tmp_path: Path
) -> None:
    settings = {"database_url": str(tmp_path / "chat.db"), "session_timeout_hours": 1000}
    server = await start(**settings)
    llm.play([*events(*told(escaped=True)), END])
    session, stream = await server.begin(read=5)
    await server.leave(stream)
    await server.ended()
    await server.chat(session, "and then?")
    await server.stop()
    clock.advance(3600 * 999)
    server = await start(**settings)
    for after in range(len(ALL) + 1):
        found = await (await server.resume(session, stream.message_id, after)).rest()
        assert units(found) == ALL[after:], f"from character {after}"
        check_ids(found, after)
        assert [event.finish_reason for event in found if event.finish_reason] == ["stop"]
        assert found[-1].data == "[DONE]"
    assert len(llm.exchanges) == 2


async def test_a_listener_may_come_before_the_first_word(server: Running, llm: ScriptedLLM) -> None:
    gate = Gate()
    llm.play([gate, *reply("Hello")])
    session = await server.session()
    asking = asyncio.create_task(server.stream(session))
    await gate.reached.wait()
    listening = asyncio.create_task(server.resume(session, server.running(session).message_id, 0))
    await server.heard_by(session, 2)
    gate.open()
    for stream in (await asking, await listening):
        assert text_of(await stream.rest()) == "Hello"


@pytest.mark.parametrize("after", [0, 5])
async def test_one_who_resumes_before_the_end_is_sent_the_finish_and_the_usage_once(
    server: Running, llm: ScriptedLLM, after: int
) -> None:
    gate = Gate()
    llm.play([*events(delta("Hello"), delta(finish="stop"), gate, usage(9)), END])
    session, stream = await server.begin()
    await gate.reached.wait()
    again = await server.resume(session, stream.message_id, after)
    gate.open()
    found = await again.rest()
    assert text_of(found) == "Hello"[after:]
    assert [event.finish_reason for event in found if event.finish_reason] == ["stop"], found
    assert found[-1].data == "[DONE]"
    totals = [event.json["usage"]["total_tokens"] for event in found[:-1] if event.json.get("usage")]
    assert totals == [9], "a client that adds up what it used must not count it twice"


async def test_the_header_wins_over_the_query(server: Running) -> None:
    session = await server.session()
    stream = await server.stream(session)
    await stream.rest()
    url = f"{server.url}/api/sessions/{session}/messages/{stream.message_id}/stream"
    for query, headers, expected in (
        ("", {}, "Hello there."),
        ("?after=6", {}, "there."),
        ("?after=0", {"Last-Event-ID": "6"}, "there."),
        ("?after=3", {"Last-Event-ID": "12"}, ""),
    ):
        found = Stream(await server.http.get(url + query, headers=headers))
        assert found.status == 200, (query, headers)
        assert text_of(await found.rest()) == expected, (query, headers)


@pytest.mark.parametrize("after", ["13", "-1", "1.5", "six", "", " ", "1e3", "99999999999999999999", "٣"])
async def test_an_offset_that_is_none_is_refused(server: Running, after: str) -> None:
    session, stream = await server.begin()
    await stream.rest()
    path = f"/api/sessions/{session}/messages/{stream.message_id}/stream"
    status, body, _ = await server.call("GET", f"{path}?after={after}")
    assert (status, body["error"]["code"]) == (400, "invalid_request"), body
    if after.strip() and after.isascii():
        status, body, _ = await server.call("GET", path, headers={"Last-Event-ID": after})
        assert (status, body["error"]["param"]) == (400, "Last-Event-ID"), body


async def test_an_offset_beyond_a_running_reply_is_refused_and_the_reply_goes_on(
    server: Running, llm: ScriptedLLM
) -> None:
    gate = Gate()
    llm.play(reply("Once ", gate, "upon"))
    session, stream = await server.begin()
    path = f"/api/sessions/{session}/messages/{stream.message_id}/stream"
    status, body, _ = await server.call("GET", path, headers={"Last-Event-ID": "6"})
    assert (status, body["error"]["code"]) == (400, "invalid_request")
    gate.open()
    assert text_of(await stream.rest()) == "upon"


@pytest.mark.parametrize("ended", [True, False], ids=["ended", "running"])
async def test_a_long_text_is_caught_up_in_pieces_of_bounded_size(
    server: Running, llm: ScriptedLLM, ended: bool
) -> None:
    pieces = [f"{number:06d}" * 2000 for number in range(30)]  # 360,000 characters
    gate = Gate()
    llm.play(reply(*pieces, *([] if ended else [gate]), " end"))
    session = await server.session()
    stream = await server.stream(session)
    if ended:
        await stream.rest()
    else:
        await stream.read(30)
    again = await server.resume(session, stream.message_id, 5)
    caught_up = await again.read(21)
    gate.open()
    found = caught_up + await again.rest()
    assert text_of(found) == ("".join(pieces) + " end")[5:]
    assert max(len(event.text) for event in found) == 16 * 1024
    check_ids(found, 5)
    assert found[-1].data == "[DONE]"


@pytest.mark.parametrize("alone", [False, True], ids=["with its turn", "alone"])
async def test_a_reply_that_is_deleted_while_it_is_resumed_ends_with_an_error(
    server: Running, llm: ScriptedLLM, monkeypatch: pytest.MonkeyPatch, *, alone: bool
) -> None:
    llm.play(reply("z" * 40_000))
    session = await server.session()
    _, said, _ = await server.chat(session)
    catch_up = Events.catch_up

    def catch_up_and_delete(self: Events, source: ReplySource, start: int) -> tuple[bytes, int]:
        caught_up = catch_up(self, source, start)
        turn = server.store.turn_by_id(said["message_id"])
        assert turn
        if alone:
            server.store.keep_only(turn.seq, turn.input)
        else:
            server.store.rewind(session, turn)
        return caught_up

    monkeypatch.setattr(Events, "catch_up", catch_up_and_delete)
    stream = await server.resume(session, said["message_id"])
    text, failure = await stream.rest()
    assert len(text.text) == 16 * 1024
    assert failure.json["error"]["code"] == "message_not_found"
