"""What another client does to a conversation that is open here."""

from __future__ import annotations

import asyncio


async def test_a_conversation_that_another_client_is_using_is_shown_and_the_message_given_back(
    reader, server, llm
):
    reader.expects("409")
    await reader.ask("hello there")
    answer = llm.answers("from elsewhere").say("Busy ")
    other = asyncio.create_task(
        server.call("POST", "/chat/stream", {"session_id": reader.session(), "message": "from elsewhere"})
    )
    await answer.asked.wait()
    await reader.send("me too")
    await reader.see(reader.questions, ["hello there", "from elsewhere"])
    await reader.see_part(reader.hint, "An answer is already being written here.")
    await reader.see_value(reader.box, "me too")
    answer.say("no more").finish()
    await reader.see(reader.answers.last, "Busy no more")
    await reader.see(reader.done, count=2)
    await reader.see_part(reader.hint, "Enter sends")
    await other
    await reader.box.press("Enter")
    await reader.see(reader.answers.last, "You said: me too")


async def test_a_conversation_deleted_elsewhere_is_said_to_be_gone(reader, server, llm):
    await reader.begin(llm, "delete from elsewhere", "Hm")
    assert (await server.call("DELETE", f"/sessions/{reader.session()}"))[0] == 204
    await reader.see_part(reader.failure, "The server no longer has this conversation")
    await reader.see_value(reader.box, "delete from elsewhere")


async def test_a_title_changed_in_one_tab_changes_in_the_other(reader):
    await reader.ask("old title")
    other = await reader.another_tab(reader.page.url)
    await other.see(other.done, count=1)
    await other.rename("new title")
    await reader.see(reader.listed, "new title")
    await reader.see(reader.page.locator("h1"), "new title")


async def test_what_was_deleted_elsewhere_is_not_asked_again(reader, server):
    reader.expects("404")
    for text in ("one", "two"):
        await reader.ask(text)
    _, page = await server.call("GET", f"/sessions/{reader.session()}/messages?limit=2")
    await server.call("DELETE", f"/sessions/{reader.session()}/messages/{page['messages'][0]['message_id']}")
    await reader.turns.last.hover()
    await reader.press("Edit", reader.turns.last)
    await reader.send("two, but better")
    await reader.see(reader.questions, ["one"])
    await reader.see_value(reader.box, "two, but better")
    await reader.ask("three")
    await reader.see(reader.questions, ["one", "three"])


async def test_messages_that_another_client_added_stand_one_below_the_other(reader, server):
    await reader.ask("hello")
    added = [{"role": "user", "content": text} for text in ("up", "down")]
    await server.call("POST", f"/../v1/conversations/conv_{reader.session()}/items", {"items": added})
    await reader.refresh()
    await reader.see(reader.questions, ["hello", "up", "down"])
    up, down = [await reader.questions.nth(number).bounding_box() for number in (1, 2)]
    assert up["y"] + up["height"] <= down["y"]
