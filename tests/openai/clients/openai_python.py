"""openai-python, versions 2 and 3: everything that its users do with Responses and Conversations."""

# ruff: noqa: PT017

from __future__ import annotations

import time
import uuid
from functools import partial

import httpx
import openai
from openai import OpenAI
from pydantic import BaseModel
from steps import BASE_URL, run

client = OpenAI(base_url=BASE_URL, api_key="any", max_retries=2)
TOOL = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    "strict": False,
}


class Person(BaseModel):
    name: str
    age: int


def raises(kind: type[Exception], call, code: str = "", param: str | None = None, **asked):
    try:
        call(**asked)
    except kind as error:
        assert not code or error.code == code, error
        assert param is None or error.param == param, (error.param, error)
    else:
        raise AssertionError(f"no {kind.__name__}")


def models():
    assert [model.id for model in client.models.list()] == ["test-model"]


def chat_completions():
    messages = [{"role": "user", "content": "hello"}]
    whole = client.chat.completions.create(model="m", messages=messages)
    assert whole.choices[0].message.content == "You said: hello"
    assert whole.usage.total_tokens == 16
    stream = client.chat.completions.create(model="m", messages=messages, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "You said: hello"


def chat_completions_with_tools():
    tool = {"type": "function", "function": {"name": "get_weather", "parameters": {}}}
    messages = [{"role": "user", "content": "weather in two cities"}]
    whole = client.chat.completions.create(model="m", messages=messages, tools=[tool])
    calls = whole.choices[0].message.tool_calls
    assert [call.function.arguments for call in calls] == ['{"city":"Seoul"}', '{"city":"Busan"}']
    with client.chat.completions.stream(model="m", messages=messages, tools=[tool]) as stream:
        assert stream.get_final_completion().choices[0].message.tool_calls[1].id == "call_1"


def create():
    response = client.responses.create(model="m", input="hello")
    assert response.output_text == "You said: hello"
    assert response.status == "completed"
    assert response.usage.input_tokens_details.cached_tokens == 7
    assert client.responses.retrieve(response.id) == response


def create_with_everything():
    response = client.responses.create(
        model="m",
        input=[
            {"role": "system", "content": "s"},
            {"role": "developer", "content": [{"type": "input_text", "text": "d"}]},
            {"role": "user", "content": [{"type": "input_text", "text": "one"}]},
            {"role": "assistant", "content": "two"},
            {"type": "message", "role": "user", "content": "three"},
        ],
        instructions="Be short.",
        metadata={"a": "b"},
        temperature=0.5,
        top_p=0.9,
        max_output_tokens=100,
        truncation="auto",
        reasoning={"effort": "low", "summary": "auto"},
        text={"verbosity": "low"},
        include=["reasoning.encrypted_content"],
        prompt_cache_key="k",
        safety_identifier="s",
        service_tier="auto",
        user="u",
        parallel_tool_calls=False,
        extra_body={"some_unknown_field": 1},
    )
    assert response.output_text == "You said: one / three"
    assert response.instructions == "Be short."
    assert response.metadata == {"a": "b"}
    assert response.temperature == 0.5
    assert response.max_output_tokens == 100
    assert response.user == "u"


def stream():
    events = list(client.responses.create(model="m", input="hello", stream=True))
    assert [e.type for e in events[:4]] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == "You said: hello"
    assert events[-1].type == "response.completed"
    assert events[-1].response.output_text == "You said: hello"


def stream_helper():
    with client.responses.stream(model="m", input="hello") as stream:
        snapshots = [event.snapshot for event in stream if event.type == "response.output_text.delta"]
        assert snapshots[-1] == "You said: hello"
        assert stream.get_final_response().output_text == "You said: hello"


def stream_helper_of_structured_output():
    with client.responses.stream(model="m", input="Who?", text_format=Person) as stream:
        for _ in stream:
            pass
        assert stream.get_final_response().output_parsed == Person(name="Kim", age=30)


def parse():
    response = client.responses.parse(model="m", input="Who?", text_format=Person)
    assert response.output_parsed == Person(name="Kim", age=30)
    assert response.text.format.type == "json_schema"


def tools_round_trip():
    first = client.responses.create(model="m", input="weather?", tools=[TOOL])
    (call,) = first.output
    assert (call.type, call.name, call.arguments) == ("function_call", "get_weather", '{"city":"Seoul"}')
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "21 °C"}
    second = client.responses.create(model="m", previous_response_id=first.id, input=[output], tools=[TOOL])
    assert second.output_text == "The tool says: 21 °C"
    again = [{"role": "user", "content": "weather?"}, *(i.to_dict() for i in first.output), output]
    third = client.responses.create(model="m", input=again, tools=[TOOL], store=False)
    assert third.output_text == "The tool says: 21 °C"


def tools_streamed():
    events = list(client.responses.create(model="m", input="weather in two", tools=[TOOL], stream=True))
    done = [e for e in events if e.type == "response.output_item.done"]
    assert [e.item.arguments for e in done] == ['{"city":"Seoul"}', '{"city":"Busan"}']
    with client.responses.stream(model="m", input="weather?", tools=[TOOL]) as stream:
        assert stream.get_final_response().output[0].call_id == "call_0"


