"""Makes openapi.json from a table of operations, the schemas that check requests, and the errors."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

from chatbot import __version__
from chatbot.api import schemas
from chatbot.api.schemas import COUNT, FROM_ONE, ID, MESSAGE_ID, NULL, SESSION_ID, STRING, Schema, any_of, ref
from chatbot.errors import ERRORS
from chatbot.records import dumps
from chatbot.web.static import File

Object = dict[str, Any]

_DESCRIPTION = """\
Make a session, then `POST /api/chat` or `POST /api/chat/stream` with its id: the server keeps the history.

- A body is JSON in UTF-8, whatever its Content-Type, of at most `MAX_REQUEST_BYTES`; `null` counts as absent.
- Times are RFC 3339 in UTC, ids are UUIDs. A session's id is the capability to its conversation.
- What is not in this document is answered as `NotFound` and `MethodNotAllowed` say. GET answers HEAD too.
- With `API_KEYS` set, operations with a security requirement want one of them. A request with an `Origin` is
  served if that is in `ALLOWED_ORIGINS`, or is the server's own at an IP address or `localhost`.
- A conversation is a tree of turns: `replace` asks again beside what was said, `versions` names what stands
  beside a message, and PATCH `current` goes to another branch.
- If a client leaves, its reply goes on for `DISCONNECT_GRACE_SECONDS`, and can be resumed or cancelled.
- The same conversations are served under `/v1` through OpenAI's API, which its own documents describe."""


class Operation(NamedTuple):
    """A route: its handler's name, what it takes and answers (a schema's name), and which errors it has.

    `errors` are codes besides those that follow from the rest; `asks` the LLM: it has the LLM's too.
    """

    id: str
    method: str
    path: str
    summary: str
    answer: str = ""
    status: int = 200
    body: str = ""
    parameters: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()
    asks: bool = False
    is_open: bool = False


