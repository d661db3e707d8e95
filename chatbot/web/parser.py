"""Refuses requests that aiohttp's parser should not have accepted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from aiohttp.http import HttpProcessingError, HttpVersion10, HttpVersion11
from aiohttp.http_exceptions import BadHttpMessage, LineTooLong
from aiohttp.web import RequestPayloadError

MAX_HEAD = 32 * 1024
"""The most bytes that a request may have before its body."""


class StrictParser:
    """Wraps aiohttp's parser, of which there are two: one in C and one in Python.

    Whichever is used, this class also refuses what only the other refuses, and some of what neither refuses.
    """

    def __init__(self, parser: Any) -> None:
        self._parser = parser
        self._head = 0  # bytes of a head that is not complete
        self._body: Any = None  # the body of the last request
        self._is_broken = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._parser, name)

    @property
    def has_whole_body(self) -> bool:
        """Whether the body of the last request has come to its end."""
        return self._body is None or self._body.is_eof()

    def feed_data(self, data: bytes) -> tuple[Sequence[Any], bool, bytes]:
        """Returns what the parser finds in the next bytes. After one HttpProcessingError it ignores bytes."""
        if self._is_broken:
            return (), False, b""
        try:
            return self._feed(data)
        except (HttpProcessingError, ValueError) as error:  # ValueError: not text (the parser in Python)
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
        raise BadHttpMessage("another coding")  # nothing here decodes it
    if not message.path.isascii() or not message.headers.get("Expect", "").isascii():
        raise BadHttpMessage("no text")
