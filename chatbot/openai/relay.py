"""The handlers of /v1/models and /v1/chat/completions: they relay the LLM's answers and watch over them."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncGenerator, AsyncIterable, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from io import StringIO
from typing import Any

from aiohttp import web

from chatbot.chat.reply_registry import ReplyRegistry
from chatbot.config import Config
from chatbot.errors import ChatError, without_frames
from chatbot.ids import affinity_of
from chatbot.llm.chunks import MAX_MODEL_CHARS
from chatbot.llm.client import LLM
from chatbot.llm.json_text import valid
from chatbot.llm.models import entries_of
from chatbot.openai.requests import as_openai_error, refuse, require
from chatbot.records import CUT, Chunk, as_json, dumps
from chatbot.storage.store import Store
from chatbot.web import backpressure
from chatbot.web.answers import json_response
from chatbot.web.backpressure import EVENT_STREAM, EVENT_WRITER
from chatbot.web.bodies import read_object
from chatbot.web.logs import REPLY

_SET_ONCE = ("role", "id", "type", "name", "format")


@dataclass(eq=False)
class Relayed:
    """What the log and the metrics report of a relayed answer."""

    created_at: int
    model: str
    error: ChatError | None = None
    finish_reason: str | None = "cancelled"
    usage: str | None = None
    first_token_ms: int | None = None


@dataclass(eq=False)
class Relay:
    """Relays requests of clients that keep their conversations themselves; nothing is stored."""

    config: Config
    store: Store
    llm: LLM
    registry: ReplyRegistry
    clock: Callable[[], float]

    async def models(self, request: web.Request) -> web.Response:
        """Handle "GET /v1/models": the LLM's own list."""
        return json_response(await self.llm.models())

    async def model(self, request: web.Request) -> web.Response:
        """Handle "GET /v1/models/{model}": one entry of the list."""
        name = request.match_info["model"]
        entry = entries_of(await self.llm.models()).get(name)
        if entry is None:
            raise ChatError("not_found", "The LLM server lists no such model.", "model")
        return json_response({"object": "model"} | entry | {"id": name})

    async def complete(self, request: web.Request) -> web.StreamResponse:
        """Handle "POST /v1/chat/completions": the LLM's answer, streamed or whole.

        The LLM is always asked for a stream, because only a stream can be watched and stopped.
        """
        body = await read_object(request)
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages:
            raise refuse("messages", "must be a list that says something")
        streams = require(body.get("stream") or False, bool, "stream")
        options = require(body.get("stream_options") or {}, dict, "stream_options")
        # The beginning identifies a conversation: its messages up to the user's first message.
        users = (n for n, m in enumerate(messages) if isinstance(m, dict) and m.get("role") == "user")
        begin = as_json(messages[: next(users, len(messages)) + 1])
        affinity = affinity_of(self.store.affinity_key, begin)
        async with aclosing(self._answer(request, body, affinity)) as answer:
            try:
                if not streams:
                    return await self._whole(request, answer)
                return await self._stream(request, answer, wants_usage=bool(options.get("include_usage")))
            except ChatError as error:
                # The log and the metrics keep the error.
                raise as_openai_error(without_frames(error), "messages") from None

    async def _answer(
        self, request: web.Request, body: dict[str, Any], affinity: str
    ) -> AsyncGenerator[list[Chunk]]:
        """Yields the LLM's chunks as they come, and records the outcome for the log and the metrics."""
        asked = str(body.get("model") or self.config.llm_model)[:MAX_MODEL_CHARS]
        outcome = Relayed(int(self.clock() * 1000), asked)
        with self.registry.relaying(outcome):
            request[REPLY] = outcome
            answer = await self.llm.relay(body, affinity=affinity)
            try:
                async for chunks in answer:
                    if outcome.first_token_ms is None and any(chunk.pieces for chunk in chunks):
                        outcome.first_token_ms = max(0, int(self.clock() * 1000) - outcome.created_at)
                    yield chunks
                    if events := request.get(EVENT_WRITER):  # in relaying(), which notes a shutdown
                        await events.wait_until_sent()
            finally:
                answer.close()
                outcome.model, outcome.usage = answer.reader.model or asked, answer.reader.usage
                if answer.is_complete:
                    outcome.finish_reason = answer.reader.finish_reason

    async def _whole(self, request: web.Request, answer: AsyncIterable[list[Chunk]]) -> web.Response:
        whole = Completion()
        async for chunks in answer:
            for chunk in chunks:
                whole.add(json.loads(chunk.data))
        if usage := request[REPLY].usage:  # in a stream Groq and Moonshot use other fields for it
            whole.add({"usage": json.loads(usage)})
        return json_response(whole.to_json())

    async def _stream(
        self, request: web.Request, answer: AsyncIterable[list[Chunk]], *, wants_usage: bool
    ) -> web.StreamResponse:
        """Streams the answer from the first chunk or heartbeat on; an error before that is a status."""
        response, ending = web.StreamResponse(headers=EVENT_STREAM), b"[DONE]"
        beating = asyncio.create_task(self._beat(request, response))
        try:
            async for chunks in answer:
                sent = [chunk.data for chunk in chunks if wants_usage or not _is_usage(chunk)]
                if sent:
                    events = await backpressure.begin(request, response)
                    events.send(b"".join(b"data: %b\n\n" % data for data in sent))
        except ChatError as error:
            if not response.prepared:
                raise
            ending = dumps(as_openai_error(without_frames(error), "messages").to_object())
        finally:
            beating.cancel()
        await backpressure.finish(request, response, b"data: %b\n\n" % ending)
        return response

    async def _beat(self, request: web.Request, response: web.StreamResponse) -> None:
        with suppress(ConnectionResetError):  # the request's task notices this, too
            while True:
                await asyncio.sleep(self.config.stream_heartbeat_seconds)
                (await backpressure.begin(request, response)).keep_alive()


