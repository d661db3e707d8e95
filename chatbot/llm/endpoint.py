"""Where the LLM server is and how it is reached: URLs, headers, proxies, certificates. No I/O."""

from __future__ import annotations

import base64
import ipaddress
import ssl
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from yarl import URL

from chatbot.config import Config, ConfigError

PLACE = "{session}"
"""What stands for the key of the conversation in a header's or a field's value."""


class Endpoint:
    """The LLM server that the settings name. Raises ConfigError for a proxy that cannot be used."""

    def __init__(self, config: Config) -> None:
        url = URL(config.llm_server_url)
        path = url.path.rstrip("/").removesuffix("/chat/completions").rstrip("/")
        bare = url.with_user(None).with_query(None).with_fragment(None)
        base = bare.with_path(path or ("/v1" if url.path in ("", "/") else "/"))
        self.chat_url = (base / "chat" / "completions").with_query(url.query)
        self.models_url = (base / "models").with_query(url.query)
        self.name = "…" + base.path.rstrip("/")
        """The base URL as clients may see it: where the LLM server is, is nobody's business."""
        self._headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if config.llm_api_key:
            self._headers["Authorization"] = f"Bearer {config.llm_api_key}"
        elif url.user is not None or url.password is not None:
            pair = f"{url.user or ''}:{url.password or ''}".encode()
            self._headers["Authorization"] = f"Basic {base64.b64encode(pair).decode()}"
        self._extra_headers = dict(config.llm_headers)
        self.secrets = [config.llm_api_key, url.password or "", *self._extra_headers.values()]
        self.secrets += [value for name, value in url.query.items() if "version" not in name.lower()]
        self.secrets += [self._headers.get("Authorization", "").removeprefix("Basic ")]
        self.proxy = _proxy(url)
        # Made here, not on import, so that SSL_CERT_FILE counts that was read from a file.
        self.tls: ssl.SSLContext | bool = ssl.create_default_context() if url.scheme == "https" else True

    def headers(self, affinity: str | None) -> dict[str, str]:
        """The headers of a request."""
        return without_place(self._headers | self._extra_headers, affinity)


def without_place(fields: Mapping[str, Any], affinity: str | None) -> dict[str, Any]:
    """The fields with the conversation's key in its place; without those that want one if there is none."""
    return {
        name: _filled(value, affinity)
        for name, value in fields.items()
        if affinity is not None or not (isinstance(value, str) and PLACE in value)
    }


def _filled(value: Any, affinity: str | None) -> Any:
    if isinstance(value, str):
        return value.replace(PLACE, affinity or "")
    if isinstance(value, Mapping):
        return without_place(value, affinity)
    return [_filled(item, affinity) for item in value] if isinstance(value, list | tuple) else value


def _proxy(url: URL) -> URL | None:
    """The proxy of the environment for this URL; aiohttp's trust_env would also read ~/.netrc."""
    host = url.host or ""
    proxies = urllib.request.getproxies_environment()
    named = proxies.get(url.scheme, "")
    if not named or _is_loopback(host) or _needs_no_proxy(host, url.port, proxies.get("no", "")):
        return None
    variable = f"{url.scheme.upper()}_PROXY"
    try:
        proxy = URL(named if "://" in named else f"http://{named}")
    except ValueError:
        raise ConfigError(f"{variable} must be the URL of a proxy") from None
    if proxy.scheme not in ("http", "https") or not proxy.host:
        raise ConfigError(f"{variable} must be the URL of an HTTP proxy (SOCKS is not supported)")
    return proxy


def _needs_no_proxy(host: str, port: int | None, listed: str) -> bool:
    """Whether NO_PROXY lists the host: itself, a domain that it is in, or everything."""
    for entry in listed.lower().split(","):
        name = entry.strip().removeprefix("*").removeprefix(".")
        is_host = name in (host, f"{host}:{port}") or host.endswith(f".{name}")
        if entry.strip() == "*" or (name and is_host):
            return True
    return False


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(unquote(host)).is_loopback
    except ValueError:
        return False
