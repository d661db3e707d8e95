"""Runs a client's steps, each on its own, and says how many of them work."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable

BASE_URL = os.environ.get("BASE_URL", "http://127.0.0.1:18080/v1")


def run(steps: list[Callable[[], None]], client: str) -> None:
    works = 0
    for step in steps:
        try:
            step()
            works += 1
        except Exception:
            print(f"FAILED {client}: {step.__name__}", file=sys.stderr)
            traceback.print_exc()
    print(f"{client}: {works} of {len(steps)} steps work")
    sys.exit(works != len(steps))
