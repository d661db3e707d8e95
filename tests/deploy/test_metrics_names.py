"""The dashboard and the alerts ask only for what /metrics has after a real run; Prometheus can read it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Mapping

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from chatbot.errors import TooLong
from chatbot.llm import errors
from tests.deploy.recipes import PATH
from tests.tools.processes import ROOT
from tests.tools.scripted_llm import DONE, END, ScriptedLLM, answer, delta, events
from tests.tools.server import Clock, Running

FROM_PROMETHEUS = {"up", "job", "instance"}
FUNCTIONS = {"sum", "min", "rate", "increase", "histogram_quantile", "predict_linear", "by", "or"}
DASHBOARD = ROOT / "deploy/grafana.json"
ALERTS = ROOT / "deploy/alerts.yaml"


def expressions() -> list[str]:
    """All that the dashboard and the alerts ask Prometheus for."""
    dashboard = json.loads(DASHBOARD.read_text("utf-8"))
    found = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    found += [one["query"] for one in dashboard["templating"]["list"] if one["name"] != "source"]
    rules = yaml.safe_load(ALERTS.read_text("utf-8"))["groups"][0]["rules"]
    return found + [rule["expr"] for rule in rules]


def words(expression: str) -> set[str]:
    """The metrics and labels that an expression names."""
    bare = re.sub(r'"[^"]*"|\[[^\]]*\]|label_values', "", expression)
    return set(re.findall(r"(?<![\w.])[a-z_]\w*", bare)) - FUNCTIONS


async def metrics(server: Running) -> str:
    async with server.http.get(f"{server.url}/metrics") as response:
        assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        return await response.text()


@pytest.fixture
async def text(server: Running, llm: ScriptedLLM, clock: Clock) -> str:
    """/metrics after some replies, one of which failed, and after the event loop was watched once."""
    session = await server.session()
    await server.chat(session)
    counted = b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":2}}\n\n'
    llm.play([*events(delta("a"), delta("b", "stop"), counted, DONE), END])
    stream = await server.stream(session)
    await stream.rest()
    llm.play(answer("500 Internal Server Error", {"error": {"message": "no"}}))
    assert (await server.chat(session))[0] == 502
    clock.advance(1)
    while "event_loop_lag_seconds_bucket" not in await metrics(server):
        pass
    return await metrics(server)


def names(text: str) -> Mapping[str, set[str]]:
    """Each name of a sample, with its labels."""
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


async def test_only_what_exists_is_asked_for(text: str) -> None:
    known = names(text)
    everything = {*known, *FROM_PROMETHEUS, *(label for labels in known.values() for label in labels)}
    for expression in expressions():
        assert words(expression) <= everything, expression
        assert words(expression) & {*known, "up"}, f"no metric is named: {expression}"


async def test_every_metric_is_on_the_dashboard_or_is_about_it(text: str) -> None:
    asked = {word for expression in expressions() for word in words(expression)}
    for family in text_string_to_metric_families(text):
        assert asked & {sample.name for sample in family.samples}, f"nobody looks at {family.name}"


async def test_the_text_is_what_prometheus_reads(text: str) -> None:
    for family in text_string_to_metric_families(text):
        assert family.type in ("counter", "gauge", "histogram")
        assert family.documentation or family.name == "chatbot_info"
        series = [(sample.name, tuple(sorted(sample.labels.items()))) for sample in family.samples]
        assert len(series) == len(set(series)), f"{family.name} says something twice"
    for family in text_string_to_metric_families(text):
        if family.type == "histogram":
            all_in = [s.value for s in family.samples if s.labels.get("le") == "+Inf"]
            assert all_in == [s.value for s in family.samples if s.name.endswith("_count")], family.name


def test_promtool_finds_no_fault(text: str) -> None:
    promtool = shutil.which("promtool", path=PATH) or pytest.skip("promtool is not installed")
    subprocess.run([promtool, "check", "metrics"], input=text, text=True, check=True)
    subprocess.run([promtool, "check", "rules", ALERTS], check=True)


def test_there_are_five_alerts_and_each_says_what_it_means() -> None:
    rules = yaml.safe_load(ALERTS.read_text("utf-8"))["groups"][0]["rules"]
    assert len(rules) == 5
    kinds = re.search(r'kind!~"([a-z_|]+)"', rules[1]["expr"])
    assert kinds, "what a client asked wrongly is counted"
    known = {line[0] for line in errors._TABLE} | set(errors._OURS) | {TooLong("", "").kind}
    assert set(kinds[1].split("|")) <= known
    operate = (ROOT / "docs/operate.md").read_text("utf-8")
    for rule in rules:
        assert rule["annotations"]["summary"]
        assert rule["alert"] in operate, "docs/operate.md says what to do when it fires"
