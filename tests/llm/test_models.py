"""Which model is asked for, what the list says of its size, and whether the LLM server is ready."""

# ruff: noqa: E501 (a case of a table is a line)
from __future__ import annotations

import asyncio
from typing import Any

import pytest

from chatbot.errors import ChatError
from chatbot.records import dumps
from tests.llm.asking import Heard, failure, hear, opened, play
from tests.llm.test_client import NO_MODEL
from tests.tools.scripted_llm import Close, Hang, ScriptedLLM, Step, answer
from tests.tools.server import until


async def listed_by(llm: ScriptedLLM) -> None:
    """Waits until the list was asked for."""
    await until(lambda: llm.model_requests > 0)


def models_asked_for(llm: ScriptedLLM) -> list[str]:
    return [exchange.body["model"] for exchange in llm.exchanges]


LISTS: dict[str, tuple[Any, str, int | None]] = {
    # who lists so: (entries or the whole list, the model that is asked for, its size)
    "vLLM": ([{"id": "m", "object": "model", "owned_by": "vllm", "max_model_len": 4096}], "m", 4096),
    "llama-server": ([{"id": "m", "meta": {"n_ctx": 8192, "n_ctx_train": 131072, "n_vocab": 5}}], "m", 8192),
    "llama-server, old": ([{"id": "m", "meta": {"n_ctx_train": 131072}}], "m", 131072),
    "LM Studio": (
        [
            {"id": "text-embedding-nomic-embed-text-v1.5", "type": "embeddings"},
            {"id": "qwen", "type": "vlm", "max_context_length": 131072, "loaded_context_length": 4096},
        ],
        "qwen", 4096,
    ),
    "OpenRouter": (
        [
            {"id": "a/image", "architecture": {"modality": "text->image"}, "context_length": 7},
            {"id": "a/m", "context_length": 131072, "top_provider": {"context_length": 65536}},
        ],
        "a/m", 131072,
    ),
    "Together, a bare list": (
        dumps([{"id": "x", "type": "image"}, {"id": "m", "type": "chat", "context_length": 8192}]), "m", 8192,
    ),
    "Mistral": (
        [
            {"id": "mistral-ocr", "capabilities": {"completion_chat": False}},
            {"id": "m", "capabilities": {"completion_chat": True}, "max_context_length": 32768},
        ],
        "m", 32768,
    ),
    "Azure": ([{"id": name, "capabilities": {"chat_completion": name == "m"}} for name in ("router", "m")], "m", None),
    "Fireworks": (
        [{"id": "starcoder", "supports_chat": False}, {"id": "m", "supports_chat": True, "context_length": 4096}], "m", 4096,
    ),
    "DeepInfra": ([{"id": "m", "metadata": {"context_length": 8192, "max_tokens": 512}}], "m", 8192),
    "Novita": ([{"id": "m", "context_size": 8192, "model_type": "chat"}], "m", 8192),
    "sizes out of all bounds": (
        [{"id": "m", "max_model_len": 0, "n_ctx": -1, "context_length": 2**40, "context_window": 8192}], "m", 8192,
    ),
    "Groq": ([{"id": "whisper-large-v3", "context_window": 448}, {"id": "llama", "context_window": 131072}], "llama", 131072),
    "OpenAI": (
        [{"id": name} for name in ("text-embedding-3-small", "dall-e-3", "tts-1", "omni-moderation-latest", "gpt-audio-mini", "gpt-4o")],
        "gpt-4o", None,
    ),
    "LiteLLM": ([{"id": "bge-m3"}, {"id": "chat", "model_info": {"max_input_tokens": 200000}}], "chat", 200000),
    "rerankers": ([{"id": "BAAI/bge-reranker-v2"}, {"id": "jina-clip-v2"}, {"id": "stable-diffusion-3"}, {"id": "m"}], "m", None),
    "nothing that can chat": ([{"id": "bge-m3"}], "bge-m3", None),
    "Cloudflare's names": ([{"name": "@cf/baai/bge-m3"}, {"name": "@cf/meta/llama"}], "@cf/meta/llama", None),
    "sizes that are none": ([{"id": "m", "max_model_len": "4096", "context_length": True, "n_ctx": -1}], "m", None),
    "Ollama, old": (b'{"models": [{"name": "m", "model": "m"}]}', "m", None),
}  # fmt: skip


