"""How uneven do processes get that share 256 slots of session ids? python3 tools/simulate_slots.py [--seed 1]

Sessions begin at random times and fall into a slot at random, as their ids do. How long one is busy follows
a Pareto distribution: most are short, a few last very long. Each process has an equal range, or nearly.
Printed is the load of the busiest process divided by the mean: the median and the worst moment of a day.
The last column is the worst moment if each new session went where the least is running.
"""

from __future__ import annotations

import argparse
import heapq
import random
import statistics

SLOTS = 256
DAY = 86_400.0
SHAPE = 1.3  # of the Pareto distribution; below 2 its variance is infinite


def sessions(rng: random.Random, count: int, mean_seconds: float) -> list[tuple[float, float, int]]:
    """(begin, end, slot) of each session, in the order they begin."""
    scale = mean_seconds * (SHAPE - 1) / SHAPE
    begins = sorted(rng.uniform(0, DAY) for _ in range(count))
    return [(begin, begin + scale * rng.paretovariate(SHAPE), rng.randrange(SLOTS)) for begin in begins]


def loads(day: list[tuple[float, float, int]], processes: int, *, least: bool = False) -> list[list[int]]:
    """How many sessions each process has, at each hundredth of the day."""
    running: list[tuple[float, int]] = []
    now = [0] * processes
    seen: list[list[int]] = []
    moments = iter([DAY * part / 100 for part in range(20, 100)])  # from when it is as full as it gets
    moment = next(moments, None)
    for begin, end, slot in day:
        while running and running[0][0] <= begin:
            now[heapq.heappop(running)[1]] -= 1
        while moment is not None and moment <= begin:
            seen.append(now.copy())
            moment = next(moments, None)
        process = min(range(processes), key=now.__getitem__) if least else slot * processes // SLOTS
        now[process] += 1
        heapq.heappush(running, (end, process))
    return seen


def unevenness(seen: list[list[int]]) -> tuple[float, float]:
    """The busiest process ÷ the mean: median and worst moment."""
    ratios = [max(moment) * len(moment) / sum(moment) for moment in seen if sum(moment)]
    return statistics.median(ratios), max(ratios)


def main() -> None:
    """Prints a table in Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=1)
    rng = random.Random(parser.parse_args().seed)
    print(
        "| processes | slots each | sessions at once, each | busiest ÷ mean, median | worst | moved: worst |"
    )
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    for processes in (2, 4, 8, 24, 32, 100, 128):
        for each in (30, 100):
            count = int(each * processes * DAY / 600)
            day = sessions(rng, count, 600.0)
            median, worst = unevenness(loads(day, processes))
            _, best = unevenness(loads(day, processes, least=True)) if processes <= 32 else (0.0, 0.0)
            shown = f"{best:.2f}" if best else ""
            print(
                f"| {processes} | {SLOTS / processes:.3g} | {each} | {median:.2f} | {worst:.2f} | {shown} |"
            )


if __name__ == "__main__":
    main()
