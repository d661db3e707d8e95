"""Chat completions are the LLM's own, streamed or whole, with our watch over them; nothing is stored."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Iterator
from typing import Any

import pytest

from chatbot.openai.relay import Completion, Relayed
from tests.openai.door import Door
from tests.tools.scripted_llm import (
    DONE,
    END,
    Gate,
    Hang,
    ScriptedLLM,
    answer,
    completion,
    delta,
    events,
    reply,
    usage,
)
from tests.tools.server import Clock, StartServer, until

SAID = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


def event(**fields: Any) -> bytes:
    return b"data: %b\n\n" % json.dumps({"id": "c", "created": 1, "model": "m"} | fields).encode()


def choices(*parts: dict[str, Any]) -> bytes:
    return event(choices=parts)


async def ask(door: Door, **more: Any) -> tuple[int, Any]:
    """Asks for a chat completion; returns its status and its JSON."""
    return await door.call("POST", "/chat/completions", SAID | more)


def post(door: Door, **more: Any) -> Any:
    """The same, but it may be left in the middle."""
    return door.server.http.post(f"{door.server.url}/v1/chat/completions", json=SAID | more)


async def read(door: Door, **more: Any) -> list[str]:
    """The data of each event of a streamed chat completion."""
    async with post(door, stream=True, **more) as stream:
        assert stream.status == 200, await stream.text()
        lines = (await stream.text()).split("\n")
        return [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]


async def test_chunks_are_passed_on_as_they_came(door: Door, llm: ScriptedLLM):
    chunks = [delta("", role="assistant"), delta("Hel", odd={"field": 1}), delta("lo"), delta(finish="stop")]
    llm.play([*events(*chunks, DONE), END])
    sent = await read(door)
    assert sent == [chunk.decode().removeprefix("data: ").strip() for chunk in [*chunks, DONE]]
    assert not door.server.sql("SELECT * FROM turns")


async def test_a_whole_one_is_put_together_whatever_its_fields(door: Door, llm: ScriptedLLM):
    token = {"token": "a", "logprob": -1, "top_logprobs": []}
    said = {"index": 0, "delta": {"content": "a"}, "logprobs": {"content": [token]}}
    chunks = (
        {"index": 0, "delta": {"role": "assistant", "content": "", "reasoning": "Hm"}},
        {"index": 1, "delta": {"role": "assistant", "content": "b"}},
        *(said, said),
        {"index": 0, "delta": {}, "finish_reason": "stop"},
        {"index": 1, "delta": {}, "finish_reason": "length"},
    )
    llm.play([*events(*map(choices, chunks), DONE), END])
    status, whole = await ask(door, n=2, seed=7)
    assert (status, whole["object"]) == (200, "chat.completion")
    first, second = whole["choices"]
    assert first["message"] == {"role": "assistant", "content": "aa", "reasoning": "Hm"}
    assert first["logprobs"] == {"content": [token, token]}
    assert (second["message"]["content"], second["finish_reason"]) == ("b", "length")
    assert (llm.exchanges[0].body["n"], llm.exchanges[0].body["seed"]) == (2, 7)


def put_together(*deltas: dict[str, Any], **choice: Any) -> Any:
    """The choice of a whole answer that has come in these pieces."""
    whole = Completion()
    for part in deltas:
        whole.add({"choices": [{"index": 0, "delta": part, **choice}]})
    return json.loads(whole.to_json())["choices"][0]


def piece(id_: str | None, name: str | None, arguments: str, **more: Any) -> dict[str, Any]:
    """A piece of a call."""
    call = {"id": id_, "type": "function", "function": {"name": name, "arguments": arguments}}
    return {"tool_calls": [call | more]}


CALLS = {
    # Gemini streams calls side by side so, and answers them apart where a whole answer is asked for.
    "by their ids, though their index is one": [
        *(piece("a", "f", '{"x":', index=0), piece(None, "f", "1}", index=0)),
        *(piece("b", "f", "{", index=0), piece("b", "f", "}", index=0), piece("", "f", "", index=0)),
        *(piece("c", "g", "{", index=0), piece("d", None, "}", index=0)),  # the last is Poolside's
    ],
    # Some servers say no index, and some begin a second call at the index of the first.
    "as the newest, where no index is said": [
        *(piece("a", "f", '{"x":1}'), piece("b", "f", "{}"), piece("c", "g", "{"), piece(None, None, "}")),
    ],
    "as the newest, where the index is no other one's": [
        *(piece("a", "f", '{"x":1}', index=0), piece("b", "f", "{}", index=0)),
        *(piece("c", "g", "{", index=0), piece(None, None, "}", index=1)),
    ],
}


@pytest.mark.parametrize("pieces", CALLS.values(), ids=CALLS)
def test_the_pieces_of_calls_are_told_apart(pieces: list[dict[str, Any]]):
    calls = put_together(*pieces)["message"]["tool_calls"]
    assert [(call["id"], call["function"]) for call in calls] == [
        ("a", {"name": "f", "arguments": '{"x":1}'}),
        ("b", {"name": "f", "arguments": "{}"}),
        ("c", {"name": "g", "arguments": "{}"}),
    ]


def test_a_call_of_a_whole_one_has_all_that_programs_look_for():
    """Some servers leave them out of a stream; agents leave out a call without them."""
    calls = [{"function": {"name": "f", "arguments": "{}"}}, {"function": {"name": "g"}}]
    first, second = put_together({"tool_calls": calls})["message"]["tool_calls"]
    assert first["type"] == second["type"] == "function"
    assert first["function"]["arguments"] == second["function"]["arguments"] == "{}"
    assert first["id"].startswith("call_")
    assert first["id"] != second["id"]


def test_a_call_of_a_whole_one_that_was_cut_before_its_arguments_is_not_one_without_any():
    [cut] = put_together(piece("a", "f", ""), finish_reason="length")["message"]["tool_calls"]
    assert cut["function"]["arguments"] == "", "{} would be a call that may be made"


def test_what_openrouter_says_of_each_piece_is_said_once_of_the_whole():
    detail = {"type": "reasoning.text", "text": "Let ", "format": "anthropic-claude-v1", "index": 0}
    pieces = [{"reasoning_details": [detail | {"text": text}]} for text in ("Let ", "me")]
    choice = put_together(*pieces, native_finish_reason="end_turn")
    assert choice["message"]["reasoning_details"] == [detail | {"text": "Let me"}]
    assert choice["native_finish_reason"] == "end_turn"


def thought(text: Any, **more: Any) -> dict[str, Any]:
    return {"type": "thinking", "thinking": text, **more}


HM = {"type": "text", "text": "Hm. "}


@pytest.mark.parametrize(
    ("field", "parts", "whole"),
    [
        # Mistral's reasoning models stream so; the text of the answer was lost.
        (
            "content",
            ["", [thought([HM])], "", [thought([HM])], "Hel", "", "lo"],
            [thought([HM | {"text": "Hm. Hm. "}]), {"type": "text", "text": "Hello"}],
        ),
        # A signature ends a thought.
        (
            "thinking_blocks",
            [[thought(text, signature=by)] for text, by in (("a", None), ("b", ""), ("", "S"), ("c", "T"))],
            [thought("ab", signature="S"), thought("c", signature="T")],
        ),
        ("annotations", ["a", "b", [{"type": "text"}], "c"], "abc"),
    ],
    ids=["thoughts and then a text", "thoughts that are signed", "a text and then a list"],
)
def test_what_comes_in_parts_is_joined(field: str, parts: list[Any], whole: Any):
    assert put_together(*({field: part} for part in parts))["message"][field] == whole


async def test_a_finish_that_more_follows_was_none(door: Door, llm: ScriptedLLM):
    chunks = [delta("a"), delta(finish="stop"), delta("b"), delta(finish="length")]
    llm.play([*events(*chunks, DONE), END])
    _, whole = await ask(door)
    choice = whole["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("ab", "length")


class Word(str):
    """A text that is not to be copied into a longer one each time that something comes."""

    def __add__(self, other: str) -> str:
        raise AssertionError("copied for each chunk")

    __radd__ = __add__


class Words(list[Any]):
    """The same of a list, which counts how often it is looked through."""

    looks = 0

    def __iter__(self) -> Iterator[Any]:
        Words.looks += 1
        return super().__iter__()

    def __add__(self, other: list[Any]) -> Any:
        raise AssertionError("copied for each chunk")

    __radd__ = __add__


def test_to_put_a_long_one_together_takes_no_longer_for_each_chunk():
    """To look through what came for each token took 9 s of the probabilities of 8,000."""
    Words.looks = 0
    token, whole = {"token": "word", "logprob": -1}, Completion()
    for number in range(100):
        tokens = [dict(token)] if number else Words([dict(token)])  # to which the others are added
        delta, logprobs = {"content": Word("word")}, {"content": tokens}
        whole.add({"id": "c", "choices": [{"index": 0, "delta": delta, "logprobs": logprobs}]})
    made = json.loads(whole.to_json())["choices"][0]
    assert made["message"]["content"] == "word" * 100
    assert made["logprobs"]["content"] == [token] * 100
    assert Words.looks <= 3, "it is not looked through for each token"


async def test_an_llm_that_answers_whole_is_understood(door: Door, llm: ScriptedLLM):
    llm.play(answer(body=completion("Hello.")), answer(body=completion("Hello.")))
    _, whole = await ask(door)
    assert whole["choices"][0]["message"]["content"] == "Hello."
    assert "Hello." in (await read(door))[0]


async def test_half_a_character_of_a_whole_one_is_joined_with_the_other(door: Door, llm: ScriptedLLM):
    halves = (choices({"index": 0, "delta": {"content": half}}) for half in ("\ud83d", "\udc4b", "\ud83d"))
    llm.play([*events(*halves, delta(finish="stop"), DONE), END])
    status, whole = await ask(door)
    assert (status, whole["choices"][0]["message"]["content"]) == (200, "\U0001f44b\ufffd")


@pytest.mark.parametrize("place", ["x_groq", "choice"])
async def test_a_whole_one_says_what_it_cost_wherever_the_stream_does(
    door: Door, llm: ScriptedLLM, place: str
) -> None:
    """Of a whole answer Groq and Moonshot themselves say it where programs look."""
    cost = {"usage": {"total_tokens": 7}}
    stop = {"index": 0, "delta": {}, "finish_reason": "stop"}
    last = event(choices=[stop], x_groq=cost) if place == "x_groq" else choices(stop | cost)
    llm.play([*events(delta("Hi"), last, DONE), END])
    _, whole = await ask(door)
    assert whole["usage"] == {"total_tokens": 7}


TOOL = {"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
ODD = [
    ({"message": {"content": "Hi"}}, {"content": "Hi"}),
    ({"text": "Hi", "delta": None}, {"content": "Hi"}),
    ({"index": "0", "delta": {"content": "Hi"}}, {"content": "Hi"}),
    ({"delta": {"tool_calls": TOOL}}, {"tool_calls": [TOOL]}),
    ({"delta": {"content": "Hi", "tool_calls": [None]}}, {"content": "Hi"}),
]


@pytest.mark.parametrize(("choice", "said"), ODD)
async def test_what_stands_where_no_client_looks_is_moved(
    door: Door, llm: ScriptedLLM, choice: dict[str, Any], said: dict[str, Any]
) -> None:
    """TGI's calls are no list; a whole one could not be made of that."""
    script = [*events(choices({"index": 0, **choice}), delta(finish="stop"), DONE), END]
    llm.play(script, script)
    first, *_ = await read(door)
    assert json.loads(first)["choices"][0]["delta"] == said
    _, whole = await ask(door)
    message = whole["choices"][0]["message"]
    assert [call["function"] for call in message.get("tool_calls", ())] == (
        [TOOL["function"]] if "tool_calls" in said else []
    )
    assert message["content"] == said.get("content")


