"""Sets up the process: its limit of open files, its memory, its signals, its threads."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import resource
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

log = logging.getLogger(__name__)

RESERVED_FILES = 64
"""Files that are open besides connections: the database, the log, the listening sockets, and some spare."""

GIVE_BACK_SECONDS = 2.0
"""How often free memory is given back to the system."""

_M_MMAP_THRESHOLD = -3  # mallopt(3)

SURPLUS = 32
"""How many connections beyond the limit are accepted, in order to answer that there are too many."""


def raise_file_limit() -> int:
    """Raises the limit of open files to the most that the system allows. Returns the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (ValueError, OSError) as error:
        log.warning("the limit of %d open files stays: %s", soft, error)
        return soft
    return hard


def connection_limit(files: int) -> int:
    """How many client connections can be served with so many open files. Each may need one to the LLM."""
    if files == resource.RLIM_INFINITY:
        return 1_000_000
    return max(1, (files - RESERVED_FILES - SURPLUS) // 2)


def on_stop_signal(call: Callable[[], None]) -> None:
    """Calls `call` for each SIGINT, SIGTERM and SIGHUP. SIGHUP stays ignored if it was ignored (nohup)."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            loop.add_signal_handler(number, call)


class Threads(ThreadPoolExecutor):
    """Runs each call in a thread of its own. The end of the process does not wait for the threads.

    The event loop looks up host names in them, which can take minutes if no name server answers.
    """

    def submit(self, call: Callable[..., Any], /, *args: Any, **named: Any) -> Future[Any]:
        """Starts a call."""
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()

        def run() -> None:
            try:
                future.set_result(call(*args, **named))
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=run, daemon=True).start()
        return future


def tune_memory() -> None:
    """Tunes the allocator and the garbage collector for a process that runs for a long time.

    glibc gets each large block from the system, and gives it back. asyncio reads into a new block of 256 KiB
    each time, which must not count as large. A body of megabytes must, or the process would keep its memory.

    Imported objects never become garbage, so they are frozen and not scanned again. A turn makes hundreds of
    objects, which live as long as the turn and have no cycles. With its default thresholds, the collector
    would scan hundreds of running turns again and again, and find nothing.
    """
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.mallopt(_M_MMAP_THRESHOLD, 1024 * 1024)
        _give_back(asyncio.get_running_loop(), libc)
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 5, 50)


def _give_back(loop: asyncio.AbstractEventLoop, libc: ctypes.CDLL) -> None:
    """Gives back, periodically, the memory that large replies leave free between small live objects."""
    libc.malloc_trim(0)
    loop.call_later(GIVE_BACK_SECONDS, _give_back, loop, libc)
