"""A background response is on disk before it is acknowledged, and can be read whatever becomes of it."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from chatbot.config import Config
from tests.openai.clever_llm import clever
from tests.openai.door import Door, text_of
from tests.tools.processes import Process, start_chatbot
from tests.tools.scripted_llm import Close, Gate, ScriptedLLM, answer, delta, events, reply
from tests.tools.server import Clock, Running, StartServer, until

MANY = 1000
"""How many run at once; five thousand were tried."""


async def test_it_is_queued_then_written_then_done(door: Door, llm: ScriptedLLM):
    gate = Gate()
    llm.play(reply("Hel", gate, "lo"))
    response = await door.respond(background=True)
    assert (response["status"], response["output"], response["background"]) == ("queued", [], True)
    await gate.reached.wait()
    while not (await door.call("GET", f"/responses/{response['id']}"))[1]["output"]:
        pass
    _, running = await door.call("GET", f"/responses/{response['id']}")
    assert (running["status"], text_of(running)) == ("in_progress", "Hel")
    gate.open()
    await door.server.ended()
    _, done = await door.call("GET", f"/responses/{response['id']}")
    assert (done["status"], text_of(done)) == ("completed", "Hello")
    assert not door.server.sql("SELECT * FROM background")


async def test_one_that_failed_can_be_read_and_streamed_as_long_as_its_session_lives(
    door: Door, clock: Clock
):
    response = await door.respond("break", background=True)
    await door.server.ended()
    path = f"/responses/{response['id']}"
    _, failed = await door.call("GET", path)
    assert (failed["status"], failed["error"]["code"]) == ("failed", "server_error")
    events = await (await door.resume(response["id"])).rest()
    assert [event["type"].split(".")[1] for event in events] == ["created", "queued", "in_progress", "failed"]
    assert door.server.sessions.clean()
    assert (await door.call("GET", path))[0] == 200
    clock.advance(24 * 3600)
    assert door.server.sessions.clean()
    assert (await door.call("GET", path))[0] == 404


async def test_who_had_some_of_one_that_failed_is_sent_that_it_did(door: Door, llm: ScriptedLLM):
    llm.play([*events(delta("Hello there"), delta(", my friend")), Close])
    live = await (await door.stream(background=True)).rest()
    await door.server.ended()
    response_id = live[0]["response"]["id"]
    for event in live:
        *_, end = await (await door.resume(response_id, event["sequence_number"])).rest()
        assert end["type"] == live[-1]["type"] == "response.failed"
        assert end["sequence_number"] > event["sequence_number"]


async def test_what_one_failed_of_is_not_made_up_while_it_cannot_be_written(
    start: StartServer, llm: ScriptedLLM, tmp_path: Path
):
    door, gate = Door(await start(database_url=str(tmp_path / "chat.db"))), Gate()
    llm.play([gate, *answer("500 X", {"error": {"message": "no GPU"}})])
    response = await door.respond(background=True)
    await gate.reached.wait()
    other = sqlite3.connect(tmp_path / "chat.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    gate.open()
    await until(lambda: not len(door.server.replies))
    _, failed = await door.call("GET", f"/responses/{response['id']}")
    assert (failed["status"], failed["error"]["message"]) == ("failed", "It failed, or the server stopped.")
    other.close()


async def test_what_was_said_can_be_listed_for_as_long_as_it_is_known(door: Door, llm: ScriptedLLM):
    async def said(response: Any) -> list[str]:
        status, page = await door.call("GET", f"/responses/{response['id']}/input_items")
        assert status == 200, page
        return [item["content"][0]["text"] for item in page["data"]]

    gate = Gate()
    llm.play(reply("Hel", gate, "lo"))
    response = await door.respond("Hi", background=True)
    assert await said(response) == ["Hi"]
    gate.open()
    await door.server.ended()
    assert await said(response) == ["Hi"]
    failed = await door.respond("break", background=True)
    await door.server.ended()
    assert await said(failed) == []


@pytest.mark.parametrize("background", [True, False])
async def test_it_goes_on_without_listeners_as_no_other_does(
    door: Door, llm: ScriptedLLM, clock: Clock, background: bool
):
    gate = Gate()
    llm.play(reply("Hel", gate, "lo"))
    stream = await door.stream(background=background)
    response = (await stream.event())["response"]
    await stream.until("response.output_text.delta")
    await door.server.leave(stream)
    clock.advance(119)
    if not background:
        await door.server.ended()
    gate.open()
    await door.server.ended()
    _, found = await door.call("GET", f"/responses/{response['id']}")
    expected = ("completed", "Hello") if background else ("cancelled", "Hel")
    assert (found["status"], text_of(found)) == expected


async def test_one_that_is_deleted_while_it_runs_is_gone(door: Door):
    response = await door.respond("for ever", background=True)
    path = f"/responses/{response['id']}"
    deleted = {"id": response["id"], "object": "response", "deleted": True}
    assert await door.call("DELETE", path) == (200, deleted)
    assert (await door.call("GET", path))[0] == 404
    assert not door.server.sql("SELECT * FROM background")
    assert not len(door.server.replies)


async def test_very_many_at_once(start: StartServer, llm: ScriptedLLM):
    gate = Gate()
    llm.script = lambda body: reply(gate, body["messages"][0]["content"])
    door = Door(await start(max_active_replies=MANY))
    ids = {}
    for batch in range(MANY // 100):
        texts = [f"{batch}/{n}" for n in range(100)]
        answers = await asyncio.gather(*(door.respond(text, background=True) for text in texts))
        ids |= dict(zip(texts, (answer["id"] for answer in answers), strict=True))
    assert len(door.server.replies) == MANY
    await door.refused(503, None, background=True)
    gate.open()
    await door.server.ended()
    for text, response_id in list(ids.items())[::50]:
        _, response = await door.call("GET", f"/responses/{response_id}")
        assert (response["status"], text_of(response)) == ("completed", text)


def door_of(process: Process, http: aiohttp.ClientSession) -> Door:
    return Door(Running(None, http, Config(), f"http://127.0.0.1:{process.port}"))


async def test_after_a_kill_all_that_was_acknowledged_is_there(llm: ScriptedLLM, tmp_path: Path):
    llm.script = clever
    env = {"DATABASE_URL": f"sqlite:///{tmp_path}/chat.db", "LLM_SERVER_URL": llm.url, "LLM_MODEL": "m"}
    once = {"Idempotency_Key": "k", "Authorization": "Bearer b"}
    async with aiohttp.ClientSession() as http:
        with start_chatbot("--port", "0", env=env, cwd=tmp_path) as process:
            door = door_of(process, http)
            _, whole = await door.call("POST", "/responses", {"input": "one"}, **once)
            running = [await door.respond("for ever", background=True) for _ in range(5)]
            await asyncio.to_thread(process.end, signal.SIGKILL)
        with start_chatbot("--port", "0", env=env, cwd=tmp_path) as process:
            door = door_of(process, http)
            for response in running:
                status, failed = await door.call("GET", f"/responses/{response['id']}")
                assert (status, failed["status"]) == (200, "failed"), failed
                assert failed["error"]["message"] == "It failed, or the server stopped."
            assert await door.call("POST", "/responses", {"input": "one"}, **once) == (200, whole)
            more = await door.respond("two", previous_response_id=whole["id"])
            assert text_of(more) == "You said: one / two"
    assert len([one for one in llm.exchanges if one.body["messages"][-1]["content"] == "one"]) == 1
