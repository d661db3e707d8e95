"""Makes the response object, from the settings that it was asked with and from what became of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from chatbot.chat.reply_log import ReplyLog
from chatbot.chat.reply_source import Listener, ReplySource
from chatbot.errors import ChatError
from chatbot.openai.identifiers import conversation_id
from chatbot.openai.output import CUT, items_of
from chatbot.records import Turn, as_json
from chatbot.storage.store import Background

SETTINGS: Mapping[str, Any] = {
    # what a request may say of them is repeated in the response; this is what holds otherwise
    "background": False,
    "frequency_penalty": 0.0,
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "presence_penalty": 0.0,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "reasoning": {"effort": None, "summary": None},
    "safety_identifier": None,
    "service_tier": "default",
    "store": True,
    "temperature": 1.0,
    "text": {"format": {"type": "text"}, "verbosity": "medium"},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
}
_ERRORS = {
    # our codes: those that OpenAI's libraries know; all others are a server_error
    "context_too_long": "invalid_prompt",
    "llm_rejected": "invalid_prompt",
    "llm_rate_limited": "rate_limit_exceeded",
}


class FailedReply:
    """A response that was accepted in the background and came to nothing, as a `ReplySource`."""

    started = finish_sent = ended = True
    message_id = model = ""
    context_messages = length = 0
    finish_reason: str | None = None
    usage: str | None = None
    first_token_ms: int | None = None
    turn: Turn | None = None

    def __init__(self, row: Background) -> None:
        self.session_id = row.session_id
        self.created_at = row.created_at
        error = json.loads(row.error or '{"code":"internal_error","message":"It was lost."}')
        self.error: ChatError | None = ChatError(error["code"], error["message"])
        self.log = ReplyLog()

    def join(self, listener: Listener) -> None:
        """Nothing will come."""

    def leave(self, listener: Listener) -> None:
        """Nobody is missed."""

    def stop(self, error: ChatError | None = None) -> None:
        """It has ended."""


class ResponseRecord:
    """What is kept of a response besides its turn: its settings, and whether its conversation was named."""

    def __init__(self, response_id: str, session_id: str, created_at: int, text: str) -> None:
        self.response_id = response_id
        self.session_id = session_id
        self.created_at = created_at
        self.settings: dict[str, Any] = json.loads(text)

    @property
    def is_background(self) -> bool:
        """Whether it was asked to run in the background."""
        return bool(self.settings.get("background"))

    @property
    def has_conversation(self) -> bool:
        """Whether it was asked in a conversation that its client named."""
        return bool(self.settings.get("conversation"))

    def to_object(
        self,
        status: str,
        *,
        model: str = "",
        output: list[dict[str, Any]] | None = None,
        usage: str | None = None,
        error: ChatError | None = None,
        finish_reason: str | None = None,
        completed_at: int | None = None,
    ) -> dict[str, Any]:
        """The response object; times in milliseconds since 1970."""
        settings = {name: self.settings.get(name, value) for name, value in SETTINGS.items()}
        reason = CUT.get(finish_reason or "")
        conversation = {"id": conversation_id(self.session_id)} if self.has_conversation else None
        return settings | {
            "id": self.response_id,
            "object": "response",
            "created_at": self.created_at // 1000,
            "completed_at": completed_at and completed_at // 1000,
            "status": status,
            "error": error and _error_object(error),
            "incomplete_details": {"reason": reason} if reason else None,
            "model": model or self.settings.get("model") or "",
            "output": output or [],
            "usage": usage_object(usage) if usage else None,
            "conversation": conversation,
        }

    def of_source(self, source: ReplySource) -> dict[str, Any]:
        """The response that a reply is, or has become."""
        turn, model, usage = source.turn, source.model, source.usage
        if turn and turn.finish_reason:
            status = status_of(turn.finish_reason)
            output = items_of(source.log, source.message_id, turn.finish_reason)
            completed_at = turn.replied_at if status == "completed" else None
            return self.to_object(
                status,
                model=model,
                output=output,
                usage=usage,
                finish_reason=turn.finish_reason,
                completed_at=completed_at,
            )
        if source.error:
            return self.failed(source, source.error)
        output = items_of(source.log, source.message_id, None)
        status = "in_progress" if source.context_messages else "queued"  # queued: the LLM was not asked yet
        return self.to_object(status, model=model, output=output)

    def failed(self, source: ReplySource, error: ChatError) -> dict[str, Any]:
        """The response of which nothing was stored: it failed, or was cancelled before its first word."""
        output = items_of(source.log, source.message_id, "cancelled")
        if error.code == "reply_cancelled":
            return self.to_object("cancelled", model=source.model, output=output)
        return self.to_object("failed", model=source.model, output=output, error=error)


def settings_text(settings: Mapping[str, Any]) -> str:
    """The settings as they are kept: JSON of those that are not as they are for everybody."""
    return as_json({name: value for name, value in settings.items() if value != SETTINGS.get(name)})


def status_of(finish_reason: str) -> str:
    """How a response ended whose answer was stored."""
    if finish_reason == "cancelled":
        return "cancelled"
    return "incomplete" if finish_reason in CUT else "completed"


def _error_object(error: ChatError) -> dict[str, Any]:
    return {"code": _ERRORS.get(error.code, "server_error"), "message": error.message}


def usage_object(text: str) -> dict[str, Any] | None:
    """The LLM's usage in this API's words; None if it does not count the prompt or the answer."""
    usage = json.loads(text)
    counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
    if not all(isinstance(count, int) for count in counts):
        return None
    sent, said = counts
    cached = _detail(usage, "prompt_tokens_details", "cached_tokens")
    written = _detail(usage, "prompt_tokens_details", "cache_write_tokens")
    reasoning = _detail(usage, "completion_tokens_details", "reasoning_tokens")
    total = usage.get("total_tokens")
    return {
        "input_tokens": sent,
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": written},
        "output_tokens": said,
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": total if isinstance(total, int) else sent + said,
    }


def _detail(usage: Mapping[str, Any], group: str, name: str) -> int:
    details = usage.get(group)
    count = details.get(name) if isinstance(details, dict) else None
    return count if isinstance(count, int) else 0
