"""What clients send and are sent, as JSON Schema: requests are checked by it, openapi.json is made of it."""

from __future__ import annotations

from typing import Any

from chatbot.config import SERVER_FIELDS
from chatbot.errors import ERRORS

Schema = dict[str, Any]


def object_of(properties: dict[str, Schema], *required: str, **more: Any) -> Schema:
    """An object with some fields."""
    return {"type": "object", "properties": properties, "required": list(required), **more}


def list_of(items: Schema, **more: Any) -> Schema:
    """An array."""
    return {"type": "array", "items": items, **more}


def any_of(*schemas: Schema, **more: Any) -> Schema:
    """One of several."""
    return {"anyOf": list(schemas), **more}


STRING: Schema = {"type": "string"}
TEXT: Schema = {"type": "string", "minLength": 1}
NUMBER: Schema = {"type": "number"}
WHOLE: Schema = {"type": "integer"}
COUNT: Schema = {"type": "integer", "minimum": 0}
FROM_ONE: Schema = {"type": "integer", "minimum": 1}
BOOLEAN: Schema = {"type": "boolean"}
OBJECT: Schema = {"type": "object"}
NULL: Schema = {"type": "null"}
ID: Schema = {"type": "string", "format": "uuid"}
TIME: Schema = {"type": "string", "format": "date-time"}


def ref(kind: str, name: str) -> Schema:
    """A component of openapi.json."""
    return {"$ref": f"#/components/{kind}/{name}"}


_KINDS = {"id": ID, "time": TIME, "count": COUNT, "from_one": FROM_ONE, "whole": WHOLE, "number": NUMBER}
_KINDS |= {"text": STRING, "word": TEXT, "object": OBJECT, "bool": BOOLEAN, "null": NULL}


def _shape(fields: str, **more: Any) -> Schema:
    """An object, from words such as `content:text|Part[]|null`; one that ends in "?" may be absent."""
    properties, required = {}, []
    for field in fields.split():
        name, _, kinds = field.partition(":")
        if not kinds.endswith("?"):
            required.append(name)
        schemas = [_kind(kind) for kind in kinds.removesuffix("?").split("|")]
        properties[name] = any_of(*schemas) if len(schemas) > 1 else schemas[0]
    return object_of(properties, *required, **more)


def _kind(kind: str) -> Schema:
    if kind.endswith("[]"):
        return list_of(_kind(kind[:-2]))
    return _KINDS.get(kind) or ref("schemas", kind)


# What clients send; null counts as absent.


def _given(name: str) -> Schema:
    return {"required": [name], "properties": {name: {"not": NULL}}}


def _part(kind: str, content: Schema) -> Schema:
    return object_of({"type": {"const": kind}, kind: content}, "type", kind)


PARTS = list_of(
    any_of(
        _part("text", STRING),
        _part("image_url", object_of({"url": TEXT, "detail": STRING}, "url")),
        _part("input_audio", object_of({"data": TEXT, "format": TEXT}, "data", "format")),
        _part("file", object_of({"file_data": TEXT, "file_id": TEXT, "filename": STRING})),
    ),
    minItems=1,
    description="Content parts of the chat-completions API, which go to the LLM as they are.",
)
# They go to the LLM as they are: it knows best which values it takes.
OPTIONS = _shape(
    "model:word reasoning_effort:word verbosity:word user:text temperature:number top_p:number min_p:number "
    "presence_penalty:number frequency_penalty:number repetition_penalty:number max_tokens:from_one "
    "max_completion_tokens:from_one seed:whole top_k:whole response_format:object logit_bias:object "
    "stop:word|word[] tools:object[] tool_choice:word|object parallel_tool_calls:bool"
)["properties"]
TOOL_OUTPUT = object_of(
    {"tool_call_id": TEXT, "output": any_of(STRING, PARTS)},
    *("tool_call_id", "output"),
    additionalProperties=False,
)
SESSION_ID, MESSAGE_ID = "5b0f6a3e-4c1d-4f7e-9a52-0d8f3c6b7e21", "019c1363-49c0-7f60-8b1e-5c7d0a2f6000"
TOOL = {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}}
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
CHAT = object_of(
    {
        "session_id": TEXT | {"description": "Or else in the header X-Session-ID."},
        "message": any_of(TEXT, PARTS),
        "tool_outputs": list_of(
            TOOL_OUTPUT,
            minItems=1,
            description="In place of a message, after a reply that called tools: what the calls came to.",
        ),
        "replace": TEXT
        | {"description": "Asks in place of this message's turn; without a message the same again."},
    }
    | OPTIONS
    | {
        "extra_body": OBJECT
        | {
            "propertyNames": {"not": {"enum": list(SERVER_FIELDS)}},
            "description": "Whatever else the LLM is to be sent; what is named beside it wins.",
        }
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
METADATA = OBJECT | {"description": "Anything, up to 16 KiB as JSON."}
NEW_SESSION = object_of(
    {"metadata": METADATA, "system_prompt": STRING},
    additionalProperties=False,
    examples=[{}, {"metadata": {"user": "kim"}, "system_prompt": "Be brief."}],
)
CHANGES = object_of(
    {
        "metadata": METADATA,
        "current": TEXT | {"description": "Goes to the newest end below this message."},
        "system_prompt": STRING | {"description": 'Applies from the next turn; "" removes it.'},
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
    "ToolCall": _shape("id:text type:text function:object"),
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
    "Error": object_of({"error": ref("schemas", "ErrorBody")}, "error"),
    "ErrorBody": object_of(
        {
            "code": {"enum": list(ERRORS)},
            "message": STRING,
            "param": any_of(STRING, NULL, description="The field, header or parameter at fault."),
            "type": {"enum": sorted({kind for _, kind in ERRORS.values()})},
            "message_id": ID | {"description": "Of the running reply, with `session_busy`."},
        },
        *("code", "message", "param", "type"),
    ),
    "Health": _shape("status:text", additionalProperties=True),
    "Document": OBJECT,
    "Text": STRING,
}
