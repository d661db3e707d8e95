"""An OpenAI-compatible server with ELIZA in it: a language model to try the chatbot with.

    python -m chatbot.demo --port 8000

Its bytes are shaped as vLLM's and OpenAI's. A word counts as a token. The sampling fields are
accepted and ignored, and so is the model's name: there is one model.
"""

import argparse
import asyncio
import json
import logging
import re
import signal
import sys
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import NamedTuple, TypeVar

from aiohttp import web

from chatbot.eliza import reply

MODEL = "eliza"
CONTEXT_TOKENS = 8192
# Well above what the context holds, so that a long prompt is refused as one and not as a 413.
MAX_REQUEST_BYTES = 16 * 1024 * 1024

T = TypeVar("T")
JSON_NAMES = {bool: "boolean", int: "integer", str: "string", list: "array", dict: "object"}
ROLES = ("system", "developer", "user", "assistant", "tool")
DELAY = web.AppKey("delay", float)
STOPPING = web.AppKey("stopping", asyncio.Event)

log = logging.getLogger(__name__)


class Completion(NamedTuple):
    """A finished reply: its words with the space before each, why it ends, what it cost."""

    words: list[str]
    finish_reason: str
    usage: dict[str, int]


def create_demo_app(delay: float = 0.03) -> web.Application:
    """Make the server; `delay` is the pause after each streamed word, in seconds."""
    app = web.Application(middlewares=[_openai_errors], client_max_size=MAX_REQUEST_BYTES)
    app[DELAY] = delay
    app[STOPPING] = asyncio.Event()
    app.on_shutdown.append(_end_streams)
    app.router.add_post("/v1/chat/completions", chat_completions)
    app.router.add_get("/v1/models", models)
    app.router.add_get("/health", health)
    return app


async def _end_streams(app: web.Application) -> None:
    app[STOPPING].set()


async def health(request: web.Request) -> web.Response:
    """Handle "GET /health": say that the server is up."""
    return _json({"status": "ok"})


async def models(request: web.Request) -> web.Response:
    """Handle "GET /v1/models": list the one model."""
    model = {"id": MODEL, "object": "model", "created": 0, "owned_by": "chatbot"}
    return _json({"object": "list", "data": [model]})


async def chat_completions(request: web.Request) -> web.StreamResponse:
    """Handle "POST /v1/chat/completions": answer a conversation, at once or word by word."""
    body = await _read_body(request)
    stream = _typed(body, "stream", bool) or False
    options = _typed(body, "stream_options", dict) or {}
    completion = _complete(body)
    head: dict[str, object] = {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion.chunk" if stream else "chat.completion",
        "created": int(time.time()),
        "model": MODEL,
    }
    if stream:
        return await _stream(request, head, completion, options.get("include_usage") is True)
    message = {"role": "assistant", "content": "".join(completion.words)}
    choice = {"index": 0, "message": message, "logprobs": None}
    choice["finish_reason"] = completion.finish_reason
    return _json({**head, "choices": [choice], "usage": completion.usage})


async def _stream(
    request: web.Request, head: dict[str, object], completion: Completion, include_usage: bool
) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
    response.content_type = "text/event-stream"
    response.charset = "utf-8"

    async def send(delta: dict[str, str], finish_reason: str | None = None) -> None:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        await response.write(_frame({**head, "choices": [choice]}))

    try:
        await response.prepare(request)
        await send({"role": "assistant", "content": ""})
        for word in completion.words:
            if request.app[STOPPING].is_set():
                return response  # without an end, as a killed server leaves it
            await send({"content": word})
            await asyncio.sleep(request.app[DELAY])
        await send({}, completion.finish_reason)
        if include_usage:
            await response.write(_frame({**head, "choices": [], "usage": completion.usage}))
        await response.write(b"data: [DONE]\n\n")
    except ConnectionResetError:
        pass  # the client left; nobody is there to be told
    return response


def _complete(body: dict[str, object]) -> Completion:
    messages = _messages(body)
    prompt_tokens = sum(len(message["content"].split()) for message in messages)
    if prompt_tokens > CONTEXT_TOKENS:
        raise _refusal(
            f"This model's maximum context length is {CONTEXT_TOKENS} tokens. However, your "
            f"messages resulted in {prompt_tokens} tokens. Please reduce their length.",
            "messages",
            "context_length_exceeded",
        )
    limit = _limit(body)
    stops = _stops(body)
    text = reply(messages, _typed(body, "seed", int) or 0)
    text = text[: min((at for stop in stops if (at := text.find(stop)) >= 0), default=None)]
    words = re.findall(r"\s*\S+|\s+$", text)
    kept = words[:limit]
    usage = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": len(kept),
        "total_tokens": prompt_tokens + len(kept),
    }
    return Completion(kept, "stop" if len(kept) == len(words) else "length", usage)


