"""A turn from end to end, in one piece and streamed."""

from __future__ import annotations

from tests.conftest import Running, text_of
from tests.scripted import Gate, ScriptedLLM, reply


async def test_a_streamed_turn_is_in_the_history_once_done_is_seen(server: Running) -> None:
    session = await server.session()
    stream = await server.stream(session, "Hi")
    events = await stream.rest()
    assert events[-1].data == "[DONE]"
    assert text_of(events) == "Hello there."
    assert await server.history(session) == [("user", "Hi"), ("assistant", "Hello there.")]


async def test_a_frame_reaches_the_client_before_the_next_one_is_sent(
    server: Running, llm: ScriptedLLM
) -> None:
    gates = [Gate(), Gate()]
    llm.play(reply("one", gates[0], "two", gates[1], "three"))
    session = await server.session()
    stream = await server.stream(session)
    seen = []
    for gate in gates:
        event = await stream.event()
        assert event
        seen.append(event.text)
        gate.open()
    assert seen == ["one", "two"]
    assert text_of(await stream.rest()) == "three"


async def test_a_whole_turn(server: Running) -> None:
    session = await server.session()
    status, answer, _ = await server.chat(session, "Hi")
    assert status == 200
    assert answer["content"] == "Hello there."
    assert await server.history(session) == [("user", "Hi"), ("assistant", "Hello there.")]
