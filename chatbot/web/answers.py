"""Makes the answers: JSON, and the one shape of an error."""

from __future__ import annotations

from collections.abc import Mapping

from aiohttp import hdrs, web
from multidict import istr

from chatbot.errors import ChatError
from chatbot.records import dumps

JSON = "application/json"

# A plain string would be copied into each answer that bears a header of this name; an istr is shared.
REQUEST_ID, SESSION_ID = istr("X-Request-ID"), istr("X-Session-ID")
MESSAGE_ID, CONTEXT_MESSAGES = istr("X-Message-ID"), istr("X-Context-Messages")

COMMON_HEADERS = {
    hdrs.SERVER: "chatbot",  # and not the versions of what it is made of
    istr("X-Content-Type-Options"): "nosniff",
}
"""What every answer bears, also to what is no HTTP."""


def json_response(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """A JSON answer; bytes are JSON already."""
    body = value if isinstance(value, bytes) else dumps(value)
    return web.Response(body=body, status=status, headers=headers, content_type=JSON)


def error_response(error: ChatError, headers: Mapping[str, str] | None = None) -> web.Response:
    """An error as an HTTP answer."""
    response = json_response(error.to_object(), error.status, headers)
    if error.retry_after:
        response.headers["Retry-After"] = error.retry_after
    if error.status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    if error.status == 409:
        response.headers["x-should-retry"] = "false"  # OpenAI's libraries would repeat it, in vain
    return response


def http_error(error: web.HTTPException) -> web.Response:
    """The errors of aiohttp's router, in our shape."""
    if isinstance(error, web.HTTPMethodNotAllowed):
        allow = ", ".join(sorted(error.allowed_methods))
        return error_response(ChatError("method_not_allowed", f"This path takes {allow}."), {"Allow": allow})
    if error.status == 404:
        return error_response(ChatError("not_found", "There is nothing at this path."))
    return error_response(ChatError("invalid_request", f"The request cannot be served: {error.reason}."))
