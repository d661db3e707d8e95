"""The handlers of /v1/conversations: a conversation is a session, its items are what its turns hold."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain, dropwhile, islice
from typing import Any

from aiohttp import web

from chatbot.chat.reply_registry import ReplyRegistry
from chatbot.chat.sessions import Sessions
from chatbot.errors import ChatError
from chatbot.ids import new_turn_id
from chatbot.openai.identifiers import turn_of
from chatbot.openai.items import answer_items, message_without, messages_of, refuse, said_items
from chatbot.openai.requests import read_conversation, read_metadata
from chatbot.records import DELETED, Session, Turn
from chatbot.storage.database import when_unlocked
from chatbot.storage.store import Store
from chatbot.web.answers import json_response
from chatbot.web.bodies import read_object
from chatbot.web.logs import SESSION_ID


@dataclass(eq=False)
class Conversations:
    """The handlers of conversations and of their items, and what they need."""

    store: Store
    registry: ReplyRegistry
    sessions: Sessions
    clock: Callable[[], float]

    def _open(self, request: web.Request) -> Session:
        session = self.sessions.use(read_conversation(request.match_info["conversation_id"]))
        request[SESSION_ID] = session.session_id
        return session

    async def create(self, request: web.Request) -> web.Response:
        """Handle "POST /v1/conversations": a new one, with items or without."""
        body = await read_object(request)
        messages = messages_of(body.get("items") or [], "items", self.find_item)
        metadata = read_metadata(body)
        session = await when_unlocked(lambda: self.sessions.create(metadata))
        request[SESSION_ID] = session.session_id
        await when_unlocked(lambda: self._add(session, messages))
        return _answer(session)

    async def retrieve(self, request: web.Request) -> web.Response:
        """Handle "GET /v1/conversations/{conversation_id}"."""
        return _answer(self._open(request))

    async def update(self, request: web.Request) -> web.Response:
        """Handle "POST /v1/conversations/{conversation_id}": replaces the metadata."""
        metadata = read_metadata(await read_object(request))
        session = self._open(request)
        await when_unlocked(lambda: self.store.set_metadata(session.session_id, metadata))
        return _answer(session._replace(metadata=metadata))

    async def delete(self, request: web.Request) -> web.Response:
        """Handle "DELETE /v1/conversations/{conversation_id}": stops running replies, deletes it."""
        session_id = self._open(request).session_id
        await when_unlocked(lambda: self.sessions.delete(session_id))
        return json_response({"id": f"conv_{session_id}", "object": "conversation.deleted", "deleted": True})

    # Items

    async def add_items(self, request: web.Request) -> web.Response:
        """Handle "POST /v1/conversations/{conversation_id}/items": adds them, and asks nothing."""
        messages = messages_of((await read_object(request)).get("items"), "items", self.find_item)
        turn_id = await when_unlocked(lambda: self._add(self._open(request), messages))
        items = said_items(messages, turn_id)
        return json_response(page_of(items, len(items)))

    def _add(self, session: Session, messages: tuple[str, ...]) -> str:
        """Stores messages as a turn that has no answer; returns its id."""
        now = int(self.clock() * 1000)
        turn_id = new_turn_id(now)
        if not messages:
            return turn_id
        if self.registry.occupying(session.session_id):
            raise ChatError("conversation_locked", "A response is being written in this conversation.")
        self.store.require_space()
        said = "\n".join(messages)
        self.store.add_turn(Turn(0, session.session_id, session.current, turn_id, now, now, input=said))
        return turn_id

    async def list_items(self, request: web.Request) -> web.Response:
        """Handle "GET /v1/conversations/{conversation_id}/items": a page of the current path."""
        is_up, limit, after = read_cursor(request)
        session = self._open(request)
        cursor = self._find(session.session_id, after, "after")[0].seq if after else None
        turns: Iterable[Turn | None] = self.store.path_up(session.session_id, cursor or session.current)
        if not is_up:
            path = self.store.path(session.session_id, session.current, cursor - 1 if cursor else 0)
            turns = map(self.store.turn, path)
        items = chain.from_iterable(_items_of(turn)[:: -1 if is_up else 1] for turn in turns if turn)
        return json_response(page_of(items, limit, after))

    async def retrieve_item(self, request: web.Request) -> web.Response:
        """Handle "GET /v1/conversations/{conversation_id}/items/{item_id}"."""
        session_id, item = self._open(request).session_id, request.match_info["item_id"]
        return json_response(self._find(session_id, item, "item_id")[1])

    async def delete_item(self, request: web.Request) -> web.Response:
        """Handle "DELETE /v1/conversations/{conversation_id}/items/{item_id}": that item alone."""
        session, item = self._open(request), request.match_info["item_id"]
        await when_unlocked(lambda: self._delete(session.session_id, item))
        return _answer(session)

    def _delete(self, session_id: str, item_id: str) -> None:
        turn = self._find(session_id, item_id, "item_id")[0]
        if turn.output is not None:
            *others, newest = answer_items(turn)
            if newest["id"] != item_id:
                raise refuse("item_id", "is not the newest of its turn, which was answered")
            said = [*turn.messages, *messages_of(others, "item_id", self.find_item)]
            return self.store.drop_output(turn.seq, "\n".join(said))
        left = [
            message_without(item_id, line, turn.turn_id, place) for place, line in enumerate(turn.messages, 1)
        ]
        if all(message == DELETED for message in left):
            return self.sessions.splice_out(session_id, turn.seq, turn.parent)
        return self.store.set_input(turn.seq, "\n".join(left))

    def _find(self, session_id: str | None, item_id: str, param: str) -> tuple[Turn, dict[str, Any]]:
        """An item and its turn, of one session or of any that is alive: such an id is as good as a secret."""
        turn_id = turn_of(item_id)
        turn = self.store.turn_by_id(turn_id) if turn_id else None
        if turn and session_id in (None, turn.session_id) and self.sessions.use(turn.session_id):
            for item in _items_of(turn):
                if item["id"] == item_id:
                    return turn, item
        raise ChatError("not_found", "There is no such item.", param)

    def find_item(self, item_id: str, param: str) -> dict[str, Any]:
        """The item that another refers to."""
        return self._find(None, item_id, param)[1]


def _answer(session: Session) -> web.Response:
    known = {"id": f"conv_{session.session_id}", "object": "conversation"}
    more = {"created_at": session.created_at // 1000, "metadata": json.loads(session.metadata)}
    return json_response(known | more)


def _items_of(turn: Turn) -> list[dict[str, Any]]:
    return said_items(turn.messages, turn.turn_id) + answer_items(turn)


# Pages


def read_cursor(request: web.Request) -> tuple[bool, int, str]:
    """How a client pages: whether from the newest item on, how many it wants, and after which."""
    order, limit = request.query.get("order", "desc"), request.query.get("limit", "20")
    if order not in ("asc", "desc"):
        raise refuse("order", "must be asc or desc")
    if not re.fullmatch("[0-9]{1,9}", limit) or not 1 <= int(limit) <= 100:
        raise refuse("limit", "must be an integer from 1 to 100")
    return order == "desc", int(limit), request.query.get("after", "")


def page_of(items: Iterable[dict[str, Any]], limit: int, after: str = "") -> dict[str, Any]:
    """A page of items that come in order: those behind the one with the id `after`, if it is given."""
    if after:
        items = islice(dropwhile(lambda item: item["id"] != after, items), 1, None)
    found = list(islice(items, limit + 1))
    page, has_more = found[:limit], len(found) > limit
    first, last = (page[0]["id"], page[-1]["id"]) if page else ("", "")
    return {"object": "list", "data": page, "first_id": first, "last_id": last, "has_more": has_more}