_SESSION = "/api/sessions/{session_id}"
_MESSAGE = f"{_SESSION}/messages/{{message_id}}"
_REPLY = ("X-Message-ID", "X-Context-Messages")
_STREAM = (*_REPLY, "Content-Location", "Cache-Control", "X-Accel-Buffering")
_ASKING = ("session_not_found", "message_not_found", "session_busy", "idempotency_key_reused")
OPERATIONS = (
    Operation("create_session", "post", "/api/sessions", "Make a session", "Session", 201, "NewSession",
              headers=("X-Session-ID", "Location"), errors=("shutting_down",)),
    Operation("get_session", "get", _SESSION, "The session and its running reply", "SessionState"),
    Operation("patch_session", "patch", _SESSION, "Change the metadata, the branch, the system prompt",
              "SessionState", body="SessionChanges", errors=("message_not_found",)),
    Operation("delete_session", "delete", _SESSION, "Delete the conversation", status=204),
    Operation("get_context", "get", f"{_SESSION}/context", "What the next question is sent, and why",
              "Context"),
    Operation("list_messages", "get", f"{_SESSION}/messages", "A page of the current path, oldest first",
              "Page", parameters=("limit", "before", "after-message", "parts"),
              errors=("message_not_found",)),
    Operation("get_message", "get", _MESSAGE, "One message", "Message", parameters=("parts",)),
    Operation("rewind", "delete", _MESSAGE, "Delete a message's turn and all that follow", "Rewound"),
    Operation("resume", "get", f"{_MESSAGE}/stream", "Listen to a reply from a character on", "Event",
              parameters=("Last-Event-ID", "after"), headers=_STREAM, asks=True),
    Operation("cancel", "post", f"{_MESSAGE}/cancel", "Stop a reply where it is", "Message",
              headers=("X-Message-ID",), asks=True),
    Operation("chat", "post", "/api/chat", "Say something, and get the whole reply", "Message", body="Chat",
              parameters=("Idempotency-Key", "X-Session-ID"), errors=_ASKING, asks=True,
              headers=("X-Session-ID", *_REPLY, "Idempotent-Replayed")),
    Operation("chat_stream", "post", "/api/chat/stream", "Say something, and listen to the reply", "Event",
              body="Chat", parameters=("Idempotency-Key", "X-Session-ID", "Last-Event-ID", "after"),
              headers=("X-Session-ID", *_STREAM, "Idempotent-Replayed"), errors=_ASKING, asks=True),
    Operation("get_openapi", "get", "/api/openapi.json", "This document", "Document",
              parameters=("If-None-Match",), headers=("ETag",), is_open=True),
    Operation("health", "get", "/api/health", "The process lives", "Health", is_open=True),
    Operation("ready", "get", "/api/health/ready", "A chat would work now", "Health", is_open=True),
    Operation("metrics", "get", "/metrics", "Figures for Prometheus", "Text"),
)  # fmt: skip
_MEDIA = {"Event": "text/event-stream", "Text": "text/plain"}
_PARAMETERS: dict[str, tuple[str, str, Schema, Any]] = {
    # name: where it stands, what it says, its schema, an example
    "session_id": ("path", "The session.", ID, SESSION_ID),
    "message_id": ("path", "The message.", ID, MESSAGE_ID),
    "X-Request-ID": ("header", "To find the request in the log.", STRING, "order-4711.retry-2"),
    # Proxies send it empty where there is none.
    "X-Session-ID": ("header", "The session, in place of `session_id`.", STRING, SESSION_ID),
    "Idempotency-Key": ("header", "The same key and body meet the running reply, or replay the stored one.",
                        {"type": "string", "pattern": "^[ -~]{1,255}$"}, "7d3c8f02-retry-me"),
    "Last-Event-ID": ("header", "How many characters the client has: the `id` of its last event. With POST "
                      "it is for a retry.", {"type": "string", "pattern": "^[0-9]{1,9}$"}, "5"),
    "after": ("query", "As `Last-Event-ID`, which wins.", COUNT | {"maximum": 999_999_999}, 5),
    "limit": ("query", "How many messages, at most.", FROM_ONE | {"maximum": 1000}, 20),
    "before": ("query", "The page that ends before this message; excludes `after`.", ID, MESSAGE_ID),
    "after-message": ("query", "The page that begins after this message, or at the start.",
                      any_of(ID, {"const": "start"}), "start"),
    "parts": ("query", "Leaves out what pictures, sound and files hold.", {"enum": ["omit"]}, "omit"),
    "If-None-Match": ("header", "An `ETag` seen before.", STRING, '"9f86d081884c7d65"'),
}  # fmt: skip
_HEADERS: dict[str, tuple[str, Schema, bool]] = {
    # name: what it says, its schema, whether it is always there
    "X-Request-ID": ("The request's own, if it can be trusted in a log, else a new one.", STRING, True),
    "X-Session-ID": ("The session that the request was about.", ID, True),
    "X-Message-ID": ("The reply's id.", ID, True),
    "X-Context-Messages": ("How many messages the LLM was sent, once that is known.", FROM_ONE, False),
    "Idempotent-Replayed": ("The key was known, and the LLM not asked again.", {"const": "true"}, False),
    "Content-Location": ("Where to resume this stream.", STRING, True),
    "Location": ("The session's path.", STRING, True),
    "Cache-Control": ("Always the same.", {"const": "no-cache, no-transform"}, True),
    "X-Accel-Buffering": ("nginx passes each event on at once.", {"const": "no"}, True),
    "ETag": ("Changes with the document.", STRING, True),
    "Allow": ("The methods that the path takes.", STRING, True),
    "Retry-After": ("When to try again: seconds or a date.", STRING, False),
    "x-should-retry": ("Repeating it is in vain.", {"const": "false"}, True),
}
_BODIES = {"Chat": schemas.CHAT, "NewSession": schemas.NEW_SESSION, "SessionChanges": schemas.CHANGES}


def _answer(text: str, headers: tuple[str, ...], schema: Schema | None, media: str = "") -> Object:
    answer: Object = {
        "description": text,
        "headers": {name: ref("headers", name) for name in ("X-Request-ID", *headers)},
    }
    return answer | ({"content": {media or "application/json": {"schema": schema}}} if schema else {})


def _failure(status: int, codes: list[str]) -> Object:
    """The answer to what goes wrong with one status."""
    only = {"properties": {"error": {"properties": {"code": {"enum": codes}}}}}
    headers = {405: ("Allow",), 409: ("x-should-retry",)}.get(status, ("Retry-After",))
    return _answer(", ".join(codes), headers, ref("schemas", "Error") | only)


