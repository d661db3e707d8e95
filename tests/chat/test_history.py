"""The history is read along a path, in pages and both directions, and shows what else was asked and said."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chatbot.chat import history
from chatbot.chat.history import PROMPT, Page, Ref, read_page, versions
from chatbot.errors import ChatError
from chatbot.ids import message_id, new_turn_id
from chatbot.records import Prompt, Session, Turn
from chatbot.storage.store import Store

SESSION = "00000000-0000-4000-8000-000000000000"


def user(text: str) -> str:
    return f'{{"role":"user","content":"{text}"}}'


class Book:
    """A session whose turns a test writes."""

    def __init__(self, prompt: bool = False) -> None:
        self.store = Store()
        weakref.finalize(self, self.store.close)
        self.store.add_session(SESSION, 0, "{}", Prompt(new_turn_id(0), 0, "Be kind.") if prompt else None)
        self.turns: dict[int, Turn] = {}

    def add(
        self,
        parent: int | None,
        *said: str,
        answer: str | None = '{"role":"assistant","content":"Hi"}',
        reasoning: str | None = None,
    ) -> Turn:
        finish_reason = None if answer is None else "stop"
        values: dict[str, Any] = dict.fromkeys(Turn._fields)
        values |= {"seq": 0, "session_id": SESSION, "parent": parent, "turn_id": new_turn_id(0)}
        values |= {"asked_at": 0, "replied_at": 0, "finish_reason": finish_reason}
        values |= {"input": "\n".join(said), "output": answer, "reasoning": reasoning}
        turn = Turn(**values)
        turn = turn._replace(seq=self.store.add_turn(turn))
        self.turns[turn.seq] = turn
        return turn

    @property
    def session(self) -> Session:
        session = self.store.session(SESSION)
        assert session
        return session

    def id(self, ref: Ref) -> str:
        prompt = self.store.prompt(SESSION)
        return (
            prompt.message_id
            if ref == PROMPT and prompt
            else message_id(self.turns[ref.seq].turn_id, ref.place)
        )

    def path(self, seq: int | None) -> list[Ref]:
        """The messages of a path, by the book."""
        refs: list[Ref] = []
        while seq is not None:
            turn = self.turns[seq]
            own = [Ref(seq, place) for place, said in enumerate(turn.messages, 1) if said != "null"]
            refs = [*own, *([Ref(seq, 0)] if turn.output else []), *refs]
            seq = turn.parent
        return [*([PROMPT] if self.store.prompt(SESSION) else []), *refs]

    def page(self, limit: int = 1000, **where: Any) -> Page:
        return read_page(self.store, self.session, limit, **where)


@st.composite
def books(draw: st.DrawFn) -> Book:
    book = Book(draw(st.booleans()))
    for _ in range(draw(st.integers(0, 8))):
        parent = draw(st.sampled_from([None, *book.turns]))
        said = draw(st.lists(st.sampled_from([user("Hi"), user("Ho"), "null"]), min_size=1, max_size=3))
        answer = draw(st.sampled_from([None, '{"role":"assistant","content":"Hi"}']))
        book.add(parent, *said, answer=answer)
    if book.turns:
        book.store.set_current(SESSION, draw(st.sampled_from([None, *book.turns])))
    return book


many = settings(
    max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@many
@given(books(), st.integers(1, 5))
def test_pages_in_both_directions_are_the_path(book: Book, limit: int) -> None:
    whole = book.path(book.session.current)
    assert len(whole) == book.store.count_messages(SESSION, book.session.current)
    for name, cursor in (("before", None), ("after", "start")):
        refs: list[Ref] = []
        more = True
        where: dict[str, Any] = {name: cursor} if cursor else {}
        while more:
            page = book.page(limit, **where)
            refs = [*page.refs, *refs] if name == "before" else [*refs, *page.refs]
            more = page.has_more
            assert len(page.refs) == limit if more else len(refs) == len(whole)
            if page.refs:
                where = {name: book.id(page.refs[0 if name == "before" else -1])}
        assert refs == whole


@many
@given(books())
def test_before_follows_a_messages_own_ancestors_and_after_the_current_path(book: Book) -> None:
    current = book.path(book.session.current)
    for seq in book.turns:
        path = book.path(seq)
        for ref in path:
            assert book.page(before=book.id(ref)).refs == path[: path.index(ref)]
            if ref in current:
                assert book.page(after=book.id(ref)).refs == current[current.index(ref) + 1 :]
            else:
                with pytest.raises(ChatError) as error:
                    book.page(after=book.id(ref))
                assert (error.value.code, error.value.param) == ("message_not_found", "after")


@many
@given(books())
def test_versions_are_the_questions_and_the_answers_to_the_same_question(book: Book) -> None:
    for turn in book.turns.values():
        siblings = [one for one in book.turns.values() if one.parent == turn.parent]
        answers = [one.turn_id for one in siblings if one.input == turn.input and one.output]
        found = versions(turn, 0, book.store.siblings(turn)) if turn.output else None
        assert (found.ids if found else [turn.turn_id]) == (answers if turn.output else [turn.turn_id])
        for place, said in enumerate(turn.messages, 1):
            if said == "null":
                continue
            own = message_id(turn.turn_id, place)
            others = {one.input for one in siblings if set(one.messages) != {"null"}}
            found = versions(turn, place, book.store.siblings(turn))
            assert (found.own if found else own) == own
            assert len(found.ids if found else [own]) == len(others)


@pytest.mark.parametrize("cursor", ["before", "after"])
def test_a_message_that_is_not_there_is_not_found(cursor: str) -> None:
    book = Book()
    turn = book.add(None, user("Hi"), "null", answer=None)
    answered = book.add(turn.seq, user("Hi"))
    for unknown in (
        "x",
        "",
        turn.turn_id,
        message_id(turn.turn_id, 2),
        message_id(answered.turn_id, 0x801),
        new_turn_id(0),
    ):
        with pytest.raises(ChatError) as error:
            book.page(1, **{cursor: unknown})
        assert (error.value.code, error.value.param) == ("message_not_found", cursor)


def test_a_version_of_a_question_leads_to_its_newest_turn() -> None:
    book = Book()
    first = book.add(None, user("One"))
    other = book.add(None, user("Two"))
    again = book.add(None, user("One"))
    found = versions(other, 1, book.store.siblings(other))
    assert found
    assert found.ids == [message_id(again.turn_id, 1), message_id(other.turn_id, 1)]
    assert (versions(other, 0, book.store.siblings(other)), found.own) == (None, found.ids[1])
    found = versions(first, 1, book.store.siblings(first))
    assert found
    assert found.ids == [message_id(first.turn_id, 1), message_id(other.turn_id, 1)]


def test_versions_have_the_same_role() -> None:
    book = Book()
    tool = '{"role":"tool","tool_call_id":"c","content":"12:00"}'
    turn = book.add(None, user("One"))
    book.add(None, tool)
    mixed = book.add(None, tool, user("Two"))
    found = versions(turn, 1, book.store.siblings(turn))
    assert found
    assert found.ids == [message_id(turn.turn_id, 1), message_id(mixed.turn_id, 2)]


@pytest.mark.parametrize("direction", [{}, {"after": "start"}])
def test_a_page_ends_early_before_it_is_too_long_and_one_message_may_be(
    monkeypatch: pytest.MonkeyPatch, direction: dict[str, str]
) -> None:
    monkeypatch.setattr(history, "PAGE_CHARS", 300)
    book = Book()
    for length in (1000, 10, 10, 10, 1000):
        book.add(book.session.current, user("a" * length), answer=None)
    pages: list[int] = []
    where: dict[str, Any] = dict(direction)
    for _ in range(3):
        page = book.page(**where)
        pages.append(len(page.refs))
        where = {"after": book.id(page.refs[-1])} if direction else {"before": book.id(page.refs[0])}
    assert pages == [1, 3, 1]
    assert not page.has_more


def test_a_page_counts_what_is_shown_and_reads_no_more_than_it_must(monkeypatch: pytest.MonkeyPatch) -> None:
    book = Book()
    for _ in range(20):
        book.add(book.session.current, user("a" * 400_000), answer=None)
    assert len(book.page().refs) == 10
    assert len(read_page(book.store, book.session, 1000, size_of=lambda _: 100).refs) == 20
    monkeypatch.setattr(history, "PAGE_CHARS", 250_000)
    page = read_page(book.store, book.session, 1000, size_of=lambda _: 100)
    assert (len(page.refs), page.has_more) == (4, True)
    book.add(book.session.current, user("Why?"), reasoning="a" * 250_000)
    assert len(book.page().refs) == 1
