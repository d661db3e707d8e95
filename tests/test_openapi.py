"""The description and the server say the same: every route, body, parameter, header, status and error."""

from __future__ import annotations

import asyncio
import io
import json
import re
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from chatbot import __version__
from chatbot.api.openapi import FILE, SCHEMAS
from chatbot.chat.context import WHOLE
from chatbot.chat.limits import LISTED, MESSAGES, REFUSED, TOKENS
from chatbot.config import SERVER_FIELDS, Config
from chatbot.errors import ERRORS, ChatError
from tests.tools.scripted_llm import Hang, ScriptedLLM, answer, delta, events, reply
from tests.tools.server import Clock, Running, StartServer, until

DOC: dict[str, Any] = json.loads(FILE.body)

ELSEWHERE = re.compile(r"/v1/|/page/|/$|/docs")
"""What other documents describe, and what is for people."""

MISSING = "00000000-0000-4000-8000-000000000000"


def resolve(node: dict[str, Any]) -> dict[str, Any]:
    """What a node means, its $ref followed."""
    while "$ref" in node:
        path = node["$ref"].removeprefix("#/").split("/")
        target: Any = DOC
        for name in path:
            target = target[name]
        node = target | {key: value for key, value in node.items() if key != "$ref"}
    return node


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Every operation as (METHOD, path, description with the parameters of its path)."""
    for path, item in DOC["paths"].items():
        for method, operation in item.items():
            if method != "parameters":
                both = item.get("parameters", []) + operation.get("parameters", [])
                yield method.upper(), path, operation | {"parameters": both}


OPERATIONS = {operation["operationId"]: (method, path) for method, path, operation in operations()}


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    """Every object anywhere in a part of the document."""
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from nodes(inner)


def closed(value: Any) -> Any:
    """A schema without room for fields that it does not list, which clients must bear and we do not send."""
    if isinstance(value, list):
        return [closed(item) for item in value]
    if not isinstance(value, dict):
        return value
    value = {key: closed(item) for key, item in value.items()}
    if value.get("type") == "object" and value.get("properties"):
        value.setdefault("additionalProperties", False)
    return value


def flaws(value: Any, schema: dict[str, Any], *, strict: bool = False) -> list[str]:
    """What is wrong with a value by a schema of the document."""
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema comes with the extra dev")
    # As the root of the schema the document's own components: its references begin at "#".
    root = {"allOf": [schema], "components": DOC["components"]}
    checker = jsonschema.FormatChecker()
    validator = jsonschema.Draft202012Validator(closed(root) if strict else root, format_checker=checker)
    return [error.message for error in validator.iter_errors(value)]


def undocumented(operation_id: str, status: int, body: Any, headers: Any) -> list[str]:
    """In what an answer differs from its description."""
    method, path = OPERATIONS[operation_id]
    responses = DOC["paths"][path][method.lower()]["responses"]
    if str(status) not in responses:
        return [f"status {status} is not described"]
    response = resolve(responses[str(status)])
    found = []
    for name, header in response.get("headers", {}).items():
        header = resolve(header)
        if name in headers:
            text = headers[name]
            value = int(text) if header["schema"].get("type") == "integer" else text
            found += [f"{name}: {flaw}" for flaw in flaws(value, header["schema"])]
        elif header.get("required"):
            found.append(f"the header {name} is missing")
    if content := response.get("content"):
        media = headers["Content-Type"].partition(";")[0]
        if media not in content:
            return [*found, f"the type {media} is not described"]
        if media == "application/json":
            is_ours = operation_id not in ("get_openapi", "health", "ready")
            found += flaws(body, content[media]["schema"], strict=is_ours)
    elif body is not None:
        found.append("a body where none is described")
    return found


# The document by itself


def test_every_reference_leads_somewhere_and_every_component_is_used() -> None:
    used = {node["$ref"] for node in nodes(DOC) if "$ref" in node}
    for reference in used:
        resolve({"$ref": reference})
    there = {
        f"#/components/{kind}/{name}"
        for kind, components in DOC["components"].items()
        for name in components
        if kind != "securitySchemes"
    }
    # What any path and any request may be answered.
    assert there - used == {f"#/components/responses/{status}" for status in (405, 431)}


def test_every_operation_says_what_it_is_and_takes() -> None:
    ids = [operation["operationId"] for _, _, operation in operations()]
    assert len(ids) == len(set(ids))
    for _, _, operation in operations():
        assert operation["summary"]
        for parameter in map(resolve, operation["parameters"]):
            assert flaws(parameter["example"], parameter["schema"]) == [], parameter["name"]
            assert parameter["description"]
    for name, schema in DOC["components"]["schemas"].items():
        for example in schema.get("examples", ()):
            assert flaws(example, schema, strict=True) == [], name


def test_client_generators_make_one_class_of_each_schema() -> None:
    """Beside fields an `anyOf` becomes several classes without them; generators pass over a `not`."""
    schemas = DOC["components"]["schemas"].items()
    assert [name for name, one in schemas if "properties" in one and one.keys() & {"anyOf", "oneOf"}] == []


def test_the_document_and_the_tables_of_the_code_agree() -> None:
    responses = DOC["components"]["responses"]
    described = {
        code: int(status) for status in responses for code in responses[status]["description"].split(", ")
    }
    elsewhere = {"conversation_locked"}  # OpenAI's API has it
    assert described == {code: status for code, (status, _) in ERRORS.items() if code not in elsewhere}
    error = DOC["components"]["schemas"]["ErrorBody"]["properties"]
    assert set(error["code"]["enum"]) == set(ERRORS)
    assert set(error["type"]["enum"]) == {kind for _, kind in ERRORS.values()}
    [extra, _] = DOC["components"]["schemas"]["Chat"]["properties"]["extra_body"]["anyOf"]
    assert extra["propertyNames"]["not"]["enum"] == list(SERVER_FIELDS)
    assert DOC["info"]["version"] == __version__


def test_every_setting_that_the_document_names_exists() -> None:
    named = set(re.findall(r"`([A-Z][A-Z_]+)`", json.dumps(DOC)))
    known = {name.upper() for name in Config.__dataclass_fields__}
    assert named - known - {"DELETE", "GET", "HEAD", "OPTIONS", "POST"} == set()
    assert {"MAX_REQUEST_BYTES", "API_KEYS", "ALLOWED_ORIGINS"} <= named


def test_the_reasons_of_a_context_are_named() -> None:
    named = re.findall(r"`(\w+)`", DOC["components"]["schemas"]["Context"]["description"])
    assert {WHOLE, MESSAGES, TOKENS, LISTED, REFUSED} <= set(named)


# The document and the server


async def test_the_document_describes_every_route_and_no_other(server: Running) -> None:
    routes = {
        (route.method, route.resource.canonical)
        for route in server.server.app.router.routes()
        if route.resource is not None and not ELSEWHERE.match(route.resource.canonical)
    }
    described = {(method, path) for method, path, _ in operations()}
    heads = {("HEAD", path) for method, path in described if method == "GET" and not path.endswith("/stream")}
    assert routes == described | heads


async def test_the_document_is_served_and_served_again_only_when_it_has_changed(server: Running) -> None:
    status, document, headers = await server.call("GET", "/api/openapi.json")
    assert (status, document) == (200, DOC)
    again = await server.call("GET", "/api/openapi.json", headers={"If-None-Match": headers["ETag"]})
    assert again[:2] == (304, None)
    assert undocumented("get_openapi", *again) == []
    other = await server.call("GET", "/api/openapi.json", headers={"If-None-Match": '"another"'})
    assert other[0] == 200


def examples_of(operation_id: str) -> list[Any]:
    """The examples of an operation's body."""
    method, path = OPERATIONS[operation_id]
    body = DOC["paths"][path][method.lower()].get("requestBody")
    return resolve(body["content"]["application/json"]["schema"])["examples"] if body else []


