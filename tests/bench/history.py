"""What a page of history costs out of a long session, beside the same page of a short one."""

import time
from pathlib import Path
from tempfile import TemporaryDirectory

from . import loop
from .client import Client
from .plan import Plan
from .procs import BenchError, Process
from .report import Sample, Table, ms, progress
from .rows import fill, settings
from .targets import start_chatbot

ROWS = [
    ("a page p50, ms", "p50"),
    ("a page p99, ms", "p99"),
    ("CPU ms a page", "cpu"),
    ("KB a page", "kb"),
]
PAGE = 100


def section(plan: Plan) -> list[Table]:
    short = f"of {PAGE}"
    newest, middle = f"newest of {plan.history:,}", f"middle of {plan.history:,}"
    table = Table(f"a page of {PAGE} messages", ROWS, [(newest, short), (middle, short)])
    with TemporaryDirectory(prefix="bench-") as directory:
        progress("history: filling the database")
        file = Path(directory) / "chat.db"
        (small, _), (large, messages) = fill(file, [PAGE, plan.history])
        pages = {
            short: f"/api/sessions/{small}/messages?limit={PAGE}",
            newest: f"/api/sessions/{large}/messages?limit={PAGE}",
            middle: f"/api/sessions/{large}/messages?limit={PAGE}&before={messages[len(messages) // 2]}",
        }
        with start_chatbot(9, Path(directory), settings(file)) as chatbot:
            chatbot.wait_ready()
            for turn in range(plan.rounds + 1):
                progress(f"history, round {turn}")
                for name, path in pages.items():
                    sample = loop.run(measure(chatbot, path, plan.pages), limit=60)
                    if turn:  # the first fills the caches
                        table.add(name, sample)
    return [table]


async def measure(chatbot: Process, path: str, times: int) -> Sample:
    """Reads the same page again and again."""
    client = await Client.connect(chatbot.port)
    first = await client.json("GET", path)
    if len(first["messages"]) != PAGE:
        raise BenchError(f"{len(first['messages'])} messages of {PAGE} on the page")
    took, spent, size = [], chatbot.cpu_ns(), 0
    for _ in range(times):
        sent = time.monotonic_ns()
        size = len(await client.ask("GET", path, b""))
        took.append(time.monotonic_ns() - sent)
    spent = chatbot.cpu_ns() - spent
    client.close()
    return {"p50": ms(took, 0.5), "p99": ms(took, 0.99), "cpu": spent / times / 1e6, "kb": size / 1e3}
