"""What the LLM is sent of each turn: its messages as they are stored, and of tool calls what it won't refuse.

An LLM refuses a conversation in which a tool call has no output, or an output no call. So a call is sent if its
output follows directly, and was not cut. Only messages with tool calls are parsed; all others go byte for byte.
"""

from __future__ import annotations

import json
import re
from collections.abc import Container, Iterator, Sequence
from typing import Any, NamedTuple

from chatbot.records import Turn, as_json

DELETED = "null"
"""Stands in place of a message that was deleted alone."""

_ROLE = re.compile(r'\{"role":"([a-z]+)"')
_NOTHING = tuple(as_json({"role": "assistant", "content": content}) for content in (None, ""))
_CUT = ("cancelled", "length")


def role_of(message: str) -> str:
    """The role of a message that is JSON text."""
    found = _ROLE.match(message)
    return found[1] if found else str(json.loads(message).get("role"))


def opens(turn: Turn) -> bool:
    """Whether a context may begin with the turn: not with an answer, nor with a tool's output."""
    return next((may_open(message) for message in turn.messages if message != DELETED), False)


def may_open(message: str) -> bool:
    """Whether a context may begin with the message."""
    return role_of(message) not in ("assistant", "tool")


def open_calls(turn: Turn) -> list[str]:
    """The ids of the turn's tool calls that wait for their outputs: all but one that was cut."""
    return (
        [call["id"] for call in _whole_calls(turn.output or "{}", turn.finish_reason)] if turn.calls else []
    )


def sent_of(turns: Sequence[Turn], said: Sequence[str], *, send_reasoning: bool = False) -> list[list[str]]:
    """What is sent of each of the turns, oldest first, and last of what is newly `said`: JSON messages."""
    entries = list(_entries(turns, said))
    sent: list[list[str]] = [[] for _ in range(len(turns) + 1)]
    waiting: set[str] = set()
    for number, (place, message, answers) in enumerate(entries):
        if role_of(message) == "tool":
            call = json.loads(message)["tool_call_id"]
            if call in waiting:
                waiting.remove(call)
                sent[place].append(message)
            continue
        waiting = set()
        if answers.calls if answers else '"tool_calls":' in message and role_of(message) == "assistant":
            outputs = _outputs(entries, number + 1)
            message, waiting = _with_outputs(message, outputs, answers.finish_reason if answers else None)
        if message in _NOTHING:
            continue
        if send_reasoning and answers and answers.reasoning:
            message = as_json(json.loads(message) | {"reasoning_content": answers.reasoning})
        sent[place].append(message)
    return sent


class _Entry(NamedTuple):
    """A message at its place among the turns; `answers` is the turn whose answer it is, if it is one."""

    place: int
    message: str
    answers: Turn | None = None


def _entries(turns: Sequence[Turn], said: Sequence[str]) -> Iterator[_Entry]:
    for place, turn in enumerate(turns):
        for message in turn.messages:
            if message != DELETED:
                yield _Entry(place, message)
        if turn.output is not None:
            yield _Entry(place, turn.output, turn)
    for message in said:
        yield _Entry(len(turns), message)


def _outputs(entries: Sequence[_Entry], number: int) -> set[str]:
    """The calls whose outputs stand from entry `number` on, before anything else does."""
    calls = set()
    while number < len(entries) and role_of(entries[number].message) == "tool":
        calls.add(json.loads(entries[number].message)["tool_call_id"])
        number += 1
    return calls


def _with_outputs(text: str, outputs: Container[str], finish_reason: str | None) -> tuple[str, set[str]]:
    """An assistant's message with those of its calls that have outputs, and their ids."""
    message = json.loads(text)
    calls = [call for call in _whole_calls(text, finish_reason) if call["id"] in outputs]
    ids = {call["id"] for call in calls}
    if calls == message["tool_calls"]:
        return text, ids
    del message["tool_calls"]
    return as_json(message | {"tool_calls": calls} if calls else message), ids


def _whole_calls(text: str, finish_reason: str | None) -> list[Any]:
    calls: list[Any] = json.loads(text).get("tool_calls") or []
    return calls[:-1] if finish_reason in _CUT else calls
