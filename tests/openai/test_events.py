"""A streamed response has the events of the specification, the same live as in each replay."""

from __future__ import annotations

import json
from contextlib import closing
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatbot.chat.stored_reply import StoredReply
from chatbot.errors import ChatError
from chatbot.openai.events import ResponseEncoder
from chatbot.openai.responses import Response
from chatbot.records import CALL, REASONING, REFUSAL, TEXT, CallHead, Chunk, Piece
from chatbot.storage.store import Store
from tests.openai.replies import Source, call, parse, play, reasoning, refusal, replay, response, text
from tests.tools.counting import Counted

ALL_KINDS = [
    [],
    [reasoning("Let me "), reasoning("see")],
    [reasoning(".")],
    [text("It is"), text(" 21")],
    [text(" °C. 날씨"), call(0, "", "look_up")],
    [call(0, '{"city":')],
    [call(0, '"Seoul"}'), call(1, "{}", "again")],
    [text("And"), refusal("I won't")],
    [reasoning("Hm")],
    [text("ok")],
]


def types(events: list[Any]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events]


def test_a_text_has_the_events_of_the_specification_in_their_order():
    events, _ = play([[text("Hel")], [text("lo")]])
    assert types(events) == [
        *("created", "in_progress", "output_item.added", "content_part.added"),
        *("output_text.delta", "output_text.delta", "output_text.done"),
        *("content_part.done", "output_item.done", "completed"),
    ]
    assert [event["sequence_number"] for event in events] == [0, 1, 2, 3, 6, 8, 9, 10, 11, 12]
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == "Hello"


def test_what_was_done_is_what_the_response_holds():
    events, _ = play(ALL_KINDS)
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert done == sorted(events[-1]["response"]["output"], key=done.index)
    assert len(done) == len(events[-1]["response"]["output"]) == 7
    added = [event["item"]["id"] for event in events if event["type"] == "response.output_item.added"]
    assert added == [item["id"] for item in events[-1]["response"]["output"]]


def test_the_deltas_of_each_item_add_up_to_it():
    events, _ = play(ALL_KINDS)
    deltas: dict[str, str] = {}
    for event in events:
        if event["type"].endswith(".delta"):
            deltas[event["item_id"]] = deltas.get(event["item_id"], "") + event["delta"]
    for item in events[-1]["response"]["output"]:
        parts = item.get("content") or item.get("summary") or [{"text": item.get("arguments")}]
        assert deltas[item["id"]] == "".join(part.get("text") or part.get("refusal") for part in parts)


@pytest.mark.parametrize(
    ("chunks", "arguments"),
    [
        (
            [[call(0, '{"a"', "f")], [call(1, '{"b"', "g")], [call(0, ":1}")], [call(1, ":2}")]],
            ['{"a":1}', '{"b":2}'],
        ),
        ([[call(0, "", "takes_none")], [text("Hm")]], ["{}"]),
    ],
)
def test_calls_that_were_not_whole_before_are_done_at_the_end(
    chunks: list[list[Piece]], arguments: list[str]
):
    events, source = play(chunks, "tool_calls")
    done = [event for event in events if event["type"] == "response.function_call_arguments.done"]
    assert [event["arguments"] for event in done] == arguments
    for event in done:
        deltas = [one["delta"] for one in events if one.get("item_id") == event["item_id"] and "delta" in one]
        assert "".join(deltas) == event["arguments"]
    calls = [item for item in events[-1]["response"]["output"] if item["type"] == "function_call"]
    assert [item["arguments"] for item in calls] == arguments
    assert all(one["item"].get("arguments", "") == "" for one in events if one["type"].endswith("item.added"))
    assert replay(source) == events


@pytest.mark.parametrize(
    ("finish", "last", "status", "reason"),
    [
        ("stop", "response.completed", "completed", None),
        ("tool_calls", "response.completed", "completed", None),
        ("length", "response.incomplete", "incomplete", {"reason": "max_output_tokens"}),
        ("content_filter", "response.incomplete", "incomplete", {"reason": "content_filter"}),
        ("MAX_TOKENS", "response.incomplete", "incomplete", {"reason": "max_output_tokens"}),
        ("SAFETY", "response.incomplete", "incomplete", {"reason": "content_filter"}),
        ("cancelled", "response.completed", "cancelled", None),
    ],
)
def test_each_way_to_end_is_told(finish: str, last: str, status: str, reason: Any):
    events, _ = play([[text("Hel")]], finish)
    response = events[-1]["response"]
    assert (events[-1]["type"], response["status"], response["incomplete_details"]) == (last, status, reason)
    assert response["output"][0]["status"] == ("completed" if status == "completed" else "incomplete")


