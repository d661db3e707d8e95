"""A person at the page: what is done there, and what is seen."""

from __future__ import annotations

import asyncio
import re
from datetime import datetime, timedelta

from tests.browser.world import Answer, ScriptedLLM

HANGS = 60_000  # milliseconds, after which a busy machine too is taken to wait in vain
WATCH_POLICY = """
addEventListener('securitypolicyviolation', (event) => console.error(`CSP: ${event.violatedDirective}`));
window.longTasks = [];
new PerformanceObserver((list) => window.longTasks.push(...list.getEntries().map((entry) => entry.duration)))
  .observe({ entryTypes: ['longtask'] });
"""


def expect(what: object) -> object:
    """Playwright's expectations, which wait; it may not be installed."""
    from playwright.async_api import expect

    expect.set_options(timeout=HANGS)
    return expect(what)


def file(name: str, kind: str, content: bytes) -> dict[str, object]:
    """A file as a person would choose it."""
    return {"name": name, "mimeType": kind, "buffer": content}


class Reader:
    """One tab of a browser; the other tabs of its context share its storage, as in a real one."""

    def __init__(self, url: str, context: object) -> None:
        self.url = url
        self.context = context
        self.page = None
        self.tabs: list[Reader] = []
        self._complaints: list[str] = []
        self._expected: list[str] = []

    async def open_tab(self, url: str | None = None) -> Reader:
        self.page = await self.context.new_page()
        self.page.set_default_timeout(HANGS)
        self.page.on("console", self._on_console)
        self.page.on("pageerror", lambda error: self._complaints.append(f"uncaught: {error}"))
        await self.page.add_init_script(WATCH_POLICY)
        await self.page.goto(url or self.url)
        return self

    async def another_tab(self, url: str | None = None) -> Reader:
        tab = Reader(self.url, self.context)
        self.tabs.append(tab)
        return await tab.open_tab(url)

    def _on_console(self, message: object) -> None:
        if message.type in ("error", "warning"):
            self._complaints.append(message.text)

    def expects(self, *failures: str) -> None:
        """The browser itself logs a failed request; a test that causes one says so: "429", "ERR_"."""
        self._expected += failures

    def expects_policy(self) -> None:
        """This test itself does what the page's policy forbids, as comparing with HTML that has styles."""
        self._complaints = [text for text in self._complaints if "Content Security Policy" not in text]

    def complaints(self) -> list[str]:
        """What the console was told that this test did not ask for."""
        pattern = "|".join(map(re.escape, self._expected)) or "$^"
        own = [
            text
            for text in self._complaints
            if not (text.startswith("Failed to load resource") and re.search(pattern, text))
        ]
        return own + [complaint for tab in self.tabs for complaint in tab.complaints()]

    # What is done.

    async def type(self, text: str) -> None:
        await self.box.fill(text)

    async def send(self, text: str) -> None:
        await self.box.fill(text)
        await self.box.press("Enter")

    async def ask(self, text: str) -> None:
        """Sends a message and waits for the whole answer."""
        before = await self.done.count()
        await self.send(text)
        await self.see(self.done, count=before + 1)

    async def begin(self, llm: ScriptedLLM, question: str, said: str = "") -> Answer:
        """Asks; waits until the LLM has been asked, and until so much of its answer is seen."""
        answer = llm.answers(question)
        await self.send(question)
        await answer.asked.wait()
        if said:
            answer.say(said)
            await self.see(self.answers.last, said)
        return answer

    async def press(self, name: str, within: object = None) -> None:
        await (within or self.page).get_by_role("button", name=name, exact=True).last.click()

    async def choose(self, word: str, menu: str = "More about this conversation") -> None:
        """Opens a menu and presses one of its entries."""
        await self.press(menu)
        await self.page.get_by_role("menuitem", name=word, exact=True).click()

    async def hold(self, *files: dict[str, object], count: int | None = None) -> None:
        """Chooses files to be sent, and waits until the page has taken them in (or `count` of them)."""
        await self.page.locator("#files").set_input_files(files)
        await self.see(self.held, count=len(files) if count is None else count)

    async def restore(self, content: bytes) -> None:
        """Chooses a file of conversations to be brought in."""
        await self.page.locator("#backup").set_input_files(file("x.json", "application/json", content))

    async def rename(self, title: str, key: str = "Enter") -> None:
        await self.choose("Rename")
        await self.page.locator(".rename").fill(title)
        await self.page.locator(".rename").press(key)

    async def in_module(self, name: str, script: str, argument: object = None) -> object:
        """Evaluates a function of (module, argument) with one of the page's modules."""
        load = "document.querySelector('script[type=module]').src.replace('main.js', path)"
        call = f"async ([path, argument]) => ({script})(await import({load}), argument)"
        return await self.page.evaluate(call, [name, argument])

    async def refresh(self) -> None:
        await self.page.reload()

    async def scroll_up(self, pixels: int) -> None:
        """Turns the wheel, and waits until the conversation rests above its end."""
        rests = """({ once: new Promise((done) => {
          const left = () => scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight;
          scroller.onscrollend = () => left() > 100 && done();
        }) })"""
        scrolled = await self.page.evaluate_handle(rests)
        await self.page.locator("#scroller").hover()
        await self.page.mouse.wheel(0, -pixels)
        await scrolled.evaluate("({ once }) => once")

    async def stop_clock(self) -> None:
        """What the page does after a while waits until the test lets its clock run."""
        await self.page.clock.install()
        await self.page.clock.pause_at(datetime.now() + timedelta(minutes=1))

    # What is seen.

    @property
    def box(self) -> object:
        return self.page.get_by_role("textbox", name=re.compile("Write a message|메시지를 입력하세요"))

    @property
    def turns(self) -> object:
        return self.page.locator(".turn")

    @property
    def done(self) -> object:
        return self.page.locator(".turn[data-state=done]")

    @property
    def answers(self) -> object:
        return self.page.locator(".reply > .text")

    @property
    def questions(self) -> object:
        return self.page.locator(".bubble")

    @property
    def held(self) -> object:
        """The files that wait to be sent."""
        return self.page.locator(".held")

    @property
    def failure(self) -> object:
        return self.page.locator(".failure")

    @property
    def listed(self) -> object:
        return self.page.locator("nav a")

    @property
    def hint(self) -> object:
        return self.page.locator("#hint")

    def session(self) -> str:
        return self.page.url.partition("#")[2]

    async def see(self, what: object, text: object = None, *, count: int | None = None) -> None:
        """Waits until that is to be seen, with this text (a list: one for each)."""
        if count is not None:
            await expect(what).to_have_count(count)
        elif text is None:
            await expect(what).to_be_visible()
        else:
            await expect(what).to_have_text(text)

    async def see_part(self, what: object, text: str) -> None:
        await expect(what).to_contain_text(text)

    async def see_focus(self, what: object) -> None:
        await expect(what).to_be_focused()

    async def see_gone(self, what: object) -> None:
        await expect(what).to_be_hidden()

    async def see_value(self, what: object, value: str) -> None:
        await expect(what).to_have_value(value)

    async def see_end(self) -> None:
        """Waits until the conversation is scrolled to its end."""
        await self.until("scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 5")

    async def until(self, expression: str, argument: object = None) -> None:
        """Waits until that is true in the page, whose policy forbids playwright's own way of waiting."""
        wait = f"""async (argument) => {{
          while (!({expression})) await new Promise((resolve) => setTimeout(resolve, 20));
        }}"""
        await asyncio.wait_for(self.page.evaluate(wait, argument), HANGS / 1000)

    async def see_at_rest(self) -> None:
        """Waits until what moves has arrived, formulas are set and code is coloured."""
        moving = "one.playState === 'running' && one.effect.getTiming().iterations !== Infinity"
        await self.until(f"!document.getAnimations().some((one) => {moving})")
        await self.until("!document.querySelector('.formula.source')")
        coloured = "box.hopeless || !box.language || box.querySelector('[class^=c-]')"
        await self.until(f"[...document.querySelectorAll('.code')].every((box) => {coloured})")
