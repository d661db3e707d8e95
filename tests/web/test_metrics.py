"""GET /metrics: what happened, in Prometheus's text format, with bounded labels."""

from __future__ import annotations

import re

from chatbot.web.metrics import MAX_SERIES, OTHER, Family
from tests.tools.scripted_llm import DONE, END, ScriptedLLM, answer, delta, events
from tests.tools.server import Running, StartServer

LINE = re.compile(r'([a-z_]+)(\{(?:[a-z_]+="(?:[^"\\]|\\.)*",?)+\})? (\+Inf|-?[\d.e+-]+)')
USAGE = (
    b'data: {"choices":[],"usage":{"prompt_tokens":100,"completion_tokens":7,"total_tokens":107,'
    b'"prompt_tokens_details":{"cached_tokens":80},"completion_tokens_details":{"reasoning_tokens":3}}}\n\n'
)


async def metrics(server: Running) -> dict[str, float]:
    async with server.http.get(server.url + "/metrics") as response:
        assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        text = await response.text()
    found = {}
    for line in text.splitlines():
        if not line.startswith("# "):
            match = LINE.fullmatch(line)
            assert match, line
            name, labels, value = match.groups()
            found[name + (labels or "")] = float(value)
    return found


async def test_a_chat_is_counted_with_its_tokens_times_and_end(server: Running, llm: ScriptedLLM) -> None:
    llm.play([*events(delta("Hel"), delta("lo"), delta(finish="stop"), USAGE, DONE), END])
    assert (await server.chat(await server.session()))[0] == 200
    found = await metrics(server)
    model = '{gen_ai_request_model="m"}'
    assert found['chatbot_replies_total{end="stop"}'] == 1
    for kind, count in {"input": 100, "cached": 80, "output": 7, "reasoning": 3}.items():
        labels = f'{{gen_ai_request_model="m",gen_ai_token_type="{kind}"}}'
        assert found[f"gen_ai_client_token_usage_sum{labels}"] == count
        assert found[f"gen_ai_client_token_usage_count{labels}"] == 1
    for name in ("request_duration", "time_to_first_token", "time_per_output_token"):
        assert found[f"gen_ai_server_{name}_seconds_count{model}"] == 1
    labels = 'http_request_method="POST",http_route="/api/chat",http_response_status_code="200"'
    assert found[f"http_server_request_duration_seconds_count{{{labels}}}"] == 1
    assert found[f'http_server_request_duration_seconds_bucket{{{labels},le="+Inf"}}'] == 1
    assert found["chatbot_sessions"] == 1
    assert found["chatbot_replies_running"] == 0


async def test_failures_and_foreign_words_are_counted_under_bounded_names(
    server: Running, llm: ScriptedLLM
) -> None:
    llm.play(answer("500 No"))
    assert (await server.chat(await server.session()))[0] == 502
    for method, path in (("BREW", "/a"), ("GET", "/b"), ("GET", "/c")):
        await server.call(method, path)
    found = await metrics(server)
    assert found['chatbot_replies_total{end="llm_error"}'] == 1
    assert sum(value for name, value in found.items() if name.startswith("chatbot_llm_failures_total")) == 1
    prefix = "http_server_request_duration_seconds_count"
    assert found[f'{prefix}{{http_request_method="GET",http_route="-",http_response_status_code="404"}}'] == 2


async def test_a_name_that_a_client_makes_up_is_a_label_and_not_a_long_one(
    server: Running, llm: ScriptedLLM
) -> None:
    llm.play(answer("500 No"))
    name = 'a\t"\\\n' + "é" * 100_000
    assert (await server.chat(await server.session(), model=name))[0] == 502
    label = '{gen_ai_request_model="a\t\\"\\\\\\n' + "é" * 251 + '"}'
    assert (await metrics(server))["gen_ai_server_request_duration_seconds_count" + label] == 1


def test_no_metric_has_series_without_bound() -> None:
    family = Family("x", "…", ("model",))
    for number in range(MAX_SERIES + 100):
        family.add(1, f"model {number}")
    lines = [line for line in family.lines() if not line.startswith("#")]
    assert len(lines) == MAX_SERIES + 1
    assert lines[-1] == f'x{{model="{OTHER}"}} 100'


async def test_the_key_is_wanted(start: StartServer) -> None:
    server = await start(api_keys=("k",))
    assert (await server.call("GET", "/metrics"))[0] == 401
