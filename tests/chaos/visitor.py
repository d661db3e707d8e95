"""A client with a session of its own, who does everything wrong at random, and trusts nothing it is sent."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any

from chatbot.records import as_json
from tests.chaos.random_llm import Character, characters
from tests.chaos.tree import Node, Tree, check, told
from tests.tools.raw import RawClient
from tests.tools.server import Event, Running, Stream, until

FAILURES = {
    *("llm_error", "llm_unavailable", "llm_rate_limited", "llm_timeout", "llm_rejected"),
    "context_too_long",
}


class Gone(Exception):
    """The reply that was listened to came to nothing."""


class Ask:
    """One question: the request's body and headers, what is said, and after which turn it is to stand."""

    def __init__(
        self, body: dict[str, Any], key: str | None, said: tuple[str, ...], parent: str | None
    ) -> None:
        self.body, self.said, self.parent = body, said, parent
        self.headers = {"Idempotency-Key": key} if key else {}
        self.question = Node("", None, said, (), "").question


class Visitor:
    """`tree` is what it believes, `unsure` the questions whose replies it does not know the end of.

    `allowed` counts for all visitors how often each question may be answered.
    """

    def __init__(
        self, server: Running, rng: random.Random, figures: Counter[str], allowed: Counter[str], number: int
    ) -> None:
        self._server, self._rng, self._figures, self._allowed = server, rng, figures, allowed
        self._number = number
        self._count = 0
        self.session = ""
        self.tree = Tree()
        self.unsure: set[str] = set()

    async def live(self, until: float) -> None:
        self.session = await self._server.session()
        loop = asyncio.get_running_loop()
        actions = [self.talk, self.ask_twice, self.rewind, self.move, self.race, self.delete, self.stall]
        while loop.time() < until:
            action = self._rng.choices(actions, [70, 8, 6, 6, 6, 2, 0.2])[0]
            if action != self.talk or self._rng.random() < 0.5:
                await self.settle()
            await action()

    # What it believes and what is

    async def _nothing_runs(self) -> None:
        while self._server.replies.replies_in(self.session):  # noqa: ASYNC110
            await asyncio.sleep(0.002)  # thirty who ask at each turn of the loop would keep it to themselves

    async def settle(self) -> None:
        """Waits until nothing runs in the session, and learns what came of that of which it is unsure."""
        await self._nothing_runs()
        found = Tree.stored(self._server, self.session)
        more = [node for node in found.nodes.values() if node.message_id not in self.tree.nodes]
        for node in more:
            check(node)
            assert node.question in self.unsure, f"nobody asked for {node}, or it came to nothing"
        assert len({node.question for node in more}) == len(more), f"answered twice: {more}"
        kept = {one: node for one, node in found.nodes.items() if one in self.tree.nodes}
        assert kept == self.tree.nodes, "what was seen is lost, or stored otherwise"
        assert found.current == (more[-1].message_id if more else self.tree.current)
        self.tree = found
        self.unsure.clear()

    async def check(self) -> None:
        """The history is that of the tree, read from either end."""
        await self.settle()
        expected = self.tree.history()
        for name in ("before", "after"):
            messages: list[dict[str, Any]] = []
            more, cursor = True, "start"
            while more:
                where = "" if name == "before" and not messages else f"&{name}={cursor}"
                path = f"/api/sessions/{self.session}/messages?limit={self._rng.randint(1, 50)}{where}"
                _, page, _ = await self._server.call("GET", path)
                more, part = page["has_more"], page["messages"]
                messages = messages + part if name == "after" else part + messages
                cursor = messages[-1 if name == "after" else 0]["message_id"] if messages else ""
            assert len(messages) == len(expected)
            for message, wanted in zip(messages, expected, strict=True):
                assert message | wanted == message, (message, wanted)

    # Asking

    def _next(self, kind: str = "") -> str:
        self._count += 1
        return f"{kind}{self._number}-{self._count}"

    def _ask(self, kind: str = "", *, key: bool = True) -> Ask:
        """Something to ask: new, in place of a turn, the same again, or the outputs of tools."""
        rng, nodes, body = self._rng, list(self.tree.nodes.values()), {"session_id": self.session}
        question, parent = self._next(kind), self.tree.current
        name = question if key else None
        if kind == "" and not self.unsure and nodes and rng.random() < 0.25:
            chosen = rng.choice(nodes)
            body["replace"], parent = f"{chosen.message_id[:-3]}{rng.choice(['000', '001'])}", chosen.parent
            if rng.random() < 0.4:
                self._figures["asked again"] += 1
                self._allowed[chosen.question] += 1
                return Ask(body, name, chosen.said, parent)
            self._figures["asked in place"] += 1
        calls = self.tree.nodes[parent].open_calls if parent and not self.unsure else []
        if calls and not kind and rng.random() < 0.7:
            self._figures["tool outputs"] += 1
            outputs = [{"tool_call_id": call, "output": question} for call in calls]
            messages = [{"role": "tool", "tool_call_id": call, "content": question} for call in calls]
            return Ask(body | {"tool_outputs": outputs}, name, tuple(map(as_json, messages)), parent)
        said = as_json({"role": "user", "content": question})
        return Ask(body | {"message": question}, name, (said,), parent)

    async def talk(self) -> None:
        """Asks, and listens in one way or another."""
        ask = self._ask(key=self._rng.random() < 0.7)
        if self._rng.random() < 0.2:
            await self._ask_whole(ask)
            return
        try:
            stream = await self._open(ask, 0)
            if self._rng.random() < 0.1:
                self._leave_for_good(ask)
                stream.leave()
                return
            await self._follow(ask, stream)
        except Gone:
            self._figures["turns failed"] += 1

    def _leave_for_good(self, ask: Ask) -> None:
        self._figures["left for good"] += 1
        self.unsure.add(ask.question)

    async def _ask_whole(self, ask: Ask) -> None:
        asking = asyncio.create_task(self._server.call("POST", "/api/chat", ask.body, ask.headers))
        if self._rng.random() < 0.3:
            # It goes when the server has its question: then it is known when all is over.
            await until(lambda: asking.done() or self._is_running(ask))
            asking.cancel()
            self._leave_for_good(ask)
            return
        status, body, _ = await asking
        if status != 200:
            await self._refused(status, body["error"])
            return
        whole = told(tuple(characters(ask.question)), body["finish_reason"])
        if body["finish_reason"] != "cancelled":
            assert {name: body.get(name) for name in whole} == whole
        self.unsure.add(ask.question)  # what it is piece by piece is read from what is stored
        self._figures["whole turns"] += 1

    def _is_running(self, ask: Ask) -> bool:
        return any(one.question.input == ask.said for one in self._server.replies.replies_in(self.session))

    async def _open(self, ask: Ask, after: int) -> Stream:
        """Opens the stream of a question, new or again; raises Gone if there is to be none."""
        headers = ask.headers | ({"Last-Event-ID": str(after)} if after else {})
        for _ in range(50):
            url = self._server.url + "/api/chat/stream"
            stream = Stream(await self._server.http.post(url, json=ask.body, headers=headers))
            self._server.streams.append(stream)
            if stream.status == 200:
                return stream
            error = (await stream.response.json())["error"]
            if stream.status == 400 and error["param"] == "Last-Event-ID" and after:
                raise Gone  # it failed while nobody listened: there is nothing to go on with
            await self._refused(stream.status, error)
            if error["code"] != "session_busy":
                raise Gone
        raise Gone

    async def _refused(self, status: int, error: dict[str, Any]) -> None:
        """Whatever is refused must be for a reason that this test gave."""
        code = error["code"]
        self._figures[f"sent {code}"] += 1
        assert code in FAILURES | {"session_busy", "reply_cancelled"}, (status, error)
        if code == "session_busy":  # by a reply that was left for good, or another's
            stream = await self._server.resume(self.session, error["message_id"])
            if stream.status == 200 and self._rng.random() < 0.5:
                await self._cancel(error["message_id"])
            await stream.rest() if stream.status == 200 else None
            stream.leave()

    async def _cancel(self, message_id: str) -> None:
        path = f"/api/sessions/{self.session}/messages/{message_id}/cancel"
        status, body, _ = await self._server.call("POST", path)
        self._figures["cancels"] += 1
        assert status in (200, 204, 404), body

    # Listening

    async def _follow(self, ask: Ask, stream: Stream) -> None:
        """Listens to the end, with interruptions; raises Gone if the reply comes to nothing."""
        whole = characters(ask.question)
        heard: list[Character] = []
        reason, message_id = "", stream.message_id
        while True:
            event = await stream.event()
            if event is None:  # dropped, or the connection failed
                stream = await self._again(ask, stream, len(heard))
                continue
            if event.data == "[DONE]":
                return self._saw(ask, message_id, heard, reason)
            if event.id is None:
                await self._refused(200, event.json["error"])
                raise Gone
            heard += heard_of(event)
            reason = event.finish_reason or reason
            assert heard == whole[: len(heard)], f"{heard!r} is not how {whole!r} begins"
            assert event.id == len(heard)
            dice = self._rng.random()
            if dice < 0.06:
                stream = await self._again(ask, stream, len(heard))
                assert stream.message_id == message_id
            elif dice < 0.07:
                await self._cancel(message_id)

    async def _again(self, ask: Ask, stream: Stream, after: int) -> Stream:
        """Cuts the stream and goes on with it, in one of two ways."""
        stream.leave()
        if ask.headers and after and self._rng.random() < 0.5:
            self._figures["retries"] += 1
            return await self._open(ask, after)
        self._figures["resumes"] += 1
        again = await self._server.resume(self.session, stream.message_id, after)
        if again.status == 404:
            raise Gone
        assert again.status == 200, await again.response.text()
        return again

    def _saw(self, ask: Ask, message_id: str, heard: list[Character], reason: str) -> None:
        self._figures["turns"] += 1
        self._figures[f"turns: {reason}"] += 1
        if self.unsure:  # where it stands is not known
            self.unsure.add(ask.question)
            return
        node = Node(message_id, ask.parent, ask.said, tuple(heard), reason)
        check(node)
        self.tree.nodes[message_id], self.tree.current = node, message_id

    # All else

    async def ask_twice(self) -> None:
        """The double click: the same key several times at once, on both endpoints."""
        ask = self._ask()
        self._figures["double clicks"] += 1

        async def one(*, stream: bool) -> None:
            try:
                await (self._follow(ask, await self._open(ask, 0)) if stream else self._ask_whole(ask))
            except Gone:
                pass

        await asyncio.gather(*(one(stream=self._rng.random() < 0.5) for _ in range(4)))

    def _any(self) -> str | None:
        """A message of the tree."""
        chosen = self._rng.choice(list(self.tree.nodes)) if self.tree.nodes else None
        return f"{chosen[:-3]}{self._rng.choice(['000', '001'])}" if chosen else None

    async def rewind(self) -> None:
        if chosen := self._any():
            turn = f"{chosen[:-3]}000"
            gone = self.tree.below(turn)
            path = f"/api/sessions/{self.session}/messages/{chosen}"
            status, body, _ = await self._server.call("DELETE", path)
            deleted = sum(len(self.tree.nodes[one].said) + 1 for one in gone)
            assert (status, body) == (200, {"deleted": deleted})
            self._figures["rewinds"] += 1
            if self.tree.current in gone:
                self.tree.current = self.tree.nodes[turn].parent
            for one in gone:
                del self.tree.nodes[one]

    async def move(self) -> None:
        if chosen := self._any():
            path = f"/api/sessions/{self.session}"
            status, body, _ = await self._server.call("PATCH", path, {"current": chosen})
            assert status == 200, body
            self.tree.current = self.tree.end_below(f"{chosen[:-3]}000")
            assert body["message_count"] == len(self.tree.history())
            self._figures["moves"] += 1

    async def race(self) -> None:
        """A turn is replaced, deleted and gone to, all at once: any order may win, and no order may harm."""
        chosen = self._any()
        if not chosen:
            return
        self._figures["races"] += 1
        path, turn = f"/api/sessions/{self.session}", f"{chosen[:-3]}000"
        asks = [{"session_id": self.session, "message": self._next(), "replace": chosen} for _ in range(2)]
        calls: list[tuple[str, str, dict[str, Any] | None]] = [("POST", "/api/chat", ask) for ask in asks]
        calls += [("DELETE", f"{path}/messages/{chosen}", None), ("PATCH", path, {"current": self._any()})]
        self._rng.shuffle(calls)
        calls = calls[: self._rng.randint(2, 4)]
        answers = await asyncio.gather(*(self._server.call(*call) for call in calls))
        await self._nothing_runs()
        gone: set[str] = set()
        for (method, _, _), (status, body, _) in zip(calls, answers, strict=True):
            assert status in (200, 404, 409) or body["error"]["code"] in FAILURES, body
            if method == "DELETE":
                assert status == 200
                gone = self.tree.below(turn)
        found = Tree.stored(self._server, self.session)
        for node in found.nodes.values():
            assert node.parent is None or node.parent in found.nodes
            assert node.message_id in self.tree.nodes or node.question in {ask["message"] for ask in asks}
            check(node)
        left = {one: node for one, node in self.tree.nodes.items() if one not in gone}
        assert {one: node for one, node in found.nodes.items() if one in self.tree.nodes} == left
        self.tree = found

    async def delete(self) -> None:
        old = self.session
        if self._rng.random() < 0.5:  # with a reply that runs
            await self._server.stream(old, self._next())
        status, _, _ = await self._server.call("DELETE", f"/api/sessions/{old}")
        assert status == 204
        self._figures["deleted sessions"] += 1
        self.session, self.tree = await self._server.session(), Tree()
        self.unsure.clear()

    async def stall(self) -> None:
        """Asks for much and does not read it, until it is let go; then comes back for the rest."""
        ask, client = self._ask("long"), RawClient()
        await client.request(self._server.server.port, "POST", "/api/chat/stream", ask.body, ask.headers)
        self.unsure.add(ask.question)
        try:
            assert await client.read(1)
            await asyncio.sleep(self._rng.random() * 2)  # it is let go after 1
            while not client.received.endswith(b"\r\n0\r\n\r\n") and await client.read(1):
                pass
            found = client.events
            self._figures["stalls" if client.closed else "stalls in vain"] += 1
        finally:
            client.close()
        head = bytes(client.received).partition(b"\r\n\r\n")[0].decode()
        message_id = head.partition("X-Message-ID: ")[2].partition("\r\n")[0]
        heard = [one for event in found for one in heard_of(event)]
        assert heard == characters(ask.question)[: len(heard)]
        stream = await self._server.resume(self.session, message_id, len(heard))
        if stream.status == 200:
            heard += [one for event in await stream.rest() for one in heard_of(event)]
            assert heard == characters(ask.question)[: len(heard)]


def heard_of(event: Event) -> list[Character]:
    """The characters that an event delivers."""
    choices = [] if event.data == "[DONE]" else event.json.get("choices", [])
    found: list[Character] = []
    for choice in choices:
        delta = choice["delta"]
        for kind, field in (("reasoning", "reasoning_content"), ("text", "content")):
            found += [(kind, 0, letter) for letter in delta.get(field) or ""]
        for call in delta.get("tool_calls", ()):
            if "id" in call:
                found.append(("call", call["index"], f"{call['id']} {call['function']['name']}"))
            found += [("call", call["index"], letter) for letter in call["function"].get("arguments", "")]
    return found
