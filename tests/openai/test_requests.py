"""What is not served is refused by name, what is harmless accepted, and the rest reaches the LLM."""

from __future__ import annotations

import json
from typing import Any

import pytest

from chatbot.errors import ChatError
from chatbot.openai.items import said_items
from chatbot.openai.requests import messages_of, new_of, read_question
from tests.openai.clever_llm import a_call
from tests.openai.door import Door
from tests.tools.counting import Compared, counted_calls
from tests.tools.scripted_llm import ScriptedLLM, answer, delta, reply
from tests.tools.server import StartServer

TOOL = {"type": "function", "name": "f", "parameters": {"type": "object"}}
FORMAT = {"type": "json_schema", "name": "n", "schema": {}}
ALLOWED = {"type": "allowed_tools", "tools": [{"type": "function", "name": "another"}]}


def _no_item(item_id: str, param: str) -> Any:
    raise ChatError("not_found", "", param)


def _said(part: dict[str, Any]) -> dict[str, Any]:
    return {"input": [{"role": "user", "content": [part]}]}


@pytest.mark.parametrize(
    ("param", "body"),
    [
        ("tools[0].type", {"tools": [{"type": "web_search"}]}),
        ("tools[0].type", {"tools": ["web_search"]}),
        ("tools[1].type", {"tools": [TOOL, {"type": "mcp"}]}),
        ("tools[0].name", {"tools": [{"type": "function"}]}),
        ("tools[0].parameters", {"tools": [TOOL | {"parameters": "none"}]}),
        ("tools[0].strict", {"tools": [TOOL | {"strict": "yes"}]}),
        ("tools", {"tools": "all"}),
        ("reasoning.effort", {"reasoning": {"effort": 5}}),
        ("text.verbosity", {"text": {"verbosity": 1}}),
        ("tool_choice", {"tools": [TOOL], "tool_choice": {"type": "web_search_preview"}}),
        ("tool_choice", {"tools": [TOOL], "tool_choice": "any"}),
        ("tool_choice", {"tool_choice": "required"}),
        ("tool_choice", {"tool_choice": {"type": "function", "name": "weather"}}),
        ("tool_choice", {"tools": [TOOL], "tool_choice": ALLOWED | {"mode": "required"}}),
        ("tool_choice.tools", {"tools": [TOOL], "tool_choice": {"type": "allowed_tools", "tools": 5}}),
        ("tool_choice", {"tools": [TOOL], "tool_choice": ALLOWED | {"mode": {}}}),
        ("prompt", {"prompt": {"id": "pmpt_1"}}),
        ("context_management", {"context_management": [{"type": "compaction"}]}),
        ("top_logprobs", {"top_logprobs": 3}),
        ("messages", {"messages": [{"role": "user", "content": "Hi"}]}),
        ("response_format", {"response_format": {"type": "json_object"}}),
        ("reasoning_effort", {"reasoning_effort": "low"}),
        ("max_tokens", {"max_tokens": 5}),
        ("verbosity", {"verbosity": "low"}),
        ("function_call", {"function_call": "none"}),
        ("logprobs", {"logprobs": True}),
        ("include", {"include": ["message.output_text.logprobs"]}),
        ("background", {"background": True, "store": False}),
        ("background", {"background": "yes"}),
        ("temperature", {"temperature": "hot"}),
        ("temperature", {"temperature": True}),
        ("max_output_tokens", {"max_output_tokens": 1.5}),
        ("max_output_tokens", {"max_output_tokens": -10}),
        ("instructions", {"instructions": ["a"]}),
        ("metadata", {"metadata": {"a": 1}}),
        ("metadata", {"metadata": {str(n): "" for n in range(17)}}),
        ("text.format.type", {"text": {"format": {"type": "grammar"}}}),
        ("text.format.name", {"text": {"format": {"type": "json_schema", "schema": {}}}}),
        ("text.format.schema", {"text": {"format": {"type": "json_schema", "name": "n"}}}),
        ("text.format.strict", {"text": {"format": FORMAT | {"strict": "yes"}}}),
        ("text.format.description", {"text": {"format": FORMAT | {"description": 1}}}),
        ("previous_response_id", {"previous_response_id": 1}),
        ("previous_response_id", {"previous_response_id": "resp_1", "conversation": "conv_1"}),
        ("conversation", {"conversation": 1}),
        ("conversation", {"conversation": "conv_1"}),
        ("input", {"input": 5}),
        ("input[0]", {"input": ["a"]}),
        ("truncation", {"truncation": "sometimes"}),
        ("input[0].type", {"input": [{"type": "computer_call_output"}]}),
        ("input[0].role", {"input": [{"role": "tool", "content": "a"}]}),
        ("input[0].content", {"input": [{"role": "user"}]}),
        ("input[0].content[0].type", _said({"type": "video"})),
        ("input[0].content[0].file_id", _said({"type": "input_image", "file_id": "f"})),
        ("input[0].content[0].file_url", _said({"type": "input_file", "file_url": "f"})),
        ("input[0].content[0].detail", _said({"type": "input_image", "image_url": "data:,", "detail": 1})),
        ("input[0].content[0].filename", _said({"type": "input_file", "file_data": "data:,", "filename": 1})),
        ("input[0].call_id", {"input": [{"type": "function_call_output", "output": "x"}]}),
        ("input[0].id", {"input": [{"type": "item_reference", "id": "msg_1"}]}),
    ],
)  # fmt: skip
def test_what_is_not_served_is_refused_by_name(param: str, body: dict[str, Any]):
    with pytest.raises(ChatError) as refused:
        read_question({"input": "Hi"} | body, _no_item)
    assert refused.value.param == param
    assert refused.value.status in (400, 404)


