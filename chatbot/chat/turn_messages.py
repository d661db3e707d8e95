"""Builds what the LLM is sent of each turn: its messages, without tool calls that the LLM would refuse.

An LLM refuses a conversation in which a tool call has no output, or an output has no call. So a call is sent
only if it was not cut, and its output follows directly. Only messages with tool calls or reasoning are
parsed. All others are sent byte for byte.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Sequence
from itertools import chain, takewhile
from typing import Any

from chatbot.records import CUT, DELETED, Turn, as_json

_NOTHING = re.compile(r'\{"role":"assistant","content":(null|"(\s|\\[nrt])*")\}')


def role_of(message: str) -> str:
    """The role of a message that is JSON text; it is always the first field."""
    return message[len('{"role":"') : message.index('",')]


def opens(turn: Turn) -> bool:
    """Whether a context may begin with the turn: its first message is no answer and no tool's output."""
    return may_open(next((message for message in turn.messages if message != DELETED), DELETED))


def is_nothing(turns: Iterable[Turn]) -> bool:
    """Whether the turns are empty: all their messages and answers were deleted."""
    return all(turn.output is None and {*turn.messages} == {DELETED} for turn in turns)


def says_nothing(turns: Iterable[Turn], said: Sequence[str]) -> bool:
    """Whether nothing would be sent of the new messages `said` and of the turns, which come newest first."""
    if any(sent_of((), said)):
        return False
    path = list[Turn]()
    for turn in turns:
        if any(sent_of([turn], ())):
            return False
        path.insert(0, turn)
    return not any(sent_of(path, said))


def may_open(message: str) -> bool:
    """Whether a context may begin with the message; DELETED stands for no message."""
    return message != DELETED and role_of(message) not in ("assistant", "tool")


def open_calls(turn: Turn) -> list[str]:
    """The ids of the turn's tool calls that wait for outputs: all calls except those that were cut."""
    return [call["id"] for call in _whole_calls(json.loads(turn.output or "{}"), turn)]


def sent_of(turns: Sequence[Turn], said: Sequence[str], *, send_reasoning: bool = False) -> list[list[str]]:
    """The JSON messages that are sent of each turn, oldest first, and last of the new messages `said`."""
    messages = [*_messages(turns, said)]
    sent: list[list[str]] = [[] for _ in range(len(turns) + 1)]
    waiting: set[str] = set()  # the ids of calls that are sent and have no output yet
    for number, (place, text, answered) in enumerate(messages, 1):
        role = role_of(text)
        if role == "tool":
            call = _call_of(text)
            if call in waiting:
                waiting.remove(call)
                sent[place].append(text)
            continue
        waiting = set()
        thoughts = answered.reasoning if answered else None
        if role == "assistant" and not answered and '"reasoning":' in text:  # a client sent them
            message = json.loads(text)
            thoughts, text = message.pop("reasoning", None), as_json(message)
        if '"tool_calls":' in text:
            outputs = takewhile(lambda one: role_of(one[1]) == "tool", messages[number:])
            text, waiting = _with_outputs(text, {_call_of(output) for _, output, _ in outputs}, answered)
        if _NOTHING.fullmatch(text):
            continue
        if send_reasoning and thoughts:
            text = as_json(json.loads(text) | {"reasoning_content": thoughts})
        sent[place].append(text)
    return sent


def in_order(messages: Sequence[str]) -> list[str]:
    """Messages as strict templates want them: first one system message, then no role twice in a row.

    Mistral wants an answer between a tool's output and a user's message: where there is none, it gets "OK".
    """
    system = dict.fromkeys(text for text in messages if role_of(text) == "system")  # clients may repeat it
    taken: list[dict[str, Any]] = [{}]
    for message in map(json.loads, (*system, *(text for text in messages if text not in system))):
        last = taken[-1]
        if (last.get("role"), message["role"]) == ("tool", "user"):
            taken.append({"role": "assistant", "content": "OK"})
        if message["role"] != last.get("role") or message["role"] == "tool" or "tool_calls" in last:
            taken.append(message)
            continue
        content = [one["content"] for one in (last, message) if one.get("content")]
        if all(isinstance(one, str) for one in content):
            taken[-1] = last | message | {"content": "\n\n".join(content)}
        else:
            parts = ([{"type": "text", "text": one}] if isinstance(one, str) else one for one in content)
            taken[-1] = last | message | {"content": [*chain.from_iterable(parts)]}
    return [as_json(message) for message in taken[1:]]


def lost_outputs(turns: Sequence[Turn], said: Sequence[str]) -> list[str]:
    """The call ids of those tool outputs in the new messages that would not be sent after the turns."""
    lost = Counter(text for text in said if role_of(text) == "tool") - Counter(sent_of(turns, said)[-1])
    return [*map(_call_of, lost)]


def unsaid(turns: Sequence[Turn], messages: Sequence[str]) -> tuple[str, ...]:
    """The messages that the turns lack, in order; each as often as it occurs more often than in the turns."""
    said, new = Counter(chain(*(turn.messages for turn in turns))), list[str]()
    for message in messages:
        said[message] -= 1
        if said[message] < 0:
            new.append(message)
    return tuple(new)


def _messages(turns: Sequence[Turn], said: Sequence[str]) -> Iterator[tuple[int, str, Turn | None]]:
    """Each message, the place of its turn, and the turn itself if the message is its answer (else None)."""
    for place, turn in enumerate(turns):
        for text in turn.messages:
            if text != DELETED:
                yield place, text, None
        if turn.output is not None:
            yield place, turn.output, turn
    for text in said:
        if text != DELETED:
            yield len(turns), text, None


def _call_of(text: str) -> str:
    """The id of the call whose output the message has."""
    return str(json.loads(text).get("tool_call_id"))


def _with_outputs(text: str, outputs: Container[str], answered: Turn | None) -> tuple[str, set[str]]:
    """An assistant message with only those calls that have outputs, and the ids of these calls."""
    message = json.loads(text)
    calls = [call for call in _whole_calls(message, answered) if call["id"] in outputs]
    for call in calls:
        if not _is_object(call["function"]["arguments"]):  # LLM servers fail on bad JSON of their models
            call["function"]["arguments"] = "{}"
    message["tool_calls"] = calls
    if not calls:
        del message["tool_calls"]
    return as_json(message), {call["id"] for call in calls}


def _whole_calls(message: dict[str, Any], answered: Turn | None) -> list[Any]:
    """A message's calls. If the answer was cut: without the last call, and without incomplete ones."""
    calls: list[Any] = message.get("tool_calls") or []
    if answered and CUT.search(answered.finish_reason or ""):
        return [call for call in calls[:-1] if _is_object(call["function"]["arguments"])]
    return calls


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):  # RecursionError: brackets are nested too deeply
        return False
