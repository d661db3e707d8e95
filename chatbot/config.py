"""The settings: names, defaults, and what each may be. Parsing only, no I/O."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any
from urllib.parse import urlsplit


class ConfigError(Exception):
    """A setting that cannot be used; the message is one line that names the variable."""


def _url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError
    if " " in text or not text.isprintable():
        raise ValueError
    _ = parts.port  # raises ValueError when it is no port
    return text.rstrip("/")


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        value = int(text)
        if not low <= value <= high:
            raise ValueError
        return value

    return parse


def _number(high: float, *, above_zero: bool) -> Callable[[str], float]:
    def parse(text: str) -> float:
        value = float(text)
        if not math.isfinite(value) or not 0 <= value <= high or (above_zero and not value):
            raise ValueError
        return value

    return parse


def _words(text: str) -> tuple[str, ...]:
    return tuple(word for word in (part.strip() for part in text.split(",")) if word)


def _key(text: str) -> str:
    if not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError
    return text


def _keys(text: str) -> tuple[str, ...]:
    return tuple(_key(word) for word in _words(text))


def _origins(text: str) -> tuple[str, ...]:
    """Origins as browsers send them (RFC 6454): scheme://host[:port], lower case, no path."""
    origins = tuple(origin.rstrip("/").lower() for origin in _words(text))
    for origin in origins:
        parts = urlsplit(origin)
        if (
            parts.scheme not in ("http", "https")
            or not parts.hostname
            or origin != f"{parts.scheme}://{parts.netloc}"
        ):
            raise ValueError
    return origins


def _database(text: str) -> str:
    """The file named by sqlite:///relative or sqlite:////absolute, or ":memory:"."""
    if not text.startswith("sqlite:///") or "\0" in text or "?" in text:
        raise ValueError
    path = text.removeprefix("sqlite:///")
    if not path or path.endswith("/"):
        raise ValueError
    return path


def _level(text: str) -> str:
    if text.upper() not in ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"):
        raise ValueError
    return text.upper()


def _setting(default: Any, parse: Callable[[str], Any], wants: str, *, secret: bool = False) -> Any:
    return field(default=default, repr=not secret, metadata={"parse": parse, "wants": wants})


_DAY = 86_400.0
_POSITIVE = (_number(_DAY, above_zero=True), "a number of seconds above 0, at most 86400")
_SECONDS = (_number(_DAY, above_zero=False), "a number of seconds from 0 to 86400")
_HOURS = (_number(876_000, above_zero=True), "a number of hours above 0, at most 876000")


@dataclass(frozen=True)
class Config:
    """The settings, each from the environment variable of its name in capitals; README.md explains them."""

    llm_server_url: str = _setting("http://localhost:8000", _url, "an http:// or https:// URL")
    llm_api_key: str = _setting("", _key, "a key of printable ASCII", secret=True)
    llm_model: str = _setting("", str, "a model's name")
    system_prompt: str = _setting("", str, "a text")
    llm_timeout_seconds: float = _setting(120.0, *_POSITIVE)
    max_context_messages: int = _setting(10, _whole(1, 10_000), "a whole number from 1 to 10000")
    session_timeout_hours: float = _setting(24.0, *_HOURS)
    database_url: str = _setting(
        ":memory:", _database, "sqlite:///:memory:, sqlite:///relative.db or sqlite:////absolute.db"
    )
    host: str = _setting("127.0.0.1", str, "an address")
    port: int = _setting(8080, _whole(0, 65_535), "a port from 0 to 65535 (0: any free one)")
    api_keys: tuple[str, ...] = _setting((), _keys, "comma-separated keys of printable ASCII", secret=True)
    allowed_origins: tuple[str, ...] = _setting(
        (), _origins, "comma-separated origins like https://example.com"
    )
    max_request_bytes: int = _setting(
        1_048_576, _whole(1024, 2**30), "a whole number from 1024 to 1073741824"
    )
    max_database_mb: int = _setting(1024, _whole(1, 2**24), "a whole number from 1 to 16777216")
    max_active_replies: int = _setting(1000, _whole(1, 1_000_000), "a whole number from 1 to 1000000")
    disconnect_grace_seconds: float = _setting(60.0, *_SECONDS)
    stream_heartbeat_seconds: float = _setting(15.0, *_POSITIVE)
    shutdown_grace_seconds: float = _setting(10.0, *_SECONDS)
    log_level: str = _setting("INFO", _level, "DEBUG, INFO, WARNING, ERROR or CRITICAL")

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Config:
        """Reads the settings out of `environ`; an empty variable counts as not set.

        Raises ConfigError for the first value that cannot be used.
        """
        values: dict[str, Any] = {}
        for setting in fields(cls):
            name = setting.name.upper()
            text = environ.get(name, "").strip()
            if not text:
                continue
            try:
                values[setting.name] = setting.metadata["parse"](text)
                text.encode()  # an environment of broken UTF-8 shows up as lone surrogates
            except ValueError:
                shown = "" if not setting.repr else f", not {text!r}"
                raise ConfigError(f"{name} must be {setting.metadata['wants']}{shown}") from None
        return cls(**values)
