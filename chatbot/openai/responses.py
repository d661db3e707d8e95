"""Makes the response object from the settings of its request and from its reply."""

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
"""The settings that a response repeats from its request, with their defaults."""

_PENDING: dict[str, Any] = {
    "completed_at": None, "error": None, "incomplete_details": None, "output": [], "usage": None
}  # fmt: skip
_TOOL = {"description": None, "parameters": None, "strict": None}
_ERRORS = {
    # our code: the code that OpenAI's libraries know; any other error is a server_error
    "context_too_long": "invalid_prompt",
    "llm_rejected": "invalid_prompt",
    "llm_rate_limited": "rate_limit_exceeded",
}
_USAGE = (
    # our name, the LLM's name, the details
    ("input", "prompt", ("cached_tokens", "cache_write_tokens")),
    ("output", "completion", ("reasoning_tokens",)),
)


class Response:
    """A reply as this API shows it; `asked` is its question or its turn, which has the settings."""

    def __init__(self, source: ReplySource, asked: Question | Turn | None = None) -> None:
        asked = asked or (source.question if isinstance(source, Reply) else source.turn)
        assert asked, "a reply that has ended and is found has a turn"
        self.source, self.asked = source, asked
        self.id = asked.response_id or ""
        self.settings = _filled(json.loads(asked.response or "{}"), SETTINGS)
        text = self.settings["text"]
        if text["format"]["type"] == "json_schema":
            text["format"] = _filled(text["format"], {"description": None, "strict": False})
        choice = self.settings["tool_choice"]
        if isinstance(choice, dict) and "tools" in choice:  # only some tools are allowed
            self.settings["tool_choice"] = _filled(choice, {"mode": "auto"})
        self.is_background: bool = self.settings["background"]
        self.has_conversation = "conversation" in self.settings

    def to_object(self, error: ChatError | None = None) -> Object:
        """The response object, as far as the reply has come; `error` is the error that ended its stream."""
        source, turn = self.source, None if error else self.source.turn
        error = error or source.error
        finish = turn.finish_reason if turn else None
        if finish:
            is_cut = CUT.search(finish)
            status = finish if finish == "cancelled" else "incomplete" if is_cut else "completed"
        elif error:
            finish = "cancelled"
            status = finish if error.code == "reply_cancelled" else "failed"
        else:  # queued until the LLM is asked
            status = "in_progress" if source.context_messages else "queued"
        shown = self.without_output(status)
        shown["model"] = source.model or shown["model"]
        if source.error or not error:  # else the stored reply was deleted meanwhile
            shown["output"] = items_of(source.log, source.message_id, finish)
        if turn and finish:
            shown["usage"] = usage_object(source.usage or "{}")
        if turn and status == "completed":
            shown["completed_at"] = turn.replied_at // 1000
        if finish and status == "incomplete":
            reason = "content_filter" if FILTERED.search(finish) else "max_output_tokens"
            shown["incomplete_details"] = {"reason": reason}
        if error and status == "failed":
            shown["error"] = {"code": _ERRORS.get(error.code, "server_error"), "message": error.message}
        return shown

    def without_output(self, status: str) -> Object:
        """The response object before any output, with the model that was asked for."""
        begun = {name: self.settings[name] for name in SETTINGS}
        begun["tools"] = [_TOOL | tool for tool in begun["tools"]]
        known = {
            "id": self.id,
            "object": "response",
            "created_at": self.source.created_at // 1000,
            "status": status,
            "model": self.settings.get("model") or "",
            "conversation": {"id": f"conv_{self.source.session_id}"} if self.has_conversation else None,
        }
        return begun | known | _PENDING


def _filled(given: Object, defaults: Object) -> Object:
    """Returns `given`, with defaults for fields that are missing or null, also in inner objects."""
    filled = defaults | {name: value for name, value in given.items() if value is not None}
    inner = {name: _filled(filled[name], one) for name, one in defaults.items() if isinstance(one, dict)}
    return filled | inner


def failed_response(row: Background, store: Store) -> Response:
    """A background response that was accepted and then failed, as a turn without an answer."""
    turn = Turn(0, row.session_id, None, "", row.created_at, row.created_at, input=DELETED)
    turn = turn._replace(response_id=row.response_id, response=row.response)
    error = json.loads(row.error or '{"code":"internal_error","message":"It failed, or the server stopped."}')
    return Response(StoredReply(turn, store, ChatError(error["code"], error["message"])), turn)


def usage_object(text: str) -> Object | None:
    """The LLM's usage in this API's fields; None if the LLM did not count the prompt and the answer."""
    usage, shown = json.loads(text), Object()
    for ours, theirs, details in _USAGE:
        count, found = usage.get(f"{theirs}_tokens"), usage.get(f"{theirs}_tokens_details")
        if not isinstance(count, int):
            return None
        known = found if isinstance(found, dict) else {}
        counts = {name: known[name] if isinstance(known.get(name), int) else 0 for name in details}
        shown |= {f"{ours}_tokens": count, f"{ours}_tokens_details": counts}
    return shown | {"total_tokens": shown["input_tokens"] + shown["output_tokens"]}
