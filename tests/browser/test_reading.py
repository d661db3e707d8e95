"""For every reader: by keyboard or screen reader, on a phone, in the dark, in Korean, without motion."""

from __future__ import annotations

from tests.browser.test_access import RICH


async def test_everything_can_be_done_with_the_keyboard_alone(reader, llm):
    keyboard = reader.page.keyboard

    async def tab_to(name: str, key: str = "Tab") -> None:
        for _ in range(40):
            await keyboard.press(key)
            focused = "[document.activeElement.ariaLabel, document.activeElement.textContent.trim()]"
            if name in await reader.page.evaluate(focused):
                outline = "getComputedStyle(document.activeElement).outlineStyle"
                assert await reader.page.evaluate(outline) != "none", f"the focus on {name} cannot be seen"
                return
        raise AssertionError(f"{name} cannot be reached by {key}")

    await reader.see_focus(reader.box)
    await keyboard.type("by keyboard")
    await keyboard.press("Enter")
    await reader.see(reader.done, count=1)
    await reader.see_focus(reader.box)
    await tab_to("Answer again", "Shift+Tab")
    await keyboard.press("Enter")
    await reader.see(reader.done, count=1)
    await reader.see_focus(reader.box)
    await tab_to("Edit", "Shift+Tab")
    await keyboard.press("Space")
    await reader.see_focus(reader.box)
    await keyboard.press("End")
    await keyboard.type(" alone")
    await keyboard.press("Enter")
    await reader.see(reader.answers, ["You said: by keyboard alone"])
    await tab_to("More about this conversation", "Shift+Tab")
    await keyboard.press("Enter")
    await keyboard.press("Enter")
    await keyboard.press("Control+a")
    await keyboard.type("Keys")
    await keyboard.press("Enter")
    await reader.see(reader.listed, "Keys")
    await keyboard.press("Control+Shift+o")
    await reader.see(reader.turns, count=0)
    await reader.see_focus(reader.box)
    await tab_to("Keys", "Shift+Tab")
    await keyboard.press("Enter")
    await reader.see(reader.done, count=1)
    answer = llm.answers("stop by key").say("On and on")
    await keyboard.type("stop by key")
    await keyboard.press("Enter")
    await reader.see(reader.answers.last, "On and on")
    await tab_to("Stop the answer")
    await keyboard.press("Enter")
    await answer.left.wait()
    await reader.see(reader.done, count=2)
    await reader.see_focus(reader.box)
    await tab_to("More about this conversation", "Shift+Tab")
    await keyboard.press("Enter")
    await keyboard.press("ArrowUp")
    await keyboard.press("Enter")
    await reader.see(reader.listed, count=0)
    await reader.see_focus(reader.box)


async def test_the_settings_are_filled_in_by_keyboard_and_no_field_is_hidden_while_it_is(open_page, llm):
    reader = await open_page(width=375, height=560)
    keyboard = reader.page.keyboard
    await reader.page.locator("#adjust").click()
    for field in ("model", "system", "temperature", "max_tokens", "reasoning_effort", "other"):
        await keyboard.press("Tab")
        await reader.see_focus(reader.page.locator(f"#set-{field}"))
        seen = "(box) => document.elementFromPoint(box.left + 9, box.bottom - 9).id"
        focused = f"({seen})(document.activeElement.getBoundingClientRect())"
        assert await reader.page.evaluate(focused) == f"set-{field}"
    await reader.page.locator("#set-model").fill("large-model")
    await keyboard.press("Enter")
    await reader.ask("Which are you?")
    assert llm.bodies[-1]["model"] == "large-model"


async def test_the_live_region_hears_an_answer_by_the_sentence(reader, llm):
    live = reader.page.get_by_role("log")
    answer = llm.answers("two sentences").say("The first ")
    await reader.send("two sentences")
    await reader.see(reader.page.get_by_role("status"), "The assistant is answering.")
    await reader.see_part(reader.answers, "The first")
    assert await reader.answers.get_attribute("aria-busy") == "true"
    assert await live.inner_text() == ""
    answer.say("**sentence** is here. ", "The second")
    await reader.see(live, "The first sentence is here.")
    answer.say(" one ends with the answer").finish()
    await reader.see(live.locator("p").last, "The second one ends with the answer")
    await reader.see(reader.page.get_by_role("status"), "The answer is complete.")
    assert await reader.answers.get_attribute("aria-busy") == "false"


