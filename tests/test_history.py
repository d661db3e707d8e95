"""The history: pages that meet without gap or overlap, and rewinds that leave whole turns."""

from __future__ import annotations

import random
from typing import Any
from uuid import uuid4

import pytest

from chatbot.store import Message
from chatbot.text import as_json
from tests.tools.server import Clock, Running
from tests.tools.scripted_llm import Gate, ScriptedLLM, delta, events, reply


async def page(server: Running, session: str, **query: Any) -> tuple[list[str], bool, list[dict[str, Any]]]:
    """A page: its texts, whether there is more, its messages."""
    asked = "&".join(f"{name}={value}" for name, value in query.items())
    status, told, _ = await server.call("GET", f"/api/sessions/{session}/messages?{asked}")
    assert status == 200, told
    assert set(told) == {"messages", "has_more"}
    return [message["content"] for message in told["messages"]], told["has_more"], told["messages"]


async def filled(server: Running, turns: int, prompt: str = "") -> tuple[str, list[str]]:
    """A session with so many turns, all stored at the same moment: its id and all texts."""
    session = await server.session(system_prompt=prompt)
    now = server.replies.now_ms()
    texts = [prompt] if prompt else []
    for number in range(turns):
        texts += [f"Q{number}", f"A{number}"]
        server.replies.store.add_turn(
            session,
            Message(str(uuid4()), "user", as_json(f"Q{number}"), now),
            Message(str(uuid4()), "assistant", as_json(f"A{number}"), now, None, "stop"),
        )
    return session, texts


async def test_the_newest_messages_come_without_a_cursor_oldest_first(server: Running) -> None:
    session, texts = await filled(server, 60)
    found, more, _ = await page(server, session)
    assert (found, more) == (texts[-100:], True)
    for limit in (1, 2, 119):
        found, more, _ = await page(server, session, limit=limit)
        assert (found, more) == (texts[-limit:], True)
    for limit in (120, 121, 1000):
        found, more, _ = await page(server, session, limit=limit)
        assert (found, more) == (texts, False)


@pytest.mark.parametrize("prompt", ["", "Be kind."])
@pytest.mark.parametrize("limit", [1, 2, 3, 7, 19, 20, 21, 22])
async def test_pages_meet_without_gap_or_overlap_in_both_directions(
    server: Running, limit: int, prompt: str
) -> None:
    """All messages bear the same time, so only their order in the conversation can place them."""
    session, texts = await filled(server, 10, prompt)
    found, more, messages = await page(server, session, limit=limit)
    oldest = messages[0]["message_id"]
    while more:
        older, more, messages = await page(server, session, limit=limit, before=oldest)
        assert 0 < len(older) <= limit
        found = older + found
        assert len(found) <= len(texts), "pages overlap"
        oldest = messages[0]["message_id"]
    assert found == texts
    more, newest = True, oldest
    found = found[:1]
    while more:
        newer, more, messages = await page(server, session, limit=limit, after=newest)
        found += newer
        assert len(found) <= len(texts), "pages overlap"
        newest = messages[-1]["message_id"]
    assert found == texts
    assert await page(server, session, before=oldest) == ([], False, [])
    assert await page(server, session, after=newest) == ([], False, [])


async def test_has_more_looks_in_the_paging_direction(server: Running) -> None:
    session, texts = await filled(server, 5)
    _, _, messages = await page(server, session)
    ids = [message["message_id"] for message in messages]
    for cursor, limit, expected, more in [
        ({"before": ids[4]}, 4, texts[:4], False),
        ({"before": ids[4]}, 3, texts[1:4], True),
        ({"after": ids[4]}, 5, texts[5:], False),
        ({"after": ids[4]}, 4, texts[5:9], True),
    ]:
        found, got_more, _ = await page(server, session, limit=limit, **cursor)
        assert (found, got_more) == (expected, more), (cursor, limit)


async def test_a_clock_that_runs_backwards_reorders_nothing(server: Running) -> None:
    session = await server.session()
    store = server.replies.store
    now = server.replies.now_ms()
    times = list(range(now, now + 20))
    random.Random(1).shuffle(times)
    for number, time in enumerate(times):
        store.add_turn(
            session,
            Message(str(uuid4()), "user", as_json(f"Q{number}"), time),
            Message(str(uuid4()), "assistant", as_json(f"A{number}"), time - 5, None, "stop"),
        )
    found, _, messages = await page(server, session, limit=15)
    older, _, oldest = await page(server, session, limit=1000, before=messages[0]["message_id"])
    texts = [f"{kind}{number}" for number in range(20) for kind in "QA"]
    assert older + found == texts
    newer, _, _ = await page(server, session, limit=30, after=oldest[0]["message_id"])
    assert newer == texts[1:31]


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
        assert list(message) == [
            "message_id",
            "role",
            "content",
            "created_at",
            "token_usage",
            "finish_reason",
        ]
        assert message["created_at"].endswith("Z")
        alone = await server.call("GET", f"/api/sessions/{session}/messages/{message['message_id']}")
        assert alone[:2] == (200, message)
        assert alone[2]["X-Session-ID"] == session
    assert messages[2] == told
    assert (messages[2]["token_usage"], messages[2]["finish_reason"]) == ({"total_tokens": 7}, "stop")
    assert (messages[1]["token_usage"], messages[1]["finish_reason"]) == (None, None)


