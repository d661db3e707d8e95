"""A text that grows: what was written is what is read, at its own price in memory."""

from __future__ import annotations

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from chatbot.text import Text

PIECES = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), max_size=200)


@given(PIECES, st.integers(0, 100))
def test_what_was_written_is_read_at_any_time(pieces: list[str], reads: int) -> None:
    text, whole = Text(), ""
    for number, piece in enumerate(pieces):
        text.append(piece)
        whole += piece
        if number % (reads + 1) == 0:
            assert text.whole() == whole
    assert (text.length, text.size) == (len(whole), len(whole.encode()))
    assert text.whole() == whole


@given(PIECES, st.integers(0, 500))
def test_a_cut_leaves_no_half_character(pieces: list[str], size: int) -> None:
    text = Text()
    for piece in pieces:
        text.append(piece)
    whole = "".join(pieces)
    text.cut(size)
    kept = text.whole()
    assert whole.startswith(kept)
    assert (text.length, text.size) == (len(kept), len(kept.encode()))
    assert text.size <= size
    following = whole[len(kept) : len(kept) + 1]
    assert not following or text.size + len(following.encode()) > size, "and not more than must be"


def test_a_text_takes_little_more_memory_than_its_letters() -> None:
    tokens = [f"token {number} " for number in range(100)]
    tracemalloc.start()
    try:
        text = Text()
        for number in range(20_000):
            text.append(tokens[number % 100] + "x")
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken < 1.5 * text.size, f"{taken} bytes for {text.size}"
