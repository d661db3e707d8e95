"""Makes HTTP responses: JSON, and errors, which all have one shape."""

from __future__ import annotations

from collections.abc import Mapping

from aiohttp import hdrs, web
from multidict import istr

from chatbot.errors import ChatError
from chatbot.records import dumps
from chatbot.web.logs import ERROR

JSON = "application/json"

# A plain string would be copied into each response that has a header of this name; an istr is shared.
REQUEST_ID, SESSION_ID = istr("X-Request-ID"), istr("X-Session-ID")
MESSAGE_ID, CONTEXT_MESSAGES = istr("X-Message-ID"), istr("X-Context-Messages")

COMMON_HEADERS = {
    hdrs.SERVER: "chatbot",  # in place of aiohttp's value, which names the versions of aiohttp and Python
    istr("X-Content-Type-Options"): "nosniff",
}
"""The headers of every response, also of the response to bytes that are not HTTP."""


def json_response(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """Returns a JSON response; a `value` of bytes is JSON already."""
    body = value if isinstance(value, bytes) else dumps(value)
    return web.Response(body=body, status=status, headers=headers, content_type=JSON)


def error_response(
    request: web.BaseRequest, error: ChatError, headers: Mapping[str, str] | None = None
) -> web.Response:
    """Returns the HTTP response that reports an error; the request's line in the log will have its code."""
    request[ERROR] = error.code
    response = json_response(error.to_object(), error.status, headers)
    if error.retry_after:
        response.headers["Retry-After"] = error.retry_after
    if error.status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    if error.status == 409:
        response.headers["x-should-retry"] = "false"  # OpenAI's libraries would retry without success
    return response


def http_error(request: web.BaseRequest, error: web.HTTPException) -> web.Response:
    """Returns the response to an error of aiohttp's router, in the shape of our errors."""
    if isinstance(error, web.HTTPMethodNotAllowed):
        allow = ", ".join(sorted(error.allowed_methods))
        refused = ChatError("method_not_allowed", f"This path takes {allow}.")
        return error_response(request, refused, {"Allow": allow})
    if error.status == 404:
        return error_response(request, ChatError("not_found", "There is nothing at this path."))
    reason = f"The request cannot be served: {error.reason}."
    return error_response(request, ChatError("invalid_request", reason))
