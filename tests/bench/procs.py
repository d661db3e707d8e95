"""Starts processes on free ports, waits until they answer, and reads what they cost."""

import os
import resource
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from tests.tools.processes import ROOT
from tests.tools.processes import free_port as free_port  # for tests/real

PAGE = os.sysconf("SC_PAGE_SIZE")


class BenchError(Exception):
    """Something did not do its part: the run has no result."""


def raise_file_limit() -> int:
    """Lets this process and its children open as many files as the kernel allows them."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


class Process:
    """A server under measurement, in a process of its own; `with` stops it.

    Its output goes to a file, so that a full pipe never holds it up, and is shown if it fails.
    """

    def __init__(
        self,
        name: str,
        argv: list[str],
        port: int,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.name, self.port = name, port
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 (stop() closes it)
        self.started = time.perf_counter()
        self.popen = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            cwd=cwd or ROOT,
            # Nothing of the caller's own configuration reaches what is measured.
            env={"PATH": os.environ.get("PATH", ""), "PYTHONPATH": str(ROOT), **(env or {})},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def stop(self) -> None:
        self.popen.terminate()
        try:
            self.popen.wait(20)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
        self.log.close()

    def connect(self, timeout: float = 20) -> socket.socket:
        """Returns the first connection the process accepts."""
        end = time.perf_counter() + timeout
        while True:
            if self.popen.poll() is not None:
                raise self.ended()
            try:
                return socket.create_connection(("127.0.0.1", self.port), 1)
            except OSError:
                if time.perf_counter() > end:
                    raise BenchError(f"{self.name} does not listen{self.tail()}") from None
                time.sleep(0.001)

    def wait_ready(self) -> Self:
        try:
            self.connect().close()
        except BenchError:
            self.stop()
            raise
        return self

    def ended(self) -> BenchError:
        return BenchError(f"{self.name} ended with {self.popen.poll()}{self.tail()}")

    def tail(self) -> str:
        """What it said last, to be put under an error."""
        self.log.seek(0)
        lines = self.log.read().decode(errors="replace").splitlines()[-15:]
        return "".join(f"\n    | {line}" for line in lines)

    def family(self) -> list[int]:
        """The process and its children: nginx works in one."""
        pid = self.popen.pid
        if self.popen.poll() is not None:
            raise self.ended()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [pid, *map(int, children)]

    def cpu_ns(self) -> int:
        """Nanoseconds of CPU since its start, by the scheduler's accounting.

        This is the kernel's CPU clock of a process (what clock_getcpuclockid returns): the sum of
        the schedstat of its threads, but up to date within a tick and with ended threads counted.
        """
        return sum(time.clock_gettime_ns((~pid << 3) | 2) for pid in self.family())

    def rss(self) -> int:
        """Bytes of memory that are in use now."""
        return sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE for pid in self.family())


def machine_ns() -> int:
    """Nanoseconds for which the cores were busy since boot, whoever used them; 10 ms exact."""
    with open("/proc/stat") as f:
        user, nice, system, _idle, _wait, *interrupts = map(int, f.readline().split()[1:9])
    ticks = user + nice + system + sum(interrupts)
    return ticks * 1_000_000_000 // os.sysconf("SC_CLK_TCK")
