"""The routes and their handlers: read, validate, do, write."""

from __future__ import annotations

from aiohttp import web

from chatbot import bodies, shapes
from chatbot.errors import ChatError
from chatbot.listener import EndListener, StreamListener
from chatbot.replies import Replies
from chatbot.reply import Reply, StoredReply
from chatbot.sessions import Sessions
from chatbot.store import Message, Session

REPLIES = web.AppKey("replies", Replies)
SESSIONS = web.AppKey("sessions", Sessions)

SESSION_ID = web.RequestKey("session_id", str)
"""The session that a request turned out to be about; becomes X-Session-ID."""

Answer = web.StreamResponse


def add_routes(router: web.UrlDispatcher) -> None:
    """Registers the API's routes."""
    session = "/api/sessions/{session_id}"
    message = session + "/messages/{message_id}"
    router.add_post("/api/sessions", create_session)
    router.add_get(session, get_session)
    router.add_patch(session, patch_session)
    router.add_delete(session, delete_session)
    router.add_get(session + "/messages", list_messages)
    router.add_get(message, get_message)
    router.add_delete(message, rewind)
    router.add_get(message + "/stream", resume, allow_head=False)
    router.add_post(message + "/cancel", cancel)
    router.add_post("/api/chat", chat)
    router.add_post("/api/chat/stream", chat_stream)


