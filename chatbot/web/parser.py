"""Refuses requests that aiohttp's parser, in C or in Python, should not have let through."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from aiohttp.http import HttpProcessingError, HttpVersion10, HttpVersion11
from aiohttp.http_exceptions import BadHttpMessage, LineTooLong

MAX_HEAD = 32 * 1024
"""Bytes of a request before its body."""


class StrictParser:
    """Stands before aiohttp's parser, in C or in Python, and refuses what only one of them does, or none."""

    def __init__(self, parser: Any) -> None:
        self._parser = parser
        self._head = 0  # bytes of a head that is not complete
        self._body: Any = None  # of the last request

    def __getattr__(self, name: str) -> Any:
        return getattr(self._parser, name)

    def forget(self) -> None:
        """Lets go of the last body."""
        self._body = None

    @property
    def has_whole_body(self) -> bool:
        """Whether the body of the last request has come to its end."""
        return self._body is None or self._body.is_eof()

    def feed_data(self, data: bytes) -> tuple[Sequence[Any], bool, bytes]:
        """What the parser makes of the next bytes; raises HttpProcessingError for what cannot be served."""
        is_head = self.has_whole_body
        try:
            found = cast(tuple[Sequence[Any], bool, bytes], self._parser.feed_data(data))
        except HttpProcessingError as error:
            if "Too many headers" in str(error):
                raise LineTooLong(b"headers", MAX_HEAD) from None
            raise
        except ValueError as error:  # of the parser in Python, for bytes that are no text
            raise BadHttpMessage(str(error)) from None
        messages = found[0]
        if messages:
            self._head = 0
            self._body = messages[-1][1]
            for message, _ in messages:
                _check(message)
        elif is_head:
            self._head += len(data)
            if self._head > MAX_HEAD:
                raise LineTooLong(b"headers", MAX_HEAD)
        return found


def _check(message: Any) -> None:
    if message.method == "CONNECT" or message.version not in (HttpVersion10, HttpVersion11):
        raise BadHttpMessage("not served")
    size = len(message.path) + sum(len(name) + len(value) for name, value in message.raw_headers)
    if size > MAX_HEAD:
        raise LineTooLong(b"headers", MAX_HEAD)
    if not message.path.isascii() or not message.headers.get("Expect", "").isascii():
        raise BadHttpMessage("bytes that are no text")
