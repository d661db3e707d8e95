"""How long others wait while idle sessions are swept.

One client asks for the server's health again and again; as it is always waiting, it meets the
longest time for which the server did nothing else. The same probe over the same database with
nothing expired shows what the machine alone makes it wait.
"""

import os
import shutil
import time
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from . import loop
from .calm import Others, undisturbed, warning
from .client import Client
from .plan import Plan
from .procs import BenchError, Process
from .report import Sample, Table, ms, progress
from .rows import fill, settings
from .targets import start_chatbot

ROWS = [
    ("longest wait, ms", "longest"),
    ("wait p99, ms", "p99"),
    ("wait p50, ms", "p50"),
    ("*others on this machine, % of a core*", "others_busy"),
    ("*seconds*", "seconds"),
    ("*sessions swept a second*", "rate"),
]
PATIENCE = 180  # seconds until the sweep must be over
AGE_HOURS = 48
SHORT = "0.002"  # a timeout so short that the first sweep comes soon
LONG = str(AGE_HOURS * 100)


def section(plan: Plan) -> list[Table]:
    swept, quiet = f"{plan.idle_sessions:,} swept", "none swept"
    table = Table("health, asked during a sweep", ROWS, [(swept, quiet)])
    with TemporaryDirectory(prefix="bench-") as name:
        progress("sweep: filling the database")
        full = Path(name) / "full.db"
        fill(full, [4] * plan.idle_sessions, AGE_HOURS)
        for turn in range((plan.rounds + 1) // 2):
            progress(f"sweep, round {turn + 1}")
            measured = partial(once, full, SHORT, plan.idle_sessions, PATIENCE)
            table.add(swept, sample := undisturbed(plan.patience, measured))
            # As long as the sweep was: the longest of more waits is longer.
            measured = partial(once, full, LONG, 0, max(1, sample["seconds"] or 0))
            table.add(quiet, undisturbed(plan.patience, measured))
    table.notes += warning(table.samples)
    return [table]


def once(full: Path, timeout: str, expected: int, seconds: float) -> Sample:
    file = full.with_name("chat.db")
    copy(full, file)
    env = {**settings(file), "SESSION_TIMEOUT_HOURS": timeout}
    with start_chatbot(9, full.parent, env) as chatbot:
        sample: Sample = loop.run(probe(chatbot.wait_ready(), expected, seconds), seconds + 60)
    for left in full.parent.glob("chat.db*"):  # a killed server leaves its WAL
        left.unlink()
    return sample


def copy(full: Path, file: Path) -> None:
    """Copies to the disk, not only to the page cache: its writing back would be felt."""
    shutil.copy(full, file)
    with file.open("rb") as f:
        os.fsync(f.fileno())


async def probe(chatbot: Process, expected: int, seconds: float) -> Sample:
    """Asks until the expected sessions are gone, or for that long when none are expected."""
    client = await Client.connect(chatbot.port)
    took: list[int] = []
    others, own = Others(), chatbot.cpu_ns() + time.process_time_ns()
    left, began, begin = expected, 0, time.monotonic_ns()
    while time.monotonic_ns() - begin < seconds * 1e9:
        sent = time.monotonic_ns()
        health = await client.json("GET", "/api/health")
        took.append(time.monotonic_ns() - sent)
        if not expected:
            continue
        left = health["sessions"]
        if not began and left < expected:
            took, began = took[-1:], sent  # what was before it is the other column's matter
        if not left:
            break
    client.close()
    if left:
        raise BenchError(f"{left:,} of {expected:,} sessions were not swept{chatbot.tail()}")
    over = (time.monotonic_ns() - (began or begin)) / 1e9
    return {
        **others.busy(chatbot.cpu_ns() + time.process_time_ns() - own),
        "longest": max(took) / 1e6,
        "p99": ms(took, 0.99),
        "p50": ms(took, 0.5),
        "seconds": over,
        "rate": expected / over if expected else None,
    }
