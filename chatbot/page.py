"""Serves the page to talk in: one file, allowed to run its own script and style and nothing else."""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha256
from importlib import resources

from aiohttp import web


class File:
    """A file that comes with the code, sent only to who has not seen it yet."""

    def __init__(self, name: str, content_type: str) -> None:
        self.body = resources.files("chatbot").joinpath(name).read_bytes()
        self._etag = sha256(self.body).hexdigest()[:32]
        self._headers = {"ETag": f'"{self._etag}"', "Cache-Control": "no-cache"}
        self._content_type = {"Content-Type": content_type}

    def answer(self, request: web.Request, headers: dict[str, str] | None = None) -> web.Response:
        """The file, or 304 if the request names its ETag."""
        headers = self._headers | (headers or {})
        if any(etag.value in (self._etag, "*") for etag in request.if_none_match or ()):
            return web.Response(status=304, headers=headers)
        return web.Response(body=self.body, headers=headers | self._content_type)


class Page:
    """The handler of the page."""

    def __init__(self) -> None:
        self._file = File("page.html", "text/html; charset=utf-8")
        self._headers = {
            "Content-Security-Policy": content_security_policy(self._file.body),
            "Referrer-Policy": "no-referrer",
        }

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Registers the route."""
        router.add_get("/", self.page)

    async def page(self, request: web.Request) -> web.StreamResponse:
        """Handle "GET /": the page."""
        return self._file.answer(request, self._headers)


def content_security_policy(html: bytes) -> str:
    """The policy that allows the inline blocks of `html`, by their hashes, and talking to this server.

    https://www.w3.org/TR/CSP3/
    """
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src {_hashes(html, b'script')}",
            f"style-src {_hashes(html, b'style')}",
            "connect-src 'self'",
            "img-src 'self' data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        ]
    )


def _hashes(html: bytes, tag: bytes) -> str:
    blocks = re.findall(rb"<%b>(.*?)</%b>" % (tag, tag), html, re.DOTALL)
    return " ".join(f"'sha256-{b64encode(sha256(block).digest()).decode()}'" for block in blocks) or "'none'"
