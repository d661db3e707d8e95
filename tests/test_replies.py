"""A reply belongs to nobody who asked for it: clients leave, come back, stop or delete it; it ends once."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Coroutine
from typing import Any

import pytest

from chatbot.chat.asking import Asking
from chatbot.chat.context import Context
from chatbot.chat.reply import Reply
from chatbot.chat.reply_log import ReplyLog
from chatbot.llm.idle_timeout import IdleTimeout
from chatbot.llm.response import Answer
from chatbot.web.streaming import EndListener, StreamListener
from tests.tools.scripted_llm import (
    DONE,
    END,
    SSE_HEAD,
    Abort,
    Close,
    Gate,
    Hang,
    ScriptedLLM,
    Step,
    answer,
    delta,
    events,
    http_chunk,
    reply,
)
from tests.tools.server import Clock, Running, StartServer, Stream, text_of, until

TEXTS = ("Once ", "upon ", "a time.")
WHOLE = "".join(TEXTS)


async def closed(gone: asyncio.Event) -> None:
    """Waits for the LLM's connection to be closed: promised for 100 ms, with room for a busy machine."""
    async with asyncio.timeout(5):
        await gone.wait()


async def cancel(server: Running, session: str, message_id: str) -> tuple[int, Any]:
    status, body, _ = await server.call("POST", f"/api/sessions/{session}/messages/{message_id}/cancel")
    return status, body


async def answer_to(asking: asyncio.Task[Any]) -> tuple[int, Any]:
    """The status and the JSON that one was answered who asked for a stream or for the whole."""
    found = await asking
    return (found.status, await found.response.json()) if isinstance(found, Stream) else found[:2]


def rows(server: Running, session: str) -> list[tuple[Any, ...]]:
    """What is stored of a session's turns: (question, answer, finish_reason)."""
    statement = "SELECT input, output, finish_reason FROM turns WHERE session_id = ? ORDER BY seq"
    turns = server.sql(statement, session)
    return [(json.loads(said)["content"], json.loads(told)["content"], end) for said, told, end in turns]


# The client leaves


def paused(place: int) -> tuple[Gate, list[Step]]:
    """A script that waits before its text `place`, 3: before its finish, or 4: before its [DONE]."""
    gate = Gate()
    steps: list[Step] = [*map(delta, TEXTS), delta(finish="stop"), DONE]
    steps.insert(place, gate)
    return gate, [*events(*steps), END]


@pytest.mark.parametrize(("how", "place"), [("chat", 0), *(("stream", place) for place in range(5))])
async def test_a_reply_whose_client_left_is_stored_whole(
    server: Running, llm: ScriptedLLM, how: str, place: int
) -> None:
    gate, script = paused(place)
    llm.play(script)
    session = await server.session()
    asking = asyncio.create_task((server.chat if how == "chat" else server.stream)(session, "Tell"))
    await gate.reached.wait()
    if place:
        stream = await asking
        await stream.read(min(place, 3))
        if place == 4:
            await server.finish_is_held(session)
        await server.leave(stream)
    else:  # no headers have come yet
        before = server.connections
        asking.cancel()
        await until(lambda: server.connections < before)
    gate.open()
    await server.ended()
    assert rows(server, session) == [("Tell", WHOLE, "stop")]


@pytest.mark.parametrize("read", [0, 1, 3])
async def test_without_a_grace_a_reply_is_stopped_when_its_client_leaves(
    start: StartServer, llm: ScriptedLLM, read: int
) -> None:
    server = await start(disconnect_grace_seconds=0)
    llm.play([*events(*(delta(text) for text in TEXTS[:read]), Hang)])
    session = await server.session()
    asking = asyncio.create_task(server.stream(session, "Tell"))
    exchange = await llm.asked()
    if read:
        stream = await asking
        await stream.read(read)
        stream.leave()
    else:
        asking.cancel()
    await closed(exchange.gone)
    await server.ended()
    text = "".join(TEXTS[:read])
    expected = [("Tell", text, "cancelled")] if read else []
    assert rows(server, session) == expected


