"""Talking: sending, stopping, answering again, editing, copying, and the list of conversations."""

from __future__ import annotations

import json

import pytest

STOP = "Stop the answer"


async def test_an_answer_appears_as_it_comes(reader, llm):
    answer = llm.answers("tell me")
    await reader.send("tell me")
    await reader.see(reader.questions, "tell me")
    await answer.asked.wait()
    for text in ("One", "One two", "One two three"):
        answer.say(text.rpartition(" ")[2] if " " not in text else " " + text.rpartition(" ")[2])
        await reader.see(reader.answers, text)
    assert await reader.done.count() == 0
    answer.finish()
    await reader.see(reader.done, count=1)


async def test_a_conversation_is_listed_under_its_first_words_and_found_again(reader, server):
    await reader.ask("What is the\n tallest   mountain?")
    await reader.see(reader.listed, "What is the tallest mountain?")
    _, session = await server.call("GET", f"/sessions/{reader.session()}")
    assert session["metadata"] == {"title": "What is the tallest mountain?"}
    stored = json.loads(await reader.page.evaluate("localStorage.getItem('talks')"))
    assert [entry["id"] for entry in stored] == [reader.session()]
    await reader.page.goto("about:blank")
    await reader.page.goto(reader.url)
    await reader.see(reader.questions, count=0)
    await reader.listed.click()
    await reader.see(reader.answers, "You said: What is the\n tallest   mountain?")


async def test_several_conversations_are_kept_apart_and_the_last_used_comes_first(reader):
    await reader.ask("first")
    await reader.page.get_by_role("link", name="New conversation").click()
    await reader.see(reader.turns, count=0)
    await reader.ask("second")
    await reader.see(reader.listed, ["second", "first"])
    await reader.listed.last.click()
    await reader.see(reader.questions, "first")
    await reader.ask("more")
    await reader.see(reader.listed, ["first", "second"])
    await reader.page.go_back()
    await reader.see(reader.questions, "second")


async def test_renaming_changes_the_title_everywhere_and_keeps_other_metadata(reader, server):
    await reader.ask("a name to change")
    path = f"/sessions/{reader.session()}"
    await server.call("PATCH", path, {"metadata": {"title": "a name to change", "colour": "red"}})
    await reader.rename("A better name")
    await reader.see(reader.listed, "A better name")
    await reader.see(reader.page.locator("h1"), "A better name")
    _, session = await server.call("GET", path)
    assert session["metadata"] == {"title": "A better name", "colour": "red"}
    await reader.rename("never", "Escape")
    await reader.see(reader.listed, "A better name")


async def test_a_deleted_conversation_can_be_brought_back_and_is_gone_on_the_server_after_a_while(reader, server):
    await reader.ask("to be deleted")
    session = reader.session()
    await reader.choose("Delete")
    await reader.see(reader.listed, count=0)
    await reader.see(reader.turns, count=0)
    await reader.press("Undo")
    await reader.see(reader.answers, "You said: to be deleted")
    await reader.see(reader.listed, "to be deleted")
    assert (await server.call("GET", f"/sessions/{session}"))[0] == 200
    await reader.page.clock.install()
    await reader.choose("Delete", "Menu of “to be deleted”")
    await reader.see(reader.listed, count=0)
    async with reader.page.expect_response(lambda response: response.request.method == "DELETE"):
        await reader.page.clock.run_for(10_000)
    assert (await server.call("GET", f"/sessions/{session}"))[0] == 404


async def test_what_was_deleted_when_the_page_was_left_is_deleted_when_it_is_opened(reader, server):
    await reader.ask("deleted in haste")
    session = reader.session()
    await reader.choose("Delete")
    await reader.see(reader.listed, count=0)
    async with reader.page.expect_response(lambda response: response.request.method == "DELETE"):
        await reader.refresh()
    assert (await server.call("GET", f"/sessions/{session}"))[0] == 404
    await reader.see(reader.listed, count=0)


async def test_deleting_a_conversation_that_is_being_answered_stops_the_answer(reader, llm):
    answer = llm.answers("delete me meanwhile").say("Some")
    await reader.send("delete me meanwhile")
    await reader.see(reader.answers, "Some")
    await reader.choose("Delete")
    await reader.see(reader.turns, count=0)
    await reader.refresh()
    await answer.left.wait()
    await reader.see(reader.page.get_by_role("button", name="Send"))


