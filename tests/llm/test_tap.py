"""Chunks that are taken in the transport's callback: the same ones, and the connection is left as it was."""

from __future__ import annotations

import asyncio
import gc
import weakref
from contextlib import suppress

import pytest

from chatbot.errors import ChatError
from chatbot.llm.client import LLM
from chatbot.llm.response import Answer
from chatbot.records import Chunk
from tests.llm.asking import DONE, HI, STOP, Heard, opened, stream, text
from tests.tools.scripted_llm import Close, Gate, Hang, ScriptedLLM


async def tapped(way: LLM, heard: Heard, gate: Gate | None = None) -> Answer:
    """Asks, opens the gate after the first word, when the connection is tapped, and waits for the end."""
    answer = await way.ask((HI,), {})
    first = await answer.first(heard.take)
    if gate:
        gate.open()
    await answer.deliver(first, heard.take)
    return answer


async def test_one_connection_serves_answers_that_are_tapped_one_after_the_other(llm: ScriptedLLM) -> None:
    first, *words = [text(f"{number} ") for number in range(20)]
    async with opened(llm) as way:
        for _ in range(3):
            gate, heard = Gate(), Heard()
            llm.play(stream(first, gate, *words, STOP, DONE))
            answer = await tapped(way, heard, gate)
            assert heard.said == "".join(f"{number} " for number in range(20))
            assert answer.reader.finish_reason == "stop"
        assert llm.connections == 1


async def test_who_wants_no_more_ends_the_answer(llm: ScriptedLLM) -> None:
    gate, heard = Gate(), Heard(most=2)
    llm.play(stream(text("a"), gate, text("b"), Hang))
    async with opened(llm) as way:
        await tapped(way, heard, gate)
        assert heard.said == "ab"
        await llm.exchanges[0].gone.wait()


async def test_what_was_taken_before_a_failure_stays_taken(llm: ScriptedLLM) -> None:
    gate, heard = Gate(), Heard()
    llm.play(stream(text("a"), gate, text("b"), Close))
    async with opened(llm) as way:
        with pytest.raises(ChatError, match="broke"):
            await tapped(way, heard, gate)
    assert heard.said == "ab"


async def test_a_failure_holds_nothing_of_its_answer(llm: ScriptedLLM) -> None:
    llm.play(stream(text("a"), text("b"), Close))
    gc.disable()  # which would find it, but much later
    try:
        async with opened(llm) as way:
            answer = await way.ask((HI,), {})
            left = weakref.ref(answer)
            with suppress(ChatError):
                async for _ in answer:
                    pass
            answer.close()
            del answer
            await asyncio.sleep(0)
            assert left() is None
    finally:
        gc.enable()


async def test_a_crash_of_who_takes_is_raised_where_it_is_waited_for(llm: ScriptedLLM) -> None:
    class Crashing(Heard):
        def take(self, chunks: list[Chunk]) -> bool:
            super().take(chunks)
            if self.said == "ab":
                raise RuntimeError("boo")
            return True

    gate = Gate()
    llm.play(stream(text("a"), gate, text("b"), Hang))
    async with opened(llm) as way:
        with pytest.raises(RuntimeError, match="boo"):
            await tapped(way, Crashing(), gate)
