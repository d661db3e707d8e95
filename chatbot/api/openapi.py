"""Makes openapi.json from a table of operations, the schemas that check requests, and the table of errors."""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from typing import Any, NamedTuple

from chatbot import __version__
from chatbot.api import schemas
from chatbot.api.schemas import ID, MESSAGE_ID, SESSION_ID, STRING, Schema
from chatbot.errors import ERRORS
from chatbot.records import dumps

Object = dict[str, Any]

_DESCRIPTION = """\
Make a session, then `POST /api/chat` or `POST /api/chat/stream` with its id. The server keeps the history and
sends the LLM as much of it as fits.

- A body is JSON in UTF-8, whatever its Content-Type, of at most `MAX_REQUEST_BYTES`; `null` counts as absent.
- Times are RFC 3339 in UTC, ids are UUIDs. A session's id is the capability to its conversation.
- Every error has the shape `Error`. What is not in this document is answered as `NotFound` and
  `MethodNotAllowed` say. Each GET but that of a stream answers HEAD too.
- With `API_KEYS` set, every operation with a security requirement wants one of them. A request that bears
  `Origin` is served if that is in `ALLOWED_ORIGINS`, or is the server's own at an IP address or `localhost`.
- A conversation is a tree of turns: `replace` asks again beside what was said, `versions` names what stands
  beside a message, and PATCH `current` goes to another branch.
- A reply belongs to its session and not to the request: if a client leaves, it goes on for
  `DISCONNECT_GRACE_SECONDS`, and can be resumed, retried or cancelled.
- The same conversations are served under `/v1` through OpenAI's API, which its own documents describe."""

_MEANINGS = {
    "invalid_json": "The body is no JSON, or not UTF-8, or nested too deeply.",
    "invalid_request": "A field, header or query parameter is wrong; `param` names it.",
    "context_too_long": "The message alone does not fit the LLM's context.",
    "llm_rejected": "The LLM refused the request; its own words are passed on.",
    "unauthorized": "The server has `API_KEYS`, and none of them was given.",
    "origin_not_allowed": "A page of another site asked.",
    "not_found": "The path is not in this document.",
    "session_not_found": "Never was, deleted, or expired: the same answer.",
    "message_not_found": "The session has no such message.",
    "method_not_allowed": "The method is not in this document.",
    "session_busy": "One reply at a time; the running one is named beside the code.",
    "reply_cancelled": "Cancelled before there was anything to store.",
    "request_too_large": "The body is over `MAX_REQUEST_BYTES`.",
    "idempotency_key_reused": "A key stands for one request.",
    "headers_too_large": "The headers are over 32 KiB.",
    "llm_rate_limited": "The LLM's own limit, with its `Retry-After` if it gave one.",
    "internal_error": "A bug in this server; its log has more.",
    "llm_error": "The LLM failed, refused the credentials, or made no sense.",
    "llm_unavailable": "The LLM cannot be reached, or says that it is loading or overloaded.",
    "overloaded": "`MAX_ACTIVE_REPLIES` are running, or too much else at once.",
    "storage_full": "`MAX_DATABASE_MB` is reached, or the disk is full; reading and deleting still work.",
    "shutting_down": "The server is about to end.",
    "llm_timeout": "The LLM was silent for `LLM_TIMEOUT_SECONDS`.",
}
_EVERYWHERE = {"origin_not_allowed", "overloaded", "internal_error"}
_WITH_BODY = {"invalid_json", "invalid_request", "request_too_large"}
_REPLY = {"context_too_long", "message_not_found", "reply_cancelled", "storage_full", "shutting_down"}
_REPLY |= {code for code in ERRORS if code.startswith("llm_")}
_ASKING = _REPLY | {"session_not_found", "session_busy", "idempotency_key_reused"}