async def test_one_who_waits_for_the_whole_reply_keeps_it_from_being_stopped(
    start: StartServer, llm: ScriptedLLM
) -> None:
    server = await start(disconnect_grace_seconds=0)
    gate = Gate()
    llm.play(reply("Once ", gate, "upon"))
    key = {"Idempotency-Key": "k"}
    session, stream = await server.begin("Tell", headers=key)
    waiting = asyncio.create_task(server.chat(session, "Tell", key))
    await server.heard_by(session, 2)
    await server.leave(stream)
    gate.open()
    status, body, _ = await waiting
    assert (status, body["content"]) == (200, "Once upon")


@pytest.mark.parametrize("how", ["left", "cancelled", "silent"])
async def test_a_reply_that_is_stopped_after_the_llm_said_its_finish_is_stored_as_finished(
    start: StartServer, llm: ScriptedLLM, clock: Clock, how: str
) -> None:
    server = await start(disconnect_grace_seconds=0)
    llm.play(events(delta(WHOLE), delta(finish="length"), Hang))
    session, stream = await server.begin("Tell")
    await server.finish_is_held(session)
    if how == "left":
        stream.leave()
    elif how == "cancelled":
        status, body = await cancel(server, session, stream.message_id)
        assert (status, body["content"], body["finish_reason"]) == (200, WHOLE, "length")
    else:
        clock.advance(121)  # LLM_TIMEOUT_SECONDS
    await closed(llm.exchanges[0].gone)
    await server.ended()
    assert rows(server, session) == [("Tell", WHOLE, "length")]
    if how != "left":
        finish, done = await stream.rest()
        assert (finish.finish_reason, finish.id, done.data) == ("length", len(WHOLE), "[DONE]")


# Cancel


async def test_a_reply_cancelled_before_its_first_word_leaves_nothing_also_after_heartbeats(
    server: Running, llm: ScriptedLLM, clock: Clock
) -> None:
    llm.play([Hang])
    session = await server.session()
    asking = asyncio.create_task(server.stream(session, "Tell"))
    exchange = await llm.asked()
    clock.advance(15)
    stream = await asking
    assert stream.status == 200
    assert await cancel(server, session, stream.message_id) == (204, None)
    await closed(exchange.gone)
    found = await stream.rest()
    assert [event.json["error"]["code"] for event in found] == ["reply_cancelled"]
    assert rows(server, session) == []


@pytest.mark.parametrize("read", [1, 2, 3])
async def test_a_cancelled_reply_is_stored_as_far_as_it_came(
    server: Running, llm: ScriptedLLM, read: int
) -> None:
    llm.play(events(*(delta(text) for text in TEXTS[:read]), Hang))
    text = "".join(TEXTS[:read])
    session, stream = await server.begin("Tell", read)
    status, body = await cancel(server, session, stream.message_id)
    assert (status, body["content"], body["finish_reason"]) == (200, text, "cancelled")
    assert body["message_id"] == stream.message_id
    await closed((await llm.asked()).gone)
    finish, done, *more = await stream.rest()
    assert (finish.finish_reason, finish.id, done.data, more) == ("cancelled", len(text), "[DONE]", [])
    assert rows(server, session) == [("Tell", text, "cancelled")]


async def test_all_who_listen_to_a_cancelled_reply_are_told_the_same(
    server: Running, llm: ScriptedLLM
) -> None:
    llm.play(events(delta("Once "), delta("upon"), Hang))
    key = {"Idempotency-Key": "k"}
    session, first = await server.begin("Tell", 2, key)
    others = [await server.resume(session, first.message_id, after) for after in (0, 3, 8, 9)]
    waiting = asyncio.create_task(server.chat(session, "Tell", key))
    await server.heard_by(session, 6)
    await cancel(server, session, first.message_id)
    texts = [text_of(await other.rest()) for other in others]
    assert texts == ["Once upon", "e upon", "n", ""]
    status, body, _ = await waiting
    assert (status, body["content"], body["finish_reason"]) == (200, "Once upon", "cancelled")


async def test_a_reply_cancelled_twice_at_once_has_one_row_and_one_answer(
    server: Running, llm: ScriptedLLM
) -> None:
    llm.play(events(delta("Once "), Hang))
    session, stream = await server.begin("Tell")
    answers = await asyncio.gather(*(cancel(server, session, stream.message_id) for _ in range(10)))
    answers.append(await cancel(server, session, stream.message_id))
    assert all(found == answers[0] for found in answers), answers
    assert answers[0][0] == 200
    assert rows(server, session) == [("Tell", "Once ", "cancelled")]


