"""Asks the LLM server, which speaks the OpenAI chat-completions API in one of its dialects."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
import socket
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

import aiohttp
from aiohttp.http import HttpProcessingError
from yarl import URL

from chatbot import frames
from chatbot.answers import MAX_WHOLE_BYTES, Answer, StreamedAnswer, WholeAnswer, cut_short, timed_out
from chatbot.config import Config
from chatbot.errors import ChatError
from chatbot.silence import Silence, Watch

log = logging.getLogger(__name__)

CONNECT_SECONDS = 10.0
READY_SECONDS = 2.0
MAX_ERROR_BYTES = 64 * 1024

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False).encode
_WHOLE, _STREAMED = '"stream":false', '"stream":true,"stream_options":{"include_usage":true}'

_RETRY_AFTER = re.compile(r"\d{1,9}|[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT", re.ASCII)


class LLM:
    """The way to the LLM server that the settings name."""

    def __init__(self, config: Config) -> None:
        url = config.llm_server_url
        base = URL(url if url.endswith("/v1") else f"{url}/v1")
        self._models_url = base / "models"
        self._chat_url = base / "chat" / "completions"
        self._watch = Watch()
        self._timeout = config.llm_timeout_seconds
        self._configured_model = config.llm_model
        self._found_model = ""
        self._headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if config.llm_api_key:
            self._headers["Authorization"] = f"Bearer {config.llm_api_key}"
        self._pooled = self._session(aiohttp.TCPConnector(limit=0, socket_factory=_new_socket))
        self._fresh = self._session(aiohttp.TCPConnector(limit=0, force_close=True))

    def _session(self, connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=connector,
            headers=self._headers,
            cookie_jar=aiohttp.DummyCookieJar(),
            # The silence of an answer is watched by Answer; there is no limit on the whole.
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
            auto_decompress=False,
        )

    async def close(self) -> None:
        """Closes every connection."""
        self._watch.close()
        await self._pooled.close()
        await self._fresh.close()

    async def ask(self, messages: str, options: Mapping[str, Any], *, stream: bool) -> Answer:
        """Asks for a reply to `messages`, which are JSON, and waits until the LLM server begins to answer.

        `options` are fields of the request body, passed on as they are. Raises ChatError; TooLong
        if less of the conversation might do.
        """
        task = asyncio.current_task()
        assert task
        silence = Silence(self._watch, self._timeout, task.cancel)  # from the question to the answer's end
        try:
            if "model" in options or self._configured_model:
                model = options.get("model", self._configured_model)
                response = await self._post(messages, options, model, stream)
            else:
                response = await self._post_with_found_model(messages, options, stream)
            return (StreamedAnswer if stream else WholeAnswer)(response, silence)
        except BaseException as error:
            silence.end()
            # Nobody else may have cancelled the task too; cf. asyncio.timeout.
            if silence.broken and not task.uncancel() and isinstance(error, asyncio.CancelledError):
                raise timed_out(silence.seconds) from None
            raise

    async def _post_with_found_model(
        self, messages: str, options: Mapping[str, Any], stream: bool
    ) -> aiohttp.ClientResponse:
        """Asks for the first model there is; looks again if the one remembered is refused."""
        known, self._found_model = self._found_model, self._found_model or await self._find_model()
        try:
            return await self._post(messages, options, self._found_model, stream)
        except _ModelRefused:
            self._found_model = ""
            if not known:
                raise
        self._found_model = await self._find_model()
        return await self._post(messages, options, self._found_model, stream)

    async def _find_model(self) -> str:
        """The first model that the LLM server lists."""
        async with await self._request("GET", self._models_url) as response:
            if response.status != 200:
                raise await _refusal(response, client_chose_model=False)
            listed = frames.parse_object(await _read_start(response, MAX_WHOLE_BYTES)).get("data")
        first = listed[0] if isinstance(listed, list) and listed else None
        model = first.get("id") if isinstance(first, dict) else None
        if not isinstance(model, str) or not model.isprintable() or not model:
            raise ChatError("llm_error", "The LLM server lists no model; name one with LLM_MODEL.")
        return model

    async def _post(
        self, messages: str, options: Mapping[str, Any], model: str, stream: bool
    ) -> aiohttp.ClientResponse:
        # Mostly there are no options, and making a JSON encoder costs more than its work.
        fields = _encode({**options, "model": model})[1:-1] if options else f'"model":{_encode(model)}'
        data = f'{{"messages":{messages},{fields},{_STREAMED if stream else _WHOLE}}}'
        response = await self._request("POST", self._chat_url, data.encode())
        if response.status == 200:
            if response.headers.get("Content-Encoding", "identity").lower() == "identity":
                return response
            response.close()
            raise ChatError("llm_error", "The LLM server compressed its answer, unasked.")
        async with response:
            raise await _refusal(response, client_chose_model="model" in options)

    async def _request(self, method: str, url: URL, data: bytes | None = None) -> aiohttp.ClientResponse:
        """Sends a request and waits for the head of the answer.

        A pooled connection may have died unnoticed (llama-server closes each without saying so): a
        request that fails on one before its answer begins is sent once more on a fresh one.
        """
        sockets: list[socket.socket] = []
        _sockets.set(sockets)
        try:
            try:
                return await self._pooled.request(method, url, data=_body(data), allow_redirects=False)
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
                if sockets:  # it was fresh
                    raise
                return await self._fresh.request(method, url, data=_body(data), allow_redirects=False)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            log.warning("llm: cannot connect: %s", error)
            message = "The LLM server cannot be reached; is it running at LLM_SERVER_URL?"
            raise ChatError("llm_unavailable", message) from None
        except aiohttp.ClientError as error:
            raise cut_short(error) from None

    async def ready(self) -> str:
        """How the LLM server is: "ok", "loading", "unreachable", "unauthorized" or "error"."""
        try:
            async with (
                asyncio.timeout(READY_SECONDS),
                await self._request("GET", self._models_url) as response,
            ):
                status = response.status
        except (TimeoutError, ChatError):
            return "unreachable"
        if status in (404, 405) and self._configured_model:
            return "ok"  # it is there and has no list of models, which nobody needs
        return {200: "ok", 503: "loading", 401: "unauthorized", 403: "unauthorized"}.get(status, "error")


class _ModelRefused(ChatError):
    """The LLM server does not have the model."""


_sockets: ContextVar[list[socket.socket]] = ContextVar("_sockets")
"""The sockets made for the request that runs: none if its connection comes from the pool.

