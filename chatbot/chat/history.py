"""Reads the messages along a path of turns in pages, and finds the versions of a message."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from typing import NamedTuple

from chatbot.chat.turn_messages import role_of
from chatbot.errors import ChatError
from chatbot.ids import MAX_INPUT_MESSAGES, message_id
from chatbot.records import DELETED, Session, Turn
from chatbot.storage.store import Store
from chatbot.storage.tree import Version

PAGE_CHARS = 4 * 1024 * 1024
"""The limit of a page, unless one message exceeds it. A message counts at least an eighth of its length."""

START = "start"
"""Stands for the position before the first message."""


class Ref(NamedTuple):
    """The turn of a message (its seq), and the message's place there, as in its id. (0, 0): system prompt."""

    seq: int
    place: int


PROMPT = Ref(0, 0)

_Sized = tuple[Ref, int]  # a message and its length


class Page(NamedTuple):
    """Consecutive messages, oldest first, and whether there are more in the direction of reading."""

    refs: list[Ref]
    has_more: bool


class Versions(NamedTuple):
    """The ids of all versions of a message; `own` is the id of the message itself."""

    ids: list[str]
    own: str


def not_found(param: str) -> ChatError:
    """The error for an unknown message id; `param` is the request's field that names it."""
    return ChatError("message_not_found", "There is no such message in this session.", param)


def find_message(store: Store, session_id: str, message_id: str, param: str) -> tuple[Turn, int]:
    """The turn of a message, and its place there. Raises ChatError, also for the system prompt."""
    found = store.turn_of(session_id, message_id)
    if found is None or found[1] > MAX_INPUT_MESSAGES:
        raise not_found(param)
    return found


def read_page(
    store: Store,
    session: Session,
    limit: int,
    *,
    before: str | None = None,
    after: str | None = None,
    size_of: Callable[[str], int] = len,
) -> Page:
    """Up to `limit` messages of the current path: the newest, or those after a message or START.

    Those `before` a message are its ancestors, also if it is not on the current path. `size_of` returns the
    length at which a client's message (JSON) is shown. Raises ChatError("message_not_found").
    """
    walk = _backwards(store, session, before, size_of)
    if after is not None:
        walk = _forwards(store, session, after, size_of)
    refs: list[Ref] = []
    size, has_more = 0, False
    for ref, length in walk:
        size += length
        if has_more := bool(refs) and (len(refs) == limit or size > PAGE_CHARS):
            break
        refs.append(ref)
    return Page(refs if after is not None else refs[::-1], has_more)


def _of_turn(turn: Turn, size_of: Callable[[str], int]) -> list[_Sized]:
    """The messages of a turn, in order."""
    found: list[_Sized] = [
        (Ref(turn.seq, place), max(size_of(said), len(said) // 8))
        for place, said in enumerate(turn.messages, 1)
        if said != DELETED
    ]
    if turn.output is not None:
        found.append((Ref(turn.seq, 0), len(turn.output) + len(turn.reasoning or "")))
    return found


def _behind(walk: Iterator[_Sized], ref: Ref | None) -> Iterator[_Sized]:
    """The rest of a walk after a message; the whole walk if `ref` is None."""
    while ref is not None and next(walk)[0] != ref:
        pass
    return walk


def _backwards(
    store: Store, session: Session, before: str | None, size_of: Callable[[str], int]
) -> Iterator[_Sized]:
    """The messages before a message, or all of the current path, newest first."""
    seq, own, prompt = session.current, None, store.prompt(session.session_id)
    if prompt and before == prompt.message_id:
        return
    if before is not None:
        turn, place = find_message(store, session.session_id, before, "before")
        seq, own = turn.seq, Ref(turn.seq, place)
    walk = (one for turn in store.path_up(seq) for one in reversed(_of_turn(turn, size_of)))
    yield from _behind(walk, own)
    if prompt:
        yield PROMPT, len(prompt.content)


def _forwards(store: Store, session: Session, after: str, size_of: Callable[[str], int]) -> Iterator[_Sized]:
    """The messages of the current path after a message, oldest first."""
    own, prompt = None, store.prompt(session.session_id)
    if after == START or (prompt and after == prompt.message_id):
        path = store.path(session.current)
        if prompt and after == START:
            yield PROMPT, len(prompt.content)
    else:
        turn, place = find_message(store, session.session_id, after, "after")
        own, path = Ref(turn.seq, place), store.path(session.current, above=turn.seq - 1)
        if path[:1] != [turn.seq]:
            raise not_found("after")
    turns = filter(None, map(store.turn, path))
    yield from _behind((one for turn in turns for one in _of_turn(turn, size_of)), own)


def versions(turn: Turn, place: int, siblings: list[Version]) -> Versions | None:
    """The versions of a message; None if it is the only one. `siblings` are the versions of its turn.

    The versions of an answer are the answers to the same question. The versions of a question are the
    different questions; the newest turn with a question stands for it.
    """
    asked = next((one.input for one in siblings if one.seq == turn.seq), None)
    own = message_id(turn.turn_id, place)
    if place == 0:
        found = [one.turn_id for one in siblings if one.input == asked and one.finish_reason is not None]
    else:
        role = role_of(turn.messages[place - 1])
        questions = {one.input: one for one in siblings}  # the newest turn, at the position of the oldest
        ids = (own if said == asked else _in_role(one, place, role) for said, one in questions.items())
        found = [one for one in ids if one]
    return Versions(found, own) if len(found) > 1 and own in found else None


def _in_role(version: Version, place: int, role: str) -> str | None:
    """The id of a turn's message that has the role: the message at `place` if it does, else the first."""
    said = version.messages
    for number in chain((place,), range(1, len(said) + 1)):
        if number <= len(said) and said[number - 1] != DELETED and role_of(said[number - 1]) == role:
            return message_id(version.turn_id, number)
    return None
