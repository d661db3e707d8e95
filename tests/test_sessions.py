"""Sessions over HTTP: made, read, changed, deleted; kept alive by use, gone to the moment."""

from __future__ import annotations

import json
from typing import Any
from uuid import RFC_4122, UUID, uuid4

import pytest

from chatbot.errors import ChatError
from chatbot.ids import new_id, new_turn_id
from tests.tools.scripted_llm import Gate, Hang, ScriptedLLM, answer, delta, events, reply
from tests.tools.server import Clock, Running, StartServer, until

FIELDS = ["session_id", "created_at", "last_accessed", "expires_at", "metadata"]


class Wall:
    """A wall clock that stands still; the server is given it in place of its own."""

    def __init__(self, server: Running) -> None:
        self.ms = 1_700_000_000_000
        server.replies.clock = server.sessions._clock = self.now

    def now(self) -> float:
        return self.ms / 1000


async def test_a_new_session_is_what_was_asked_for(server: Running) -> None:
    Wall(server)
    status, told, headers = await server.call(
        "POST", "/api/sessions", {"metadata": {"name": "안녕", "n": [1.5, None]}}
    )
    assert status == 201
    session = told["session_id"]
    assert UUID(session).version == 4
    assert str(UUID(session)) == session
    assert told == {
        "session_id": session,
        "created_at": "2023-11-14T22:13:20.000Z",
        "last_accessed": "2023-11-14T22:13:20.000Z",
        "expires_at": "2023-11-15T22:13:20.000Z",
        "metadata": {"name": "안녕", "n": [1.5, None]},
    }
    assert headers["Location"] == f"/api/sessions/{session}"
    assert headers["X-Session-ID"] == session
    assert (await server.call("GET", headers["Location"]))[0] == 200


def test_ids_are_random_uuids_and_never_the_same() -> None:
    ids = {new_id() for _ in range(20_000)}
    assert len(ids) == 20_000
    assert all(str(UUID(made)) == made and UUID(made).version == 4 for made in ids)
    for place, digits in enumerate(zip(*ids, strict=True)):
        expected = {8: 1, 13: 1, 14: 1, 18: 1, 23: 1, 19: 4}.get(place, 16)
        assert len(set(digits)) == expected, f"at {place}: {set(digits)}"


def test_ids_of_messages_grow_with_time_and_are_random_within_a_millisecond() -> None:
    now = 1_700_000_000_000
    ids = [new_turn_id(now) for _ in range(20_000)]
    assert len(set(ids)) == 20_000
    for made in ids:
        uuid = UUID(made)
        assert (str(uuid), uuid.version, uuid.variant, uuid.int >> 80) == (made, 7, RFC_4122, now)
    for place, digits in enumerate(zip(*ids, strict=True)):
        if place > 14:
            expected = {18: 1, 23: 1, 19: 4}.get(place, 1 if place > 32 else 16)
            assert len(set(digits)) == expected, f"at {place}: {set(digits)}"
    times = [0, 1, now - 1, now, now + 1, now + 2**20]
    grown = [new_turn_id(time) for time in times]
    assert grown == sorted(grown)


async def test_a_message_bears_the_time_at_which_its_turn_began_in_its_id(server: Running) -> None:
    wall = Wall(server)
    session = await server.session(system_prompt="Be kind.")
    began = wall.ms
    _, reply, _ = await server.chat(session)
    wall.ms += 1000
    _, later, _ = await server.chat(session)
    page = (await server.call("GET", f"/api/sessions/{session}/messages"))[1]["messages"]
    ids = [message["message_id"] for message in page]
    assert [UUID(made).int >> 80 for made in ids] == [began] * 3 + [began + 1000] * 2
    assert [ids[2], ids[4]] == [reply["message_id"], later["message_id"]]


@pytest.mark.parametrize("body", [b"", b"  \n", b"{}", b"\xef\xbb\xbf{}"])
async def test_an_empty_body_will_do(server: Running, body: bytes) -> None:
    async with server.http.post(server.url + "/api/sessions", data=body) as response:
        assert response.status == 201
        assert (await response.json())["metadata"] == {}


