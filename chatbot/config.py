"""The settings: their names, defaults and allowed values. Parsing only, no I/O."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any
from urllib.parse import urlsplit

from chatbot.addresses import Hint, base_url, listen_address, origin


class ConfigError(Exception):
    """A setting has a value that cannot be used. The message is one line that names the variable."""


SERVER_FIELDS = ("messages", "stream", "stream_options", "n")
"""Fields of a request to the LLM that only the server sets."""

_OWN_HEADERS = {"accept-encoding", "connection", "content-length", "content-type", "expect", "host", "te"}
_OWN_HEADERS |= {"trailer", "transfer-encoding", "upgrade"}
_ABOVE_ZERO = math.ulp(0.0)
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_FLAGS = dict.fromkeys(("true", "1", "yes"), True) | dict.fromkeys(("false", "0", "no"), False)


def _key(text: str) -> str:
    if not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError
    return text


def _database(text: str) -> str:
    """The file named by sqlite:///relative or sqlite:////absolute, or ":memory:"."""
    if not text.startswith("sqlite:///") or "\0" in text or "?" in text:
        raise ValueError
    path = text.removeprefix("sqlite:///")
    if not path or path.endswith("/"):
        raise ValueError
    return path


def _json_object(text: str) -> dict[str, Any]:
    value = json.loads(text)
    json.dumps(value, ensure_ascii=False, allow_nan=False).encode()  # refuses 1e999 and lone surrogates
    if not isinstance(value, dict):
        raise ValueError
    return value


def _headers(text: str) -> dict[str, str]:
    headers = _json_object(text)
    for name, value in headers.items():
        if not _TOKEN.fullmatch(name) or not isinstance(value, str):
            raise ValueError
        if name.lower() in _OWN_HEADERS:
            raise Hint(f"may not set {name}, which is the server's")
        if not value.isascii() or not value.isprintable():
            raise ValueError
    return headers


def _extra_body(text: str) -> dict[str, Any]:
    body = _json_object(text)
    for name in SERVER_FIELDS:
        if name in body:
            raise Hint(f"may not set {name}, which is the server's")
    return body


def id_range(text: str) -> tuple[int, int]:
    """The range that "00-7f" names, both ends included; raises ValueError."""
    if not re.fullmatch("[0-9a-fA-F]{2}-[0-9a-fA-F]{2}", text):
        raise ValueError
    first, last = int(text[:2], 16), int(text[3:], 16)
    if first > last:
        raise ValueError
    return first, last


def _setting(default: Any, parse: Callable[[str], Any], wants: str, *, secret: bool = False) -> Any:
    """A setting. `parse` reads its text and may raise what from_env() catches; `wants`: what it must be."""
    return field(default_factory=lambda: default, repr=not secret, metadata={"parse": parse, "wants": wants})


def _number(default: float, low: float, high: float) -> Any:
    """A setting that is a number, of the type of its `default`."""

    def parse(text: str) -> float:
        if not text.isascii() or "_" in text:  # Python accepts 1_000, and digits of all scripts
            raise ValueError
        value = type(default)(text)
        if not low <= value <= high:  # refuses NaN, too
            raise ValueError
        return value

    kind = "a whole number" if isinstance(default, int) else "a number"
    span = f"above 0, at most {high}" if low == _ABOVE_ZERO else f"from {low} to {high}"
    return _setting(default, parse, f"{kind} {span}")


def _word(default: str, *words: str) -> Any:
    """A setting that is one of the words, in capitals or not."""
    by_lower = {word.lower(): word for word in words}
    wants = f"{', '.join(words[:-1])} or {words[-1]}"
    return _setting(default, lambda text: by_lower[text.lower()], wants)


def _list(parse: Callable[[str], str], wants: str, *, secret: bool = False) -> Any:
    """A setting that is a list, separated by commas. API_KEYS=, is an error: no keys would be open access."""

    def parse_all(text: str) -> tuple[str, ...]:
        words = [word for word in map(str.strip, text.split(",")) if word.strip("\"' ")]
        if not words:
            raise Hint("names nothing; leave it empty if that is meant")
        return tuple(map(parse, words))

    return _setting((), parse_all, f"comma-separated {wants}", secret=secret)