def reasoning():
    response = client.responses.create(model="m", input="think")
    assert [item.type for item in response.output] == ["reasoning", "message"]
    assert response.output[0].summary[0].text == "Let me see."
    events = list(client.responses.create(model="m", input="think", stream=True))
    thoughts = [e.delta for e in events if e.type == "response.reasoning_summary_text.delta"]
    assert "".join(thoughts) == "Let me see."
    again = client.responses.create(
        model="m", input=[*(i.to_dict() for i in response.output), {"role": "user", "content": "x"}]
    )
    assert again.output_text == "You said: x"


def refusal():
    response = client.responses.create(model="m", input="refuse")
    assert response.output[0].content[0].refusal == "I won't."
    events = list(client.responses.create(model="m", input="refuse", stream=True))
    assert "response.refusal.done" in [e.type for e in events]


def incomplete():
    response = client.responses.create(model="m", input="too long")
    assert (response.status, response.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    events = list(client.responses.create(model="m", input="too long", stream=True))
    assert events[-1].type == "response.incomplete"


def conversation():
    conversation = client.conversations.create(metadata={"topic": "t"})
    assert conversation.id.startswith("conv_")
    assert conversation.metadata == {"topic": "t"}
    one = client.responses.create(model="m", input="one", conversation=conversation.id)
    assert one.conversation.id == conversation.id
    two = client.responses.create(model="m", input="two", conversation={"id": conversation.id})
    assert two.output_text == "You said: one / two"
    assert client.conversations.update(conversation.id, metadata={"a": "b"}).metadata == {"a": "b"}
    assert client.conversations.retrieve(conversation.id).metadata == {"a": "b"}
    items = list(client.conversations.items.list(conversation.id, order="asc", limit=2))
    assert [item.role for item in items] == ["user", "assistant", "user", "assistant"]
    assert [i.id for i in client.conversations.items.list(conversation.id)] == [i.id for i in items[::-1]]
    assert client.conversations.items.retrieve(items[1].id, conversation_id=conversation.id) == items[1]
    client.conversations.items.delete(items[3].id, conversation_id=conversation.id)
    assert len(list(client.conversations.items.list(conversation.id))) == 3
    assert client.conversations.delete(conversation.id).deleted
    raises(openai.NotFoundError, client.conversations.retrieve, conversation_id=conversation.id)


def conversation_items():
    conversation = client.conversations.create(items=[{"role": "user", "content": "zero"}])
    items = [
        {"type": "message", "role": "user", "content": "weather"},
        {"type": "function_call", "call_id": "c", "name": "get_weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "rain"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "It rains."}]},
    ]
    added = client.conversations.items.create(conversation.id, items=items)
    kinds = ["message", "function_call", "function_call_output", "message"]
    assert [item.type for item in added.data] == kinds
    assert not added.has_more
    listed = list(client.conversations.items.list(conversation.id, order="asc"))
    assert [item.type for item in listed] == ["message", *kinds]
    response = client.responses.create(model="m", input="and now?", conversation=conversation.id)
    assert response.output_text == "You said: zero / weather / and now?"
    many = [{"role": "user", "content": str(n)} for n in range(45)]
    client.conversations.items.create(conversation.id, items=many[:20])
    client.conversations.items.create(conversation.id, items=many[20:])
    assert len(list(client.conversations.items.list(conversation.id, limit=7))) == 52


def branches():
    root = client.responses.create(model="m", input="root")
    left = client.responses.create(model="m", input="left", previous_response_id=root.id)
    right = client.responses.create(model="m", input="right", previous_response_id=root.id)
    assert left.output_text == "You said: root / left"
    assert right.output_text == "You said: root / right"
    assert left.previous_response_id == root.id
    more = client.responses.create(model="m", input="more", previous_response_id=left.id, instructions="i")
    assert more.output_text == "You said: root / left / more"
    assert [item.content[0].text for item in client.responses.input_items.list(more.id)] == ["more"]


def background():
    response = client.responses.create(model="m", input="hello", background=True)
    assert response.status in ("queued", "in_progress")
    while response.status in ("queued", "in_progress"):
        time.sleep(0.05)
        response = client.responses.retrieve(response.id)
    assert response.status == "completed"
    assert response.output_text == "You said: hello"
    stream = client.responses.create(model="m", input="hello", background=True, stream=True)
    assert [e.type for e in list(stream)][:2] == ["response.created", "response.queued"]
    broken = client.responses.create(model="m", input="break", background=True)
    while broken.status in ("queued", "in_progress"):
        time.sleep(0.05)
        broken = client.responses.retrieve(broken.id)
    assert broken.status == "failed"
    assert broken.error.code == "server_error"


def cancel():
    response = client.responses.create(model="m", input="for ever", background=True)
    while not client.responses.retrieve(response.id).output:
        time.sleep(0.05)
    cancelled = client.responses.cancel(response.id)
    assert cancelled.status == "cancelled"
    assert cancelled.output_text == "On and on"
    assert client.responses.retrieve(response.id).status == "cancelled"
    silent = client.responses.create(model="m", input="be silent", background=True)
    assert client.responses.cancel(silent.id).status == "cancelled"
    assert client.responses.retrieve(silent.id).status == "cancelled"


def cancelled_stream():
    with client.responses.stream(model="m", input="for ever") as stream:
        for event in stream:
            if event.type == "response.output_text.delta" and event.snapshot == "On and on":
                client.responses.cancel(stream._state._ResponseStreamState__current_snapshot.id)
        assert stream.get_final_response().status == "cancelled"


def resume():
    events = list(client.responses.create(model="m", input="think", stream=True))
    response_id = events[0].response.id
    for place, event in enumerate(events):
        after = event.sequence_number
        rest = list(client.responses.retrieve(response_id, stream=True, starting_after=after))
        assert [e.to_dict() for e in rest] == [e.to_dict() for e in events[place + 1 :]]
    whole = list(client.responses.retrieve(response_id, stream=True))
    assert [e.to_dict() for e in whole] == [e.to_dict() for e in events]


def resume_a_running_one():
    stream = client.responses.create(model="m", input="for ever", background=True, stream=True)
    seen = []
    for event in stream:
        seen.append(event)
        if event.type == "response.output_text.delta" and event.delta == "and ":
            break
    stream.close()
    response_id = seen[0].response.id
    rest = client.responses.retrieve(response_id, stream=True, starting_after=seen[-1].sequence_number)
    assert next(rest).delta == "on"
    client.responses.cancel(response_id)
    assert list(rest)[-1].response.output_text == "On and on"


def resume_helper():
    events = list(client.responses.create(model="m", input="hello", stream=True))
    with client.responses.stream(response_id=events[0].response.id, starting_after=5) as stream:
        rest = list(stream)
    assert [e.sequence_number for e in rest] == [e.sequence_number for e in events if e.sequence_number > 5]


def store_false():
    response = client.responses.create(model="m", input="hello", store=False)
    assert response.output_text == "You said: hello"
    assert response.store is False
    raises(openai.NotFoundError, client.responses.retrieve, response_id=response.id)


def delete():
    response = client.responses.create(model="m", input="hello")
    client.responses.delete(response.id)
    raises(openai.NotFoundError, client.responses.retrieve, "not_found", response_id=response.id)


def idempotency():
    headers = {"Idempotency-Key": str(uuid.uuid4())}
    one = client.responses.create(model="m", input="hello", extra_headers=headers)
    assert client.responses.create(model="m", input="hello", extra_headers=headers).id == one.id
    events = list(client.responses.create(model="m", input="hello", stream=True, extra_headers=headers))
    assert events[0].response.id == one.id
    other = {"model": "m", "input": "other", "extra_headers": headers}
    raises(openai.UnprocessableEntityError, client.responses.create, "idempotency_key_reused", **other)


def errors():
    create = partial(client.with_options(max_retries=0).responses.create, model="m")
    unknown = "resp_" + "0" * 34
    raises(openai.NotFoundError, client.responses.retrieve, response_id=unknown)
    raises(
        openai.NotFoundError, create, param="previous_response_id", input="x", previous_response_id=unknown
    )
    raises(openai.NotFoundError, create, input="x", conversation="conv_nothing")
    raises(openai.BadRequestError, create, param="input[0].type", input=[{"type": "nonsense"}])
    raises(openai.BadRequestError, create, param="tools[0].type", input="x", tools=[{"type": "web_search"}])
    raises(openai.BadRequestError, create, "llm_rejected", input="reject")
    raises(openai.RateLimitError, create, "llm_rate_limited", input="overload")
    raises(openai.InternalServerError, create, "llm_error", input="break")


def errors_in_a_stream():
    events = list(client.responses.create(model="m", input="break", stream=True))
    assert events[-1].type == "response.failed"
    assert events[-1].response.status == "failed"
    create = client.with_options(max_retries=0).responses.create
    raises(openai.RateLimitError, create, model="m", input="overload", stream=True)


def locked_conversation():
    conversation = client.conversations.create()
    stream = client.responses.create(model="m", input="for ever", conversation=conversation.id, stream=True)
    first = next(stream)
    sent: list[httpx.Request] = []
    counting = httpx.Client(event_hooks={"request": [sent.append]})
    create = client.with_options(http_client=counting).responses.create
    asked = {"model": "m", "input": "x", "conversation": conversation.id}
    raises(openai.ConflictError, create, "conversation_locked", **asked)
    assert len(sent) == 1, "it was repeated"
    client.responses.cancel(first.response.id)
    assert list(stream)[-1].response.status == "cancelled"


STEPS = [
    models, chat_completions, chat_completions_with_tools, create, create_with_everything, stream,
    stream_helper, stream_helper_of_structured_output, parse, tools_round_trip, tools_streamed, reasoning,
    refusal, incomplete, conversation, conversation_items, branches, background,
    cancel, cancelled_stream, resume, resume_a_running_one, resume_helper, store_false,
    delete, idempotency, errors, errors_in_a_stream, locked_conversation,
]  # fmt: skip
run(STEPS, f"openai-python {openai.__version__}")
