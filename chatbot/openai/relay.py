"""The handlers of /v1/models and /v1/chat/completions: the LLM's own, with our watch and our words."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from chatbot.config import Config
from chatbot.errors import ChatError
from chatbot.ids import affinity_of
from chatbot.llm.client import LLM
from chatbot.llm.response import Answer
from chatbot.openai.items import refuse, require
from chatbot.records import Chunk, as_json, dumps
from chatbot.storage.store import Store
from chatbot.web import backpressure
from chatbot.web.answers import json_response
from chatbot.web.backpressure import EVENT_STREAM, EventWriter
from chatbot.web.bodies import read_object

_SET_ONCE = ("role", "id", "type", "name")


@dataclass(eq=False)
class Relay:
    """Passes on what clients ask who keep their conversations themselves; nothing is stored."""

    config: Config
    store: Store
    llm: LLM

    async def models(self, request: web.Request) -> web.Response:
        """Handle "GET /v1/models": the LLM's own list."""
        return json_response(await self.llm.models())

    async def complete(self, request: web.Request) -> web.StreamResponse:
        """Handle "POST /v1/chat/completions": the LLM's answer, streamed or whole.

        One that is to be whole is asked as a stream too: only that can be watched, and stopped.
        """
        body = await read_object(request)
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages:
            raise refuse("messages", "must be a list that says something")
        options = require(body.get("stream_options") or {}, dict, "stream_options")
        # A conversation is known by what it began with, up to the first thing that the user said.
        users = (n for n, m in enumerate(messages) if isinstance(m, dict) and m.get("role") == "user")
        begin = as_json(messages[: next(users, len(messages)) + 1])
        affinity = affinity_of(self.store.affinity_key, begin)
        asking = asyncio.create_task(self.llm.relay(body, affinity=affinity))
        try:
            if body.get("stream"):
                return await self._stream(request, asking, wants_usage=bool(options.get("include_usage")))
            whole = Completion()
            async for chunks in await asking:
                for chunk in chunks:
                    whole.add(json.loads(chunk.data))
            return json_response(whole.to_object())
        finally:
            asking.cancel()
            if asking.done() and not asking.cancelled() and not asking.exception():
                asking.result().close()

    async def _stream(
        self, request: web.Request, asking: asyncio.Task[Answer], *, wants_usage: bool
    ) -> web.StreamResponse:
        """Before the first chunk an error is a status, if it comes within a heartbeat."""
        await asyncio.wait((asking,), timeout=self.config.stream_heartbeat_seconds)
        if asking.done():
            asking.result()
        response = web.StreamResponse(headers=EVENT_STREAM)
        events = await backpressure.begin(request, response)
        beating = asyncio.create_task(self._beat(events))
        try:
            async for chunks in await asking:
                sent = [chunk.data for chunk in chunks if wants_usage or not _is_usage(chunk)]
                if sent:
                    events.send(b"".join(b"data: %b\n\n" % data for data in sent))
                    await events.wait_until_sent()
            ending = b"data: [DONE]\n\n"
        except ChatError as error:
            ending = b"data: %b\n\n" % dumps(error.to_object())
        finally:
            beating.cancel()
        await backpressure.finish(request, response, ending)
        return response

    async def _beat(self, events: EventWriter) -> None:
        while True:
            await asyncio.sleep(self.config.stream_heartbeat_seconds)
            events.keep_alive()


class Completion:
    """One chat completion, put together of the chunks of a stream as they come, whatever fields they have."""

    def __init__(self) -> None:
        self._whole: dict[str, Any] = {}
        self._choices: dict[int, dict[str, Any]] = {}

    def add(self, chunk: dict[str, Any]) -> None:
        """Takes the next chunk; the last finish_reason counts, as one that more follows was none."""
        for choice in chunk.get("choices") or ():
            number = choice.get("index") or 0
            begun = {"index": number, "delta": {"role": "assistant", "content": None}, "finish_reason": None}
            known = self._choices.setdefault(number, begun)
            reason = choice.pop("finish_reason", None) or known["finish_reason"]
            _merge(known, choice)
            known["finish_reason"] = reason
        self._whole |= {name: value for name, value in chunk.items() if value is not None}

    def to_object(self) -> dict[str, Any]:
        """All of it; nothing can be added any more."""
        choices = [_joined(self._choices[number]) for number in sorted(self._choices)]
        for choice in choices:
            choice["message"] = message = choice.pop("delta")
            for call in message.get("tool_calls") or ():
                call.pop("index", None)
        return self._whole | {"object": "chat.completion", "choices": choices}


class _Texts(list[str]):
    """The pieces of a text that grows: to join them each time would take ever longer."""


def _merge(whole: dict[str, Any], part: dict[str, Any]) -> None:
    """Adds a piece to what came before: texts go on, lists grow, and items with an index go on."""
    for name, value in part.items():
        match whole.get(name), value:
            case None | "", _:
                whole[name] = value
            case _Texts() as texts, str(text):
                texts.append(text)
            case str(begun), str(text) if name not in _SET_ONCE:
                whole[name] = _Texts((begun, text))
            case dict(known), dict():
                _merge(known, value)
            case list(known), list():
                for item in value:
                    index = _index(item)
                    same = () if index is None else [one for one in known if _index(one) == index]
                    if same:
                        _merge(same[0], item)
                    else:
                        known.append(item)


def _index(item: Any) -> Any:
    return item.get("index") if isinstance(item, dict) else None


def _joined(value: Any) -> Any:
    """A value with its growing texts joined, in place."""
    if isinstance(value, _Texts):
        return "".join(value)
    if isinstance(value, dict):
        for name, inner in value.items():
            value[name] = _joined(inner)
    elif isinstance(value, list):
        value[:] = map(_joined, value)
    return value


def _is_usage(chunk: Chunk) -> bool:
    """Whether a chunk only says what the answer cost, for which not every client has asked."""
    return not chunk.pieces and b'"usage"' in chunk.data and not json.loads(chunk.data).get("choices")
