"""Makes the JSON and Unicode of an LLM valid, so that they can be stored and passed on. No I/O."""

from __future__ import annotations

import codecs
import json
from typing import Any

from chatbot.errors import ChatError

MAX_USAGE_CHARS = 16_384

codecs.lookup("utf-16-le")  # load it now: Python opens a file for it, and later too many may be open


def valid(text: str) -> str:
    """Returns the text with surrogate pairs joined, and lone surrogates replaced."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def parse(data: bytes, decoder: json.JSONDecoder | None = None) -> Any:
    """Parses JSON; replaces bytes that are not UTF-8. Raises ValueError if invalid or nested too deep."""
    try:
        return (decoder or _STRICT).decode(data.decode("utf-8", "replace").lstrip("\ufeff \t\r\n"))
    except RecursionError:
        raise ValueError("nested too deep") from None


def parse_odd(data: bytes) -> tuple[Any, bytes]:
    """Parses JSON, also with control characters in strings, or with NaN, which becomes null.

    Returns the value and its valid JSON. Raises ValueError if it cannot be parsed.
    """
    try:
        return parse(data), data
    except ValueError:
        value = parse(data, _LENIENT)
        return value, dump(value)


def dump(value: dict[str, Any]) -> bytes:
    """Returns the value as JSON on one line. Raises ChatError."""
    try:
        return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()
    except (ValueError, RecursionError):
        raise ChatError("llm_error", "The LLM server sent a number that JSON does not have.") from None


def one_line(data: bytes) -> bytes:
    """Returns JSON on one line. In valid JSON a line end is always white space between tokens."""
    if data.isascii() and b"\n" not in data:
        return data
    return data.decode("utf-8", "replace").replace("\n", " ").encode()


def stored_text(value: Any, most: int = MAX_USAGE_CHARS) -> str | None:
    """Returns JSON to store; None if the value is not JSON, too long or too deep (SQLite stops at 1,000)."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        text.encode()
    except (ValueError, RecursionError):
        return None
    return text if len(text) <= most and text.count("{") + text.count("[") <= 64 else None


_STRICT = json.JSONDecoder(parse_constant=int)  # int("NaN") raises ValueError: JSON has no NaN
_LENIENT = json.JSONDecoder(parse_constant=lambda _: None, strict=False)
