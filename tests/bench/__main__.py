"""Measures this server beside a bare relay and nginx, and prints ratios: python -m tests.bench

A figure depends on the machine and on what else runs on it; a ratio within one run much less.
"""

import argparse
import dataclasses
import json
import sys
from pathlib import Path

from . import history, loop, memory, startup, streams, sweep, turns
from .plan import QUICK, Load, Plan
from .procs import BenchError, raise_file_limit
from .report import Table, machine, progress
from .targets import NAMES, NGINX

SECTIONS = {
    "streams": streams.section,
    "turns": turns.section,
    "startup": startup.section,
    "history": history.section,
    "sweep": sweep.section,
    "memory": memory.section,
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only see that everything works")
    parser.add_argument("--rounds", type=int, help="how often each measurement is made (5)")
    parser.add_argument(
        "--patience",
        type=int,
        help="how often a measurement of streams that others disturbed is made again (1)",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=SECTIONS,
        default=list(SECTIONS),
        metavar="SECTION",
        help=f"which of {', '.join(SECTIONS)}",
    )
    parser.add_argument(
        "--targets",
        nargs="+",
        choices=["llm", "nginx", "relay", "chatbot"],
        metavar="TARGET",
        help="which of llm (nothing between), nginx, relay, chatbot",
    )
    parser.add_argument("--other", type=Path, help="another checkout of this server, beside it")
    parser.add_argument("--streams", type=int, nargs="+", help="how many at once (1 200 1000 5000)")
    parser.add_argument("--tokens", type=int, default=100, help="with --streams: of each (100)")
    parser.add_argument("--interval", type=float, help="with --streams: ms between them")
    parser.add_argument("--connections", type=int, help="that ask for whole turns at a time (32)")
    parser.add_argument("--turns", type=int, help="of the memory section (100000)")
    parser.add_argument("--sessions", type=int, help="of the sweep section (100000)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="every sample of every round")
    return parser.parse_args()


def plan_of(args: argparse.Namespace) -> Plan:
    plan = QUICK if args.quick else Plan()
    targets = list(NAMES)
    if args.targets:
        targets = [n for n in NAMES if n in args.targets or ("llm" in args.targets and n == NAMES[0])]
    changes = {
        "rounds": args.rounds,
        "patience": args.patience,
        "targets": [*targets, *(["other"] if args.other else [])],
        "other": args.other and args.other.resolve(),
        # 10,000 tokens a second in all, but no stream faster than 50.
        "loads": args.streams
        and tuple(Load(n, args.tokens, args.interval or max(20, n / 10)) for n in sorted(args.streams)),
        "connections": args.connections,
        "memory_turns": args.turns,
        "idle_sessions": args.sessions,
    }
    return dataclasses.replace(plan, **{k: v for k, v in changes.items() if v is not None})


def main() -> int:
    args = arguments()
    plan = plan_of(args)
    files = raise_file_limit()
    needed = 2 * max(load.streams for load in plan.loads) + 200
    if "streams" in args.only and files < needed:
        print(f"ulimit -n is {files}, and this load needs {needed}", file=sys.stderr)
        return 2
    print(f"{machine()}.\nMedians of {plan.rounds} rounds, with the targets in turn in each;", end=" ")
    print("a ratio is the median of the ratios within each round.", end="\n\n")
    if not loop.FAST:
        print("uvloop is not installed: the load and the LLM run on asyncio and cost more.\n")
    if NGINX is None:
        print("nginx is not installed: it is left out.\n")
    tables: list[Table] = []
    failed: list[str] = []
    for name in args.only:
        try:
            found = SECTIONS[name](plan)
        except (BenchError, OSError) as error:
            failed.append(f"{name}: {error or 'not done in time'}")
            continue
        progress("")
        for table in found:
            print(table.markdown(), end="\n\n", flush=True)
            failed += table.errors
        tables += found
    if args.json:
        record = {"machine": machine(), "tables": [vars(table) for table in tables]}
        args.json.write_text(json.dumps({**record, "errors": failed}, indent=1))
    for failure in failed:
        print(f"error: {failure}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
