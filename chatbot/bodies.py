"""Reads what clients send, JSON bodies and query parameters, and says what is wrong with it by name."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import Callable
from typing import Any

from aiohttp import web

from chatbot.errors import ChatError
from chatbot.reply import Ask
from chatbot.shapes import dumps
from chatbot.text import as_json

BODY_SECONDS = 30.0
MAX_DEPTH = 64
MAX_METADATA_BYTES = 16 * 1024
MAX_PAGE = 1000

MAX_STRUCTURE_BYTES = 64 * 1024
"""What a body may hold besides its strings. A message may be a book, but everybody would have to wait while
a megabyte of brackets is parsed."""

_decode = json.JSONDecoder().decode
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)


def _text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _whole(value: Any) -> bool:
    return _number(value) and value == value // 1  # JSON does not tell 5 from 5.0


def _stop(value: Any) -> bool:
    return _text(value) or (isinstance(value, list) and all(_text(item) for item in value))


Field = tuple[Callable[[Any], bool], str]

TEXT: Field = (_text, "a string that is not empty")
OBJECT: Field = (lambda value: isinstance(value, dict), "an object")

OPTIONS: dict[str, Field] = {
    # They go to the LLM as they are: it knows best which values it takes.
    "model": TEXT,
    "temperature": (_number, "a number"),
    "top_p": (_number, "a number"),
    "max_tokens": (lambda value: _whole(value) and value > 0, "a whole number above 0"),
    "stop": (_stop, "a string or an array of strings, none empty"),
    "seed": (_whole, "a whole number"),
    "presence_penalty": (_number, "a number"),
    "frequency_penalty": (_number, "a number"),
    "response_format": OBJECT,
}

CHAT = {"session_id": TEXT, "message": TEXT} | OPTIONS
SESSION: dict[str, Field] = {
    "metadata": OBJECT,
    "system_prompt": (lambda value: isinstance(value, str), "a string"),
}
PATCH = {"metadata": OBJECT}


async def read_object(
    request: web.Request, fields: dict[str, Field], required: tuple[str, ...]
) -> dict[str, Any]:
    """Reads the body as a JSON object of the given fields, whatever its Content-Type.

    An empty body is an empty object. Raises ChatError: invalid_json, invalid_request with the
    field's name; and what aiohttp raises for a body that is too large.
    """
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise ChatError("invalid_request", "The body must not be compressed.", "Content-Encoding")
    body = await _read(request)
    value = _parse(body) if body.strip() else {}
    if not isinstance(value, dict):
        raise ChatError("invalid_request", "The body must be a JSON object.")
    for name, item in value.items():
        if name not in fields:
            shown = name.encode("utf-8", "replace").decode()[:100]
            raise ChatError("invalid_request", f"There is no field {shown!r}.", shown)
        _check_sanity(name, item)
        is_valid, wants = fields[name]
        if not is_valid(item):
            raise ChatError("invalid_request", f"{name} must be {wants}.", name)
    for name in required:
        if name not in value:
            raise ChatError("invalid_request", f"{name} is missing.", name)
    return value


async def _read(request: web.Request) -> bytes:
    try:
        is_here = request.content.is_eof()  # it came with the head, as nearly all do
        body = request.content.read_nowait() if is_here else b""
        # Need not be waited for, if it says so itself.
        if max(len(body), request.content_length or 0) > request.client_max_size:
            raise web.HTTPRequestEntityTooLarge(request.client_max_size)
        if is_here:
            return body
        async with asyncio.timeout(BODY_SECONDS):
            return await request.read()
    except TimeoutError:
        message = f"The body did not arrive within {BODY_SECONDS:g} seconds."
        raise ChatError("invalid_request", message) from None
    except web.RequestPayloadError:
        raise ChatError("invalid_request", "The body is not valid HTTP.") from None


def _parse(body: bytes) -> Any:
    if len(body) > MAX_STRUCTURE_BYTES and len(_STRING.sub(b"", body)) > MAX_STRUCTURE_BYTES:
        raise ChatError("invalid_request", "The body has more than 64 KiB besides its strings.")
    try:
        return _decode(body.decode().removeprefix("\ufeff"))
    except UnicodeDecodeError:
        raise ChatError("invalid_json", "The body is not UTF-8.") from None
    except RecursionError:
        raise ChatError("invalid_json", "The body is nested too deeply.") from None
    except ValueError as error:
        # The message of a JSONDecodeError has the place and none of the text; others (a number of
        # thousands of digits) have no place.
        place = (
            f" at line {error.lineno}, column {error.colno}"
            if isinstance(error, json.JSONDecodeError)
            else ""
        )
        raise ChatError("invalid_json", f"The body is not JSON{place}.") from None


_CONTAINERS = (dict, list)
_strict = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


def _check_sanity(name: str, value: Any) -> None:
    """Refuses what Python's JSON takes and JSON, Unicode or a small stack do not."""
    level, depth = [value] if isinstance(value, _CONTAINERS) else [], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise ChatError("invalid_request", f"{name} is nested too deeply.", name)
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, _CONTAINERS)
        ]
    try:
        (value if isinstance(value, str) else _strict(value)).encode()
    except UnicodeEncodeError:
        raise ChatError("invalid_request", f"{name} has half a surrogate pair.", name) from None
    except ValueError:
        raise ChatError("invalid_request", f"{name} has a number that JSON does not have.", name) from None


def metadata_text(metadata: dict[str, Any]) -> str:
    """Metadata as it is stored."""
    text = dumps(metadata)
    if len(text) > MAX_METADATA_BYTES:
        raise ChatError("invalid_request", "metadata must not exceed 16 KiB.", "metadata")
    return text.decode()


async def read_ask(request: web.Request) -> tuple[str, Ask]:
    """Reads the body and key of a chat request: the session's id and what is asked."""
    key = request.headers.get("Idempotency-Key")
    if key is not None and not (0 < len(key) <= 255 and key.isascii() and key.isprintable()):
        raise ChatError(
            "invalid_request",
            "Idempotency-Key must be 1 to 255 printable ASCII characters.",
            "Idempotency-Key",
        )
    body = await read_object(request, CHAT, ("session_id", "message"))
    session_id, message = body.pop("session_id"), body.pop("message")
    if not key:
        return session_id, Ask(as_json(message), body)
    canonical = json.dumps([message, body], sort_keys=True)
    return session_id, Ask(as_json(message), body, key, hashlib.sha256(canonical.encode()).hexdigest())


def read_offset(request: web.Request) -> int:
    """Where to go on in a reply: the Last-Event-ID header, else ?after=, else 0.

    The header wins: a browser's EventSource repeats its URL and moves the header on.
    """
    offset = 0
    for name, text in (
        ("after", request.query.get("after")),
        ("Last-Event-ID", request.headers.get("Last-Event-ID")),
    ):
        if text is not None:
            if not re.fullmatch(r"[0-9]{1,9}", text):
                raise ChatError("invalid_request", f"{name} must be a number of characters.", name)
            offset = int(text)
    return offset


def read_limit(request: web.Request) -> int:
    """The `limit` of a page."""
    text = request.query.get("limit", "100")
    if not re.fullmatch(r"[0-9]{1,9}", text) or not 1 <= int(text) <= MAX_PAGE:
        raise ChatError("invalid_request", f"limit must be a whole number from 1 to {MAX_PAGE}.", "limit")
    return int(text)
