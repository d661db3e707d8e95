"""Reads the history along a path of turns: pages of messages, and the versions that a message has."""

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
"""A page ends early before it is longer than this, or more than eight times as much was read for it."""

START = "start"
"""Stands for the message before the first."""


class Ref(NamedTuple):
    """Where a message stands: the turn, and its place in it as in its id. `seq` 0 is the system prompt."""

    seq: int
    place: int


PROMPT = Ref(0, 0)

_Sized = tuple[Ref, int]  # a message, and how long it is


class Page(NamedTuple):
    """Some messages that follow one another, oldest first, and whether there are more in that direction."""

    refs: list[Ref]
    has_more: bool


class Versions(NamedTuple):
    """The ids of the versions of a message; it is itself `own`, one of them."""

    ids: list[str]
    own: str


def not_found(param: str) -> ChatError:
    """That there is no message of this id; `param` is the field that names it."""
    return ChatError("message_not_found", "There is no such message in this session.", param)


def find_message(store: Store, session_id: str, message_id: str, param: str) -> tuple[Turn, int]:
    """The turn of a message that is no system prompt, and its place there; raises ChatError."""
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

    Those `before` a message are its own ancestors, whatever the current path. `size_of` says how long is
    shown of a message that was said (JSON). Raises ChatError("message_not_found").
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
    """What comes after a message on a walk; all of it with None."""
    while ref is not None and next(walk)[0] != ref:
        pass
    return walk


def _backwards(
    store: Store, session: Session, before: str | None, size_of: Callable[[str], int]
) -> Iterator[_Sized]:
    """The messages before one, newest first."""
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
    """The messages of the current path after one, oldest first."""
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
    """The versions of a message, None if it is the only one; `siblings` are those of its turn.

    Of an answer they are the answers to the same question. Of a question they are the different
    questions, each one by the newest turn that has it.
    """
    asked = next((one.input for one in siblings if one.seq == turn.seq), None)
    if asked is None:
        return None
    own = message_id(turn.turn_id, place)
    if place == 0:
        found = [one.turn_id for one in siblings if one.input == asked and one.finish_reason is not None]
    else:
        role = role_of(turn.messages[place - 1])
        questions = {one.input: one for one in siblings}  # the newest stands where the first one did
        ids = (own if said == asked else _in_role(one, place, role) for said, one in questions.items())
        found = [one for one in ids if one]
    return Versions(found, own) if len(found) > 1 and own in found else None


def _in_role(version: Version, place: int, role: str) -> str | None:
    """The id of a turn's message that has a role: the one at the same place if it has it, else the first."""
    said = version.messages
    for number in chain((place,), range(1, len(said) + 1)):
        if number <= len(said) and said[number - 1] != DELETED and role_of(said[number - 1]) == role:
            return message_id(version.turn_id, number)
    return None