async def test_an_empty_session_has_an_empty_history(server: Running) -> None:
    assert await page(server, await server.session()) == ([], False, [])


async def test_cursors_that_name_no_message_of_the_session_are_404(server: Running) -> None:
    session, _ = await filled(server, 3)
    other, _ = await filled(server, 1)
    _, _, others = await page(server, other)
    _, _, messages = await page(server, session)
    deleted = messages[2]["message_id"]
    await server.call("DELETE", f"/api/sessions/{session}/messages/{deleted}")
    for cursor in (deleted, others[0]["message_id"], "nonsense", str(uuid4()), ""):
        for name in ("before", "after"):
            path = f"/api/sessions/{session}/messages?{name}={cursor}"
            status, told, _ = await server.call("GET", path)
            assert (status, told["error"]["code"], told["error"]["param"]) == (
                404,
                "message_not_found",
                name,
            ), cursor


@pytest.mark.parametrize(
    ("query", "param"),
    [
        *((f"limit={limit}", "limit") for limit in ("0", "1001", "-1", "ten", "1.5", "", "9" * 5000, "٣")),
        ("before=a&after=b", "before"),
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
        path = f"/api/sessions/{session}/messages/{message_id}"
        status, told, _ = await server.call(method, path)
        assert (status, told["error"]["code"], told["error"]["param"]) == (
            404,
            "message_not_found",
            "message_id",
        )
    assert len(await server.history(other)) == 2


# Rewind


@pytest.mark.parametrize(
    ("place", "left"),
    [
        (0, []),
        (1, ["prompt"]),
        (2, ["prompt"]),  # a reply takes its question along
        (3, ["prompt", "Q1", "Hello there."]),
        (4, ["prompt", "Q1", "Hello there."]),
    ],
)
async def test_a_rewind_leaves_whole_turns(server: Running, place: int, left: list[str]) -> None:
    session = await server.session(system_prompt="prompt")
    for question in ("Q1", "Q2"):
        await server.chat(session, question)
    bystander, texts = await filled(server, 2)
    _, _, messages = await page(server, session)
    path = f"/api/sessions/{session}/messages/{messages[place]['message_id']}"
    status, told, _ = await server.call("DELETE", path)
    assert (status, told) == (200, {"deleted": 5 - len(left)})
    assert (await page(server, session))[0] == left
    assert (await page(server, bystander))[0] == texts
    status, told, _ = await server.call("DELETE", path)
    assert (status, told["error"]["code"]) == (404, "message_not_found"), "gone is gone"


async def test_a_question_asked_anew_is_answered_from_what_was_before(
    server: Running, llm: ScriptedLLM
) -> None:
    session = await server.session()
    await server.chat(session, "Q1")
    _, reply, _ = await server.chat(session, "Q2")
    await server.call("DELETE", f"/api/sessions/{session}/messages/{reply['message_id']}")
    await server.chat(session, "Q2, edited")
    asked = [message["content"] for message in llm.exchanges[-1].body["messages"]]
    assert asked == ["Q1", "Hello there.", "Q2, edited"]
    assert [text for _, text in await server.history(session)] == [
        "Q1",
        "Hello there.",
        "Q2, edited",
        "Hello there.",
    ]


@pytest.mark.parametrize("named", ["the running reply", "an earlier message"])
async def test_a_rewind_discards_the_running_reply_and_tells_its_listeners(
    server: Running, llm: ScriptedLLM, named: str
) -> None:
    session = await server.session()
    _, first, _ = await server.chat(session, "Q1")
    gate = Gate()
    llm.play([*events(delta("one")), gate, *reply("two")])
    stream = await server.stream(session, "Q2")
    assert await stream.event()
    target = stream.message_id if named == "the running reply" else first["message_id"]
    status, told, _ = await server.call("DELETE", f"/api/sessions/{session}/messages/{target}")
    assert (status, told) == (200, {"deleted": 0 if named == "the running reply" else 2})
    rest = await stream.rest()
    assert [event.json["error"]["code"] for event in rest] == ["message_not_found"]
    await llm.exchanges[-1].gone.wait()
    left = ["Q1", "Hello there."] if named == "the running reply" else []
    assert [text for _, text in await server.history(session)] == left
    status, _, _ = await server.chat(session, "Q2")
    assert status == 200, "the session is free again"
