"""Serves the chat page and its files; the page may use its own scripts and styles and no others."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from functools import cached_property
from hashlib import sha256
from importlib import resources
from importlib.resources.abc import Traversable

from aiohttp import web

CONTENT_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".mjs": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".webmanifest": "application/manifest+json",
    ".woff2": "font/woff2",
}

_GZIP = re.compile(r"\bgzip\b(?!\s*;\s*q=0(\.0*)?\s*(,|$))", re.IGNORECASE)
"""Matches an Accept-Encoding header that accepts gzip: named, and not with a quality of 0."""

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; worker-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "font-src 'self'; connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
"""https://www.w3.org/TR/CSP3/: nothing inline, nothing from elsewhere."""

SAFE = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class File:
    """A file that is the same for every client: compressed once, and not sent to a browser that has it.

    The suffix of its name decides the content type.
    """

    def __init__(self, name: str, body: bytes) -> None:
        self.body = body
        self.etag = sha256(body).hexdigest()[:32]
        content_type = CONTENT_TYPES.get(name[name.rfind(".") :], "application/octet-stream")
        self._headers = SAFE | {"Content-Type": content_type}

    @cached_property
    def gzipped(self) -> bytes | None:
        """The compressed file, made when it is first needed; None if it is not shorter."""
        # mtime=0: the same file always gives the same bytes, which proxies may compare.
        smaller = gzip.compress(self.body, 9, mtime=0)
        return smaller if len(smaller) < len(self.body) else None

    def answer(self, request: web.Request, cache_control: str = "no-cache") -> web.Response:
        """The file, or 304 if the request names its ETag."""
        body, etag, encoding = self.body, self.etag, {}
        if _GZIP.search(request.headers.get("Accept-Encoding", "")) and self.gzipped:
            # The two encodings are two representations, so each has its own strong ETag.
            body, etag, encoding = self.gzipped, f"{etag}-gzip", {"Content-Encoding": "gzip"}
        headers = {"ETag": f'"{etag}"', "Cache-Control": cache_control, "Vary": "Accept-Encoding"}
        if any(seen.value in (etag, "*") for seen in request.if_none_match or ()):
            return web.Response(status=304, headers=headers)
        return web.Response(body=body, headers=self._headers | headers | encoding)


class Static:
    """The handlers of the page and its files."""

    def __init__(self) -> None:
        self._files = {
            name: File(name, body) for name, body in _walk(resources.files("chatbot").joinpath("page"))
        }
        everything = "".join(f"{name} {file.etag}\n" for name, file in sorted(self._files.items()))
        # The URLs have a hash of all files, so a browser may cache files and never mixes two versions.
        self._version = sha256(everything.encode()).hexdigest()[:12]
        self._pages = {path: self._page(name) for path, name in (("/", "index.html"), ("/docs", "docs.html"))}

    def _page(self, name: str) -> File:
        html = self._files.pop(name).body
        return File(name, html.replace(b'="page/', f'="page/{self._version}/'.encode()))

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Registers the routes."""
        for path in self._pages:
            router.add_get(path, self.page)
        router.add_get("/page/{path:.+}", self.file)

    async def page(self, request: web.Request) -> web.StreamResponse:
        """Handle "GET /", the chat page, and "GET /docs", the API's documentation (see tools/docs.py)."""
        return self._pages[request.path].answer(request)

    async def file(self, request: web.Request) -> web.StreamResponse:
        """Handle "GET /page/{path}": a file of the page.

        A page that was opened before the server was updated asks for an older version. It is sent the current
        file, and the browser must not use its copy later without asking again (no-cache).
        """
        version, _, name = request.match_info["path"].partition("/")
        if version == self._version and name in self._files:
            return self._files[name].answer(request, "public, max-age=31536000, immutable")
        file = self._files.get(request.match_info["path"]) or self._files.get(name)
        if file is None:
            raise web.HTTPNotFound
        return file.answer(request)


def _walk(folder: Traversable, prefix: str = "") -> Iterator[tuple[str, bytes]]:
    """All files below a folder, which may be in a zipapp, with their paths."""
    for entry in folder.iterdir():
        name = prefix + entry.name
        if entry.is_dir():
            yield from _walk(entry, f"{name}/")
        elif not entry.name.endswith((".py", ".pyc")):
            yield name, entry.read_bytes()