async def test_a_reply_cancelled_after_its_end_is_answered_as_it_stands(server: Running) -> None:
    session = await server.session()
    _, told, _ = await server.chat(session, "Tell")
    assert await cancel(server, session, told["message_id"]) == (200, told)
    assert rows(server, session) == [("Tell", "Hello there.", "stop")]


@pytest.mark.parametrize("place", [2, 3])
async def test_a_cancel_that_races_the_end_neither_loses_text_nor_tells_two_stories(
    server: Running, llm: ScriptedLLM, place: int
) -> None:
    session = await server.session()
    seen = set()
    for number, lead in enumerate(range(-20, 20)):  # how many turns of the event loop the LLM is ahead
        gate, script = paused(place)
        llm.play(script)
        stream = await server.stream(session, f"Tell {number}")
        before = text_of(await stream.read(place))
        cancelling = None
        if lead < 0:
            cancelling = asyncio.create_task(cancel(server, session, stream.message_id))
        else:
            gate.open()
        for _ in range(abs(lead)):
            await asyncio.sleep(0)
        gate.open()
        (status, body), found = await asyncio.gather(
            cancelling or cancel(server, session, stream.message_id), stream.rest()
        )
        told = before + text_of(found)
        reasons = [event.finish_reason for event in found if event.data != "[DONE]" and event.finish_reason]
        assert status == 200, body
        assert found[-1].data == "[DONE]", found
        assert body["content"] == told, f"the cancel answered {body}, the stream said {told!r}"
        assert reasons == [body["finish_reason"]], found
        assert WHOLE.startswith(told)
        assert told.startswith(before)
        stored = rows(server, session)
        assert stored[number:] == [(f"Tell {number}", told, body["finish_reason"])]
        seen.add(body["finish_reason"])
    assert "cancelled" in seen, "the cancel never won: the race was not run"
    assert "stop" in seen, "the end never won: the race was not run"


async def test_a_cancelled_turn_is_part_of_the_conversation(server: Running, llm: ScriptedLLM) -> None:
    llm.play(events(delta("Once "), Hang))
    session, stream = await server.begin("Tell")
    await cancel(server, session, stream.message_id)
    status, _, _ = await server.chat(session, "Go on")
    assert status == 200
    sent = [(message["role"], message["content"]) for message in llm.exchanges[1].body["messages"]]
    assert sent == [("user", "Tell"), ("assistant", "Once "), ("user", "Go on")]


@pytest.mark.parametrize(("method", "what"), [("GET", "stream"), ("POST", "cancel")])
async def test_only_replies_of_the_session_can_be_streamed_and_cancelled(
    server: Running, method: str, what: str
) -> None:
    session, other = await server.session(system_prompt="Be brief."), await server.session()
    await server.chat(session)
    _, page, _ = await server.call("GET", f"/api/sessions/{session}/messages")
    prompt, question, answered = (message["message_id"] for message in page["messages"])
    for where, message_id in ((session, prompt), (session, question), (other, answered), (session, "x")):
        status, body, _ = await server.call(method, f"/api/sessions/{where}/messages/{message_id}/{what}")
        assert (status, body["error"]["code"]) == (404, "message_not_found")


# Two at once


async def test_of_twenty_asked_at_once_in_one_session_one_is_answered(
    server: Running, llm: ScriptedLLM
) -> None:
    gate = Gate()
    llm.play([gate, *reply("Hello")])
    session, other = await server.session(), await server.session()
    asks = (server.stream, server.chat)
    asking = [asyncio.create_task(ask(session, f"{n}")) for n in range(10) for ask in asks]
    await gate.reached.wait()
    await until(lambda: sum(task.done() for task in asking) == 19)
    running = server.running(session)
    for task in filter(asyncio.Task.done, asking):
        status, body = await answer_to(task)
        refusal = (status, body["error"]["code"], body["error"]["message_id"])
        assert refusal == (409, "session_busy", running.message_id)
    status, _, _ = await server.chat(other, "in another session")
    assert status == 200
    gate.open()
    await asyncio.gather(*asking)
    await server.ended()
    assert [body.body["messages"][-1]["content"] for body in llm.exchanges] == [
        json.loads(running.question.input[0])["content"],
        "in another session",
    ]
    status, _, _ = await server.chat(session, "after it")
    assert status == 200
    assert [role for role, _ in await server.history(session)] == ["user", "assistant"] * 2


