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


def choices(*parts: dict[str, Any]) -> bytes:
    return (
        b"data: " + json.dumps({"id": "c", "created": 1, "model": "m", "choices": parts}).encode() + b"\n\n"
    )


async def read(door: Door, **more: Any) -> list[str]:
    url = f"{door.server.url}/v1/chat/completions"
    async with door.server.http.post(url, json=SAID | {"stream": True} | more) as stream:
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
    llm.play(
        [
            *events(
                choices({"index": 0, "delta": {"role": "assistant", "content": "", "reasoning": "Hm"}}),
                choices({"index": 1, "delta": {"role": "assistant", "content": "b"}}),
                choices({"index": 0, "delta": {"content": "a"}, "logprobs": {"content": [token]}}),
                choices({"index": 0, "delta": {"content": "a"}, "logprobs": {"content": [token]}}),
                choices({"index": 0, "delta": {}, "finish_reason": "stop"}),
                choices({"index": 1, "delta": {}, "finish_reason": "length"}),
                DONE,
            ),
            END,
        ]
    )
    status, whole = await door.call("POST", "/chat/completions", SAID | {"n": 2, "seed": 7})
    assert status == 200
    assert whole["object"] == "chat.completion"
    first, second = whole["choices"]
    assert first["message"] == {"role": "assistant", "content": "aa", "reasoning": "Hm"}
    assert first["logprobs"] == {"content": [token, token]}
    assert (second["message"]["content"], second["finish_reason"]) == ("b", "length")
    assert (llm.exchanges[0].body["n"], llm.exchanges[0].body["seed"]) == (2, 7)


def test_calls_with_ids_of_their_own_are_several_though_their_index_is_one():
    """Gemini streams calls side by side so, and answers them apart where a whole answer is asked for."""
    whole = Completion()
    pieces = ("a", "f", '{"x":'), (None, "f", "1}"), ("b", "f", "{"), ("b", "f", "}"), ("", "f", "")
    for id_, name, text in (*pieces, ("c", "g", "{"), ("d", None, "}")):  # the last is Poolside's
        call = {"index": 0, "type": "function", "function": {"name": name, "arguments": text}}
        whole.add({"choices": [{"index": 0, "delta": {"tool_calls": [{**call, "id": id_}]}}]})
    calls = json.loads(whole.to_json())["choices"][0]["message"]["tool_calls"]
    assert [(call["id"], call["function"]) for call in calls] == [
        ("a", {"name": "f", "arguments": '{"x":1}'}),
        ("b", {"name": "f", "arguments": "{}"}),
        ("c", {"name": "g", "arguments": "{}"}),
    ]


def test_a_call_of_a_whole_one_has_all_that_programs_look_for():
    """Some servers leave them out of a stream; agents leave out a call without them."""
    whole = Completion()
    calls = [{"function": {"name": "f", "arguments": "{}"}}, {"function": {"name": "g"}}]
    whole.add({"choices": [{"index": 0, "delta": {"tool_calls": calls}}]})
    first, second = json.loads(whole.to_json())["choices"][0]["message"]["tool_calls"]
    assert first["type"] == second["type"] == "function"
    assert first["function"]["arguments"] == second["function"]["arguments"] == "{}"
    assert first["id"].startswith("call_")
    assert first["id"] != second["id"]


def test_a_call_of_a_whole_one_that_was_cut_before_its_arguments_is_not_one_without_any():
    whole = Completion()
    call = {"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": ""}}
    whole.add({"choices": [{"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": "length"}]})
    [cut] = json.loads(whole.to_json())["choices"][0]["message"]["tool_calls"]
    assert cut["function"]["arguments"] == "", "{} would be a call that may be made"