async def test_stopping_keeps_what_was_written(reader, llm, server):
    answer = llm.answers("a long story").say("Once upon a time")
    await reader.send("a long story")
    await reader.see(reader.answers, "Once upon a time")
    await reader.press(STOP)
    await answer.left.wait()
    await reader.see(reader.done.locator(".note"), "Stopped")
    await reader.see(reader.answers, "Once upon a time")
    assert (await server.history(reader.session()))[1] == ("assistant", "Once upon a time")
    await reader.refresh()
    await reader.see(reader.done.locator(".note"), "Stopped")


async def test_escape_stops_the_answer_too(reader, llm):
    answer = llm.answers("another long story").say("Once")
    await reader.send("another long story")
    await reader.see(reader.answers, "Once")
    await reader.box.press("Escape")
    await answer.left.wait()
    await reader.see(reader.done.locator(".note"), "Stopped")


@pytest.mark.parametrize("heartbeat", ["15", "0.1"], ids=["before-headers", "after-heartbeats"])
async def test_stopping_before_the_first_word_keeps_the_question(open_page, own_server, llm, heartbeat):
    server = await own_server(STREAM_HEARTBEAT_SECONDS=heartbeat)
    reader = await open_page(server.url)
    reader.expects("409")
    question = f"nothing yet {heartbeat}"
    answer = llm.answers(question)
    await reader.send(question)
    await answer.asked.wait()
    await reader.press(STOP)
    await answer.left.wait()
    await reader.see_part(reader.failure, "Stopped before the first word.")
    assert await server.history(reader.session()) == []
    await reader.press("Try again")
    await reader.see(reader.answers, f"You said: {question}")
    await reader.see(reader.questions, [question])


async def test_an_answer_cut_by_the_length_limit_says_so(reader, llm):
    llm.answers("be long").say("Long").finish("length")
    await reader.ask("be long")
    await reader.see(reader.done.locator(".note"), "Cut off at the length limit")


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


async def test_escape_leaves_an_edit_and_changes_nothing(reader, server):
    await reader.ask("stay")
    await reader.press("Edit")
    await reader.box.fill("go")
    await reader.box.press("Escape")
    await reader.see_value(reader.box, "")
    await reader.see(reader.questions, "stay")
    assert (await server.history(reader.session()))[0] == ("user", "stay")


async def test_a_question_asked_while_an_answer_runs_waits_and_is_sent_when_it_ends(reader, llm):
    answer = llm.answers("first please").say("Well")
    await reader.send("first please")
    await reader.see(reader.answers, "Well")
    await reader.send("and then this")
    await reader.send("and this last")
    queued = reader.page.locator(".queued p")
    await reader.see(queued, ["and then this", "and this last"])
    await reader.see_value(reader.box, "")
    await reader.refresh()
    await reader.see(queued, ["and then this", "and this last"])
    answer.finish()
    await reader.see(reader.done, count=3)
    await reader.see(reader.answers, ["Well", "You said: and then this", "You said: and this last"])
    await reader.see(queued, count=0)


async def test_a_question_that_waits_can_be_sent_now_changed_or_taken_back(reader, llm):
    answer = llm.answers("a very long story").say("Once")
    await reader.send("a very long story")
    await reader.see(reader.answers, "Once")
    for text in ("one", "two", "three"):
        await reader.send(text)
    queued = reader.page.locator(".queued")
    await reader.press("Delete", queued.nth(0))
    await reader.press("Edit", queued.nth(0))
    await reader.see_value(reader.box, "two")
    await reader.press("Stop and send now", queued.nth(0))
    await answer.left.wait()
    await reader.see(reader.answers, ["Once", "You said: three"])
    await reader.see_value(reader.box, "two")


async def test_a_draft_survives_a_refresh_and_belongs_to_its_conversation(reader):
    await reader.ask("drafts")
    await reader.type("half a thought")
    await reader.refresh()
    await reader.see_value(reader.box, "half a thought")
    await reader.page.get_by_role("link", name="New conversation").click()
    await reader.see_value(reader.box, "")
    await reader.listed.click()
    await reader.see_value(reader.box, "half a thought")


async def test_every_send_bears_a_key_of_its_own(reader, llm):
    keys = []

    def note(request):
        if request.url.endswith("/chat/stream"):
            keys.append(request.headers.get("idempotency-key"))

    reader.page.on("request", note)
    await reader.ask("a")
    await reader.ask("a")
    await reader.press("Answer again")
    await reader.see(reader.page.locator(".turn[data-state=running]"), count=0)
    assert len(keys) == len(set(filter(None, keys))) == 3, keys