async def test_errors_are_statuses_before_the_stream_and_events_in_it(door: Door, llm: ScriptedLLM):
    error = b'data: {"error": {"message": "no"}}\n\n'
    for unsent in ([], [usage()]):
        llm.play([*events(*unsent, error, DONE), END])
        status, refused = await ask(door, stream=True)
        assert (status, refused["error"]["code"]) == (502, "llm_error"), "nothing of the stream was sent"
    for stream in (False, True):
        status, refused = await ask(door, messages=[{"role": "user", "content": "reject"}], stream=stream)
        assert (status, refused["error"]["code"]) == (400, "llm_rejected")
    breaks = [{"role": "user", "content": "break"}]
    assert json.loads((await read(door, messages=breaks))[-1])["error"]["code"] == "llm_error"
    status, broken = await ask(door, messages=breaks)
    assert (status, broken["error"]["code"]) == (502, "llm_error")


async def test_a_client_that_leaves_frees_the_llm_and_is_counted(door: Door, llm: ScriptedLLM):
    llm.play(events(delta("a"), Hang), events(Hang))
    for number, stream in ((1, True), (2, False)):
        asking = asyncio.create_task(post(door, stream=stream))
        exchange = await llm.asked(number)
        if stream:
            await (await asking).content.readline()
            asking.result().close()
        else:
            asking.cancel()
        await exchange.gone.wait()
    await door.server.ended()
    assert 'chatbot_replies_total{end="cancelled"} 2' in await metrics(door)