_REPLY_HEADERS = ("X-Message-ID", "X-Context-Messages")
_STREAM_HEADERS = (*_REPLY_HEADERS, "Content-Location", "Cache-Control", "X-Accel-Buffering")


class Operation(NamedTuple):
    """A route: what it takes, what it answers (a schema's name), and the codes of what can go wrong."""

    id: str
    route: str
    summary: str
    answer: str = ""
    status: int = 200
    body: str = ""
    parameters: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()
    errors: frozenset[str] | set[str] = frozenset()
    or_status: int | None = None
    media: str = "application/json"
    is_open: bool = False


_SESSION = "/api/sessions/{session_id}"
_MESSAGE = f"{_SESSION}/messages/{{message_id}}"
_EVENTS = "text/event-stream"
OPERATIONS = (
    Operation("createSession", "POST /api/sessions", "Make a session", "Session", 201, "NewSession",
              headers=("Location",), errors={"storage_full", "shutting_down"}),
    Operation("getSession", f"GET {_SESSION}", "The session and its running reply", "SessionState"),
    Operation("patchSession", f"PATCH {_SESSION}", "Change the metadata, the branch, the system prompt",
              "SessionState", body="SessionChanges", errors={"message_not_found", "storage_full"}),
    Operation("deleteSession", f"DELETE {_SESSION}", "Delete the conversation", status=204),
    Operation("getContext", f"GET {_SESSION}/context", "What the next question is sent, and why", "Context"),
    Operation("listMessages", f"GET {_SESSION}/messages", "A page of the current path, oldest first", "Page",
              parameters=("limit", "before", "after-message", "parts"),
              errors={"invalid_request", "message_not_found"}),
    Operation("getMessage", f"GET {_MESSAGE}", "One message", "Message", parameters=("parts",),
              errors={"invalid_request", "message_not_found"}),
    Operation("rewind", f"DELETE {_MESSAGE}", "Delete a message's turn and all that follow", "Rewound",
              errors={"message_not_found"}),
    Operation("resumeStream", f"GET {_MESSAGE}/stream", "Listen to a reply from a character on", "Event",
              parameters=("Last-Event-ID", "after"), headers=_STREAM_HEADERS, media=_EVENTS,
              errors=_REPLY | {"invalid_request"}),
    Operation("cancelReply", f"POST {_MESSAGE}/cancel", "Stop a reply where it is", "Message", or_status=204,
              headers=("X-Message-ID",), errors=_REPLY),
    Operation("chat", "POST /api/chat", "Say something, and get the reply in one piece", "Message",
              body="Chat", parameters=("Idempotency-Key", "X-Session-ID"), errors=_ASKING,
              headers=(*_REPLY_HEADERS, "Idempotent-Replayed")),
    Operation("chatStream", "POST /api/chat/stream", "Say something, and listen to the reply", "Event",
              body="Chat", parameters=("Idempotency-Key", "X-Session-ID", "Last-Event-ID", "after"),
              headers=(*_STREAM_HEADERS, "Idempotent-Replayed"), errors=_ASKING, media=_EVENTS),
    Operation("health", "GET /api/health", "The process lives", "Health", is_open=True),
    Operation("ready", "GET /api/health/ready", "A chat would work now", "Health", or_status=503,
              is_open=True),
    Operation("openapi", "GET /api/openapi.json", "This document", "Document", parameters=("If-None-Match",),
              headers=("ETag",), or_status=304, is_open=True),
    Operation("metrics", "GET /metrics", "Figures for Prometheus", "Text", media="text/plain"),
)  # fmt: skip

