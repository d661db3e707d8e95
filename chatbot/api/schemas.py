"""What clients send and are sent, as JSON Schema: requests are checked by it, openapi.json is made of it."""

from __future__ import annotations

from typing import Any

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
OPTIONS: dict[str, Schema] = {
    # They go to the LLM as they are: it knows best which values it takes.
    **dict.fromkeys(("model", "reasoning_effort", "verbosity"), TEXT),
    **dict.fromkeys(("temperature", "top_p", "min_p"), NUMBER),
    **dict.fromkeys(("presence_penalty", "frequency_penalty", "repetition_penalty"), NUMBER),
    **dict.fromkeys(("max_tokens", "max_completion_tokens"), FROM_ONE),
    **dict.fromkeys(("seed", "top_k"), WHOLE),
    **dict.fromkeys(("response_format", "logit_bias"), OBJECT),
    "stop": any_of(TEXT, list_of(TEXT)),
    "tools": list_of(OBJECT),
    "tool_choice": any_of(TEXT, OBJECT),
    "parallel_tool_calls": BOOLEAN,
    "user": STRING,
}
OWNED = ("messages", "stream", "stream_options", "n")
"""Fields of the LLM's request that are the server's to set."""

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
            "propertyNames": {"not": {"enum": list(OWNED)}},
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


def ref(kind: str, name: str) -> Schema:
    """A component of openapi.json."""
    return {"$ref": f"#/components/{kind}/{name}"}


def _all_of(properties: dict[str, Schema], **more: Schema) -> Schema:
    """An object that has all of some fields, and may have `more`."""
    return object_of(properties | more, *properties)


_SHOWN = any_of(STRING, list_of(_all_of({"type": STRING}, omitted=COUNT)), NULL)
_TIMES = dict.fromkeys(("created_at", "last_accessed", "expires_at"), TIME)
_SESSION = {"session_id": ID, **_TIMES, "metadata": OBJECT}
_REPLACE = any_of(ID, NULL, description="The reply on the current path in whose place it is asked for.")
_ACTIVE = _all_of({"message_id": ID, "message": _SHOWN, "started_at": TIME, "replace": _REPLACE})
ANSWERS: dict[str, Schema] = {
    "Session": _all_of(_SESSION),
    "SessionState": _all_of(_SESSION | {"message_count": COUNT, "active_reply": any_of(_ACTIVE, NULL)}),
    "Message": _all_of(
        {
            "message_id": ID,
            "role": {"enum": ["system", "developer", "user", "assistant", "tool"]},
            "content": _SHOWN | {"description": "With `parts=omit` parts say how many bytes are `omitted`."},
            "created_at": TIME,
            "token_usage": any_of(OBJECT, NULL, description="As the LLM reported it."),
            "finish_reason": any_of(STRING, NULL, description="Of a reply: the LLM's word, or `cancelled`."),
        },
        **dict.fromkeys(("reasoning", "refusal", "model", "tool_call_id", "name"), STRING),
        tool_calls=list_of(_all_of({"id": STRING, "type": STRING, "function": OBJECT})),
        first_token_ms=COUNT,
        versions=_all_of({"ids": list_of(ID), "index": COUNT}),
    ),
    "Page": _all_of({"messages": list_of(ref("schemas", "Message")), "has_more": BOOLEAN}),
    "Rewound": _all_of({"deleted": COUNT}),
    "Context": _all_of(
        {
            "messages": list_of(OBJECT),
            "system_prompt": any_of({"enum": ["session", "operator"]}, NULL),
            "first_message_id": any_of(ID, NULL),
            "reason": STRING | {"description": "Why it begins there."},
            "model": any_of(STRING, NULL),
            "estimated_tokens": COUNT,
            "measured_tokens": any_of(COUNT, NULL, description="As the LLM counted, to the newest reply."),
            "max_messages": COUNT,
            "max_tokens": any_of(COUNT, NULL),
        }
    ),
    "Event": _all_of(
        {
            "data": STRING
            | {
                "contentSchema": any_of(ref("schemas", "Chunk"), ref("schemas", "Error")),
                "description": "A `Chunk`; `[DONE]` comes last, once the turn is stored, or an `Error`. In a "
                "silence the comment line `: keep-alive` comes.",
            },
        },
        id=STRING | {"description": "How many characters of the reply, of all kinds, have been delivered."},
    ),
    "Chunk": object_of({"choices": list_of(OBJECT), "usage": any_of(OBJECT, NULL)}),
    "Error": _all_of(
        {
            "error": _all_of(
                {
                    "code": {"enum": list(ERRORS)},
                    "message": STRING,
                    "param": any_of(STRING, NULL, description="The field, header or parameter at fault."),
                    "type": {"enum": sorted({kind for _, kind in ERRORS.values()})},
                },
                message_id=ID | {"description": "Of the running reply, with `session_busy`."},
            )
        }
    ),
    "Health": object_of({"status": STRING}, "status"),
    "Document": OBJECT,
    "Text": STRING,
}
