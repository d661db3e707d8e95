"""Reads requests and checks them against the schemas of openapi.json; an error names the field at fault."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from aiohttp import web

from chatbot.api.openapi import SCHEMAS
from chatbot.config import SERVER_FIELDS
from chatbot.errors import ChatError
from chatbot.records import as_json
from chatbot.web import bodies

Schema = dict[str, Any]

MAX_METADATA_BYTES = 16 * 1024
MAX_PAGE = 1000

_NUMBER = re.compile(r"[0-9]{1,9}")
_TYPES: dict[str, Any] = {
    "string": str,
    "object": dict,
    "array": list,
    "boolean": bool,
    "number": (int, float),
    "integer": (int, float),  # in JSON 5 and 5.0 are the same
}


def refused(message: str, param: str | None) -> ChatError:
    """Returns the error for a request with a wrong field, header or parameter (`param`)."""
    return ChatError("invalid_request", message, param)


def flaw(value: Any, schema: Schema) -> str | None:
    """Says what is wrong with a value, and where; else None. Knows the keywords that openapi.json uses."""
    found = next((one for one in _choices(schema) if _is(value, one)), None)
    if found is None:
        return f" must be {' or '.join(map(_words, _choices(schema)))}"
    if missing := [name for name in found.get("required", ()) if value.get(name) is None]:
        return f".{missing[0]} is missing"
    fields = found.get("properties", {})
    if found.get("additionalProperties") is False and (unknown := set(value) - set(fields)):
        return f" has no field {min(unknown)[:100]!r}"
    inner = [(f".{name}", value[name], one) for name, one in fields.items() if value.get(name) is not None]
    if "items" in found:
        inner = [(f"[{number}]", item, found["items"]) for number, item in enumerate(value)]
    return next((place + wrong for place, item, one in inner if (wrong := flaw(item, one))), None)


def _choices(schema: Schema) -> list[Schema]:
    """The schemas one of which a value must match; without `null`, which counts as absent."""
    if "$ref" in schema:
        return _choices(SCHEMAS[schema["$ref"].rpartition("/")[2]])
    if "anyOf" in schema:
        return [one for part in schema["anyOf"] for one in _choices(part)]
    return [] if schema.get("type") == "null" else [schema]


def _is(value: Any, schema: Schema) -> bool:
    """Whether a value is of the type that a schema names; its fields and items are not checked."""
    if "const" in schema:
        return bool(value == schema["const"])
    kind = schema["type"]
    if not isinstance(value, _TYPES[kind]) or (isinstance(value, bool) and kind != "boolean"):
        return False
    if kind == "integer":
        return bool(value == value // 1) and value >= schema.get("minimum", value)
    if part := schema.get("properties", {}).get("type"):
        return _is(value.get("type"), part)
    return bool(value) or kind not in ("string", "array") or not {"minLength", "minItems"} & set(schema)


def _words(schema: Schema) -> str:
    kind = schema["type"]
    if kind == "integer":
        return f"a whole number from {schema['minimum']} on" if "minimum" in schema else "a whole number"
    if part := schema.get("properties", {}).get("type"):
        return f"an object of type {part['const']}"
    words = f"an {kind}" if kind[0] in "ao" else f"a {kind}"
    return f"{words} that is not empty" if {"minLength", "minItems"} & set(schema) else words


async def read_object(request: web.Request, name: str) -> dict[str, Any]:
    """Reads the body, a JSON object that must match the schema `name`. Leaves out fields that are null.

    Raises ChatError: invalid_json, invalid_request with the field's name.
    """
    value, schema = await bodies.read_object(request), SCHEMAS[name]
    fields = schema["properties"]
    for field, item in value.items():
        if field not in fields:
            raise refused(f"There is no field {field[:100]!r}.", field[:100])
        if item is not None and (wrong := flaw(item, fields[field])):
            raise refused(f"{field}{wrong}.", field)
    if missing := [field for field in schema.get("required", ()) if value.get(field) is None]:
        raise refused(f"{missing[0]} is missing.", missing[0])
    return {field: item for field, item in value.items() if item is not None}


def metadata_text(metadata: dict[str, Any]) -> str:
    """Returns metadata as the JSON text that is stored. Raises ChatError if it is too long."""
    text = as_json(metadata)
    if len(text.encode()) > MAX_METADATA_BYTES:
        raise refused("metadata must not exceed 16 KiB.", "metadata")
    return text


class ChatRequest(NamedTuple):
    """A chat request: a message (`said`, as JSON), or the `outputs` of tools with the ids of their calls.
    With `replace` it asks in place of that message's turn; without message and outputs, the same again.

    `key_hash` and `request_hash` are "" without an Idempotency-Key.
    """

    session_id: str
    said: tuple[str, ...] | None
    outputs: list[tuple[str, Any]] | None
    replace: str | None
    options: dict[str, Any]
    key_hash: str
    request_hash: str


async def read_chat(request: web.Request) -> ChatRequest:
    """Reads the body and the headers of a chat request."""
    body = await read_object(request, "Chat")
    named = body.pop("session_id", "").lower()
    header = request.headers.get("X-Session-ID", "").encode(errors="replace")  # its bytes may be no UTF-8
    session_id = header.decode().lower() or named
    if not session_id:
        raise refused("session_id is missing.", "session_id")
    if named not in ("", session_id):
        raise refused("session_id and the header X-Session-ID differ.", "session_id")
    key_hash, request_hash = bodies.read_idempotency_key(request, session_id, body)
    message, outputs, replace = (body.pop(name, None) for name in ("message", "tool_outputs", "replace"))
    if message is not None and outputs is not None:
        raise refused("message and tool_outputs exclude each other.", "tool_outputs")
    if message is None and outputs is None and replace is None:
        raise refused("message is missing.", "message")
    return ChatRequest(
        session_id,
        None if message is None else (as_json({"role": "user", "content": message}),),
        None if outputs is None else [(one["tool_call_id"], one["output"]) for one in outputs],
        replace,
        _options(body),
        key_hash,
        request_hash,
    )


def _options(body: dict[str, Any]) -> dict[str, Any]:
    extra: dict[str, Any] = body.pop("extra_body", {})
    for name in SERVER_FIELDS:
        if name in extra:
            raise refused(f"extra_body must not have {name}, which the server sets.", "extra_body")
    return extra | body


def read_offset(request: web.Request) -> int:
    """Returns the offset from which to send a reply: the Last-Event-ID header, else ?after=, else 0.

    The header wins: a browser's EventSource reconnects with the same URL and a new header.
    """
    offset = 0
    for name, text in (
        ("after", request.query.get("after")),
        ("Last-Event-ID", request.headers.get("Last-Event-ID")),
    ):
        if text is not None:
            if not _NUMBER.fullmatch(text):
                raise refused(f"{name} must be a number of characters.", name)
            offset = int(text)
    return offset


def read_page(request: web.Request) -> tuple[int, str | None, str | None]:
    """Returns which page of the history is wanted: its limit, and at most one cursor, before or after."""
    text = request.query.get("limit", "100")
    if not _NUMBER.fullmatch(text) or not 1 <= int(text) <= MAX_PAGE:
        raise refused(f"limit must be a whole number from 1 to {MAX_PAGE}.", "limit")
    before, after = (value and value.lower() for value in map(request.query.get, ("before", "after")))
    if before is not None and after is not None:
        raise refused("before and after exclude each other.", "before")
    return int(text), before, after


def read_omit(request: web.Request) -> bool:
    """Whether the contents of parts are to be left out."""
    parts = request.query.get("parts")
    if parts not in (None, "omit"):
        raise refused("parts must be omit, if it is there.", "parts")
    return parts == "omit"
