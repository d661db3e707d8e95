"""What real servers were recorded to answer, byte for byte (tests/wire), comes through as it came."""

from __future__ import annotations

from typing import Any

import pytest

from chatbot.errors import TooLong
from tests.llm.asking import hear, opened
from tests.tools.scripted_llm import Close, ScriptedLLM, Step, capture

SERVERS = ["llama-server", "llama-cpp-python"]


def byte_by_byte(script: list[Step]) -> list[Step]:
    steps: list[Step] = []
    for step in script:
        steps += [bytes([byte]) for byte in step] if isinstance(step, bytes) else [step]
    return steps


@pytest.mark.parametrize("cut", [list, byte_by_byte])
@pytest.mark.parametrize("name", ["stream", "stream_usage"])
@pytest.mark.parametrize("kind", SERVERS)
async def test_a_real_stream_is_passed_on_as_it_came(
    llm: ScriptedLLM, kind: str, name: str, cut: Any
) -> None:
    script = capture(kind, name)
    assert isinstance(script[0], bytes)
    llm.play(cut(script))
    async with opened(llm) as way:
        heard = await hear(way)
    sent = [line[6:] for line in script[0].split(b"\n") if line.startswith(b"data: ")]
    assert [*(one.data for one in heard.chunks), b"[DONE]"] == sent
    assert (heard.said, heard.finish) == ("- slot.", "length")
    assert heard.answer
    assert bool(heard.answer.reader.usage) == (kind == "llama-server" and name == "stream_usage")
    assert heard.answer.reader.model


@pytest.mark.parametrize(
    ("name", "text", "finish"),
    [
        ("nonstream", "- slot.", "stop"),
        ("nonstream_len", "- s", "length"),
        ("stop", "- slot", "stop"),
        ("tools", "- slot.", "stop"),
    ],
)
@pytest.mark.parametrize("kind", SERVERS)
async def test_a_real_whole_answer_is_read(
    llm: ScriptedLLM, kind: str, name: str, text: str, finish: str
) -> None:
    llm.play(capture(kind, name))
    async with opened(llm) as way:
        heard = await hear(way)
    assert (heard.said, heard.finish) == (text, finish)
    assert heard.answer
    assert '"total_tokens"' in (heard.answer.reader.usage or "")


@pytest.mark.parametrize("name", ["too_long", "too_long_stream"])
@pytest.mark.parametrize("kind", SERVERS)
async def test_a_real_too_long_is_known(llm: ScriptedLLM, kind: str, name: str) -> None:
    llm.play(capture(kind, name))
    async with opened(llm) as way:
        heard = await hear(way)
    assert isinstance(heard.failed, TooLong)
    assert heard.failed.is_certain == (heard.failed.code == "context_too_long")
    assert heard.failed.limit == (512 if heard.failed.is_certain else None)


@pytest.mark.parametrize(
    ("kind", "name"),  # llama-cpp-python answers even where there are no messages
    [(kind, name) for kind in SERVERS for name in ("bad_json", "not_found")]
    + [("llama-server", "missing_messages")],
)
async def test_a_real_refusal_is_told_in_its_own_words(llm: ScriptedLLM, kind: str, name: str) -> None:
    llm.play(capture(kind, name))
    async with opened(llm) as way:
        heard = await hear(way)
    assert heard.failed.kind in ("rejected", "failed", "address"), heard.failed.message
    assert heard.failed.message.count(":") >= 1


@pytest.mark.parametrize("kind", SERVERS)
async def test_a_real_list_names_a_model(llm: ScriptedLLM, kind: str) -> None:
    llm.models = capture(kind, "models")
    async with opened(llm, llm_model="") as way:
        await hear(way)
        assert llm.exchanges[0].body["model"]
        assert await way.ready() == ("ok", "")


async def test_back_to_back_turns_survive_a_server_that_closes_after_each_unannounced(
    llm: ScriptedLLM,
) -> None:
    stream = capture("llama-server", "stream")[0]
    assert isinstance(stream, bytes)
    async with opened(llm) as way:
        for _ in range(20):
            llm.play([stream.replace(b"Connection: close\r\n", b""), Close])
            assert (await hear(way)).said == "- slot."
