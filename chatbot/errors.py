"""The errors that clients are sent, and the one table of all their codes."""

from __future__ import annotations

from typing import Any

_INVALID, _SERVER = "invalid_request_error", "server_error"

ERRORS: dict[str, tuple[int, str]] = {
    # code: (HTTP status, type). The types are those of the OpenAI API.
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
    "conversation_locked": (409, _INVALID),
    "reply_cancelled": (409, _INVALID),
    "request_too_large": (413, _INVALID),
    "idempotency_key_reused": (422, _INVALID),
    "llm_rate_limited": (429, "rate_limit_error"),
    "headers_too_large": (431, _INVALID),
    "internal_error": (500, _SERVER),
    "llm_error": (502, _SERVER),
    "llm_unavailable": (502, _SERVER),
    "overloaded": (503, _SERVER),
    "storage_full": (503, _SERVER),
    "shutting_down": (503, _SERVER),
    "llm_timeout": (504, _SERVER),
}


class ChatError(Exception):
    """A failure that the client is sent.

    `code` is one of the keys of `ERRORS`. `param` names the field, header or query parameter at fault.
    `retry_after` is the value of a Retry-After header (seconds or an HTTP date). `extra` has more fields for
    the error object. `kind` is the kind of the LLM's failure, for log and metrics ("quota", "moderation", …).
    """

    def __init__(
        self,
        code: str,
        message: str,
        param: str | None = None,
        *,
        retry_after: str | None = None,
        extra: dict[str, str] | None = None,
        kind: str = "",
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param
        self.retry_after = retry_after
        self.extra = extra or {}
        self.kind = kind or code

    @property
    def status(self) -> int:
        """The HTTP status of its code."""
        return ERRORS[self.code][0]

    def to_object(self) -> dict[str, Any]:
        """The error as JSON, in the form that OpenAI's clients read; all errors have this form."""
        body = {"code": self.code, "message": self.message, "param": self.param, "type": ERRORS[self.code][1]}
        return {"error": body | self.extra}


TOO_LONG = "The prompt is too long, it exceeds the context window"
"""Clients search a message for these words, because some do not see the code."""


class TooLong(ChatError):
    """The conversation was too long for the LLM. Asking again with less of it may help.

    The client is sent this error when there is nothing left to drop. `limit` is the LLM's limit of tokens, if
    it named one. `is_certain` is False if the cause may be another, as a crash. `teaches` is False if a limit
    of tokens cannot be learned from it, as when there were too many bytes.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        limit: int | None = None,
        is_certain: bool = True,
        teaches: bool = True,
    ) -> None:
        super().__init__(code, message, "message", kind="too_long")
        self.limit = limit
        self.is_certain = is_certain
        self.teaches = teaches and is_certain


def session_gone(param: str = "session_id") -> ChatError:
    """The one error for sessions that never existed, were deleted or expired: it does not reveal which."""
    return ChatError("session_not_found", "There is no such session, or it has expired.", param)


def message_gone() -> ChatError:
    """The message was deleted after it had been found."""
    return ChatError("message_not_found", "The message was deleted.", "message_id")


def file_locked() -> ChatError:
    """Another program has kept the database's file locked for too long."""
    return ChatError("overloaded", "The database is locked.", retry_after="5")


def crashed(error: BaseException | None) -> ChatError:
    """What clients are sent for an unexpected error: no internals, only whether the memory is full."""
    if isinstance(error, MemoryError):
        return ChatError("overloaded", "The memory is full.", retry_after="5")
    return ChatError("internal_error", "Internal error.")


def without_frames(error: ChatError) -> ChatError:
    """The error without its traceback, whose frames would stay in memory as long as the error is kept."""
    error.__traceback__ = error.__context__ = error.__cause__ = None
    return error