async def test_what_clients_send_by_habit_is_accepted(door: Door):
    habits: dict[str, Any] = {
        "service_tier": "auto",
        "stream_options": {"include_obfuscation": False},
        "include": ["reasoning.encrypted_content", "file_search_call.results"],
        "max_tool_calls": 3,
        "truncation": "disabled",
        "top_logprobs": 0,
        "logprobs": False,
        "prompt_cache_retention": "24h",
        "anything": {"else": 1},
        "tools": [],
        "conversation": None,
        "metadata": None,
    }
    answer = await door.respond("Hi", **habits)
    assert (answer["max_tool_calls"], answer["metadata"]) == (3, {})


async def test_a_response_says_that_older_messages_may_have_been_left_out(door: Door):
    assert (await door.respond("Hi"))["truncation"] == "auto"


async def test_with_truncation_disabled_all_is_sent_or_an_error_comes(start: StartServer, llm: ScriptedLLM):
    door = Door(await start(max_context_messages=4))
    first = await door.respond("1")
    second = await door.respond("2", previous_response_id=first["id"], truncation="disabled")
    assert (second["truncation"], len(llm.exchanges[1].body["messages"])) == ("disabled", 3)
    third = {"input": "3", "previous_response_id": second["id"]}
    for more in ({}, {"stream": True}):
        error = await door.refused(400, "input", **third, **more, truncation="disabled")
        assert error["code"] == "context_length_exceeded"
        assert "(max_context_messages)" in error["message"]
    assert len(llm.exchanges) == 2, "the LLM was asked"
    assert (await door.respond(**third))["status"] == "completed"


async def test_with_truncation_disabled_nothing_is_dropped_that_the_llm_finds_too_long(
    door: Door, llm: ScriptedLLM
):
    first = await door.respond("1")
    llm.play(answer("400 Bad Request", {"error": {"code": "context_length_exceeded", "message": "m"}}))
    asked = {"input": "2", "previous_response_id": first["id"], "truncation": "disabled"}
    error = await door.refused(400, "input", **asked)
    assert error["code"] == "context_length_exceeded"
    assert len(llm.exchanges) == 2, "it was asked again with less"


async def test_the_llm_is_sent_what_was_asked_for(door: Door, llm: ScriptedLLM):
    schema = {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True}
    await door.respond(
        "Hi",
        model="m",
        temperature=0.5,
        top_p=0.9,
        max_output_tokens=99,
        presence_penalty=0.1,
        user="u",
        prompt_cache_key="k",
        safety_identifier="s",
        chat_template_kwargs={"enable_thinking": False},
        tools=[TOOL | {"strict": True, "description": None}, TOOL | {"name": "g"}],
        tool_choice={
            "type": "allowed_tools",
            "mode": "required",
            "tools": [{"type": "function", "name": "g"}],
        },
        parallel_tool_calls=False,
        text={"format": schema, "verbosity": "low"},
        reasoning={"effort": "low", "summary": "auto"},
        instructions="Be short.",
    )
    body = llm.exchanges[0].body
    said = body.pop("messages")
    assert said == [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hi"}]
    function = {"name": "g", "parameters": {"type": "object"}}
    assert {name: body[name] for name in body if not name.startswith("stream")} == {
        "model": "m",
        "temperature": 0.5,
        "top_p": 0.9,
        "max_tokens": 99,
        "presence_penalty": 0.1,
        "user": "u",
        "prompt_cache_key": "k",
        "safety_identifier": "s",
        "chat_template_kwargs": {"enable_thinking": False},
        "tools": [{"type": "function", "function": function}],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "n", "schema": {"type": "object"}, "strict": True},
        },
        "verbosity": "low",
        "reasoning_effort": "low",
    }


