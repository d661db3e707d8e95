"""An LLM that does what it is told: calls tools, thinks, refuses, fails, goes on for ever."""

from __future__ import annotations

import json
from typing import Any

from tests.tools.scripted_llm import DONE, END, Abort, Hang, Step, answer, delta, events

USAGE = {"prompt_tokens": 11, "completion_tokens": 5, "total_tokens": 16}
USAGE["prompt_tokens_details"] = {"cached_tokens": 7}  # type: ignore[assignment]


def a_call(id_: str) -> dict[str, Any]:
    """A call without arguments, whole."""
    return {"index": 0, "id": id_, "type": "function", "function": {"name": "f", "arguments": "{}"}}


def clever(body: Any) -> list[Step]:
    """The script that a chat request gets: what its last message asks for."""
    messages = body["messages"]
    last = messages[-1]
    said = last["content"] if isinstance(last["content"], str) else json.dumps(last["content"])
    if last["role"] == "tool":
        return _stream(*_words(f"The tool says: {said}"))
    if "break" in said:
        return [*events(delta("It be"), delta("gins")), Abort]
    if "overload" in said:
        return answer("429 Too Many Requests", {"error": {"message": "slow down", "code": "rate_limit"}})
    if "overflow" in said:
        return answer("400 Bad Request", {"error": {"message": "5 > 4", "code": "context_length_exceeded"}})
    if "reject" in said:
        return answer("400 Bad Request", {"error": {"message": "bad temperature", "code": "invalid"}})
    if "for ever" in said:
        return events(delta("On "), delta("and "), delta("on"), Hang)
    if "be silent" in said:
        return events(Hang)
    if "think" in said:
        thoughts = [delta(reasoning_content=text) for text in ("Let ", "me ", "see.")]
        return _stream(*thoughts, *_words("I thought."))
    if "refuse" in said:
        return _stream(delta(refusal="I "), delta(refusal="won't."))
    if "too long" in said:
        return _stream(*_words("It was a dark and"), finish="length")
    if body.get("tools") and body.get("tool_choice") != "none" and "weather" in said:
        cities = ("Seoul", "Busan") if "two" in said else ("Seoul",)
        return _calls(*cities, name=body["tools"][0]["function"]["name"])
    if body.get("response_format"):
        return _stream(*(delta(text) for text in ('{"name":', '"Kim",', '"age":30}')))
    spoken = [m["content"] for m in messages if m["role"] == "user" and isinstance(m["content"], str)]
    return _stream(*_words(f"You said: {' / '.join(spoken)}"))


def _words(text: str) -> list[bytes]:
    first, *rest = text.split(" ")
    return [delta(first), *(delta(f" {word}") for word in rest)]


def _stream(*steps: Step, finish: str = "stop") -> list[Step]:
    usage = {"id": "c1", "choices": [], "usage": USAGE}
    ends = [delta(finish=finish), b"data: " + json.dumps(usage).encode() + b"\n\n", DONE]
    return [*events(delta("", role="assistant"), *steps, *ends), END]


def _calls(*cities: str, name: str) -> list[Step]:
    steps: list[Step] = []
    for number, city in enumerate(cities):
        head = {"index": number, "id": f"call_{number}", "type": "function"}
        steps.append(delta(tool_calls=[head | {"function": {"name": name, "arguments": ""}}]))
        parts = [{"index": number, "function": {"arguments": part}} for part in ('{"city":', f'"{city}"}}')]
        steps += [delta(tool_calls=[part]) for part in parts]
    return _stream(*steps, finish="tool_calls")
