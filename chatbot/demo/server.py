"""ELIZA behind the chat-completions API, in the shape that vLLM and OpenAI give it.

A word counts as a token. Sampling fields are accepted and ignored. Of tools it knows one kind: asked for the
time, it calls a function whose name has "time" in it, and then says what the function said. With a
`reasoning_effort` it thinks aloud.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from aiohttp import web

from chatbot.demo.eliza import reply

MODEL = "eliza"
CONTEXT_TOKENS = 8192

# Well above what the context holds, so that a long prompt is refused as one and not as a 413.
MAX_REQUEST_BYTES = 16 * 1024 * 1024

_DELAY = web.AppKey("delay", float)
_ASKS_TIME = re.compile(r"\btime is it\b|\bthe time\b|몇 ?시", re.IGNORECASE)


class Answer(NamedTuple):
    """A finished reply: its deltas in order, why it ends, what it cost."""

    deltas: list[dict[str, Any]]
    finish_reason: str
    usage: dict[str, int]


class Refused(Exception):
    """A request that cannot be served; `param` names the field."""

    def __init__(self, message: str, param: str | None, code: str | None = None) -> None:
        super().__init__(message)
        self.error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}


def create_demo_app(delay: float = 0.03) -> web.Application:
    """Makes the server; `delay` is the pause after each streamed word, in seconds."""
    app = web.Application(middlewares=[_errors], client_max_size=MAX_REQUEST_BYTES)
    app[_DELAY] = delay
    app.router.add_post("/v1/chat/completions", chat_completions)
    app.router.add_get("/v1/models", models)
    return app


async def models(request: web.Request) -> web.Response:
    """Handle "GET /v1/models": the one model."""
    model = {"id": MODEL, "object": "model", "created": 0, "owned_by": "chatbot"}
    return _json({"object": "list", "data": [model | {"max_model_len": CONTEXT_TOKENS}]})


async def chat_completions(request: web.Request) -> web.StreamResponse:
    """Handle "POST /v1/chat/completions": answers a conversation, at once or word by word."""
    try:
        body = await request.json()
    except (ValueError, RecursionError, LookupError):  # the last: a charset that is none
        raise Refused("The body is not valid JSON.", None, "invalid_json") from None
    if not isinstance(body, dict):
        raise Refused("The body must be a JSON object.", None)
    answer = _answer(body)
    is_stream = body.get("stream") is True
    kind = "chat.completion.chunk" if is_stream else "chat.completion"
    head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": MODEL}
    if is_stream:
        return await _stream(request, head, answer, body.get("stream_options") or {})
    choice = {"index": 0, "message": _whole(answer.deltas), "finish_reason": answer.finish_reason}
    return _json({**head, "choices": [choice], "usage": answer.usage})


async def _stream(
    request: web.Request, head: dict[str, Any], answer: Answer, options: dict[str, Any]
) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
    await response.prepare(request)
    last: tuple[dict[str, Any], str | None] = ({}, answer.finish_reason)
    for delta, finish_reason in [*((delta, None) for delta in answer.deltas), last]:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        await response.write(_event({**head, "choices": [choice]}))
        await asyncio.sleep(request.app[_DELAY])
    if options.get("include_usage"):
        await response.write(_event({**head, "choices": [], "usage": answer.usage}))
    await response.write(b"data: [DONE]\n\n")
    return response


def _answer(body: dict[str, Any]) -> Answer:
    messages = _messages(body)
    prompt_tokens = sum(len(message["content"].split()) for message in messages)
    if prompt_tokens > CONTEXT_TOKENS:
        raise Refused(
            f"This model's maximum context length is {CONTEXT_TOKENS} tokens. However, your "
            f"messages resulted in {prompt_tokens} tokens. Please reduce their length.",
            "messages",
            "context_length_exceeded",
        )
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    if body.get("reasoning_effort"):
        thought = f"They say: {messages[-1]['content'][:200]} What would a good listener ask?"
        deltas += [{"reasoning_content": word} for word in _words(thought)]
    finish_reason = "stop"
    if tool := _tool(body, messages):
        call = {"index": 0, "id": f"call_{uuid.uuid4().hex[:8]}", "type": "function"}
        deltas.append({"tool_calls": [call | {"function": {"name": tool, "arguments": ""}}]})
        for part in ('{"timezone"', ':"UTC"}'):
            deltas.append({"tool_calls": [{"index": 0, "function": {"arguments": part}}]})
        finish_reason = "tool_calls"
    else:
        words = _words(_text(body, messages))
        limit = body.get("max_completion_tokens") or body.get("max_tokens") or len(words)
        if not isinstance(limit, int) or limit < 0:
            raise Refused("max_tokens must be a whole number above 0.", "max_tokens")
        deltas += [{"content": word} for word in words[:limit]]
        finish_reason = "stop" if len(words) <= limit else "length"
    count = len(deltas) - 1
    usage = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": count,
        "total_tokens": prompt_tokens + count,
    }
    return Answer(deltas, finish_reason, usage)


def _tool(body: dict[str, Any], messages: list[dict[str, str]]) -> str | None:
    """The function that is to be called: one for the time, if the time was asked for."""
    if messages[-1]["role"] != "user" or not _ASKS_TIME.search(messages[-1]["content"]):
        return None
    tools = body.get("tools") if body.get("tool_choice") != "none" else None
    named = [tool.get("function", {}).get("name") for tool in tools or () if isinstance(tool, dict)]
    return next((name for name in named if isinstance(name, str) and "time" in name.lower()), None)


def _text(body: dict[str, Any], messages: list[dict[str, str]]) -> str:
    if messages[-1]["role"] == "tool":
        return f"It is {messages[-1]['content']}. Why do you ask?"
    seed, stop = body.get("seed"), body.get("stop") or []
    text = reply(messages, seed if isinstance(seed, int) else 0)
    stops = [stop] if isinstance(stop, str) else [each for each in stop if isinstance(each, str) and each]
    return text[: min((at for each in stops if (at := text.find(each)) >= 0), default=None)]


def _messages(body: dict[str, Any]) -> list[dict[str, str]]:
    """The conversation, reduced to roles and texts."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise Refused("messages must be a list of at least one message.", "messages")
    return [_message(message, f"messages[{place}]") for place, message in enumerate(messages)]


