"""Runs the instruments: on uvloop where it is installed, and without garbage collection.

Only the instruments: the server and the relay run as their users run them.
"""

import asyncio
import gc
import importlib.metadata
import importlib.util
from collections.abc import Coroutine
from typing import Any

FAST = importlib.util.find_spec("uvloop") is not None
NAME = f"uvloop {importlib.metadata.version('uvloop')}" if FAST else "asyncio"


def run(main: Coroutine[Any, Any, Any], limit: float | None = None) -> Any:
    """Returns what `main` does; TimeoutError after `limit` seconds, for a server that hangs."""
    runner: Any = importlib.import_module("uvloop") if FAST else asyncio
    gc.collect()
    gc.disable()  # a pause of the instrument must not look like one of the server
    try:
        return runner.run(asyncio.wait_for(main, limit))
    finally:
        gc.enable()
