"""Silence is noticed once, in its time, and costs no timer while something is heard."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

from chatbot.llm.idle_timeout import LOOK_AGAIN, IdleTimeout


class StillClock:
    """The time of the event loop, which stands still but for advance()."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._loop = asyncio.get_running_loop()
        self.now = math.ceil(self._loop.time())
        self.timers: list[Any] = []
        call_at = self._loop.call_at

        def kept(*args: Any, **more: Any) -> asyncio.TimerHandle:
            self.timers.append(call_at(*args, **more))
            return self.timers[-1]

        monkeypatch.setattr(self._loop, "time", lambda: self.now)
        monkeypatch.setattr(self._loop, "call_at", kept)

    async def advance(self, seconds: float) -> None:
        for step in (seconds, LOOK_AGAIN + 0.001):  # the judgement follows the look
            self.now += step
            for _ in range(3):
                await asyncio.sleep(0)


@pytest.fixture
async def still(monkeypatch: pytest.MonkeyPatch) -> StillClock:
    return StillClock(monkeypatch)


async def test_who_is_silent_is_called_once_and_who_is_heard_or_has_ended_is_not(still: StillClock) -> None:
    called: list[str] = []
    silent = IdleTimeout(10, lambda: called.append("silent"))
    heard = IdleTimeout(10, lambda: called.append("heard"))
    ended = IdleTimeout(10, lambda: called.append("ended"))
    await still.advance(9)
    assert called == []
    heard.heard_at = still.now
    ended.end()
    ended.end()
    ended.allow(1)
    await still.advance(1)
    assert (called, silent.has_fired, heard.has_fired, ended.has_fired) == (["silent"], True, False, False)
    await still.advance(8)
    await still.advance(1)
    assert called == ["silent", "heard"]
    await still.advance(100)
    assert called == ["silent", "heard"]


async def test_what_is_heard_between_the_look_and_the_judgement_counts(still: StillClock) -> None:
    called: list[str] = []
    idle = IdleTimeout(10, lambda: called.append("x"))
    still.now += 100  # the process was stopped
    await asyncio.sleep(0)
    idle.heard_at = still.now
    await still.advance(9)
    assert called == []
    await still.advance(1)
    assert called == ["x"]


async def test_another_time_counts_from_then_and_the_same_changes_nothing(still: StillClock) -> None:
    called: list[float] = []
    idle = IdleTimeout(100, lambda: called.append(still.now))
    await still.advance(50)
    idle.allow(5)
    await still.advance(4)
    idle.allow(5)
    await still.advance(0.9)
    assert called == []
    await still.advance(0.1)
    assert len(called) == 1


async def test_a_thousand_pieces_cost_no_timer(still: StillClock) -> None:
    idle = IdleTimeout(10, lambda: None)
    for _ in range(1000):
        still.now += 0.001
        idle.heard_at = still.now
        await asyncio.sleep(0)
    assert len(still.timers) == 1
    idle.end()
    assert all(timer.cancelled() for timer in still.timers)
