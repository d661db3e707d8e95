"""Reads what names a place on the network: hosts, URLs, origins, as they are compared and asked for later."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

from yarl import URL

_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_DEFAULT_PORTS = {"http": 80, "https": 443}
_NO_ORIGINS = ("about", "blob", "data", "file", "ftp", "javascript", "ws", "wss")


class Hint(ValueError):
    """A value that cannot be used, and what to write instead; nothing secret stands in it."""


def canonical_host(host: str) -> str:
    """A host as browsers and HTTP clients write it; raises ValueError if it is none."""
    try:
        address = ipaddress.ip_address(host)
        return f"[{address}]" if address.version == 6 else str(address)
    except ValueError:
        name = URL(f"http://{host}/").raw_host or ""
    labels = name.lower().removesuffix(".").split(".")
    # A last label of digits would be taken for an odd way to write an IPv4 address.
    if not all(_LABEL.fullmatch(label) for label in labels) or labels[-1].isdigit() or len(name) > 253:
        raise ValueError
    return name.lower()


def base_url(text: str) -> str:
    """The URL of an LLM server; raises ValueError for one that an HTTP client cannot ask."""
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.fragment:
        raise ValueError
    if " " in text or not text.isprintable() or parts.port == 0:  # it raises ValueError when it is no port
        raise ValueError
    if "[" in parts.netloc:
        ipaddress.IPv6Address(parts.hostname)
    canonical_host(parts.hostname)
    return text if parts.query else text.rstrip("/")


def origin(text: str) -> str:
    """An origin as browsers send it (RFC 6454): scheme://host[:port]. One that never comes is refused."""
    given = text.lower().rstrip("/")
    if "*" in given:
        raise Hint(f"has {text!r}: write each origin out, there are no wildcards")
    if given == "null" or given.endswith(":"):
        raise ValueError
    if "://" not in given:
        raise Hint(f"has {text!r}: write https://{given} or http://{given}")
    parts = urlsplit(given)
    if parts.scheme in _NO_ORIGINS or not parts.hostname or parts.username is not None:
        raise ValueError
    port = "" if parts.port in (None, _DEFAULT_PORTS.get(parts.scheme)) else f":{parts.port}"
    is_web = parts.scheme in _DEFAULT_PORTS
    host = canonical_host(parts.hostname) if is_web else parts.netloc.partition(":")[0]
    sent = f"{parts.scheme}://{host}{port}"
    if sent != given:
        raise Hint(f"has {text!r}, which no browser sends: write {sent}")
    return sent


def listen_address(text: str) -> str:
    """An address to listen on; raises ValueError for a name that is not localhost."""
    if text.lower() == "localhost":
        return "localhost"
    return str(ipaddress.ip_address(text))
