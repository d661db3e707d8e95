"""openai-agents for Python: agents with tools, streams, structured output, and sessions kept here."""

from __future__ import annotations

import importlib.metadata

from agents import (
    Agent,
    ModelSettings,
    OpenAIConversationsSession,
    Runner,
    function_tool,
    set_default_openai_client,
    set_tracing_disabled,
)
from openai import AsyncOpenAI
from pydantic import BaseModel
from steps import BASE_URL, run

set_tracing_disabled(True)
calls: list[str] = []


class Person(BaseModel):
    name: str
    age: int


@function_tool
def get_weather(city: str) -> str:
    """The weather of a city."""
    calls.append(city)
    return f"21 °C in {city}"


def agent(**more) -> Agent:
    set_default_openai_client(AsyncOpenAI(base_url=BASE_URL, api_key="any"), use_for_tracing=False)
    return Agent(name="A", instructions="Be short.", model="m", **more)


async def plain():
    result = await Runner.run(agent(), "hello")
    assert result.final_output == "You said: hello"
    assert result.raw_responses[0].usage.total_tokens == 16


async def streamed():
    result = Runner.run_streamed(agent(), "hello")
    raw = [e.data async for e in result.stream_events() if e.type == "raw_response_event"]
    deltas = [data.delta for data in raw if data.type == "response.output_text.delta"]
    assert "".join(deltas) == result.final_output == "You said: hello"


async def tools():
    calls.clear()
    result = await Runner.run(agent(tools=[get_weather]), "weather in two cities")
    assert result.final_output == "The tool says: 21 °C in Busan"
    assert calls == ["Seoul", "Busan"]


async def tools_streamed_with_reasoning():
    settings = ModelSettings(store=True, response_include=["reasoning.encrypted_content"])
    result = Runner.run_streamed(agent(tools=[get_weather], model_settings=settings), "weather?")
    names = [e.name async for e in result.stream_events() if e.type == "run_item_stream_event"]
    assert names == ["tool_called", "tool_output", "message_output_created"], names


async def structured_output():
    result = await Runner.run(agent(output_type=Person), "Who?")
    assert result.final_output == Person(name="Kim", age=30)


async def previous_response():
    first = await Runner.run(agent(), "one")
    second = await Runner.run(agent(), "two", previous_response_id=first.last_response_id)
    assert second.final_output == "You said: one / two"
    chained = await Runner.run(agent(tools=[get_weather]), "weather?", auto_previous_response_id=True)
    assert chained.final_output == "The tool says: 21 °C in Seoul"


async def conversation():
    client = AsyncOpenAI(base_url=BASE_URL, api_key="any")
    conversation = await client.conversations.create()
    await Runner.run(agent(tools=[get_weather]), "weather?", conversation_id=conversation.id)
    result = await Runner.run(agent(), "two", conversation_id=conversation.id)
    assert result.final_output == "You said: weather? / two"
    items = [item.type async for item in client.conversations.items.list(conversation.id, order="asc")]
    kinds = ["message", "function_call", "function_call_output", "message", "message", "message"]
    assert items == kinds, items


async def conversations_session():
    client = AsyncOpenAI(base_url=BASE_URL, api_key="any")
    session = OpenAIConversationsSession(openai_client=client)
    await Runner.run(agent(tools=[get_weather]), "weather?", session=session)
    result = await Runner.run(agent(), "two", session=session)
    assert result.final_output == "You said: weather? / two"
    items = await session.get_items()
    assert len(items) == 6, items
    assert [item["role"] for item in await session.get_items(limit=2)] == ["user", "assistant"]
    popped = await session.pop_item()
    assert popped["content"][0]["text"] == "You said: weather? / two"
    assert len(await session.get_items()) == 5
    await session.clear_session()


async def session_with_reasoning():
    client = AsyncOpenAI(base_url=BASE_URL, api_key="any")
    session = OpenAIConversationsSession(openai_client=client)
    await Runner.run(agent(), "think", session=session)
    result = await Runner.run(agent(), "two", session=session)
    assert result.final_output == "You said: think / two"


async def cancelled():
    client = AsyncOpenAI(base_url=BASE_URL, api_key="any")
    result = Runner.run_streamed(agent(), "for ever")
    async for event in result.stream_events():
        if event.type == "raw_response_event" and event.data.type == "response.created":
            response_id = event.data.response.id
        if event.type == "raw_response_event" and getattr(event.data, "delta", "") == "on":
            await client.responses.cancel(response_id)
    assert result.final_output == "On and on"


STEPS = [
    plain, streamed, tools, tools_streamed_with_reasoning, structured_output, previous_response, conversation,
    conversations_session, session_with_reasoning, cancelled,
]  # fmt: skip
run(STEPS, f"openai-agents (Python) {importlib.metadata.version('openai-agents')}")
