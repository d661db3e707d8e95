"""Ways to talk to OpenAI's door of a running server."""

from __future__ import annotations

from typing import Any

from tests.tools.server import Running, Stream


class Door:
    """A client that says no more than it is told to."""

    def __init__(self, server: Running) -> None:
        self.server = server

    async def call(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """Makes a request; returns its status and its JSON."""
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        status, answer, self.headers = await self.server.call(method, f"/v1{path}", body, headers)
        return status, answer

    async def respond(self, said: Any = "Hi", **more: Any) -> dict[str, Any]:
        """POST /v1/responses, which goes well."""
        status, answer = await self.call("POST", "/responses", {"input": said, **more})
        assert status == 200, answer
        return answer

    async def converse(self, *items: Any) -> str:
        """Makes a conversation that has these items; returns its id."""
        status, conversation = await self.call("POST", "/conversations", {"items": items})
        assert status == 200, conversation
        return conversation["id"]

    async def items(self, conversation: str, query: str = "order=asc&limit=100") -> list[Any]:
        """GET /v1/conversations/{id}/items."""
        status, page = await self.call("GET", f"/conversations/{conversation}/items?{query}")
        assert status == 200, page
        return page["data"]

    async def refused(self, status: int, param: str | None, **body: Any) -> dict[str, Any]:
        """POST /v1/responses, which is refused and names the field; returns the error."""
        got, answer = await self.call("POST", "/responses", {"input": "Hi"} | body)
        assert (got, answer["error"]["param"]) == (status, param), answer
        return answer["error"]

    async def stream(self, said: Any = "Hi", **more: Any) -> EventStream:
        """POST /v1/responses, streamed; returns when the headers have come."""
        body = {"input": said, "stream": True, **more}
        return EventStream(await self.server.http.post(f"{self.server.url}/v1/responses", json=body))

    async def resume(self, response_id: str, after: int = -1) -> EventStream:
        """GET the stream of a response, from an event on."""
        path = f"/v1/responses/{response_id}?stream=true&starting_after={after}"
        return EventStream(await self.server.http.get(self.server.url + path))


class EventStream(Stream):
    """An open stream, whose events are JSON up to [DONE]."""

    is_done = False

    async def event(self) -> Any:
        """The next event; None at the end."""
        event = await super().event()
        if event and event.data == "[DONE]":
            self.is_done = True
            event = await super().event()
            assert event is None, "it came after [DONE]"
        return event and event.json

    async def until(self, type_: str) -> Any:
        """The next event of a type."""
        while (event := await self.event()) and event["type"] != type_:
            pass
        return event

    async def rest(self) -> list[Any]:
        """All events up to the end, which is told."""
        events = []
        while event := await self.event():
            events.append(event)
        assert self.is_done, "the specification has [DONE] as the last of a stream, however it went"
        return events


def text_of(response: dict[str, Any]) -> str:
    """The text of a response."""
    parts = [part for item in response["output"] for part in item.get("content", ())]
    return "".join(part.get("text", "") for part in parts)
