"""Decides which requests are served: by their API key, and from browsers also by the page's origin."""

from __future__ import annotations

import hmac
import logging
import re
from collections.abc import Sequence

from aiohttp import web

from chatbot.errors import ChatError

log = logging.getLogger(__name__)

_GUARDED = ("/api/", "/v1/", "/metrics")
_OPEN_PATHS = ("/api/health", "/api/health/ready", "/api/openapi.json")
_OWN = re.compile(r"https?://((?:localhost|[0-9]+(?:\.[0-9]+){3}|\[[0-9a-f:.]+\])(?::[0-9]+)?)")
"""Matches an origin that may be the server's own: its host is an IP address or localhost."""

EXPOSED_HEADERS = (
    "Content-Location, Idempotent-Replayed, Location, Retry-After, "
    "X-Context-Messages, X-Message-ID, X-Request-ID, X-Session-ID, X-Should-Retry"
)
METHODS = "GET, POST, PATCH, DELETE"


class Access:
    """Admits or refuses requests, by the keys and origins of the settings."""

    def __init__(self, api_keys: Sequence[str], allowed_origins: Sequence[str]) -> None:
        self._keys = [key.encode() for key in api_keys]
        self._origins = frozenset(allowed_origins)

    def check_key(self, request: web.Request) -> None:
        """Raises ChatError("unauthorized") if the path requires a key and the request has no valid key."""
        path = request.path
        if not self._keys or not path.startswith(_GUARDED) or path in _OPEN_PATHS:
            return
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        given_bytes = given.strip().encode("utf-8", "surrogateescape")
        # Every key is compared, each in constant time, so that the time taken reveals nothing about the keys.
        matches = [hmac.compare_digest(given_bytes, key) for key in self._keys]
        if scheme.lower() != "bearer" or not any(matches):
            raise ChatError("unauthorized", "A valid key is needed: Authorization: Bearer …", "Authorization")

    def check_origin(self, request: web.Request) -> None:
        """Raises ChatError("origin_not_allowed") if the browser's page may not use this server.

        Without this check any web page could use a server on localhost. An origin that equals the Host header
        is trusted only if its host is an IP address or localhost: another site may have pointed its own name
        at this server (DNS rebinding). The name of a proxy must therefore be in ALLOWED_ORIGINS.
        """
        origin = request.headers.get("Origin")
        if origin is None or self._is_allowed(origin):
            return
        own = _OWN.fullmatch(origin.lower())
        if own and own[1] == request.headers.get("Host", "").lower():
            return
        # The page's files are public, and a browser sends an Origin when it loads a module script.
        if request.path.startswith("/page/") and request.method in ("GET", "HEAD"):
            return
        log.warning("refused the origin %s: it is not in ALLOWED_ORIGINS", ascii(origin[:200]))
        raise ChatError("origin_not_allowed", "This origin is not in ALLOWED_ORIGINS.", "Origin")

    def _is_allowed(self, origin: str) -> bool:
        return origin.lower() in self._origins

    def preflight(self, request: web.Request) -> web.Response | None:
        """Returns the response to a CORS preflight request from an allowed origin, else None."""
        if request.method != "OPTIONS" or "Access-Control-Request-Method" not in request.headers:
            return None
        if not self._is_allowed(request.headers.get("Origin", "")):
            return None
        headers = {"Access-Control-Allow-Methods": METHODS, "Access-Control-Max-Age": "600"}
        # All headers are allowed, because client libraries send headers of their own, which nobody can list.
        asked_for = request.headers.get("Access-Control-Request-Headers", "")
        if asked_for and asked_for.isascii() and asked_for.replace("\t", " ").isprintable():
            headers["Access-Control-Allow-Headers"] = asked_for
        return web.Response(status=204, headers=headers)

    def set_headers(self, request: web.Request, response: web.StreamResponse) -> None:
        """Adds the CORS headers that let a page of an allowed origin read the response."""
        if not self._origins:
            return
        vary = ["Origin", "Access-Control-Request-Headers", *response.headers.getall("Vary", ())]
        response.headers["Vary"] = ", ".join(vary)
        origin = request.headers.get("Origin", "")
        if self._is_allowed(origin):
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Access-Control-Expose-Headers"] = EXPOSED_HEADERS
