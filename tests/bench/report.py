"""Turns what the rounds measured into Markdown: medians, and ratios within a round.

What was measured while others used the machine counts only where nothing else was (calm.py).
"""

import importlib
import importlib.metadata
import os
import platform
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from . import loop

Sample = dict[str, float | None]
RATIOS = [("chatbot", "relay"), ("chatbot", "nginx"), ("other", "relay"), ("chatbot", "other")]


def median(samples: Sequence[Sample], key: str) -> float | None:
    calm = [s for s in samples if not s.get("disturbed")] or samples
    values = [v for s in calm if (v := s.get(key)) is not None]
    return statistics.median(values) if values else None


def ratio(above: Sequence[Sample], below: Sequence[Sample], key: str) -> float | None:
    """The median over the rounds of the ratio within each: what drifts, drifts for both."""
    pairs = list(zip(above, below, strict=False))
    calm = [(a, b) for a, b in pairs if not a.get("disturbed") and not b.get("disturbed")]
    values = [(a.get(key), b.get(key)) for a, b in calm or pairs]
    ratios = [a / b for a, b in values if a is not None and b]
    return statistics.median(ratios) if ratios else None


def percentile(values: Sequence[float], p: float) -> float | None:
    return sorted(values)[min(len(values) - 1, int(len(values) * p))] if values else None


def ms(nanoseconds: Sequence[int], p: float) -> float | None:
    found = percentile(nanoseconds, p)
    return found / 1e6 if found is not None else None


def number(value: float | None) -> str:
    """Three figures that count; more would promise what the machine does not keep."""
    if value is None:
        return "–"
    if not value:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def progress(what: str) -> None:
    """Tells whoever waits; the result alone goes to the standard output."""
    if sys.stderr.isatty():
        print(f"\r\033[K{what}", end="", file=sys.stderr, flush=True)
    elif what:
        print(what, file=sys.stderr, flush=True)


class Table:
    """One table: samples by column and round, a row for each figure, ratios on the right."""

    def __init__(
        self, title: str, rows: Sequence[tuple[str, str]], ratios: Sequence[tuple[str, str]] = ()
    ) -> None:
        self.title, self.rows, self.ratios = title, rows, ratios
        self.samples: dict[str, list[Sample]] = {}
        self.errors: list[str] = []
        self.notes: list[str] = []

    def add(self, column: str, sample: Sample) -> None:
        self.samples.setdefault(column, []).append(sample)

    def median(self, column: str, key: str) -> float | None:
        return median(self.samples[column], key)

    def markdown(self) -> str:
        ratios = [(a, b) for a, b in self.ratios if a in self.samples and b in self.samples]
        heads = [self.title, *self.samples, *(f"{a} ÷ {b}" for a, b in ratios)]
        lines = [heads, ["---", *["---:"] * (len(heads) - 1)]]
        for label, key in self.rows:
            cells = [number(median(s, key)) for s in self.samples.values()]
            for above, below in ratios:
                found = ratio(self.samples[above], self.samples[below], key)
                # Figures about the instruments (in italics) explain; they are not to be compared.
                cells.append(f"**{found:.2f}**" if found and label[0] != "*" else "")
            if any(cell not in ("–", "") for cell in cells):
                lines.append([label, *cells])
        text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return "\n\n".join([text, *dict.fromkeys(self.notes)])


def machine() -> str:
    """What it ran on, in one line that names no host."""
    cpu = platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    try:
        importlib.import_module("aiohttp._http_parser")
        parser = "C parser"
    except ImportError:
        parser = "pure Python"
    return (
        f"{cpu}, {len(os.sched_getaffinity(0))} cores; Linux {platform.release().split('-')[0]}; "
        f"{platform.python_implementation()} {platform.python_version()}; "
        f"aiohttp {importlib.metadata.version('aiohttp')} ({parser}); "
        f"instruments on {loop.NAME}"
    )