async def _read_body(request: web.Request) -> dict[str, object]:
    try:
        body = await request.json()
    except (ValueError, RecursionError, LookupError) as error:  # LookupError: a bogus charset
        raise _refusal("The body is not valid JSON.", None, "invalid_json") from error
    if not isinstance(body, dict):
        raise _refusal("The body must be a JSON object.", None)
    _typed(body, "model", str)
    return body


def _typed(body: dict[str, object], field: str, kind: type[T]) -> T | None:
    value = body.get(field)
    # To Python, but not to JSON, true and false are integers.
    not_meant = isinstance(value, bool) and kind is not bool
    if value is None or (isinstance(value, kind) and not not_meant):
        return value
    raise _refusal(f"{field} must be of type {JSON_NAMES[kind]}.", field)


def _messages(body: dict[str, object]) -> list[dict[str, str]]:
    """The conversation, reduced to roles and texts."""
    raw = _typed(body, "messages", list)
    if not raw:
        raise _refusal("messages must be a list of at least one message.", "messages")
    return [_message(message, f"messages[{at}]") for at, message in enumerate(raw)]


def _message(raw: object, param: str) -> dict[str, str]:
    if not isinstance(raw, dict) or raw.get("role") not in ROLES:
        raise _refusal(f"{param} must be an object with a role out of {', '.join(ROLES)}.", param)
    content = raw.get("content")
    if content is None and raw["role"] == "assistant":
        content = ""  # a turn of tool calls only
    elif isinstance(content, list):
        texts = [part.get("text") if isinstance(part, dict) else None for part in content]
        content = None if None in texts else " ".join(map(str, texts))
    if not isinstance(content, str):
        raise _refusal(f"{param}.content must be a string or a list of text parts.", param)
    # JSON can spell half a surrogate pair; the reply may quote it, and UTF-8 cannot.
    return {"role": raw["role"], "content": content.encode("utf-8", "replace").decode()}


def _limit(body: dict[str, object]) -> int | None:
    for field in ("max_completion_tokens", "max_tokens"):
        if (limit := _typed(body, field, int)) is not None:
            if limit < 1:
                raise _refusal(f"{field} must be at least 1.", field)
            return limit
    return None


def _stops(body: dict[str, object]) -> list[str]:
    stop = body.get("stop")
    listed: list[object] = stop if isinstance(stop, list) else [] if stop is None else [stop]
    stops = [each for each in listed if isinstance(each, str) and each]
    if stops != listed:
        raise _refusal("stop must be a non-empty string or a list of such.", "stop")
    return stops


def _refusal(message: str, param: str | None, code: str | None = None) -> web.HTTPBadRequest:
    body = _error(message, "invalid_request_error", param, code)
    return web.HTTPBadRequest(text=_dumps(body), content_type="application/json")


def _error(message: str, kind: str, param: str | None, code: str | None) -> dict[str, object]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


@web.middleware
async def _openai_errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as error:
        if error.content_type != "application/json":  # aiohttp's own: 404, 405, 413
            code = error.reason.lower().replace(" ", "_")
            message = f"{error.reason}: {request.method} {request.path}"
            error.text = _dumps(_error(message, "invalid_request_error", None, code))
            error.content_type = "application/json"
        raise
    except Exception:
        log.exception("The demo model failed")
        return _json(_error("Internal error.", "server_error", None, "internal_error"), 500)


def _dumps(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _json(value: object, status: int = 200) -> web.Response:
    return web.json_response(value, status=status, dumps=_dumps)


def _frame(value: object) -> bytes:
    return f"data: {_dumps(value)}\n\n".encode()


def main(argv: list[str] | None = None) -> int:
    """Serve until SIGINT or SIGTERM; 2 if the address cannot be had."""
    parser = argparse.ArgumentParser(prog="chatbot.demo", description="ELIZA as an LLM server")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=port_number, default=8000, help="0 takes a free one")
    parser.add_argument("--delay", type=seconds, default=0.03, help="seconds between two words")
    options = parser.parse_args(argv)
    try:
        asyncio.run(_serve(options.host, options.port, options.delay))
    except OSError as error:
        where = f"{options.host}:{options.port}"
        reason = str(error.strerror).rpartition(": ")[2]  # asyncio puts the address before it
        print(f"chatbot.demo: cannot listen on {where}: {reason}", file=sys.stderr)
        return 2
    return 0


# argparse names these two to the user when they refuse: "invalid port_number value".
def port_number(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        raise ValueError(text)
    return port


def seconds(text: str) -> float:
    pause = float(text)
    if not 0 <= pause <= 60:  # nan is not, either
        raise ValueError(text)
    return pause


async def _serve(host: str, port: int, delay: float) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    runner = web.AppRunner(create_demo_app(delay), handler_cancellation=True, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        bound_port = runner.addresses[0][1]
        shown = f"[{host}]" if ":" in host else host
        print(f"ELIZA answers at http://{shown}:{bound_port}", flush=True)
        await stop.wait()
    finally:
        await runner.cleanup()


if __name__ == "__main__":
    sys.exit(main())
