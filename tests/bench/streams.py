"""What a token costs: many chat streams at once, each token timed on its way.

A run has four parts. Clients connect (and create their sessions); then they ask, all in one instant
or, when there are more than a burst, one after the other; then, from the last stream's first token
to the first stream's last, every stream is open and nothing but tokens moves; then they end.
"""

import asyncio
import time
from functools import partial

from . import loop
from .calm import BUSY, Mark, Others, undisturbed, warning
from .client import Tally
from .plan import Load, Plan
from .procs import BenchError, Process
from .report import RATIOS, Sample, Table, ms, progress
from .targets import Chat, Target, playing

AT_ONCE = 200  # clients that may arrive in one instant
ARRIVAL = 0.002  # seconds at least between the arrivals of more
WAITING = 50  # of them wait for their first token at most: a slower target is not buried by them
MANY = 2000  # streams that take long enough to be measured in half of the rounds

ROWS = [
    ("CPU µs a token, all streams open", "token_us"),
    ("CPU µs a token, with its share of the turn", "turn_token_us"),
    ("CPU µs a token, with connecting and the session too", "all_token_us"),
    ("first token p50, ms", "first_p50"),
    ("first token p99, ms", "first_p99"),
    ("lateness of a token p50, ms", "late_p50"),
    ("lateness of a token p99, ms", "late_p99"),
    ("lateness p99, the burst of arrivals included, ms", "all_late_p99"),
    ("memory of an open stream, KB", "stream_kb"),
    ("errors", "errors"),
    ("*until all streams were open, s*", "opening"),
    *BUSY,
    ("*tokens missing from the schedule, %*", "missing"),
]


def section(plan: Plan) -> list[Table]:
    tables = {load: Table(load.title, ROWS, RATIOS) for load in plan.loads}
    for turn in range(plan.rounds):
        for load, table in tables.items():
            many = load.streams > MANY
            if many and turn >= (plan.rounds + 1) // 2:
                continue
            for name in plan.order(turn):
                if many and name == "LLM itself":
                    continue
                progress(f"{load.title}, round {turn + 1}: {name}")
                measured = partial(once, name, load, plan, table.errors)
                table.add(name, undisturbed(plan.patience, measured))
    for table in tables.values():
        warn(table)
    return [*tables.values(), *by_load(tables)]


def once(name: str, load: Load, plan: Plan, notes: list[str]) -> Sample:
    with playing(name, load.tokens, load.interval_ms, plan.other) as (target, llm):
        measured = measure(target, llm, load, notes)
        sample: Sample = loop.run(measured, 60 + load.seconds * 4 + load.streams * 0.02)
        return sample


def warn(table: Table) -> None:
    """Says where a figure is not the server's own but its surroundings'."""
    table.notes += warning(table.samples)
    for name in table.samples:
        if (table.median(name, "load_busy") or 0) > 85 or (table.median(name, "llm_busy") or 0) > 85:
            table.notes.append(f"{name}: the load or the LLM had a core to itself and wanted more.")
        if table.median(name, "errors") == 0 and table.median(name, "late_p50") is None:
            table.notes.append(f"{name}: the first stream ended before the last began (--tokens).")
        if (table.median(name, "missing") or 0) > 5:
            table.notes.append(f"{name}: what was between the LLM and the load did not keep up.")


def by_load(tables: dict[Load, Table]) -> list[Table]:
    """Sets the cost of a token at each load beside the others, and over that of the headline."""
    base = next((load for load in tables if load.streams == AT_ONCE), None)
    if base is None or len(tables) == 1:
        return []
    rows = [(f"streams: {load.streams:,}", load.title) for load in tables]
    rows += [(f"streams: {load.streams:,} ÷ {AT_ONCE}", f"÷ {load.title}") for load in tables]
    found = Table("CPU µs a token, all streams open", rows)
    for name in tables[base].samples:
        if name == "LLM itself":
            continue
        sample: Sample = {}
        for load, table in tables.items():
            sample[load.title] = own = table.median(name, "token_us")
            of = tables[base].median(name, "token_us")
            sample[f"÷ {load.title}"] = own / of if own and of and load != base else None
        found.add(name, sample)
    return [found]


