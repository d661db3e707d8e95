"""Reads requests: the input items, which become chat-completions messages, and the settings.

A turn stores its input as lines, one message each. Each call of an assistant's message is an item of its own.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from typing import Any, TypeVar, cast

from chatbot.chat.asking import Question
from chatbot.chat.turn_messages import lost_outputs, opens, role_of, unsaid
from chatbot.errors import ChatError
from chatbot.ids import MAX_INPUT_MESSAGES
from chatbot.openai.items import Object
from chatbot.openai.responses import SETTINGS
from chatbot.records import Turn, as_json

FindItem = Callable[[str, str], Object]
"""Finds an item by its id; the second argument is the field that has the id, for an error to name."""

T = TypeVar("T")

_WORDS: Mapping[type, str] = {
    bool: "true or false", int: "an integer", float: "a number", str: "a string",
    dict: "an object", list: "a list",
}  # fmt: skip
_ROLES = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}
_TEXTS = ("input_text", "output_text", "summary_text", "reasoning_text", "text", "refusal")
_LIKE: Object = {name: value for name, value in SETTINGS.items() if name != "tool_choice"} | {
    "max_output_tokens": 0, "max_tool_calls": 0, "model": "", "stream": False, "include": []
}  # fmt: skip
_PASSED_ON = (
    *("model", "temperature", "top_p", "presence_penalty", "frequency_penalty", "user", "safety_identifier"),
    *("prompt_cache_key", "seed", "stop", "logit_bias", "top_k", "min_p", "repetition_penalty"),
    "chat_template_kwargs",
)
_NOT_SERVED = ("prompt", "context_management", "moderation", "logprobs", "top_logprobs")
_RENAMED = {  # fields of a chat completion
    "messages": "input", "response_format": "text.format", "reasoning_effort": "reasoning.effort",
    "max_tokens": "max_output_tokens", "max_completion_tokens": "max_output_tokens", "functions": "tools",
    "function_call": "tool_choice", "verbosity": "text.verbosity",
}  # fmt: skip
_FUNCTION: Object = {"description": "", "parameters": {}, "strict": False}
_CONVERSATION = re.compile(r"conv_([0-9a-f]{32}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})")


def refuse(param: str, message: str) -> ChatError:
    """Returns the error for a request whose field `param` is wrong."""
    return ChatError("invalid_request", f"{param} {message}.", param)


def as_openai_error(error: ChatError, param: str = "input") -> ChatError:
    """Returns the error, with OpenAI's code if the context is too long: LangChain looks for that code."""
    if error.code != "context_too_long":
        return error
    return ChatError(error.code, error.message, param, extra={"code": "context_length_exceeded"})


def require(value: Any, type_: type[T], param: str) -> T:
    """Returns the value if it is of the type; else raises ChatError that names the field."""
    if type(value) is type_ or (type_ is float and type(value) is int):
        return cast(T, value)
    raise refuse(param, f"must be {_WORDS[type_]}")


def _text(value: Mapping[str, Any], name: str, param: str) -> str:
    """Returns a field of an object; the field must be a string."""
    return require(value.get(name), str, f"{param}.{name}")


def _check_types(value: Mapping[str, Any], like: Object, place: str = "") -> None:
    """Refuses an object with a field of another type than the field has in `like` (None there: a string)."""
    for name, one in like.items():
        if value.get(name) is not None:
            require(value[name], str if one is None else type(one), place + name)
            _check_types(value[name], one if isinstance(one, dict) else {}, f"{place}{name}.")


def _only(value: Mapping[str, Any], *names: str) -> Object:
    """Returns the named fields that are present and not null."""
    return {name: value[name] for name in names if value.get(name) is not None}


# What is said


def messages_of(value: object, param: str, find_item: FindItem) -> tuple[str, ...]:
    """Converts a list of items to messages, as JSON."""
    groups: list[list[Object]] = []  # each: a message, then the outputs of its calls, which must follow it
    calls: dict[str, list[Object]] = {}
    for number, item in enumerate(require(value, list, param)):
        message = _message(item, f"{param}[{number}]", find_item)
        if not message:
            continue
        if message["role"] == "tool" and (group := calls.get(message["tool_call_id"])):
            group.append(message)
            continue
        last = groups[-1][-1] if groups else {}
        is_both = last.get("role") == message["role"] == "assistant"
        # Text and calls before any output are one message; so are reasoning and what follows it.
        if is_both and ("tool_calls" in (last | message) or not last["content"]):
            for name in message.keys() - {"role"}:
                last.setdefault(name, []).extend(message[name])
        else:
            groups.append([message])
        calls |= {call["id"]: groups[-1] for call in message.get("tool_calls", ())}
    messages = [*chain(*groups)]
    for message in messages:
        if message["role"] == "assistant":
            for name in message.keys() & {"content", "reasoning"}:
                message[name] = "".join(message[name]) if message[name] else None
    if len(messages) > MAX_INPUT_MESSAGES:
        raise refuse(param, f"says more than {MAX_INPUT_MESSAGES} messages")
    return tuple(as_json(message) for message in messages)


