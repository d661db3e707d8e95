"""What real servers were recorded to answer, byte for byte (tests/wire), is understood and comes through as it came."""

# ruff: noqa: E501 (a case of a table is a line)
from __future__ import annotations

from typing import Any

import pytest

from chatbot.errors import TooLong
from tests.llm.asking import hear, opened, play
from tests.tools.scripted_llm import Close, ScriptedLLM, Step, capture

OLD = ("llama-server", "llama-cpp-python")  # the others answered a conversation's cases with one tiny model
ALL = ("llama-server", "mlx-lm", "transformers", "litellm", "vllm")
PARSING = ("llama-server", "mlx-lm", "litellm", "vllm")  # transformers left this model's calls in the text

SAID = [
    ("nonstream", OLD, "- slot.", "stop"),
    ("nonstream_len", OLD, "- s", "length"),
    ("stop", OLD, "- slot", "stop"),
    ("tools", OLD, "- slot.", "stop"),
    ("stream", ALL[1:], "Hello there my friend!!", "stop"),
    ("length", ALL[1:], "Hello there my", "length"),
    ("emoji", ALL, "😀 안녕", "stop"),  # one character, four tokens
    ("reasoning", ALL, "[Hm wonder…]Yes, I do now", "stop"),
    ("reasoning_apart", ("vllm",), "[<think>Hm wonder…]Yes, I do now", "stop"),  # its parser left the tag
    ("tool_call", PARSING, '<weather>{"city": "Seoul"}', "tool_calls"),
    ("tool_result", ("mlx-lm", "litellm", "vllm"), "Hello there my friend!!", "stop"),
]
FAILED = [
    ("empty", server, "empty", "llm_error", 'a reply without text (finish_reason "stop")') for server in ALL
]
FAILED += [
    ("image", "llama-server", "rejected", "llm_rejected", "image input is not supported"),
    ("image", "mlx-lm", "rejected", "llm_rejected", "Only 'text' content type is supported. (404)"),
    ("image", "litellm", "rejected", "llm_rejected", "image input is not supported"),
    ("bad_option", "llama-server", "rejected", "llm_rejected", "type must be number, but is string"),
    ("bad_option", "mlx-lm", "rejected", "llm_rejected", "temperature must be at least 0"),
    ("bad_option", "transformers", "failed", "llm_error", "Internal Server Error (500)"),
    ("bad_option", "litellm", "rejected", "llm_rejected", "type must be number, but is string"),
    ("wrong_model", "transformers", "rejected", "llm_rejected", "requested 'no-such-model'. (400)"),
    ("wrong_model", "mlx-lm", "rejected", "llm_rejected", "Cannot find an appropriate cached snapshot"),
    ("wrong_model", "litellm", "model", "llm_rejected", "Invalid model name passed in model=no-such-model"),
    ("bad_option", "vllm", "rejected", "llm_rejected", "Input should be a valid number"),
    ("wrong_model", "vllm", "model", "llm_rejected", "The model `no-such-model` does not exist"),
    ("loading", "llama-server", "loading", "llm_unavailable", "Loading model (503)"),
    ("bad_json", "llama-server", "failed", "llm_error", "parse error at line 1, column 29"),
    ("bad_json", "llama-cpp-python", "failed", "llm_error", "Internal Server Error (500)"),
    ("not_found", "llama-server", "rejected", "llm_rejected", "File Not Found (404)"),
    ("not_found", "llama-cpp-python", "address", "llm_error", "not an OpenAI-compatible API at …/v1: Not Found (404)"),
    ("missing_messages", "llama-server", "rejected", "llm_rejected", "'messages' is required (400)"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "server", "said", "finish"),
    [(name, server, said, finish) for name, servers, said, finish in SAID for server in servers],
)
async def test_what_a_real_server_said_is_understood(
    llm: ScriptedLLM, name: str, server: str, said: str, finish: str
) -> None:
    heard = await play(llm, capture(server, name))
    assert (heard.said, heard.finish) == (said, finish), heard.error
    assert '"prompt_tokens"' in (heard.usage or "")