def json_response(value: object, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """A JSON answer."""
    return web.Response(
        body=shapes.dumps(value), status=status, headers=headers, content_type="application/json"
    )


def _open(request: web.Request) -> Session:
    """The session that the path names, kept alive by the request."""
    session = request.app[SESSIONS].open(request.match_info["session_id"])
    request[SESSION_ID] = session.session_id
    return session


def _find_message(request: web.Request, session_id: str, message_id: str, param: str) -> Message:
    message = request.app[REPLIES].store.message(session_id, message_id)
    if not message:
        raise ChatError("message_not_found", "There is no such message in this session.", param)
    return message


# Sessions


async def create_session(request: web.Request) -> Answer:
    """Handle "POST /api/sessions": a new conversation."""
    body = await bodies.read_object(request, bodies.SESSION, ())
    metadata = bodies.metadata_text(body.get("metadata", {}))
    sessions = request.app[SESSIONS]
    session = sessions.create(metadata, body.get("system_prompt"))
    request[SESSION_ID] = session.session_id
    location = {"Location": f"/api/sessions/{session.session_id}"}
    return json_response(shapes.session_object(session, sessions.timeout_ms), 201, location)


def _session_answer(request: web.Request, session: Session) -> Answer:
    replies = request.app[REPLIES]
    value = shapes.session_object(session, request.app[SESSIONS].timeout_ms)
    value["message_count"] = replies.store.count_messages(session.session_id)
    value["active_reply"] = None
    if reply := replies.running(session.session_id):
        started_at = shapes.rfc3339(reply.created_at)
        value["active_reply"] = {
            "message_id": reply.message_id,
            "message": reply.ask.message,
            "started_at": started_at,
        }
    return json_response(value)


async def get_session(request: web.Request) -> Answer:
    """Handle "GET /api/sessions/{session_id}": the session, its length, and the reply it is being given."""
    return _session_answer(request, _open(request))


async def patch_session(request: web.Request) -> Answer:
    """Handle "PATCH /api/sessions/{session_id}": replaces the metadata."""
    body = await bodies.read_object(request, bodies.PATCH, ("metadata",))
    metadata = bodies.metadata_text(body["metadata"])
    session = _open(request)
    request.app[REPLIES].store.set_metadata(session.session_id, metadata)
    return _session_answer(request, session._replace(metadata=metadata))


async def delete_session(request: web.Request) -> Answer:
    """Handle "DELETE /api/sessions/{session_id}": stops a running reply, deletes the conversation."""
    request.app[SESSIONS].delete(_open(request).session_id)
    return web.Response(status=204)


# History


async def list_messages(request: web.Request) -> Answer:
    """Handle "GET /api/sessions/{session_id}/messages": one page of history, oldest first."""
    limit = bodies.read_limit(request)
    session_id = _open(request).session_id
    before, after = request.query.get("before"), request.query.get("after")
    if before is not None and after is not None:
        raise ChatError("invalid_request", "before and after exclude each other.", "before")
    places: dict[str, int | None] = {"before": None, "after": None}
    for name, cursor in (("before", before), ("after", after)):
        if cursor is not None:
            places[name] = _find_message(request, session_id, cursor, name).seq
    messages, more = request.app[REPLIES].store.page(session_id, limit, **places)
    return json_response({"messages": [shapes.message_object(m) for m in messages], "has_more": more})


async def get_message(request: web.Request) -> Answer:
    """Handle "GET /api/sessions/{session_id}/messages/{message_id}": one message."""
    session_id = _open(request).session_id
    message = _find_message(request, session_id, request.match_info["message_id"], "message_id")
    return json_response(shapes.message_object(message))


async def rewind(request: web.Request) -> Answer:
    """Handle "DELETE /api/sessions/{session_id}/messages/{message_id}": it and all after it are gone.

    A running reply comes after every message, so it is gone too; and it may be named itself.
    """
    session_id = _open(request).session_id
    replies, message_id = request.app[REPLIES], request.match_info["message_id"]
    running = replies.running(session_id)
    names_running = running is not None and running.message_id == message_id
    message = None if names_running else _find_message(request, session_id, message_id, "message_id")
    if running:
        running.discard(ChatError("message_not_found", "The message was deleted.", "message_id"))
    return json_response({"deleted": replies.store.rewind(session_id, message) if message else 0})


# Chat


async def _ask(
    request: web.Request, *, stream: bool, after: int = 0
) -> tuple[Reply | StoredReply, dict[str, str]]:
    """The reply to a chat request, begun or met again, and the headers that say so.

    One that goes on `after` some characters is only met: a reply that failed left no characters.
    The caller joins the reply's audience before it awaits anything.
    """
    session_id, ask = await bodies.read_ask(request)
    sessions, replies = request.app[SESSIONS], request.app[REPLIES]
    request[SESSION_ID] = session_id = sessions.find(session_id).session_id
    began = False
    try:
        if known := replies.known(session_id, ask):
            return known, {"Idempotent-Replayed": "true"}
        if after:
            message = "There is no reply under this key to go on with."
            raise ChatError("invalid_request", message, "Last-Event-ID")
        reply = replies.start(session_id, ask, stream=stream)
        began = True
        return reply, {}
    finally:
        if not began:  # one that did marks the session as used at its end
            sessions.open(session_id)


async def chat(request: web.Request) -> Answer:
    """Handle "POST /api/chat": the reply in one piece."""
    reply, headers = await _ask(request, stream=False)
    if isinstance(reply, Reply):
        listener = EndListener()
        with reply.audience(listener):
            await listener.ended
        headers["X-Context-Messages"] = str(reply.context_messages)
    if reply.error:
        raise reply.error
    assert reply.message, "a reply that ended without an error was stored"
    headers["X-Message-ID"] = reply.message_id
    return json_response(shapes.message_object(reply.message), headers=headers)


async def chat_stream(request: web.Request) -> Answer:
    """Handle "POST /api/chat/stream": the reply as server-sent events while it is written."""
    after = bodies.read_offset(request)
    reply, headers = await _ask(request, stream=True, after=after)
    return await _stream(request, reply, after, headers)


async def resume(request: web.Request) -> Answer:
    """Handle "GET /api/sessions/{session_id}/messages/{message_id}/stream": a reply from a character on."""
    after = bodies.read_offset(request)
    session_id = _open(request).session_id
    reply = request.app[REPLIES].find(session_id, request.match_info["message_id"])
    return await _stream(request, reply, after, {})


async def _stream(
    request: web.Request, reply: Reply | StoredReply, after: int, headers: dict[str, str]
) -> Answer:
    """Tells the client a reply from character `after`; an error before the first frame is a real status."""
    heartbeat = request.app[REPLIES].config.stream_heartbeat_seconds
    listener = StreamListener(reply, after, heartbeat)
    response = web.StreamResponse(headers=headers | _stream_headers(request, reply))
    if isinstance(reply, StoredReply):
        await listener.run(request, response)
        return response
    with reply.audience(listener):
        await listener.begin()
        if reply.error and not reply.length:
            raise reply.error
        if reply.told_at or reply.ended:
            response.headers["X-Context-Messages"] = str(reply.context_messages)
        await listener.run(request, response)
    return response


def _stream_headers(request: web.Request, reply: Reply | StoredReply) -> dict[str, str]:
    return {
        "Content-Type": "text/event-stream; charset=utf-8",
        "Cache-Control": "no-cache, no-transform",
        "X-Accel-Buffering": "no",
        "X-Message-ID": reply.message_id,
        "Content-Location": f"/api/sessions/{request[SESSION_ID]}/messages/{reply.message_id}/stream",
    }


async def cancel(request: web.Request) -> Answer:
    """Handle "POST /api/sessions/{session_id}/messages/{message_id}/cancel": stops a reply where it is."""
    session_id = _open(request).session_id
    reply = request.app[REPLIES].find(session_id, request.match_info["message_id"])
    if isinstance(reply, Reply):
        reply.stop()
    if reply.message:
        return json_response(shapes.message_object(reply.message))
    if reply.error and reply.error.code == "reply_cancelled":
        return web.Response(status=204)
    raise reply.error or ChatError("internal_error", "Internal error.")
