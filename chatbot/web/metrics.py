"""Counts what happens, for Prometheus. Nothing of it is on the path of a token.

The names are those of OpenTelemetry's conventions for HTTP and GenAI where there is one, else chatbot_….
Label values are bounded: methods, routes, statuses, codes, and at most MAX_VALUES models and kinds.
"""

from __future__ import annotations

import asyncio
import json
from bisect import bisect_left
from collections.abc import Callable
from typing import Any

from aiohttp import web

from chatbot import __version__
from chatbot.chat.reply import Reply

MAX_VALUES = 20
OTHER = "_OTHER"

_HTTP = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_REPLY = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_FIRST = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_EACH = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
_TOKENS = tuple(float(4**power) for power in range(14))
_LAG = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_ENDS = ("stop", "length", "tool_calls", "content_filter", "cancelled", "refusal")
_METHODS = ("GET", "HEAD", "POST", "PATCH", "DELETE", "OPTIONS")

Labels = dict[str, str]


def _shown(labels: Labels) -> str:
    pairs = ",".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in labels.items())
    return f"{{{pairs}}}" if pairs else ""


class Family:
    """One metric with all its series: a counter, or with `bounds` a histogram."""

    def __init__(self, name: str, wants: str, bounds: tuple[float, ...] = ()) -> None:
        self._name, self._help, self._bounds = name, wants, bounds
        self._series: dict[tuple[tuple[str, str], ...], list[float]] = {}
        self._values: dict[str, set[str]] = {}

    def add(self, value: float = 1.0, bounded: Labels | None = None, **labels: str) -> None:
        """Counts one event; of the labels that are `bounded` only so many values are told apart."""
        for name, given in (bounded or {}).items():
            known = self._values.setdefault(name, set())
            if len(known) < MAX_VALUES:
                known.add(given)
            labels[name] = given if given in known else OTHER
        series = self._series.setdefault(tuple(labels.items()), [0.0] * (len(self._bounds) + 2))
        series[-1] += value
        if self._bounds:
            series[bisect_left(self._bounds, value)] += 1

    def lines(self) -> list[str]:
        """The metric as Prometheus reads it."""
        name, kind = self._name, "histogram" if self._bounds else "counter"
        found = [f"# HELP {name} {self._help}", f"# TYPE {name} {kind}"]
        for pairs, series in self._series.items():
            labels = dict(pairs)
            if not self._bounds:
                found.append(f"{name}{_shown(labels)} {series[-1]:.15g}")
                continue
            count = 0.0
            for bound, number in zip([*self._bounds, float("inf")], series, strict=False):
                count += number
                le = {"le": "+Inf" if bound == float("inf") else f"{bound:g}"}
                found.append(f"{name}_bucket{_shown(labels | le)} {count:.15g}")
            found.append(f"{name}_count{_shown(labels)} {count:.15g}")
            found.append(f"{name}_sum{_shown(labels)} {series[-1]:.15g}")
        return found


class Metrics:
    """All metrics, and the handler that shows them; `clock` is the wall clock in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._gauges: list[tuple[str, str, str, Callable[[], float]]] = []
        self._families: list[Family] = []
        self._requests = self._family("http_server_request_duration_seconds", "Requests, until sent.", _HTTP)
        self._replies = self._family("gen_ai_server_request_duration_seconds", "Replies, in all.", _REPLY)
        self._first = self._family(
            "gen_ai_server_time_to_first_token_seconds", "From the question to the first characters.", _FIRST
        )
        self._each = self._family(
            "gen_ai_server_time_per_output_token_seconds", "Of each token after the first.", _EACH
        )
        self._tokens = self._family(
            "gen_ai_client_token_usage", "Tokens of a reply, as the LLM counts.", _TOKENS
        )
        self._ends = self._family("chatbot_replies_total", "Replies by how they ended.")
        self._failures = self._family("chatbot_llm_failures_total", "Failures of the LLM by kind.")
        self._lag = self._family("chatbot_event_loop_lag_seconds", "How late a timer of one second is.", _LAG)

    def _family(self, name: str, wants: str, bounds: tuple[float, ...] = ()) -> Family:
        self._families.append(Family(name, wants, bounds))
        return self._families[-1]

    def watch(self, name: str, wants: str, read: Callable[[], float]) -> None:
        """Shows what `read` returns: a counter if the name ends in _total, else a gauge."""
        kind = "counter" if name.endswith("_total") else "gauge"
        self._gauges.append((name, wants, kind, read))

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Registers the route."""
        router.add_get("/metrics", self.metrics)

    async def metrics(self, request: web.Request) -> web.StreamResponse:
        """Handle "GET /metrics": all metrics in Prometheus's text format."""
        lines = ["# HELP chatbot_info Which version runs.", "# TYPE chatbot_info gauge"]
        lines.append(f'chatbot_info{{version="{__version__}"}} 1')
        for name, wants, kind, read in self._gauges:
            lines += [f"# HELP {name} {wants}", f"# TYPE {name} {kind}", f"{name} {read():.15g}"]
        for family in self._families:
            lines += family.lines()
        text = "\n".join([*lines, ""])
        headers = {"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        return web.Response(body=text.encode(), headers=headers)

    def request_ended(self, method: str, route: str, status: int, seconds: float) -> None:
        """Counts a request whose answer was sent, or whose client has left."""
        self._requests.add(
            seconds,
            http_request_method=method if method in _METHODS else OTHER,
            http_route=route,
            http_response_status_code=str(status),
        )

    def reply_ended(self, reply: Reply) -> None:
        """Counts a reply that has ended, with what the LLM said of its tokens."""
        model = {"gen_ai_request_model": reply.model}
        seconds = max(0.0, self._clock() - reply.created_at / 1000)
        end = reply.error.code if reply.error else reply.finish_reason
        self._ends.add(end=end if end and (reply.error or end in _ENDS) else OTHER)
        if reply.error and reply.error.code.startswith(("llm_", "context_")):
            self._failures.add(bounded={"kind": reply.error.kind})
        self._replies.add(seconds, model)
        usage = json.loads(reply.usage) if reply.usage else {}
        output = _count(usage, "completion_tokens")
        for kind, count in (
            ("input", _count(usage, "prompt_tokens")),
            ("cached", _count(usage.get("prompt_tokens_details"), "cached_tokens")),
            ("output", output),
            ("reasoning", _count(usage.get("completion_tokens_details"), "reasoning_tokens")),
        ):
            if count:
                self._tokens.add(count, model, gen_ai_token_type=kind)
        if reply.first_token_ms is not None:
            first = reply.first_token_ms / 1000
            self._first.add(first, model)
            if output > 1:
                self._each.add(max(0.0, seconds - first) / (output - 1), model)

    async def watch_event_loop(self) -> None:
        """Measures the event loop's lag until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            await asyncio.sleep(1)
            self._lag.add(max(0.0, loop.time() - began - 1))


def _count(usage: Any, name: str) -> float:
    value = usage.get(name) if isinstance(usage, dict) else None
    return float(value) if isinstance(value, int | float) and 0 < value < 2**53 else 0.0