async def test_instructions_are_for_one_turn(door: Door, llm: ScriptedLLM):
    first = await door.respond("one", instructions="Be short.")
    second = await door.respond("two", previous_response_id=first["id"])
    assert [m["role"] for m in llm.exchanges[1].body["messages"]] == ["user", "assistant", "user"]
    assert (first["instructions"], second["instructions"]) == ("Be short.", None)


async def test_the_configured_model_is_named_before_the_llm_names_its_own(door: Door):
    begun = await (await door.stream()).event()
    assert begun["response"]["model"] == "test-model"


PARTS = [
    {"type": "input_text", "text": "What is this?"},
    {"type": "input_image", "image_url": "data:image/png;base64,iVBO", "detail": "low"},
    {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBE"},
    {"type": "input_audio", "input_audio": {"data": "UklG", "format": "wav"}},
]
ITEMS = [
    {"role": "developer", "content": "d"},
    {"role": "user", "content": PARTS},
    {"type": "reasoning", "id": "rs_1", "summary": []},
    {
        "type": "message",
        "role": "assistant",
        "content": [{"type": "output_text", "text": text, "annotations": []} for text in ("A ", "cat.")],
    },
    {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"},
    {"type": "function_call", "call_id": "b", "name": "f", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "a", "output": "1"},
    {"type": "function_call_output", "call_id": "b", "output": [{"type": "input_text", "text": "2"}]},
]


def test_items_of_every_kind_become_messages_and_items_again():
    messages = messages_of(ITEMS, "input", _no_item)
    call = {"type": "function", "function": {"name": "f", "arguments": "{}"}}
    assert [json.loads(message) for message in messages] == [
        {"role": "system", "content": "d"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is this?"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBO", "detail": "low"}},
                {
                    "type": "file",
                    "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBE"},
                },
                PARTS[3],
            ],
        },
        {"role": "assistant", "content": "A cat.", "tool_calls": [{"id": "a"} | call, {"id": "b"} | call]},
        {"role": "tool", "tool_call_id": "a", "content": "1"},
        {"role": "tool", "tool_call_id": "b", "content": "2"},
    ]
    items = said_items(messages, "01234567-89ab-7def-8123-456789abc000")
    assert [item["type"] for item in items] == [
        *("message", "message", "message", "function_call", "function_call"),
        *("function_call_output", "function_call_output"),
    ]
    assert len({item["id"] for item in items}) == 7
    assert items[1]["content"] == PARTS
    assert messages_of(items, "input", _no_item) == messages


def test_parts_that_the_other_door_took_as_they_were_are_shown_as_this_one_has_them():
    """There some clients write every field, and a file may have fields of any name."""
    picture = {"type": "image_url", "image_url": {"url": "data:,", "detail": None}}
    file = {"type": "file", "file": {"type": "odd", "file_data": "data:,"}}
    message = json.dumps({"role": "user", "content": [picture, file]}, separators=(",", ":"))
    (item,) = said_items([message], "01234567-89ab-7def-8123-456789abc000")
    assert item["content"] == [
        {"type": "input_image", "image_url": "data:,", "detail": "auto"},
        {"type": "input_file", "file_data": "data:,"},
    ]


async def test_an_output_whose_call_was_not_made_is_refused(door: Door):
    output = {"type": "function_call_output", "call_id": "call_0", "output": "x"}
    await door.refused(400, "input", input=[output])
    first = await door.respond("weather?", tools=[TOOL])
    await door.refused(400, "input", input=[output | {"call_id": "other"}], previous_response_id=first["id"])
    second = await door.respond([output], previous_response_id=first["id"], tools=[TOOL])
    await door.refused(400, "input", input=[output], previous_response_id=second["id"])


async def test_a_round_of_calls_that_is_said_again_is_not_said_twice(door: Door, llm: ScriptedLLM):
    asked = {"conversation": await door.converse(), "tools": [TOOL]}
    said: list[Any] = [{"role": "developer", "content": "Be short."}, {"role": "user", "content": "weather?"}]
    for number in range(3):
        llm.play(reply(delta(tool_calls=[a_call(f"call_{number}")]), finish="tool_calls"))
        await door.respond(said, **asked)
        said.append({"type": "function_call_output", "call_id": f"call_{number}", "output": "x"})
    assert (await door.respond(said, **asked))["status"] == "completed"
    messages = llm.exchanges[-1].body["messages"]
    assert [message["role"] for message in messages] == ["system", "user", *(["assistant", "tool"] * 3)]
    await door.refused(400, "input", input=said, **asked)


