"""The handlers of /v1/responses: each reads, validates, does, and writes."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from typing import Any

from aiohttp import web

from chatbot.chat.asking import Question
from chatbot.chat.reply import Reply
from chatbot.chat.reply_registry import ReplyRegistry, key_hash
from chatbot.chat.reply_source import ReplySource
from chatbot.chat.sessions import Sessions
from chatbot.chat.turn_messages import role_of
from chatbot.config import Config
from chatbot.errors import ChatError
from chatbot.ids import new_session_id
from chatbot.llm.client import LLM
from chatbot.openai.conversations import Conversations, page_of, read_cursor
from chatbot.openai.events import ResponseEncoder
from chatbot.openai.identifiers import new_response_id
from chatbot.openai.items import refuse, require_calls, said_items
from chatbot.openai.relay import Relay
from chatbot.openai.requests import ResponseRequest, read_response_request
from chatbot.openai.responses import FailedReply, ResponseRecord, settings_text
from chatbot.records import Session, Turn
from chatbot.storage.database import when_unlocked
from chatbot.storage.store import Store
from chatbot.web.answers import json_response
from chatbot.web.bodies import parse_json, read_body, read_idempotency_key
from chatbot.web.logs import REPLY, SESSION_ID
from chatbot.web.streaming import StreamListener, stream, until_ended


class OpenAIDoor:
    """The handlers of responses; those of conversations and of the relay have classes of their own."""

    def __init__(
        self,
        config: Config,
        store: Store,
        registry: ReplyRegistry,
        sessions: Sessions,
        llm: LLM,
        clock: Callable[[], float],
    ) -> None:
        self._config = config
        self._store = store
        self._registry = registry
        self._sessions = sessions
        self._clock = clock
        self._conversations = Conversations(store, registry, sessions, clock)
        self._relay = Relay(config, store, llm)

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Registers everything under /v1."""
        response = "/v1/responses/{response_id}"
        router.add_post("/v1/responses", self.create)
        router.add_get(response, self.retrieve, allow_head=False)
        router.add_delete(response, self.delete)
        router.add_post(response + "/cancel", self.cancel)
        router.add_get(response + "/input_items", self.list_input)
        self._conversations.add_routes(router)
        self._relay.add_routes(router)

    # Beginning one

    async def create(self, request: web.Request) -> web.StreamResponse:
        """Handle "POST /v1/responses": says something and gets the response, whole, streamed, or later."""
        body = parse_json(await read_body(request))
        asked = read_response_request(body, self._conversations.find_item)
        source, headers = await when_unlocked(lambda: self._begin(request, asked, body))
        request[REPLY] = source
        record = _record_of(source)
        if asked.is_streamed:
            return await self._stream(request, record, source, -1, headers)
        if not record.is_background:
            await until_ended(source)
            _raise_failure(source)
        return json_response(record.of_source(source), headers=headers)

    def _begin(
        self, request: web.Request, asked: ResponseRequest, body: dict[str, Any]
    ) -> tuple[ReplySource, dict[str, str]]:
        """The reply to a request, begun or met again, and the headers that say so.

        Nothing is awaited before it has a listener: without one it may be stopped.
        """
        settings = {"model": self._config.llm_model} | asked.settings
        session_id, parent = self._place(asked)
        request[SESSION_ID] = session_id
        key, request_hash = _idempotency(request, session_id, body)
        occupies, stored = asked.session_id is not None, settings.get("store", True)
        if known := self._registry.known(key, request_hash):
            return known, {"Idempotent-Replayed": "true"}
        if any(role_of(message) == "tool" for message in asked.input):
            require_calls(asked.input, self._store.path_up(session_id, parent))
        self._admit(session_id, occupies=occupies)
        if stored and not session_id:
            request[SESSION_ID] = session_id = self._sessions.create("{}").session_id
        response_id = new_response_id(session_id or new_session_id(*self._config.session_id_range))
        text = settings_text(settings)
        if is_background := settings.get("background", False):
            self._store.add_background(response_id, session_id, int(self._clock() * 1000), text)
        question = Question(session_id, parent, asked.input, asked.options, key, request_hash)
        question.occupies, question.stored, question.detached = occupies, stored, is_background
        question.instructions = settings.get("instructions")
        question.response_id, question.response = response_id, text
        return self._registry.start(question), {}

    def _admit(self, session_id: str, *, occupies: bool) -> None:
        try:
            self._registry.admit(session_id, occupies=occupies)
        except ChatError as error:
            if error.code != "session_busy":
                raise
            message = "Another response is being written in this conversation."
            raise ChatError("conversation_locked", message, "conversation") from None

    def _place(self, asked: ResponseRequest) -> tuple[str, int | None]:
        """The session and the turn that a question follows; "" for one that has no session yet."""
        if asked.session_id:
            return asked.session_id, self._open(asked.session_id, "conversation").current
        if asked.previous is None:
            return "", None
        if turn := self._store.turn_by_response(asked.previous):
            return self._open(turn.session_id, "previous_response_id").session_id, turn.seq
        self._find(asked.previous, "previous_response_id")
        raise refuse("previous_response_id", "names a response that has not ended, or came to nothing")

    # Reading one

    def _find(self, response_id: str, param: str = "response_id") -> tuple[ReplySource, ResponseRecord]:
        """A response by its id, whatever became of it."""
        if reply := self._registry.by_response(response_id):
            return reply, _record_of(reply)
        turn = self._store.turn_by_response(response_id)
        if turn and turn.output is not None:  # its items may be deleted one by one
            self._open(turn.session_id, param)
            source = self._registry.find(turn.session_id, turn.turn_id)
            return source, _record_of(source)
        if row := self._store.background(response_id):
            return FailedReply(row), ResponseRecord(response_id, row.session_id, row.created_at, row.response)
        raise ChatError("not_found", "There is no such response.", param)

    def _open(self, session_id: str, param: str) -> Session:
        try:
            return self._sessions.find_for_question(session_id)
        except ChatError as error:
            raise ChatError(error.code, error.message, param) from None

    async def retrieve(self, request: web.Request) -> web.StreamResponse:
        """Handle "GET /v1/responses/{response_id}": as far as it has come, or its events."""
        source, record = self._find(request.match_info["response_id"])
        request[SESSION_ID] = source.session_id
        if request.query.get("stream") != "true":
            return json_response(record.of_source(source))
        after = request.query.get("starting_after", "-1")
        if not re.fullmatch("-1|[0-9]{1,15}", after):
            raise refuse("starting_after", "must be an integer")
        return await self._stream(request, record, source, int(after), {})

    async def cancel(self, request: web.Request) -> web.StreamResponse:
        """Handle "POST /v1/responses/{response_id}/cancel": stops it right here, if it still runs."""
        source, record = self._find(request.match_info["response_id"])
        source.stop()
        await until_ended(source)
        return json_response(record.of_source(source))

    async def delete(self, request: web.Request) -> web.StreamResponse:
        """Handle "DELETE /v1/responses/{response_id}": it can be read no more.

        Nothing is missing from a conversation by that. Outside of one its turn goes too, if none follows it.
        """
        source, record = self._find(request.match_info["response_id"])
        if isinstance(source, Reply) and not source.turn:
            source.discard(ChatError("not_found", "The response was deleted.", "response_id"))
        await when_unlocked(lambda: self._forget(record, source.turn))
        return json_response({"id": record.response_id, "object": "response", "deleted": True})

    def _forget(self, record: ResponseRecord, turn: Turn | None) -> None:
        session_id = record.session_id
        self._store.drop_background(record.response_id)
        if turn is None:
            return
        is_followed = any(
            reply.question.parent == turn.seq for reply in self._registry.replies_in(session_id)
        )
        if record.has_conversation or is_followed or self._store.children(session_id, turn.seq):
            self._store.forget_response(turn.seq)
        else:
            self._store.rewind(session_id, turn)

    async def list_input(self, request: web.Request) -> web.StreamResponse:
        """Handle "GET /v1/responses/{response_id}/input_items": what was said to it."""
        is_newest_first, limit, after = read_cursor(request)
        source, _ = self._find(request.match_info["response_id"])
        said = (
            source.question.input
            if isinstance(source, Reply)
            else source.turn.messages
            if source.turn
            else ()
        )
        items = said_items(said, source.message_id)[:: -1 if is_newest_first else 1]
        return json_response(page_of(items, limit, after))

    async def _stream(
        self,
        request: web.Request,
        record: ResponseRecord,
        source: ReplySource,
        after: int,
        headers: dict[str, str],
    ) -> web.StreamResponse:
        """Sends the events behind number `after`; an error before the first of them is a status."""
        encoder = ResponseEncoder(record, source, after)
        listener = StreamListener(source, 0, encoder, self._config.stream_heartbeat_seconds)

        def all_headers() -> dict[str, str]:
            if not record.is_background and not source.length:
                _raise_failure(source)
            return headers

        return await stream(request, source, listener, all_headers, waits=not record.is_background)


def _record_of(source: ReplySource) -> ResponseRecord:
    asked = source.question if isinstance(source, Reply) else source.turn
    assert asked, "a reply that has ended and is found has a turn"
    return ResponseRecord(
        asked.response_id or "", source.session_id, source.created_at, asked.response or "{}"
    )


def _raise_failure(source: ReplySource) -> None:
    """Raises what a reply failed of, if nothing of it was stored; one that was cancelled did not fail."""
    if source.error and not source.turn and source.error.code != "reply_cancelled":
        raise source.error


def _idempotency(request: web.Request, session_id: str, body: dict[str, Any]) -> tuple[str, str]:
    """The hashes of an idempotency key in its scope and of the request; "", "" without a key."""
    key = read_idempotency_key(request)
    if key is None:
        return "", ""
    scope = session_id or request.headers.get("Authorization")
    if not scope:
        raise refuse("Idempotency-Key", "needs a conversation or an API key to which it belongs")
    said = json.dumps({name: value for name, value in body.items() if name != "stream"}, sort_keys=True)
    return key_hash(scope, key), hashlib.sha256(said.encode()).hexdigest()
