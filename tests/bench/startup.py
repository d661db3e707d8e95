"""How long a start takes: from exec to the first answered request."""

import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from .plan import Plan
from .procs import BenchError, Process
from .report import Sample, Table, progress
from .targets import start_chatbot, start_relay

IMPORT = "import aiohttp.web"


def section(plan: Plan) -> list[Table]:
    table = Table(
        "start-up", [("to the first answer, ms", "ms")], [("chatbot", IMPORT), ("chatbot", "relay")]
    )
    # The first of each compiles and fills the page cache: the price of an installation.
    for turn in range(plan.rounds * 2 + 1):
        progress(f"start-up {turn}")
        with TemporaryDirectory(prefix="bench-") as directory:
            found: dict[str, Sample] = {
                IMPORT: {"ms": importing()},
                "relay": {"ms": answering(start_relay(9), 404)},
                "chatbot": {"ms": answering(start_chatbot(9, Path(directory)), 200)},
            }
        for name, sample in found.items():
            if turn:
                table.add(name, sample)
    return [table]


def importing() -> float:
    """Until the import is over; what the interpreter does at its end is not waited for."""
    argv = [sys.executable, "-c", f"{IMPORT}; print(flush=True)"]
    begin = time.perf_counter()
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        took = (time.perf_counter() - begin) * 1e3
    if process.returncode:
        raise BenchError(f"{IMPORT}: exit code {process.returncode}")
    return took


def answering(process: Process, status: int) -> float:
    """Until GET /api/health has its answer (the relay's is that it knows no such thing)."""
    with process, process.connect() as connection:
        connection.sendall(b"GET /api/health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        answer = connection.recv(4096)
        took = (time.perf_counter() - process.started) * 1e3
        if not answer.startswith(b"HTTP/1.1 %d" % status):
            raise BenchError(f"{process.name} answered {answer[:200]!r}{process.tail()}")
        return took