@pytest.mark.parametrize("name", LISTS)
async def test_the_first_model_that_can_chat_is_asked_for(llm: ScriptedLLM, name: str) -> None:
    listed, first, size = LISTS[name]
    llm.models = answer(body=listed if isinstance(listed, bytes) else {"object": "list", "data": listed})
    async with opened(llm, llm_model="") as way:
        for _ in range(2):
            await hear(way)
        assert models_asked_for(llm) == [first, first]
        assert way.context_size(first) == size
        assert llm.model_requests == 1


@pytest.mark.parametrize(("configured", "named"), [("ours", None), ("", "theirs"), ("ours", "theirs")])
async def test_a_model_that_is_named_is_asked_for(
    llm: ScriptedLLM, configured: str, named: str | None
) -> None:
    await play(llm, llm_model=configured, fields={"model": named})
    assert models_asked_for(llm) == [named or configured]


@pytest.mark.parametrize("listed", [answer("404 X"), answer(body=b"<html>"), [Close], [Hang]], ids=repr)
async def test_a_model_that_is_named_needs_no_list_which_is_looked_at_once_however_many_begin(
    llm: ScriptedLLM, clock: Any, listed: list[Step]
) -> None:
    llm.models = listed
    async with opened(llm) as way:
        asking = [asyncio.create_task(hear(way)) for _ in range(3)]
        await listed_by(llm)
        clock.advance(2)
        assert [heard.said for heard in await asyncio.gather(*asking)] == ["Hello there."] * 3
        await hear(way)
    assert llm.model_requests == 1


async def test_a_list_that_is_not_there_yet_is_looked_at_later(llm: ScriptedLLM) -> None:
    llm.models = answer("503 X", failure("Loading model"))
    async with opened(llm) as way:
        await hear(way)
        llm.models = answer(body={"data": [{"id": "m", "max_model_len": 4096}]})
        for _ in range(2):
            await hear(way)
            assert way.context_size("m") == 4096
    assert llm.model_requests == 2


async def test_a_list_that_never_comes_is_not_looked_at_for_ever(llm: ScriptedLLM) -> None:
    llm.models = answer("503 X", failure("No route"))
    async with opened(llm) as way:
        for _ in range(4):
            assert (await hear(way)).said == "Hello there."
    assert llm.model_requests == 2, "before the first answer, and once after it"


async def test_the_first_model_is_remembered_however_often_readiness_is_asked(llm: ScriptedLLM) -> None:
    async with opened(llm, llm_model="") as way:
        await hear(way)
        llm.models = answer(body={"data": [{"id": "newer"}, {"id": "test-model", "max_model_len": 4096}]})
        assert await way.ready() == ("ok", "")
        await hear(way)
        assert way.context_size("test-model") == 4096, "what else the list says may have changed"
    assert models_asked_for(llm) == ["test-model"] * 2


@pytest.mark.parametrize(
    "refusal",
    [
        answer("404 X", NO_MODEL),
        answer("400 X", failure("invalid model", code="model_not_found")),
        answer("500 X", {"error": "model 'test-model' not found, try pulling it first"}),
    ],
)
async def test_a_remembered_model_that_is_refused_is_looked_up_again(
    llm: ScriptedLLM, refusal: list[Step]
) -> None:
    async with opened(llm, llm_model="") as way:
        await hear(way)
        llm.models = answer(body={"data": [{"id": "newer"}]})
        llm.play(refusal)
        assert (await hear(way)).error is None
        await hear(way)
    assert models_asked_for(llm) == ["test-model", "test-model", "newer", "newer"]
    assert llm.model_requests == 2


async def test_a_model_that_is_refused_again_is_an_error(llm: ScriptedLLM) -> None:
    refused = answer("404 X", NO_MODEL)
    assert (await play(llm, refused, refused, llm_model="")).failed.code == "llm_error"
    assert len(llm.exchanges) == 1


@pytest.mark.parametrize(
    ("listed", "code"),
    [
        (answer(body={"data": []}), "llm_error"),
        (answer(body={"data": [{"id": 7}, {}, None]}), "llm_error"),
        (answer(body={}), "llm_error"),
        (answer(body=b"<html>"), "llm_error"),
        (answer(body=b'{"data":[{"id":"\\ud800"}]}'), "llm_error"),
        (answer("401 X"), "llm_error"),
        (answer("404 X"), "llm_error"),
        (answer("503 X", failure("Loading model")), "llm_unavailable"),
        (answer("429 X"), "llm_rate_limited"),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", Close], "llm_error"),
    ],
    ids=repr,
)
async def test_a_list_of_no_use_is_an_error_if_no_model_is_named(
    llm: ScriptedLLM, listed: list[Step], code: str
) -> None:
    honest, llm.models = llm.models, listed
    async with opened(llm, llm_model="") as way:
        assert (await hear(way)).failed.code == code
        assert not llm.exchanges
        llm.models = honest
        assert (await hear(way)).said == "Hello there."


