"""What clients send and are sent, as JSON Schema: requests are checked by it, openapi.json is made of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chatbot.config import SERVER_FIELDS
from chatbot.errors import ERRORS

Schema = dict[str, Any]


STRING: Schema = {"type": "string"}
COUNT: Schema = {"type": "integer", "minimum": 0}
FROM_ONE: Schema = {"type": "integer", "minimum": 1}
OBJECT: Schema = {"type": "object"}
NULL: Schema = {"type": "null"}
ID: Schema = {"type": "string", "format": "uuid"}
_KINDS: dict[str, Schema] = {
    "id": ID, "time": {"type": "string", "format": "date-time"}, "text": STRING,
    "word": {"type": "string", "minLength": 1}, "count": COUNT, "from_one": FROM_ONE,
    "whole": {"type": "integer"}, "number": {"type": "number"}, "bool": {"type": "boolean"},
    "object": OBJECT, "null": NULL, "any": {},
}  # fmt: skip
"""The words of shapes for what a field may be; any other word names a schema of ANSWERS."""


def ref(kind: str, name: str) -> Schema:
    """A component of openapi.json."""
    return {"$ref": f"#/components/{kind}/{name}"}


def any_of(*schemas: Schema, **more: Any) -> Schema:
    """One of several."""
    return {"anyOf": list(schemas), **more}


def _shape(fields: str, about: Mapping[str, Schema] | None = None, **more: Any) -> Schema:
    """An object, from words such as `content:text|Part[]|null`; a field that ends in "?" may be absent.

    `about` adds to what the words say of a field, `more` to the object.
    """
    properties, required = {}, []
    for field in fields.split():
        name, _, kind = field.partition(":")
        if not kind.endswith("?"):
            required.append(name)
        properties[name] = _kind(kind.removesuffix("?")) | (about or {}).get(name, {})
    return {"type": "object", "properties": properties, "required": required, **more}


def _kind(words: str) -> Schema:
    if "|" in words:
        return any_of(*map(_kind, words.split("|")))
    if words.endswith("[]"):
        return {"type": "array", "items": _kind(words[:-2])}
    return _KINDS[words] if words in _KINDS else ref("schemas", words)


# What clients send; null counts as absent.


def _given(name: str) -> Schema:
    return {"required": [name], "properties": {name: {"not": NULL}}}


def _part(kind: str, content: Schema) -> Schema:
    return _shape(f"type:any {kind}:any", {"type": {"const": kind}, kind: content})


_KINDS["Parts"] = {
    "type": "array",
    "items": any_of(
        _part("text", STRING),
        _part("image_url", _shape("url:word detail:text?")),
        _part("input_audio", _shape("data:word format:word")),
        _part("file", _shape("file_data:word? file_id:word? filename:text?")),
    ),
    "minItems": 1,
    "description": "Content parts of the chat-completions API, which go to the LLM as they are.",
}
_KINDS["ToolOutput"] = _shape("tool_call_id:word output:text|Parts", additionalProperties=False)
# They go to the LLM as they are: it knows best which values it takes.
_OPTIONS = (
    "model:word? reasoning_effort:word? verbosity:word? user:text? temperature:number? top_p:number? "
    "min_p:number? presence_penalty:number? frequency_penalty:number? repetition_penalty:number? "
    "max_tokens:from_one? max_completion_tokens:from_one? seed:whole? top_k:whole? response_format:object? "
    "logit_bias:object? stop:word|word[]? tools:object[]? tool_choice:word|object? parallel_tool_calls:bool?"
)
SESSION_ID, MESSAGE_ID = "5b0f6a3e-4c1d-4f7e-9a52-0d8f3c6b7e21", "019c1363-49c0-7f60-8b1e-5c7d0a2f6000"
TOOL = {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}}
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
CHAT = _shape(
    "session_id:word? message:word|Parts? tool_outputs:ToolOutput[]? replace:word? "
    f"{_OPTIONS} extra_body:object?",
    {
        "session_id": {"description": "Or else in the header X-Session-ID."},
        "tool_outputs": {
            "minItems": 1,
            "description": "In place of a message, after a reply that called tools: what the calls came to.",
        },
        "replace": {"description": "Asks in place of this message's turn; without a message the same again."},
        "extra_body": {
            "propertyNames": {"not": {"enum": list(SERVER_FIELDS)}},
            "description": "Whatever else the LLM is to be sent; what is named beside it wins.",
        },
    },
    additionalProperties=False,
    anyOf=[_given("message"), _given("tool_outputs"), _given("replace")],
    **{"not": {"allOf": [_given("message"), _given("tool_outputs")]}},
    examples=[
        {"session_id": SESSION_ID, "message": "안녕하세요"},
        {"session_id": SESSION_ID, "message": "안녕", "temperature": 0.2, "stop": ["END"], "seed": None}
        | {"response_format": {"type": "json_object"}, "extra_body": {"mirostat": 2}},
        {"session_id": SESSION_ID, "message": [{"type": "text", "text": "What is this?"}, PICTURE]},
        {"session_id": SESSION_ID, "message": "What time is it?", "tools": [TOOL]},
        {"session_id": SESSION_ID, "tool_outputs": [{"tool_call_id": "call_1", "output": "12:30"}]},
        {"session_id": SESSION_ID, "replace": MESSAGE_ID},
        {"session_id": SESSION_ID, "replace": MESSAGE_ID, "message": "안녕히 계세요"},
    ],
)
_METADATA = {"description": "Anything, up to 16 KiB as JSON."}
NEW_SESSION = _shape(
    "metadata:object? system_prompt:text?",
    {"metadata": _METADATA},
    additionalProperties=False,
    examples=[{}, {"metadata": {"user": "kim"}, "system_prompt": "Be brief."}],
)
CHANGES = _shape(
    "metadata:object? current:word? system_prompt:text?",
    {
        "metadata": _METADATA,
        "current": {"description": "Goes to the newest end below this message."},
        "system_prompt": {"description": 'Applies from the next turn; "" removes it.'},
    },
    additionalProperties=False,
    anyOf=[_given("metadata"), _given("current"), _given("system_prompt")],
    examples=[{"metadata": {"user": "lee"}}, {"system_prompt": ""}, {"current": MESSAGE_ID}],
)

# What clients are sent.


_SESSION = "session_id:id created_at:time last_accessed:time expires_at:time metadata:object"
ANSWERS: dict[str, Schema] = {
    "Session": _shape(_SESSION),
    "SessionState": _shape(f"{_SESSION} message_count:count active_reply:ActiveReply|null"),
    "ActiveReply": _shape(
        "message_id:id message:text|Part[]|null started_at:time replace:id|null",
        description="`replace` is the reply on the current path in whose place it is asked for.",
    ),
    "Message": _shape(
        "message_id:id role:text content:text|Part[]|null created_at:time token_usage:object|null "
        "finish_reason:text|null reasoning:text? refusal:text? tool_calls:ToolCall[]? tool_call_id:text? "
        "name:text? model:text? first_token_ms:count? versions:Versions?"
    ),
    "Part": _shape(
        "type:text omitted:count?",
        additionalProperties=True,
        description="As it was sent; with `parts=omit` how many bytes it holds, in place of them.",
    ),
    "ToolCall": _shape("id:text type:text function:object extra_content:any?"),
    "Versions": _shape("ids:id[] index:count"),
    "Page": _shape("messages:Message[] has_more:bool"),
    "Rewound": _shape("deleted:count"),
    "Context": _shape(
        "messages:object[] system_prompt:text|null first_message_id:id|null reason:text model:text|null "
        "estimated_tokens:count measured_tokens:count|null max_messages:count max_tokens:count|null",
        description="`reason` is why it begins there, `system_prompt` whose it is: `session` or `operator`.",
    ),
    "Event": _shape(
        "id:text? data:text",
        description="`id` counts the characters of the reply, of all kinds, delivered so far. `data` is a "
        "chunk as the LLM's API has it; `[DONE]` comes last, once the turn is stored, or an `Error` in its "
        "place. In a silence the comment line `: keep-alive` comes.",
    ),
    "Error": _shape("error:ErrorBody"),
    "ErrorBody": _shape(
        "code:any message:text param:text|null type:any message_id:id?",
        {
            "code": {"enum": list(ERRORS)},
            "param": {"description": "The field, header or parameter at fault."},
            "type": {"enum": sorted({kind for _, kind in ERRORS.values()})},
            "message_id": {"description": "Of the running reply, with `session_busy`."},
        },
    ),
    "Health": _shape("status:text", additionalProperties=True),
    "Document": OBJECT,
    "Text": STRING,
}
