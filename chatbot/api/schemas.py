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
    {
        "oneOf": [
            _part("text", STRING),
            _part("image_url", object_of({"url": TEXT, "detail": STRING}, "url")),
            _part("input_audio", object_of({"data": TEXT, "format": TEXT}, "data", "format")),
            _part("file", object_of({"file_data": TEXT, "file_id": TEXT, "filename": STRING})),
        ],
    },
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


def _component(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


SHOWN = any_of(STRING, list_of(object_of({"type": STRING, "omitted": COUNT}, "type")), NULL)
CALL = object_of({"id": STRING, "type": STRING, "function": OBJECT}, "id", "type", "function")
MESSAGE = object_of(
    {
        "message_id": ID,
        "role": {"enum": ["system", "developer", "user", "assistant", "tool"]},
        "content": SHOWN
        | {"description": "With `parts=omit` parts say how many bytes of what they hold are `omitted`."},
        "created_at": TIME,
        "token_usage": any_of(OBJECT, NULL, description="As the LLM reported it."),
        "finish_reason": any_of(STRING, NULL, description="Of a reply: the LLM's word, or `cancelled`."),
        **dict.fromkeys(("reasoning", "refusal", "model", "tool_call_id", "name"), STRING),
        "tool_calls": list_of(CALL),
        "first_token_ms": COUNT,
        "versions": object_of({"ids": list_of(ID), "index": COUNT}, "ids", "index"),
    },
    *("message_id", "role", "content", "created_at", "token_usage", "finish_reason"),
)
_TIMES = dict.fromkeys(("created_at", "last_accessed", "expires_at"), TIME)
_SESSION = {"session_id": ID, **_TIMES, "metadata": OBJECT}
SESSION = object_of(_SESSION, *_SESSION)
ACTIVE = {"message_id": ID, "message": SHOWN, "started_at": TIME}
_STATE = _SESSION | {"message_count": COUNT, "active_reply": any_of(object_of(ACTIVE, *ACTIVE), NULL)}
SESSION_STATE = object_of(_STATE, *_STATE)
_PAGE = {"messages": list_of(_component("Message")), "has_more": BOOLEAN}
PAGE = object_of(_PAGE, *_PAGE)
REWOUND = object_of({"deleted": COUNT}, "deleted")
_CONTEXT = {
    "messages": list_of(OBJECT),
    "system_prompt": any_of({"enum": ["session", "operator"]}, NULL),
    "first_message_id": any_of(ID, NULL),
    "reason": STRING | {"description": "Why it begins there."},
    "model": any_of(STRING, NULL),
    "estimated_tokens": COUNT,
    "measured_tokens": any_of(COUNT, NULL, description="What the LLM counted, up to the newest reply."),
    "max_messages": COUNT,
    "max_tokens": any_of(COUNT, NULL),
}
CONTEXT = object_of(_CONTEXT, *_CONTEXT)
CHUNK = object_of(
    {
        "choices": list_of(object_of({"delta": OBJECT, "finish_reason": any_of(STRING, NULL)})),
        "usage": any_of(OBJECT, NULL),
    },
    description="The LLM's own chunk; for what was missed one that the server made of it.",
)
EVENT = object_of(
    {
        "id": STRING
        | {"description": "How many characters of the reply, of all kinds, have been delivered."},
        "data": STRING
        | {
            "contentSchema": any_of(_component("Chunk"), _component("Error")),
            "description": "A `Chunk`. `[DONE]` comes last, once the turn is stored; an error after the "
            "first event is an `Error`, in its place.",
        },
    },
    "data",
    description="In a silence the comment line `: keep-alive` comes.",
)
HEALTH = object_of({"status": STRING}, "status")
_ERROR = {
    "code": {"enum": list(ERRORS)},
    "message": STRING,
    "param": any_of(STRING, NULL, description="The field, header or query parameter at fault."),
    "type": {"enum": sorted({kind for _, kind in ERRORS.values()})},
}
RUNNING = {"message_id": ID | {"description": "Of the running reply, with `session_busy`."}}
ERROR = object_of({"error": object_of(_ERROR | RUNNING, *_ERROR)}, "error")
