"""A stream that was cut at any event goes on with the very events that would have come."""

from __future__ import annotations

import asyncio
import random

from tests.openai.door import Door
from tests.tools.scripted_llm import DONE, END, ScriptedLLM, Step, delta, events, usage

CUTS = 100
"""How many streams are cut; a thousand were."""


def colourful(body: object) -> list[Step]:
    """Reasoning, text, calls, text again, in chunks of odd sizes."""
    draw = random.Random(str(body))
    steps: list[bytes] = [delta("", role="assistant")]
    steps += [delta(reasoning_content="hm " * draw.randint(1, 4)) for _ in range(draw.randint(0, 4))]
    steps += [delta("날씨 " * draw.randint(1, 9)) for _ in range(draw.randint(1, 9))]
    for number in range(draw.randint(0, 2)):
        head = {"index": number, "id": f"call_{number}", "function": {"name": "f", "arguments": ""}}
        steps.append(delta(tool_calls=[head]))
        for part in ("{", '"a":', "1}"):
            steps.append(delta(tool_calls=[{"index": number, "function": {"arguments": part}}]))
    return [*events(*steps, delta(finish="stop"), usage(), DONE), END]


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
    assert (await door.call("GET", f"/responses/{response['id']}?stream=true&starting_after=x"))[0] == 400
