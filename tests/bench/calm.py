"""Tells a measurement that had the machine to itself from one that had not, and repeats that.

What others do is not only noise: on a busy machine a server sleeps less and finds more waiting at
each wake-up, so that even its CPU time per token falls. A calm measurement and a disturbed one are
no pair.
"""

import time
from collections.abc import Callable

from .procs import machine_ns
from .report import Sample

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
