"""A conversation's cases as real servers with one tiny model answered them, byte for byte (tests/wire)."""

from __future__ import annotations

import pytest

from chatbot.errors import TooLong
from tests.llm.asking import hear, opened
from tests.tools.scripted_llm import ScriptedLLM, capture

ALL = ("llama-server", "mlx-lm", "transformers", "litellm", "vllm")
PARSING = ("llama-server", "mlx-lm", "litellm", "vllm")  # transformers left this model's calls in the text

SAID = [
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
]


@pytest.mark.parametrize(
    ("name", "server", "said", "finish"),
    [(name, server, said, finish) for name, servers, said, finish in SAID for server in servers],
)
async def test_what_a_real_server_said_is_understood(
    llm: ScriptedLLM, name: str, server: str, said: str, finish: str
) -> None:
    llm.play(capture(server, name))
    async with opened(llm) as way:
        heard = await hear(way)
    assert (heard.said, heard.finish) == (said, finish), heard.error
    assert heard.answer
    assert '"prompt_tokens"' in (heard.answer.reader.usage or "")


@pytest.mark.parametrize(("name", "server", "kind", "code", "words"), FAILED)
async def test_why_a_real_server_failed_is_told(
    llm: ScriptedLLM, name: str, server: str, kind: str, code: str, words: str
) -> None:
    llm.play(*[capture(server, name)] * 3)
    async with opened(llm) as way:
        heard = await hear(way, model="no-such-model" if name == "wrong_model" else "m")
    assert (heard.failed.kind, heard.failed.code) == (kind, code), heard.failed.message
    assert words in heard.failed.message


@pytest.mark.parametrize(("server", "limit"), [("litellm", 16384), ("vllm", 8192)])
async def test_too_long_is_known_with_its_limit(llm: ScriptedLLM, server: str, limit: int) -> None:
    llm.play(capture(server, "too_long"))
    async with opened(llm) as way:
        heard = await hear(way)
    assert isinstance(heard.failed, TooLong)
    assert heard.failed.limit == limit


async def test_an_empty_list_of_models_needs_a_name_and_nothing_more(llm: ScriptedLLM) -> None:
    """mlx-lm answers so where its cache of models is empty and its model is a folder."""
    llm.models = capture("mlx-lm", "models")
    async with opened(llm) as way:
        assert (await way.ready())[0] == "ok"
        assert (await hear(way)).said
    async with opened(llm, llm_model="") as way:
        assert "name one with LLM_MODEL" in (await hear(way)).failed.message


async def test_a_server_that_loads_its_model_again_is_not_ready(llm: ScriptedLLM) -> None:
    async with opened(llm) as way:
        assert (await hear(way)).said
        llm.models = capture("llama-server", "loading")
        assert (await way.ready())[0] == "loading"