@pytest.mark.parametrize(("name", "server", "kind", "code", "words"), FAILED)
async def test_why_a_real_server_failed_is_told(
    llm: ScriptedLLM, name: str, server: str, kind: str, code: str, words: str
) -> None:
    fields = {"model": "no-such-model"} if name == "wrong_model" else {}
    failed = (await play(llm, *[capture(server, name)] * 3, fields=fields)).failed
    assert (failed.kind, failed.code) == (kind, code), failed.message
    assert words in failed.message


@pytest.mark.parametrize(
    ("server", "name", "limit"),
    [
        ("llama-server", "too_long", 512),
        ("llama-server", "too_long_stream", 512),
        ("llama-cpp-python", "too_long", 512),
        ("llama-cpp-python", "too_long_stream", None),  # it says nothing at all
        ("litellm", "too_long", 16384),
        ("vllm", "too_long", 8192),
    ],
)
async def test_too_long_is_known_with_its_limit(
    llm: ScriptedLLM, server: str, name: str, limit: int | None
) -> None:
    failed = (await play(llm, capture(server, name))).failed
    assert isinstance(failed, TooLong), failed.message
    assert (failed.limit, failed.is_certain) == (limit, limit is not None)
    assert failed.code == ("context_too_long" if limit else "llm_error")


def byte_by_byte(script: list[Step]) -> list[Step]:
    return [bytes([byte]) for byte in script[0]] + script[1:]  # type: ignore[union-attr]


@pytest.mark.parametrize("cut", [list, byte_by_byte])
@pytest.mark.parametrize("name", ["stream", "stream_usage"])
@pytest.mark.parametrize("server", OLD)
async def test_a_real_stream_is_passed_on_as_it_came(
    llm: ScriptedLLM, server: str, name: str, cut: Any
) -> None:
    script = capture(server, name)
    assert isinstance(script[0], bytes)
    heard = await play(llm, cut(script))
    sent = [line[6:] for line in script[0].split(b"\n") if line.startswith(b"data: ")]
    assert [*(one.data for one in heard.chunks), b"[DONE]"] == sent
    assert (heard.said, heard.finish) == ("- slot.", "length")
    assert bool(heard.usage) == (server == "llama-server" and name == "stream_usage")
    assert heard.answer
    assert heard.answer.reader.model


@pytest.mark.parametrize("server", [*OLD, "transformers", "litellm", "vllm"])
async def test_a_real_list_names_a_model(llm: ScriptedLLM, server: str) -> None:
    llm.models = capture(server, "models")
    async with opened(llm, llm_model="") as way:
        await hear(way)
        assert llm.exchanges[0].body["model"]
        assert await way.ready() == ("ok", "")


async def test_an_empty_list_of_models_needs_a_name_and_nothing_more(llm: ScriptedLLM) -> None:
    """mlx-lm answers so where its cache of models is empty and its model is a folder."""
    llm.models = capture("mlx-lm", "models")
    async with opened(llm) as way:
        assert (await way.ready())[0] == "ok"
        assert (await hear(way)).said
    assert "name one with LLM_MODEL" in (await play(llm, llm_model="")).failed.message


async def test_a_server_that_loads_its_model_again_is_not_ready(llm: ScriptedLLM) -> None:
    async with opened(llm) as way:
        assert (await hear(way)).said
        llm.models = capture("llama-server", "loading")
        assert (await way.ready())[0] == "loading"


async def test_back_to_back_turns_survive_a_server_that_closes_after_each_unannounced(
    llm: ScriptedLLM,
) -> None:
    stream = capture("llama-server", "stream")[0]
    assert isinstance(stream, bytes)
    async with opened(llm) as way:
        for _ in range(20):
            llm.play([stream.replace(b"Connection: close\r\n", b""), Close])
            assert (await hear(way)).said == "- slot."
