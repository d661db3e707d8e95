"""What stays in memory after many turns in sessions that come and go."""

import asyncio
from collections.abc import Iterator

from . import loop
from .client import Tally
from .plan import Plan
from .procs import BenchError
from .report import Table, progress
from .targets import Target, playing

TOKENS = 20
TURNS = 5  # of each session: some streamed, some whole
CLIENTS = 16  # at a time
PARTS = 20  # the memory is read after each of so many equal parts


def section(plan: Plan) -> list[Table]:
    tables = []
    for name in [t for t in plan.targets if t in ("chatbot", "other")]:
        progress(f"memory, {plan.memory_turns:,} turns: {name}")
        with playing(name, TOKENS, 0, plan.other) as (target, _):
            try:
                read = loop.run(measure(target, plan.memory_turns), 60 + plan.memory_turns * 0.05)
            except ExceptionGroup as group:
                raise BenchError(f"{group.exceptions[0]}{target.tail()}") from group
        columns = {"start": 0, "10 %": 2, "25 %": 5, "50 %": 10, "75 %": 15, "100 %": PARTS}
        title = f"{name} after {plan.memory_turns:,} turns, sessions of {TURNS}"
        table = Table(title, [("memory, MB", "mb")], [("100 %", "10 %"), ("100 %", "50 %")])
        for column, part in columns.items():
            table.add(column, {"mb": read[part] / 1e6})
        tables.append(table)
    return tables


async def measure(target: Target, turns: int) -> list[int]:
    """Bytes in use at the start and after each part of the turns."""
    read = [target.rss()]
    left: Iterator[int] = iter(range(turns // TURNS))  # shared: each takes the next session
    ended = 0  # sessions, which do not end in the order in which they began

    async def talk() -> None:
        nonlocal ended
        for _ in left:
            chat = await target.connect()
            await chat.open()
            for turn in range(TURNS):
                if turn % 2:
                    await chat.client.ask("POST", chat.whole_path, chat.whole)
                else:
                    await chat.client.stream(chat.stream_path, chat.stream, Tally(), TOKENS)
            await chat.close()
            chat.client.close()
            ended += 1
            if ended * TURNS * PARTS // turns >= len(read):
                read.append(target.rss())

    async with asyncio.TaskGroup() as group:
        for _ in range(CLIENTS):
            group.create_task(talk())
    return read
