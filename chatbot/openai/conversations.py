"""The handlers of /v1/conversations: a conversation is a session, and its items are made from its turns."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from aiohttp import web

from chatbot.chat.history import PAGE_CHARS
from chatbot.chat.reply_registry import ReplyRegistry
from chatbot.chat.sessions import Sessions
from chatbot.chat.stored_reply import forget_logs
from chatbot.config import Config
from chatbot.errors import ChatError
from chatbot.ids import new_turn_id
from chatbot.llm.client import LLM
from chatbot.openai.items import Object, answer_items, place_of, said_items, without_newest
from chatbot.openai.requests import FindItem, messages_of, read_conversation, read_metadata, refuse
from chatbot.records import DELETED, Session, Turn, as_json
from chatbot.storage.database import when_unlocked
from chatbot.storage.store import Store
from chatbot.web.answers import json_response
from chatbot.web.bodies import read_object
from chatbot.web.logs import SESSION_ID


def answered(
    handle: Callable[[web.Request, Object], Object],
) -> Callable[[web.Request], Awaitable[web.Response]]:
    """Makes an aiohttp handler of `handle`, which gets the body of a POST and returns the response's object.

    `handle` is called again if the database's file is locked. So it may write only once, as its last step.
    """

    async def handler(request: web.Request) -> web.Response:
        body = await read_object(request) if request.method == "POST" else {}
        return json_response(await when_unlocked(lambda: handle(request, body)))

    return handler


@dataclass(eq=False)
class Conversations:
    """The handlers of conversations and their items, and the objects that all handlers of this door need."""

    config: Config
    store: Store
    registry: ReplyRegistry
    sessions: Sessions
    llm: LLM
    clock: Callable[[], float]

    def _conversation(self, request: web.Request) -> Session:
        session_id = read_conversation(request.match_info["conversation_id"])
        session = self.sessions.use(session_id, "conversation")
        request[SESSION_ID] = session.session_id
        return session

    async def create_conversation(self, request: web.Request) -> web.Response:
        """Handle "POST /v1/conversations": a new conversation, with items or without."""
        body = await read_object(request)
        messages = messages_of(body.get("items") or [], "items", self.finder())
        metadata = read_metadata(body)
        session = await when_unlocked(lambda: self.sessions.create(metadata))
        request[SESSION_ID] = session.session_id
        await when_unlocked(lambda: self._add(session, messages))
        return json_response(_shown(session))

    def retrieve_conversation(self, request: web.Request, _: Object) -> Object:
        """Handle "GET /v1/conversations/{conversation_id}"."""
        return _shown(self._conversation(request))

    def update_conversation(self, request: web.Request, body: Object) -> Object:
        """Handle "POST /v1/conversations/{conversation_id}": replaces the metadata."""
        session, metadata = self._conversation(request), read_metadata(body)
        if "metadata" not in body:
            raise refuse("metadata", "is missing")
        self.store.set_metadata(session.session_id, metadata)
        return _shown(session._replace(metadata=metadata))

    def delete_conversation(self, request: web.Request, _: Object) -> Object:
        """Handle "DELETE /v1/conversations/{conversation_id}": stops its replies, deletes it."""
        session_id = self._conversation(request).session_id
        self.sessions.delete(session_id)
        return {"id": f"conv_{session_id}", "object": "conversation.deleted", "deleted": True}

    # Items

    def add_items(self, request: web.Request, body: Object) -> Object:
        """Handle "POST /v1/conversations/{conversation_id}/items": adds items; the LLM is not asked."""
        session = self._conversation(request)
        messages = messages_of(body.get("items"), "items", self.finder())
        items = said_items(messages, self._add(session, messages))
        return _list_of(items)

    def _add(self, session: Session, messages: tuple[str, ...]) -> str:
        """Stores messages as a turn without an answer; returns the turn's id."""
        now = int(self.clock() * 1000)
        turn_id = new_turn_id(now)
        if messages:
            self.require_free(session.session_id)
            self.store.require_space()
            said = "\n".join(messages)
            self.store.add_turn(Turn(0, session.session_id, session.current, turn_id, now, now, input=said))
        return turn_id

    def require_free(self, session_id: str) -> None:
        """Raises ChatError: shutting_down, conversation_locked (a running reply occupies the session)."""
        self.registry.refuse_if_closing()
        if self.registry.occupying(session_id):
            message = "A response is being written in this conversation."
            raise ChatError("conversation_locked", message, "conversation")

    def list_items(self, request: web.Request, _: Object) -> Object:
        """Handle "GET /v1/conversations/{conversation_id}/items": a page of the current path."""
        session = self._conversation(request)
        is_up, limit, after = read_cursor(request)
        cursor = self._find_item(session.session_id, after, "after")[0].seq if after else None
        turns: Iterable[Turn | None] = self.store.path_up(cursor or session.current)
        if not is_up:
            path = self.store.path(session.current, cursor - 1 if cursor else 0)
            turns = map(self.store.turn, path)
        items = (item for turn in turns if turn for item in _items_of(turn)[:: -1 if is_up else 1])
        return page_of(items, limit, after)

    def retrieve_item(self, request: web.Request, _: Object) -> Object:
        """Handle "GET /v1/conversations/{conversation_id}/items/{item_id}"."""
        return self._item(request)[2]

    def delete_item(self, request: web.Request, _: Object) -> Object:
        """Handle "DELETE /v1/conversations/{conversation_id}/items/{item_id}": that item alone."""
        session, turn, item = self._item(request)
        said, found, answer = [*turn.messages], _items_of(turn), Object()
        if turn.output is not None:
            if found[-1] != item:
                raise refuse("item_id", "is not the newest of its turn, which was answered")
            answer = without_newest(turn)
        else:  # the other items of a message with calls stay
            place = place_of(item["id"])[1]
            left = [one for one in found if place_of(one["id"])[1] == place and one != item]
            said[place - 1] = "".join(messages_of(left, "item_id", self.finder())) or DELETED
        self.store.keep_only(turn.seq, "\n".join(said), answer)
        forget_logs()
        return _shown(session)

    def _item(self, request: web.Request) -> tuple[Session, Turn, Object]:
        session = self._conversation(request)
        return session, *self._find_item(session.session_id, request.match_info["item_id"], "item_id")

    def _find_item(self, session_id: str, item_id: str, param: str) -> tuple[Turn, Object]:
        turn = self.store.turn_by_id(place_of(item_id)[0])
        if turn and turn.session_id == session_id:
            for item in _items_of(turn):
                if item["id"] == item_id:
                    return turn, item
        raise ChatError("not_found", "There is no such item.", param)

    def finder(self) -> FindItem:
        """Returns a function that finds the items that a request refers to, in any session: ids are secret.

        It reads each turn once, and limits the total size: a short request may refer to a large item often.
        """
        left, turns = 8 * self.config.max_request_bytes, dict[str, dict[str, Object]]()

        def find(item_id: str, param: str) -> Object:
            nonlocal left
            turn_id = place_of(item_id)[0]
            if turn_id not in turns:
                turn = self.store.turn_by_id(turn_id)
                items = _items_of(turn) if turn and self.sessions.use(turn.session_id, param) else []
                turns[turn_id] = {item["id"]: item for item in items}
                left -= len(as_json(items))
            if not (item := turns[turn_id].get(item_id)):
                raise ChatError("not_found", "There is no such item.", param)
            left -= len(as_json(item))
            if left < 0:
                raise ChatError("request_too_large", "The items that are referred to are too long.", param)
            return item

        return find


