"""Tells a measurement that had the machine to itself from one that had not, and repeats that.

What others do is not only noise: on a busy machine a server sleeps less and finds more waiting at
each wake-up, so that even its CPU time per token falls. A calm measurement and a disturbed one are
no pair.
"""

import time
from collections.abc import Callable

from .procs import Process, machine_ns
from .report import Sample
from .targets import Target

BUSY = [
    ("*the server, % of a core*", "server_busy"),
    ("*the load, % of a core*", "load_busy"),
    ("*the LLM, % of a core*", "llm_busy"),
    ("*others on this machine, % of a core*", "others_busy"),
]
DISTURBED = 25  # per cent of a core that other programs use meanwhile


class Others:
    """What other programs use of the machine from now on."""

    def __init__(self) -> None:
        self.machine, self.wall = machine_ns(), time.monotonic_ns()

    def busy(self, own: float) -> Sample:
        """In per cent of a core, beside the `own` nanoseconds of what was measured with."""
        wall = time.monotonic_ns() - self.wall
        others = max(0.0, 100 * (machine_ns() - self.machine - own) / wall)
        return {"others_busy": others, "disturbed": others > DISTURBED}


class Mark:
    """What everything had cost at one instant, in nanoseconds."""

    def __init__(self, target: Target, llm: Process, tokens: int = 0) -> None:
        self.tokens = tokens
        self.target, self.llm = target.cpu_ns(), llm.cpu_ns()
        self.load = time.process_time_ns()
        self.own = self.target + self.llm + self.load
        self.wall = time.monotonic_ns()

    def busy_since(self, before: "Mark") -> Sample:
        """What each used of a core, in per cent."""
        wall = self.wall - before.wall
        return {
            "server_busy": 100 * (self.target - before.target) / wall or None,
            "load_busy": 100 * (self.load - before.load) / wall,
            "llm_busy": 100 * (self.llm - before.llm) / wall,
        }


def undisturbed(patience: int, measure: Callable[[], Sample]) -> Sample:
    """The first of `measure`'s samples that is calm, or that has an error, or the calmest."""
    tries: list[Sample] = []
    for _ in range(1 + patience):
        tries.append(measure())
        if tries[-1].get("errors") or not tries[-1].get("disturbed"):
            return tries[-1]
    return min(tries, key=lambda sample: sample.get("others_busy") or 0)


def warning(samples: dict[str, list[Sample]]) -> list[str]:
    """What is to be said about the rounds that were not calm."""
    every = [sample for column in samples.values() for sample in column]
    disturbed = sum(1 for sample in every if sample.get("disturbed"))
    if not disturbed:
        return []
    return [
        f"{disturbed} of {len(every)} measurements had to share the machine with other programs; "
        "they count only where there is no calm one."
    ]
