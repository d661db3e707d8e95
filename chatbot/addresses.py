"""Reads what names a place on the network: hosts, URLs, origins, as they are compared and asked for later."""

from __future__ import annotations

import ipaddress
import re

from yarl import URL

_HOST = re.compile(r"[a-z0-9_.:-]+", re.IGNORECASE)
_NO_ORIGINS = ("about", "blob", "data", "file", "ftp", "javascript", "ws", "wss")


class Hint(ValueError):
    """A value that cannot be used, and what to write instead; nothing secret stands in it."""


def _require_host(url: URL) -> None:
    host = url.raw_host or ""
    if not _HOST.fullmatch(host) or not url.host:  # which raises UnicodeError, a ValueError, for bad punycode
        raise ValueError
    if host.rpartition(".")[2].isdigit():  # an IPv4 address; browsers and resolvers write 127.1 out
        ipaddress.ip_address(host)
    host.encode("idna")  # raises it for labels that are empty or too long


def base_url(text: str) -> str:
    """The URL of an LLM server; raises ValueError for one that an HTTP client cannot ask."""
    url = URL(text)
    if url.scheme not in ("http", "https") or url.port == 0 or "#" in text:
        raise ValueError
    if " " in text or not text.isprintable():
        raise ValueError
    _require_host(url)
    return text if url.raw_query_string else text.rstrip("/")


def origin(text: str) -> str:
    """An origin as browsers send it (RFC 6454): scheme://host[:port]. One that never comes is refused."""
    given = text.lower().rstrip("/")
    if "*" in given:
        raise Hint(f"has {text!r}: write each origin out, there are no wildcards")
    if given == "null" or given.endswith(":"):
        raise ValueError
    if "://" not in given:
        raise Hint(f"has {text!r}: write https://{given} or http://{given}")
    url = URL(given)
    if url.scheme in _NO_ORIGINS:
        raise ValueError
    _require_host(url)
    if (sent := str(url.origin())) != given:
        raise Hint(f"has {text!r}, which no browser sends: write {sent}")
    return sent


def listen_address(text: str) -> str:
    """An address to listen on; raises ValueError for a name that is not localhost."""
    if text.lower() == "localhost":
        return "localhost"
    return str(ipaddress.ip_address(text))