def _message(item: Any, param: str, find_item: FindItem) -> Object:
    """Converts one item to a message. An assistant's has lists of texts; empty reasoning has no message."""
    type_ = require(item, dict, param).get("type") or ("message" if "role" in item else "item_reference")
    match type_:
        case "item_reference":
            return _message(find_item(_text(item, "id", param), f"{param}.id"), param, find_item)
        case "message":
            role = _ROLES.get(_text(item, "role", param))
            if not role:
                raise refuse(f"{param}.role", f"must be one of {', '.join(_ROLES)}")
            content = _content(item.get("content"), f"{param}.content")
            text = content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
            return {"role": role, "content": [text] if role == "assistant" else content}
        case "function_call":
            function = {name: _text(item, name, param) for name in ("name", "arguments")}
            call = {"id": _text(item, "call_id", param), "type": "function", "function": function}
            return {"role": "assistant", "content": [], "tool_calls": [call | _only(item, "extra_content")]}
        case "function_call_output":
            output = _content(item.get("output"), f"{param}.output")
            return {"role": "tool", "tool_call_id": _text(item, "call_id", param), "content": output}
        case "reasoning":
            name = "content" if item.get("content") else "summary"
            said = _content(item.get(name) or [], f"{param}.{name}")
            thoughts = [said] if isinstance(said, str) else [part.get("text", "") for part in said]
            return {"role": "assistant", "content": [], "reasoning": thoughts} if any(thoughts) else {}
    raise refuse(f"{param}.type", f"is {type_!r}, which is not served")


