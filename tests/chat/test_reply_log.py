"""What a model said is read back the same from any place on, live or stored, in little memory."""

from __future__ import annotations

import json
import tracemalloc
from itertools import accumulate
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from chatbot.chat.reply_log import ReplyLog
from chatbot.records import CALL, REASONING, REFUSAL, TEXT, CallHead, Piece, Turn

Said = list[list[Piece]]

letters = st.text(st.characters(exclude_categories=["Cs"]), max_size=6) | st.just("word " * 60)


@st.composite
def replies(draw: st.DrawFn) -> Said:
    """Chunks of pieces of any kinds, calls in any order and between one another, each call's head first."""
    begun: set[int] = set()
    chunks = []
    for _ in range(draw(st.integers(0, 12))):
        chunk = []
        for kind in draw(st.lists(st.sampled_from([TEXT, TEXT, REASONING, REFUSAL, CALL]), max_size=3)):
            call = draw(st.integers(0, 3)) if kind == CALL else 0
            head = None
            if kind == CALL and call not in begun:
                begun.add(call)
                head = CallHead(f"call_{call}", draw(letters))
            chunk.append(Piece(kind, draw(letters), call, head))
        chunks.append(chunk)
    return chunks


def written(said: Said) -> ReplyLog:
    log = ReplyLog()
    for chunk in said:
        assert log.append(chunk)
    return log


def turn_of(columns: dict[str, Any]) -> Turn:
    values = dict.fromkeys(Turn._fields) | columns
    return Turn(**values)  # type: ignore[arg-type]


def stored(log: ReplyLog) -> ReplyLog:
    return ReplyLog.from_turn(turn_of(log.to_columns()))


def characters(pieces: list[Piece]) -> list[object]:
    """One entry a character: its kind, its call, and itself or the head that stands for it."""
    return [
        (piece.kind, piece.call, one)
        for piece in pieces
        for one in ([piece.head] if piece.head else []) + [*piece.text]
    ]


def ends(said: Said) -> list[int]:
    """Where the chunks that said anything ended."""
    offset, found = 0, []
    for chunk in said:
        length = sum(piece.length for piece in chunk)
        offset += length
        found += [offset] if length else []
    return found


@given(replies(), st.data())
def test_any_cut_at_any_place_resumes_to_the_same_characters_kinds_and_chunk_ends(
    said: Said, data: st.DataObject
) -> None:
    all_of_it = characters([piece for chunk in said for piece in chunk])
    live = written(said)
    for log in (live, stored(live)):
        assert log.length == len(all_of_it)
        start = data.draw(st.integers(0, log.length))
        assert list(log.chunks(start)) == [end for end in ends(said) if end > start]
        offset, resumed = start, []
        while offset < log.length:
            pieces = [*log.pieces(offset, data.draw(st.integers(1, 400)))]
            assert pieces
            resumed += pieces
            offset += sum(piece.length for piece in pieces)
        assert characters(resumed) == all_of_it[start:]


@given(replies())
def test_what_is_stored_is_what_comes_back(said: Said) -> None:
    log = written(said)
    again = stored(log)
    assert (again.runs, again.size, again.has_answer) == (log.runs, log.size, log.has_answer)
    assert again.to_columns() == log.to_columns()


@given(replies(), st.integers(0, 900))
@example([[Piece(TEXT, "a책"), Piece(REASONING, "b")]], 2)
def test_a_reply_that_is_too_long_is_cut_where_a_character_ends_and_no_earlier(said: Said, most: int) -> None:
    log, whole = ReplyLog(most), written(said)
    fits = all(log.append(chunk) for chunk in said)
    assert fits == (whole.size <= most)
    assert log.size <= most
    kept = characters([*log.pieces(0, log.length)])
    everything = characters([*whole.pieces(0, whole.length)])
    assert kept == everything[: len(kept)]
    if not fits:
        following = characters([*whole.pieces(log.length, 1)])[0][2]  # type: ignore[index]
        assert log.size + (
            len(following.encode()) if isinstance(following, str) else 0
        ) > most or not isinstance(following, str)
    assert stored(log).to_columns() == log.to_columns()


def test_a_reply_of_text_alone_needs_no_layout() -> None:
    columns = written([[Piece(TEXT, "Once ")], [], [Piece(TEXT, "upon")]]).to_columns()
    assert columns == {
        "output": '{"role":"assistant","content":"Once upon"}',
        "reasoning": None,
        "layout": None,
        "chunk_ends": bytes([5, 4]),
    }


@pytest.mark.parametrize("lengths", [[1, 127, 3], [1, 128, 3], [0xD800, 1], [70_000, 1], []])
def test_short_and_long_chunks_end_where_they_ended(lengths: list[int]) -> None:
    live = written([[Piece(TEXT, "a" * length)] for length in lengths])
    assert [*stored(live).chunks(0)] == [*accumulate(lengths)]


def test_a_call_is_stored_as_it_is_sent_back() -> None:
    head = CallHead("call_1", "time")
    columns = written(
        [[Piece(REASONING, "Hm"), Piece(CALL, '{"z', 0, head)], [Piece(CALL, '":1}')]]
    ).to_columns()
    function = {"name": "time", "arguments": '{"z":1}'}
    call = {"id": "call_1", "type": "function", "function": function}
    assert json.loads(columns["output"]) == {"role": "assistant", "content": None, "tool_calls": [call]}
    found = [columns[name] for name in ("reasoning", "layout", "chunk_ends")]
    assert found == ["Hm", '[["reasoning",2],[0,8]]', bytes([6, 4])]


def test_a_log_takes_little_more_memory_than_its_letters() -> None:
    pieces = [(Piece(TEXT, f"token {number} "),) for number in range(100)]
    tracemalloc.start()
    try:
        log = ReplyLog()
        for number in range(20_000):
            log.append((Piece(TEXT, pieces[number % 100][0].text + "x"),))
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken < 1.7 * log.size, f"{taken} bytes for {log.size}"


class Looked(list[int]):
    """A list that counts how often it is looked at."""

    looks = 0

    def __getitem__(self, place: Any) -> Any:
        self.looks += 1
        return super().__getitem__(place)


def test_reading_a_long_reply_in_pieces_finds_its_chunk_ends_without_beginning_anew() -> None:
    log = ReplyLog()
    for _ in range(300_000):
        log.append((Piece(TEXT, "word"),))
    log._ends = ends = Looked(log._ends)  # type: ignore[assignment]
    pieces = range(0, log.length, 16_384)
    for start in pieces:
        assert next(log.chunks(start)) == start + 4
    assert ends.looks <= 20 * len(pieces), "it is found by halving, 19 times at most"


def test_a_chunk_longer_than_a_length_that_can_be_stored_is_cut_alike_live_and_stored() -> None:
    live = written([[Piece(TEXT, "a" * 1_200_000)], [Piece(TEXT, "b")]])
    assert [*live.chunks(0)] == [*stored(live).chunks(0)] == [0x10FFFF, 1_200_000, 1_200_001]
