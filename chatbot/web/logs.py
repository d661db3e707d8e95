"""The log: one line for each request, as text or JSON, without secrets."""

from __future__ import annotations

import json
import logging
import re
import select
from datetime import UTC, datetime
from typing import Any, TextIO

from aiohttp import web

from chatbot.chat.reply_source import Outcome
from chatbot.ids import new_id

access_log = logging.getLogger("chatbot.access")

REQUEST_ID = web.RequestKey("request_id", str)
SESSION_ID = web.RequestKey("session_id", str)
"""The id of the session that a request is about; the header X-Session-ID has it."""

ERROR = web.RequestKey("error", str)
"""The code of the error that a request was answered with."""

REPLY = web.RequestKey("reply", Outcome)
"""The reply that a request is about; the request's line in the log says how the reply ended."""

_SAFE_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
_PLAIN = re.compile(r"[!#-<>-~]+")

PATIENCE = 0.05
"""How many seconds a line waits until it can be written, if the line before it could be."""

PIECE_CHARS = 1000
"""How many characters are written at once: a pipe that is writable takes 4096 bytes without blocking."""

LEFT = 499
"""nginx's status for a client that left before it had the answer."""


def request_id(request: web.BaseRequest) -> str:
    """Returns the client's X-Request-ID if it is safe in a log, else a new id that the request then keeps."""
    known: str | None = request.get(REQUEST_ID)
    if known:
        return known
    given = request.headers.get("X-Request-ID", "")
    request[REQUEST_ID] = made = given if _SAFE_ID.fullmatch(given) else new_id()
    return made


def route_of(request: web.Request) -> str:
    """Returns the route that serves a request, not the path: the path may contain a session's id."""
    resource = request.match_info.route.resource
    return resource.canonical if resource else "-"


def _of_reply(source: Outcome | None) -> dict[str, Any]:
    """Which model answered, how fast, how much, and how it ended."""
    if source is None:
        return {}
    usage = json.loads(source.usage) if source.usage else {}
    return {
        "model": source.model[:100] or None,
        "first_token_ms": source.first_token_ms,
        "input_tokens": usage.get("prompt_tokens"),
        "output_tokens": usage.get("completion_tokens"),
        "end": source.error.code if source.error else source.finish_reason,
    }


def log_request(request: web.Request, route: str, status: int, seconds: float) -> None:
    """Writes the line of a request that has ended."""
    if not access_log.isEnabledFor(logging.INFO):
        return
    about = {"session": request.get(SESSION_ID, "")[:8] or None}
    reply = request.pop(REPLY, None)  # a reference cycle may keep the request alive
    about |= _of_reply(reply) or {"error": request.get(ERROR)}
    about = {name: value for name, value in about.items() if value is not None}
    line = {
        "method": request.method,
        "route": route,
        "status": status,
        "duration_ms": round(seconds * 1000, 1),
        "request_id": request_id(request),
    }
    shown = "".join([f" {name}={_quoted(value)}" for name, value in about.items()])
    access_log.info("%s %s %d %.1fms %s%s", *line.values(), shown, extra={"fields": about | line})


def log_refusal(request: web.BaseRequest, status: int, why: str) -> None:
    """Writes the line of a request that never reached the application."""
    line = {"method": "-", "route": "-", "status": status, "request_id": request_id(request)}
    access_log.info("%s %s %d %s %s", *line.values(), why, extra={"fields": line | {"reason": why}})


def _quoted(value: object) -> str:
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)


class JsonFormatter(logging.Formatter):
    """Formats each line as one JSON object, for programs."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line; a traceback is one of its fields."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {
            "time": time.removesuffix("+00:00") + "Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class Handler(logging.StreamHandler[TextIO]):
    """Writes lines, and drops them while nobody reads: waiting for a full pipe would block all streams."""

    _patience = PATIENCE

    def emit(self, record: logging.LogRecord) -> None:
        """Writes as much of a line as the reader takes within the time of PATIENCE."""
        try:
            text = self.format(record) + self.terminator
            for start in range(0, len(text), PIECE_CHARS):
                is_read = bool(select.select([], [self.stream], [], self._patience)[1])
                self._patience = PATIENCE if is_read else 0.0
                if not is_read:
                    return
                self.stream.write(text[start : start + PIECE_CHARS])
                self.flush()
        except Exception:
            self.handleError(record)


def set_up(level: str, log_format: str) -> None:
    """Sends the log to standard error."""
    handler = Handler()
    text = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(JsonFormatter() if log_format == "json" else text)
    logging.basicConfig(level=level, handlers=[handler])
