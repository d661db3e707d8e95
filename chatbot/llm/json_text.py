"""JSON and Unicode as an LLM sends them, made fit to be stored and passed on. No I/O."""

from __future__ import annotations

import codecs
import json
from typing import Any

from chatbot.errors import ChatError

MAX_USAGE_CHARS = 16_384

codecs.lookup("utf-16-le")  # now: Python reads it from a file, and later there may be none free


def valid(text: str) -> str:
    """The text with surrogates joined to pairs, and lone ones replaced."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def parse(data: bytes, decoder: json.JSONDecoder | None = None) -> Any:
    """Parses JSON, which mostly is UTF-8; raises ValueError if it is none, or nested absurdly deep."""
    try:
        return (decoder or _STRICT).decode(data.decode("utf-8", "replace").lstrip("\ufeff \t\r\n"))
    except RecursionError:
        raise ValueError("nested too deep") from None


def parse_odd(data: bytes) -> tuple[Any, bytes]:
    """Parses what nearly is JSON, too: with raw control characters in texts, or NaN, which becomes null.

    Returns the value, and its JSON as it may be passed on. Raises ValueError if it is none.
    """
    try:
        return parse(data), data
    except ValueError:
        value = parse(data, _LENIENT)
        return value, dump(value)


def dump(value: dict[str, Any]) -> bytes:
    """The value as JSON on one line. Raises ChatError."""
    try:
        return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()
    except (ValueError, RecursionError):
        raise ChatError("llm_error", "The LLM server sent a number that JSON does not have.") from None


def one_line(data: bytes) -> bytes:
    """JSON that may be sent as one line: in valid JSON a line end is white space between tokens."""
    if data.isascii() and b"\n" not in data and b"\r" not in data:
        return data
    return data.decode("utf-8", "replace").replace("\r", " ").replace("\n", " ").encode()


def stored_text(value: Any, most: int = MAX_USAGE_CHARS) -> str | None:
    """JSON as it is stored; None if it is none, huge or nested deep (SQLite stops at 1,000)."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        text.encode()
    except (ValueError, RecursionError):
        return None
    return text if len(text) <= most and text.count("{") + text.count("[") <= 64 else None


_STRICT = json.JSONDecoder(parse_constant=int)  # which raises ValueError: NaN is no JSON
_LENIENT = json.JSONDecoder(parse_constant=lambda _: None, strict=False)
