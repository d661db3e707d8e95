"""Runs a client's steps, each on its own, and says how many of them work."""

from __future__ import annotations

import asyncio
import inspect
import os
import sys
import traceback
from collections.abc import Callable

BASE_URL = os.environ["BASE_URL"]


def run(steps: list[Callable[[], object]], client: str) -> None:
    works, loop = 0, asyncio.Runner()
    for step in steps:
        try:
            done = step()
            if inspect.iscoroutine(done):
                loop.run(done)
            works += 1
        except Exception:
            print(f"FAILED {client}: {step.__name__}", file=sys.stderr)
            traceback.print_exc()
    print(f"{client}: {works} of {len(steps)} steps work")
    sys.exit(works != len(steps))
