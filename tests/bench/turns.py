"""What a whole turn costs: `POST /api/chat` in a closed loop, beside the relay of the same JSON."""

import asyncio
import time
from functools import partial

from . import loop
from .calm import BUSY, Mark, Others, undisturbed, warning
from .plan import Plan
from .procs import BenchError, Process
from .report import RATIOS, Sample, Table, ms, progress
from .targets import Target, playing

ROWS = [
    ("turns a second", "rate"),
    ("CPU ms a turn", "turn_ms"),
    ("a turn p50, ms", "turn_p50"),
    ("a turn p99, ms", "turn_p99"),
    ("errors", "errors"),
    *BUSY,
]
TOKENS = 100  # of the reply: half a kilobyte


def section(plan: Plan) -> list[Table]:
    table = Table(f"whole turns, {plan.connections} at a time", ROWS, RATIOS)
    for turn in range(plan.rounds):
        for name in plan.order(turn):
            progress(f"whole turns, round {turn + 1}: {name}")
            measured = partial(once, name, plan, table.errors)
            table.add(name, undisturbed(plan.patience, measured))
    table.notes += warning(table.samples)
    for name in table.samples:
        if name != "LLM itself" and (table.median(name, "server_busy") or 0) < 80:
            table.notes.append(f"{name}: the server was not the bottleneck; compare CPU, not rates.")
    return [table]


def once(name: str, plan: Plan, notes: list[str]) -> Sample:
    with playing(name, TOKENS, 0, plan.other) as (target, llm):
        sample: Sample = loop.run(measure(target, llm, plan, notes), 60 + plan.turn_seconds)
        return sample


async def measure(target: Target, llm: Process, plan: Plan, notes: list[str]) -> Sample:
    """Keeps as many turns in flight as there are connections, until the time is up."""
    took: list[int] = []
    errors: list[str] = []

    async def talk() -> None:
        chat = await target.connect()
        await chat.warm_up(1)
        await chat.open()
        ready.release()
        await start.wait()
        while time.monotonic_ns() < end:
            sent = time.monotonic_ns()
            await chat.client.ask("POST", chat.whole_path, chat.whole)
            took.append(time.monotonic_ns() - sent)
        chat.client.close()

    async def guarded() -> None:
        try:
            await talk()
        except (BenchError, OSError) as error:
            errors.append(str(error))
            ready.release()

    ready, start, end = asyncio.Semaphore(0), asyncio.Event(), 0
    sample: Sample = {}
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(plan.connections):
                group.create_task(guarded())
            for _ in range(plan.connections):
                await ready.acquire()
            begin, others = Mark(target, llm), Others()
            end = begin.wall + int(plan.turn_seconds * 1e9)
            start.set()
        over = Mark(target, llm)
        sample = {
            **others.busy(over.own - begin.own),
            **over.busy_since(begin),
            "rate": len(took) / (over.wall - begin.wall) * 1e9,
            "turn_ms": (over.target - begin.target) / max(len(took), 1) / 1e6 or None,
            "turn_p50": ms(took, 0.5),
            "turn_p99": ms(took, 0.99),
        }
    except ExceptionGroup as group:
        errors.append(str(group.exceptions[0]))
    except BenchError as error:
        errors.append(str(error))
    if errors:
        notes.append(f"{target.name}, whole turns: {errors[0]}{target.tail()}")
    return {**sample, "errors": len(errors)}