async def request(
    server: Running,
    operation_id: str,
    ids: dict[str, str],
    body: Any = None,
    headers: Any = None,
    query: str = "",
) -> tuple[int, Any, Any]:
    """Makes the request of an operation, bytes as they are; returns its status, its body and its headers."""
    method, path = OPERATIONS[operation_id]
    url = server.url + path.format(**ids) + query
    sent: Any = {"data": io.BytesIO(body)} if isinstance(body, bytes) else {"json": body}
    async with server.http.request(method, url, headers=headers, **sent) as response:
        text = await response.text()
        is_json = response.headers.get("Content-Type", "").startswith("application/json")
        return response.status, json.loads(text) if is_json else text or None, response.headers


async def turn(server: Running, llm: ScriptedLLM | None = None) -> dict[str, str]:
    """The ids of a session with one turn and of its reply, which calls a tool if an LLM is given."""
    session_id = await server.session()
    if llm:
        one = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "now", "arguments": "{}"}}
        llm.play(events(delta(tool_calls=[one]), delta(finish="tool_calls"), b"data: [DONE]\n\n"))
    _, message, _ = await server.chat(session_id)
    return {"session_id": session_id, "message_id": message["message_id"]}


def about(body: dict[str, Any], ids: dict[str, str]) -> dict[str, Any]:
    """An example of a body with ids that there are."""
    real = {"session_id": ids["session_id"], "replace": ids["message_id"], "current": ids["message_id"]}
    return body | {name: value for name, value in real.items() if name in body}


