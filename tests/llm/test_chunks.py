"""What an LLM's chunks mean; they are passed on as they came, or as valid JSON on one line."""

# ruff: noqa: E501 (a case of a table is a line)
from __future__ import annotations

import itertools
import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatbot.errors import ChatError
from chatbot.llm.chunks import ChunkReader
from chatbot.llm.json_text import MAX_USAGE_CHARS
from chatbot.records import Chunk


def chunk(text: str | None = None, finish: str | None = None, **more: Any) -> dict[str, Any]:
    delta = {} if text is None else {"content": text}
    return {"id": "c", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}


def dump(value: Any, **how: Any) -> bytes:
    return json.dumps(value, **how).encode()


def read_all(*data: bytes) -> tuple[ChunkReader, list[Chunk]]:
    """Reads chunks; one with a finish_reason counts as the last."""
    reader = ChunkReader()
    read = [chunk for one in data for chunk in reader.read(one)]
    return reader, read + (reader.end(is_cut=False) if reader.finish_reason else [])


def texts(read: list[Chunk]) -> list[str]:
    return ["".join(piece.text for piece in chunk.pieces) for chunk in read]


def text_of(read: list[Chunk]) -> str:
    return "".join(texts(read))


WRITERS = {
    "ASCII with spaces": {"ensure_ascii": True},
    "UTF-8 without spaces": {"ensure_ascii": False, "separators": (",", ":")},
    "over several lines": {"indent": 1},
}


@pytest.mark.parametrize("how", WRITERS.values(), ids=WRITERS)
@given(
    said=st.lists(
        st.text(max_size=6) | st.sampled_from(["a", " b", '"', "\\", "\n", "\x7f", "한", "👋", "\0"])
    )
)
def test_every_chunk_is_told_whole_and_on_one_line_whether_it_was_parsed_or_recognised(
    how: dict[str, Any], said: list[str]
) -> None:
    sent = [chunk(text) for text in ("no tag", *said)]
    _, read = read_all(*(dump(one, **how) for one in sent))
    assert texts(read) == ["no tag", *said]
    assert [json.loads(frame.data) for frame in read] == sent
    assert not [frame.data for frame in read if b"\n" in frame.data], "a line end inside an event ends it"


FOOLING = {  # what looks like the text: (a chunk around a text, the texts, what is said)
    # What stands around the text is learned from a chunk where it stands more than once.
    "the same before and after": (
        '{"choices": [{"content": "x", "delta": {"role": "x", "content": "x", "content": "%s"}}], "x": "x"}',
        "xyzx", "xyzx",
    ),
    # An escape where none is needed: the literal is not found and nothing is learned.
    "an escape": ('{"choices": [{"delta": {"content": "\\u0041%s"}, "finish_reason": null}]}', [""] * 9, "A" * 9),
    "content elsewhere": ('{"z": {"content": "%s"}, "choices": [{"delta": {"content": "\\u0061%s"}}]}', "bcd", "abacad"),
    "content of no delta": ('{"choices": [{"content": "%s"}], "content": "%s"}', "aa", ""),
    "a key": ('{"a": "content", "choices": [{"delta": {"content": "%s"}}]}', ["choices"] * 2, "choiceschoices"),
    "other choices": ('{"choices": [{"delta": {"content": "%s"}}], "choices": [{"delta": {"content": "\\u0061"}}]}', "ab", "aa"),
}  # fmt: skip


@pytest.mark.parametrize("name", FOOLING)
def test_a_look_alike_of_the_text_is_not_taken_for_it(name: str) -> None:
    around, said, expected = FOOLING[name]
    sent = [around.replace("%s", text).encode() for text in said]
    _, read = read_all(*sent)
    assert text_of(read) == expected
    assert [frame.data for frame in read] == sent


@given(st.text(st.characters(codec="utf-16", exclude_categories=()), min_size=1, max_size=8), st.data())
def test_a_surrogate_pair_split_anywhere_is_joined(text: str, data: st.DataObject) -> None:
    units = text.encode("utf-16-le", "surrogatepass")
    halves = [
        units[place : place + 2].decode("utf-16-le", "surrogatepass") for place in range(0, len(units), 2)
    ]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(halves)), max_size=4)))
    places = [0, *cuts, len(halves)]
    pieces = ["".join(halves[a:b]) for a, b in itertools.pairwise(places)]
    _, read = read_all(*(dump(chunk(piece)) for piece in pieces), dump(chunk(finish="stop")))
    assert text_of(read) == units.decode("utf-16-le", "replace")
    for frame in read:
        frame.data.decode()
        json.dumps(json.loads(frame.data), ensure_ascii=False).encode()


def test_a_chunk_that_lost_its_text_with_a_quote_is_no_json() -> None:
    """It begins and ends like the others, but the two overlap."""
    whole = dump(chunk("x"))
    reader, _ = read_all(whole, whole)
    with pytest.raises(ChatError, match="not a chat completion"):
        reader.read(whole.replace(b'"x"', b'"'))


