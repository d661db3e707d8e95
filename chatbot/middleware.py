"""What every request passes: its id, who may come in, one shape for every error, one log line."""

from __future__ import annotations

import hmac
import ipaddress
import logging
import re
import time
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from aiohttp import web

from chatbot import delivery, shapes
from chatbot.api import SESSION_ID
from chatbot.config import Config
from chatbot.errors import ChatError
from chatbot.ids import new_id

log = logging.getLogger("chatbot.access")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

REQUEST_ID = web.RequestKey("request_id", str)

_SAFE_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
_OPEN_PATHS = ("/api/health", "/api/health/ready", "/api/openapi.json")
_EXPOSED = (
    "Content-Location, Idempotent-Replayed, Location, Retry-After, "
    "X-Context-Messages, X-Message-ID, X-Request-ID, X-Session-ID"
)
_PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, POST, PATCH, DELETE",
    "Access-Control-Allow-Headers": (
        "Authorization, Content-Type, Idempotency-Key, Last-Event-ID, X-Request-ID"
    ),
    "Access-Control-Max-Age": "600",
}


class Gate:
    """Lets requests in or not, by the keys and origins of the settings, and sees them out."""

    def __init__(self, config: Config) -> None:
        self._keys = config.api_keys
        self._origins = config.allowed_origins

    @web.middleware
    async def admit(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Lets a request in or not, answers what went wrong, delivers the answer, writes the log line."""
        began = time.perf_counter()
        status = 0
        try:
            response = await self._answer(request, handler)
            if not response.prepared:
                if not request.content.is_eof():
                    response.force_close()  # the rest of a body that nobody reads is no next request
                await delivery.finish(request, response)
            status = response.status
            return response
        finally:
            _log(request, status, time.perf_counter() - began)

    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            preflight = self._check_origin(request)
            if preflight:
                return preflight
            self._check_key(request)
            return await handler(request)
        except ChatError as error:
            # A reply holds its error, whose frames and context hold the reply.
            error.__traceback__ = error.__context__ = None
            return error_response(error)
        except web.HTTPException as error:
            return http_error(request, error)
        except ConnectionError:
            raise  # the client has gone, or was dropped
        except Exception:
            logging.getLogger(__name__).exception("request %s crashed", request_id(request))
            if request.writer.output_size:
                raise ConnectionResetError("the answer had begun") from None
            return error_response(ChatError("internal_error", "Internal error."))

    def _check_key(self, request: web.Request) -> None:
        keys = self._keys
        if not keys or not request.path.startswith("/api/") or request.path in _OPEN_PATHS:
            return
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        given_bytes = given.strip().encode("utf-8", "surrogateescape")
        # All keys are compared, each in constant time: how long it takes tells nothing.
        matches = [hmac.compare_digest(given_bytes, key.encode()) for key in keys]
        if scheme.lower() != "bearer" or not any(matches):
            raise ChatError("unauthorized", "A valid key is needed: Authorization: Bearer …", "Authorization")

    def _check_origin(self, request: web.Request) -> web.Response | None:
        """Lets browsers in only from where they may come; answers the preflight of an allowed origin.

        Without this any web page could talk to a server on localhost. An origin that equals the Host is
        trusted only if that host is an address or localhost: a name may be another site's, pointed here
        (DNS rebinding); behind a proxy with a name of its own, that name goes into ALLOWED_ORIGINS.
        """
        origin = request.headers.get("Origin")
        if origin is None:
            return None
        allowed = origin.lower() in self._origins
        if not allowed and not _is_own(origin, request.headers.get("Host", "")):
            raise ChatError("origin_not_allowed", "This origin is not in ALLOWED_ORIGINS.", "Origin")
        if allowed and request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
            return web.Response(status=204, headers=_PREFLIGHT)
        return None

    async def set_headers(self, request: web.Request, response: web.StreamResponse) -> None:
        """Adds the headers that every answer bears; an on_response_prepare signal."""
        headers = response.headers
        headers["Server"] = "chatbot"  # and not the versions of what it is made of
        headers["X-Request-ID"] = request_id(request)
        headers["X-Content-Type-Options"] = "nosniff"
        headers.setdefault("Cache-Control", "no-store")
        if session_id := request.get(SESSION_ID):
            headers["X-Session-ID"] = session_id
        if self._origins:
            headers["Vary"] = "Origin"
            origin = request.headers.get("Origin", "")
            if origin.lower() in self._origins:
                headers["Access-Control-Allow-Origin"] = origin
                headers["Access-Control-Expose-Headers"] = _EXPOSED


def _log(request: web.Request, status: int, seconds: float) -> None:
    """One line a request: the route and not the path, which holds a session's id.

    499 is nginx's word for a client that left before it had the answer.
    """
    if log.isEnabledFor(logging.INFO):
        resource = request.match_info.route.resource
        route = resource.canonical if resource else "-"
        milliseconds, label = seconds * 1000, request_id(request)
        log.info("%s %s %d %.1fms %s", request.method, route, status or 499, milliseconds, label)


def error_response(error: ChatError, headers: dict[str, str] | None = None) -> web.Response:
    """An error as an HTTP answer."""
    status, _ = shapes.ERRORS[error.code]
    response = web.Response(
        body=shapes.dumps(shapes.error_object(error)),
        status=status,
        headers=headers,
        content_type="application/json",
    )
    if error.retry_after:
        response.headers["Retry-After"] = error.retry_after
    if status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def http_error(request: web.BaseRequest, error: web.HTTPException) -> web.Response:
    """The errors of aiohttp's own, of its router and its body reader, in our shape."""
    if isinstance(error, web.HTTPMethodNotAllowed):
        allow = ", ".join(sorted(error.allowed_methods))
        message = f"This path takes {allow}."
        return error_response(ChatError("method_not_allowed", message), {"Allow": allow})
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        limit = request.client_max_size
        return error_response(ChatError("request_too_large", f"The body exceeds {limit} bytes."))
    if error.status == 404:
        return error_response(ChatError("not_found", "There is nothing at this path."))
    return error_response(ChatError("invalid_request", f"The request cannot be served: {error.reason}."))


def _is_own(origin: str, host: str) -> bool:
    scheme, _, netloc = origin.partition("://")
    if scheme not in ("http", "https") or not netloc or netloc.lower() != host.lower():
        return False
    try:
        name = urlsplit(origin).hostname or ""
        if name != "localhost":
            ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def request_id(request: web.BaseRequest) -> str:
    """The client's X-Request-ID if it can be trusted in a log, else a new one; the same when asked again."""
    known: str | None = request.get(REQUEST_ID)
    if known:
        return known
    given = request.headers.get("X-Request-ID", "")
    request[REQUEST_ID] = made = given if _SAFE_ID.fullmatch(given) else new_id()
    return made
