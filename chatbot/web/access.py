"""Decides who is served: by keys, and for browsers by where the page came from."""

from __future__ import annotations

import hmac
import ipaddress
import logging
import re
from collections.abc import Sequence
from urllib.parse import urlsplit

from aiohttp import web

from chatbot.errors import ChatError

log = logging.getLogger(__name__)

_GUARDED = ("/api/", "/v1/", "/metrics")
_OPEN_PATHS = ("/api/health", "/api/health/ready", "/api/openapi.json")
_HEADER_NAMES = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~, \t-]{1,4096}")

EXPOSED_HEADERS = (
    "Content-Location, Idempotent-Replayed, Location, Retry-After, "
    "X-Context-Messages, X-Message-ID, X-Request-ID, X-Session-ID, X-Should-Retry"
)
METHODS = "GET, POST, PATCH, DELETE"


class Access:
    """Lets requests in or not, by the keys and origins of the settings."""

    def __init__(self, api_keys: Sequence[str], allowed_origins: Sequence[str]) -> None:
        self._keys = [key.encode() for key in api_keys]
        self._origins = frozenset(allowed_origins)

    def check_key(self, request: web.Request) -> None:
        """Raises ChatError("unauthorized") if the path wants a key and the request has none."""
        path = request.path
        if not self._keys or not path.startswith(_GUARDED) or path in _OPEN_PATHS:
            return
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        given_bytes = given.strip().encode("utf-8", "surrogateescape")
        # All keys are compared, each in constant time: how long it takes says nothing.
        matches = [hmac.compare_digest(given_bytes, key) for key in self._keys]
        if scheme.lower() != "bearer" or not any(matches):
            raise ChatError("unauthorized", "A valid key is needed: Authorization: Bearer …", "Authorization")

    def check_origin(self, request: web.Request) -> None:
        """Raises ChatError("origin_not_allowed") for a browser's page that may not talk to this server.

        Without this any web page could talk to a server on localhost. An origin that equals the Host is
        trusted only if that host is an address or localhost: a name may be another site's, pointed here
        (DNS rebinding); behind a proxy with a name of its own, that name goes into ALLOWED_ORIGINS.
        """
        origin = request.headers.get("Origin")
        if origin is None or self._is_allowed(origin) or _is_own(origin, request.headers.get("Host", "")):
            return
        # Anybody may read the page's files, and a browser sends an Origin with a script that is a module.
        if request.path.startswith("/page/") and request.method in ("GET", "HEAD"):
            return
        log.warning("refused the origin %s: it is not in ALLOWED_ORIGINS", ascii(origin[:200]))
        raise ChatError("origin_not_allowed", "This origin is not in ALLOWED_ORIGINS.", "Origin")

    def _is_allowed(self, origin: str) -> bool:
        return origin.lower() in self._origins

    def preflight(self, request: web.Request) -> web.Response | None:
        """Answers a page of an allowed origin that asks whether it may send a request, else None."""
        origin, headers = request.headers.get("Origin", ""), request.headers
        is_one = request.method == "OPTIONS" and "Access-Control-Request-Method" in headers
        if not is_one or not self._is_allowed(origin):
            return None
        response = web.Response(status=204)
        response.headers["Access-Control-Allow-Methods"] = METHODS
        # Client libraries send headers of their own, which nobody can list.
        asked_for = headers.get("Access-Control-Request-Headers", "")
        if _HEADER_NAMES.fullmatch(asked_for):
            response.headers["Access-Control-Allow-Headers"] = asked_for
        response.headers["Access-Control-Max-Age"] = "600"
        return response

    def set_headers(self, request: web.Request, response: web.StreamResponse) -> None:
        """Adds what lets the page of an allowed origin read an answer."""
        if not self._origins:
            return
        response.headers["Vary"] = "Origin, Access-Control-Request-Headers"
        origin = request.headers.get("Origin", "")
        if self._is_allowed(origin):
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Access-Control-Expose-Headers"] = EXPOSED_HEADERS


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
