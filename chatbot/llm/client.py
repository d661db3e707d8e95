"""Asks the LLM server, which speaks the OpenAI chat-completions API in one of its dialects."""

from __future__ import annotations

import asyncio
import errno
import io
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any
from weakref import WeakSet

import aiohttp

from chatbot.config import Config
from chatbot.errors import ChatError
from chatbot.llm import errors, models
from chatbot.llm.chunks import ChunkReader
from chatbot.llm.connections import Pool, is_fresh
from chatbot.llm.endpoint import Endpoint, without_place
from chatbot.llm.errors import Failure
from chatbot.llm.idle_timeout import IdleTimeout
from chatbot.llm.models import Models
from chatbot.llm.reports import Reports
from chatbot.llm.response import BROKEN, MAX_WHOLE_BYTES, Answer
from chatbot.records import as_json

CONNECT_SECONDS = 10.0
LIST_SECONDS = 2.0
"""How long the list of models may take, where a chat can do without it."""
MAX_HEADER_BYTES = 32 * 1024
MAX_ERROR_BYTES = 64 * 1024

OWNED = ("messages", "stream", "stream_options", "n")
"""Fields of a request that are ours, whatever LLM_EXTRA_BODY says."""

_LIMITS = ("max_tokens", "max_completion_tokens")
_REFUSED = re.compile(
    r"unsupported|not supported|not support|unknown|unrecognized|unexpected|extra (inputs|fields)|extra_forbidden"
    r"|not permitted|not allowed|invalid (param|argument|field)|must be verified|deprecated|instead",
    re.I,
)
_NO_FILES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL)


