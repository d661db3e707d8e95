"""The handlers of /v1/responses: each reads, validates, does, and writes."""

from __future__ import annotations

import re
import secrets
from dataclasses import replace

from aiohttp import web

from chatbot.chat.asking import Question
from chatbot.chat.reply import Reply
from chatbot.chat.reply_source import ReplySource
from chatbot.chat.turn_messages import says_nothing
from chatbot.errors import ChatError
from chatbot.ids import new_session_id
from chatbot.openai.conversations import Conversations, answered, page_of, read_cursor
from chatbot.openai.events import ResponseEncoder
from chatbot.openai.items import Object, said_items
from chatbot.openai.relay import Relay
from chatbot.openai.requests import as_openai_error, new_of, read_question, refuse
from chatbot.openai.responses import Response, failed_response
from chatbot.records import DELETED
from chatbot.storage.database import when_unlocked
from chatbot.web.answers import json_response
from chatbot.web.bodies import read_idempotency_key, read_object
from chatbot.web.logs import REPLY, SESSION_ID
from chatbot.web.streaming import StreamListener, stream, until_ended


class OpenAIDoor(Conversations):
    """The handlers of responses, and those of conversations (inherited); the relay has its own class."""

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Registers everything under /v1."""
        relay = Relay(self.config, self.store, self.llm, self.registry, self.clock)
        router.add_get("/v1/models", relay.models)
        router.add_get("/v1/models/{model:.+}", relay.model)
        router.add_post("/v1/chat/completions", relay.complete)
        response = "/v1/responses/{response_id}"
        router.add_post("/v1/responses", self.create)
        router.add_get(response, self.retrieve, allow_head=False)
        router.add_delete(response, answered(self.delete))
        router.add_post(f"{response}/cancel", self.cancel)
        router.add_get(f"{response}/input_items", answered(self.list_input))
        conversation = "/v1/conversations/{conversation_id}"
        router.add_post("/v1/conversations", self.create_conversation)
        router.add_get(conversation, answered(self.retrieve_conversation))
        router.add_post(conversation, answered(self.update_conversation))
        router.add_delete(conversation, answered(self.delete_conversation))
        router.add_post(f"{conversation}/items", answered(self.add_items))
        router.add_get(f"{conversation}/items", answered(self.list_items))
        router.add_get(f"{conversation}/items/{{item_id}}", answered(self.retrieve_item))
        router.add_delete(f"{conversation}/items/{{item_id}}", answered(self.delete_item))

    # Creating a response

    async def create(self, request: web.Request) -> web.StreamResponse:
        """Handle "POST /v1/responses": creates a response and sends it whole, as a stream, or unfinished."""
        body = await read_object(request)
        asked = read_question(body, self.finder(), self.config.llm_model)
        source, headers = await when_unlocked(lambda: self._begin(request, asked, body))
        request[REPLY] = source
        response = Response(source)
        if body.get("stream"):
            return await self._stream(request, response, -1, headers)
        if not response.is_background:
            await until_ended(source)
            _raise_failure(source)
        return json_response(response.to_object(), headers=headers)

    def _begin(
        self, request: web.Request, asked: Question, body: Object
    ) -> tuple[ReplySource, dict[str, str]]:
        """Starts the reply to a request, or finds it by its key; returns it, and headers that say which.

        Nothing may be awaited before the reply has a listener (see `ReplySource.join`).
        """
        session_id, parent = self._place(asked, body.get("previous_response_id"))
        request[SESSION_ID] = session_id
        scope = session_id or request.headers.get("Authorization", "")
        said = {name: value for name, value in body.items() if name != "stream"}
        key, request_hash = read_idempotency_key(request, scope, said)
        if key and not scope:
            raise refuse("Idempotency-Key", "needs a conversation or an API key to which it belongs")
        if source := self.registry.known(key, request_hash):
            if source.session_id:
                self.sessions.use(source.session_id, "Idempotency-Key")
            return source, {"Idempotent-Replayed": "true"}
        new = new_of(asked.input, self.store.path_up(parent))
        if says_nothing(self.store.path_up(parent), new):
            raise refuse("input", "says nothing")
        self.require_free(asked.session_id)  # never raises for ""
        self.registry.admit(session_id, occupies=False, stores=asked.stored)
        if asked.stored and not session_id:
            request[SESSION_ID] = session_id = self.sessions.create("{}").session_id
        # Nobody can guess the id. It begins like the session's id, so that a proxy can route requests by it.
        begin = (session_id or new_session_id(*self.config.session_id_range))[:2]
        response_id = f"resp_{begin}{secrets.token_hex(16)}"
        if asked.detached:
            now = int(self.clock() * 1000)
            self.store.add_background(response_id, session_id, now, asked.response or "")
        question = replace(asked, session_id=session_id, parent=parent, input=new or (DELETED,))
        question.key_hash, question.request_hash, question.response_id = key, request_hash, response_id
        return self.registry.start(question), {}

    def _place(self, asked: Question, previous: str | None) -> tuple[str, int | None]:
        """Returns the session and the turn that a question follows; "" if it has no session yet."""
        if asked.session_id:
            return asked.session_id, self.sessions.use(asked.session_id, "conversation").current
        if previous is None:
            return "", None
        if turn := self.store.turn_by_response(previous):
            return self.sessions.use(turn.session_id, "previous_response_id").session_id, turn.seq
        self._find(previous, "previous_response_id")
        raise refuse("previous_response_id", "names a response that has not ended, or came to nothing")

    # Reading a response

    def _find(self, response_id: str, param: str = "response_id") -> Response:
        """Finds a response by its id, whether it runs, was stored or failed."""
        if reply := self.registry.by_response(response_id):
            return Response(reply)
        turn = self.store.turn_by_response(response_id)
        if turn and turn.output is not None:  # its items may be deleted one by one
            self.sessions.use(turn.session_id, param)
            return Response(self.registry.find(turn.session_id, turn.turn_id), turn)
        if row := self.store.background(response_id):
            return failed_response(row, self.store)
        raise ChatError("not_found", "There is no such response.", param)

    async def retrieve(self, request: web.Request) -> web.StreamResponse:
        """Handle "GET /v1/responses/{response_id}": what has come of it, or its events."""
        response = self._find(request.match_info["response_id"])
        request[SESSION_ID] = response.source.session_id
        if request.query.get("stream", "").lower() != "true":  # or "True", from Python
            return json_response(response.to_object())
        after = request.query.get("starting_after", "-1")
        if not re.fullmatch("-1|[0-9]{1,15}", after):
            raise refuse("starting_after", "must be an integer")
        return await self._stream(request, response, int(after), {})

    async def cancel(self, request: web.Request) -> web.StreamResponse:
        """Handle "POST /v1/responses/{response_id}/cancel": stops a response that still runs."""
        response = self._find(request.match_info["response_id"])
        response.source.stop()
        await until_ended(response.source)
        return json_response(response.to_object())

    def delete(self, request: web.Request, _: Object) -> Object:
        """Handle "DELETE /v1/responses/{response_id}": it can no longer be read.

        If it is in a conversation, or a turn follows its turn, the turn stays; else the turn is deleted, too.
        """
        response = self._find(request.match_info["response_id"])
        source, turn = response.source, response.source.turn
        self.store.drop_background(response.id)
        if isinstance(source, Reply) and not turn:
            source.discard(ChatError("not_found", "The response was deleted.", "response_id"))
        if turn and turn.seq:
            running = self.registry.replies_in(turn.session_id)
            is_followed = any(reply.question.parent == turn.seq for reply in running)
            if response.has_conversation or is_followed or self.store.children(turn.session_id, turn.seq):
                self.store.forget_response(turn.seq)
            else:
                self.store.rewind(turn.session_id, turn)
        return {"id": response.id, "object": "response", "deleted": True}

    def list_input(self, request: web.Request, _: Object) -> Object:
        """Handle "GET /v1/responses/{response_id}/input_items": its input."""
        is_newest_first, limit, after = read_cursor(request)
        response = self._find(request.match_info["response_id"])
        asked = response.asked
        said = asked.input if isinstance(asked, Question) else asked.messages
        items = said_items(said, response.source.message_id)[:: -1 if is_newest_first else 1]
        return page_of(items, limit, after)

    async def _stream(
        self, request: web.Request, response: Response, after: int, headers: dict[str, str]
    ) -> web.StreamResponse:
        """Sends the events after number `after`; an early error is a status, unless in the background."""
        source, waits = response.source, not response.is_background
        encoder = ResponseEncoder(response, after)
        listener = StreamListener(source, 0, encoder, self.config.stream_heartbeat_seconds)

        def all_headers() -> dict[str, str]:
            if waits and not source.log.length:
                _raise_failure(source)
            return headers

        return await stream(request, listener, all_headers, waits=waits)


def _raise_failure(source: ReplySource) -> None:
    """Raises the error of a reply that failed with nothing stored; a cancelled reply did not fail."""
    if source.error and not source.finish_reason and source.error.code != "reply_cancelled":
        raise as_openai_error(source.error)
