"""The history over HTTP: pages without gap or overlap, long messages, rewinds that leave whole turns."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import pytest

from chatbot.chat import history
from tests.tools.scripted_llm import ScriptedLLM, answer, completion
from tests.tools.server import Clock, Running, StartServer

FIELDS = ["message_id", "role", "content", "created_at", "token_usage", "finish_reason"]
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 300_000}}


async def page(server: Running, session: str, **query: Any) -> tuple[list[str], bool, list[dict[str, Any]]]:
    """A page: its texts, whether there is more, its messages."""
    asked = "&".join(f"{name}={value}" for name, value in query.items())
    status, told, _ = await server.call("GET", f"/api/sessions/{session}/messages?{asked}")
    assert status == 200, told
    assert set(told) == {"messages", "has_more"}
    return [message["content"] for message in told["messages"]], told["has_more"], told["messages"]


async def filled(server: Running, turns: int, prompt: str = "") -> tuple[str, list[str]]:
    """A session with so many turns: its id and all texts."""
    session = await server.session(system_prompt=prompt)
    texts = [prompt] if prompt else []
    for number in range(turns):
        await server.chat(session, f"Q{number}")
        texts += [f"Q{number}", "Hello there."]
    return session, texts


@pytest.mark.parametrize("prompt", ["", "Be kind."])
@pytest.mark.parametrize("limit", [1, 2, 3, 7, 8, 9, 1000])
async def test_pages_meet_without_gap_or_overlap_in_both_directions(
    server: Running, limit: int, prompt: str
) -> None:
    session, texts = await filled(server, 4, prompt)
    found, more, messages = await page(server, session, limit=limit)
    assert found == texts[-limit:], "without a cursor it is the newest"
    while more:
        older, more, messages = await page(server, session, limit=limit, before=messages[0]["message_id"])
        assert 0 < len(older) <= limit
        found = older + found
        assert len(found) <= len(texts), "pages overlap"
    assert found == texts
    oldest = messages[0]["message_id"]
    found, more, messages = await page(server, session, limit=limit, after="start")
    while more:
        newer, more, messages = await page(server, session, limit=limit, after=messages[-1]["message_id"])
        found += newer
        assert len(found) <= len(texts), "pages overlap"
    assert found == texts
    assert await page(server, session, before=oldest) == ([], False, [])
    assert await page(server, session, after=messages[-1]["message_id"]) == ([], False, [])


async def test_a_message_has_the_documented_shape(server: Running, clock: Clock) -> None:
    session = await server.session(system_prompt="Be kind.")
    clock.advance(60)
    _, told, _ = await server.chat(session, "안녕")
    _, _, messages = await page(server, session)
    assert [(message["role"], message["content"]) for message in messages] == [
        ("system", "Be kind."),
        ("user", "안녕"),
        ("assistant", "Hello there."),
    ]
    for message in messages:
        more = ["model", "first_token_ms"] if message["role"] == "assistant" else []
        assert list(message) == FIELDS + more
        assert message["created_at"].endswith("Z")
        alone = await server.call("GET", f"/api/sessions/{session}/messages/{message['message_id']}")
        assert alone[:2] == (200, message)
        assert alone[2]["X-Session-ID"] == session
    assert messages[2] == told
    assert (messages[2]["token_usage"], messages[2]["finish_reason"]) == ({"total_tokens": 7}, "stop")
    assert (messages[1]["token_usage"], messages[1]["finish_reason"]) == (None, None)


async def test_cursors_that_name_no_message_of_the_session_are_404(server: Running) -> None:
    session, _ = await filled(server, 2)
    other, _ = await filled(server, 1)
    _, _, others = await page(server, other)
    _, _, messages = await page(server, session)
    deleted = messages[2]["message_id"]
    await server.call("DELETE", f"/api/sessions/{session}/messages/{deleted}")
    for cursor in (deleted, others[0]["message_id"], "nonsense", str(uuid4()), ""):
        for name in ("before", "after"):
            status, told, _ = await server.call("GET", f"/api/sessions/{session}/messages?{name}={cursor}")
            found = (status, told["error"]["code"], told["error"]["param"])
            assert found == (404, "message_not_found", name), cursor


@pytest.mark.parametrize(
    ("query", "param"),
    [
        *((f"limit={limit}", "limit") for limit in ("0", "1001", "-1", "ten", "1.5", "", "9" * 5000, "٣")),
        ("before=a&after=b", "before"),
        ("parts=keep", "parts"),
        ("parts=", "parts"),
    ],
)
async def test_a_page_that_cannot_be_is_refused_by_name(server: Running, query: str, param: str) -> None:
    session = await server.session()
    status, told, _ = await server.call("GET", f"/api/sessions/{session}/messages?{query}")
    assert (status, told["error"]["code"], told["error"]["param"]) == (400, "invalid_request", param)


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_a_message_of_another_session_is_404(server: Running, method: str) -> None:
    session, _ = await filled(server, 1)
    other, _ = await filled(server, 1)
    _, _, messages = await page(server, other)
    for message_id in (messages[0]["message_id"], str(uuid4()), "x"):
        status, told, _ = await server.call(method, f"/api/sessions/{session}/messages/{message_id}")
        found = (status, told["error"]["code"], told["error"]["param"])
        assert found == (404, "message_not_found", "message_id")
    assert len(await server.history(other)) == 2


# Long messages


async def test_long_messages_are_written_in_pieces_and_whole(server: Running, llm: ScriptedLLM) -> None:
    session = await server.session(system_prompt="p" * 300_000)
    llm.play(answer(body=completion("👋" * 200_000)))
    question = [{"type": "text", "text": "{" * 262_144}, PICTURE]
    await server.call("POST", "/api/chat", {"session_id": session, "message": question})
    await server.chat(session, "short")
    texts, more, messages = await page(server, session)
    assert texts == ["p" * 300_000, question, "👋" * 200_000, "short", "Hello there."]
    assert not more
    for message in messages:
        alone = await server.call("GET", f"/api/sessions/{session}/messages/{message['message_id']}")
        assert alone[1] == message


async def test_a_page_ends_early_and_one_message_may_exceed_that_alone(
    server: Running, llm: ScriptedLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "PAGE_CHARS", 1000)
    session = await server.session()
    for letter in "abc":
        llm.play(answer(body=completion(letter * 1500)))
        await server.chat(session, letter)
    found = []
    query: dict[str, Any] = {}
    more = True
    while more:
        texts, more, messages = await page(server, session, **query)
        assert len(texts) == 1 or sum(map(len, texts)) <= 1000
        found = texts + found
        query = {"before": messages[0]["message_id"]}
    assert found == ["a", "a" * 1500, "b", "b" * 1500, "c", "c" * 1500]


async def test_what_parts_hold_is_left_out_if_that_is_asked_for(server: Running) -> None:
    session = await server.session()
    parts: list[dict[str, Any]] = [
        {"type": "text", "text": "What is this?"},
        PICTURE,
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
        {"type": "input_audio", "input_audio": {"data": "é" * 10, "format": "wav"}},
        {"type": "file", "file": {"file_data": "A" * 5000, "filename": "a.pdf"}},
        {"type": "file", "file": {"file_id": "file-1"}},
    ]
    shown = [
        parts[0],
        {"type": "image_url", "omitted": len(PICTURE["image_url"]["url"])},  # type: ignore[index]
        parts[2],
        {"type": "input_audio", "omitted": 20},
        {"type": "file", "omitted": 5000, "file": {"filename": "a.pdf"}},
        parts[5],
    ]
    await server.call("POST", "/api/chat", {"session_id": session, "message": parts})
    texts, _, messages = await page(server, session)
    assert texts[0] == parts
    assert (await page(server, session, parts="omit"))[0] == [shown, "Hello there."]
    path = f"/api/sessions/{session}/messages/{messages[0]['message_id']}"
    assert (await server.call("GET", path))[1]["content"] == parts
    assert (await server.call("GET", path + "?parts=omit"))[1]["content"] == shown


async def test_a_turn_that_is_deleted_before_it_is_written_is_left_out(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, texts = await filled(server, 3)
    turn, reads = server.store.turn, []

    def gone(seq: int) -> Any:
        reads.append(seq)
        return None if seq == 2 else turn(seq)

    monkeypatch.setattr(server.store, "turn", gone)
    assert (await page(server, session))[0] == texts[:2] + texts[4:]
    assert reads


# Rewind


@pytest.mark.parametrize(
    ("place", "left"),
    [
        (0, []),
        (1, ["prompt"]),
        (2, ["prompt"]),  # a reply takes its question along
        (3, ["prompt", "Q0", "Hello there."]),
        (4, ["prompt", "Q0", "Hello there."]),
    ],
)
async def test_a_rewind_leaves_whole_turns(server: Running, place: int, left: list[str]) -> None:
    session, _ = await filled(server, 2, "prompt")
    bystander, texts = await filled(server, 2)
    _, _, messages = await page(server, session)
    path = f"/api/sessions/{session}/messages/{messages[place]['message_id']}"
    status, told, _ = await server.call("DELETE", path)
    assert (status, told) == (200, {"deleted": 5 - len(left)})
    assert (await page(server, session))[0] == left
    assert (await page(server, bystander))[0] == texts
    status, told, _ = await server.call("DELETE", path)
    assert (status, told["error"]["code"]) == (404, "message_not_found"), "gone is gone"


async def test_the_context_is_explained_without_the_operators_words(
    server: Running, llm: ScriptedLLM
) -> None:
    session = await server.session(system_prompt="Be kind.")
    parts = [{"type": "text", "text": "What is this?"}, PICTURE]
    await server.call("POST", "/api/chat", {"session_id": session, "message": parts})
    _, told, _ = await server.call("GET", f"/api/sessions/{session}/context")
    await server.chat(session, "And now?")
    sent = llm.exchanges[-1].body["messages"]
    assert json.dumps(PICTURE) in json.dumps(sent)
    assert [one["role"] for one in told["messages"]] == [one["role"] for one in sent[:-1]]
    assert told["messages"][1]["content"][1]["omitted"] > 300_000
    assert (told["system_prompt"], told["reason"], told["max_messages"]) == (
        "session",
        "whole_conversation",
        10,
    )
    assert told["first_message_id"] == (await page(server, session))[2][1]["message_id"]


async def test_of_the_operators_prompt_it_is_only_said_that_it_is_sent(start: StartServer) -> None:
    server = await start(system_prompt="the operator's")
    session = await server.session()
    _, told, _ = await server.call("GET", f"/api/sessions/{session}/context")
    assert (told["messages"], told["system_prompt"], told["first_message_id"]) == ([], "operator", None)