def test_broken_utf8_is_told_as_valid_utf8() -> None:
    whole = dump(chunk("a한b"), ensure_ascii=False)
    broken = whole.replace("한".encode(), "한".encode()[:2])
    _, read = read_all(whole, whole, broken, whole)
    assert text_of(read) == "a한ba한ba\ufffdba한b"
    for frame in read:
        frame.data.decode()


def test_control_characters_in_a_literal_are_text_and_go_out_as_json() -> None:
    good = dump(chunk("ab"))
    _, read = read_all(good, good, good.replace(b"ab", b"a\t\nb"), good)
    assert texts(read) == ["ab", "ab", "a\t\nb", "ab"]
    assert json.loads(read[2].data) == chunk("a\t\nb")


def test_a_constant_that_json_does_not_have_goes_out_as_null() -> None:
    good = dump(chunk("a", logprob=1))
    _, read = read_all(*(good.replace(b"1", one) for one in (b"NaN", b"-Infinity", b"Infinity")), good)
    assert text_of(read) == "aaaa"
    assert [json.loads(one.data)["logprob"] for one in read] == [None, None, None, 1]


def test_what_stands_beside_text_and_its_finish_is_told_once() -> None:
    said = chunk("Hi", "stop", usage={"prompt_tokens": 1})
    said["choices"][0] |= {"logprobs": {"content": [1]}, "stop_reason": 7}
    said["choices"][0]["delta"]["images"] = ["a"]
    _, read = read_all(dump(said))
    first, last = [json.loads(one.data)["choices"][0] for one in read]
    assert (first["logprobs"], first["delta"]) == ({"content": [1]}, {"content": "Hi", "images": ["a"]})
    assert last == {"index": 0, "delta": {}, "stop_reason": 7, "finish_reason": "stop"}


@pytest.mark.parametrize("others", [[], [{"choices": [], "usage": {"total_tokens": 3}}], [chunk("lo")]])
def test_of_several_finishes_only_the_last_is_told(others: list[dict[str, Any]]) -> None:
    reader = ChunkReader()
    sent = [chunk("Hel"), chunk(finish="stop"), chunk(finish="stop"), *others, chunk(finish="length")]
    passed = [one for data in sent for one in reader.read(dump(data))]
    assert reader.is_certain == (chunk("lo") not in others)
    choices = [json.loads(one.data)["choices"] for one in passed + reader.end(is_cut=False)]
    told = [choice[0]["finish_reason"] for choice in choices if choice]
    assert told == [None] * (len(told) - 1) + ["length"]


def test_silent_chunks_after_the_end_hold_bounded_memory() -> None:
    reader, _ = read_all(dump(chunk("a")))
    reader.read(dump(chunk(finish="stop")))
    for _ in range(1000):
        assert reader.read(b"{}") == []
    assert len(reader.end(is_cut=False)) < 100


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"choices": None},
        {"choices": []},
        {"choices": {}},
        {"choices": [None]},
        {"choices": [{}]},
        {"choices": [{"delta": None}]},
        {"choices": [{"delta": {"content": None}}]},
        {"choices": [{"delta": {}, "finish_reason": 7}]},
        {"usage": 7},
        {"usage": {}},
        {"error": None},
    ],
    ids=json.dumps,
)
def test_a_chunk_without_text_is_passed_on(value: dict[str, Any]) -> None:
    reader, read = read_all(dump(value))
    assert read == [Chunk(dump(value))]
    assert (reader.finish_reason, reader.usage) == (None, None)


@pytest.mark.parametrize(
    "usage",
    [b'{"t": "%b"}' % (b"x" * MAX_USAGE_CHARS), b'{"t": 1e999}', b'{"t": "\\ud800"}'],
    ids=["too large", "infinite", "half a surrogate pair"],
)
def test_usage_that_cannot_be_stored_is_left_out(usage: bytes) -> None:
    reader, read = read_all(b'{"choices": [], "usage": %b}' % usage)
    assert reader.usage is None
    assert len(read) == 1, "the chunk itself is passed on"


def test_usage_nested_deeper_than_the_database_can_read_is_not_kept() -> None:
    nested = b'{"choices": [], "usage": {"t": %b1%b}}' % (b"[" * 4000, b"]" * 4000)
    try:
        reader, _ = read_all(nested)
    except ChatError:
        return  # this Python's stack does not even take its JSON
    assert reader.usage is None


@pytest.mark.parametrize("is_relay", [False, True])
def test_text_takes_a_finish_back_also_when_it_looks_like_the_text_before(is_relay: bool) -> None:
    reader = ChunkReader(is_relay=is_relay)
    for text in ("a", "b"):
        reader.read(dump(chunk(text)))
    reader.read(dump(chunk("", "stop")))
    assert reader.finish_reason == "stop"
    reader.read(dump(chunk("c")))
    assert reader.finish_reason is None


def test_half_characters_are_read_though_no_file_can_be_opened_any_more() -> None:
    """Python reads a codec from its file when it is first needed."""
    code = (
        "import resource, chatbot.llm.json_text as text; resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0));"
        "assert text.valid('\\ud83d\\ude00') == '\\U0001f600'"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
