"""Makes the ids of sessions, turns, messages and requests, and finds a message's place from its id."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import uuid

MAX_INPUT_MESSAGES = 0x7FF
"""How many new messages a turn may have: a message's number is part of its id."""

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def new_id() -> str:
    """A random UUID as text: version 4 of RFC 9562, which nobody can guess."""
    return str(uuid.uuid4())


def new_session_id(first: int = 0, last: int = 0xFF) -> str:
    """A random UUID whose first two hex digits are in the range: ids are drawn until one fits."""
    while not first <= int((drawn := new_id())[:2], 16) <= last:
        pass
    return drawn


def new_turn_id(now: int) -> str:
    """A UUID that begins with the time `now` (milliseconds since 1970): version 7 of RFC 9562; ends in 000.

    So new ids are next to each other, at the end of the database's index. The last three digits are the
    place of a message in the turn: 000 is the reply.
    """
    random = int.from_bytes(os.urandom(10), "big")
    value = (now & 0xFFFFFFFFFFFF) << 80 | random & ~0xFFF
    value = value & ~(0xF << 76) & ~(0x3 << 62) | 7 << 76 | 2 << 62
    return str(uuid.UUID(int=value))


def message_id(turn_id: str, place: int) -> str:
    """The id of a message of a turn: `place` 0 is the reply, 1 and more are the new messages."""
    return f"{turn_id[:-3]}{place:03x}"


def turn_and_place(message_id: str) -> tuple[str, int] | None:
    """The (turn_id, place) of a message's id; None if the text is not a UUID."""
    message_id = message_id.lower()  # Swift's UUIDs are written in capitals
    if not _UUID.fullmatch(message_id):
        return None
    return f"{message_id[:-3]}000", int(message_id[-3:], 16)


def affinity_of(key: bytes, conversation: str) -> str:
    """The 32 hex digits by which LLM servers recognise a conversation; they hide its id or text."""
    return hmac.digest(key, conversation.encode(), hashlib.sha256).hex()[:32]
