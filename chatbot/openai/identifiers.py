"""The ids of OpenAI's door: a conversation is a session, a response a turn, an item belongs to a turn.

`resp_` is followed by the session's first two hex digits, by which a proxy knows where it belongs, and by
unguessable ones. An item's id is its turn's, with its place as the last three digits: from 001 on what was
said, from 800 on what was answered. Two more digits tell the calls of one message apart.
"""

from __future__ import annotations

import re
import secrets
import uuid

FIRST_OUTPUT = 0x800
"""The place of the first item of an answer."""

_PREFIXES = {"message": "msg", "reasoning": "rs", "function_call": "fc", "function_call_output": "fco"}
_CONVERSATION = re.compile(r"conv_([0-9a-f]{32}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})")
_ITEM = re.compile(r"(?:msg|rs|fc|fco)_([0-9a-f]{29})([0-9a-f]{3})([0-9a-f]{2})?")


def session_of(conversation: str) -> str | None:
    """The session that a conversation is, its id written with dashes or without; None if it is no such id."""
    found = _CONVERSATION.fullmatch(conversation.lower())
    return str(uuid.UUID(found[1])) if found else None


def new_response_id(session_id: str) -> str:
    """An id that nobody can guess and that begins as the session's does."""
    return f"resp_{session_id[:2]}{secrets.token_hex(16)}"


def item_id(type_: str, turn_id: str, place: int, call: int = 0) -> str:
    """The id of an item of a turn; `call` counts the calls of one message that was said."""
    return f"{_PREFIXES[type_]}_{turn_id.replace('-', '')[:-3]}{place:03x}" + (f"{call:02x}" if call else "")


def place_of(item: str) -> tuple[str, int, int]:
    """The id of the turn that an item belongs to, its place there, and the call; "" if it is no such id."""
    if found := _ITEM.fullmatch(item):
        return str(uuid.UUID(f"{found[1]}000")), int(found[2], 16), int(found[3] or "0", 16)
    return "", 0, 0
