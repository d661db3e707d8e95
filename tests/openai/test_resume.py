"""A stream that was cut at any event goes on with the very events that would have come."""

from __future__ import annotations

import asyncio
import random

import pytest
from aiohttp import ClientPayloadError

from tests.openai.clever_llm import a_call
from tests.openai.door import Door
from tests.tools.scripted_llm import Gate, ScriptedLLM, Step, delta, reply
from tests.tools.server import until
from tests.web.client import Client

CUTS = 100
"""How many streams are cut; a thousand were."""


def colourful(body: object) -> list[Step]:
    """Reasoning, text, calls, text again, in chunks of odd sizes."""
    draw = random.Random(str(body))
    steps: list[Step] = [delta("", role="assistant")]
    steps += [delta(reasoning_content="hm " * draw.randint(1, 4)) for _ in range(draw.randint(0, 4))]
    steps += [delta("날씨 " * draw.randint(1, 9)) for _ in range(draw.randint(1, 9))]
    for number in range(draw.randint(0, 2)):
        head = {"index": number, "id": f"call_{number}", "function": {"name": "f", "arguments": ""}}
        steps.append(delta(tool_calls=[head]))
        for part in ("{", '"a":', "1}"):
            steps.append(delta(tool_calls=[{"index": number, "function": {"arguments": part}}]))
    return reply(*steps)


async def test_streams_that_are_cut_at_random_events_go_on(door: Door, llm: ScriptedLLM):
    llm.script = colourful
    draw = random.Random(1)

    async def cut(number: int) -> None:
        stream = await door.stream(f"number {number}", background=number % 2 == 0)
        seen = [await stream.event() for _ in range(draw.randint(1, 6))]
        stream.leave()
        response_id = seen[0]["response"]["id"]
        while True:
            stream = await door.resume(response_id, seen[-1]["sequence_number"])
            for _ in range(draw.randint(1, 9)):
                event = await stream.event()
                if event is None:
                    break
                seen.append(event)
            stream.leave()
            if seen[-1]["type"] == "response.completed":
                break
        whole = await (await door.resume(response_id)).rest()
        assert seen == whole, number

    for start in range(0, CUTS, 20):
        await asyncio.gather(*(cut(number) for number in range(start, start + 20)))


async def test_a_number_that_no_event_has_yet_is_waited_for(door: Door):
    response = await door.respond("hello")
    assert await (await door.resume(response["id"], 10**9)).rest() == []
    assert (await door.call("GET", f"/responses/{response['id']}?stream=True&starting_after=x"))[0] == 400


async def test_ends_of_long_streams_that_nobody_reads_are_bounded(
    door: Door, llm: ScriptedLLM, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("chatbot.web.backpressure.MAX_HELD", 12 * 2**20)
    llm.play(reply(*["x" * 900_000] * 2))
    path = f"/v1/responses/{(await door.respond())['id']}?stream=true"
    before, port = door.server.connections, int(door.server.url.rpartition(":")[2])
    one, other = Client(port), Client(port)
    await one.get(path)
    await one.read_until(b"output_text.done")
    await other.get(path)
    assert b"[DONE]" not in await other.rest()
    one.leave()
    await until(lambda: door.server.connections <= before)
    again = Client(port)
    await again.get(path, version=b"1.0")
    assert b"[DONE]" in await again.rest()
    for client in (other, again):
        client.leave()


async def test_what_is_said_again_of_a_long_text_is_bounded_for_who_was_live_too(
    door: Door, llm: ScriptedLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred who read all of 4 MB, and then nothing, held 1 GB when a call followed."""
    gates, calling = [Gate(), Gate()], delta(tool_calls=[a_call("a")])
    llm.play(*(reply("x" * 300_000, gate, calling, finish="tool_calls") for gate in gates))
    for gate, most in zip(gates, (2**27, 2**19), strict=True):
        monkeypatch.setattr("chatbot.web.backpressure.MAX_HELD", most)
        stream = await door.stream("Hi")
        response = (await stream.event())["response"]
        await stream.until("response.output_text.delta")
        gate.open()
        if most == 2**27:
            names = [event["type"] for event in await stream.rest()]
            assert names.count("response.output_text.done") == 1
            assert names[-1] == "response.completed"
        else:
            with pytest.raises(ClientPayloadError):
                await stream.until("response.output_text.done")
        stream.leave()
    await until(lambda: not len(door.server.replies))
    assert (await door.call("GET", f"/responses/{response['id']}"))[1]["status"] == "completed"
