"""Translates between the items of this API and chat-completions messages, in both directions.

What is said is a turn's lines, a message each. The calls of one assistant's message are items of their own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from chatbot.chat.reply_log import ReplyLog
from chatbot.chat.turn_messages import DELETED, role_of, sent_of
from chatbot.errors import ChatError
from chatbot.ids import MAX_INPUT_MESSAGES
from chatbot.openai.identifiers import item_id
from chatbot.openai.output import items_of
from chatbot.records import Turn, as_json

FindItem = Callable[[str, str], dict[str, Any]]
"""Finds an item by its id alone; the other text names the field that has it."""

_ROLES = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}
_TEXTS = dict.fromkeys(("input_text", "output_text", "summary_text", "text"), "text") | {"refusal": "refusal"}


def refuse(param: str, message: str) -> ChatError:
    """What a client is sent whose request is wrong at a place."""
    return ChatError("invalid_request", f"{param} {message}.", param)


# From items to messages


def messages_of(value: object, param: str, find_item: FindItem) -> tuple[str, ...]:
    """The messages, as JSON, that an input says: a string or a list of items."""
    if isinstance(value, str):
        value = [{"role": "user", "content": value}]
    if not isinstance(value, list):
        raise refuse(param, "must be a string or a list of items")
    messages: list[dict[str, Any]] = []
    for number, item in enumerate(value):
        _add_item(messages, item, f"{param}[{number}]", find_item)
    if len(messages) > MAX_INPUT_MESSAGES:
        raise refuse(param, f"says more than {MAX_INPUT_MESSAGES} messages")
    return tuple(as_json(message) for message in messages)


def require_calls(messages: Sequence[str], before: Iterable[Turn]) -> None:
    """Refuses a tool's output that the LLM would not be sent: one without a call just before it."""
    turns: list[Turn] = []
    for turn in before:
        turns.insert(0, turn)
        if turn.output is not None:
            break
    sent = sent_of(turns, messages)[-1]
    for message in messages:
        if message in sent:
            sent.remove(message)
        elif role_of(message) == "tool":
            call = json.loads(message)["tool_call_id"]
            words = f"has an output of the call {call!r}, which was not made just before, was cut or has one"
            raise refuse("input", words)


def _add_item(messages: list[dict[str, Any]], item: object, param: str, find_item: FindItem) -> None:
    if not isinstance(item, dict):
        raise refuse(param, "must be an object")
    type_ = item.get("type") or ("message" if "role" in item else "item_reference")
    last = messages[-1] if messages else {}
    may_go_on = last.get("role") == "assistant"
    if type_ == "item_reference":
        found = find_item(_text(item, "id", param), f"{param}.id")
        _add_item(messages, found, param, find_item)
    elif type_ == "message":
        role = _ROLES.get(_text(item, "role", param))
        if not role:
            raise refuse(f"{param}.role", f"must be one of {', '.join(_ROLES)}")
        content = _content(item.get("content"), f"{param}.content")
        if role == "assistant" and not isinstance(content, str):
            content = "".join(part.get("text", "") for part in content)
        if role == "assistant" and "tool_calls" in last:  # said beside the calls, before their outputs
            last["content"] = (last["content"] or "") + content
        else:
            messages.append({"role": role, "content": content})
    elif type_ == "function_call":
        function = {"name": _text(item, "name", param), "arguments": _text(item, "arguments", param)}
        call = {"id": _text(item, "call_id", param), "type": "function", "function": function}
        if not may_go_on:
            messages.append(last := {"role": "assistant", "content": None})
        last.setdefault("tool_calls", []).append(call)
    elif type_ == "function_call_output":
        output = _content(item.get("output"), f"{param}.output")
        call_id = _text(item, "call_id", param)
        messages.append({"role": "tool", "tool_call_id": call_id, "content": output})
    elif type_ != "reasoning":  # which is never sent back
        raise refuse(f"{param}.type", f"is {type_!r}, which is not served")


def _text(item: Mapping[str, Any], name: str, param: str) -> str:
    value = item.get(name)
    if not isinstance(value, str):
        raise refuse(f"{param}.{name}", "must be a string")
    return value