@pytest.mark.parametrize("refers", [True, False], ids=["by its id", "as it was shown"])
async def test_a_call_that_is_said_again_has_its_signature(door: Door, llm: ScriptedLLM, refers: bool):
    """Gemini refuses a round of tools without it."""
    signed = a_call("call_1") | {"extra_content": {"google": {"thought_signature": "CuwB"}}}
    llm.play(reply(delta(tool_calls=[signed]), finish="tool_calls"))
    del signed["index"]
    (call,) = (await door.respond("weather?"))["output"]
    said = {"type": "item_reference", "id": call["id"]} if refers else call
    output = {"type": "function_call_output", "call_id": "call_1", "output": "x"}
    response = await door.respond([{"role": "user", "content": "weather?"}, said, output])
    assert llm.exchanges[-1].body["messages"][1]["tool_calls"] == [signed]
    _, listed = await door.call("GET", f"/responses/{response['id']}/input_items?order=asc")
    assert listed["data"][1]["extra_content"] == signed["extra_content"]


async def test_what_is_new_beside_a_round_that_is_said_again_stays_in_its_order(door: Door, llm: ScriptedLLM):
    conversation = await door.converse()
    llm.play(reply(delta(tool_calls=[a_call("call_1")]), finish="tool_calls"))
    said: list[Any] = [{"role": "user", "content": "weather?"}]
    await door.respond(said, conversation=conversation)
    said.append({"type": "function_call_output", "call_id": "call_1", "output": "x"})
    said += [{"role": "user", "content": text} for text in ("and", "then", "and")]
    await door.respond(said, conversation=conversation)
    sent = [message["content"] for message in llm.exchanges[-1].body["messages"]]
    assert sent == ["weather?", None, "x", "and", "then", "and"]


def test_what_is_said_around_calls_stands_beside_them():
    said = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Wait, "},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"role": "assistant", "content": "I look."},
        {"type": "function_call_output", "call_id": "c", "output": "x"},
    ]
    messages = messages_of(said, "input", _no_item)
    assert new_of(messages, ()) == messages
    roles_and_texts = [(m["role"], m["content"]) for m in map(json.loads, messages)]
    assert roles_and_texts == [("user", "Hi"), ("assistant", "Wait, I look."), ("tool", "x")]


def test_texts_beside_many_calls_are_joined_once():
    """To join them again at each call took 8 s of 10,000."""
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    joined = []
    for count in (10, 100):
        with counted_calls("join") as joins:
            [said] = messages_of(
                [{"role": "assistant", "content": "x" * 1000}, call] * count, "input", _no_item
            )
        joined.append(len(joins))
        message = json.loads(said)
        assert (message["content"], len(message["tool_calls"])) == ("x" * 1000 * count, count)
    assert joined[0] == joined[1], "not once more for each"


def test_allowed_tools_are_found_at_once_however_many_there_are():
    """To look for each tool in a list took 1.4 s of 9,000."""
    Compared.count = 0
    tools = [{"type": "function", "name": f"tool_{number}"} for number in range(100)]
    others = [tool | {"name": Compared(f"other_{tool['name']}")} for tool in tools]
    choice = {"type": "allowed_tools", "mode": "auto", "tools": others}
    read_question({"input": "Hi", "tools": tools, "tool_choice": choice}, _no_item)
    assert Compared.count <= 100


async def test_outputs_follow_their_calls_wherever_they_are_said(door: Door, llm: ScriptedLLM):
    def called(id_: str) -> dict[str, Any]:
        return {"type": "function_call", "call_id": id_, "name": "f", "arguments": "{}"}

    def gave(id_: str, output: str) -> dict[str, Any]:
        return {"type": "function_call_output", "call_id": id_, "output": output}

    user = {"role": "user", "content": "Wait."}
    said = [user, called("a"), called(""), gave("a", "1"), user, called("a"), gave("", "2"), user]
    await door.respond(said)
    roles = [message["role"] for message in llm.exchanges[-1].body["messages"]]
    assert roles == ["user", "assistant", "tool", "tool", "user", "user"]
    await door.respond([user, called("a"), user, called("b"), gave("b", "2"), gave("a", "1")])
    sent = llm.exchanges[-1].body["messages"]
    assert [message["content"] for message in sent] == ["Wait.", None, "1", "Wait.", None, "2"]


async def test_an_output_that_the_llm_would_not_be_sent_is_refused(door: Door, llm: ScriptedLLM):
    output = {"type": "function_call_output", "call_id": "c", "output": "x"}
    calling = delta(tool_calls=[a_call("c")])
    llm.play(reply(calling, finish="length"))
    cut = await door.respond("call", tools=[TOOL])
    await door.refused(400, "input", input=[output], previous_response_id=cut["id"])
    llm.play(reply(calling, finish="tool_calls"))
    whole = await door.respond("call", tools=[TOOL])
    await door.refused(400, "input", input=[output, output], previous_response_id=whole["id"])
    go_on = {"role": "user", "content": "Go on."}
    for said in ([output, go_on], [go_on, output]):
        await door.respond(said, previous_response_id=whole["id"])
        roles = [message["role"] for message in llm.exchanges[-1].body["messages"]]
        assert roles == ["user", "assistant", "tool", "user"]
