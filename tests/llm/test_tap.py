"""Chunks that are taken in the transport's callback: the same ones, and the connection is left as it was."""

from __future__ import annotations

import asyncio
import gc
import weakref
from contextlib import suppress

import pytest

from chatbot.errors import ChatError
from chatbot.llm.client import LLM
from chatbot.llm.response import Answer, Take
from chatbot.records import Chunk
from tests.llm.asking import CUT, DONE, HI, chunk, opened, said, stream
from tests.llm.test_answers import text
from tests.tools.scripted_llm import Gate, Hang, ScriptedLLM

STOP = chunk(finish="stop")


async def tapped(way: LLM, take: Take, *, gate: Gate | None = None) -> Answer:
    """Asks, opens the gate after the first word, when the connection is tapped, and waits for the end."""
    answer = await way.ask((HI,), {})
    first = await answer.first(take)
    if gate:
        gate.open()
    await answer.deliver(first, take)
    return answer


class Taken:
    """What was taken; it wants no more than `most` chunks."""

    def __init__(self, most: int = 1000) -> None:
        self.chunks: list[Chunk] = []
        self._most = most

    def __call__(self, chunks: list[Chunk]) -> bool:
        self.chunks += chunks
        return len(self.chunks) < self._most

    @property
    def said(self) -> str:
        return said(piece for one in self.chunks for piece in one.pieces)


async def test_one_connection_serves_answers_that_are_tapped_one_after_the_other(llm: ScriptedLLM) -> None:
    words = [text(f"{number} ") for number in range(20)]
    async with opened(llm) as way:
        for _ in range(3):
            gate, taken = Gate(), Taken()
            llm.play([*stream(words[0], end=()), gate, *stream(*words[1:], STOP, DONE)[1:]])
            answer = await tapped(way, taken, gate=gate)
            assert taken.said == "".join(f"{number} " for number in range(20))
            assert answer.reader.finish_reason == "stop"
        assert llm.connections == 1


async def test_who_wants_no_more_ends_the_answer(llm: ScriptedLLM) -> None:
    gate, taken = Gate(), Taken(most=2)
    llm.play([*stream(text("a"), end=()), gate, *stream(text("b"), end=(Hang,))[1:]])
    async with opened(llm) as way:
        await tapped(way, taken, gate=gate)
        assert taken.said == "ab"
        await llm.exchanges[0].gone.wait()


async def test_what_was_taken_before_a_failure_stays_taken(llm: ScriptedLLM) -> None:
    gate, taken = Gate(), Taken()
    llm.play([*stream(text("a"), end=()), gate, *stream(text("b"), end=CUT)[1:]])
    async with opened(llm) as way:
        with pytest.raises(ChatError, match="broke"):
            await tapped(way, taken, gate=gate)
    assert taken.said == "ab"


async def test_a_failure_holds_nothing_of_its_answer(llm: ScriptedLLM) -> None:
    llm.play(stream(text("a"), text("b"), end=CUT))
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
    gate = Gate()
    llm.play([*stream(text("a"), end=()), gate, *stream(text("b"), end=(Hang,))[1:]])

    def take(chunks: list[Chunk]) -> bool:
        if said(piece for one in chunks for piece in one.pieces) == "b":
            raise RuntimeError("boo")
        return True

    async with opened(llm) as way:
        with pytest.raises(RuntimeError, match="boo"):
            await tapped(way, take, gate=gate)