def test_a_running_reply_can_be_gone_on_with_at_every_place():
    whole, _ = play(ALL_KINDS)
    for joined in range(len(ALL_KINDS)):
        source = Source()
        for pieces in ALL_KINDS[:joined]:
            source.log.append(pieces)
        seen = [event for event in whole if event["sequence_number"] < 20]
        after = seen[-1]["sequence_number"] if joined > 3 else 1
        encoder = ResponseEncoder(response(source), after)
        data, offset = encoder.opening(), 0
        while offset < source.log.length:
            more, offset = encoder.catch_up(source, offset)
            data += more
        for pieces in ALL_KINDS[joined:]:
            source.log.append(pieces)
            data += encoder.live(Chunk(b"{}", tuple(pieces)), source.log.length)
        source.end("stop")
        events = parse(data + encoder.ending(source, source.log.length, live=True))
        assert events == [event for event in whole if event["sequence_number"] > after], joined


@pytest.mark.parametrize(
    "chunks",
    [
        [[text("가")]] * 20_000,
        [[call(0, '{"a":"', "f")], [call(1, '{"b":"', "g")], *[[call(0, "abcd")], [call(1, "efgh")]] * 2000],
    ],
)
def test_many_short_chunks_are_caught_up_in_short_pieces(
    chunks: list[list[Piece]], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, source = play([])
    for pieces in chunks:
        source.log.append(pieces)
    source.end("stop")
    encoder, offset = ResponseEncoder(response(source)), 0
    pieces = Counted(monkeypatch, type(source.log), "pieces")
    while offset < source.log.length:
        data, offset = encoder.catch_up(source, offset)
        assert len(data) < 128 * 1024
        assert pieces.take() <= 3 * data.count(b"data: "), "it reads no more of the log than it sends"


@pytest.mark.parametrize(
    "arguments", ['{"a":"}{"}', '{"a":"\\\\"}', '{"a":"\\""}', '[{"a":1},[]]', "{}", "12"]
)
def test_a_call_is_done_where_its_arguments_end_however_they_are_cut(arguments: str) -> None:
    for cut in range(len(arguments) + 1):
        first = [[call(0, arguments[:cut], "f")], [reasoning("Hm")], [call(0, arguments[cut:])], [text("a")]]
        events, source = play([*first, [call(0, "")]])
        done = [
            n for n, event in enumerate(events) if event["type"] == "response.function_call_arguments.done"
        ]
        assert (len(done), events[done[0]]["arguments"]) == (1, arguments)
        added = [n for n, event in enumerate(events) if event["type"] == "response.output_item.added"]
        is_whole = cut == len(arguments) and arguments != "12"  # more digits may follow
        assert done[0] < added[1] if is_whole else done[0] > added[2], "if it is whole when another begins"
        assert replay(source) == events


def test_a_reply_that_is_deleted_while_it_is_sent_again_ends_with_response_failed():
    _, source = play(ALL_KINDS)
    assert source.turn
    error = ChatError("message_not_found", "The message was deleted.")
    with closing(Store()) as store:
        deleted = StoredReply(source.turn, store)
        (*_, last) = parse(ResponseEncoder(Response(deleted, source.turn)).error(error))
    assert (last["type"], last["response"]["output"]) == ("response.failed", [])


@st.composite
def replies(draw: st.DrawFn) -> list[list[Piece]]:
    begun: set[int] = set()
    chunks = []
    for _ in range(draw(st.integers(1, 8))):
        pieces = []
        for _ in range(draw(st.integers(0, 3))):
            kind = draw(st.sampled_from([TEXT, REASONING, REFUSAL, CALL]))
            content = draw(st.text("a\n😀{}1", max_size=4))
            if kind == CALL:
                number = draw(st.integers(0, 2))
                head = None if number in begun else CallHead(f"c{number}", "f")
                begun.add(number)
                pieces.append(Piece(CALL, content, number, head))
            else:
                pieces.append(Piece(kind, content))
        chunks.append(pieces)
    return chunks


@settings(max_examples=300, deadline=None)
@given(replies(), st.sampled_from(["stop", "length", "cancelled"]), st.booleans())
def test_a_replay_of_anything_is_what_was_live(chunks: list[list[Piece]], finish: str, background: bool):
    asked = {"background": True} if background else {}
    events, source = play([[text("x")], *chunks], finish, **asked)
    numbers = [event["sequence_number"] for event in events]
    assert numbers == sorted(set(numbers))
    for place, number in enumerate([-1, *numbers]):
        assert replay(source, number, **asked) == events[place:]


def test_of_calls_by_turns_that_were_cut_only_the_last_is_incomplete():
    events, _ = play([[call(0, '{"a":', "f")], [call(1, '{"b":', "g")]], "length")
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert [item["status"] for item in done] == ["completed", "incomplete"]
    assert done == events[-1]["response"]["output"]


COUNTED = {"prompt_tokens": 5, "completion_tokens": 3}
SHOWN = {
    "input_tokens": 5,
    "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
    "output_tokens": 3,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 8,
}


@pytest.mark.parametrize(
    ("usage", "shown"),
    [
        (None, None),
        ({"prompt_tokens": 5}, None),
        (COUNTED | {"prompt_tokens_details": {"cached_tokens": 4}, "completion_tokens_details": 7}, SHOWN),
    ],
)
def test_the_usage_is_shown_in_the_words_of_this_api(usage: Any, shown: Any):
    source = Source(usage=usage and json.dumps(usage))
    source.log.append([text("Hi")])
    source.end("stop")
    assert response(source).to_object()["usage"] == shown