async def test_on_a_phone_the_list_is_a_drawer_and_nothing_is_wider_than_the_screen(open_page, llm):
    reader = await open_page(width=360, height=640, has_touch=True, is_mobile=True)
    llm.answers("wide").say(RICH, "\n\n", "w" * 300).finish()
    await reader.ask("wide")
    wide = "document.documentElement.scrollWidth > innerWidth || scroller.scrollWidth > scroller.clientWidth"
    assert not await reader.page.evaluate(wide)
    new = reader.page.get_by_role("link", name="New conversation")
    await reader.see_gone(new)
    menu = reader.page.get_by_role("button", name="Conversations", exact=True)
    await menu.tap()
    assert await menu.get_attribute("aria-expanded") == "true"
    await reader.see_focus(new)
    await reader.page.keyboard.press("Escape")
    await reader.see_gone(new)
    await reader.see_focus(menu)
    await menu.tap()
    await reader.see_at_rest()
    await reader.page.touchscreen.tap(350, 300)
    await reader.see_gone(new)
    await menu.tap()
    await new.tap()
    await reader.see_gone(new)
    await reader.see(reader.turns, count=0)
    # A field under 16px makes a phone zoom in on the page.
    assert await reader.box.evaluate("node => parseFloat(getComputedStyle(node).fontSize)") >= 16


async def test_the_documents_of_the_api_are_no_wider_than_a_phone(open_page, server):
    reader = await open_page(f"{server.url}/docs", width=360)
    assert await reader.page.evaluate("document.documentElement.scrollWidth") == 360


async def test_on_paper_no_line_of_code_is_cut_off(reader, llm):
    llm.answers("wide").say(RICH).finish()
    await reader.ask("wide")
    await reader.page.emulate_media(media="print")
    code = await reader.page.locator("pre").evaluate("node => [node.scrollWidth, node.clientWidth]")
    assert code[0] == code[1]


async def test_dark_and_light_follow_the_system(open_page):
    colours = {}
    for scheme in ("light", "dark"):
        reader = await open_page(color_scheme=scheme)
        style = "getComputedStyle(document.body)"
        colours[scheme] = await reader.page.evaluate(f"[{style}.backgroundColor, {style}.color]")
    brightness = {
        scheme: [sum(map(int, colour[4:-1].split(","))) for colour in pair]
        for scheme, pair in colours.items()
    }
    assert brightness["light"][0] > 700 > 200 > brightness["light"][1]
    assert brightness["dark"][0] < 200 < 600 < brightness["dark"][1]


async def test_nothing_moves_for_a_reader_who_wants_no_motion(open_page, llm):
    reader = await open_page(reduced_motion="reduce", width=390)
    answer = await reader.begin(llm, "be calm")
    moving = "document.getAnimations({ subtree: true }).length"
    assert await reader.page.evaluate(moving) == 0
    await reader.page.locator("#menu").click()
    assert await reader.page.evaluate(moving) == 0
    answer.say("Calm.").finish()


async def test_the_page_follows_the_answer_only_while_the_reader_is_at_its_end(reader, llm):
    scroller = reader.page.locator("#scroller")
    answer = llm.answers("scroll").say("line\n\n" * 60)
    await reader.send("scroll")
    await reader.until("scroller.scrollHeight > 1500")
    await reader.see_end()
    await reader.scroll_up(300)
    top = await scroller.evaluate("node => node.scrollTop")
    answer.say("more\n\n" * 30)
    await reader.see_part(reader.answers, "more")
    assert await scroller.evaluate("node => node.scrollTop") == top
    await reader.page.mouse.wheel(0, 10_000)
    await reader.see_end()
    answer.say("and more\n\n" * 30)
    await reader.see_part(reader.answers, "and more")
    await reader.see_end()
    await reader.type("a question\nof\nfour\nlines")
    await reader.see_end()
    answer.finish()
    await reader.see(reader.done, count=1)


async def test_a_korean_browser_is_spoken_to_in_korean(open_page, llm):
    reader = await open_page(locale="ko-KR")
    reader.expects("429")
    assert await reader.page.evaluate("document.documentElement.lang") == "ko"
    await reader.see(reader.page.get_by_role("link", name="새 대화"))
    await reader.see(reader.page.get_by_role("button", name="보내기", exact=True))
    llm.answers("안녕하세요").refuse(429, "천천히", "Retry-After: 1\r\n")
    await reader.send("안녕하세요")
    await reader.see_part(reader.failure, "요청이 너무 많습니다.")
    await reader.see(reader.failure.get_by_role("button").first, "다시 시도")
    await reader.press("다시 시도")
    await reader.see(reader.answers, "You said: 안녕하세요")


async def test_any_other_browser_is_spoken_to_in_english(open_page):
    reader = await open_page(locale="fr-FR")
    assert await reader.page.evaluate("document.documentElement.lang") == "en"
    await reader.see(reader.page.get_by_role("link", name="New conversation"))


async def test_both_languages_say_the_same_things(reader):
    words = await reader.in_module("words.js", "({ WORDS }) => Object.entries(WORDS)")
    assert all(len(pair) == 2 and all(pair) for _, pair in words), words
    odd = [key for key, (english, korean) in words if english.count("{}") != korean.count("{}")]
    assert odd == []


async def test_the_focus_stays_in_the_list_when_the_list_changes(reader, llm):
    await reader.ask("one conversation")
    answer = await reader.begin(llm, "still at work", "Well, ")
    await reader.listed.focus()
    answer.say("done").finish()
    await reader.see(reader.done, count=2)
    await reader.see_focus(reader.listed)
