"""Reads a request for a response: what is said, what the LLM is sent besides, what the response repeats."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chatbot.chat.asking import Question
from chatbot.errors import ChatError
from chatbot.openai.identifiers import session_of
from chatbot.openai.items import FindItem, messages_of, only, refuse, require, text
from chatbot.openai.responses import SETTINGS
from chatbot.records import as_json

_TYPES: Mapping[str, type] = {
    name: str if value is None else type(value) for name, value in SETTINGS.items() if name != "tool_choice"
} | {"max_output_tokens": int, "max_tool_calls": int, "model": str, "stream": bool, "include": list}
_PASSED_ON = (
    *("model", "temperature", "top_p", "presence_penalty", "frequency_penalty", "user", "safety_identifier"),
    *("prompt_cache_key", "seed", "stop", "logit_bias", "top_k", "min_p", "repetition_penalty"),
)
_NOT_SERVED = ("prompt", "context_management", "moderation", "top_logprobs")
_FUNCTION = {"description": None, "parameters": None, "strict": None}


def read_question(body: Mapping[str, Any], find_item: FindItem) -> tuple[Question, dict[str, Any]]:
    """What is asked, not yet at its place, and the settings: what the response repeats of the request.

    Raises ChatError that names the field at fault, or the one that is not served.
    """
    given = {name: value for name, value in body.items() if value is not None}
    _check(given)
    settings, options = only(given, *SETTINGS, "model"), only(given, *_PASSED_ON)
    _read_tools(given, settings, options)
    _read_text(given.get("text", {}), settings, options)
    reasoning = settings["reasoning"] = SETTINGS["reasoning"] | given.get("reasoning", {})
    renamed = {"reasoning_effort": reasoning["effort"], "max_tokens": given.get("max_output_tokens")}
    options |= only(renamed, *renamed)
    if given.get("service_tier", "auto") not in ("auto", "default"):
        options["service_tier"] = given["service_tier"]
    session_id = read_conversation(given["conversation"]) if "conversation" in given else ""
    settings["conversation"] = bool(session_id)
    said = messages_of(given.get("input"), "input", find_item)
    if not said:
        raise refuse("input", "says nothing")
    question = Question(session_id, None, said, options, occupies=bool(session_id))
    question.stored, question.detached = given.get("store", True), given.get("background", False)
    question.instructions = given.get("instructions")
    return question, settings


def _check(given: Mapping[str, Any]) -> None:
    """Refuses fields of a wrong type, what is not served, and what excludes each other."""
    for name, value in given.items():
        require(value, _TYPES.get(name, type(value)), name)
    for name in _NOT_SERVED:
        if given.get(name):
            raise refuse(name, "is not served")
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
    is_right = (
        isinstance(text, str) and len(text) <= 512 and len(name) <= 64 for name, text in value.items()
    )
    if len(value) > 16 or not all(is_right):
        raise refuse(
            "metadata", "must hold at most 16 strings of at most 512 characters, named with at most 64"
        )
    return as_json(value)


def read_conversation(value: object) -> str:
    """The session that a request calls its conversation: an id, or an object that has it."""
    name = value.get("id") if isinstance(value, dict) else value
    if not isinstance(name, str):
        raise refuse("conversation", "must be a string or an object with an id")
    if session_id := session_of(name):
        return session_id
    raise ChatError("not_found", "There is no such conversation.", "conversation")


def _read_tools(given: Mapping[str, Any], settings: dict[str, Any], options: dict[str, Any]) -> None:
    tools, choice = given.get("tools", []), given.get("tool_choice", "auto")
    for number, tool in enumerate(tools):
        if not isinstance(tool, dict) or tool.get("type") != "function":
            raise refuse(f"tools[{number}].type", "must be function; no other tools are served")
        text(tool, "name", f"tools[{number}]")
    settings["tools"] = [_FUNCTION | tool for tool in tools]
    if isinstance(choice, dict) and choice.get("type") == "allowed_tools":
        settings["tool_choice"] = choice = {"mode": "auto"} | choice
        listed = require(choice.get("tools"), list, "tool_choice.tools")
        allowed = [tool.get("name") for tool in listed if isinstance(tool, dict)]
        tools = [tool for tool in tools if tool["name"] in allowed]
        choice = choice["mode"]
    if isinstance(choice, dict) and choice.get("type") == "function":
        choice = {"type": "function", "function": {"name": text(choice, "name", "tool_choice")}}
    elif choice not in ("auto", "none", "required"):
        raise refuse("tool_choice", "must be auto, none, required, or an object for functions")
    if tools:  # LLM servers refuse the others without tools
        functions = [only(tool, "name", *_FUNCTION) for tool in tools]
        options["tools"] = [{"type": "function", "function": function} for function in functions]
        options |= only(given, "parallel_tool_calls")
        if choice != "auto":
            options["tool_choice"] = choice


def _read_text(given: Mapping[str, Any], settings: dict[str, Any], options: dict[str, Any]) -> None:
    shape = require(given.get("format") or {"type": "text"}, dict, "text.format")
    type_ = shape.get("type")
    if type_ not in ("text", "json_object", "json_schema"):
        raise refuse("text.format.type", "must be text, json_schema or json_object")
    if type_ != "text":
        options["response_format"] = {"type": type_}
    if type_ == "json_schema":
        text(shape, "name", "text.format")
        require(shape.get("schema"), dict, "text.format.schema")
        schema = only(shape, "name", "description", "schema", "strict")
        options["response_format"]["json_schema"] = schema
        shape = {"type": type_, "description": None, "strict": False} | schema
    options |= only(given, "verbosity")
    settings["text"] = {"format": shape, "verbosity": given.get("verbosity") or "medium"}
