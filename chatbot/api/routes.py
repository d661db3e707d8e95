"""The handlers of our own API: each reads, validates, does, and writes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

from aiohttp import hdrs, web

from chatbot.api import openapi, requests, responses
from chatbot.api.events import Events
from chatbot.api.explanation import explain
from chatbot.api.pages import MessageWriter
from chatbot.api.requests import ChatRequest
from chatbot.chat import questions
from chatbot.chat.asking import Question
from chatbot.chat.history import PROMPT, Ref, find_message, not_found, read_page
from chatbot.chat.limits import ContextLimits
from chatbot.chat.reply_registry import ReplyRegistry
from chatbot.chat.reply_source import ReplySource
from chatbot.chat.sessions import Sessions
from chatbot.config import Config
from chatbot.llm.client import LLM
from chatbot.records import Session
from chatbot.storage.database import when_unlocked
from chatbot.storage.store import Store
from chatbot.web import answers
from chatbot.web.answers import json_response
from chatbot.web.backpressure import MAX_UNSENT, Pieces
from chatbot.web.logs import REPLY, SESSION_ID
from chatbot.web.streaming import StreamListener, stream, until_ended


@dataclass(eq=False, kw_only=True)
class Api:
    """The handlers of sessions, history and chat, and what they need."""

    config: Config
    store: Store
    registry: ReplyRegistry
    sessions: Sessions
    limits: ContextLimits
    llm: LLM

    def __post_init__(self) -> None:
        self._messages = MessageWriter(self.store)

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Registers the operations of openapi.json that this class has a method for."""
        for name, method, path in openapi.OPERATIONS:
            if handler := getattr(self, name, None):
                router.add_route(method, path, handler)
                if method == "get" and not path.endswith("/stream"):
                    router.add_head(path, handler)

    def _open(self, request: web.Request) -> Session:
        """Returns the session that the path names, and marks it as used."""
        session = self.sessions.use(request.match_info["session_id"])
        request[SESSION_ID] = session.session_id
        return session

    # Sessions

    async def create_session(self, request: web.Request) -> web.StreamResponse:
        """Handle "POST /api/sessions": a new conversation."""
        body = await requests.read_object(request, "NewSession")
        metadata = requests.metadata_text(body.get("metadata", {}))
        session = await when_unlocked(lambda: self.sessions.create(metadata, body.get("system_prompt")))
        request[SESSION_ID] = session.session_id
        location = {"Location": f"/api/sessions/{session.session_id}"}
        return json_response(responses.session_object(session, self.sessions.timeout_ms), 201, location)

    async def get_session(self, request: web.Request) -> web.StreamResponse:
        """Handle "GET /api/sessions/{session_id}": the session, its length, its running reply."""
        return self._session_answer(self._open(request))

    async def patch_session(self, request: web.Request) -> web.StreamResponse:
        """Handle "PATCH /api/sessions/{session_id}": metadata, branch, system prompt."""
        self._open(request)  # a request that is refused keeps the session alive, too
        changes = await requests.read_object(request, "SessionChanges")
        if not changes:
            raise requests.refused("One of metadata, current and system_prompt must be there.", "metadata")
        metadata = requests.metadata_text(changes["metadata"]) if "metadata" in changes else None
        session_id = self._open(request).session_id
        await when_unlocked(lambda: self._change(session_id, changes, metadata))
        return self._session_answer(self._open(request))

    def _change(self, session_id: str, changes: dict[str, Any], metadata: str | None) -> None:
        if set(changes) - {"current"}:
            self.store.require_space()  # before anything is changed
        if "current" in changes:
            self.sessions.set_current(session_id, changes["current"])
        if "system_prompt" in changes:
            self.sessions.set_prompt(session_id, changes["system_prompt"])
        if metadata is not None:
            self.store.set_metadata(session_id, metadata)

    async def delete_session(self, request: web.Request) -> web.StreamResponse:
        """Handle "DELETE /api/sessions/{session_id}": stops running replies, deletes the conversation."""
        session_id = self._open(request).session_id
        await when_unlocked(lambda: self.sessions.delete(session_id))
        return web.Response(status=204)

    async def get_context(self, request: web.Request) -> web.StreamResponse:
        """Handle "GET /api/sessions/{session_id}/context": explains what the LLM would be sent next."""
        session = self._open(request)
        return json_response(
            await explain(session, config=self.config, store=self.store, limits=self.limits, llm=self.llm)
        )

    def _session_answer(self, session: Session) -> web.StreamResponse:
        session_id = session.session_id
        reply = self.registry.occupying(session_id)
        value = responses.session_object(session, self.sessions.timeout_ms)
        value["message_count"] = self.store.count_messages(session_id, session.current)
        value["active_reply"] = responses.active_object(self.store, session, reply) if reply else None
        return json_response(value)

    # History

    async def list_messages(self, request: web.Request) -> web.StreamResponse:
        """Handle "GET /api/sessions/{session_id}/messages": one page of history, oldest first."""
        session = self._open(request)
        limit, before, after = requests.read_page(request)
        omit = requests.read_omit(request)
        size_of = responses.shown_length if omit else len
        page = read_page(self.store, session, limit, before=before, after=after, size_of=size_of)
        return _json_in_pieces(self._messages.page(session.session_id, page, omit=omit))

    async def get_message(self, request: web.Request) -> web.StreamResponse:
        """Handle "GET /api/sessions/{session_id}/messages/{message_id}": one message."""
        session_id, message_id = self._open(request).session_id, request.match_info["message_id"].lower()
        omit = requests.read_omit(request)
        prompt = self.store.prompt(session_id)
        if prompt and prompt.message_id == message_id:
            ref = PROMPT
        else:
            turn, place = find_message(self.store, session_id, message_id, "message_id")
            ref = Ref(turn.seq, place)
        return _json_in_pieces(self._messages.message(session_id, ref, omit=omit))

    async def rewind(self, request: web.Request) -> web.StreamResponse:
        """Handle "DELETE /api/sessions/{session_id}/messages/{message_id}": its turn and all after it go."""
        session_id, message_id = self._open(request).session_id, request.match_info["message_id"].lower()
        deleted = await when_unlocked(lambda: self.sessions.rewind(session_id, message_id))
        return json_response({"deleted": deleted})

    # Chat

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """Handle "POST /api/chat": the reply in one piece."""
        asked = await requests.read_chat(request)
        source, headers = self._begin_or_find(request, asked)
        await until_ended(source)
        if source.context_messages:
            headers[answers.CONTEXT_MESSAGES] = str(source.context_messages)
        return self._reply_answer(source, headers)

    async def chat_stream(self, request: web.Request) -> web.StreamResponse:
        """Handle "POST /api/chat/stream": the reply as server-sent events while it is written."""
        after = requests.read_offset(request)
        asked = await requests.read_chat(request)
        source, headers = self._begin_or_find(request, asked, after)
        return await self._stream(request, source, after, headers)

    async def resume(self, request: web.Request) -> web.StreamResponse:
        """Handle "GET /api/sessions/{session_id}/messages/{message_id}/stream": a reply from an offset."""
        source = self._find(request)
        after = requests.read_offset(request)
        return await self._stream(request, source, after, {})

    async def cancel(self, request: web.Request) -> web.StreamResponse:
        """Handle "POST /api/sessions/{session_id}/messages/{message_id}/cancel": stops a reply at once."""
        source = self._find(request)
        source.stop()
        await until_ended(source)  # it has ended already, unless the database's file is locked
        if source.error and source.error.code == "reply_cancelled":
            return web.Response(status=204)
        return self._reply_answer(source, {})

    def _begin_or_find(
        self, request: web.Request, asked: ChatRequest, after: int = 0
    ) -> tuple[ReplySource, dict[str, str]]:
        """Starts the reply to a chat request, or finds it by its key; returns it, and headers that say which.

        A client that already has `after` characters needs the same reply: a new one would have another text.
        Nothing may be awaited before the client listens (see `ReplySource.join`).
        """
        session = self.sessions.use(asked.session_id)
        request[SESSION_ID] = session.session_id
        if known := self.registry.known(asked.key_hash, asked.request_hash):
            request[REPLY] = known
            return known, {"Idempotent-Replayed": "true"}
        if after:
            raise requests.refused("There is no reply under this key to go on with.", "Last-Event-ID")
        self.registry.admit(session.session_id)
        parent, said = self._question(session, asked)
        question = Question(session.session_id, parent, said, asked.options)
        question.key_hash, question.request_hash = asked.key_hash, asked.request_hash
        request[REPLY] = reply = self.registry.start(question)
        return reply, {}

    def _find(self, request: web.Request) -> ReplySource:
        """Returns the reply that the path names, running or stored."""
        session_id = self._open(request).session_id
        request[REPLY] = source = self.registry.find(session_id, request.match_info["message_id"].lower())
        return source

    def _question(self, session: Session, asked: ChatRequest) -> tuple[int | None, tuple[str, ...]]:
        """Returns the turn that the question follows, and the messages that it says."""
        if asked.said and asked.replace is None:  # a plain message, as nearly always
            return session.current, asked.said
        parent, said = session.current, asked.said or ()
        if asked.replace is not None:
            parent, said = questions.in_place_of(self.store, session.session_id, asked.replace, asked.said)
        if asked.outputs is not None:
            said = questions.tool_messages(self.store.path_up(parent), asked.outputs)
        return parent, said

    async def _stream(
        self, request: web.Request, source: ReplySource, after: int, headers: dict[str, str]
    ) -> web.StreamResponse:
        """Sends a reply from character `after` on.

        An error before the first event becomes an HTTP status, if it comes within a heartbeat.
        """

        def all_headers() -> dict[str, str]:
            if source.error and not source.log.length:
                raise source.error
            place = f"/api/sessions/{source.session_id}/messages/{source.message_id}/stream"
            about = headers | {answers.MESSAGE_ID: source.message_id, hdrs.CONTENT_LOCATION: place}
            # Until the reply has begun, the LLM may have to be asked again with fewer messages.
            if source.context_messages and (source.has_pushed or source.ended):
                about[answers.CONTEXT_MESSAGES] = str(source.context_messages)
            return about

        listener = StreamListener(source, after, Events(), self.config.stream_heartbeat_seconds)
        return await stream(request, listener, all_headers)

    def _reply_answer(self, source: ReplySource, headers: dict[str, str]) -> web.StreamResponse:
        """Returns the message of a reply that has ended, or raises the reply's error."""
        if source.error:
            raise source.error
        turn = source.turn
        assert turn, "a reply that ended without an error has a turn"
        headers[answers.MESSAGE_ID] = source.message_id
        message = self._messages.message(source.session_id, Ref(turn.seq, 0), omit=False)
        return _json_in_pieces(message, headers)

    # The API's description

    async def get_openapi(self, request: web.Request) -> web.StreamResponse:
        """Handle "GET /api/openapi.json": the description of this API."""
        return openapi.FILE.answer(request)


def _json_in_pieces(pieces: Iterator[bytes], headers: dict[str, str] | None = None) -> web.StreamResponse:
    """Sends JSON that comes in pieces: short JSON in one piece, else no faster than the client reads."""
    start = b""
    for piece in pieces:
        start += piece
        if len(start) > MAX_UNSENT:
            return web.Response(body=Pieces(chain((start,), pieces)), headers=headers)
    if not start:
        raise not_found("message_id")  # it was deleted meanwhile
    return json_response(start, headers=headers)