# Deleted, rewound, expired while it runs


async def ends_with(stream: Stream, code: str) -> None:
    found = await stream.rest()
    assert found, "the stream ended without a word"
    assert "error" in found[-1].json, f"the stream ended with {found[-1]}"
    assert found[-1].json["error"]["code"] == code
    assert found[-1].id is None


async def test_a_deleted_session_takes_its_running_reply_along(server: Running, llm: ScriptedLLM) -> None:
    llm.play(events(delta("Once "), Hang))
    session, stream = await server.begin("Tell")
    other = await server.resume(session, stream.message_id, 2)
    status, _, _ = await server.call("DELETE", f"/api/sessions/{session}")
    assert status == 204
    await closed((await llm.asked()).gone)
    await ends_with(stream, "session_not_found")
    await ends_with(other, "session_not_found")
    assert server.sql("SELECT * FROM messages") == []
    assert server.sql("SELECT * FROM sessions") == []


async def test_a_session_deleted_before_the_first_word_is_a_404_to_who_waits(
    server: Running, llm: ScriptedLLM
) -> None:
    for ask in (server.chat, server.stream):
        llm.play([Hang])
        session = await server.session()
        asking = asyncio.create_task(ask(session, "Tell"))
        exchange = await llm.asked(len(llm.exchanges) + 1)
        await server.call("DELETE", f"/api/sessions/{session}")
        await closed(exchange.gone)
        status, body = await answer_to(asking)
        assert (status, body["error"]["code"]) == (404, "session_not_found")
    assert server.sql("SELECT * FROM messages") == []


@pytest.mark.parametrize(("named", "deleted", "left"), [("the reply itself", 0, 3), ("an earlier one", 4, 1)])
async def test_a_rewind_takes_the_running_reply_along(
    server: Running, llm: ScriptedLLM, named: str, deleted: int, left: int
) -> None:
    session = await server.session()
    turns = [(await server.chat(session, f"Turn {n}"))[1] for n in range(3)]
    llm.play(events(delta("Once "), Hang))
    stream = await server.stream(session, "Tell")
    await stream.read()
    message_id = stream.message_id if named == "the reply itself" else turns[1]["message_id"]
    status, body, _ = await server.call("DELETE", f"/api/sessions/{session}/messages/{message_id}")
    assert (status, body) == (200, {"deleted": deleted}), "a reply takes its question along"
    await closed((await llm.asked(4)).gone)
    await ends_with(stream, "message_not_found")
    questions = [text for role, text in await server.history(session) if role == "user"]
    assert questions == [f"Turn {n}" for n in range(left)]
    assert (await server.resume(session, stream.message_id)).status == 404
    status, _, _ = await server.chat(session, "Tell again")
    assert status == 200, "the session is free"


async def test_a_rewind_to_what_is_not_there_leaves_the_running_reply_alone(
    server: Running, llm: ScriptedLLM
) -> None:
    gate = Gate()
    llm.play(reply("Once ", gate, "upon"))
    session, stream = await server.begin("Tell")
    status, _, _ = await server.call("DELETE", f"/api/sessions/{session}/messages/nothing")
    assert status == 404
    gate.open()
    assert text_of(await stream.rest()) == "upon"


ENDS: dict[str, tuple[int, list[Step]]] = {
    "finished": (200, reply("Hello")),
    "refused": (502, answer("500 Broken")),
    "too long": (400, answer("400 Bad Request", {"error": {"code": "context_length_exceeded"}})),
    "cut short": (200, [*events(delta("one")), END]),
    "broken": (200, [*events(delta("one")), Abort]),
}
"""Ends that the LLM brings about: the status of the stream, and what the LLM says."""

STOPS = ["fallen silent", "left", "cancelled", "deleted"]


