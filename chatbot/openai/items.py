"""Translates between the items of this API and chat-completions messages, in both directions.

What is said is a turn's lines, a message each. The calls of one assistant's message are items of their own.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar, cast

from chatbot.chat.reply_log import ReplyLog
from chatbot.chat.turn_messages import role_of, sent_of
from chatbot.errors import ChatError
from chatbot.ids import MAX_INPUT_MESSAGES
from chatbot.openai.identifiers import item_id
from chatbot.openai.output import items_of, part_object
from chatbot.records import DELETED, TEXT, Turn, as_json

FindItem = Callable[[str, str], dict[str, Any]]
"""Finds an item by its id alone; the other text names the field that has it."""

T = TypeVar("T")

_WORDS: Mapping[type, str] = {
    bool: "true or false", int: "an integer", float: "a number", str: "a string",
    dict: "an object", list: "a list",
}  # fmt: skip
_ROLES = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}
_TEXTS = dict.fromkeys(("input_text", "output_text", "summary_text", "text"), "text") | {"refusal": "refusal"}

_PARTS = {
    # of a part: its type in chat-completions, the field that it must have, its name there, and one more field
    "input_image": ("image_url", "image_url", "url", "detail"),
    "input_file": ("file", "file_data", "file_data", "filename"),
}


def refuse(param: str, message: str) -> ChatError:
    """What a client is sent whose request is wrong at a place."""
    return ChatError("invalid_request", f"{param} {message}.", param)


def require(value: Any, type_: type[T], param: str) -> T:
    """The value, if it is of one of JSON's types; raises ChatError that names the field if it is not."""
    if type(value) is type_ or (type_ is float and type(value) is int):
        return cast(T, value)
    raise refuse(param, f"must be {_WORDS[type_]}")


def text(value: Mapping[str, Any], name: str, param: str) -> str:
    """A field of an object that must be a string."""
    return require(value.get(name), str, f"{param}.{name}")


def only(value: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Those fields alone, if they are there."""
    return {name: value[name] for name in names if value.get(name) is not None}


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
    outputs = Counter(message for message in messages if role_of(message) == "tool")
    if not outputs:
        return
    turns: list[Turn] = []
    for turn in before:
        turns.insert(0, turn)
        if turn.output is not None:
            break
    for message in outputs - Counter(sent_of(turns, messages)[-1]):
        call = json.loads(message)["tool_call_id"]
        words = f"has an output of the call {call!r}, which was not made just before, was cut or has one"
        raise refuse("input", words)


def _add_item(messages: list[dict[str, Any]], item: Any, param: str, find_item: FindItem) -> None:
    type_ = require(item, dict, param).get("type") or ("message" if "role" in item else "item_reference")
    last = messages[-1] if messages else {}
    if type_ == "item_reference":
        _add_item(messages, find_item(text(item, "id", param), f"{param}.id"), param, find_item)
    elif type_ == "message":
        role = _ROLES.get(text(item, "role", param))
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
        function = {name: text(item, name, param) for name in ("name", "arguments")}
        call = {"id": text(item, "call_id", param), "type": "function", "function": function}
        if last.get("role") != "assistant":
            messages.append(last := {"role": "assistant", "content": None})
        last.setdefault("tool_calls", []).append(call)
    elif type_ == "function_call_output":
        output = _content(item.get("output"), f"{param}.output")
        messages.append({"role": "tool", "tool_call_id": text(item, "call_id", param), "content": output})
    elif type_ != "reasoning":  # which is never sent back
        raise refuse(f"{param}.type", f"is {type_!r}, which is not served")


def _content(value: object, param: str) -> Any:
    """Text, or parts as chat-completions have them."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise refuse(param, "must be a string or a list of parts")
    parts = [_part(part, f"{param}[{number}]") for number, part in enumerate(value)]
    return parts[0]["text"] if len(parts) == 1 and parts[0]["type"] == "text" else parts


def _part(part: Any, param: str) -> dict[str, Any]:
    type_ = str(require(part, dict, param).get("type"))
    if name := _TEXTS.get(type_):
        return {"type": "text", "text": text(part, name, param)}
    elsewhere = next((name for name in ("file_id", "file_url") if part.get(name)), "")
    if type_ in _PARTS and not elsewhere:
        name, needed, inner, more = _PARTS[type_]
        return {"type": name, name: {inner: text(part, needed, param)} | only(part, more)}
    if type_ == "input_audio" and isinstance(part.get("input_audio"), dict):
        return {"type": "input_audio", "input_audio": part["input_audio"]}
    raise refuse(f"{param}.{elsewhere or 'type'}", "is not served")


# From messages to items


def said_items(messages: Iterable[str], turn_id: str) -> list[dict[str, Any]]:
    """The items that were said in a turn, in its messages."""
    return [item for place, line in enumerate(messages, 1) for item in items_of_message(line, turn_id, place)]


def answer_items(turn: Turn) -> list[dict[str, Any]]:
    """The items that were answered in a turn, none if it has no answer."""
    return items_of(ReplyLog.from_turn(turn), turn.turn_id, turn.finish_reason or "")


def items_of_message(line: str, turn_id: str, place: int) -> list[dict[str, Any]]:
    """The items of a message (JSON) at its place in a turn, none of one that was deleted."""
    message = json.loads(line)
    if not message:
        return []

    def item(type_: str, call: int = 0, **fields: Any) -> dict[str, Any]:
        id_ = item_id(type_, turn_id, place, call)
        return {"id": id_, "type": type_, "status": "completed"} | fields

    role, content, items = message["role"], message.get("content"), []
    if role == "tool":
        output = content if isinstance(content, str) else _parts(content, role)
        return [item("function_call_output", call_id=message["tool_call_id"], output=output)]
    if content is not None:
        items.append(item("message", role=role, content=_parts(content, role)))
    for number, call in enumerate(message.get("tool_calls") or ()):
        if call:  # null: it was deleted alone
            items.append(item("function_call", number, call_id=call["id"], **call["function"]))
    return items


def message_without(line: str, type_: str, call: int) -> str:
    """A message (JSON) without its content or one of its calls, DELETED if nothing is left of it.

    A call leaves a null, for the ids of those after it are made of their places.
    """
    message = json.loads(line)
    if type_ == "function_call":
        message["tool_calls"][call] = None
    else:
        message["content"] = None
    if not any(message.get("tool_calls", ())):
        message.pop("tool_calls", None)
    return DELETED if message["content"] is None and "tool_calls" not in message else as_json(message)


def _parts(content: Any, role: str) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = []
    given: list[Any] = [{"type": "text", "text": content}] if isinstance(content, str) else content
    for part in given:
        if part["type"] == "text" and role == "assistant":
            parts.append(part_object(TEXT, part["text"]))
        elif part["type"] == "text":
            parts.append({"type": "input_text", "text": part["text"]})
        elif part["type"] == "image_url":
            image = part["image_url"]
            detail = image.get("detail", "auto")
            parts.append({"type": "input_image", "image_url": image["url"], "detail": detail})
        elif part["type"] == "file":
            parts.append({"type": "input_file"} | part["file"])
        else:
            parts.append(part)
    return parts
