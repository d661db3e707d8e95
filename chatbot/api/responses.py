"""Makes the objects that clients are sent: sessions, and messages from turns."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from chatbot.chat.history import versions
from chatbot.chat.reply import Reply
from chatbot.chat.reply_log import ReplyLog
from chatbot.ids import message_id
from chatbot.records import CUT, REFUSAL, TEXT, Prompt, Session, Turn, as_json
from chatbot.storage.store import Store
from chatbot.storage.tree import Version


def rfc3339(milliseconds: int) -> str:
    """A time as `2026-01-31T09:30:00.000Z`."""
    seconds, milliseconds = divmod(milliseconds, 1000)
    return f"{_to_the_second(seconds)}.{milliseconds:03}Z"


@lru_cache(maxsize=64)  # most times in one response are close together
def _to_the_second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().removesuffix("+00:00")


def session_object(session: Session, timeout_ms: int) -> dict[str, Any]:
    """A session, without its message count and its running reply."""
    return {
        "session_id": session.session_id,
        "created_at": rfc3339(session.created_at),
        "last_accessed": rfc3339(session.last_accessed),
        "expires_at": rfc3339(session.last_accessed + timeout_ms),
        "metadata": json.loads(session.metadata),
    }


def active_object(store: Store, session: Session, reply: Reply) -> dict[str, Any]:
    """The running reply of a session.

    `message` is the question without the contents of parts; `replace` the reply in whose place it is asked.
    """
    last = json.loads(reply.question.input[-1]) or {}
    parent = reply.question.parent
    path = [] if parent == session.current else store.path(session.current, parent or 0)
    sibling = store.turn(path[0]) if path else None
    return {
        "message_id": reply.message_id,
        "message": without_parts(last["content"]) if last.get("role") == "user" else None,
        "started_at": rfc3339(reply.created_at),
        "replace": sibling.turn_id if sibling and sibling.parent == parent else None,
    }


# Messages


def prompt_object(prompt: Prompt) -> dict[str, Any]:
    """The system prompt of a session as its first message."""
    message = {"role": "system", "content": prompt.content}
    return _message(prompt.message_id, message, prompt.created_at)


def message_object(turn: Turn, place: int, siblings: list[Version], *, omit: bool = False) -> dict[str, Any]:
    """A message of a turn that may have `siblings`; `omit`: without what pictures, sound and files hold."""
    if place == 0:
        result = _reply(turn)
    else:
        message = json.loads(turn.messages[place - 1])
        if omit:
            message["content"] = without_parts(message.get("content"))
        result = _message(message_id(turn.turn_id, place), message, turn.asked_at)
    if found := versions(turn, place, siblings):
        result["versions"] = {"ids": found.ids, "index": found.ids.index(found.own)}
    return result


def _message(message_id: str, message: dict[str, Any], created_at: int) -> dict[str, Any]:
    result = {
        "message_id": message_id,
        "role": message.pop("role"),
        "content": message.pop("content", None),
        "created_at": rfc3339(created_at),
        "token_usage": None,
        "finish_reason": None,
    }
    return result | message


def _reply(turn: Turn) -> dict[str, Any]:
    message = json.loads(turn.output or "{}")
    if not CUT.search(turn.finish_reason or ""):
        for call in message.get("tool_calls", ()):  # clients parse the arguments
            call["function"]["arguments"] = call["function"]["arguments"] or "{}"
    refusal = None
    if turn.layout is not None and f'"{REFUSAL}"' in turn.layout:  # some of the content is a refusal
        log = ReplyLog.from_turn(turn)
        pieces = [*log.pieces(0, log.length)]
        message["content"], refusal = (
            "".join(piece.text for piece in pieces if piece.kind == kind) or None for kind in (TEXT, REFUSAL)
        )
    result = _message(turn.turn_id, message, turn.replied_at)
    result["token_usage"] = json.loads(turn.token_usage) if turn.token_usage else None
    result["finish_reason"] = turn.finish_reason
    more = {
        "reasoning": turn.reasoning,
        "refusal": refusal,
        "model": turn.model,
        "first_token_ms": turn.first_token_ms,
    }
    return result | {name: value for name, value in more.items() if value is not None}


def without_parts(content: Any) -> Any:
    """A message's content, in which the contents of pictures, sound and files are replaced by their size."""
    return [_without(part) for part in content] if isinstance(content, list) else content


def _without(part: dict[str, Any]) -> dict[str, Any]:
    kind = part["type"]
    held = part.get(kind)
    if kind == "text" or not isinstance(held, dict):
        return part
    data = held.get("url") or held.get("data") or held.get("file_data") or ""
    if not data or (kind == "image_url" and not data.startswith("data:")):
        return part  # the id of a file or a picture's address, not its content
    left = {"type": kind, "omitted": len(data.encode())}
    return left | {kind: {"filename": held["filename"]}} if "filename" in held else left


def shown_length(said: str) -> int:
    """About the length of a said message (JSON) without the contents of its parts."""
    return len(said) if len(said) < 4096 else len(as_json(without_parts(json.loads(said).get("content"))))