_OFFSET = {"type": "integer", "minimum": 0, "maximum": 999_999_999}
_PARAMETERS: dict[str, tuple[str, str, Schema, Any]] = {
    # name: where it stands, what it says, its schema, an example
    "session_id": ("path", "The session.", ID, SESSION_ID),
    "message_id": ("path", "The message.", ID, MESSAGE_ID),
    "X-Request-ID": ("header", "To find the request in the log.", STRING, "order-4711.retry-2"),
    "X-Session-ID": ("header", "The session, in place of `session_id`.", ID, SESSION_ID),
    "Idempotency-Key": ("header", "The same key and body meet the running reply, or replay the stored one.",
                        {"type": "string", "pattern": "^[ -~]{1,255}$"}, "7d3c8f02-retry-me"),
    "Last-Event-ID": ("header", "How many characters the client has: the `id` of its last event. With POST "
                      "it is for a retry.", {"type": "string", "pattern": "^[0-9]{1,9}$"}, "5"),
    "after": ("query", "As `Last-Event-ID`, which wins.", _OFFSET, 5),
    "limit": ("query", "How many messages.", {"type": "integer", "minimum": 1, "maximum": 1000}, 20),
    "before": ("query", "The page that ends before this message; excludes `after`.", ID, MESSAGE_ID),
    "after-message": ("query", "The page that begins after this message, or at the start.",
                      {"anyOf": [ID, {"const": "start"}]}, "start"),
    "parts": ("query", "Leaves out what pictures, sound and files hold.", {"enum": ["omit"]}, "omit"),
    "If-None-Match": ("header", "An `ETag` seen before.", STRING, '"9f86d081884c7d65"'),
}  # fmt: skip
_URI: Schema = {"type": "string", "format": "uri-reference"}
_HEADERS: dict[str, tuple[str, Schema, bool]] = {
    # name: what it says, its schema, whether it is always there
    "X-Request-ID": ("The request's own, if it can be trusted in a log, else a new one.", STRING, True),
    "X-Session-ID": ("The session that the request was about.", ID, True),
    "X-Message-ID": ("The reply's id.", ID, True),
    "X-Context-Messages": (
        "How many messages the LLM was sent, once that is known.",
        schemas.FROM_ONE,
        False,
    ),
    "Idempotent-Replayed": ("The key was known, and the LLM not asked again.", {"const": "true"}, False),
    "Content-Location": ("Where to resume this stream.", _URI, True),
    "Location": ("The session's path.", _URI, True),
    "Cache-Control": ("Always the same.", {"const": "no-cache, no-transform"}, True),
    "X-Accel-Buffering": ("nginx passes each event on at once.", {"const": "no"}, True),
    "ETag": ("Changes with the document.", STRING, True),
    "Allow": ("The methods that the path takes.", STRING, True),
    "Retry-After": ("When to try again: seconds or a date.", STRING, False),
    "x-should-retry": ("Repeating it is in vain.", {"const": "false"}, True),
}
_SCHEMAS: dict[str, Schema] = {
    "Chat": schemas.CHAT,
    "NewSession": schemas.NEW_SESSION,
    "SessionChanges": schemas.CHANGES,
    "Session": schemas.SESSION,
    "SessionState": schemas.SESSION_STATE,
    "Message": schemas.MESSAGE,
    "Page": schemas.PAGE,
    "Rewound": schemas.REWOUND,
    "Context": schemas.CONTEXT,
    "Event": schemas.EVENT,
    "Chunk": schemas.CHUNK,
    "Error": schemas.ERROR,
    "Health": schemas.HEALTH,
    "Document": schemas.OBJECT,
    "Text": STRING,
}


def _ref(kind: str, name: str) -> Object:
    return {"$ref": f"#/components/{kind}/{name}"}


def _headers(*names: str) -> Object:
    return {name: _ref("headers", name) for name in ("X-Request-ID", *names)}


def _content(schema: Schema, media: str = "application/json") -> Object:
    return {media: {"schema": schema}}


def _failure(status: int, codes: list[str]) -> Object:
    """The answer to what goes wrong with one status."""
    only: Schema = {"properties": {"error": {"properties": {"code": {"enum": codes}}}}}
    headers = {405: ("Allow",), 409: ("x-should-retry",)}.get(status, ("Retry-After",))
    return {
        "description": "\n".join(f"`{code}`: {_MEANINGS[code]}" for code in codes),
        "headers": _headers(*headers),
        "content": _content(_ref("schemas", "Error") | only),
    }