@dataclass(frozen=True)
class Config:
    """The settings. Each is read from the variable of the same name in capitals. README.md explains them."""

    llm_server_url: str = _setting("http://localhost:8000", base_url, "an http:// or https:// URL")
    llm_api_key: str = _setting("", _key, "a key of printable ASCII", secret=True)
    llm_model: str = _setting("", str, "a model's name")
    llm_headers: Mapping[str, str] = _setting(
        {}, _headers, 'a JSON object of headers, like {"api-key": "…"}', secret=True
    )
    llm_extra_body: Mapping[str, Any] = _setting({}, _extra_body, "a JSON object", secret=True)
    system_prompt: str = _setting("", str, "a text")
    llm_timeout_seconds: float = _number(120.0, _ABOVE_ZERO, 86_400)
    max_context_messages: int = _number(10, 1, 10_000)
    max_context_tokens: int = _number(0, 0, 1_000_000_000)
    session_timeout_hours: float = _number(24.0, _ABOVE_ZERO, 876_000)
    database_url: str = _setting(
        ":memory:", _database, "sqlite:///:memory:, sqlite:///relative.db or sqlite:////absolute.db"
    )
    database_sync: str = _word("normal", "normal", "full")
    host: str = _setting("127.0.0.1", listen_address, "an IP address or localhost")
    port: int = _number(8080, 0, 65_535)
    api_keys: tuple[str, ...] = _list(_key, "keys of printable ASCII", secret=True)
    allowed_origins: tuple[str, ...] = _list(origin, "origins like https://example.com")
    max_request_bytes: int = _number(8_388_608, 1024, 2**30)
    max_database_mb: int = _number(1024, 1, 2**24)
    max_active_replies: int = _number(1000, 1, 1_000_000)
    disconnect_grace_seconds: float = _number(60.0, 0, 86_400)
    stream_heartbeat_seconds: float = _number(15.0, _ABOVE_ZERO, 86_400)
    shutdown_grace_seconds: float = _number(10.0, 0, 86_400)
    send_reasoning: bool = _setting(False, lambda text: _FLAGS[text.lower()], "true or false")
    session_id_range: tuple[int, int] = _setting((0, 0xFF), id_range, "two hex digits twice, like 00-7f")
    log_level: str = _word("INFO", "DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
    log_format: str = _word("text", "text", "json")

    @classmethod
    def from_env(cls, environ: Mapping[str, str], options: Mapping[str, str | None] | None = None) -> Config:
        """Reads the settings from `environ`. An empty variable counts as not set.

        `options` has the command line's options, by the names of the settings. If an option is given (not
        None), the variable is not read. Raises ConfigError for the first value that cannot be used.
        """
        values: dict[str, Any] = {}
        for setting in fields(cls):
            name, text = f"--{setting.name}", (options or {}).get(setting.name)
            if text is None:
                name = setting.name.upper()
                text = environ.get(name, "")
            is_list = setting.type == "tuple[str, ...]"  # a blank list is an error, not open access
            if not (text if is_list else text.strip()):
                continue
            try:
                values[setting.name] = setting.metadata["parse"](text.strip())
                text.encode()  # raises for lone surrogates, which stand for broken UTF-8 in the environment
            except Hint as hint:
                raise ConfigError(f"{name} {hint}") from None
            except (ValueError, LookupError, RecursionError):
                # A URL may hold a password.
                shown = f", not {text.strip()!r}" if setting.repr and "@" not in text else ""
                if name == "HOST":
                    shown += " (some shells and conda export a HOST of their own: unset it, or use --host)"
                raise ConfigError(f"{name} must be {setting.metadata['wants']}{shown}") from None
        config = cls(**values)
        config._check_together()
        return config

    def _check_together(self) -> None:
        gives_key = self.llm_api_key or "authorization" in map(str.lower, self.llm_headers)
        if gives_key and urlsplit(self.llm_server_url).username is not None:
            message = "LLM_SERVER_URL must be without user:password@, for there is an LLM_API_KEY as well"
            raise ConfigError(message)

    @property
    def llm_shown(self) -> str:
        """The LLM's URL for the log: without user, password and query."""
        parts = urlsplit(self.llm_server_url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def read_dotenv(text: str) -> dict[str, str]:
    """The variables of a .env file; `$` is not expanded. Raises ConfigError, which names the bad line."""
    from dotenv.parser import parse_stream  # imported here, so that a start without .env is faster

    found = {}
    for binding in parse_stream(io.StringIO(text)):
        is_odd = "\0" in binding.original.string  # an environment variable cannot hold a NUL
        if is_odd or binding.error or (binding.key is not None and binding.value is None):
            line = binding.original.line + re.split(r"\S", binding.original.string, maxsplit=1)[0].count("\n")
            raise ConfigError(f".env: line {line} cannot be read; it must be NAME=value")
        if binding.key is not None:
            found[binding.key] = binding.value or ""
    return found
