"""What is done with what an LLM sends grows with its length and no faster: steps are counted, not seconds."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest

from chatbot.errors import ChatError
from chatbot.llm import calls, errors, too_long
from chatbot.llm.calls import CallReader
from chatbot.llm.choice import ChoiceReader, rewritten
from chatbot.llm.chunks import ChunkReader
from chatbot.llm.reports import without
from chatbot.llm.sse_decoder import MAX_LINE, Decoder, TooLarge
from chatbot.llm.think_tags import ThinkTags
from chatbot.records import Piece
from tests.llm.asking import opened
from tests.tools.scripted_llm import ScriptedLLM, answer


class Counting(str):
    """A text that counts how often it is appended to another, which copies that."""

    count = 0

    def __radd__(self, other: str) -> str:
        Counting.count += 1
        return other + str(self)


class Index(int):
    """A number that counts how often it is compared."""

    count = 0
    __hash__ = int.__hash__

    def __eq__(self, other: object) -> bool:
        Index.count += 1
        return super().__eq__(other)


def test_texts_in_many_parts_are_joined_at_once() -> None:
    """Eight megabytes in parts of 40 letters took 5 s."""
    Counting.count = 0
    parts = [{"type": "text", "text": Counting("a")}] * 100
    pieces, _ = ChoiceReader().read({"delta": {"content": parts}}, is_last=False, is_whole=False)
    assert pieces == [Piece("text", "a" * 100)]
    of_calls = [Piece("call", Counting("1"), number % 2) for number in range(100)]
    written = json.loads(rewritten({"choices": [{"index": 0, "delta": {}}]}, of_calls, None))
    _, second = written["choices"][0]["delta"]["tool_calls"]
    assert second == {"index": 1, "function": {"arguments": "1" * 50}}
    assert Counting.count == 0


def test_each_piece_of_a_call_finds_its_call_at_once_however_many_there_are() -> None:
    """A chunk of 8,000 calls took 2 s."""
    Index.count = 0
    function = {"name": "f", "arguments": "{}"}
    entries = [{"index": Index(number), "id": f"c{number}", "function": function} for number in range(100)]
    pieces = CallReader().read({"tool_calls": entries})
    assert [piece.call for piece in pieces if piece.head] == [*range(100)]
    assert Index.count <= 300


def test_arguments_are_parsed_for_a_name_that_is_repeated_only_where_they_may_be_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parsed: list[str] = []
    loads = json.loads
    monkeypatch.setattr(calls.json, "loads", lambda text: parsed.append(text) or loads(text))
    reader, found = CallReader(), []
    for piece in ['{"a":"', *["b"] * 100, '"}', '{"a":1}']:
        entry = {"index": 0, "function": {"name": "f", "arguments": piece}}
        found += reader.read({"tool_calls": [entry]})
    assert [piece.call for piece in found if piece.head] == [0, 1]
    assert len(parsed) <= 2


def test_a_long_line_is_not_copied_for_each_of_its_pieces() -> None:
    decoder = Decoder()
    assert decoder.feed(b"data: ") == []
    line = decoder._rest
    for _ in range(100):
        assert decoder.feed(b"ab") == []
    assert decoder._rest is line
    assert decoder.feed(b"\r\n\r\n") == [b"ab" * 100]
    decoder.feed(b"a" * MAX_LINE)
    with pytest.raises(TooLarge):
        decoder.feed(b"a")


def test_no_part_of_an_error_is_looked_at_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk of 1 MiB, with things in things in it, took 3 s."""
    names: list[str] = []
    original = errors._name
    monkeypatch.setattr(errors, "_name", lambda name: names.append(name) or original(name))
    error: Any = {f"a{number}": number for number in range(100)}
    for _ in range(7):
        error = {"error": error}
    assert errors.words_of(error) == ""
    assert len(names) <= 107


def test_what_does_not_end_is_not_looked_for_again_from_each_place() -> None:
    """The time of any of these was the square or the cube of its length: hours."""
    assert errors.words_of("<html>" + "<title>" * 10**6) == ""
    name = "ratelimit" * 2000 + "-reset" * 2000 + "day"
    assert errors.read_failure(429, {name: "1"}, b"").retry_after is None
    with pytest.raises(ChatError, match="not a chat completion"):
        ChunkReader().read(b"data: " * 5 * 10**6 + b"x")
    assert ThinkTags().feed("<think>" + "a".join([" " * 255] * 10**5), is_last=False)[1] == ""


async def test_no_failure_is_looked_for_in_a_list_of_models_that_is_good(
    llm: ScriptedLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In OpenRouter's half megabyte that held everybody for 30 ms, each time that readiness was asked."""
    read: list[int] = []
    monkeypatch.setattr(errors, "read_failure", lambda status, *_: read.append(status))
    llm.models = answer(body={"data": [{"id": "m"}]})
    async with opened(llm) as way:
        with suppress(AttributeError):
            assert await way.ready() == ("ok", "")
    assert read == []


@pytest.mark.parametrize(
    "words",
    ["The model `wait " + "1" * 60 + "..s` does not exist", ".:" * 60 + " is not a valid model", "for:" * 60],
    ids=lambda words: words[:20],
)
def test_words_that_can_be_read_in_endless_ways_are_read_in_one(words: str) -> None:
    """Whoever names a model has it in the LLM's words: 2 ** 60 tries would never end."""
    body = json.dumps({"error": words}).encode()
    failure = errors.read_failure(404, {"Retry-After": "1" * 60 + "x"}, body)
    assert failure.to_error().code in ("llm_error", "llm_rejected")


class Searched(str):
    """A text that counts how often something is looked for in it."""

    count = 0

    def __contains__(self, part: str) -> bool:  # type: ignore[override]
        Searched.count += 1
        return super().__contains__(part)


def test_the_log_looks_for_no_word_through_all_of_a_long_conversation() -> None:
    """Each of a hundred words was looked for in 8 MiB: that held everybody for 0.9 s."""
    words = " ".join(f"strange{number}" for number in range(30)) + " is too long"
    picture = json.dumps([{"url": "data:image/png;base64," + "A" * 500_000}, {"text": "strange7 날씨"}])
    assert without(words, picture) == words.replace("strange7 ", "… ")[:300]
    assert without("is 날씨 long", json.dumps("날" * 500_000 + "날씨", ensure_ascii=False)) == "is … long"
    assert without(words, Searched("a book " * 100_000)) == "… " * 30 + "is too long"
    assert Searched.count == 0


def test_a_size_is_not_looked_for_at_each_digit_of_a_long_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of 2,000 digits that its client named, and the LLM after it, held everybody for 0.1 s."""
    searched: list[str] = []
    monkeypatch.setattr(too_long, "_limit", searched.append)
    too_long.find(404, "", f"The model {'1' * 1900} takes 4096 tokens")
    assert searched == ["the model  takes 4096 tokens"]
