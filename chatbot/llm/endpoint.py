"""The address of the LLM server and how to reach it: URLs, headers, proxies, certificates. No I/O."""

from __future__ import annotations

import base64
import ipaddress
import json
import ssl
import urllib.request
from collections.abc import Mapping
from typing import Any

from aiohttp import hdrs
from yarl import URL

from chatbot.addresses import base_url
from chatbot.config import Config, ConfigError
from chatbot.records import as_json

PLACE = "{session}"
"""The placeholder for the key of the conversation, in the value of a header or a field."""


class Endpoint:
    """The LLM server that the settings name. Raises ConfigError for a proxy that cannot be used.

    `name` is the base URL as clients may see it, so it does not say where the LLM server is.
    """

    def __init__(self, config: Config) -> None:
        url = URL(config.llm_server_url)
        path = url.raw_path.rstrip("/").removesuffix("/chat/completions").rstrip("/")
        base = url.with_user(None).with_path(path or ("/" if url.path.strip("/") else "/v1"), encoded=True)
        self.chat_url = (base / "chat" / "completions").with_query(url.query)
        self.models_url = (base / "models").with_query(url.query)
        self.name = "…" + base.path.rstrip("/")
        self._headers: dict[str, str] = {
            hdrs.CONTENT_TYPE: "application/json",
            hdrs.ACCEPT_ENCODING: "identity",
        }
        pair = base64.b64encode(f"{url.user or ''}:{url.password or ''}".encode()).decode()
        if config.llm_api_key:
            self._headers[hdrs.AUTHORIZATION] = f"Bearer {config.llm_api_key}"
        elif url.user is not None or url.password is not None:
            self._headers[hdrs.AUTHORIZATION] = f"Basic {pair}"
        self._headers |= config.llm_headers
        queries = [value for name, value in url.query.items() if "version" not in name]
        self.secrets = [config.llm_api_key, url.password or "", pair, *config.llm_headers.values(), *queries]
        self.proxy = _proxy(url)
        # Made here, not on import, because SSL_CERT_FILE may have been read from .env after the imports.
        self.tls: ssl.SSLContext | bool = ssl.create_default_context() if url.scheme == "https" else True

    def headers(self, affinity: str | None) -> dict[str, str]:
        """Returns the headers of a request."""
        return without_place(self._headers, affinity)


def without_place(fields: Mapping[str, Any], affinity: str | None) -> dict[str, Any]:
    """Replaces PLACE by the conversation's key. Without a key, leaves out the fields that have PLACE."""
    if affinity is not None:
        return dict(json.loads(as_json(fields).replace(PLACE, affinity)))
    inner = {k: without_place(v, None) if isinstance(v, Mapping) else v for k, v in fields.items()}
    return {k: v for k, v in inner.items() if PLACE not in str(v)}


def _proxy(url: URL) -> URL | None:
    """Returns the environment's proxy for this URL. (aiohttp's trust_env would also read ~/.netrc.)"""
    host, proxies = url.host or "", urllib.request.getproxies_environment()
    named = proxies.get(url.scheme, "")
    try:
        is_loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_loopback = host == "localhost" or host.endswith(".localhost")
    bypasses = urllib.request.proxy_bypass_environment  # type: ignore[attr-defined]
    if not named or is_loopback or bypasses(f"{host}:{url.port}", proxies):
        return None
    try:
        return URL(base_url(named if "://" in named else f"http://{named}"))
    except ValueError:
        raise ConfigError(
            f"{url.scheme.upper()}_PROXY must be the URL of an HTTP proxy (SOCKS is not supported)"
        ) from None