@pytest.mark.parametrize("places", [(None, None), (0, 1)])
def test_the_rest_of_a_call_goes_on_with_the_newest_if_its_index_is_no_other_ones(
    places: tuple[int | None, int | None],
):
    """Some servers say no index, and some begin a second call at the index of the first."""
    whole, (begun, rest) = Completion(), places
    for index, name, text in ((begun, "f", "{}"), (begun, "g", "{"), (rest, None, "}")):
        call = {"index": index, "id": name, "function": {"name": name, "arguments": text}}
        whole.add({"choices": [{"index": 0, "delta": {"tool_calls": [call]}}]})
    calls = json.loads(whole.to_json())["choices"][0]["message"]["tool_calls"]
    assert [call["function"] for call in calls] == [
        {"name": "f", "arguments": "{}"},
        {"name": "g", "arguments": "{}"},
    ]


def test_what_openrouter_says_of_each_piece_is_said_once_of_the_whole():
    whole = Completion()
    for text in ("Let ", "me"):
        detail = {"type": "reasoning.text", "text": text, "format": "anthropic-claude-v1", "index": 0}
        choice = {"index": 0, "delta": {"reasoning_details": [detail]}, "native_finish_reason": "end_turn"}
        whole.add({"choices": [choice]})
    [choice] = json.loads(whole.to_json())["choices"]
    assert choice["message"]["reasoning_details"] == [detail | {"text": "Let me"}]
    assert choice["native_finish_reason"] == "end_turn"


