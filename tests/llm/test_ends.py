"""A turn is whole or absent: what ends an answer, what only seems to, and what fails in the middle."""

# ruff: noqa: E501 (a case of a table is a line)
from __future__ import annotations

import asyncio
from typing import Any

import pytest

from chatbot.errors import ChatError, TooLong
from tests.llm.asking import DONE, HI, STOP, Heard, chunk, failure, opened, play, stream, text, whole
from tests.tools.scripted_llm import Abort, Close, Gate, Hang, ScriptedLLM, Step, answer
from tests.tools.server import Clock

USAGE = {"choices": [], "usage": {"total_tokens": 7}}
END = b"0\r\n\r\n"

WHOLE: dict[str, tuple[list[Any], str, str]] = {
    # what it is: (chunks, what is said, the finish_reason)
    "[DONE] and the end": ([text("Hi"), STOP, USAGE, DONE], "Hi", "stop"),
    "[DONE] in quotes": ([text("Hi"), STOP, b'data: "[DONE]"\n\n'], "Hi", "stop"),
    "[DONE] before a space, and silence": ([text("Hi"), STOP, b"data: [DONE] \n\n", Hang], "Hi", "stop"),
    "[DONE] in other words": ([text("Hi"), STOP, b"data: done\n\n"], "Hi", "stop"),
    "a long finish that is no Unicode": ([chunk({"content": "Hi"}, "\ud800" + "x" * 1000), DONE], "Hi", "\ufffd" + "x" * 63),
    "no [DONE] (transformers)": ([text("Hi"), STOP], "Hi", "stop"),
    "[DONE] and silence": ([text("Hi"), STOP, DONE, Hang], "Hi", "stop"),
    "a reset after the finish": ([text("Hi"), STOP, Abort], "Hi", "stop"),
    "a close after the finish": ([text("Hi"), STOP, Close], "Hi", "stop"),
    "an event cut after the finish": ([text("Hi"), STOP, b'data: {"choi', Close], "Hi", "stop"),
    "text and finish in one chunk (Gemini)": ([chunk({"content": "Hi"}, "stop"), DONE], "Hi", "stop"),
    "a finish before the first word": ([chunk({"content": ""}, "stop"), text("Hel"), text("lo"), STOP, DONE], "Hello", "stop"),
    "a finish in every chunk": ([chunk({"content": c}, "stop") for c in ("He", "l", "lo")] + [DONE], "Hello", "stop"),
    "another finish in the end": ([text("H"), STOP, text("i"), chunk(finish="length"), DONE], "Hi", "length"),
    "a finish, then reasoning": ([STOP, chunk({"reasoning": "hm"}), text("Hi"), STOP, DONE], "[hm]Hi", "stop"),
    "a finish, then nothing but pings": ([text("Hi"), STOP, {}, b": ping\n\n", USAGE], "Hi", "stop"),
    "a refusal alone": ([chunk({"refusal": "No."}), STOP, DONE], "{No.}", "stop"),
    "reasoning alone, cut by length": ([chunk({"reasoning": "hm"}), chunk(finish="length"), DONE], "[hm]", "length"),
    "reasoning alone, cut by length in other words": (
        [chunk({"reasoning": "hm"}), chunk(finish="max_output_tokens"), DONE], "[hm]", "max_output_tokens",
    ),
    "reasoning alone, filtered": ([chunk({"reasoning": "hm"}), chunk(finish="content_filter"), DONE], "[hm]", "content_filter"),
    "an open tag, cut by length": ([text("<think>hm"), chunk(finish="length"), DONE], "[hm]", "length"),
}  # fmt: skip


@pytest.mark.parametrize("end", [END, Close])
async def test_what_came_in_a_burst_before_the_connection_ended_is_read_to_its_end(
    llm: ScriptedLLM, end: Step
) -> None:
    head, first, *burst, _ = stream(text("first"), *[text("x" * 400)] * 2000, text("END"), STOP)
    at_once = b"".join(step for step in burst if isinstance(step, bytes))
    heard = await play(llm, [head, first, at_once, end])
    assert heard.error is None
    assert (len(heard.said), heard.said[-3:], heard.finish) == (800_008, "END", "stop")