aiohttp tells as much through a TraceConfig, at 30 to 60 µs a request.
"""


def _new_socket(address: tuple[Any, ...]) -> socket.socket:
    made = socket.socket(*address[:3])
    _sockets.get().append(made)
    return made


def _body(data: bytes | None) -> bytes | io.BytesIO | None:
    """The body as aiohttp likes it: it warns of bytes of over 1 MiB, which it would write at once."""
    return io.BytesIO(data) if data and len(data) > 1024 * 1024 else data


async def _read_start(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """The body, or its first `limit` bytes."""
    parts: list[bytes] = []
    try:
        while limit > 0 and (data := await response.content.readany()):
            parts.append(data[:limit])
            limit -= len(data)
    except (aiohttp.ClientError, HttpProcessingError) as error:
        raise cut_short(error) from None
    return b"".join(parts)


async def _refusal(response: aiohttp.ClientResponse, *, client_chose_model: bool) -> ChatError:
    """What it means that the LLM server answered with anything but a plain 200."""
    status = response.status
    body = await _read_start(response, MAX_ERROR_BYTES)
    try:
        parsed = frames.parse_object(body)
    except ChatError:
        parsed = {}
    error = parsed.get("error") or parsed
    message = frames.error_message(error)
    # For the log the status alone: the LLM's words may quote the conversation.
    log.warning("llm: answered %d", status)
    retry_after = response.headers.get("Retry-After", "")
    if not _RETRY_AFTER.fullmatch(retry_after):
        retry_after = ""
    if status == 429:
        text = "The LLM server limits the rate of requests."
        return ChatError("llm_rate_limited", text, retry_after=retry_after or None)
    if status == 503:
        text = f"The LLM server is not available now: {message or 'it answered 503'}"
        return ChatError("llm_unavailable", text, retry_after=retry_after or None)
    if status in (400, 413, 422, 500) and frames.is_too_long(error):
        return frames.too_long()
    if status in (401, 402, 403):
        return ChatError("llm_error", "The LLM server refused the credentials; see LLM_API_KEY.")
    told = message or f"it answered {status}"
    if status == 404 and not client_chose_model:
        return _ModelRefused("llm_error", f"The LLM server does not have the model or the path: {told}")
    if 400 <= status < 500 and status != 408:  # a timeout is not the client's doing
        return ChatError("llm_rejected", f"The LLM server rejected the request: {told}")
    return ChatError("llm_error", f"The LLM server failed: it answered {status}.")
