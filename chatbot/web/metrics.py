"""Collects metrics for Prometheus. None of this code runs on the path of a token.

A metric has its name in OpenTelemetry's conventions for HTTP and GenAI if they have one, else chatbot_….
Labels are bounded: methods, routes, statuses and codes are ours, and a metric has at most MAX_SERIES series.
"""

from __future__ import annotations

import asyncio
import json
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from aiohttp import web

from chatbot import __version__
from chatbot.chat.reply_source import Outcome

MAX_SERIES = 500
OTHER = "_OTHER"

_METHODS = ("GET", "HEAD", "POST", "PATCH", "DELETE", "OPTIONS")
_ENDS = ("stop", "length", "tool_calls", "content_filter", "cancelled")
_HTTP = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_REPLY = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_FIRST = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_EACH = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
_TOKENS = tuple(float(4**power) for power in range(14))
_LAG = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_MODEL = ("gen_ai_request_model",)
_REQUEST = ("http_request_method", "http_route", "http_response_status_code")

_COUNTED: dict[str, tuple[str, tuple[str, ...], Sequence[float]]] = {
    # name: what it is, its labels, the bounds of its buckets (none: a counter)
    "http_server_request_duration_seconds": ("How long requests took.", _REQUEST, _HTTP),
    "gen_ai_server_request_duration_seconds": ("How long replies took in all.", _MODEL, _REPLY),
    "gen_ai_server_time_to_first_token_seconds": ("Wait for their first token.", _MODEL, _FIRST),
    "gen_ai_server_time_per_output_token_seconds": ("How long each further token took.", _MODEL, _EACH),
    "gen_ai_client_token_usage": ("Tokens that the LLM counts.", (*_MODEL, "gen_ai_token_type"), _TOKENS),
    "chatbot_replies_total": ("Replies by how they ended.", ("end",), ()),
    "chatbot_llm_failures_total": ("Failures of the LLM by kind.", ("kind",), ()),
    "chatbot_event_loop_lag_seconds": ("How late a timer of one second is.", (), _LAG),
}


class Family:
    """One metric, with a series for each combination of label values; with bounds it is a histogram."""

    def __init__(
        self, name: str, wants: str, labels: tuple[str, ...] = (), bounds: Sequence[float] = ()
    ) -> None:
        self._name, self._help, self._labels, self._bounds = name, wants, labels, bounds
        self._series: dict[tuple[str, ...], list[float]] = {}  # the buckets' counts, and last the sum

    def add(self, value: float, *labels: str) -> None:
        """Counts one observation; once there are MAX_SERIES series, OTHER replaces new label values."""
        series = self._series.get(labels)
        if series is None:
            if len(self._series) >= MAX_SERIES:
                labels = (OTHER,) * len(labels)
            series = self._series.setdefault(labels, [0.0] * (len(self._bounds) + 2))
        series[-1] += value
        if self._bounds:
            series[bisect_left(self._bounds, value)] += 1

    def lines(self) -> Iterator[str]:
        """Yields the lines of the metric in Prometheus's text format."""
        name = self._name
        yield f"# HELP {name} {self._help}"
        yield f"# TYPE {name} {'histogram' if self._bounds else 'counter'}"
        for values, series in self._series.items():
            pairs = [
                f'{label}="{_escaped(value)}"' for label, value in zip(self._labels, values, strict=True)
            ]
            labels = f"{{{','.join(pairs)}}}" if pairs else ""
            if not self._bounds:
                yield f"{name}{labels} {series[-1]:.15g}"
                continue
            count = 0.0
            for bound, number in zip([*map("{:.15g}".format, self._bounds), "+Inf"], series, strict=False):
                count += number
                with_bound = ",".join([*pairs, f'le="{bound}"'])
                yield f"{name}_bucket{{{with_bound}}} {count:.15g}"
            yield f"{name}_count{labels} {count:.15g}"
            yield f"{name}_sum{labels} {series[-1]:.15g}"


def _escaped(value: str) -> str:
    """A label's value; Prometheus knows these escapes and no others."""
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


class Metrics:
    """All metrics, and the handler that shows them; `clock` is the wall clock in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._gauges: list[tuple[str, str, Callable[[], float]]] = []
        self._families = {name: Family(name, *about) for name, about in _COUNTED.items()}

    def _count(self, name: str, value: float, *labels: str) -> None:
        self._families[name].add(value, *labels)

    def watch(self, name: str, wants: str, read: Callable[[], float]) -> None:
        """Adds a metric whose value `read` returns: a counter if its name ends in _total, else a gauge."""
        self._gauges.append((name, wants, read))

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Registers the route."""
        router.add_get("/metrics", self.metrics)

    async def metrics(self, request: web.Request) -> web.StreamResponse:
        """Handle "GET /metrics": all metrics in Prometheus's text format."""
        lines = ["# HELP chatbot_info Which version runs.", "# TYPE chatbot_info gauge"]
        lines.append(f'chatbot_info{{version="{__version__}"}} 1')
        for name, wants, read in self._gauges:
            kind = "counter" if name.endswith("_total") else "gauge"
            lines += [f"# HELP {name} {wants}", f"# TYPE {name} {kind}", f"{name} {read():.15g}"]
        for family in self._families.values():
            lines += family.lines()
        text = "\n".join([*lines, ""])
        headers = {"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        return web.Response(body=text.encode(), headers=headers)

    def request_ended(self, method: str, route: str, status: int, seconds: float) -> None:
        """Counts a request whose answer was sent, or whose client has left."""
        method = method if method in _METHODS else OTHER
        self._count("http_server_request_duration_seconds", seconds, method, route, str(status))

    def reply_ended(self, reply: Outcome) -> None:
        """Counts a reply that has ended (of a session or relayed), and the tokens that the LLM reported."""
        model, error = reply.model, reply.error
        seconds = max(0.0, self._clock() - reply.created_at / 1000)
        self._count("gen_ai_server_request_duration_seconds", seconds, model)
        end = error.code if error else reply.finish_reason or OTHER
        self._count("chatbot_replies_total", 1, end if error or end in _ENDS else OTHER)
        if error and error.code.startswith(("llm_", "context_")):
            self._count("chatbot_llm_failures_total", 1, error.kind)
        counts = _token_counts(reply.usage)
        for kind, count in counts.items():
            self._count("gen_ai_client_token_usage", count, model, kind)
        if reply.first_token_ms is not None:
            first = reply.first_token_ms / 1000
            self._count("gen_ai_server_time_to_first_token_seconds", first, model)
            if (output := counts.get("output", 0)) > 1:
                each = max(0.0, seconds - first) / (output - 1)
                self._count("gen_ai_server_time_per_output_token_seconds", each, model)

    async def watch_event_loop(self) -> None:
        """Measures the event loop's lag until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            await asyncio.sleep(1)
            self._count("chatbot_event_loop_lag_seconds", max(0.0, loop.time() - began - 1))


def _token_counts(usage: str | None) -> dict[str, float]:
    """How many tokens of each kind the LLM counted."""
    found: Any = json.loads(usage) if usage else {}
    counts = {}
    for kind, within, name in (
        ("input", None, "prompt_tokens"),
        ("cached", "prompt_tokens_details", "cached_tokens"),
        ("output", None, "completion_tokens"),
        ("reasoning", "completion_tokens_details", "reasoning_tokens"),
    ):
        part = found.get(within) if within else found
        count = part.get(name) if isinstance(part, dict) else None
        if isinstance(count, int | float) and 0 < count < 2**53:
            counts[kind] = float(count)
    return counts