async def test_a_system_prompt_is_the_first_message(server: Running) -> None:
    session = await server.session(system_prompt="Be kind.")
    assert await server.history(session) == [("system", "Be kind.")]
    empty = await server.session(system_prompt="")
    assert await server.history(empty) == []


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"metadata": []}, "metadata"),
        ({"metadata": "x"}, "metadata"),
        ({"system_prompt": 7}, "system_prompt"),
        ({"name": "x"}, "name"),
        ({"metadata": {"x": "x" * 16_384}}, "metadata"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_a_session_that_cannot_be_is_refused_by_name(
    server: Running, body: dict[str, Any], param: str
) -> None:
    status, told, _ = await server.call("POST", "/api/sessions", body)
    assert (status, told["error"]["code"], told["error"]["param"]) == (400, "invalid_request", param)
    assert server.sql("SELECT count(*) FROM sessions") == [(0,)]


async def test_metadata_may_have_16_kib_as_utf8(server: Running) -> None:
    room = 16_384 - len('{"x":""}')
    for text in ("x" * room, "한" * (room // 3)):
        session = await server.session(metadata={"x": text})
        _, told, _ = await server.call("GET", f"/api/sessions/{session}")
        assert told["metadata"] == {"x": text}
    for text in ("x" * (room + 1), "한" * (room // 3 + 1)):
        status, _, _ = await server.call("POST", "/api/sessions", {"metadata": {"x": text}})
        assert status == 400


async def test_a_session_tells_its_length_and_the_reply_it_is_being_given(
    server: Running, llm: ScriptedLLM
) -> None:
    session = await server.session(system_prompt="Be kind.")
    path = f"/api/sessions/{session}"
    status, told, headers = await server.call("GET", path)
    assert status == 200
    assert list(told) == [*FIELDS, "message_count", "active_reply"]
    assert (told["message_count"], told["active_reply"]) == (1, None)
    assert headers["X-Session-ID"] == session
    gate = Gate()
    llm.play(reply("one", gate, "two"))
    stream = await server.stream(session, "질문")
    _, told, _ = await server.call("GET", path)
    active = told["active_reply"]
    assert (active["message_id"], active["message"]) == (stream.message_id, "질문")
    assert told["created_at"] <= active["started_at"] <= told["last_accessed"]
    assert told["message_count"] == 1, "a turn is whole or absent"
    gate.open()
    await stream.rest()
    _, told, _ = await server.call("GET", path)
    assert (told["message_count"], told["active_reply"]) == (3, None)


async def test_patch_replaces_the_metadata_and_nothing_else(server: Running) -> None:
    session = await server.session(metadata={"a": 1}, system_prompt="Be kind.")
    path = f"/api/sessions/{session}"
    status, told, _ = await server.call("PATCH", path, {"metadata": {"b": 2}, "current": None})
    assert status == 200
    assert list(told) == [*FIELDS, "message_count", "active_reply"]
    assert told["metadata"] == {"b": 2}
    _, got, _ = await server.call("GET", path)
    assert {**got, "last_accessed": 0, "expires_at": 0} == {**told, "last_accessed": 0, "expires_at": 0}
    assert await server.history(session) == [("system", "Be kind.")]


async def test_a_new_system_prompt_is_sent_from_the_next_turn_on(server: Running, llm: ScriptedLLM) -> None:
    session = await server.session(system_prompt="Be kind.")
    path = f"/api/sessions/{session}"
    for prompt in ("Be brief.", ""):
        status, told, _ = await server.call("PATCH", path, {"system_prompt": prompt})
        assert (status, told["message_count"]) == (200, len(await server.history(session)))
        await server.chat(session)
        sent = llm.exchanges[-1].body["messages"]
        assert [one["content"] for one in sent if one["role"] == "system"] == [prompt] * bool(prompt)


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        (None, 400, "metadata"),
        ({}, 400, "metadata"),
        ({"metadata": 1}, 400, "metadata"),
        ({"metadata": {}, "system_prompt": 1}, 400, "system_prompt"),
        ({"metadata": {}, "current": 1}, 400, "current"),
        ({"metadata": {}, "system_prompt": "x", "current": "nonsense"}, 404, "current"),
        ({"metadata": {}, "name": "x"}, 400, "name"),
    ],
    ids=str,
)
async def test_a_patch_that_cannot_be_changes_nothing(
    server: Running, body: Any, status: int, param: str
) -> None:
    session = await server.session(metadata={"a": 1}, system_prompt="Be kind.")
    found, told, _ = await server.call("PATCH", f"/api/sessions/{session}", body)
    assert (found, told["error"]["param"]) == (status, param)
    assert server.sql("SELECT metadata FROM sessions") == [('{"a":1}',)]
    assert await server.history(session) == [("system", "Be kind.")]


async def test_delete_takes_the_conversation_along(server: Running) -> None:
    session, other = await server.session(), await server.session()
    await server.chat(session)
    await server.chat(other)
    status, told, headers = await server.call("DELETE", f"/api/sessions/{session}")
    assert (status, told) == (204, None)
    assert headers["X-Session-ID"] == session
    assert server.sql("SELECT session_id FROM sessions") == [(other,)]
    assert server.sql("SELECT DISTINCT session_id FROM messages") == [(other,)]
    status, told, _ = await server.call("DELETE", f"/api/sessions/{session}")
    assert (status, told["error"]["code"]) == (404, "session_not_found")


# Which requests name a session

REQUESTS = [
    ("GET", "/api/sessions/{s}", None),
    ("PATCH", "/api/sessions/{s}", {"metadata": {}, "current": "{m}"}),
    ("GET", "/api/sessions/{s}/context", None),
    ("GET", "/api/sessions/{s}/messages", None),
    ("GET", "/api/sessions/{s}/messages?before={m}", None),
    ("GET", "/api/sessions/{s}/messages/{m}", None),
    ("GET", "/api/sessions/{s}/messages/{m}/stream", None),
    ("POST", "/api/sessions/{s}/messages/{m}/cancel", None),
    ("DELETE", "/api/sessions/{s}/messages/{m}", None),
    ("POST", "/api/chat", {"session_id": "{s}", "message": "Hi"}),
    ("POST", "/api/chat/stream", {"session_id": "{s}", "message": "Hi"}),
    ("DELETE", "/api/sessions/{s}", None),
]


REFUSED = [
    ("GET", "/api/sessions/{s}/messages?limit=0", None, 400),
    ("GET", "/api/sessions/{s}/messages?before=a&after=b", None, 400),
    ("GET", "/api/sessions/{s}/messages/{m}?parts=all", None, 400),
    ("GET", "/api/sessions/{s}/messages/{m}/stream?after=-1", None, 400),
    ("GET", "/api/sessions/{s}/messages/no-such", None, 404),
    ("PATCH", "/api/sessions/{s}", {}, 400),
    ("PATCH", "/api/sessions/{s}", {"name": "x"}, 400),
]


async def ask(
    server: Running, method: str, path: str, body: Any, session: str, message: str
) -> tuple[int, str, Any]:
    """Makes a request about a session and a message; returns its status, its text and its headers."""

    def named(value: Any) -> Any:
        return value.format(s=session, m=message) if isinstance(value, str) else value

    body = body and {key: named(value) for key, value in body.items()}
    async with server.http.request(method, server.url + named(path), json=body) as response:
        return response.status, await response.text(), response.headers


@pytest.mark.parametrize(
    ("method", "path", "body", "expected"), [*((*one, 200) for one in REQUESTS[:-1]), *REFUSED]
)
async def test_every_request_that_names_a_session_keeps_it_alive_also_if_it_is_refused(
    server: Running, method: str, path: str, body: Any, expected: int
) -> None:
    wall = Wall(server)
    session = await server.session()
    _, said, _ = await server.chat(session)
    wall.ms += 86_399_999
    status, text, headers = await ask(server, method, path, body, session, said["message_id"])
    assert (status, headers["X-Session-ID"]) == (expected, session), text
    assert server.sql("SELECT last_accessed FROM sessions") == [(wall.ms,)]


@pytest.mark.parametrize(("method", "path", "body"), REQUESTS)
async def test_ids_may_be_written_in_capitals(server: Running, method: str, path: str, body: Any) -> None:
    """As some clients' UUIDs write themselves; answers have small letters."""
    session = await server.session()
    _, said, _ = await server.chat(session)
    ids = session.upper(), said["message_id"].upper()
    status, text, headers = await ask(server, method, path, body, *ids)
    assert status < 300, text
    assert headers["X-Session-ID"] == session


async def test_the_system_prompt_is_found_by_its_id_in_capitals(server: Running) -> None:
    _, made, _ = await server.call("POST", "/api/sessions", {"system_prompt": "Be brief."})
    session = made["session_id"]
    _, said, _ = await server.chat(session)
    path = f"/api/sessions/{session}/messages"
    _, page, _ = await server.call("GET", f"{path}?limit=3")
    prompt = page["messages"][0]["message_id"].upper()
    assert (await server.call("GET", f"{path}/{prompt}"))[1]["content"] == "Be brief."
    _, page, _ = await server.call("GET", f"{path}?after={prompt}")
    assert page["messages"][-1]["message_id"] == said["message_id"]
    assert (await server.call("GET", f"{path}?before={prompt}"))[1]["messages"] == []
    assert (await server.call("DELETE", f"{path}/{prompt}"))[1] == {"deleted": 3}


async def test_the_end_of_a_chat_is_when_its_session_was_last_accessed(
    server: Running, llm: ScriptedLLM
) -> None:
    wall = Wall(server)
    session = await server.session()
    gate = Gate()
    llm.play(reply("one", gate, "two"))
    stream = await server.stream(session)
    assert await stream.event()
    wall.ms += 5000
    gate.open()
    await stream.rest()
    end, wall.ms = wall.ms, wall.ms + 86_399_999
    assert server.sql("SELECT last_accessed FROM sessions") == [(end,)]
    assert (await server.call("GET", f"/api/sessions/{session}"))[0] == 200, "a day from its end"


async def test_a_chat_that_begins_no_reply_keeps_the_session_alive_too(
    server: Running, llm: ScriptedLLM
) -> None:
    wall = Wall(server)
    session = await server.session()
    key = {"Idempotency-Key": "k"}

    async def chat(headers: dict[str, str]) -> int:
        wall.ms += 1000
        status, _, _ = await server.chat(session, headers=headers)
        assert server.sql("SELECT last_accessed FROM sessions") == [(wall.ms,)], f"after a {status}"
        return status

    assert await chat(key) == 200
    assert await chat(key) == 200, "the stored reply again"
    assert await chat(key | {"Last-Event-ID": "x"}) == 200
    assert len(llm.exchanges) == 1
    llm.play([*events(delta("one")), Hang])
    stream = await server.stream(session)
    assert await stream.event()
    assert await chat({}) == 409
    assert (await server.chat(session, "other", key))[0] == 422
    server.replies.closing = True
    await server.call("DELETE", f"/api/sessions/{session}/messages/{stream.message_id}")
    assert await chat({}) == 503
    server.replies.closing = False
    llm.play(answer("500 Broken"))
    assert await chat({}) == 502


async def test_a_full_disk_does_not_stop_the_reading(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await server.session()
    await server.chat(session)
    before = server.sql("SELECT last_accessed FROM sessions")

    def full(*_: Any) -> None:
        raise ChatError("storage_full", "full")

    monkeypatch.setattr(server.store, "touch", full)
    status, told, _ = await server.call("GET", f"/api/sessions/{session}/messages")
    assert (status, len(told["messages"])) == (200, 2)
    assert server.sql("SELECT last_accessed FROM sessions") == before


@pytest.mark.parametrize(("method", "path", "body"), REQUESTS)
@pytest.mark.parametrize("gone", ["never was", "deleted", "expired", "nonsense"])
async def test_a_session_that_is_not_there_is_one_answer_whatever_the_reason(
    server: Running, llm: ScriptedLLM, method: str, path: str, body: Any, gone: str
) -> None:
    wall = Wall(server)
    session = await server.session()
    _, said, _ = await server.chat(session)
    if gone == "never was":
        session = str(uuid4())
    elif gone == "nonsense":
        session = "x"
    elif gone == "deleted":
        await server.call("DELETE", f"/api/sessions/{session}")
    else:
        wall.ms += 86_400_000
    status, text, headers = await ask(server, method, path, body, session, said["message_id"])
    assert (status, json.loads(text)["error"]["code"]) == (404, "session_not_found")
    assert "X-Session-ID" not in headers
    assert len(llm.exchanges) == 1, "the LLM was asked for a session that is not there"


# Expiry


@pytest.mark.parametrize("hours", [24.0, 0.5, 0.001])
async def test_expiry_is_exact_to_the_millisecond_and_as_announced(start: StartServer, hours: float) -> None:
    server = await start(session_timeout_hours=hours)
    wall = Wall(server)
    early, late = await server.session(), await server.session()
    timeout = round(hours * 3_600_000)
    wall.ms += timeout - 1
    status, told, _ = await server.call("GET", f"/api/sessions/{early}")
    assert status == 200
    assert told["last_accessed"] < told["expires_at"]
    wall.ms += 1
    status, _, _ = await server.call("GET", f"/api/sessions/{late}")
    assert status == 404, "idle for the whole of the time, swept or not"
    assert server.sql("SELECT count(*) FROM sessions") == [(2,)]
    wall.ms += timeout - 2
    assert (await server.call("GET", f"/api/sessions/{early}"))[0] == 200, "the last request kept it alive"


async def test_the_sweep_comes_by_itself(start: StartServer, clock: Clock) -> None:
    server = await start(session_timeout_hours=0.01)
    for _ in range(2):
        session = await server.session(system_prompt="Be kind.")
        await server.chat(session)
        clock.advance(60)
        await until(lambda: server.sql("SELECT count(*) FROM sessions") == [(0,)])
        assert server.sql("SELECT (SELECT count(*) FROM turns), (SELECT count(*) FROM prompts)") == [(0, 0)]
