"""Reads request bodies within limits of size, time and memory, the JSON in them, and idempotency keys."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import re
from typing import Any

from aiohttp import web

from chatbot.chat.reply_registry import key_hash
from chatbot.errors import ChatError
from chatbot.web.stalls import Patience

BODY_SECONDS = 30.0
"""How long a body may take to arrive."""

LOOK_SECONDS = 1.0
"""Seconds between two checks whether a body is late."""

SMALL = 64 * 1024
"""A body of at most this many bytes is received, however many other bodies are in flight."""

MAX_HELD = 128 * 1024 * 1024
"""Bytes that all bodies in flight may hold together."""

MAX_DEPTH = 64
MAX_VALUES = 64 * 1024
"""How many JSON values a body may have. Text may be long, but parsing many values blocks the event loop."""


class _Budget:
    """Counts the bytes of all bodies in flight; one counter, since they share the process's memory."""

    held = 0


async def read_body(request: web.Request) -> bytes:
    """Receives the whole body, whatever its Content-Type.

    Raises ChatError: request_too_large, overloaded, invalid_request (compressed, garbled or late).
    """
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise ChatError("invalid_request", "The body must not be compressed.", "Content-Encoding")
    # A body that is larger than what all bodies may hold is too large: to try again would not help.
    limit, expected = min(request.client_max_size, MAX_HELD - SMALL), request.content_length or 0
    if expected > limit:  # there is no need to wait for the body
        raise _too_large(limit)
    try:
        if request.content.is_eof():  # the body came with the head, as nearly all do
            body = request.content.read_nowait()
            if len(body) > limit:
                raise _too_large(limit)
            return body
        _require_memory(expected)
        return await _receive(request.content, limit)
    except web.RequestPayloadError:
        raise ChatError("invalid_request", "The body is not valid HTTP.") from None


async def _receive(content: Any, limit: int) -> bytes:
    body = bytearray()  # one block of memory, which is returned to the system as a whole
    patience = Patience(BODY_SECONDS, LOOK_SECONDS)
    try:
        while (left := patience.left()) > 0:
            try:
                async with asyncio.timeout(min(left, LOOK_SECONDS)):
                    chunk = await content.readany()
            except TimeoutError:
                continue
            if not chunk:
                return bytes(body)
            if len(body) + len(chunk) > limit:
                raise _too_large(limit)
            _require_memory(len(body) + len(chunk))
            body += chunk
            _Budget.held += len(chunk)
        raise ChatError("invalid_request", f"The body did not arrive within {BODY_SECONDS:g} seconds.")
    finally:
        _Budget.held -= len(body)


def _require_memory(size: int) -> None:
    """Raises ChatError("overloaded") if all bodies together hold too much for one to grow to `size` bytes."""
    if size > SMALL and _Budget.held + SMALL > MAX_HELD:
        raise ChatError("overloaded", "Too many large requests at once.", retry_after="1")


def _too_large(limit: int) -> ChatError:
    return ChatError("request_too_large", f"The body exceeds {limit} bytes.")


def read_idempotency_key(request: web.Request, scope: str, body: dict[str, Any]) -> tuple[str, str]:
    """The hashes of the Idempotency-Key in its scope, and of the body; "", "" without a key.

    Raises ChatError("invalid_request").
    """
    key = request.headers.get("Idempotency-Key")
    if key is None:
        return "", ""
    if not (0 < len(key) <= 255 and key.isascii() and key.isprintable()):
        message = "Idempotency-Key must be 1 to 255 printable ASCII characters."
        raise ChatError("invalid_request", message, "Idempotency-Key")
    canonical = json.dumps(body, sort_keys=True).encode()
    return key_hash(scope, key), hashlib.sha256(canonical).hexdigest()


async def read_object(request: web.Request) -> dict[str, Any]:
    """Reads a body that is a JSON object. Raises what read_body() and parse_json() do."""
    value = parse_json(await read_body(request))
    if not isinstance(value, dict):
        raise ChatError("invalid_request", "The body must be a JSON object.")
    return value


# JSON

_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_strict = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


def parse_json(body: bytes) -> Any:
    """Returns the value of a JSON text; an empty text is an empty object.

    Python's parser accepts more than JSON and Unicode allow (NaN, half a surrogate pair), and deep nesting.
    Such values are refused, and the error names the field. Raises ChatError: invalid_json, invalid_request.
    """
    if not body or body.isspace():
        return {}
    nested = body.count(b"[") + body.count(b"{")
    if nested + body.count(b",") > MAX_VALUES and len(_STRING.sub(b"", body)) > 2 * MAX_VALUES:
        raise ChatError("invalid_request", f"The body has more than {MAX_VALUES} values.")
    odd = []

    def number(text: str) -> float:
        if not math.isfinite(value := float(text)):
            odd.append(text)
        return value

    try:
        value = json.loads(body.decode().removeprefix("\ufeff"), parse_float=number, parse_constant=number)
    except json.JSONDecodeError as error:  # the error holds the whole text
        place = f"line {error.lineno}, column {error.colno}"
        raise ChatError("invalid_json", f"The body is not JSON at {place}.") from None
    except ValueError:
        raise ChatError("invalid_json", "The body is not JSON in UTF-8.") from None
    except RecursionError:  # each Python gives up at another depth
        raise ChatError("invalid_request", "The body is nested too deeply.") from None
    is_odd = odd or _SURROGATE.search(body)
    if is_odd or nested > MAX_DEPTH:
        for name, item in value.items() if isinstance(value, dict) else [("The body", value)]:
            if wrong := "is nested too deeply" if _is_deep(item) else is_odd and _oddity(name, item):
                name = name.encode("utf-8", "replace").decode()[:100]
                raise ChatError("invalid_request", f"{name} {wrong}.", None if name == "The body" else name)
    return value


def _oddity(name: str, value: Any) -> str:
    """Says what in a field is not valid JSON or Unicode; "" if nothing."""
    try:
        (name + _strict(value)).encode()
    except UnicodeEncodeError:
        return "has half a surrogate pair"
    except ValueError:
        return "has a number that JSON does not have"
    return ""


def _is_deep(value: Any, depth: int = 0) -> bool:
    if not isinstance(value, dict | list):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return depth == MAX_DEPTH or any(_is_deep(one, depth + 1) for one in inner)