async def measure(target: Target, llm: Process, load: Load, notes: list[str]) -> Sample:
    """Runs one load against one target; what went wrong goes to `notes`."""
    errors: list[str] = []
    sample: Sample = {}
    try:
        sample = await run(target, llm, load, errors)
    except (BenchError, OSError) as error:
        errors.append(str(error))
    if errors:
        notes.append(f"{target.name}, {load.title}: {len(errors)} errors, such as {errors[0]}{target.tail()}")
    return {**sample, "errors": len(errors)}


async def run(target: Target, llm: Process, load: Load, errors: list[str]) -> Sample:
    tally = Tally(WAITING if load.streams > AT_ONCE else AT_ONCE)
    chat = await target.connect()
    await chat.warm_up()
    chat.client.close()
    idle = target.rss()
    begin = Mark(target, llm)
    chats = await arrive(target, load.streams)
    asked, others = Mark(target, llm), Others()

    streams = [asyncio.create_task(ask(chat, i, load, tally, errors)) for i, chat in enumerate(chats)]
    everyone = asyncio.gather(*streams)
    peak, opened, full, all_open = idle, None, None, 0
    while not everyone.done():
        await asyncio.sleep(0.02)
        peak = max(peak, target.rss())
        if len(tally.first) == load.streams:
            if tally.most < load.tokens:
                full = Mark(target, llm, len(tally.late))
                opened = opened or full
            all_open = all_open or time.monotonic_ns()
    end = Mark(target, llm, len(tally.late))
    meanwhile = others.busy(end.own - asked.own)
    for chat in chats:
        chat.client.close()

    sample: Sample = {
        "turn_token_us": (end.target - asked.target) / 1e3 / max(end.tokens, 1) or None,
        "all_token_us": (end.target - begin.target) / 1e3 / max(end.tokens, 1) or None,
        "first_p50": ms(tally.first, 0.5),
        "opening": (all_open - asked.wall) / 1e9 if all_open else None,
        **meanwhile,
    }
    if load.streams >= 20:  # fewer have no percentiles, and drown in the grain of the allocator
        sample |= {
            "first_p99": ms(tally.first, 0.99),
            "all_late_p99": ms(tally.late, 0.99),
            "stream_kb": (peak - idle) / load.streams / 1e3 or None,
        }
    if opened and full and full.tokens > opened.tokens:
        steady, wall = tally.late[opened.tokens : full.tokens], full.wall - opened.wall
        due = load.streams * wall / load.interval_ms / 1e6
        sample |= {
            "token_us": (full.target - opened.target) / 1e3 / len(steady) or None,
            "late_p50": ms(steady, 0.5),
            "late_p99": ms(steady, 0.99),
            **full.busy_since(opened),
            "missing": 100 * max(0.0, 1 - len(steady) / due),
        }
    return sample


async def arrive(target: Target, streams: int) -> list[Chat]:
    """Connects that many clients, a few at a time: a full accept queue is not the matter here."""
    few = asyncio.Semaphore(50)

    async def one() -> Chat:
        async with few:
            chat = await target.connect()
            await chat.open()
            return chat

    return list(await asyncio.gather(*(one() for _ in range(streams))))


async def ask(chat: Chat, index: int, load: Load, tally: Tally, errors: list[str]) -> None:
    if load.streams > AT_ONCE:
        await asyncio.sleep(index * ARRIVAL)
    await tally.waiting.acquire()
    try:
        await chat.client.stream(chat.stream_path, chat.stream, tally, load.tokens)
    except (BenchError, OSError) as error:
        errors.append(str(error))
        if not chat.client.seen:
            tally.waiting.release()
