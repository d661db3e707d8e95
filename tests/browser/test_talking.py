"""Talking: sending, stopping, answering again, editing, copying, and the list of conversations."""

from __future__ import annotations

import pytest


async def test_an_answer_appears_as_it_comes(reader, llm):
    answer = llm.answers("tell me")
    await reader.send("tell me")
    await reader.see(reader.questions, "tell me")
    await answer.asked.wait()
    text = ""
    for piece in ("One", " two", " three"):
        answer.say(piece)
        await reader.see(reader.answers, text := text + piece)
    assert await reader.done.count() == 0
    answer.finish()
    await reader.see(reader.done, count=1)


@pytest.mark.parametrize("how", ["button", "key"])
async def test_stopping_keeps_what_was_written(reader, llm, server, how):
    answer = await reader.begin(llm, "a long story", "Once upon a time")
    await (reader.press("Stop the answer") if how == "button" else reader.box.press("Escape"))
    await answer.left.wait()
    await reader.see(reader.done.locator(".note"), "Stopped")
    await reader.see(reader.answers, "Once upon a time")
    assert (await server.history(reader.session()))[1] == ("assistant", "Once upon a time")
    await reader.refresh()
    await reader.see(reader.done.locator(".note"), "Stopped")


@pytest.mark.parametrize("heartbeat", ["15", "0.1"], ids=["before-headers", "after-heartbeats"])
async def test_stopping_before_the_first_word_keeps_the_question(open_page, own_server, llm, heartbeat):
    server = await own_server(STREAM_HEARTBEAT_SECONDS=heartbeat)
    reader = await open_page(server.url)
    reader.expects("409")
    question = f"nothing yet {heartbeat}"
    answer = await reader.begin(llm, question)
    await reader.press("Stop the answer")
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


async def test_a_question_asked_while_an_answer_runs_waits_and_is_sent_when_it_ends(reader, llm):
    answer = await reader.begin(llm, "first please", "Well")
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


@pytest.mark.parametrize("said", ["Once", ""], ids=["writing", "silent"])
async def test_a_question_that_waits_can_be_sent_now_changed_or_taken_back(reader, llm, said):
    reader.expects("409")
    answer = (await reader.begin(llm, "a very long story", said)).say("")
    for text in ("one", "two", "three"):
        await reader.send(text)
    queued = reader.page.locator(".queued")
    await reader.press("Delete", queued.nth(0))
    await reader.press("Edit", queued.nth(0))
    await reader.see_value(reader.box, "two")
    await reader.press("Stop and send now", queued.nth(0))
    await answer.left.wait()
    await reader.see(reader.answers, [said, "You said: three"])
    await reader.see_value(reader.box, "two")


async def test_questions_that_waited_for_an_answer_that_failed_go_with_the_next(reader, llm):
    reader.expects("400")
    answer = await reader.begin(llm, "fails")
    await reader.send("waits")
    answer.refuse(400, "no")
    await reader.see(reader.failure)
    await reader.send("goes on")
    await reader.see(reader.answers, ["", "You said: waits", "You said: goes on"])


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
    await reader.stop_clock()
    for place, text in ((".user", "some `code`?"), (".reply > .acts", source), (".code", "if x:\n    y()")):
        box = reader.page.locator(place)
        await reader.press("Copy", box)
        await reader.see(box.get_by_role("button", name="Copied"))
        assert await reader.page.evaluate("navigator.clipboard.readText()") == text
    await reader.page.clock.run_for(2000)
    await reader.see(box.get_by_role("button", name="Copy"))


async def test_copying_works_where_there_is_no_clipboard_api(open_page):
    reader = await open_page(permissions=["clipboard-read"])
    await reader.page.add_init_script(
        "navigator.clipboard.writeText = () => Promise.reject(new Error('no secure context'))"
    )
    await reader.refresh()
    await reader.ask("copy me")
    await reader.stop_clock()
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


async def test_the_enter_that_ends_a_composition_opens_no_conversation(reader):
    await reader.ask("한글 공부")
    await reader.page.get_by_role("link", name="New conversation").click()
    session = await reader.page.context.new_cdp_session(reader.page)
    search = reader.page.get_by_role("searchbox")
    await search.focus()
    await session.send("Input.imeSetComposition", {"text": "한글", "selectionStart": 2, "selectionEnd": 2})
    key = {"type": "rawKeyDown", "windowsVirtualKeyCode": 229, "key": "Enter", "code": "Enter"}
    await session.send("Input.dispatchKeyEvent", key)
    await session.send("Input.insertText", {"text": "한글"})
    assert reader.session() == ""
    await search.press("Enter")
    await reader.see(reader.questions, "한글 공부")
