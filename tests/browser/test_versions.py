"""Asked again, edited, or stopped: nothing that was said is lost."""

from __future__ import annotations

import pytest


async def test_answering_again_makes_a_version_and_loses_nothing(reader, llm, server):
    llm.answers("roll a die").say("Four").finish()
    await reader.ask("roll a die")
    await reader.ask("thanks")
    llm.answers("roll a die").say("Six").finish()
    first = reader.turns.first
    await first.hover()
    await reader.press("Answer again", first)
    await reader.see(reader.answers, ["Six"])
    await reader.see(first.locator(".reply .versions span"), "2/2")
    assert await server.history(reader.session()) == [("user", "roll a die"), ("assistant", "Six")]
    await reader.press("Previous version", first)
    await reader.see(reader.answers, ["Four", "You said: thanks"])
    await reader.see(first.locator(".reply .versions span"), "1/2")
    await reader.refresh()
    await reader.see(reader.answers, ["Four", "You said: thanks"])
    await reader.press("Next version", first)
    await reader.see(reader.answers, ["Six"])


async def test_an_answer_that_fails_when_asked_again_leaves_everything_as_it_was(reader, llm, server):
    reader.expects("429")
    await reader.ask("keep me")
    await reader.ask("and me")
    llm.answers("keep me").refuse(429, "slow down")
    await reader.turns.first.hover()
    await reader.press("Answer again", reader.turns.first)
    await reader.see_part(reader.failure, "Too many requests.")
    await reader.press("Back to the previous answer")
    await reader.see(reader.answers, ["You said: keep me", "You said: and me"])
    assert len(await server.history(reader.session())) == 4


async def test_editing_goes_on_from_the_edited_message_and_keeps_the_other(reader, server):
    for text in ("one", "two", "three"):
        await reader.ask(text)
    await reader.type("a draft that must survive")
    await reader.turns.nth(1).hover()
    await reader.press("Edit", reader.turns.nth(1))
    await reader.see_value(reader.box, "two")
    await reader.see_part(reader.hint, "Editing an earlier message.")
    await reader.send("two, but better")
    await reader.see(reader.answers, ["You said: one", "You said: two, but better"])
    await reader.see_value(reader.box, "a draft that must survive")
    assert [text for role, text in await server.history(reader.session()) if role == "user"] == [
        "one",
        "two, but better",
    ]
    versions = reader.turns.nth(1).locator(".user .versions")
    await reader.see(versions.locator("span"), "2/2")
    await reader.press("Previous version", versions)
    await reader.see(reader.questions, ["one", "two", "three"])


@pytest.mark.parametrize("width", [1200, 360])
async def test_an_edit_is_left_by_escape_and_on_a_phone_by_a_button_and_changes_nothing(
    open_page, server, width
):
    reader = await open_page(width=width)
    await reader.ask("stay")
    await reader.press("Edit")
    await reader.box.fill("go")
    await (reader.press("Cancel", reader.hint) if width == 360 else reader.box.press("Escape"))
    await reader.see_value(reader.box, "")
    await reader.see(reader.questions, "stay")
    assert (await server.history(reader.session()))[0] == ("user", "stay")


async def test_while_an_answer_runs_who_chooses_a_version_is_told_to_wait(reader, llm):
    await reader.ask("first")
    await reader.press("Answer again")
    await reader.see(reader.turns.first.locator(".reply .versions span"), "2/2")
    answer = await reader.begin(llm, "second", "Slowly ")
    await reader.press("Previous version", reader.turns.first)
    await reader.see_part(reader.hint, "Wait for the answer to end")
    answer.finish()
    await reader.see(reader.done, count=2)