def _responses(operation: Operation) -> Object:
    codes = _EVERYWHERE | operation.errors
    codes |= set() if operation.is_open else {"unauthorized"}
    codes |= _WITH_BODY if operation.body else set()
    codes |= {"session_not_found"} if _SESSION in operation.route else set()
    has_session = operation.status == 201 or "session_not_found" in codes
    good = {
        "description": operation.summary,
        "headers": _headers(*(("X-Session-ID",) if has_session else ()), *operation.headers),
    }
    if operation.answer:
        good["content"] = _content(_ref("schemas", operation.answer), operation.media)
    if links := _links(operation):
        good["links"] = links
    found: Object = {}
    for status in sorted({ERRORS[code][0] for code in codes}):
        same = [code for code, (its, _) in ERRORS.items() if its == status and code in codes]
        found[str(status)] = _failure(status, same)
    if operation.id == "ready":
        either = {"anyOf": [_ref("schemas", "Health"), _ref("schemas", "Error")]}
        found["503"] |= {"content": _content(either)}
    elif operation.or_status:
        found[str(operation.or_status)] = {"description": "There is nothing to send.", "headers": _headers()}
    return {str(operation.status): good} | found


def _links(operation: Operation) -> Object:
    """What may be done next with the ids that an answer has."""
    ids = {"session_id": "$request.body#/session_id", "message_id": "$response.header.X-Message-ID"}
    if operation.id == "createSession":
        ids = {"session_id": "$response.body#/session_id"}
    elif operation.body != "Chat":
        return {}
    links: Object = {
        other.id: {"operationId": other.id, "parameters": ids}
        for other in OPERATIONS
        if [name for name in ("session_id", "message_id") if f"{{{name}}}" in other.route] == list(ids)
    }
    for other in ("chat", "chatStream") if operation.id == "createSession" else ():
        links[other] = {"operationId": other, "requestBody": ids | {"message": "안녕하세요"}}
    return links


def _operation(operation: Operation) -> Object:
    named = [name for name in ("session_id", "message_id") if f"{{{name}}}" in operation.route]
    found: Object = {
        "operationId": operation.id,
        "summary": operation.summary,
        "parameters": [_ref("parameters", name) for name in (*named, *operation.parameters, "X-Request-ID")],
        "responses": _responses(operation),
    }
    if operation.body:
        content = _content(_ref("schemas", operation.body))
        found["requestBody"] = {"required": operation.body != "NewSession", "content": content}
    if operation.is_open:
        found["security"] = []
    return found


def _component(name: str, schema: Schema) -> Schema:
    """A schema as it is shown: the fields of a body may be null, which is as if they were absent."""
    if name not in ("Chat", "NewSession", "SessionChanges"):
        return schema
    fields = {field: schemas.any_of(one, schemas.NULL) for field, one in schema["properties"].items()}
    return schema | {"properties": fields}


@cache
def document() -> tuple[bytes, str]:
    """The document as JSON, and its ETag."""
    paths: dict[str, Object] = {}
    for operation in OPERATIONS:
        method, _, path = operation.route.partition(" ")
        paths.setdefault(path, {})[method.lower()] = _operation(operation)
    components = {
        "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        "schemas": {name: _component(name, schema) for name, schema in _SCHEMAS.items()},
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
    info = {"title": "chatbot", "version": __version__, "description": _DESCRIPTION}
    info["summary"] = "Sessions, history and resumable streaming in front of an OpenAI-compatible LLM."
    about = {"openapi": "3.1.0", "info": info, "security": [{"key": []}]}
    data = dumps(about | {"paths": paths, "components": components})
    return data, sha256(data).hexdigest()[:32]
