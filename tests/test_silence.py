"""The watch over silences: one timer for all, nobody missed, nobody told who was heard or has ended."""

from __future__ import annotations

import asyncio
import math
import random
from functools import partial
from typing import Any

import pytest

from chatbot.silence import RESOLUTION, Silence, Watch


class Clock:
    """The time of the event loop, which stands still but for advance().

    It begins at a whole second: sums of fractions come out as they are read, whatever the machine's uptime.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch) -> None:
        self._now = math.ceil(loop.time())
        monkeypatch.setattr(loop, "time", lambda: self._now)

    async def advance(self, seconds: float) -> None:
        self._now += seconds
        for _ in range(3):  # what is due runs, and what that makes due at once
            await asyncio.sleep(0)


@pytest.fixture
async def watch() -> Watch:
    return Watch()


@pytest.fixture
def clock(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(watch.loop, monkeypatch)


@pytest.fixture
def timers(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> list[asyncio.TimerHandle]:
    """What the loop was asked for since."""
    timers: list[asyncio.TimerHandle] = []
    call_at = watch.loop.call_at

    def kept(*args: Any) -> asyncio.TimerHandle:
        timers.append(call_at(*args))
        return timers[-1]

    monkeypatch.setattr(watch.loop, "call_at", kept)
    return timers


async def test_who_is_silent_is_told_once_and_who_is_heard_is_not(watch: Watch, clock: Clock) -> None:
    told: list[str] = []
    silent = Silence(watch, 10, lambda: told.append("silent"))
    heard = Silence(watch, 10, lambda: told.append("heard"))
    ended = Silence(watch, 10, lambda: told.append("ended"))
    await clock.advance(9.9)
    assert told == []
    heard.heard_at = watch.loop.time()
    ended.end()
    await clock.advance(0.2)
    assert (told, silent.broken, heard.broken, ended.broken) == (["silent"], True, False, False)
    await clock.advance(9.5)
    assert told == ["silent"]
    await clock.advance(0.5)
    assert told == ["silent", "heard"]


async def test_a_shortened_silence_is_noticed_in_its_own_time(watch: Watch, clock: Clock) -> None:
    told: list[str] = []
    Silence(watch, 60, lambda: told.append("long"))
    Silence(watch, 60, lambda: told.append("short")).shorten(5)
    await clock.advance(5.1)
    assert told == ["short"]
    await clock.advance(55)
    assert told == ["short", "long"]


async def test_one_who_is_ended_by_another_in_the_same_moment_is_not_told(watch: Watch, clock: Clock) -> None:
    told: list[int] = []
    both: list[Silence] = []

    def end(number: int) -> None:
        told.append(number)
        both[1 - number].end()

    both += [Silence(watch, 10, lambda: end(0)), Silence(watch, 10, lambda: end(1))]
    await clock.advance(10)
    assert len(told) == 1


async def test_one_that_raises_keeps_nobody_else_from_being_told(watch: Watch, clock: Clock) -> None:
    told: list[int] = []

    def tell(number: int) -> None:
        told.append(number)
        if number % 5 == 0:
            raise RuntimeError(number)

    logged: list[dict[str, Any]] = []
    watch.loop.set_exception_handler(lambda loop, context: logged.append(context))
    silences = [Silence(watch, 10, partial(tell, number)) for number in range(20)]
    for _ in range(10):
        await clock.advance(10)
    assert sorted(told) == list(range(20)), "each of them, and once"
    assert (len(logged), len(silences)) == (4, 20)


async def test_one_that_has_ended_is_not_revived(watch: Watch, clock: Clock) -> None:
    told: list[str] = []
    silence = Silence(watch, 10, lambda: told.append("silent"))
    await clock.advance(10)
    silence.shorten(5)
    await clock.advance(20)
    assert told == ["silent"]


async def test_thousands_cost_a_timer_now_and_then(
    watch: Watch, clock: Clock, timers: list[asyncio.TimerHandle]
) -> None:
    told: list[int] = []
    silences = []
    for number in range(2000):
        silences.append(Silence(watch, 10, lambda number=number: told.append(number)))  # type: ignore[misc]
        await clock.advance(0.001)
    assert len(timers) == 1
    for silence in silences[::2]:
        silence.end()
    for _ in range(1200):
        await clock.advance(0.01)
    assert sorted(told) == list(range(1, 2000, 2))
    assert len(timers) <= 2 + 2 / RESOLUTION
    assert not watch._watched


async def test_nobody_is_told_late(watch: Watch, clock: Clock) -> None:
    late: list[float] = []
    for _ in range(500):
        due = watch.loop.time() + random.uniform(1, 3)
        Silence(watch, due - watch.loop.time(), lambda due=due: late.append(watch.loop.time() - due))  # type: ignore[misc]
    for _ in range(400):
        await clock.advance(0.01)
    assert len(late) == 500
    assert min(late) >= 0
    assert max(late) < RESOLUTION + 0.02


async def test_there_is_one_timer_at_most_and_none_in_the_end(
    watch: Watch, clock: Clock, timers: list[asyncio.TimerHandle]
) -> None:
    told: list[str] = []
    silence = Silence(watch, 60, lambda: told.append("silent"))
    silence.shorten(5)
    assert [timer.cancelled() for timer in timers] == [True, False]
    watch.close()
    assert [timer.cancelled() for timer in timers] == [True, True]
    await clock.advance(100)
    assert told == []