def test_thoughts_in_parts_and_then_a_text_are_a_part_each():
    """Mistral's reasoning models stream so; the text of the answer was lost."""
    thought = [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm. "}]}]
    whole = Completion()
    for content in ("", thought, "", thought, "Hel", "", "lo"):
        whole.add(json.loads(json.dumps({"choices": [{"index": 0, "delta": {"content": content}}]})))
    assert json.loads(whole.to_json())["choices"][0]["message"]["content"] == [
        {"type": "thinking", "thinking": [{"type": "text", "text": "Hm. Hm. "}]},
        {"type": "text", "text": "Hello"},
    ]


def test_thoughts_that_are_signed_are_whole():
    whole = Completion()
    for text, signature in (("a", None), ("b", ""), ("", "S"), ("c", "T")):
        block = {"type": "thinking", "thinking": text, "signature": signature}
        whole.add({"choices": [{"index": 0, "delta": {"thinking_blocks": [block]}}]})
    blocks = json.loads(whole.to_json())["choices"][0]["message"]["thinking_blocks"]
    assert [(block["thinking"], block["signature"]) for block in blocks] == [("ab", "S"), ("c", "T")]


def test_a_field_that_is_a_text_and_then_a_list_stays_a_text():
    whole = Completion()
    for part in ("a", "b", [{"type": "text"}], "c"):
        whole.add({"choices": [{"index": 0, "delta": {"annotations": part}}]})
    assert json.loads(whole.to_json())["choices"][0]["message"]["annotations"] == "abc"


async def test_a_finish_that_more_follows_was_none(door: Door, llm: ScriptedLLM):
    chunks = [delta("a"), delta(finish="stop"), delta("b"), delta(finish="length")]
    llm.play([*events(*chunks, DONE), END])
    _, whole = await door.call("POST", "/chat/completions", SAID)
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
    _, whole = await door.call("POST", "/chat/completions", SAID)
    assert whole["choices"][0]["message"]["content"] == "Hello."
    assert "Hello." in (await read(door))[0]


async def test_half_a_character_of_a_whole_one_is_joined_with_the_other(door: Door, llm: ScriptedLLM):
    halves = (choices({"index": 0, "delta": {"content": half}}) for half in ("\ud83d", "\udc4b", "\ud83d"))
    llm.play([*events(*halves, delta(finish="stop"), DONE), END])
    status, whole = await door.call("POST", "/chat/completions", SAID)
    assert (status, whole["choices"][0]["message"]["content"]) == (200, "\U0001f44b\ufffd")


@pytest.mark.parametrize("place", ["x_groq", "choice"])
async def test_a_whole_one_says_what_it_cost_wherever_the_stream_does(
    door: Door, llm: ScriptedLLM, place: str
) -> None:
    """Of a whole answer Groq and Moonshot themselves say it where programs look."""
    cost = {"usage": {"total_tokens": 7}}
    last = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    target: dict[str, Any] = last if place == "x_groq" else last["choices"][0]
    target |= {"x_groq": cost} if place == "x_groq" else cost
    llm.play([*events(delta("Hi"), b"data: " + json.dumps(last).encode() + b"\n\n", DONE), END])
    _, whole = await door.call("POST", "/chat/completions", SAID)
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
    _, whole = await door.call("POST", "/chat/completions", SAID)
    message = whole["choices"][0]["message"]
    assert [call["function"] for call in message.get("tool_calls", ())] == (
        [TOOL["function"]] if "tool_calls" in said else []
    )
    assert message["content"] == said.get("content")


async def test_errors_are_statuses_before_the_stream_and_events_in_it(door: Door, llm: ScriptedLLM):
    error = b'data: {"error": {"message": "no"}}\n\n'
    for unsent in ([], [usage()]):
        llm.play([*events(*unsent, error, DONE), END])
        status, refused = await door.call("POST", "/chat/completions", SAID | {"stream": True})
        assert (status, refused["error"]["code"]) == (502, "llm_error"), "nothing of the stream was sent"
    for stream in (False, True):
        body = SAID | {"messages": [{"role": "user", "content": "reject"}], "stream": stream}
        status, refused = await door.call("POST", "/chat/completions", body)
        assert (status, refused["error"]["code"]) == (400, "llm_rejected")
    sent = await read(door, messages=[{"role": "user", "content": "break"}])
    assert json.loads(sent[-1])["error"]["code"] == "llm_error"
    status, broken = await door.call(
        "POST", "/chat/completions", SAID | {"messages": [{"role": "user", "content": "break"}]}
    )
    assert (status, broken["error"]["code"]) == (502, "llm_error")
    assert (await door.call("POST", "/chat/completions", {}))[1]["error"]["param"] == "messages"


async def test_a_client_that_leaves_frees_the_llm(door: Door, llm: ScriptedLLM):
    llm.play(events(delta("a"), Hang), events(Hang))
    for number, stream in ((1, True), (2, False)):
        url = f"{door.server.url}/v1/chat/completions"
        asking = asyncio.create_task(door.server.http.post(url, json=SAID | {"stream": stream}))
        exchange = await llm.asked(number)
        if stream:
            await (await asking).content.readline()
            asking.result().close()
        else:
            asking.cancel()
        await exchange.gone.wait()


async def test_a_silent_llm_is_bridged(start: StartServer, llm: ScriptedLLM, clock: Clock):
    door = Door(await start())
    gate = Gate()
    llm.play(reply(gate, "Hi"))
    reading = asyncio.create_task(read(door))
    await gate.reached.wait()
    clock.advance(16)
    await until(lambda: bool(door.server.connections))
    gate.open()
    assert (await reading)[-1] == "[DONE]"


async def test_it_counts_among_the_replies_that_may_run(
    start: StartServer, llm: ScriptedLLM, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "chatbot.access")
    door = Door(await start(max_active_replies=1))
    gate = Gate()
    llm.play(reply(gate, "Hi"))
    reading = asyncio.create_task(read(door))
    await gate.reached.wait()
    status, refused = await door.call("POST", "/chat/completions", SAID)
    assert (status, refused["error"]["code"]) == (503, "overloaded")
    assert "end=" not in caplog.messages[-1], "nothing ran that could have ended"
    gate.open()
    assert (await reading)[-1] == "[DONE]"
    assert (await door.call("POST", "/chat/completions", SAID))[0] == 200


async def test_options_of_the_stream_that_are_none_are_refused_by_name(door: Door):
    for options in ("usage", [1]):
        body = SAID | {"stream": True, "stream_options": options}
        status, refused = await door.call("POST", "/chat/completions", body)
        assert (status, refused["error"]["param"]) == (400, "stream_options")


async def test_messages_that_say_nothing_are_refused_by_name(door: Door):
    for nothing in ([], None, "Hi"):
        status, refused = await door.call("POST", "/chat/completions", SAID | {"messages": nothing})
        assert (status, refused["error"]["param"]) == (400, "messages")


async def test_a_stream_that_is_neither_true_nor_false_is_refused_by_name(door: Door, llm: ScriptedLLM):
    for odd in ("yes", 1):
        status, refused = await door.call("POST", "/chat/completions", SAID | {"stream": odd})
        assert (status, refused["error"]["param"]) == (400, "stream")
    status, _ = await door.call("POST", "/chat/completions", SAID | {"stream": None})
    assert (status, len(llm.exchanges)) == (200, 1)


async def test_only_who_asks_for_the_usage_gets_its_chunk(door: Door):
    assert not any('"usage"' in chunk for chunk in await read(door))
    assert any('"usage"' in chunk for chunk in await read(door, stream_options={"include_usage": True}))


async def test_a_chunk_that_says_something_else_beside_its_usage_goes_on(door: Door, llm: ScriptedLLM):
    """Azure's first one has what its filters found in the prompt."""
    found = {"choices": [], "usage": None, "prompt_filter_results": [{"prompt_index": 0}]}
    stop = choices({"index": 0, "delta": {}, "finish_reason": "stop"}).replace(b"{", b'{"usage":{"n":1},', 1)
    llm.play([*events(b"data: %b\n\n" % json.dumps(found).encode(), delta("Hi"), stop, DONE), END])
    chunks = await read(door)
    assert "prompt_filter_results" in chunks[0]
    assert "stop" in chunks[2]


async def test_the_llm_is_asked_what_it_cost_whatever_the_client_wants(door: Door, llm: ScriptedLLM):
    _, whole = await door.call("POST", "/chat/completions", SAID)
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
    url = f"{door.server.url}/v1/chat/completions"
    for is_stream in (False, True):
        llm.play(reply("Hello"))
        async with door.server.http.post(url, json=SAID | {"stream": is_stream}) as response:
            await response.read()
        assert " model=m first_token_ms=" in caplog.messages[-1]
        assert caplog.messages[-1].endswith(" end=stop")
        llm.play(answer("429 Slow", {"error": {"message": "no"}}))
        async with door.server.http.post(url, json=SAID | {"stream": is_stream}) as response:
            assert response.status == 429
        assert caplog.messages[-1].endswith(" model=m end=llm_rate_limited")
    async with door.server.http.get(f"{door.server.url}/metrics") as response:
        lines = (await response.text()).splitlines()
    assert 'chatbot_replies_total{end="stop"} 2' in lines
    assert 'chatbot_llm_failures_total{kind="rate"} 2' in lines
    assert 'gen_ai_server_time_to_first_token_seconds_count{gen_ai_request_model="m"} 2' in lines


async def test_a_relay_whose_client_leaves_is_counted_as_cancelled(door: Door, llm: ScriptedLLM) -> None:
    llm.play([*events(delta("Hel"), Hang)])
    url = f"{door.server.url}/v1/chat/completions"
    async with door.server.http.post(url, json=SAID | {"stream": True}) as response:
        await response.content.readany()

    async def is_counted() -> bool:
        async with door.server.http.get(f"{door.server.url}/metrics") as response:
            return 'chatbot_replies_total{end="cancelled"} 1' in await response.text()

    while not await is_counted():
        pass


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
    status, refused = await door.call("POST", "/chat/completions", SAID | {"stream": streamed})
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
        url = f"{door.server.url}/v1/chat/completions"
        asking = asyncio.create_task(door.server.http.post(url, json=SAID | {"stream": streamed}))
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