_NOTHING = _answer("Nothing is left to send.", (), None)
_BESIDES: dict[str, dict[int, Object]] = {
    "cancel": {204: _NOTHING},
    "get_openapi": {304: _NOTHING},
    "ready": {503: _answer("It would not.", (), any_of(ref("schemas", "Health"), ref("schemas", "Error")))},
}
"""What else an operation may be answered."""


def _codes(operation: Operation) -> set[str]:
    """The codes of the errors that an operation may have."""
    codes = {"origin_not_allowed", "overloaded", "internal_error", *operation.errors}
    for is_so, more in (
        (not operation.is_open, "unauthorized"),
        (operation.body, "invalid_json invalid_request request_too_large storage_full"),
        ({"Last-Event-ID", "parts"} & {*operation.parameters}, "invalid_request"),
        ("{session_id}" in operation.path, "session_not_found"),
        ("{message_id}" in operation.path, "message_not_found"),
        (operation.asks, "context_too_long reply_cancelled storage_full shutting_down"),
        (operation.asks, " ".join(code for code in ERRORS if code.startswith("llm_"))),
    ):
        codes |= set(more.split()) if is_so else set()
    return codes


def _operation(operation: Operation) -> Object:
    named = tuple(name for name in ("session_id", "message_id") if f"{{{name}}}" in operation.path)
    headers = (*(("X-Session-ID",) if named else ()), *operation.headers)
    schema = ref("schemas", operation.answer) if operation.answer else None
    by_status: dict[int, list[str]] = {}
    for code in sorted(_codes(operation)):
        by_status.setdefault(ERRORS[code][0], []).append(code)
    responses = {status: _failure(status, codes) for status, codes in by_status.items()}
    responses[operation.status] = _answer(
        operation.summary, headers, schema, _MEDIA.get(operation.answer, "")
    )
    responses |= _BESIDES.get(operation.id, {})
    parameters = (*named, *operation.parameters, "X-Request-ID")
    found: Object = {
        "operationId": operation.id,
        "summary": operation.summary,
        "parameters": [ref("parameters", name) for name in parameters],
        "responses": {str(status): responses[status] for status in sorted(responses)},
    }
    if operation.body:
        content = {"application/json": {"schema": ref("schemas", operation.body)}}
        found["requestBody"] = {"required": operation.body != "NewSession", "content": content}
    return found | ({"security": []} if operation.is_open else {})


def _body(schema: Schema) -> Schema:
    """The schema of a body: its fields may be null, which is as if they were absent.

    Of an `anyOf` beside the fields client generators would make several classes without fields; they pass
    over a `not`, so that says which of the fields must be given.
    """
    shown = schema | {"properties": {name: any_of(one, NULL) for name, one in schema["properties"].items()}}
    if either := shown.pop("anyOf", None):
        none_of = {"allOf": [{"not": one} for one in either]}
        shown["not"] = any_of(none_of, shown["not"]) if "not" in shown else none_of
    return shown


@cache
def document() -> File:
    """The document as JSON, the same for everybody."""
    paths: dict[str, Object] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation)
    components = {
        "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        "schemas": schemas.ANSWERS | {name: _body(schema) for name, schema in _BODIES.items()},
        "parameters": {
            name: {"name": name.removesuffix("-message"), "in": place, "required": place == "path"}
            | {"description": text, "schema": schema, "example": example}
            for name, (place, text, schema, example) in _PARAMETERS.items()
        },
        "headers": {
            name: {"description": text, "schema": schema, "required": is_always}
            for name, (text, schema, is_always) in _HEADERS.items()
        },
        "responses": {
            "NotFound": _failure(404, ["not_found"]),
            "MethodNotAllowed": _failure(405, ["method_not_allowed"]),
            "HeadersTooLarge": _failure(431, ["headers_too_large"]),
        },
    }
    about = {"title": "chatbot", "version": __version__, "description": _DESCRIPTION}
    head = {"openapi": "3.1.0", "info": about, "security": [{"key": []}]}
    return File("openapi.json", dumps(head | {"paths": paths, "components": components}))