async def test_question_answer_and_code_are_copied_as_they_were_written(open_page, llm):
    reader = await open_page(permissions=["clipboard-read", "clipboard-write"])
    source = "Try **this**:\n\n```py\nif x:\n    y()\n```\n"
    llm.answers("some `code`?").say(source).finish()
    await reader.ask("some `code`?")
    pasted = "navigator.clipboard.readText()"
    await reader.press("Copy", reader.page.locator(".user"))
    await reader.see(reader.page.locator(".user").get_by_role("button", name="Copied"))
    assert await reader.page.evaluate(pasted) == "some `code`?"
    await reader.press("Copy", reader.page.locator(".reply > .acts"))
    await reader.see(reader.page.locator(".reply > .acts").get_by_role("button", name="Copied"))
    assert await reader.page.evaluate(pasted) == source
    await reader.press("Copy", reader.page.locator(".code"))
    await reader.see(reader.page.locator(".code").get_by_role("button", name="Copied"))
    assert await reader.page.evaluate(pasted) == "if x:\n    y()"
    await reader.see(reader.page.locator(".code").get_by_role("button", name="Copy"))


async def test_copying_works_where_there_is_no_clipboard_api(open_page):
    reader = await open_page(permissions=["clipboard-read"])
    await reader.page.add_init_script(
        "navigator.clipboard.writeText = () => Promise.reject(new Error('no secure context'))"
    )
    await reader.refresh()
    await reader.ask("copy me")
    await reader.press("Copy", reader.page.locator(".user"))
    await reader.see(reader.page.locator(".user").get_by_role("button", name="Copied"))
    assert await reader.page.evaluate("navigator.clipboard.readText()") == "copy me"


async def test_the_history_comes_in_by_pages_while_scrolling_up_and_nothing_moves(reader, server):
    await reader.ask("first of all")
    for number in range(64):
        body = {"session_id": reader.session(), "message": f"question {number}"}
        assert (await server.call("POST", "/chat", body))[0] == 200
    await reader.refresh()
    await reader.see(reader.questions.last, "question 63")
    assert await reader.turns.count() < 65, "the whole history was loaded at once"
    scroller = reader.page.locator("#scroller")
    await scroller.hover()
    while await reader.turns.count() < 65:
        count = await reader.turns.count()
        top = "node => node.getBoundingClientRect().top"
        mark = await reader.turns.nth(3).element_handle()
        await scroller.evaluate("node => { node.scrollTop = 500; }")
        before = await mark.evaluate(top)
        await scroller.evaluate("node => { node.scrollTop = 300; }")
        await reader.until("document.querySelectorAll('.turn').length > argument", count)
        assert abs(await mark.evaluate(top) - before - 200) < 2, "the text moved under the reader"
    await reader.see(reader.questions.first, "first of all")
    texts = await reader.questions.all_inner_texts()
    assert texts == ["first of all"] + [f"question {number}" for number in range(64)]


async def test_enter_sends_and_shift_enter_breaks_the_line(reader):
    await reader.box.press_sequentially("one")
    await reader.box.press("Shift+Enter")
    await reader.box.press_sequentially("two")
    await reader.see(reader.turns, count=0)
    await reader.box.press("Enter")
    await reader.see(reader.questions, "one\ntwo")
    await reader.see_value(reader.box, "")


async def test_nothing_but_blanks_is_not_sent(reader):
    await reader.send("  \n ")
    await reader.see(reader.turns, count=0)


@pytest.mark.parametrize("how", ["isComposing", "keyCode"])
async def test_the_enter_that_ends_a_composition_never_sends(reader, how):
    """Chromium and Firefox say isComposing; Safari, where it has ended by then, only the key code 229."""
    init = {"key": "Enter", "bubbles": True, "cancelable": True, how: True if how == "isComposing" else 229}
    await reader.type("한글")
    await reader.box.evaluate("(node, init) => node.dispatchEvent(new KeyboardEvent('keydown', init))", init)
    await reader.see_value(reader.box, "한글")
    await reader.see(reader.turns, count=0)
    await reader.box.press("Enter")
    await reader.see(reader.questions, "한글")


async def test_a_real_input_method_composes_undisturbed(reader):
    session = await reader.page.context.new_cdp_session(reader.page)
    await reader.box.focus()
    await session.send("Input.imeSetComposition", {"text": "ㅎ", "selectionStart": 1, "selectionEnd": 1})
    await session.send("Input.imeSetComposition", {"text": "한", "selectionStart": 1, "selectionEnd": 1})
    # The keydown that an input method reports for whatever it swallows.
    key = {"type": "rawKeyDown", "windowsVirtualKeyCode": 229, "key": "Enter", "code": "Enter"}
    await session.send("Input.dispatchKeyEvent", key)
    await session.send("Input.insertText", {"text": "한"})
    await reader.see_value(reader.box, "한")
    await reader.see(reader.turns, count=0)
    await reader.box.press("Enter")
    await reader.see(reader.answers, "You said: 한")
