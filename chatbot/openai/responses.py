"""Makes the response object, from the settings that it was asked with and from what became of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from chatbot.chat.reply_log import ReplyLog
from chatbot.chat.reply_source import ReplySource
from chatbot.errors import ChatError
from chatbot.openai.output import CUT, items_of
from chatbot.records import Turn, as_json
from chatbot.storage.store import Background

SETTINGS: dict[str, Any] = {
    "background": False, "store": True, "parallel_tool_calls": True, "tools": [], "tool_choice": "auto",
    "instructions": None, "metadata": {}, "previous_response_id": None, "truncation": "disabled",
    "temperature": 1.0, "top_p": 1.0, "frequency_penalty": 0.0, "presence_penalty": 0.0, "top_logprobs": 0,
    "max_output_tokens": None, "max_tool_calls": None, "service_tier": "default", "user": None,
    "prompt_cache_key": None, "safety_identifier": None, "reasoning": {"effort": None, "summary": None},
    "text": {"format": {"type": "text"}, "verbosity": "medium"},
}  # fmt: skip
"""What a response repeats of its request, and what holds where that says nothing."""

_PENDING: dict[str, Any] = {
    "completed_at": None, "error": None, "incomplete_details": None, "output": [], "usage": None
}  # fmt: skip
_ERRORS = {
    # our codes: those that OpenAI's libraries know; all others are a server_error
    "context_too_long": "invalid_prompt",
    "llm_rejected": "invalid_prompt",
    "llm_rate_limited": "rate_limit_exceeded",
}


class ResponseRecord:
    """What is kept of a response besides its turn: how it was asked."""

    def __init__(self, response_id: str, session_id: str, created_at: int, text: str) -> None:
        self.response_id = response_id
        self.session_id = session_id
        self.created_at = created_at
        self.settings: dict[str, Any] = json.loads(text)
        self.is_background = bool(self.settings.get("background"))
        self.has_conversation = bool(self.settings.get("conversation"))

    def to_object(self, status: str, model: str = "", **became: Any) -> dict[str, Any]:
        """The response object; `became` are the fields that are known only when it ends."""
        settings = {name: self.settings.get(name, value) for name, value in SETTINGS.items()}
        known = {
            "id": self.response_id,
            "object": "response",
            "created_at": self.created_at // 1000,
            "status": status,
            "model": model or self.settings.get("model") or "",
            "conversation": {"id": f"conv_{self.session_id}"} if self.has_conversation else None,
        }
        return settings | known | _PENDING | became

    def of_source(self, source: ReplySource) -> dict[str, Any]:
        """The response that a reply is, or has become."""
        turn, model = source.turn, source.model
        if turn and turn.finish_reason:
            status, reason = status_of(turn.finish_reason), CUT.get(turn.finish_reason)
            return self.to_object(
                status,
                model,
                output=items_of(source.log, source.message_id, turn.finish_reason),
                usage=usage_object(source.usage or "{}"),
                incomplete_details={"reason": reason} if reason else None,
                completed_at=turn.replied_at // 1000 if status == "completed" else None,
            )
        if source.error:
            return self.failed(source, source.error)
        status = "in_progress" if source.context_messages else "queued"  # queued: the LLM was not asked yet
        return self.to_object(status, model, output=items_of(source.log, source.message_id, None))

    def failed(self, source: ReplySource, error: ChatError) -> dict[str, Any]:
        """The response of which nothing was stored: it failed, or was cancelled before its first word."""
        output = items_of(source.log, source.message_id, "cancelled")
        if error.code == "reply_cancelled":
            return self.to_object("cancelled", source.model, output=output)
        shown = {"code": _ERRORS.get(error.code, "server_error"), "message": error.message}
        return self.to_object("failed", source.model, output=output, error=shown)


class FailedReply:
    """A response that was accepted in the background and came to nothing, as a `ReplySource`."""

    started = finish_sent = ended = True
    message_id = model = ""
    context_messages = length = 0
    finish_reason: str | None = None
    usage: str | None = None
    turn: Turn | None = None
    first_token_ms: int | None = None

    def __init__(self, row: Background) -> None:
        self.session_id = row.session_id
        self.created_at = row.created_at
        error = json.loads(row.error or '{"code":"internal_error","message":"It was lost."}')
        self.error: ChatError | None = ChatError(error["code"], error["message"])
        self.log = ReplyLog()

    def join(self, *_: object) -> None:
        """Nothing will come, and nothing goes on."""

    leave = stop = join


def settings_text(settings: Mapping[str, Any]) -> str:
    """The settings as they are kept: JSON of those that are not as they are for everybody."""
    return as_json({name: value for name, value in settings.items() if value != SETTINGS.get(name)})


def status_of(finish_reason: str) -> str:
    """How a response ended whose answer was stored."""
    if finish_reason == "cancelled":
        return "cancelled"
    return "incomplete" if finish_reason in CUT else "completed"


def usage_object(text: str) -> dict[str, Any] | None:
    """The LLM's usage in this API's words; None if it does not count the prompt and the answer."""
    usage = json.loads(text)
    sent, said = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if not isinstance(sent, int) or not isinstance(said, int):
        return None

    def detail(group: str, name: str) -> int:
        details = usage.get(group)
        count = details.get(name) if isinstance(details, dict) else None
        return count if isinstance(count, int) else 0

    cached = {name: detail("prompt_tokens_details", name) for name in ("cached_tokens", "cache_write_tokens")}
    reasoning = detail("completion_tokens_details", "reasoning_tokens")
    return {
        "input_tokens": sent,
        "input_tokens_details": cached,
        "output_tokens": said,
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": sent + said,
    }
