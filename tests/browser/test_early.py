"""Somebody is quicker than the line: nothing is lost, sent twice or shown in the wrong place."""

from __future__ import annotations

import asyncio


async def delay(page, path):
    """Requests for that path wait for the event that is returned."""
    gate = asyncio.Event()

    async def wait(route):
        await gate.wait()
        await route.continue_()

    await page.route(path, wait)
    return gate


async def test_what_is_written_while_a_conversation_begins_goes_with_it(reader, llm):
    begun = await delay(reader.page, "**/api/sessions")
    await reader.send("slowly begun")
    await reader.send("waits for that")
    await reader.type("half a thought")
    begun.set()
    await reader.see(reader.done, count=2)
    for _ in range(2):
        await reader.page.get_by_role("link", name="New conversation").click()
        await reader.see_value(reader.box, "")
        await reader.ask("apart from it")
        await reader.see(reader.questions, "apart from it")
    await reader.listed.last.click()
    await reader.see(reader.questions, ["slowly begun", "waits for that"])
    await reader.see_value(reader.box, "half a thought")
    assert llm.times_asked("waits for that") == 1


async def test_what_is_on_its_way_is_not_sent_by_the_next_conversation_too(reader, llm):
    begun = await delay(reader.page, "**/api/sessions")
    await reader.send("not yet begun")
    await reader.page.get_by_role("link", name="New conversation").click()
    await reader.see(reader.turns, count=0)
    begun.set()
    await reader.ask("the next one")
    await reader.see(reader.questions, "the next one")
    await reader.see(reader.listed, count=2)
    assert llm.times_asked("not yet begun") == 1


async def test_a_message_sent_before_those_that_wait_are_there_is_added_to_them(reader, llm):
    answer = await reader.begin(llm, "much to do", "Well")
    await reader.send("waits already")
    come = await delay(reader.page, "**/messages?*")
    await reader.refresh()
    await reader.send("comes early")
    come.set()
    answer.finish()
    await reader.see(reader.questions, ["much to do", "waits already", "comes early"])
    await reader.see(reader.done, count=3)


async def test_a_message_sent_before_the_history_came_stands_below_it(reader, llm):
    await reader.ask("early history")
    come = await delay(reader.page, "**/messages?*")
    await reader.refresh()
    answer = llm.answers("too early")
    await reader.send("too early")
    await reader.see_part(reader.page.locator("#queue"), "too early")
    come.set()
    answer.say("Now").finish()
    await reader.see(reader.answers, ["You said: early history", "Now"])
    await reader.see(reader.questions, ["early history", "too early"])


async def test_what_another_tab_asked_is_shown_after_an_answer_that_began_before_it_was_known(reader, llm):
    await reader.ask("in both tabs")
    tab = await reader.another_tab(reader.page.url)
    await tab.see(tab.done, count=1)
    come = await delay(tab.page, "**/messages?*")
    async with tab.page.expect_request("**/messages?*"):
        await reader.ask("from one tab")
    await reader.page.close()
    answer = await tab.begin(llm, "from the other", "Well")
    async with tab.page.expect_event("requestfinished", lambda request: "/messages?" in request.url):
        come.set()
    answer.finish()
    await tab.see(tab.questions, ["in both tabs", "from one tab", "from the other"])
    await tab.see(tab.done, count=3)
