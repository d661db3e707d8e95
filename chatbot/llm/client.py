"""Asks the LLM server, which speaks the OpenAI chat-completions API in one of its dialects."""

from __future__ import annotations

import asyncio
import errno
import io
import logging
from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakSet

import aiohttp

from chatbot.config import SERVER_FIELDS, Config
from chatbot.errors import ChatError
from chatbot.llm import errors, models
from chatbot.llm.chunks import ChunkReader
from chatbot.llm.connections import Pool, is_fresh, needs_fresh
from chatbot.llm.dialect import Dialect
from chatbot.llm.endpoint import Endpoint, without_place
from chatbot.llm.idle_timeout import IdleTimeout
from chatbot.llm.models import NO_MODELS
from chatbot.llm.reports import Reports
from chatbot.llm.response import BROKEN, MAX_WHOLE_BYTES, Answer
from chatbot.records import as_json

log = logging.getLogger(__name__)

CONNECT_SECONDS = 10.0
"""The timeout for looking up the LLM server's address and connecting to it."""

LIST_SECONDS = 2.0
"""The timeout for the list of models where a chat does not need the list."""
MAX_HEADER_BYTES = 32 * 1024
MAX_HEADERS = 1000  # a chain of gateways adds many
MAX_ERROR_BYTES = 64 * 1024

_NO_FILES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL)