async def metrics(door: Door) -> list[str]:
    async with door.server.http.get(f"{door.server.url}/metrics") as response:
        return (await response.text()).splitlines()


async def test_a_silent_llm_is_bridged(door: Door, llm: ScriptedLLM, clock: Clock):
    gate = Gate()
    llm.play(reply(gate, "Hi"))
    asking = asyncio.create_task(post(door, stream=True))
    await gate.reached.wait()
    clock.advance(16)
    async with await asking as stream:
        assert await stream.content.readline() == b": keep-alive\n"
        gate.open()
        assert (await stream.text()).endswith("data: [DONE]\n\n")


async def test_it_counts_among_the_replies_that_may_run(
    start: StartServer, llm: ScriptedLLM, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "chatbot.access")
    door = Door(await start(max_active_replies=1))
    gate = Gate()
    llm.play(reply(gate, "Hi"))
    reading = asyncio.create_task(read(door))
    await gate.reached.wait()
    status, refused = await ask(door)
    assert (status, refused["error"]["code"]) == (503, "overloaded")
    assert "end=" not in caplog.messages[-1], "nothing ran that could have ended"
    gate.open()
    assert (await reading)[-1] == "[DONE]"
    assert (await ask(door))[0] == 200


@pytest.mark.parametrize(
    ("param", "body"),
    [
        *(("stream_options", {"stream": True, "stream_options": odd}) for odd in ("usage", [1])),
        *(("messages", {"messages": nothing}) for nothing in ([], None, "Hi")),
        *(("stream", {"stream": odd}) for odd in ("yes", 1)),
    ],
)
async def test_what_cannot_be_meant_is_refused_by_name(door: Door, param: str, body: dict[str, Any]):
    status, refused = await ask(door, **body)
    assert (status, refused["error"]["param"]) == (400, param)