@pytest.mark.parametrize("said", [[], [b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"]], ids=repr)
@pytest.mark.parametrize("is_passed_on", [False, True])
async def test_a_silent_list_keeps_nobody_for_longer_than_an_answer(
    llm: ScriptedLLM, clock: Any, said: list[Step], is_passed_on: bool
) -> None:
    llm.models = [*said, Hang]
    async with opened(llm, llm_model="", llm_timeout_seconds=5) as way:
        waiting = [asyncio.create_task(way.models() if is_passed_on else hear(way)) for _ in range(3)]
        await listed_by(llm)
        clock.advance(5)
        for ended in await asyncio.gather(*waiting, return_exceptions=True):
            error = ended.failed if isinstance(ended, Heard) else ended
            assert isinstance(error, ChatError), error
            assert error.code == "llm_timeout"
            assert "silent for 5 seconds" in error.message
    assert is_passed_on or llm.model_requests == 1


async def test_the_list_is_passed_on(llm: ScriptedLLM) -> None:
    async with opened(llm) as way:
        assert await way.models() == b'{"object": "list", "data": [{"id": "test-model"}]}'


PAGE = b"<!doctype html><title>A web page</title>"


@pytest.mark.parametrize(
    ("listed", "model", "state", "words"),
    [
        (answer(body={"data": [{"id": "m"}]}), "", "ok", ""),
        (answer("503 X", failure("Loading model")), "m", "loading", "Loading model"),
        (answer("401 X"), "m", "unauthorized", "401"),
        (answer("403 X", {"error": "no"}), "m", "unauthorized", "403"),
        (answer("404 X", {"error": "no such path"}), "m", "ok", "The list of models: The LLM server rejected the request: no such"),
        (answer("405 X"), "m", "ok", "405"),
        (answer("404 X"), "", "error", "not an OpenAI-compatible API at …/v1"),
        (answer("404 X", PAGE), "m", "error", "not an OpenAI-compatible API at …/v1"),
        (answer(body=PAGE), "m", "error", "not an OpenAI-compatible API"),
        (answer("500 X"), "m", "error", "500"),
        (answer(body={"data": []}), "m", "ok", ""),
        ([Close], "m", "unreachable", ""),
    ],
    ids=repr,
)  # fmt: skip
async def test_readiness_tells_the_truth(
    llm: ScriptedLLM, listed: list[Step], model: str, state: str, words: str
) -> None:
    llm.models = listed
    async with opened(llm, llm_model=model) as way:
        got, note = await way.ready()
    assert got == state, note
    assert words in note


@pytest.mark.parametrize(
    "listed", [answer("401 X"), answer("404 X", PAGE), answer("500 X"), answer(body=PAGE)], ids=repr
)
async def test_where_chat_works_the_list_may_be_as_it_likes(llm: ScriptedLLM, listed: list[Step]) -> None:
    llm.models = listed
    async with opened(llm) as way:
        await hear(way)
        state, note = await way.ready()
    assert state == "ok"
    assert note


@pytest.mark.parametrize(
    ("failed", "state"), [("401 X", "unauthorized"), ("502 X", "ok"), ("400 X", "ok"), ("429 X", "ok")]
)
async def test_an_llm_whose_key_is_refused_for_chats_too_is_no_longer_ready(
    llm: ScriptedLLM, failed: str, state: str
) -> None:
    async with opened(llm) as way:
        await hear(way)
        llm.models = answer("401 X" if failed == "401 X" else "502 X", PAGE)
        assert (await way.ready())[0] == "ok"
        llm.play(answer(failed))
        assert (await hear(way)).error
        assert (await way.ready())[0] == state
        await hear(way)
        assert (await way.ready())[0] == "ok"


async def test_an_llm_silent_for_two_seconds_is_unreachable(llm: ScriptedLLM, clock: Any) -> None:
    llm.models = [Hang]
    async with opened(llm) as way:
        asking = asyncio.create_task(way.ready())
        await listed_by(llm)
        clock.advance(2)
        assert (await asking)[0] == "unreachable"