@pytest.mark.parametrize("name", WHOLE)
async def test_an_answer_is_complete_when_a_finish_stands_at_its_end(llm: ScriptedLLM, name: str) -> None:
    chunks, said, finish = WHOLE[name]
    heard = await play(llm, stream(*chunks))
    assert (heard.said, heard.finish, heard.error) == (said, finish, None)
    finishes = [
        c["finish_reason"] for one in heard.json for c in one.get("choices") or [] if c.get("finish_reason")
    ]
    assert finishes == [finish], "clients are sent one finish_reason"
    last = [one for one in heard.json if one.get("choices")][-1]
    assert last["choices"][0]["finish_reason"] == finish, "and nothing that is said after it"


FAILED: dict[str, tuple[list[Any], str, str]] = {
    # what it is: (chunks after "one", our code, a part of our message)
    "[DONE] without a finish": ([DONE], "llm_error", "ended before"),
    "an end without a finish": ([], "llm_error", "ended before"),
    "a close": ([Close], "llm_error", "broke"),
    "a reset": ([Abort], "llm_error", "broke"),
    "an early stop, more, and a cut": ([STOP, text("two"), Close], "llm_error", "broke"),
    "a stop in every chunk, and a cut": ([STOP, chunk({"content": "two"}, "stop"), Close], "llm_error", "broke"),
    "nonsense": ([b"data: <html>\n\n"], "llm_error", "not a chat completion"),
    "plain words": ([b"data: upstream went away\n\n"], "llm_error", "upstream went away"),
    "plain words of a rate": ([b"event: error\ndata: Rate limit exceeded\n\n"], "llm_rate_limited", "Rate limit"),
    "plain words in quotes": ([b'event: error\ndata: "engine is overloaded"\n\n'], "llm_unavailable", "overloaded"),
    "a page": ([b"data: <html><title>503 Service Temporarily Unavailable</title>\n\n"], "llm_unavailable", "503"),
    "a number that is none": ([b'data: {"choices": 01}\n\n'], "llm_error", "not a chat completion"),
    "an error": ([failure("GPU lost", code=500), DONE], "llm_error", "GPU lost"),
    "an error of plain text": ([{"error": "GPU lost"}], "llm_error", "GPU lost"),
    "an error with its event's name": ([b'event: error\ndata: {"message": "GPU lost"}\n\n'], "llm_error", "GPU lost"),
    "an error without data: (proxies)": ([b'{"error": {"message": "GPU lost"}}\n\n'], "llm_error", "GPU lost"),
    "an error field (llama-server)": ([b'error: {"code":500,"message":"GPU lost"}\n\n'], "llm_error", "GPU lost"),
    "an error after the finish": ([STOP, {"error": "GPU lost"}], "llm_error", "GPU lost"),
    "an error in the choice": (
        [{"choices": [{"index": 0, "delta": {}, "error": {"message": "GPU lost", "code": 502}}]}],
        "llm_error", "GPU lost",
    ),
    "an error of Groq's": ([{"choices": [], "x_groq": {"error": "over capacity"}}], "llm_error", "capacity"),
    "a limit": ([failure("slow", code=429)], "llm_rate_limited", "slow"),
    "a 400 (vLLM)": ([failure("bad grammar", type="BadRequestError", code=400), DONE], "llm_rejected", "bad grammar"),
    "a number that JSON does not have, where a chunk is written anew": (
        [b'data: {"id": 1e999, "choices": [{"delta": {"content": "\\ud83d"}}]}\n\n'], "llm_error", "a number that JSON does not",
    ),
    "a line over 1 MiB": ([b"data: " + b"x" * (2**20 + 1), Hang], "llm_error", "line of over 1 MiB"),
}  # fmt: skip
FAILED |= {
    f"no object: {data[:9]!r}": ([b"data: %b\n\n" % data], "llm_error", "not a chat completion")
    for data in (b"[]", b'"text"', b"null", b"{" * 3, b'{"a":' * 100_000, b'{"a": %b}' % (b"9" * 10_000))
}