@pytest.mark.parametrize(
    ("operation_id", "body"), [(one, body) for one in OPERATIONS for body in examples_of(one)], ids=str
)
async def test_every_example_of_a_body_is_taken_and_answered_as_described(
    server: Running, llm: ScriptedLLM, operation_id: str, body: dict[str, Any]
) -> None:
    ids = await turn(server, llm)
    status, answered, headers = await request(server, operation_id, ids, about(body, ids))
    assert status in (200, 201), answered
    assert undocumented(operation_id, status, answered, headers) == []


@pytest.mark.parametrize("operation_id", OPERATIONS)
async def test_every_example_of_a_parameter_is_taken(server: Running, operation_id: str) -> None:
    [operation] = [one for _, _, one in operations() if one["operationId"] == operation_id]
    for parameter in map(resolve, operation["parameters"]):
        ids = await turn(server)
        name, value = parameter["name"], parameter["example"]
        if name == "before":
            value = ids["message_id"]
        if name == "X-Session-ID":
            value = ids["session_id"]
        body = next((about(example, ids) for example in examples_of(operation_id)), None)
        query = f"?{name}={value}" if parameter["in"] == "query" else ""
        headers = {name: value} if parameter["in"] == "header" else {}
        answered = await request(server, operation_id, ids, body, headers, query)
        assert undocumented(operation_id, *answered) == [], name
        # A place in a reply that is only begun by this very request is the one that cannot be taken.
        resumes_nothing = operation_id == "chat_stream" and name in ("after", "Last-Event-ID")
        assert answered[0] == 400 if resumes_nothing else answered[0] < 400, (name, answered[:2])


async def test_a_request_with_nothing_special_is_answered_as_described(server: Running) -> None:
    for operation_id in OPERATIONS:
        ids = await turn(server)
        body = next((about(example, ids) for example in examples_of(operation_id)), None)
        answered = await request(server, operation_id, ids, body)
        assert answered[0] < 300, (operation_id, answered)
        assert undocumented(operation_id, *answered) == [], operation_id


@pytest.mark.parametrize("body", [{}, {"system_prompt": None}])
async def test_a_field_that_a_body_must_have_is_asked_for(
    server: Running, monkeypatch: pytest.MonkeyPatch, body: dict[str, Any]
) -> None:
    monkeypatch.setitem(SCHEMAS["NewSession"], "required", ["system_prompt"])
    status, said, _ = await server.call("POST", "/api/sessions", body)
    assert (status, said["error"]["param"]) == (400, "system_prompt")