def _shown(session: Session) -> Object:
    known = {"id": f"conv_{session.session_id}", "object": "conversation"}
    return known | {"created_at": session.created_at // 1000, "metadata": json.loads(session.metadata)}


def _items_of(turn: Turn) -> list[Object]:
    return said_items(turn.messages, turn.turn_id) + answer_items(turn)


# Pages


def read_cursor(request: web.Request) -> tuple[bool, int, str]:
    """Returns how a client pages: whether newest first, how many items, and the id after which they begin."""
    order, limit = request.query.get("order", "desc"), request.query.get("limit", "20")
    if order not in ("asc", "desc"):
        raise refuse("order", "must be asc or desc")
    if not re.fullmatch("[1-9][0-9]?|100", limit):
        raise refuse("limit", "must be an integer from 1 to 100")
    return order == "desc", int(limit), request.query.get("after", "")


def page_of(items: Iterable[Object], limit: int, after: str) -> Object:
    """A page of items, which come in order. With `after` it has the items behind the one with that id.

    The page ends before it exceeds PAGE_CHARS, because making it blocks the event loop.
    """
    items, page, size, has_more = iter(items), list[Object](), 0, False
    if after and all(item["id"] != after for item in items):  # consumes the items up to it
        raise ChatError("not_found", "There is no such item.", "after")
    for item in items:
        size += len(as_json(item))
        if has_more := bool(page) and (len(page) == limit or size > PAGE_CHARS):
            break
        page.append(item)
    return _list_of(page, has_more=has_more)


def _list_of(items: list[Object], *, has_more: bool = False) -> Object:
    first, last = (items[0]["id"], items[-1]["id"]) if items else ("", "")
    return {"object": "list", "data": items, "first_id": first, "last_id": last, "has_more": has_more}
