"""What the process asks of the system: open files, memory, signals."""

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
"""What is open besides connections: the database, the log, the sockets that listen, and some spare."""

GIVE_BACK_SECONDS = 2.0
"""How often memory that is free goes back to the system."""

_M_MMAP_THRESHOLD = -3  # mallopt(3)

SURPLUS = 32
"""How many connections beyond the limit are told that there are too many."""


def raise_file_limit() -> int:
    """Allows as many open files as the system lets us have; returns how many that is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (ValueError, OSError) as error:
            log.warning("the limit of %d open files stays: %s", soft, error)
            return soft
    return hard


def connection_limit(files: int) -> int:
    """How many connections of clients are served with so many open files: each may need one to the LLM."""
    if files == resource.RLIM_INFINITY:
        return 1_000_000
    return max(1, (files - RESERVED_FILES - SURPLUS) // 2)


def on_stop_signal(call: Callable[[], None]) -> None:
    """Has `call` called for each signal that ends a process; SIGHUP stays ignored where it was (nohup)."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            loop.add_signal_handler(number, call)


class Threads(ThreadPoolExecutor):
    """Runs each call in a thread of its own, for which the end of the process does not wait.

    A name is looked up in one, which takes a minute or longer where no name server answers.
    """

    def submit(self, call: Callable[..., Any], /, *args: Any, **named: Any) -> Future[Any]:
        """Begins a call."""
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
    """Settles the allocator and the garbage collector for a process that runs for long.

    glibc maps large blocks into memory and out of it again. asyncio reads into a fresh block of 256 KiB each
    time, which must not be large; a body of megabytes must, or its memory would stay with the process.

    What has been imported never becomes garbage: frozen, it is not looked at again. A turn makes hundreds of
    objects that live as long as it does and no cycles: at its usual threshold the collector would look at
    hundreds of running turns, time and again, and find nothing.
    """
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.mallopt(_M_MMAP_THRESHOLD, 1024 * 1024)
        _give_back(asyncio.get_running_loop(), libc)
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 5, 50)


def _give_back(loop: asyncio.AbstractEventLoop, libc: ctypes.CDLL) -> None:
    """Gives back what large replies leave free between small things that live on, again and again."""
    libc.malloc_trim(0)
    loop.call_later(GIVE_BACK_SECONDS, _give_back, loop, libc)