async def test_a_stream_that_is_null_is_none(door: Door):
    status, whole = await ask(door, stream=None)
    assert (status, whole["object"]) == (200, "chat.completion")


async def test_only_who_asks_for_the_usage_gets_its_chunk(door: Door):
    assert not any('"usage"' in chunk for chunk in await read(door))
    assert any('"usage"' in chunk for chunk in await read(door, stream_options={"include_usage": True}))


async def test_a_chunk_that_says_something_else_beside_its_usage_goes_on(door: Door, llm: ScriptedLLM):
    """Azure's first one has what its filters found in the prompt."""
    found = event(choices=[], usage=None, prompt_filter_results=[{"prompt_index": 0}])
    stop = event(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}], usage={"n": 1})
    llm.play([*events(found, delta("Hi"), stop, DONE), END])
    chunks = await read(door)
    assert "prompt_filter_results" in chunks[0]
    assert "stop" in chunks[2]


async def test_the_llm_is_asked_what_it_cost_whatever_the_client_wants(door: Door, llm: ScriptedLLM):
    _, whole = await ask(door)
    assert whole["usage"]["total_tokens"] > 0
    await read(door, stream_options={"include_usage": False, "include_obfuscation": False})
    await read(door, stream_options=None)
    asked = {"include_usage": True}
    obfuscated = {"include_usage": True, "include_obfuscation": False}
    assert [one.body["stream_options"] for one in llm.exchanges] == [asked, obfuscated, asked]