@pytest.mark.parametrize("name", FAILED)
async def test_what_fails_in_the_middle_is_told_after_all_that_came(llm: ScriptedLLM, name: str) -> None:
    chunks, code, words = FAILED[name]
    heard = await play(llm, stream(text("one"), *chunks))
    assert heard.failed.code == code
    assert words in heard.failed.message
    assert heard.said.startswith("one")


async def test_broken_chunked_encoding_in_the_middle_is_a_failure(llm: ScriptedLLM) -> None:
    gate = Gate()
    llm.play([*stream(text("one"), gate)[:-1], b"zzz\r\n", Hang])
    async with opened(llm) as way:
        asked = await way.ask((HI,), {})
        assert await anext(asked)
        gate.open()
        with pytest.raises(ChatError, match="broke"):
            await asyncio.wait_for(anext(asked), 5)
        asked.close()
        await asyncio.wait_for(llm.exchanges[0].gone.wait(), 5)


FAILURES = [
    *("error", "error_finish", "network_error", "abort", "aborted", "engine_overloaded", "ERROR", "timeout"),
    *("insufficient_system_resource", "ERROR_LIMIT", "cancelled"),
    "function_call_filter: MALFORMED_FUNCTION_CALL",
    "function_call_filter: UNEXPECTED_TOOL_CALL",
]


@pytest.mark.parametrize("finish", FAILURES)
@pytest.mark.parametrize("error", [None, {"code": 502, "message": "upstream went away"}])
async def test_a_finish_that_means_failure_is_one(llm: ScriptedLLM, finish: str, error: Any) -> None:
    last = chunk(finish=finish)
    if error:
        last["choices"][0]["error"] = error
    heard = await play(llm, stream(text("one"), last, DONE))
    assert ("upstream went away" in heard.failed.message) == bool(error)
    for failed in (heard.failed, (await play(llm, answer(body=whole({"content": "one"}, finish)))).failed):
        assert (failed.code, failed.kind) == ("llm_error", "finish")
        assert finish in failed.message


EMPTY: dict[str, tuple[list[Step], str, str]] = {
    # what it is: (script, our code, a part of our message)
    "a finish without text": (stream(STOP, DONE), "llm_error", "without text"),
    "nothing but [DONE]": (stream(DONE), "llm_error", "ended before"),
    "reasoning alone that did not end by length": (stream(chunk({"reasoning": "hm"}), STOP, DONE), "llm_error", "without text"),
    "filtered": (stream(chunk(finish="content_filter"), DONE), "llm_rejected", "content_filter"),
    "filtered (Gemini)": (stream(chunk(finish="RECITATION"), DONE), "llm_rejected", "RECITATION"),
    "filtered (Zhipu)": (stream(chunk(finish="sensitive"), DONE), "llm_rejected", "sensitive"),
    "filtered (Bedrock)": (stream(chunk(finish="guardrail_intervened"), DONE), "llm_rejected", "guardrail"),
    "length": (stream(chunk(finish="length"), DONE), "llm_error", '"length"'),
    "HTML": (answer(body=b"<html><title>Sign in</title></html>"), "llm_error", "Sign in"),
    "nonsense": (stream(b"data: nonsense\n\n"), "llm_error", "nonsense"),
    "a body of plain words": (answer(body=b"upstream went away"), "llm_error", "upstream went away"),
    "a list": (answer(body=[1]), "llm_error", "not a chat completion"),
    "an empty object": (answer(body={}), "llm_error", "not a chat completion"),
    "no message": (answer(body={"choices": [{"finish_reason": "stop"}]}), "llm_error", "without text"),
    "no finish": (answer(body=whole({"content": "Hi"}, None)), "llm_error", "not a chat completion"),
    "a finish that is no text": (answer(body=whole({"content": "Hi"}, 7)), "llm_error", "not a chat completion"),
    "a cut in the middle": ([b'HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"a"', Close], "llm_error", "broke"),
    "more than 8 MiB": (
        [b"HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\n{" + b" " * 8_500_000, Hang], "llm_error", "over 8 MiB",
    ),
    "an error in 200": (answer(body=failure("GPU lost")), "llm_error", "GPU lost"),
}  # fmt: skip