async def end(how: str, server: Running, llm: ScriptedLLM, clock: Clock) -> None:
    """Lets one reply come to an end in the given way."""
    session = await server.session()
    if how in ENDS:
        status, script = ENDS[how]
        llm.play(script)
        stream = await server.stream(session)
        await stream.rest()
        assert stream.status == status
    elif how == "finished whole":
        assert (await server.chat(session))[0] == 200
    elif how == "never begun":
        llm.play([Hang])
        asked = asyncio.create_task(server.chat(session))
        await llm.asked(len(llm.exchanges) + 1)
        clock.advance(31)
        assert (await asked)[0] == 504
    elif how == "not stored":
        pages = server.sql("PRAGMA page_count")[0][0]
        server.sql(f"PRAGMA max_page_count={pages}")
        llm.play(reply("x" * 100_000))
        assert (await (await server.stream(session)).rest())[-1].json["error"]["code"] == "storage_full"
    else:
        assert how in STOPS
        llm.play([*events(delta("one")), Hang])
        session, stream = await server.begin()
        if how == "fallen silent":
            clock.advance(31)
        elif how == "left":
            await server.leave(stream)
            clock.advance(61)
        elif how == "cancelled":
            await cancel(server, session, stream.message_id)
        else:
            await server.call("DELETE", f"/api/sessions/{session}")
        if how != "left":
            await stream.rest()
    await server.ended()


@pytest.mark.parametrize("how", [*ENDS, "finished whole", "never begun", "not stored", *STOPS])
async def test_what_a_reply_was_made_of_is_freed_without_the_garbage_collector(
    start: StartServer, llm: ScriptedLLM, clock: Clock, how: str
) -> None:
    server = await start(llm_timeout_seconds=30, stream_heartbeat_seconds=100)
    parts = (Reply, StreamListener, EndListener, Answer, IdleTimeout, Asking, ReplyLog)

    def alive() -> set[int]:
        return {id(found) for found in gc.get_objects() if isinstance(found, parts)}

    gc.collect()
    gc.disable()
    try:
        before = alive()  # what the log of this run holds the tracebacks of
        await end(how, server, llm, clock)
        await until(lambda: alive() <= before)
    finally:
        gc.enable()


async def test_nothing_of_the_conversation_is_held_while_it_is_told(
    server: Running, llm: ScriptedLLM
) -> None:
    session = await server.session(system_prompt="Be kind.")
    await server.chat(session, "What was once said")
    gate = Gate()
    llm.play(reply("one", gate, "two"))
    stream = await server.stream(session, "What is asked")
    assert await stream.event()
    running = server.running(session)
    assert running._task
    life: Any = running._task.get_coro()
    held: list[Any] = [*vars(running).values()]
    while isinstance(life, Coroutine):
        held += life.cr_frame.f_locals.values()  # type: ignore[attr-defined]
        life = life.cr_await  # type: ignore[attr-defined]
    assert any(value is running for value in held), "these are not the frames of the reply's life"
    assert [value for value in held if isinstance(value, str | bytes) and "once said" in str(value)] == []
    assert [value for value in held if isinstance(value, Context)] == []
    gate.open()
    await stream.rest()


async def test_a_close_waits_until_every_reply_has_let_go_of_the_llm(
    server: Running, llm: ScriptedLLM
) -> None:
    llm.play([*events(delta("one")), Hang])
    await server.begin()

    def alive() -> list[str]:
        return [task.get_name() for task in asyncio.all_tasks() if task.get_name() == "reply"]

    assert alive() == ["reply"]
    await server.replies.close()
    assert alive() == []


async def test_a_reply_ends_though_nothing_can_be_written(server: Running, llm: ScriptedLLM) -> None:
    gate = Gate()
    llm.play(reply("one", gate, "two"))
    session, stream = await server.begin()
    server.sql("PRAGMA query_only=ON")  # an error that is no way of saying "full"
    gate.open()
    error = (await stream.rest())[-1].json["error"]
    assert (error["code"], "readonly" in error["message"]) == ("internal_error", False)
    status, body, _ = await server.chat(session)
    assert (status, body["error"]["code"]) == (500, "internal_error")
    server.sql("PRAGMA query_only=OFF")
    assert (await server.chat(session))[0] == 200
    assert len(await server.history(session)) == 2


async def test_what_came_in_a_burst_before_the_connection_broke_is_all_taken(
    server: Running, llm: ScriptedLLM
) -> None:
    texts = [f"word {number} " for number in range(4000)]
    burst = b"".join(map(delta, texts)) + delta(finish="stop") + DONE
    llm.play([SSE_HEAD + http_chunk(burst), Close])  # no last chunk: the connection ends in the middle
    session = await server.session()
    stream = await server.stream(session, "Tell")
    found = await stream.rest()
    assert found[-1].data == "[DONE]"
    assert text_of(found) == "".join(texts)
