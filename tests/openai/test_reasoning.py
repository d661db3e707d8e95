"""What a client says was thought is kept and shown, and goes back to the LLM only if that wants it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.openai.clever_llm import a_call
from tests.openai.door import Door
from tests.tools.scripted_llm import ScriptedLLM, delta, reply
from tests.tools.server import StartServer

OUTPUT = {"type": "function_call_output", "call_id": "call_1", "output": "x"}
QUESTION = {"role": "user", "content": "weather?"}


async def ask(door: Door, llm: ScriptedLLM) -> list[dict[str, Any]]:
    """Has the LLM think and call a tool; returns the items of its answer."""
    thoughts = [delta(reasoning_content=text) for text in ("Let me ", "see.")]
    llm.play(reply(*thoughts, delta(tool_calls=[a_call("call_1")]), finish="tool_calls"))
    return (await door.respond([QUESTION]))["output"]


@pytest.mark.parametrize("refers", [True, False], ids=["by its id", "as it was shown"])
@pytest.mark.parametrize("wanted", [True, False])
async def test_a_client_that_keeps_its_conversation_gives_thoughts_back(
    start: StartServer, llm: ScriptedLLM, refers: bool, wanted: bool
):
    """DeepSeek refuses a round of tools without them."""
    door = Door(await start(send_reasoning=wanted))
    thought, call = await ask(door, llm)
    said = [{"type": "item_reference", "id": thought["id"]} if refers else thought, call]
    await door.respond([QUESTION, *said, OUTPUT])
    _, answer, _ = llm.exchanges[-1].body["messages"]
    assert answer.get("reasoning_content") == ("Let me see." if wanted else None)
    assert "reasoning" not in answer
    answer.pop("reasoning_content", None)
    await door.respond([QUESTION, call, OUTPUT])
    assert llm.exchanges[-1].body["messages"][1] == answer


@pytest.mark.parametrize("field", ["summary", "content"])
async def test_thoughts_that_are_added_to_a_conversation_are_items_of_it(
    door: Door, llm: ScriptedLLM, field: str
):
    """Servers of open models show the thoughts themselves, in the content, beside an empty summary."""
    thought, call = await ask(door, llm)
    if field == "content":
        thought |= {"summary": [], "content": [{"type": "reasoning_text", "text": "Let me see."}]}
    added = [QUESTION, thought, call, OUTPUT]
    conversation = await door.converse(*added)
    items = await door.items(conversation)
    kinds = ["message", "reasoning", "function_call", "function_call_output"]
    assert [item["type"] for item in items] == kinds
    assert items[1]["summary"] == [{"type": "summary_text", "text": "Let me see."}]
    session_id = conversation.removeprefix("conv_")
    _, history, _ = await door.server.call("GET", f"/api/sessions/{session_id}/messages")
    assert history["messages"][1]["reasoning"] == "Let me see."
    path = f"/conversations/{conversation}/items/{items[1]['id']}"
    assert (await door.call("DELETE", path))[0] == 200
    assert [item["type"] for item in await door.items(conversation)] == [kinds[0], *kinds[2:]]


async def test_a_client_that_lets_nothing_be_stored_has_what_it_gives_thoughts_back_for(
    door: Door, llm: ScriptedLLM
):
    """The AI SDK and LangChain do so if there is some encrypted_content."""
    thought, _ = await ask(door, llm)
    llm.play(reply(delta(reasoning_content="Hm."), "Yes."))
    sent = await (await door.stream("Hi", store=False)).rest()
    done = [event["item"] for event in sent if event["type"] == "response.output_item.done"]
    assert [item["type"] for item in done] == ["reasoning", "message"]
    [added] = await door.items(await door.converse(thought))
    for item in (thought, done[0], added):
        assert item["encrypted_content"]


async def test_thoughts_alone_are_kept_and_never_sent(start: StartServer, llm: ScriptedLLM):
    door = Door(await start(send_reasoning=True))
    thought = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}]}
    nothing = {"type": "reasoning", "summary": [], "encrypted_content": "x"}
    response = await door.respond([thought, nothing, QUESTION])
    assert llm.exchanges[-1].body["messages"] == [QUESTION]
    path = f"/responses/{response['id']}/input_items?order=asc"
    assert [item["type"] for item in (await door.call("GET", path))[1]["data"]] == ["reasoning", "message"]
    await door.refused(400, "input[0].summary", input=[thought | {"summary": {"a": 1}}])