@pytest.mark.parametrize("name", EMPTY)
async def test_an_answer_that_says_nothing_is_an_error(llm: ScriptedLLM, name: str) -> None:
    script, code, words = EMPTY[name]
    heard = await play(llm, script)
    assert not isinstance(heard.failed, TooLong)
    assert (heard.failed.code, heard.said in ("", "[hm]")) == (code, True)
    assert words in heard.failed.message


@pytest.mark.parametrize(
    "script",
    [stream(Close), stream(Abort), stream(), stream(b": ping\n\n", Close), answer()],
    ids=repr,
)
async def test_nothing_at_all_may_mean_too_long_or_a_crash(llm: ScriptedLLM, script: list[Step]) -> None:
    heard = await play(llm, script)
    assert isinstance(heard.failed, TooLong)
    assert (heard.failed.code, heard.failed.is_certain) == ("llm_error", False)


FULL = {"prompt_tokens": 4095, "completion_tokens": 1, "total_tokens": 4096}


@pytest.mark.parametrize(
    ("chunks", "size"),
    [
        ([chunk(finish="length", usage=FULL)], None),
        ([chunk(finish="MAX_TOKENS", usage=FULL)], None),
        ([chunk(finish="stop", usage=FULL)], 4096),
        ([chunk(finish="model_context_window_exceeded")], None),
        ([chunk({"reasoning": "hm"}), chunk(finish="stop", usage=FULL)], 4096),
    ],
)
async def test_no_text_and_a_full_context_is_too_long(llm: ScriptedLLM, chunks: list[Any], size: Any) -> None:
    llm.models = answer(body={"data": [{"id": "m", "max_model_len": size}]})
    failed = (await play(llm, stream(*chunks, DONE))).failed
    assert isinstance(failed, TooLong)
    assert failed.is_certain


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
async def test_an_end_after_the_one_token_that_was_asked_for_is_no_full_context(
    llm: ScriptedLLM, field: str
) -> None:
    last = chunk(finish="length", usage={"prompt_tokens": 9, "completion_tokens": 1})
    heard = await play(llm, stream(chunk({"reasoning": "hm"}), last, DONE), fields={field: 1})
    assert (heard.said, heard.finish, heard.error) == ("[hm]", "length", None)


async def waiting(llm: ScriptedLLM, *chunks: Any) -> asyncio.Task[Heard]:
    """Asks; returns when all of the chunks have been played. Then nothing comes any more."""
    gate = Gate()
    script = stream(*chunks, gate, Hang)
    task = asyncio.create_task(play(llm, script, llm_timeout_seconds=20))
    await gate.reached.wait()
    await asyncio.sleep(0.02)  # what was played is on its way through the sockets
    return task


async def test_a_finish_waits_with_ordinary_patience(llm: ScriptedLLM, clock: Clock) -> None:
    task = await waiting(llm, text("Hi"), STOP)
    clock.advance(19)
    await asyncio.sleep(0.1)
    assert not task.done(), "more may come"
    clock.advance(1)
    heard = await task
    assert (heard.said, heard.finish, heard.error) == ("Hi", "stop", None)


async def test_a_finish_with_usage_waits_for_a_short_time(llm: ScriptedLLM, clock: Clock) -> None:
    task = await waiting(llm, text("Hi"), STOP, USAGE)
    clock.advance(5)
    heard = await asyncio.wait_for(task, 5)
    assert (heard.said, heard.finish, heard.error) == ("Hi", "stop", None)
    assert heard.json[-1] == USAGE