def _message(message: Any, param: str) -> dict[str, str]:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise Refused(f"{param} must be an object with a role.", param)
    content = message.get("content") or ""
    if isinstance(content, list):
        parts = [part if isinstance(part, dict) else {} for part in content]
        if others := {str(part.get("type")) for part in parts} - {"text"}:
            raise Refused(f"ELIZA only reads text, no {others.pop()}.", f"{param}.content")
        content = " ".join(str(part.get("text")) for part in parts)
    # JSON can spell half a surrogate pair; the reply may quote it, and UTF-8 cannot.
    return {"role": message["role"], "content": str(content).encode("utf-8", "replace").decode()}


def _words(text: str) -> list[str]:
    return re.findall(r"\s*\S+|\s+$", text)


def _whole(deltas: list[dict[str, Any]]) -> dict[str, Any]:
    """The message that the deltas add up to."""
    message: dict[str, Any] = {"role": "assistant"}
    for name in ("content", "reasoning_content"):
        if parts := [delta[name] for delta in deltas if name in delta]:
            message[name] = "".join(parts)
    if calls := [delta["tool_calls"][0] for delta in deltas if "tool_calls" in delta]:
        arguments = "".join(call["function"]["arguments"] for call in calls)
        function = {"name": calls[0]["function"]["name"], "arguments": arguments}
        message["tool_calls"] = [{"id": calls[0]["id"], "type": "function", "function": function}]
    return message


@web.middleware
async def _errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except Refused as refused:
        return _json({"error": refused.error}, 400)
    except ConnectionError:
        raise  # the client has gone
    except web.HTTPException as error:
        body = {"message": error.reason, "type": "invalid_request_error", "param": None, "code": None}
        return _json({"error": body}, error.status)


def _json(value: object, status: int = 200) -> web.Response:
    return web.json_response(value, status=status)


def _event(value: object) -> bytes:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n".encode()