class Completion:
    """Builds one chat completion from the chunks of a stream, whatever fields the chunks have."""

    def __init__(self) -> None:
        self._whole: dict[str, Any] = {}
        self._choices: dict[str, Any] = {"choices": []}

    def add(self, chunk: dict[str, Any]) -> None:
        """Takes the next chunk."""
        choices = chunk.get("choices") or ()
        numbered = [one | {"index": one.get("index") or 0} for one in choices]
        _merge(self._choices, {"choices": numbered})
        self._whole |= {name: value for name, value in chunk.items() if value is not None}

    def to_json(self) -> bytes:
        """Returns the completion as JSON; after this nothing can be added."""
        choices = sorted(self._choices["choices"], key=lambda choice: int(choice["index"]))
        for choice in choices:
            message: dict[str, Any] = {"role": "assistant", "content": None}
            _merge(message, choice.pop("delta", {}))
            unsaid = "" if CUT.search(str(choice.get("finish_reason"))) else "{}"
            for call in message.get("tool_calls") or ():
                call.pop("index", None)
                call["id"] = call.get("id") or f"call_{secrets.token_hex(12)}"
                call["type"] = call.get("type") or "function"
                if isinstance(function := call.get("function"), dict):
                    function["arguments"] = function.get("arguments") or unsaid
            choice |= {"message": message, "finish_reason": choice.get("finish_reason")}
        encoder = json.JSONEncoder(default=StringIO.getvalue, ensure_ascii=False, separators=(",", ":"))
        whole = self._whole | {"object": "chat.completion", "choices": choices}
        return valid(encoder.encode(whole)).encode()


def _merge(whole: dict[str, Any], part: dict[str, Any]) -> None:
    """Merges `part` into `whole`: appends texts, extends lists, and merges list items that go on (`_same`).

    The last finish_reason counts, because one that is followed by more was not the end.
    """
    for name, value in part.items():
        match whole.get(name), value:
            case None | "", _:
                whole[name] = value
            case _, str() if name in ("finish_reason", "native_finish_reason"):
                whole[name] = value
            case StringIO() as text, str():
                text.write(value)
            case str(begun), str() if name not in _SET_ONCE:
                whole[name] = text = StringIO()  # joining them each time would take quadratic time
                text.writelines((begun, value))
            case dict(known), dict():
                _merge(known, value)
            case list(), str() if value and name == "content":
                _merge(whole, {name: [{"type": "text", "text": value}]})
            case list(known), list():
                for item in value:
                    if same := _same(known, item):
                        _merge(same, item)
                    else:
                        known.append(item)


def _same(known: list[Any], item: Any) -> Any:
    """The item of a list that `item` continues: the last with its index, or the last part if both are text.

    An item with another id is another item: Gemini's calls all have the index 0. A signature ends a thought.
    """
    if not known or not isinstance(item, dict):
        return None
    index, function = item.get("index"), item.get("function")
    last = known[-1] if isinstance(known[-1], dict) else {}
    same = next((one for one in reversed(known) if isinstance(one, dict) and one.get("index") == index), None)
    if isinstance(function, dict) and not function.get("name"):  # the rest of a call
        return same or last
    if index is None:
        is_part = last.get("type") == item.get("type") in ("text", "thinking")
        return last if is_part and not last.get("signature") else None
    return same if same and item.get("id") in (None, "", same.get("id") or item.get("id")) else None


def _is_usage(chunk: Chunk) -> bool:
    """Whether a chunk has only the usage, which is sent only to clients that asked for it."""
    whole = {} if chunk.pieces or b'"usage"' not in chunk.data else json.loads(chunk.data)
    return bool(whole.get("usage")) and not whole.get("choices")