async def heard_slowly(llm: ScriptedLLM, clock: Clock, begin: Any, pieces: list[Any], *end: Any) -> Heard:
    """What is heard of an LLM that takes 7 of its 20 seconds before each piece."""
    gates = [Gate() for _ in pieces]
    late = [one for pair in zip(gates, pieces, strict=True) for one in pair]
    task = asyncio.create_task(play(llm, stream(*begin, *late, *end), llm_timeout_seconds=20))
    for gate in gates:
        await gate.reached.wait()
        await asyncio.sleep(0.02)  # what was played is on its way through the sockets
        clock.advance(7)
        gate.open()
    return await asyncio.wait_for(task, 5)


async def test_pings_after_the_finish_do_not_prolong_it(llm: ScriptedLLM, clock: Clock) -> None:
    heard = await heard_slowly(llm, clock, [text("Hi"), STOP], [{}] * 3, Hang)
    assert (heard.said, heard.finish, heard.error) == ("Hi", "stop", None)


async def test_text_that_comes_with_a_finish_is_no_silence(llm: ScriptedLLM, clock: Clock) -> None:
    pieces = [chunk({"content": "i"}, "stop")] * 4
    heard = await heard_slowly(llm, clock, [text("H")], pieces, DONE)
    assert (heard.said, heard.finish, heard.error) == ("Hiiii", "stop", None)


@pytest.mark.parametrize("chunks", [[], [text("one")], [STOP], [text("one"), STOP, text("two"), STOP]])
async def test_silence_is_a_timeout(llm: ScriptedLLM, clock: Clock, chunks: list[Any]) -> None:
    task = await waiting(llm, *chunks)
    clock.advance(20)
    heard = await asyncio.wait_for(task, 5)
    assert heard.failed.code == "llm_timeout"
    assert "silent for 20 seconds" in heard.failed.message
    await asyncio.wait_for(llm.exchanges[0].gone.wait(), 5)


async def test_text_that_came_with_a_finish_does_not_wait_for_the_end(llm: ScriptedLLM) -> None:
    llm.play(stream(chunk({"content": "Hi"}, "stop"), Hang))
    async with opened(llm) as way:
        answer_ = await way.ask((HI,), {})
        chunks = await asyncio.wait_for(anext(answer_), 5)
        answer_.close()
    assert [piece.text for one in chunks for piece in one.pieces] == ["Hi"]
    assert b'"finish_reason":null' in chunks[0].data


async def test_a_process_that_was_stopped_reads_before_it_judges(llm: ScriptedLLM, clock: Clock) -> None:
    """After SIGSTOP, or a night with the lid closed, the whole answer lies in the socket."""
    head, rest = Gate(), Gate()
    script = [head, *stream(rest, text("Hi"), STOP, DONE)]
    task = asyncio.create_task(play(llm, script, llm_timeout_seconds=20))
    for gate in (head, rest):
        await gate.reached.wait()
        gate.open()
        clock.advance(100)  # the timer is due in the very turn in which the bytes are
        await asyncio.sleep(0)
    heard = await asyncio.wait_for(task, 5)
    assert (heard.said, heard.error) == ("Hi", None)


async def test_silence_before_the_head_is_a_timeout(llm: ScriptedLLM, clock: Clock) -> None:
    task = asyncio.create_task(play(llm, [Hang], llm_timeout_seconds=5))
    await llm.asked()
    clock.advance(5)
    assert (await asyncio.wait_for(task, 5)).failed.code == "llm_timeout"


async def test_a_cancel_in_the_very_moment_of_the_timeout_is_a_cancel(llm: ScriptedLLM, clock: Clock) -> None:
    llm.play([Hang])
    async with opened(llm, llm_timeout_seconds=30) as way:
        task = asyncio.create_task(way.ask((HI,), {}))
        await llm.asked()
        clock.advance(31)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_closing_in_the_middle_stops_the_llm_at_once(llm: ScriptedLLM) -> None:
    llm.play(stream(text("one"), Hang))
    async with opened(llm) as way:
        asked = await way.ask((HI,), {})
        assert await anext(asked)
        asked.close()
        asked.close()
        await asyncio.wait_for(llm.exchanges[0].gone.wait(), 5)
        with pytest.raises(StopAsyncIteration):
            await anext(asked)