async def test_every_event_of_a_stream_is_as_described(server: Running, llm: ScriptedLLM) -> None:
    session_id = await server.session()
    stream = await server.stream(session_id)
    events = await stream.rest()
    events += await (await server.resume(session_id, stream.message_id, 3)).rest()
    llm.play([*reply("begun")[:2], Hang])
    running = await server.stream(session_id)
    assert await running.event()
    await server.call("POST", f"/api/sessions/{session_id}/messages/{running.message_id}/cancel")
    events += await running.rest()
    assert len([event for event in events if event.data == "[DONE]"]) == 3
    for event in events:
        shown = {"data": event.data} | ({} if event.id is None else {"id": str(event.id)})
        assert flaws(shown, {"$ref": "#/components/schemas/Event"}, strict=True) == [], event


# Every error, provoked: the table, the document and the server agree about each.

LLM_SAYS = {
    "context_too_long": answer("400 Bad Request", {"error": {"code": "context_length_exceeded"}}),
    "llm_rejected": answer("400 Bad Request", {"error": {"message": "temperature must be at most 2"}}),
    "llm_rate_limited": answer("429 Too Many Requests", {"error": "slow"}, "Retry-After: 7\r\n"),
    "llm_error": answer(body=b"<html>"),
    "llm_unavailable": answer("503 Loading", {}, "Retry-After: 3\r\n"),
}
"""What the LLM answers to a chat."""

REFUSALS: dict[str, tuple[dict[str, Any], str, Any, dict[str, str]]] = {
    "invalid_request": ({}, "create_session", {"metadata": 1}, {}),
    "unauthorized": ({"api_keys": ("k",)}, "create_session", None, {}),
    "origin_not_allowed": ({}, "health", None, {"Origin": "https://evil.example"}),
    "session_not_found": ({}, "chat", {"session_id": MISSING, "message": "Hi"}, {}),
    "request_too_large": ({"max_request_bytes": 1024}, "chat", {"message": "x" * 1024}, {}),
    "storage_full": ({"max_database_mb": 0}, "create_session", None, {}),
}
"""Settings, and an operation with a body and headers that is refused under them."""

Provoked = tuple[str, tuple[int, Any, Any]]
Scenario = Callable[[Running, ScriptedLLM, Clock], Awaitable[Provoked]]
SCENARIOS: dict[str, tuple[dict[str, Any], Scenario]] = {}
"""Settings, and what must come about for the other errors."""


def provokes(code: str, **settings: Any) -> Callable[[Scenario], Scenario]:
    def register(scenario: Scenario) -> Scenario:
        SCENARIOS[code] = settings, scenario
        return scenario

    return register


async def provoke(code: str, start: StartServer, llm: ScriptedLLM, clock: Clock) -> Provoked:
    """Makes the server answer with an error; returns which operation it was, and the answer."""
    if code in LLM_SAYS:
        llm.play(LLM_SAYS[code])
        server = await start()
        return "chat", await server.chat(await server.session())
    if code in REFUSALS:
        settings, operation_id, body, headers = REFUSALS[code]
        return operation_id, await request(await start(**settings), operation_id, {}, body, headers)
    settings, scenario = SCENARIOS[code]
    return await scenario(await start(**settings), llm, clock)


@provokes("invalid_json")
async def no_json(server: Running, llm: ScriptedLLM, clock: Clock) -> Provoked:
    async with server.http.post(server.url + "/api/chat", data=b"{") as response:
        return "chat", (response.status, await response.json(), response.headers)


@provokes("message_not_found")
async def no_message(server: Running, llm: ScriptedLLM, clock: Clock) -> Provoked:
    path = f"/api/sessions/{await server.session()}/messages/{MISSING}"
    return "get_message", await server.call("GET", path)