async def test_what_is_relayed_is_counted_and_told_like_any_reply(
    door: Door, llm: ScriptedLLM, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "chatbot.access")
    for is_stream in (False, True):
        llm.play(reply("Hello"))
        async with post(door, stream=is_stream) as response:
            await response.read()
        assert " model=m first_token_ms=" in caplog.messages[-1]
        assert caplog.messages[-1].endswith(" end=stop")
        llm.play(answer("429 Slow", {"error": {"message": "no"}}))
        async with post(door, stream=is_stream) as response:
            assert response.status == 429
        assert caplog.messages[-1].endswith(" model=m end=llm_rate_limited")
    lines = await metrics(door)
    assert 'chatbot_replies_total{end="stop"} 2' in lines
    assert 'chatbot_llm_failures_total{kind="rate"} 2' in lines
    assert 'gen_ai_server_time_to_first_token_seconds_count{gen_ai_request_model="m"} 2' in lines


async def test_a_model_is_its_entry_in_the_list(door: Door, llm: ScriptedLLM):
    whole = {"id": "a/b c", "object": "model", "created": 1, "owned_by": "me"}
    llm.models = answer(body={"data": [whole, {"id": "x"}]})
    assert await door.call("GET", "/models/a/b%20c") == (200, whole)
    assert (await door.call("GET", "/models/x"))[1] == {"object": "model", "id": "x"}
    status, refused = await door.call("GET", "/models/b")
    assert (status, refused["error"]["param"]) == (404, "model")


@pytest.mark.parametrize("streamed", [False, True])
async def test_what_is_too_long_has_the_code_that_clients_look_for(
    door: Door, llm: ScriptedLLM, streamed: bool
):
    llm.play(answer("400 Bad Request", {"error": {"message": "maximum context length is 9 tokens"}}))
    status, refused = await ask(door, stream=streamed)
    assert (status, refused["error"]["code"]) == (400, "context_length_exceeded")
    assert refused["error"]["param"] == "messages"


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("how", ["finished", "refused", "too long", "broken", "left"])
async def test_what_was_relayed_is_freed_without_the_garbage_collector(
    door: Door, llm: ScriptedLLM, how: str, streamed: bool
) -> None:
    """Of each that failed in the middle all that was said stayed, 8 MiB of pictures, say."""
    too_long = {"error": {"message": "maximum context length is 9 tokens"}}
    broken = b'data: {"error": {"message": "no"}}\n\n'
    scripts = {"refused": answer("429 Slow"), "too long": answer("400 Bad Request", too_long)}
    scripts |= {"broken": events(delta("a"), broken), "left": events(delta("a"), Hang)}
    llm.play(scripts.get(how) or reply("a"))
    gc.collect()
    gc.disable()
    try:
        asking = asyncio.create_task(post(door, stream=streamed))
        await llm.asked()
        if how != "left":
            await (await asking).read()
        elif streamed:
            (await asking).close()
        else:
            asking.cancel()
        await until(lambda: not any(isinstance(found, Relayed) for found in gc.get_objects()))
    finally:
        gc.enable()
