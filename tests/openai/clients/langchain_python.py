"""LangChain's ChatOpenAI over the Responses API, and over Chat Completions."""

# ruff: noqa: PT017

from __future__ import annotations

import importlib.metadata

from langchain_core.exceptions import ContextOverflowError
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel
from steps import BASE_URL, run


class Person(BaseModel):
    """A person."""

    name: str
    age: int


@tool
def get_weather(city: str) -> str:
    """The weather of a city."""
    return f"21 °C in {city}"


def model(**more) -> ChatOpenAI:
    options = {"use_responses_api": True} | more
    return ChatOpenAI(model="m", base_url=BASE_URL, api_key="any", max_retries=0, **options)


def invoke():
    answer = model().invoke([SystemMessage("Be short."), HumanMessage("hello")])
    assert answer.text == "You said: hello"
    assert answer.usage_metadata["total_tokens"] == 16
    assert answer.response_metadata["id"].startswith("resp_")


def stream():
    chunks = list(model().stream("hello"))
    assert "".join(chunk.text for chunk in chunks) == "You said: hello"


def reasoning():
    answer = model(output_version="responses/v1").invoke("think")
    assert [block["type"] for block in answer.content] == ["reasoning", "text"]
    whole = None
    for chunk in model(output_version="responses/v1").stream("think"):
        whole = chunk if whole is None else whole + chunk
    assert whole.content[0]["summary"][0]["text"] == "Let me see."


def tools_round_trip():
    bound = model().bind_tools([get_weather])
    question = HumanMessage("weather?")
    called = bound.invoke([question])
    assert called.tool_calls[0]["args"] == {"city": "Seoul"}
    output = get_weather.invoke(called.tool_calls[0])
    assert isinstance(output, ToolMessage)
    assert bound.invoke([question, called, output]).text == "The tool says: 21 °C in Seoul"
    assert bound.bind(tool_choice="none").invoke([question]).text == "You said: weather?"
    whole = None
    for chunk in bound.stream([question]):
        whole = chunk if whole is None else whole + chunk
    assert whole.tool_calls[0]["args"] == {"city": "Seoul"}


def structured_output():
    structured = model().with_structured_output(Person, method="json_schema")
    assert structured.invoke("Who?") == Person(name="Kim", age=30)


def previous_response():
    chat = model(use_previous_response_id=True)
    first = chat.invoke([HumanMessage("one")])
    second = chat.invoke([HumanMessage("one"), first, HumanMessage("two")])
    assert second.text == "You said: one / two"


def history_of_its_own():
    chat = model()
    first = chat.invoke([HumanMessage("one")])
    assert isinstance(first, AIMessage)
    assert chat.invoke([HumanMessage("one"), first, HumanMessage("two")]).text == "You said: one / two"


def chat_completions():
    chat = model(use_responses_api=False)
    assert chat.invoke("hello").text == "You said: hello"
    assert "".join(chunk.text for chunk in chat.stream("hello")) == "You said: hello"
    assert chat.bind_tools([get_weather]).invoke("weather?").tool_calls[0]["args"] == {"city": "Seoul"}


def errors():
    import openai

    try:
        model().invoke("reject")
    except openai.BadRequestError as error:
        assert error.code == "llm_rejected"
    else:
        raise AssertionError("no error")
    for chat in (model(), model(use_responses_api=False), model(truncation="disabled")):
        try:
            chat.invoke("overflow")
        except ContextOverflowError:
            continue
        raise AssertionError("no error")


STEPS = [
    invoke, stream, reasoning, tools_round_trip, structured_output, previous_response, history_of_its_own,
    chat_completions, errors,
]  # fmt: skip
run(STEPS, f"langchain-openai {importlib.metadata.version('langchain-openai')}")
