"""Parses and normalises addresses: URLs of LLM servers, origins of browsers, addresses to listen on."""

from __future__ import annotations

import ipaddress
import re

from yarl import URL

_HOST = re.compile(r"[a-z0-9_.:-]+", re.IGNORECASE)
_NO_ORIGINS = ("about", "blob", "data", "file", "ftp", "javascript", "ws", "wss")


class Hint(ValueError):
    """Says why a value cannot be used, or what to write instead. It contains nothing secret."""


def _require_host(url: URL) -> None:
    host = url.raw_host or ""
    if not _HOST.fullmatch(host) or not url.host:  # reading host raises UnicodeError for bad punycode
        raise ValueError
    if host.rpartition(".")[2].isdigit():  # an IPv4 address; short forms like 127.1 are refused
        ipaddress.ip_address(host)
    host.encode("idna")  # raises it for labels that are empty or too long


def base_url(text: str) -> str:
    """The URL of an LLM server. Raises ValueError if an HTTP client cannot use it."""
    url = URL(text)
    if url.scheme not in ("http", "https") or url.port == 0 or "#" in text:
        raise ValueError
    if " " in text or not text.isprintable():
        raise ValueError
    _require_host(url)
    return text


def origin(text: str) -> str:
    """An origin as browsers send it (RFC 6454): scheme://host[:port]. Raises ValueError for any other."""
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
    """An address to listen on: an IP address or localhost. Raises ValueError for any other name."""
    if text.lower() == "localhost":
        return "localhost"
    return str(ipaddress.ip_address(text))