def _content(value: object, param: str) -> Any:
    """Text, or parts as chat-completions have them."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise refuse(param, "must be a string or a list of parts")
    parts = [_part(part, f"{param}[{number}]") for number, part in enumerate(value)]
    return parts[0]["text"] if len(parts) == 1 and parts[0]["type"] == "text" else parts


def _part(part: object, param: str) -> dict[str, Any]:
    if not isinstance(part, dict):
        raise refuse(param, "must be an object")
    type_ = part.get("type")
    if name := _TEXTS.get(str(type_)):
        return {"type": "text", "text": _text(part, name, param)}
    if type_ == "input_image" and not part.get("file_id"):
        url = {"url": _text(part, "image_url", param)}
        return {"type": "image_url", "image_url": url | _given(part, "detail")}
    if type_ == "input_file" and not part.get("file_id") and not part.get("file_url"):
        data = {"file_data": _text(part, "file_data", param)}
        return {"type": "file", "file": _given(part, "filename") | data}
    if type_ == "input_audio" and isinstance(part.get("input_audio"), dict):
        return {"type": "input_audio", "input_audio": part["input_audio"]}
    name = next((f".{name}" for name in ("file_id", "file_url") if part.get(name)), ".type")
    raise refuse(param + name, "is not served")


def _given(part: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: part[name] for name in names if part.get(name) is not None}


# From messages to items


def items_of_turn(turn: Turn) -> list[dict[str, Any]]:
    """All items of a turn, in their order."""
    items = said_items(turn.messages, turn.turn_id)
    if turn.output is not None:
        items += items_of(ReplyLog.from_turn(turn), turn.turn_id, turn.finish_reason)
    return items


def said_items(messages: Iterable[str], turn_id: str) -> list[dict[str, Any]]:
    """The items that were said in a turn, in its messages."""
    items: list[dict[str, Any]] = []
    for place, line in enumerate(messages, 1):
        if message := json.loads(line):
            items += _items_of_message(message, turn_id, place)
    return items


def without_item(turn: Turn, item: str) -> list[str]:
    """The messages of a turn without one of its items; DELETED stands for one of which nothing is left."""
    messages = []
    for place, line in enumerate(turn.messages, 1):
        message = json.loads(line)
        ids = [known["id"] for known in _items_of_message(message, turn.turn_id, place)] if message else []
        if item in ids:
            has_content = message.get("content") is not None
            if ids.index(item) == 0 and has_content:
                message["content"] = None
            else:
                del message["tool_calls"][ids.index(item) - has_content]
            line = as_json(message) if message.get("content") or message.get("tool_calls") else DELETED
        messages.append(line)
    return messages


def answer_without(message: dict[str, Any], item: Mapping[str, Any]) -> str:
    """An answer without one of its items, as a message; "" if nothing is left of it."""
    calls = [call for call in message.pop("tool_calls", ()) if call["id"] != item.get("call_id")]
    if item["type"] == "message":
        message["content"] = None
    if calls:
        message["tool_calls"] = calls
    return as_json(message) if calls or message["content"] else ""


def _items_of_message(message: Mapping[str, Any], turn_id: str, place: int) -> list[dict[str, Any]]:
    role, content = message["role"], message.get("content")
    done: dict[str, Any] = {"status": "completed"}
    if role == "tool":
        output = content if isinstance(content, str) else _parts(content, "input_text")
        known = {"id": item_id("fco", turn_id, place), "type": "function_call_output", "output": output}
        return [done | known | {"call_id": message["tool_call_id"]}]
    items = []
    if content is not None:
        parts = _parts(content, "output_text" if role == "assistant" else "input_text")
        known = {"id": item_id("msg", turn_id, place), "type": "message", "role": role, "content": parts}
        items.append(done | known)
    for number, call in enumerate(message.get("tool_calls") or ()):
        known = {"id": item_id("fc", turn_id, place, number), "type": "function_call", "call_id": call["id"]}
        items.append(done | known | call["function"])
    return items


def _parts(content: Any, text_type: str) -> list[dict[str, Any]]:
    more: dict[str, Any] = {"annotations": [], "logprobs": []} if text_type == "output_text" else {}
    parts: list[dict[str, Any]] = []
    given: list[Any] = [{"type": "text", "text": content}] if isinstance(content, str) else content
    for part in given:
        if part["type"] == "image_url":
            image = part["image_url"]
            detail = image.get("detail", "auto")
            parts.append({"type": "input_image", "image_url": image["url"], "detail": detail})
        elif part["type"] == "file":
            parts.append({"type": "input_file"} | part["file"])
        elif part["type"] == "text":
            parts.append({"type": text_type, "text": part["text"]} | more)
        else:
            parts.append(part)
    return parts
