"""Reads a request for a response: what is said, what the LLM is sent besides, what the response repeats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from chatbot.errors import ChatError
from chatbot.openai.identifiers import session_of
from chatbot.openai.items import FindItem, messages_of, refuse
from chatbot.openai.responses import SETTINGS
from chatbot.records import as_json

_KINDS: tuple[tuple[type | tuple[type, ...], str, str], ...] = (
    (bool, "true or false", "background store stream parallel_tool_calls"),
    (int, "an integer", "max_output_tokens max_tool_calls top_logprobs"),
    ((int, float), "a number", "temperature top_p presence_penalty frequency_penalty"),
    (str, "a string", "instructions model prompt_cache_key safety_identifier service_tier truncation user"),
    (dict, "an object", "metadata reasoning text"),
    (list, "a list", "tools include"),
)
_TYPES = {name: (type_, words) for type_, words, names in _KINDS for name in names.split()}
_PASSED_ON = (
    *("temperature", "top_p", "presence_penalty", "frequency_penalty", "user", "safety_identifier"),
    *("prompt_cache_key", "model", "seed", "stop", "logit_bias", "top_k", "min_p", "repetition_penalty"),
)
_NOT_SERVED = ("prompt", "context_management", "moderation")


@dataclass(slots=True)
class ResponseRequest:
    """A request; `settings` is what the response repeats of it, `options` what the LLM is sent."""

    session_id: str | None
    previous: str | None
    input: tuple[str, ...]
    options: dict[str, Any]
    settings: dict[str, Any]
    stream: bool
    store: bool
    background: bool


def read_response_request(body: object, find_item: FindItem) -> ResponseRequest:
    """What is asked; raises ChatError that names the field at fault, or the one that is not served."""
    if not isinstance(body, dict):
        raise ChatError("invalid_request", "The body must be a JSON object.")
    given = {name: value for name, value in body.items() if value is not None}
    for name, value in given.items():
        _check_kind(name, value)
    for name in _NOT_SERVED:
        if given.get(name):
            raise refuse(name, "is not served")
    if given.get("top_logprobs"):
        raise refuse("top_logprobs", "is not served")
    if "message.output_text.logprobs" in given.get("include", ()):
        raise refuse("include", "of message.output_text.logprobs is not served")
    settings = {name: given[name] for name in SETTINGS if name in given}
    options = {name: given[name] for name in _PASSED_ON if name in given}
    _read_tools(given, settings, options)
    _read_text(given.get("text", {}), settings, options)
    _read_reasoning(given.get("reasoning"), settings, options)
    if "max_output_tokens" in given:
        options["max_tokens"] = given["max_output_tokens"]
    if given.get("service_tier", "auto") not in ("auto", "default"):
        options["service_tier"] = given["service_tier"]
    session_id, previous = _read_place(given)
    if session_id:
        settings["conversation"] = True
    read_metadata(given)
    request = ResponseRequest(
        session_id,
        previous,
        messages_of(given.get("input"), "input", find_item),
        options,
        settings | _only(given, ("model",)),
        given.get("stream", False),
        given.get("store", True),
        given.get("background", False),
    )
    if request.background and not request.store:
        raise refuse("background", "needs the response to be stored")
    if not request.input:
        raise refuse("input", "says nothing")
    return request


def _check_kind(name: str, value: object) -> None:
    type_, words = _TYPES.get(name, (object, ""))
    if not isinstance(value, type_) or (isinstance(value, bool) and type_ not in (bool, object)):
        raise refuse(name, f"must be {words}")


def read_metadata(body: Mapping[str, Any]) -> str:
    """The metadata in a body, as JSON text."""
    value = body.get("metadata") or {}
    if not isinstance(value, dict) or len(value) > 16:
        raise refuse("metadata", "must be an object of at most 16 fields")
    for name, text in value.items():
        if not isinstance(text, str) or len(text) > 512 or len(name) > 64:
            raise refuse("metadata", "must hold strings of at most 512 characters under names of at most 64")
    return as_json(value)


def read_conversation(value: object) -> str:
    """The session that a request calls its conversation: an id, or an object that has it."""
    name = value.get("id") if isinstance(value, dict) else value
    if not isinstance(name, str):
        raise refuse("conversation", "must be a string or an object with an id")
    if session_id := session_of(name):
        return session_id
    raise ChatError("not_found", "There is no such conversation.", "conversation")


def _read_place(given: Mapping[str, Any]) -> tuple[str | None, str | None]:
    conversation, previous = given.get("conversation"), given.get("previous_response_id")
    if conversation is not None and previous is not None:
        raise refuse("previous_response_id", "and conversation exclude each other")
    if previous is not None and not isinstance(previous, str):
        raise refuse("previous_response_id", "must be a string")
    return None if conversation is None else read_conversation(conversation), previous


def _read_tools(given: Mapping[str, Any], settings: dict[str, Any], options: dict[str, Any]) -> None:
    tools, choice = given.get("tools") or [], given.get("tool_choice", "auto")
    for number, tool in enumerate(tools):
        if not isinstance(tool, dict) or tool.get("type") != "function":
            raise refuse(f"tools[{number}].type", "must be function; no other tools are served")
        if not isinstance(tool.get("name"), str):
            raise refuse(f"tools[{number}].name", "must be a string")
    if isinstance(choice, dict) and choice.get("type") == "allowed_tools":
        allowed = [tool.get("name") for tool in choice.get("tools") or () if isinstance(tool, dict)]
        tools = [tool for tool in tools if tool["name"] in allowed]
        choice = choice.get("mode", "auto")
    if isinstance(choice, dict) and choice.get("type") == "function" and isinstance(choice.get("name"), str):
        choice = {"type": "function", "function": {"name": choice["name"]}}
    elif choice not in ("auto", "none", "required"):
        raise refuse("tool_choice", "must be auto, none, required, or an object for functions")
    settings["tools"] = [
        {"type": "function", "description": None, "parameters": None, "strict": None} | tool
        for tool in given.get("tools") or []
    ]
    if tools:  # LLM servers refuse the others without tools
        names = ("name", "description", "parameters", "strict")
        options["tools"] = [{"type": "function", "function": _only(tool, names)} for tool in tools]
        if "tool_choice" in given:
            options["tool_choice"] = choice
        options |= _only(given, ("parallel_tool_calls",))


def _read_text(text: Mapping[str, Any], settings: dict[str, Any], options: dict[str, Any]) -> None:
    format_ = text.get("format") or {"type": "text"}
    type_ = format_.get("type") if isinstance(format_, dict) else None
    if type_ == "json_schema":
        schema = _only(format_, ("name", "description", "schema", "strict"))
        options["response_format"] = {"type": "json_schema", "json_schema": schema}
        format_ = {"description": None, "strict": False} | format_
    elif type_ == "json_object":
        options["response_format"] = {"type": "json_object"}
    elif type_ != "text":
        raise refuse("text.format.type", "must be text, json_schema or json_object")
    if text.get("verbosity"):
        options["verbosity"] = text["verbosity"]
    settings["text"] = {"format": format_, "verbosity": text.get("verbosity") or "medium"}


def _read_reasoning(
    reasoning: Mapping[str, Any] | None, settings: dict[str, Any], options: dict[str, Any]
) -> None:
    if reasoning is not None:
        settings["reasoning"] = {"effort": None, "summary": None} | dict(reasoning)
        if reasoning.get("effort"):
            options["reasoning_effort"] = reasoning["effort"]


def _only(value: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: value[name] for name in names if value.get(name) is not None}