class LLM:
    """The way to the LLM server that the settings name. What it was seen to refuse is not asked again."""

    def __init__(self, config: Config) -> None:
        self._endpoint = Endpoint(config)
        self._reports = Reports(self._endpoint.secrets)
        self._extra_body = {k: v for k, v in config.llm_extra_body.items() if k not in OWNED}
        self._patience = config.llm_timeout_seconds
        self._configured_model = config.llm_model or str(self._extra_body.pop("model", "") or "")
        self._models: Models | None = None
        self._has_looked = False  # at the list, though it may not have been there
        self._looking = asyncio.Lock()
        self._refused: set[str] = set()  # "stream", "stream_options", or the name of a limit that has another
        self._has_answered = False
        self._responses: WeakSet[aiohttp.ClientResponse] = WeakSet()  # some may be read to their end by nobody
        self._pooled = self._session(Pool(ssl=self._endpoint.tls))
        self._fresh = self._session(aiohttp.TCPConnector(limit=0, force_close=True, ssl=self._endpoint.tls))

    def _session(self, connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            # The silence of an answer is watched by IdleTimeout; there is no limit on the whole.
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
            auto_decompress=False,
            max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES,
        )

    async def close(self) -> None:
        """Closes every connection."""
        for response in list(self._responses):
            response.close()
        await self._pooled.close()
        await self._fresh.close()

    # Asking

    async def ask(
        self, messages: Sequence[str], fields: Mapping[str, Any], *, affinity: str | None = None
    ) -> Answer:
        """Asks for a reply to `messages`, which are JSON texts, and waits until the LLM begins to answer.

        `fields` are fields of the request, passed on as they are, over LLM_EXTRA_BODY. `affinity` is the key of
        the conversation. Raises ChatError; TooLong if less of the conversation might do.
        """
        said = f"[{','.join(messages)}]"
        chosen = {name: value for name, value in fields.items() if value is not None}
        body = without_place(self._extra_body, affinity) | chosen

        def begin(response: aiohttp.ClientResponse, idle: IdleTimeout) -> Answer:
            reader = ChunkReader(context_size=self.context_size(str(body.get("model"))))
            return Answer(response, idle, self._patience, reader, lambda e: self._reports.report(e, said))

        return await self._ask(said, body, affinity, begin, wants_stream=True)

    async def relay(self, body: Mapping[str, Any], *, affinity: str | None = None) -> Answer:
        """Asks with a client's own request body, streamed or whole as it says; chunks come as the LLM sent them.

        If `answer.is_whole`, the one chunk is the whole completion, or, where a stream was asked for, made one.
        """
        wants_stream = bool(body.get("stream"))
        said = as_json(body.get("messages"))
        chosen = {k: v for k, v in body.items() if k not in ("messages", "stream")}
        fields = without_place(self._extra_body, affinity) | chosen

        def begin(response: aiohttp.ClientResponse, idle: IdleTimeout) -> Answer:
            reader = ChunkReader(keep="stream" if wants_stream else "whole")
            return Answer(response, idle, self._patience, reader, lambda e: self._reports.report(e, said))

        return await self._ask(said, fields, affinity, begin, wants_stream=wants_stream)

    async def _ask(
        self,
        said: str,
        body: dict[str, Any],
        affinity: str | None,
        begin: Callable[[aiohttp.ClientResponse, IdleTimeout], Answer],
        *,
        wants_stream: bool,
    ) -> Answer:
        task = asyncio.current_task()
        assert task
        idle = IdleTimeout(self._patience, task.cancel)  # from the question to the answer's end
        try:
            try:
                return begin(await self._post(said, body, affinity, wants_stream), idle)
            except asyncio.CancelledError:
                # Nobody else may have cancelled the task too; cf. asyncio.timeout.
                if idle.has_fired and not task.uncancel():
                    raise errors.ours("timeout", f"{self._patience:g}") from None
                raise
        except BaseException as error:
            idle.end()
            if isinstance(error, ChatError):
                self._reports.report(error, said)
            raise

    async def _post(
        self, said: str, body: dict[str, Any], affinity: str | None, wants_stream: bool
    ) -> aiohttp.ClientResponse:
        """Asks until the LLM server refuses nothing that can be done without."""
        chose_model = "model" in body
        found = "" if chose_model or self._configured_model else "?"
        while True:
            model = await self.model_for(body)
            sent = self._adapted(body | {"model": model}, wants_stream)
            fields = [f"{as_json(name)}:{as_json(value)}" for name, value in sent.items()]
            fields.append(f'"messages":{said}')
            data = f"{{{','.join(fields)}}}".encode()
            response = await self._request("POST", self._endpoint.chat_url, affinity, data)
            if response.status == 200:
                body["model"] = model
                return self._accept(response)
            async with response:
                failure = errors.read_failure(
                    response.status, response.headers, await _read_start(response, MAX_ERROR_BYTES)
                )
            if self._learns_from(failure, sent):
                continue
            if found and (failure.status == 404 or failure.kind == "model") and model != found:
                found, self._models = model, None  # one look at the list, where it may have another by now
                if await self.model_for(body) != model:
                    continue
            raise failure.to_error(chose_model=chose_model, where=self._endpoint.name)

    def _accept(self, response: aiohttp.ClientResponse) -> aiohttp.ClientResponse:
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            response.close()
            raise errors.ours("compressed")
        self._has_answered = True
        self._responses.add(response)
        return response

    def _adapted(self, body: dict[str, Any], wants_stream: bool) -> dict[str, Any]:
        """The fields as this LLM server takes them, by all that it has refused."""
        for name, other in (_LIMITS, _LIMITS[::-1]):
            if name in self._refused and name in body and other not in body:
                body[other] = body.pop(name)
        if not wants_stream or "stream" in self._refused:
            return body | {"stream": False}
        if "stream_options" in self._refused:
            body.pop("stream_options", None)
            return body | {"stream": True}
        return body | {"stream": True, "stream_options": {"include_usage": True}}

    def _learns_from(self, failure: Failure, sent: Mapping[str, Any]) -> bool:
        """Whether the LLM server refused a field that we can do without; remembered."""
        text = f"{failure.codes} {failure.words}"
        if not 400 <= failure.status < 600 or not _REFUSED.search(text):
            return False
        for name, other in (_LIMITS, _LIMITS[::-1]):
            # The first limit that is named is the one that is refused; the other may be what is wanted.
            first = re.search(r"\bmax_(completion_)?tokens\b", text)
            if first and first[0] == name and name in sent and other not in sent and other not in self._refused:
                self._refused.add(name)
                return True
        for name in ("stream_options", "stream"):
            is_named = re.search(rf"\b{name}(ing)?\b", text) is not None
            if is_named and sent.get(name) and name not in self._refused:
                self._refused.add(name)
                return True
        return False

    # Its models

    async def model_for(self, fields: Mapping[str, Any]) -> str:
        """The model that a request with these fields is for: named there, configured, or the first of the list.

        The list is asked once: it may also say how much the models take. Raises ChatError.
        """
        named = fields.get("model") or self._configured_model
        if named and self._has_looked:
            return str(named)
        async with self._looking:
            if not self._models and not (named and self._has_looked):
                try:
                    async with asyncio.timeout(LIST_SECONDS if named else None):
                        self._models = models.read(await self.models())
                except (ChatError, TimeoutError):
                    if not named:
                        raise
                self._has_looked = True
        return str(named) if named else self._models.first if self._models else ""

    def context_size(self, model: str) -> int | None:
        """How many tokens the model takes, if the list of models says so."""
        return self._models.sizes.get(model) if self._models else None

    async def models(self) -> bytes:
        """The LLM server's list of models, as JSON. Raises ChatError."""
        response = await self._request("GET", self._endpoint.models_url, None)
        async with response:
            body = await _read_start(response, MAX_WHOLE_BYTES)
        if response.status != 200:
            failure = errors.read_failure(response.status, response.headers, body)
            error = failure.to_error(where=self._endpoint.name)
            error.message = self._reports.mask(error.message)
            raise error
        return body

    async def ready(self) -> tuple[str, str]:
        """How the LLM server is: "ok", "loading", "unreachable", "unauthorized" or "error"; and a note."""
        try:
            async with asyncio.timeout(LIST_SECONDS):
                response = await self._request("GET", self._endpoint.models_url, None)
                async with response:
                    body = await _read_start(response, MAX_WHOLE_BYTES)
        except (TimeoutError, ChatError) as error:
            return "unreachable", error.message if isinstance(error, ChatError) else "no answer in time"
        status = response.status
        failure = errors.read_failure(status, response.headers, body)
        try:
            if status == 200:
                self._models = models.read(body)
                return "ok", ""
        except ChatError as error:
            note = self._reports.mask(error.message)
            is_list = error.kind == "model" or self._has_answered
            return ("ok" if self._configured_model and is_list else "error"), self._no_api(note)
        note = self._reports.mask(f"the list of models answers {status}: {failure.words}"[:300].rstrip(": "))
        if status == 503:
            return "loading", note
        if self._has_answered or (self._configured_model and status in (404, 405) and not _is_page(body)):
            return "ok", note  # chats need no list
        if status in (401, 403):
            return "unauthorized", note
        return "error", self._no_api(note) if failure.is_no_api else note

    def _no_api(self, note: str) -> str:
        return f"not an OpenAI-compatible API at {self._endpoint.name}: {note}"

    # HTTP

    async def _request(
        self, method: str, url: Any, affinity: str | None, data: bytes | None = None
    ) -> aiohttp.ClientResponse:
        """Sends a request and waits for the head of the answer.

        A pooled connection may have died unnoticed (llama-server closes each without saying so): a
        request that fails on one before its answer begins is sent once more on a fresh one.
        """
        headers = self._endpoint.headers(affinity)

        def send(session: aiohttp.ClientSession) -> Awaitable[aiohttp.ClientResponse]:
            # aiohttp warns of bytes of over 1 MiB, which it would write at once.
            body = io.BytesIO(data) if data and len(data) > 1024 * 1024 else data
            proxy = self._endpoint.proxy
            return session.request(method, url, data=body, headers=headers, proxy=proxy, allow_redirects=False)

        try:
            try:
                return await send(self._pooled)
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
                if is_fresh() or isinstance(error, aiohttp.ClientConnectorError):
                    raise
                return await send(self._fresh)
        except (aiohttp.ClientError, OSError) as error:
            raise self._unreachable(error) from None

    def _unreachable(self, error: Exception) -> ChatError:
        """What it means that no answer began."""
        error.__traceback__ = None
        reason = self._reports.mask(str(error))
        if getattr(error, "errno", None) in _NO_FILES:
            return errors.ours("files")
        if isinstance(error, aiohttp.ClientSSLError):
            return errors.ours("tls", reason)
        if isinstance(error, aiohttp.ClientHttpProxyError | aiohttp.ClientProxyConnectionError):
            return errors.ours("proxy", reason)
        if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
            return errors.ours("unreachable")
        return errors.ours("cut")


async def _read_start(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """The body, or its first `limit` bytes; what came of one that was cut."""
    parts: list[bytes] = []
    try:
        while limit > 0 and (data := await response.content.readany()):
            parts.append(data[:limit])
            limit -= len(data)
    except BROKEN as error:
        error.__traceback__ = None
    return b"".join(parts)


def _is_page(body: bytes) -> bool:
    return body.lstrip()[:1] == b"<"