@provokes("session_busy")
async def busy(server: Running, llm: ScriptedLLM, clock: Clock) -> Provoked:
    llm.play(events(delta("one"), Hang))
    session_id, _ = await server.begin()
    return "chat", await server.chat(session_id, "again")


@provokes("reply_cancelled")
async def cancelled(server: Running, llm: ScriptedLLM, clock: Clock) -> Provoked:
    llm.play([Hang])
    session_id = await server.session()
    task = asyncio.create_task(server.chat(session_id))
    await llm.asked()
    _, state, _ = await server.call("GET", f"/api/sessions/{session_id}")
    path = f"/api/sessions/{session_id}/messages/{state['active_reply']['message_id']}/cancel"
    answered = await server.call("POST", path)
    assert undocumented("cancel", *answered) == []
    assert answered[0] == 204
    return "chat", await task


@provokes("idempotency_key_reused")
async def reused(server: Running, llm: ScriptedLLM, clock: Clock) -> Provoked:
    session_id = await server.session()
    await server.chat(session_id, "one", {"Idempotency-Key": "k"})
    return "chat", await server.chat(session_id, "two", {"Idempotency-Key": "k"})


@provokes("internal_error")
async def bug(server: Running, llm: ScriptedLLM, clock: Clock) -> Provoked:
    server.store.require_space = Mock(side_effect=ValueError("the inside"))  # type: ignore[method-assign]
    answered = await server.call("POST", "/api/sessions")
    assert "inside" not in json.dumps(answered[1])
    return "create_session", answered


@provokes("overloaded", max_active_replies=1)
async def overloaded(server: Running, llm: ScriptedLLM, clock: Clock) -> Provoked:
    llm.play(events(delta("one"), Hang))
    await server.begin()
    return "chat", await server.chat(await server.session())


@provokes("shutting_down")
async def ending(server: Running, llm: ScriptedLLM, clock: Clock) -> Provoked:
    session_id = await server.session()
    draining = asyncio.create_task(server.replies.drain(0, asyncio.Event()))
    await until(lambda: server.replies.closing)
    answered = await server.chat(session_id)
    await draining
    ready = await server.call("GET", "/api/health/ready")
    assert (ready[0], ready[1]["status"]) == (503, "shutting_down")
    assert undocumented("ready", *ready) == []
    return "chat", answered


@provokes("llm_timeout")
async def silent(server: Running, llm: ScriptedLLM, clock: Clock) -> Provoked:
    llm.play([Hang])
    session_id = await server.session()
    task = asyncio.create_task(server.chat(session_id))
    await llm.asked()
    clock.advance(121)
    return "chat", await task


PROVOKED = {*LLM_SAYS, *REFUSALS, *SCENARIOS}


@pytest.mark.parametrize("code", sorted(PROVOKED))
async def test_every_error_code_is_answered_as_described(
    code: str, start: StartServer, llm: ScriptedLLM, clock: Clock
) -> None:
    operation_id, (status, body, headers) = await provoke(code, start, llm, clock)
    assert body["error"]["code"] == code, body
    assert (status, body["error"]["type"]) == ERRORS[code]
    assert undocumented(operation_id, status, body, headers) == []
    assert ("Retry-After" in headers) == (status in (429, 503) or code == "llm_unavailable")


def test_every_error_is_provoked() -> None:
    elsewhere = {"not_found", "method_not_allowed", "headers_too_large", "conversation_locked"}
    assert set(ERRORS) - PROVOKED == elsewhere


def test_an_error_code_that_the_table_lacks_cannot_be_raised_unseen() -> None:
    files = (Path(__file__).parents[1] / "chatbot").rglob("*.py")
    raised = re.findall(r"(?:ChatError|TooLong)\(\s*\"(\w+)\"", "".join(file.read_text() for file in files))
    assert set(raised) <= set(ERRORS), "the table and the code name different errors"
    assert ChatError("overloaded", "").code in ERRORS