def _content(value: object, param: str) -> Any:
    """Converts content to text, or to parts as chat-completions have them."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise refuse(param, "must be a string or a list of parts")
    parts = [_part(part, f"{param}[{number}]") for number, part in enumerate(value)]
    return parts[0]["text"] if len(parts) == 1 and parts[0]["type"] == "text" else parts


def _part(part: Any, param: str) -> Object:
    type_ = str(require(part, dict, param).get("type"))
    if type_ in _TEXTS:
        return {"type": "text", "text": _text(part, "refusal" if type_ == "refusal" else "text", param)}
    _check_types(part, {"detail": None, "filename": None}, f"{param}.")
    elsewhere = next((name for name in ("file_id", "file_url") if part.get(name)), "")
    if type_ == "input_image" and not elsewhere:
        image = {"url": _text(part, "image_url", param)} | _only(part, "detail")
        return {"type": "image_url", "image_url": image}
    if type_ == "input_file" and not elsewhere:
        file = {"file_data": _text(part, "file_data", param)} | _only(part, "filename")
        return {"type": "file", "file": file}
    if type_ == "input_audio" and isinstance(part.get("input_audio"), dict):
        return {"type": "input_audio", "input_audio": part["input_audio"]}
    raise refuse(f"{param}.{elsewhere or 'type'}", "is not served")


def new_of(messages: tuple[str, ...], before: Iterable[Turn]) -> tuple[str, ...]:
    """Returns the input in a form in which the LLM is sent all its outputs of tools, or raises ChatError.

    If needed, leaves out repeated messages (the AI SDK repeats a round of calls), or puts the outputs first.
    """
    turns: list[Turn] = []
    for turn in before:
        turns.insert(0, turn)
        # len(messages) turns are enough, because each turn of a round has at least one message.
        if opens(turn) or (turn.output is not None and len(turns) >= len(messages)):
            break
    if not (lost := lost_outputs(turns, messages)):
        return messages
    outputs_first = tuple(sorted(messages, key=lambda message: role_of(message) != "tool"))
    for new in (unsaid(turns, messages), outputs_first):
        if new and not lost_outputs(turns, new):
            return new
    raise refuse("input", f"has an output of the call {lost[0]!r}, which does not wait for one")


# How it is asked


def read_question(body: Mapping[str, Any], find_item: FindItem, model: str = "") -> Question:
    """Returns the question, still without its place, with the settings that the response repeats.

    The response names `model` if the body names none. Raises ChatError that names the field at fault.
    """
    given = _only(body, *body)
    _check(given)
    options = _only(given, *_PASSED_ON) | _tool_options(given) | _text_options(given.get("text", {}))
    options["reasoning_effort"] = given.get("reasoning", {}).get("effort")
    options["max_tokens"] = given.get("max_output_tokens")
    if given.get("service_tier") not in ("auto", "default"):
        options["service_tier"] = given.get("service_tier")
    session_id = read_conversation(given["conversation"]) if "conversation" in given else ""
    said = given.get("input", [])
    said = [{"role": "user", "content": said}] if isinstance(said, str) else said
    said = messages_of(said, "input", find_item)
    question = Question(session_id, None, said, options, occupies=bool(session_id))
    question.stored, question.detached = given.get("store", True), given.get("background", False)
    question.instructions = given.get("instructions")
    question.truncates = given.get("truncation") != "disabled"
    question.response = as_json({"model": model} | _only(given, *SETTINGS, "model", "conversation"))
    return question


def _check(given: Mapping[str, Any]) -> None:
    """Refuses fields of a wrong type, fields that are not served, and fields that exclude each other."""
    _check_types(given, _LIKE)
    if given.get("max_output_tokens", 1) < 1:  # an LLM's error for it may look like "too long"
        raise refuse("max_output_tokens", "must be at least 1")
    for name in _NOT_SERVED:
        if given.get(name):
            raise refuse(name, "is not served")
    for name in _RENAMED.keys() & given:
        raise refuse(name, f"is called {_RENAMED[name]} here")
    if given.get("truncation", "auto") not in ("auto", "disabled"):
        raise refuse("truncation", "must be auto or disabled")
    if "message.output_text.logprobs" in given.get("include", ()):
        raise refuse("include", "of message.output_text.logprobs is not served")
    if given.get("background") and not given.get("store", True):
        raise refuse("background", "needs the response to be stored")
    if "conversation" in given and "previous_response_id" in given:
        raise refuse("previous_response_id", "and conversation exclude each other")
    read_metadata(given)


def read_metadata(body: Mapping[str, Any]) -> str:
    """The metadata in a body, as JSON text."""
    value = require(body.get("metadata") or {}, dict, "metadata")
    odd = [n for n, text in value.items() if not isinstance(text, str) or len(text) > 512 or len(n) > 64]
    if odd or len(value) > 16:
        words = "must hold at most 16 strings of at most 512 characters, named with at most 64"
        raise refuse("metadata", words)
    return as_json(value)


def read_conversation(value: object) -> str:
    """Returns the session id of a conversation; `value` is its id, dashed or not, or an object with it."""
    name = value.get("id") if isinstance(value, dict) else value
    if found := _CONVERSATION.fullmatch(require(name, str, "conversation").lower()):
        return str(uuid.UUID(found[1]))
    raise ChatError("not_found", "There is no such conversation.", "conversation")


def _tool_options(given: Mapping[str, Any]) -> Object:
    tools, choice = given.get("tools", []), given.get("tool_choice", "auto")
    for number, tool in enumerate(tools):
        if not isinstance(tool, dict) or tool.get("type") != "function":
            raise refuse(f"tools[{number}].type", "must be function; no other tools are served")
        _text(tool, "name", f"tools[{number}]")
        _check_types(tool, _FUNCTION, f"tools[{number}].")
    if isinstance(choice, dict) and choice.get("type") == "allowed_tools":
        listed = require(choice.get("tools"), list, "tool_choice.tools")
        allowed = {str(tool.get("name")) for tool in listed if isinstance(tool, dict)}
        tools = [tool for tool in tools if tool["name"] in allowed]
        choice = "auto" if choice.get("mode") is None else choice["mode"]
    is_named = isinstance(choice, dict) and choice.get("type") == "function"
    if choice not in ("auto", "none") and not (tools and (is_named or choice == "required")):
        raise refuse("tool_choice", "must be auto, none or, with functions, required or an object for them")
    if is_named:
        choice = {"type": "function", "function": {"name": _text(choice, "name", "tool_choice")}}
    if not tools:  # without tools LLM servers refuse the other two fields
        return {}
    return {
        "tools": [{"type": "function", "function": _only(tool, "name", *_FUNCTION)} for tool in tools],
        "tool_choice": None if choice == "auto" else choice,
        "parallel_tool_calls": given.get("parallel_tool_calls"),
    }


def _text_options(given: Mapping[str, Any]) -> Object:
    shape = given.get("format") or {"type": "text"}
    type_, options = shape.get("type"), _only(given, "verbosity")
    if type_ not in ("text", "json_object", "json_schema"):
        raise refuse("text.format.type", "must be text, json_schema or json_object")
    if type_ != "text":
        options["response_format"] = {"type": type_}
    if type_ == "json_schema":
        _text(shape, "name", "text.format")
        require(shape.get("schema"), dict, "text.format.schema")
        _check_types(shape, _FUNCTION, "text.format.")
        options["response_format"][type_] = _only(shape, "name", "description", "schema", "strict")
    return options
