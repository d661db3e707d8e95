"""For every reader: by keyboard or screen reader, on a phone, in the dark, in Korean, without motion."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

AXE = Path(__file__).parent / ".cache" / "node_modules" / "axe-core" / "axe.min.js"
RICH = """### A heading

Some **bold** text, `code`, and [a link](https://x.example/).

1. one
   - nested
2. two

```python
def answer():
    return 42  # and a line that is long enough to need scrolling on any phone, and then some more of it
```
"""


def axe_source() -> str:
    path = Path(os.environ.get("AXE_PATH", AXE))
    if not path.exists() and "AXE_PATH" not in os.environ:
        command = ["npm", "install", "--no-save", "--no-audit", "--no-fund", "axe-core@4"]
        AXE.parents[2].mkdir(exist_ok=True)
        try:
            subprocess.run(command, cwd=AXE.parents[2], check=True, capture_output=True, timeout=60)
        except (OSError, subprocess.SubprocessError) as error:
            pytest.skip(f"axe-core is not here and could not be fetched: {error}")
    if not path.exists():
        pytest.skip(f"there is no axe-core at {path}")
    return path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "options",
    [
        {"color_scheme": "light"},
        {"color_scheme": "dark"},
        {"width": 390, "height": 780, "has_touch": True, "is_mobile": True},
        {
            "width": 390,
            "height": 780,
            "has_touch": True,
            "is_mobile": True,
            "color_scheme": "dark",
            "locale": "ko-KR",
        },
    ],
    ids=["light", "dark", "phone", "phone-dark-korean"],
)
async def test_axe_finds_nothing_serious(open_page, llm, options):
    axe = axe_source()
    reader = await open_page(**options)
    reader.expects("400")
    findings = {}

    async def check(state: str) -> None:
        # Through the debugger, which the page's policy does not concern.
        await reader.page.evaluate(axe + "; 0")
        result = await reader.page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
        findings[state] = [
            (item["impact"], item["id"], [node["html"] for node in item["nodes"]])
            for item in result["violations"]
        ]

    await check("empty")
    llm.answers("show me").say(RICH).finish()
    await reader.ask("show me")
    llm.answers("refuse me").refuse(400, "no")
    await reader.send("refuse me")
    await reader.see(reader.failure)
    await check("talking")
    if options.get("is_mobile"):
        await reader.page.locator("#menu").click()
        await reader.page.wait_for_timeout(300)
        await check("menu")
        await reader.page.keyboard.press("Escape")
    await reader.page.locator("#rename").click()
    await check("dialog")
    await reader.page.keyboard.press("Escape")
    running = llm.answers("go slowly").say("Slowly")
    await reader.send("go slowly")
    await reader.see(reader.answers.last, "Slowly")
    await check("answering")
    running.finish()
    print(findings)
    serious = {
        state: [one for one in found if one[0] in ("serious", "critical")]
        for state, found in findings.items()
    }
    assert not any(serious.values()), serious


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
    await tab_to("Rename", "Shift+Tab")
    await keyboard.press("Enter")
    await keyboard.press("Control+a")
    await keyboard.type("Keys")
    await keyboard.press("Enter")
    await reader.see(reader.listed, "Keys")
    await tab_to("New conversation", "Shift+Tab")
    await keyboard.press("Enter")
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
    await tab_to("Delete", "Shift+Tab")
    await keyboard.press("Enter")
    await reader.see(reader.page.get_by_role("dialog"))
    await tab_to("OK")
    await keyboard.press("Enter")
    await reader.see(reader.listed, count=0)
    await reader.see_focus(reader.box)


async def test_the_live_region_is_told_of_answers_and_not_of_tokens(reader, llm):
    status = reader.page.get_by_role("status")
    await status.evaluate(
        """node => {
          window.said = [];
          new MutationObserver(() => window.said.push(node.textContent)).observe(node, { childList: true });
        }"""
    )
    answer = llm.answers("many words").say("word " * 2)
    await reader.send("many words")
    await reader.see_part(reader.answers, "word word")
    assert await reader.answers.get_attribute("aria-busy") == "true"
    answer.say(*["word "] * 300).finish()
    await reader.see(reader.done, count=1)
    said = await reader.page.evaluate("window.said")
    assert [text[:27] for text in said] == ["The assistant is answering.", "Assistant: word word word w"]
    assert await reader.answers.get_attribute("aria-busy") == "false"
    live = await reader.page.evaluate(
        "[...document.querySelectorAll('[aria-live], [role=log], [role=status]')].length"
    )
    assert live == 1


async def test_on_a_phone_the_list_is_a_drawer_and_nothing_is_wider_than_the_screen(open_page, llm):
    reader = await open_page(width=360, height=640, has_touch=True, is_mobile=True)
    llm.answers("wide").say(RICH, "\n\n", "w" * 300).finish()
    await reader.ask("wide")
    wide = "document.documentElement.scrollWidth > innerWidth || scroller.scrollWidth > scroller.clientWidth"
    assert not await reader.page.evaluate(wide)
    new = reader.page.get_by_role("link", name="New conversation")
    await reader.see_gone(new)
    menu = reader.page.get_by_role("button", name="Conversations")
    await menu.tap()
    assert await menu.get_attribute("aria-expanded") == "true"
    await reader.see_focus(new)
    await reader.page.keyboard.press("Escape")
    await reader.see_gone(new)
    await reader.see_focus(menu)
    await menu.tap()
    await reader.page.wait_for_timeout(300)
    await reader.page.touchscreen.tap(350, 300)
    await reader.see_gone(new)
    await menu.tap()
    await new.tap()
    await reader.see_gone(new)
    await reader.see(reader.turns, count=0)
    # A field under 16px makes a phone zoom in on the page.
    assert await reader.box.evaluate("node => parseFloat(getComputedStyle(node).fontSize)") >= 16


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
    answer = llm.answers("be calm")
    await reader.send("be calm")
    await answer.asked.wait()
    moving = "document.getAnimations({ subtree: true }).length"
    assert await reader.page.evaluate(moving) == 0
    await reader.page.locator("#menu").click()
    assert await reader.page.evaluate(moving) == 0
    answer.say("Calm.").finish()


async def test_the_page_follows_the_answer_only_while_the_reader_is_at_its_end(reader, llm):
    scroller = reader.page.locator("#scroller")
    left = "node => node.scrollHeight - node.scrollTop - node.clientHeight"
    answer = llm.answers("scroll").say("line\n\n" * 60)
    await reader.send("scroll")
    await reader.until("scroller.scrollHeight > 1500")
    assert await scroller.evaluate(left) < 5
    await scroller.hover()
    await reader.page.mouse.wheel(0, -300)
    below = "scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight"
    await reader.until(f"{below} > 200")
    top = await scroller.evaluate("node => node.scrollTop")
    answer.say("more\n\n" * 30)
    await reader.see_part(reader.answers, "more")
    assert await scroller.evaluate("node => node.scrollTop") == top
    await reader.page.mouse.wheel(0, 10_000)
    await reader.until(f"{below} < 5")
    answer.say("and more\n\n" * 30)
    await reader.see_part(reader.answers, "and more")
    await reader.until(f"{below} < 5")
    answer.finish()
    await reader.see(reader.done, count=1)


async def test_a_korean_browser_is_spoken_to_in_korean(open_page, llm):
    reader = await open_page(locale="ko-KR")
    reader.expects("429")
    assert await reader.page.evaluate("document.documentElement.lang") == "ko"
    await reader.see(reader.page.get_by_role("link", name="새 대화"))
    await reader.see(reader.page.get_by_role("button", name="보내기"))
    llm.answers("안녕하세요").refuse(429, "천천히", {"Retry-After": "1"})
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
    words = await reader.page.evaluate("Object.entries(WORDS)")
    assert all(len(pair) == 2 and all(pair) for _, pair in words), words
    odd = [key for key, (english, korean) in words if english.count("{}") != korean.count("{}")]
    assert odd == []


async def test_the_focus_stays_in_the_list_when_the_list_changes(reader, llm):
    await reader.ask("one conversation")
    answer = llm.answers("still at work").say("Well, ")
    await reader.send("still at work")
    await reader.see(reader.answers.last, "Well, ")
    await reader.listed.focus()
    answer.say("done").finish()
    await reader.see(reader.done, count=2)
    await reader.see_focus(reader.listed)
