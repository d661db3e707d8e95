"""Every object and event is what openai-python's own types say it is, in strict mode."""

from __future__ import annotations

import json
from typing import Any

import pytest

from chatbot.errors import ChatError
from chatbot.openai.events import ResponseEncoder
from chatbot.openai.requests import read_question
from tests.openai.replies import MESSAGE, Source, parse, play, response, text
from tests.openai.test_events import ALL_KINDS

pytest.importorskip("openai", reason="the extra `clients` is not installed")
pydantic = pytest.importorskip("pydantic")

from openai.types.responses import Response, ResponseStreamEvent  # noqa: E402

FORMAT = {"type": "json_schema", "name": "n", "schema": {"type": "object"}}
ALLOWED = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]}
ASKED: list[dict[str, Any]] = [
    {},
    {"background": True, "model": "m"},
    {
        "conversation": "conv_1b4e28ba2fa14d2e883f0016d3cca427",
        "instructions": "Be short.",
        "metadata": {"a": "b"},
        "reasoning": {"effort": "low", "summary": "auto"},
        "temperature": 0.5,
        "text": {"format": FORMAT | {"strict": True}},
        "tool_choice": {"type": "function", "name": "f"},
        "tools": [{"type": "function", "name": "f", "parameters": {}, "strict": True, "description": None}],
    },
    {
        "reasoning": {},
        "text": {"format": FORMAT | {"strict": None}, "verbosity": None},
        "tool_choice": ALLOWED,
        "tools": [{"type": "function", "name": "f"}],
    },
    {"tool_choice": {name: ALLOWED[name] for name in ("type", "tools")}},
]
REQUIRED = {
    "response": (
        *("id", "object", "created_at", "completed_at", "status"),
        *("incomplete_details", "model", "previous_response_id", "instructions", "output"),
        *("error", "tools", "tool_choice", "truncation", "parallel_tool_calls"),
        *("text", "top_p", "presence_penalty", "frequency_penalty", "top_logprobs"),
        *("temperature", "reasoning", "usage", "max_output_tokens", "max_tool_calls"),
        *("store", "background", "service_tier", "metadata", "safety_identifier"),
        *("prompt_cache_key",),
    ),
    "message": ("id", "status", "role", "content"),
    "function_call": ("id", "call_id", "name", "arguments", "status"),
    "reasoning": ("id", "status", "summary"),
    "output_text": ("text", "annotations", "logprobs"),
    "json_schema": ("name", "description", "schema", "strict"),
    "allowed_tools": ("tools", "mode"),
}
"""What the Open Responses specification requires: of a response, and of what has one of these types."""


def require_all(value: Any) -> None:
    """Nothing that the specification requires is missing from an event, or from what it holds."""
    if isinstance(value, dict):
        type_ = "response" if value.get("object") == "response" else value.get("type")
        assert set(REQUIRED.get(type_, ())) <= set(value), value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        require_all(inner)


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("finish", ["stop", "length", "cancelled"])
def test_every_event_is_one_of_openai_python(asked: dict[str, Any], finish: str):
    question = read_question({"input": "Hi"} | asked, lambda item_id, param: {})
    events, _ = play(ALL_KINDS, finish, **json.loads(question.response or ""))
    adapter = pydantic.TypeAdapter(ResponseStreamEvent)
    for event in events:
        known = adapter.validate_python(event, strict=True)
        assert type(known).model_fields["type"].annotation.__args__ == (event["type"],), event
        require_all(event)
    for tool in events[-1]["response"]["tools"]:
        assert {"type", "name", "description", "parameters", "strict"} <= set(tool)


@pytest.mark.parametrize("code", ["llm_error", "llm_rate_limited", "context_too_long", "reply_cancelled"])
def test_a_failed_response_is_one_of_openai_python(code: str):
    source = Source(ended=True, error=ChatError(code, "It did not work."))
    source.log.append([text("Hel")])
    event = parse(ResponseEncoder(response(source)).error(source.error))[-1]
    pydantic.TypeAdapter(ResponseStreamEvent).validate_python(event, strict=True)
    Response.model_validate(event["response"], strict=True)
    assert event["response"]["output"][0]["content"][0]["text"] == "Hel"
    expected = "cancelled" if code == "reply_cancelled" else "failed"
    assert event["response"]["status"] == expected
    assert (event["type"] == "response.failed") is (expected == "failed")


def test_a_response_that_waits_is_one_of_openai_python():
    source = Source(context_messages=0)
    queued = response(source, background=True).to_object()
    Response.model_validate(queued, strict=True)
    assert queued["status"] == "queued"
    assert MESSAGE not in str(queued)
