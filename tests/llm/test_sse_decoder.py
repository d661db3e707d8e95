"""The stream reader: the same events however the bytes come, and no more memory than it says."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatbot.llm.sse_decoder import Decoder, TooLarge


def read(*pieces: bytes) -> list[bytes]:
    """What a stream that comes in these pieces says."""
    decoder = Decoder()
    found = [event for piece in pieces for event in decoder.feed(piece)]
    return found + decoder.flush()


def bytewise(stream: bytes) -> list[bytes]:
    """The same, one byte at a time."""
    return read(*(stream[place : place + 1] for place in range(len(stream))))


STREAMS = {
    "LF": (b"data: a\n\ndata: b\n\n", [b"a", b"b"]),
    "CRLF": (b"data: a\r\n\r\ndata: b\r\n\r\n", [b"a", b"b"]),
    "CR": (b"data: a\r\rdata: b\r\r", [b"a", b"b"]),
    "all line ends mixed": (b"data: a\r\n\ndata: b\n\r\ndata: c\r\n\r\r\n\n", [b"a", b"b", b"c"]),
    "CRLF between lines of one event": (b"data: a\r\ndata: b\r\n\r\n", [b"a\nb"]),
    "no space after the colon": (b"data:a\n\ndata:  b\n\n", [b"a", b" b"]),
    "comments": (b": hi\n\n:\ndata: a\n: in between\n\n: ping\n\n", [b"a"]),
    "other fields": (b"event: message\nid: 7\nretry: 10\nnonsense\ndata: a\n\nid: 8\n\n", [b"a"]),
    "a field that only begins like data": (b"database: x\ndata: a\n\n", [b"a"]),
    "a BOM is none here: the answer drops it": (b"data: a\n\n\xef\xbb\xbfdata: b\n\n", [b"a"]),
    "data over several lines": (b"data: a\ndata: b\ndata\ndata:\n\n", [b"a\nb\n\n"]),
    "bare JSON between events": (b'data: a\n\n{"error": 1}\n\ndata: b\n\n', [b"a", b'{"error": 1}', b"b"]),
    "bare JSON after an event that has no blank line": (
        b'data: {"a": 1}\n{"error": 1}\ndata: b\n\n',
        [b'{"a": 1}', b'{"error": 1}', b"b"],
    ),
    "bare JSON over several lines": (
        b'data: a\n\n[{\r\n  "error": {\n    "code": 429\n  }\n}\n]\n\ndata: b\n\n',
        [b"a", b'[{\n  "error": {\n    "code": 429\n  }\n}\n]', b"b"],
    ),
    "JSON over several lines of which one begins with data": (
        b'data: {\n "a": 1\n}\nid: 7\n\n',
        [b'{\n "a": 1\n}'],
    ),
    "a bare [DONE]": (b"data: a\n\n[DONE]\n", [b"a", b"[DONE]"]),
    "JSON over several data lines": (b'data: {"a":\ndata: {"b": 1}}\n\n', [b'{"a":\n{"b": 1}}']),
    "an error field": (b'error: {"code": 5}\n\n', [b'{"error": {"code": 5}}']),
    "UTF-8": ("data: 안녕 👋\n\n".encode(), ["안녕 👋".encode()]),
    "line ends that are none": (
        "data: a\u2028\u0085\x0b\x0cb\n\n".encode(),
        ["a\u2028\u0085\x0b\x0cb".encode()],
    ),
    "no blank line at the end": (b"data: a\n\ndata: b\n", [b"a", b"b"]),
    "no line end at the end": (b"data: a\n\ndata: b", [b"a", b"b"]),
    "a CR at the end": (b"data: a\n\ndata: b\r", [b"a", b"b"]),
    "blank lines alone": (b"\n\n\r\n\r\r", []),
    "nothing": (b"", []),
    # The examples of https://html.spec.whatwg.org/multipage/server-sent-events.html
    "WHATWG stocks": (b"data: YHOO\ndata: +2\ndata: 10\n\n", [b"YHOO\n+2\n10"]),
    "WHATWG four blocks": (
        b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n",
        [b"first event", b"second event", b" third event"],
    ),
    "WHATWG empty data": (b"data\n\ndata\ndata\n\ndata:\n\n", [b"", b"\n", b""]),
}


@pytest.mark.parametrize("name", STREAMS)
def test_the_same_events_come_in_one_piece_and_byte_by_byte(name: str) -> None:
    stream, expected = STREAMS[name]
    assert read(stream) == expected
    assert bytewise(stream) == expected


@given(
    st.lists(
        st.sampled_from(
            [b"data: a", b"data:", b"data", b"\n", b"\r", b"\r\n", b"\xef\xbb\xbf", b": c", b"\xed\x95\x9c"]
        ),
        max_size=20,
    ),
    st.lists(st.integers(0, 80), max_size=8),
)
def test_where_the_stream_is_cut_changes_nothing(tokens: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(tokens)
    places = [0, *sorted(cuts), len(stream)]
    pieces = [stream[a:b] for a, b in itertools.pairwise(places)]
    assert read(*pieces) == read(stream) == bytewise(stream)


def test_a_line_of_a_mebibyte_is_read_and_a_longer_one_is_not() -> None:
    longest = b"x" * 2**20
    assert read(b"data: " + longest + b"\n\n") == [longest]
    pieces = [longest[place : place + 65_536] for place in range(0, len(longest), 65_536)]
    assert read(b"data: ", *pieces, b"\n\n") == [longest]
    with pytest.raises(TooLarge):
        read(b"data: " + longest + b"x\n\n")
    with pytest.raises(TooLarge):
        read(b"data: ", *pieces, b"x")


def test_the_size_of_one_event_does_not_burden_the_next() -> None:
    half = b"data: " + b"x" * 2**19 + b"\n\n"
    decoder = Decoder()
    for _ in range(4):
        assert len(decoder.feed(half[:1000])) + len(decoder.feed(half[1000:])) == 1


@pytest.mark.parametrize(
    "piece",
    [b": " + b"x" * 2**21 + b"\n", b"data: " + b"x" * 2**18 + b"\n", b"data\n" * 2**16, b":" * 2**18],
    ids=["a comment", "many lines", "empty lines of data", "a comment that never ends"],
)
def test_more_than_a_mebibyte_without_an_event_is_too_large(piece: bytes) -> None:
    decoder = Decoder()  # whose flush() would notice it in the end, but an endless stream has none
    with pytest.raises(TooLarge):
        [decoder.feed(piece) for _ in range(5)]
