"""Refuses requests that aiohttp's parser, in C or in Python, should not have let through."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from aiohttp.http import HttpProcessingError, HttpVersion10, HttpVersion11
from aiohttp.http_exceptions import BadHttpMessage, LineTooLong
from aiohttp.web import RequestPayloadError

MAX_HEAD = 32 * 1024
"""Bytes of a request before its body."""


class StrictParser:
    """Stands before aiohttp's parser, of which there is one in C and one in Python.

    It refuses also what only the other one refuses, and some of what neither does.
    """

    def __init__(self, parser: Any) -> None:
        self._parser = parser
        self._head = 0  # bytes of a head that is not complete
        self._body: Any = None  # of the last request
        self._is_broken = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._parser, name)

    @property
    def has_whole_body(self) -> bool:
        """Whether the body of the last request has come to its end."""
        return self._body is None or self._body.is_eof()

    def feed_data(self, data: bytes) -> tuple[Sequence[Any], bool, bytes]:
        """What the parser makes of the next bytes; raises HttpProcessingError, once, when it cannot go on."""
        if self._is_broken:
            return (), False, b""
        try:
            return self._feed(data)
        except (HttpProcessingError, ValueError) as error:  # ValueError: bytes that are no text, in Python
            self._is_broken = True
            if not self.has_whole_body:
                self._body.set_exception(RequestPayloadError(str(error)))
                self._body.feed_eof()
            if "Too many headers" in str(error):
                raise LineTooLong(b"", MAX_HEAD) from None
            if isinstance(error, HttpProcessingError):
                raise
            raise BadHttpMessage("no text") from None

    def _feed(self, data: bytes) -> tuple[Sequence[Any], bool, bytes]:
        is_head = self.has_whole_body
        found = cast(tuple[Sequence[Any], bool, bytes], self._parser.feed_data(data))
        if messages := found[0]:
            self._head = 0
            self._body = messages[-1][1]
            for message, _ in messages:
                _check(message)
        elif is_head:
            self._head += len(data)
            if self._head > MAX_HEAD:
                raise LineTooLong(b"", MAX_HEAD)
        return found


def _check(message: Any) -> None:
    if message.method == "CONNECT" or message.version not in (HttpVersion10, HttpVersion11):
        raise BadHttpMessage("not served")
    if len(message.path) + sum(len(name) + len(value) for name, value in message.raw_headers) > MAX_HEAD:
        raise LineTooLong(b"", MAX_HEAD)
    if message.headers.get("Transfer-Encoding", "chunked").lower() != "chunked":
        raise BadHttpMessage("another coding")  # which nobody here undoes
    if not message.path.isascii() or not message.headers.get("Expect", "").isascii():
        raise BadHttpMessage("no text")
