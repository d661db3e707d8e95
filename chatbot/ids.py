"""Makes the ids of sessions, turns, messages and requests, and tells from a message's id where it stands."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import uuid

MAX_INPUT_MESSAGES = 0x7FF
"""How many messages may be said in one turn: their number is part of their ids."""

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def new_id() -> str:
    """A random UUID in its text form: version 4 of RFC 9562, which nobody can guess."""
    return str(uuid.uuid4())


def new_session_id(first: int = 0, last: int = 0xFF) -> str:
    """A random UUID whose first two hex digits are in the range: drawn until it fits, so still random."""
    while not first <= int((drawn := new_id())[:2], 16) <= last:
        pass
    return drawn


def new_turn_id(now: int) -> str:
    """A UUID that begins with the millisecond `now` (since 1970): version 7 of RFC 9562; ends in 000.

    New ones stand together at the end of the database's index of them. The last three digits tell the
    messages of a turn apart: 000 is its reply.
    """
    random = int.from_bytes(os.urandom(10), "big")
    value = (now & 0xFFFFFFFFFFFF) << 80 | random & ~0xFFF
    value = value & ~(0xF << 76) & ~(0x3 << 62) | 7 << 76 | 2 << 62
    return str(uuid.UUID(int=value))


def message_id(turn_id: str, place: int) -> str:
    """The id of a message of a turn: `place` 0 is its reply, from 1 on what was said."""
    return f"{turn_id[:-3]}{place:03x}"


def turn_and_place(message_id: str) -> tuple[str, int] | None:
    """The (turn_id, place) that a message's id speaks of; None if it is no such id."""
    message_id = message_id.lower()  # Swift's UUIDs are written in capitals
    if not _UUID.fullmatch(message_id):
        return None
    return f"{message_id[:-3]}000", int(message_id[-3:], 16)


def affinity_of(key: bytes, conversation: str) -> str:
    """The 32 hex digits by which LLM servers know a conversation: its id or text is not theirs to know."""
    return hmac.digest(key, conversation.encode(), hashlib.sha256).hex()[:32]