class LLM:
    """The client of the LLM server that the settings name."""

    def __init__(self, config: Config) -> None:
        self._endpoint = Endpoint(config)
        self._reports = Reports(self._endpoint.secrets)
        self._extra_body = {k: v for k, v in config.llm_extra_body.items() if k not in SERVER_FIELDS}
        self._patience = config.llm_timeout_seconds
        self._configured_model = config.llm_model or str(self._extra_body.pop("model", "") or "")
        self._models = NO_MODELS
        self._has_looked = False  # whether the list was asked for, even if it could not be read
        self._looking = asyncio.Lock()
        self._dialect = Dialect()
        self._has_answered = False
        self._responses: WeakSet[aiohttp.ClientResponse] = WeakSet()
        self._session = aiohttp.ClientSession(
            connector=Pool(ssl=self._endpoint.tls),
            cookie_jar=aiohttp.DummyCookieJar(),
            # IdleTimeout limits the silence of an answer. The whole answer has no time limit.
            timeout=aiohttp.ClientTimeout(total=None, connect=CONNECT_SECONDS),
            max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES,
            max_headers=MAX_HEADERS,
        )

    async def close(self) -> None:
        """Closes every connection, also those of answers that nobody reads any more."""
        for response in list(self._responses):
            response.close()
        await self._session.close()

    # Asking

    async def ask(
        self, messages: Sequence[str], fields: Mapping[str, Any], *, affinity: str | None = None
    ) -> Answer:
        """Asks for a reply to `messages` (JSON texts), and waits until the head of the answer has arrived.

        `fields` override those of LLM_EXTRA_BODY; nulls and fields that this LLM server has refused are left
        out. `affinity` is the key of the conversation. Raises ChatError, which is a TooLong if the LLM might
        accept a shorter conversation.
        """
        chosen = {name: value for name, value in fields.items() if value is not None}
        return await self._ask(f"[{','.join(messages)}]", chosen, affinity)

    async def relay(self, body: Mapping[str, Any], *, affinity: str | None = None) -> Answer:
        """Sends a client's own request body as a streamed request; the chunks are passed on as they come."""
        chosen = {name: value for name, value in body.items() if name not in ("messages", "stream")}
        return await self._ask(as_json(body.get("messages")), chosen, affinity, is_relay=True)

    async def _ask(
        self, messages: str, chosen: dict[str, Any], affinity: str | None, *, is_relay: bool = False
    ) -> Answer:
        """Asks, with an IdleTimeout until the head has arrived. The Answer then has its own IdleTimeout."""
        body = without_place(self._extra_body, affinity) | chosen
        task = asyncio.current_task()
        assert task
        idle = IdleTimeout(self._patience, task.cancel)
        try:
            response = await self._post(messages, body, affinity)
        except asyncio.CancelledError:
            # If somebody else has also cancelled the task, it is a cancel (as in asyncio.timeout).
            if not idle.has_fired or task.uncancel():
                raise
            raise self._reports.report(self._silent(), messages) from None
        except ChatError as error:
            raise self._reports.report(error, messages) from None
        finally:
            idle.end()
        room = body.get("max_completion_tokens") or body.get("max_tokens")
        size = self.context_size(str(body["model"]))
        reader = ChunkReader(is_relay=is_relay, context_size=size, room=room)
        return Answer(response, self._patience, reader, self._reports.report, messages)

    async def _post(
        self, messages: str, body: dict[str, Any], affinity: str | None
    ) -> aiohttp.ClientResponse:
        """Asks again without each optional field that the LLM server refuses. Sets body["model"]."""
        chose_model = "model" in body
        refused, left_out = "", set[str]()
        while True:
            body["model"] = model = await self.model_for(body if chose_model else {})
            sent = self._dialect.fields_it_takes(body)
            fields = [f"{as_json(name)}:{as_json(value)}" for name, value in sent.items()]
            fields.append(f'"messages":{self._dialect.messages_it_takes(messages)}')
            data = f"{{{','.join(fields)}}}".encode()
            response = await self._request("POST", self._endpoint.chat_url, affinity, data)
            if response.status in range(200, 300) and response.status != 204:  # Portkey also uses 246
                self._has_answered = True
                self._responses.add(response)
                return response
            words = await _body(response, MAX_ERROR_BYTES)
            failure = errors.read_failure(response.status, response.headers, words)
            if field := self._dialect.learns_from(failure, sent, messages):
                left_out.add(field)
                continue
            is_found = not (chose_model or self._configured_model)
            if is_found and (failure.status == 404 or failure.kind == "model") and model != refused:
                refused, self._models = model, NO_MODELS  # ask once for a new list
                if await self.model_for({}) != model:
                    continue
            self._dialect.forget(left_out)
            self._has_answered &= failure.status != 401  # the API key was valid, but is not any more
            raise failure.to_error(chose_model=chose_model, where=self._endpoint.name)

    # Its models

    async def model_for(self, fields: Mapping[str, Any]) -> str:
        """Returns the model for a request: from its fields, the configured one, or the first of the list.

        Asks for the list even if the model is known, because it may have context sizes. Raises ChatError.
        """
        named = str(fields.get("model") or self._configured_model)
        if named and self._has_looked:
            return named
        try:
            async with asyncio.timeout(LIST_SECONDS if named else self._patience), self._looking:
                if not (self._models.first or (named and self._has_looked)):
                    self._models = models.read(await self.models())
        except TimeoutError:
            if not named:
                raise self._silent() from None
        except ChatError as error:
            if not named:
                raise
            # The LLM server may not have started yet, so the next chat asks for the list again.
            if error.code == "llm_unavailable" and not self._has_answered:
                return named
        self._has_looked = True
        return named or self._models.first

    def context_size(self, model: str) -> int | None:
        """Returns the model's context size in tokens, if the list of models has it."""
        return self._models.sizes.get(model)

    async def models(self) -> bytes:
        """The LLM server's list of models, as JSON. Raises ChatError."""
        return self._good(*await self._list(self._patience))

    async def _list(self, seconds: float) -> tuple[aiohttp.ClientResponse, bytes]:
        try:
            async with asyncio.timeout(seconds):
                response = await self._request("GET", self._endpoint.models_url, None)
                return response, await _body(response, MAX_WHOLE_BYTES)
        except TimeoutError:
            raise errors.ours("timeout", f"{seconds:g}") from None

    def _good(self, response: aiohttp.ClientResponse, body: bytes) -> bytes:
        """The body of a good answer. Raises ChatError for any other."""
        if response.status == 200:
            return body
        failure = errors.read_failure(response.status, response.headers, body[:MAX_ERROR_BYTES])
        error = failure.to_error(where=self._endpoint.name)
        error.message = self._reports.mask(error.message)
        raise error

    async def ready(self) -> tuple[str, str]:
        """Returns a state ("ok", "loading", "unreachable", "unauthorized" or "error") and a note."""
        try:
            response, body = await self._list(LIST_SECONDS)
        except ChatError as error:
            return "unreachable", error.message
        try:
            listed = models.read(self._good(response, body))
        except ChatError as error:
            kind, note = error.kind, f"The list of models: {error.message}"
        else:
            # The model in use stays until the LLM server refuses it, also if the order of the list changes.
            self._models = listed._replace(first=self._models.first or listed.first)
            return "ok", ""
        # Chats may not need the list, which may be missing, empty or forbidden.
        is_missing = response.status in (404, 405) and body.lstrip()[:1] != b"<"
        can_do_without = self._configured_model and (kind == "model" or is_missing)
        if kind != "loading" and (self._has_answered or can_do_without):
            return "ok", note
        states = {"loading": "loading", "credentials": "unauthorized", "forbidden": "unauthorized"}
        return states.get(kind, "error"), note

    # HTTP

    def _silent(self) -> ChatError:
        return errors.ours("timeout", f"{self._patience:g}")

    async def _request(
        self, method: str, url: Any, affinity: str | None, data: bytes | None = None
    ) -> aiohttp.ClientResponse:
        """Sends a request and waits for the head of the answer.

        A pooled connection may be dead already (llama-server closes connections without notice). If a request
        fails on a pooled connection before its answer begins, it is sent again on a fresh connection.
        """
        options: dict[str, Any] = {"headers": self._endpoint.headers(affinity), "proxy": self._endpoint.proxy}
        for is_last in (False, True):
            # aiohttp writes bytes in one piece, and warns if they exceed 1 MiB.
            body = io.BytesIO(data) if data and len(data) > 1024 * 1024 else data
            needs_fresh.set(is_last)
            try:
                return await self._session.request(method, url, data=body, allow_redirects=False, **options)
            except (aiohttp.ClientError, OSError) as error:
                is_dead = isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError)
                if is_fresh.get() or not is_dead:
                    raise self._unreachable(error) from None
        raise AssertionError("the last connection was fresh, so its error was raised")

    def _unreachable(self, error: Exception) -> ChatError:
        """Returns the ChatError for a request whose answer did not begin."""
        error.__traceback__ = None
        # The text of other errors may quote bytes of the answer.
        reason = self._reports.mask(str(error)) if isinstance(error, OSError) else type(error).__name__
        log.warning("llm: cannot connect: %s", reason)
        if getattr(error, "errno", None) in _NO_FILES:
            return errors.ours("files")
        if isinstance(error, aiohttp.ClientSSLError):
            return errors.ours("tls", getattr(error, "certificate_error", error.os_error))
        if isinstance(error, aiohttp.ClientHttpProxyError):
            return errors.ours("proxy", f"it answered {error.status}")
        if isinstance(error, aiohttp.ClientProxyConnectionError):
            return errors.ours("proxy", "it cannot be reached")
        if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
            return errors.ours("unreachable")
        if isinstance(error, aiohttp.ClientResponseError) and error.message.startswith("Got more than"):
            return errors.ours("large", "headers of over 32 KiB")
        if isinstance(error, aiohttp.ClientResponseError) and "content-encoding" in error.message:
            return errors.ours("nonsense", error.message)
        return errors.ours("cut")


async def _body(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """Returns at most `limit` bytes of the body; if the connection breaks, what had arrived."""
    parts: list[bytes] = []
    async with response:
        try:
            while limit > 0 and (data := await response.content.readany()):
                parts.append(data[:limit])
                limit -= len(data)
        except BROKEN as error:
            error.__traceback__ = None
    return b"".join(parts)
