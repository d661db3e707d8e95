"""The shapes of the API: sessions, messages, chunks and errors as the JSON that clients read."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from chatbot import sse
from chatbot.errors import ChatError
from chatbot.store import Message, Session

_INVALID, _SERVER = "invalid_request_error", "server_error"

ERRORS: dict[str, tuple[int, str]] = {
    # code: (status, type). The types are those of the OpenAI API.
    "invalid_json": (400, _INVALID),
    "invalid_request": (400, _INVALID),
    "context_too_long": (400, _INVALID),
    "llm_rejected": (400, _INVALID),
    "unauthorized": (401, "authentication_error"),
    "origin_not_allowed": (403, "permission_error"),
    "not_found": (404, _INVALID),
    "session_not_found": (404, _INVALID),
    "message_not_found": (404, _INVALID),
    "method_not_allowed": (405, _INVALID),
    "session_busy": (409, _INVALID),
    "reply_cancelled": (409, _INVALID),
    "request_too_large": (413, _INVALID),
    "idempotency_key_reused": (422, _INVALID),
    "llm_rate_limited": (429, "rate_limit_error"),
    "internal_error": (500, _SERVER),
    "llm_error": (502, _SERVER),
    "llm_unavailable": (502, _SERVER),
    "overloaded": (503, _SERVER),
    "storage_full": (503, _SERVER),
    "shutting_down": (503, _SERVER),
    "llm_timeout": (504, _SERVER),
}


# What is encoded was built here or came as JSON: it has no cycles to look for.
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False).encode


def dumps(value: object) -> bytes:
    """JSON in UTF-8, without spaces."""
    return _encode(value).encode()


def rfc3339(milliseconds: int) -> str:
    """A time as `2026-01-31T09:30:00.000Z`."""
    seconds, milliseconds = divmod(milliseconds, 1000)
    return f"{_to_the_second(seconds)}.{milliseconds:03}Z"


@lru_cache(maxsize=64)  # the times of an answer are mostly alike: now, or those of a conversation
def _to_the_second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().removesuffix("+00:00")


def session_object(session: Session, timeout_ms: int) -> dict[str, Any]:
    """A session, without what changes from moment to moment."""
    return {
        "session_id": session.session_id,
        "created_at": rfc3339(session.created_at),
        "last_accessed": rfc3339(session.last_accessed),
        "expires_at": rfc3339(session.last_accessed + timeout_ms),
        "metadata": json.loads(session.metadata),
    }


def message_json(message: Message) -> bytes:
    """A stored message, with its usage as the JSON that it is; `finish_reason` is null on all but replies."""
    return (
        f'{{"message_id":"{message.message_id}","role":"{message.role}",'
        f'"content":{message.content},"created_at":"{rfc3339(message.created_at)}",'
        f'"token_usage":{message.token_usage or "null"},"finish_reason":{_encode(message.finish_reason)}}}'
    ).encode()


def page_json(messages: list[Message], *, has_more: bool) -> bytes:
    """A page of history."""
    return b'{"messages":[%b],"has_more":%b}' % (
        b",".join(map(message_json, messages)),
        dumps(has_more),
    )


def error_object(error: ChatError) -> dict[str, Any]:
    """The one shape of an error, as OpenAI's clients read it."""
    kind = ERRORS[error.code][1]
    body = {"code": error.code, "message": error.message, "param": error.param, "type": kind}
    return {"error": body | error.extra}


def error_frame(error: ChatError) -> bytes:
    """An error in a stream; without an id, for no text comes with it."""
    return b"data: %b\n\n" % dumps(error_object(error))


def chunk(
    message_id: str,
    created_at: int,
    delta: dict[str, str] | None,
    *,
    finish_reason: str | None = None,
    usage: dict[str, Any] | None = None,
) -> bytes:
    """A chat-completion chunk of our own, for what is told from the stored text and not by the LLM.

    Without a `delta` it has no choices, as the one that carries the usage.
    """
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return dumps(
        {
            "id": message_id,
            "object": "chat.completion.chunk",
            "created": created_at // 1000,
            "model": "",
            "choices": [] if delta is None else [choice],
        }
        | ({"usage": usage} if usage else {})
    )


def ending(message: Message, offset: int) -> bytes:
    """The last frames of a reply told from its stored text: its finish, its usage, [DONE]."""
    mid, created = message.message_id, message.created_at
    frames = sse.frame(offset, chunk(mid, created, {}, finish_reason=message.finish_reason))
    if message.token_usage:
        frames += sse.frame(offset, chunk(mid, created, None, usage=json.loads(message.token_usage)))
    return frames + sse.DONE
