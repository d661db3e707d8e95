"""Makes the response object, from the settings that it was asked with and from what became of it."""

from __future__ import annotations

import json
from typing import Any

from chatbot.chat.asking import Question
from chatbot.chat.reply import Reply
from chatbot.chat.reply_source import ReplySource
from chatbot.chat.stored_reply import StoredReply
from chatbot.errors import ChatError
from chatbot.openai.items import Object, items_of
from chatbot.records import CUT, DELETED, FILTERED, Turn
from chatbot.storage.store import Background, Store

SETTINGS: dict[str, Any] = {
    "background": False, "store": True, "parallel_tool_calls": True, "tools": [], "tool_choice": "auto",
    "instructions": None, "metadata": {}, "previous_response_id": None, "truncation": "auto",
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


class Response:
    """A reply as this API has it; `asked` is its question, or the turn that has it, and says how."""

    def __init__(self, source: ReplySource, asked: Question | Turn | None = None) -> None:
        asked = asked or (source.question if isinstance(source, Reply) else source.turn)
        assert asked, "a reply that has ended and is found has a turn"
        self.source, self.asked = source, asked
        self.id = asked.response_id or ""
        self.settings: dict[str, Any] = json.loads(asked.response or "{}")
        self.is_background = bool(self.settings.get("background"))
        self.has_conversation = bool(self.settings.get("conversation"))

    def to_object(self, error: ChatError | None = None) -> Object:
        """The response object, as far as the reply has come; an `error` is what ended its stream."""
        source, turn = self.source, None if error else self.source.turn
        error = error or source.error
        if turn and turn.finish_reason:
            status, reason = _status_of(turn.finish_reason)
            return self._with_output(
                status,
                turn.finish_reason,
                usage=usage_object(source.usage or "{}"),
                incomplete_details={"reason": reason} if reason else None,
                completed_at=turn.replied_at // 1000 if status == "completed" else None,
            )
        if not error:  # it is queued as long as the LLM was not asked
            return self._with_output("in_progress" if source.context_messages else "queued", None)
        if error.code == "reply_cancelled":  # before its first word
            return self._with_output("cancelled", "cancelled")
        shown = {"code": _ERRORS.get(error.code, "server_error"), "message": error.message}
        if not source.error:  # it was stored, but deleted meanwhile
            return self.without_output("failed") | {"error": shown}
        return self._with_output("failed", "cancelled", error=shown)

    def without_output(self, status: str) -> Object:
        """The response object at its beginning, with the model that was asked for."""
        settings = {name: self.settings.get(name, value) for name, value in SETTINGS.items()}
        known = {
            "id": self.id,
            "object": "response",
            "created_at": self.source.created_at // 1000,
            "status": status,
            "model": self.settings.get("model") or "",
            "conversation": {"id": f"conv_{self.source.session_id}"} if self.has_conversation else None,
        }
        return settings | known | _PENDING

    def _with_output(self, status: str, finish_reason: str | None, **became: Any) -> Object:
        begun, source = self.without_output(status), self.source
        output = items_of(source.log, source.message_id, finish_reason)
        return begun | {"model": source.model or begun["model"], "output": output} | became


def failed_response(row: Background, store: Store) -> Response:
    """A response that was accepted in the background and came to nothing: a turn without an answer."""
    turn = Turn(0, row.session_id, None, "", row.created_at, row.created_at, input=DELETED)
    turn = turn._replace(response_id=row.response_id, response=row.response)
    error = json.loads(row.error or '{"code":"internal_error","message":"It was lost."}')
    return Response(StoredReply(turn, store, ChatError(error["code"], error["message"])), turn)


def _status_of(finish_reason: str) -> tuple[str, str | None]:
    """The status of a response that ended so, and what its incomplete_details call it."""
    if finish_reason == "cancelled" or not CUT.search(finish_reason):
        return "cancelled" if finish_reason == "cancelled" else "completed", None
    return "incomplete", "content_filter" if FILTERED.search(finish_reason) else "max_output_tokens"


def usage_object(text: str) -> Object | None:
    """The LLM's usage in this API's words; None if it does not count the prompt and the answer."""
    usage = json.loads(text)
    sent, said = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if not isinstance(sent, int) or not isinstance(said, int):
        return None

    def details(of: str, *names: str) -> dict[str, int]:
        found = usage.get(f"{of}_tokens_details")
        known = found if isinstance(found, dict) else {}
        return {name: known[name] if isinstance(known.get(name), int) else 0 for name in names}

    return {
        "input_tokens": sent,
        "input_tokens_details": details("prompt", "cached_tokens", "cache_write_tokens"),
        "output_tokens": said,
        "output_tokens_details": details("completion", "reasoning_tokens"),
        "total_tokens": sent + said,
    }
