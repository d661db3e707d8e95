"""The routes and their handlers: read, validate, do, write."""

from __future__ import annotations

import json

from aiohttp import web

from chatbot import bodies, shapes
from chatbot.errors import ChatError
from chatbot.listener import EndListener, StreamListener
from chatbot.replies import Replies
from chatbot.reply import Reply
from chatbot.sessions import Sessions
from chatbot.store import Message, Session
from chatbot.stored import StoredReply

SESSION_ID = web.RequestKey("session_id", str)
"""The session that a request turned out to be about; becomes X-Session-ID."""

Answer = web.StreamResponse


def json_response(value: object, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """A JSON answer; bytes are JSON already."""
    body = value if isinstance(value, bytes) else shapes.dumps(value)
    return web.Response(body=body, status=status, headers=headers, content_type="application/json")


class Api:
    """The handlers of sessions, history and chat."""

    def __init__(self, replies: Replies, sessions: Sessions) -> None:
        self._replies = replies
        self._sessions = sessions
        self._store = replies.store

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Registers the API's routes."""
        session = "/api/sessions/{session_id}"
        message = session + "/messages/{message_id}"
        router.add_post("/api/sessions", self.create_session)
        router.add_get(session, self.get_session)
        router.add_patch(session, self.patch_session)
        router.add_delete(session, self.delete_session)
        router.add_get(session + "/messages", self.list_messages)
        router.add_get(message, self.get_message)
        router.add_delete(message, self.rewind)
        router.add_get(message + "/stream", self.resume, allow_head=False)
        router.add_post(message + "/cancel", self.cancel)
        router.add_post("/api/chat", self.chat)
        router.add_post("/api/chat/stream", self.chat_stream)

    def _open(self, request: web.Request) -> Session:
        """The session that the path names, kept alive by the request."""
        session = self._sessions.open(request.match_info["session_id"])
        request[SESSION_ID] = session.session_id
        return session

    def _find_message(self, session_id: str, message_id: str, param: str) -> Message:
        message = self._store.message(session_id, message_id)
        if not message:
            raise ChatError("message_not_found", "There is no such message in this session.", param)
        return message

    # Sessions

    async def create_session(self, request: web.Request) -> Answer:
        """Handle "POST /api/sessions": a new conversation."""
        body = await bodies.read_object(request, bodies.SESSION, ())
        metadata = bodies.metadata_text(body.get("metadata", {}))
        session = self._sessions.create(metadata, body.get("system_prompt"))
        request[SESSION_ID] = session.session_id
        location = {"Location": f"/api/sessions/{session.session_id}"}
        return json_response(shapes.session_object(session, self._sessions.timeout_ms), 201, location)

    def _session_answer(self, session: Session) -> Answer:
        value = shapes.session_object(session, self._sessions.timeout_ms)
        value["message_count"] = self._store.count_messages(session.session_id)
        value["active_reply"] = None
        if reply := self._replies.running(session.session_id):
            started_at = shapes.rfc3339(reply.created_at)
            value["active_reply"] = {
                "message_id": reply.message_id,
                "message": json.loads(reply.ask.message),
                "started_at": started_at,
            }
        return json_response(value)

    async def get_session(self, request: web.Request) -> Answer:
        """Handle "GET /api/sessions/{session_id}": the session, its length, the reply it is being given."""
        return self._session_answer(self._open(request))

    async def patch_session(self, request: web.Request) -> Answer:
        """Handle "PATCH /api/sessions/{session_id}": replaces the metadata."""
        body = await bodies.read_object(request, bodies.PATCH, ("metadata",))
        metadata = bodies.metadata_text(body["metadata"])
        session = self._open(request)
        self._store.set_metadata(session.session_id, metadata)
        return self._session_answer(session._replace(metadata=metadata))

    async def delete_session(self, request: web.Request) -> Answer:
        """Handle "DELETE /api/sessions/{session_id}": stops a running reply, deletes the conversation."""
        self._sessions.delete(self._open(request).session_id)
        return web.Response(status=204)

    # History

    async def list_messages(self, request: web.Request) -> Answer:
        """Handle "GET /api/sessions/{session_id}/messages": one page of history, oldest first."""
        limit = bodies.read_limit(request)
        session_id = self._open(request).session_id
        before, after = request.query.get("before"), request.query.get("after")
        if before is not None and after is not None:
            raise ChatError("invalid_request", "before and after exclude each other.", "before")
        places: dict[str, int | None] = {"before": None, "after": None}
        for name, cursor in (("before", before), ("after", after)):
            if cursor is not None:
                places[name] = self._find_message(session_id, cursor, name).place
        messages, more = self._store.page(session_id, limit, **places)
        return json_response(shapes.page_json(messages, has_more=more))

    async def get_message(self, request: web.Request) -> Answer:
        """Handle "GET /api/sessions/{session_id}/messages/{message_id}": one message."""
        session_id = self._open(request).session_id
        message = self._find_message(session_id, request.match_info["message_id"], "message_id")
        return json_response(shapes.message_json(message))

    async def rewind(self, request: web.Request) -> Answer:
        """Handle "DELETE /api/sessions/{session_id}/messages/{message_id}": it and all after it are gone.

        A running reply comes after every message, so it is gone too; and it may be named itself.
        """
        session_id = self._open(request).session_id
        message_id = request.match_info["message_id"]
        running = self._replies.running(session_id)
        names_running = running is not None and running.message_id == message_id
        message = None if names_running else self._find_message(session_id, message_id, "message_id")
        if running:
            running.discard(ChatError("message_not_found", "The message was deleted.", "message_id"))
        return json_response({"deleted": self._store.rewind(session_id, message) if message else 0})

    # Chat

    async def _ask(
        self, request: web.Request, *, stream: bool, after: int = 0
    ) -> tuple[Reply | StoredReply, dict[str, str]]:
        """The reply to a chat request, begun or met again, and the headers that say so.

        One that goes on `after` some characters is only met: a reply that failed left no characters.
        The caller joins the reply before it awaits anything.
        """
        session_id, ask = await bodies.read_ask(request)
        began = False
        try:
            if known := self._replies.known(session_id, ask):
                return known, {"Idempotent-Replayed": "true"}
            if after:
                message = "There is no reply under this key to go on with."
                raise ChatError("invalid_request", message, "Last-Event-ID")
            self._replies.admit(session_id)
            prompt, history = self._sessions.find_to_ask(session_id)
            request[SESSION_ID] = session_id
            reply = self._replies.start(session_id, ask, prompt, history, stream=stream)
            began = True
            return reply, {}
        finally:
            if not began:  # that there is no such session comes before all else that is wrong
                request[SESSION_ID] = self._sessions.open(session_id).session_id

    async def chat(self, request: web.Request) -> Answer:
        """Handle "POST /api/chat": the reply in one piece."""
        reply, headers = await self._ask(request, stream=False)
        if isinstance(reply, Reply):
            listener = EndListener(self._replies.loop)
            reply.join(listener)
            try:
                await listener.ended
            finally:
                reply.leave(listener)
            headers["X-Context-Messages"] = str(reply.context_messages)
        if reply.error:
            raise reply.error
        assert reply.message, "a reply that ended without an error was stored"
        headers["X-Message-ID"] = reply.message_id
        return json_response(shapes.message_json(reply.message), headers=headers)

    async def chat_stream(self, request: web.Request) -> Answer:
        """Handle "POST /api/chat/stream": the reply as server-sent events while it is written."""
        after = bodies.read_offset(request)
        reply, headers = await self._ask(request, stream=True, after=after)
        return await self._stream(request, reply, after, headers)

    async def resume(self, request: web.Request) -> Answer:
        """Handle "GET /api/sessions/{session_id}/messages/{message_id}/stream": a reply from a place on."""
        after = bodies.read_offset(request)
        session_id = self._open(request).session_id
        reply = self._replies.find(session_id, request.match_info["message_id"])
        return await self._stream(request, reply, after, {})

    async def _stream(
        self, request: web.Request, reply: Reply | StoredReply, after: int, headers: dict[str, str]
    ) -> Answer:
        """Tells the client a reply from character `after`; an error before its first frame is a status."""
        heartbeat = self._replies.config.stream_heartbeat_seconds
        listener = StreamListener(reply, after, heartbeat, self._replies.loop)
        response = web.StreamResponse(headers=headers | _stream_headers(request, reply))
        if isinstance(reply, StoredReply):
            await listener.run(request, response)
            return response
        reply.join(listener)
        try:
            await listener.begin()
            if reply.error and not reply.length:
                raise reply.error
            if reply.told_at or reply.ended:
                response.headers["X-Context-Messages"] = str(reply.context_messages)
            await listener.run(request, response)
        finally:
            reply.leave(listener)
            listener.close()
        return response

    async def cancel(self, request: web.Request) -> Answer:
        """Handle "POST /api/sessions/{session_id}/messages/{message_id}/cancel": stops a reply right here."""
        session_id = self._open(request).session_id
        reply = self._replies.find(session_id, request.match_info["message_id"])
        if isinstance(reply, Reply):
            reply.stop()
        if reply.message:
            return json_response(shapes.message_json(reply.message))
        if reply.error and reply.error.code == "reply_cancelled":
            return web.Response(status=204)
        raise reply.error or ChatError("internal_error", "Internal error.")


def _stream_headers(request: web.Request, reply: Reply | StoredReply) -> dict[str, str]:
    return {
        "Content-Type": "text/event-stream; charset=utf-8",
        "Cache-Control": "no-cache, no-transform",
        "X-Accel-Buffering": "no",
        "X-Message-ID": reply.message_id,
        "Content-Location": f"/api/sessions/{request[SESSION_ID]}/messages/{reply.message_id}/stream",
    }
