"""Quick to open, smooth while an answer comes, and no larger after a day of use."""

from __future__ import annotations

import pytest

TABLE = "| name | value | what it is |\n|---|--:|---|\n" + "| alpha | 123 | a row with `code` |\n" * 12
PROSE = "A line of **text** with `code`, a [link](https://a.example/b) and more words, as models write.\n\n"
CODE = "```py\n" + "    return value[0] + other * 42  # the answer\n" * 30 + "```\n\n"
ITEMS = "".join(f"{n}. an item with **bold** text\n   - and one below\n" for n in range(1, 12)) + "\n"
LONG = {
    "paragraphs": PROSE * 1000,
    "everything": (PROSE * 3 + CODE + TABLE + "\n" + ITEMS + "The sum is $a_1 + a_2$.\n\n") * 38,
    "one line": "word and **bold** " * 5600,
    "one list": "- an item of a list that goes on for ever\n" * 2400,
    "one table": "| a | b |\n|---|---|\n" + "| one of two | and the other |\n" * 3300,
    "code": "```py\n" + "    return value[0] + other * 42  # the answer\n" * 2100 + "```\n",
}

WATCH = """() => {
  window.longTasks.length = 0;
  window.redrawn = 0;
  new MutationObserver((changes) => {
    const removed = changes.flatMap((change) => [...change.removedNodes]);
    for (const node of removed) window.redrawn += node.textContent.length;
  }).observe(document.querySelector('.reply > .text'), { childList: true, subtree: true });
}"""


@pytest.mark.parametrize("kind", LONG)
async def test_100_000_characters_stream_in_without_a_stutter(reader, llm, kind):
    text = LONG[kind]
    assert len(text) > 95_000
    answer = await reader.begin(llm, f"long {kind}")
    await reader.page.evaluate(WATCH)
    for at in range(0, len(text), 40):
        answer.say(text[at : at + 40])
    answer.finish()
    await reader.page.wait_for_selector(".turn[data-state=done]", timeout=300_000)
    await reader.until("document.querySelector('.reply > .text').textContent.length > 60000")
    tasks, redrawn = await reader.page.evaluate("[window.longTasks, window.redrawn]")
    over = sorted(round(task) for task in tasks)
    print(f"{kind}: {len(over)} long tasks {over[-5:]}, {redrawn} characters drawn again")
    assert redrawn < 3 * len(text), "the whole is drawn anew, again and again"
    await reader.see_end()


async def test_what_is_above_the_reader_stands_still_while_an_answer_comes(reader, llm):
    answer = llm.answers("stand still").say(LONG["everything"][:20_000])
    await reader.send("stand still")
    await reader.until("scroller.scrollHeight > 6000")
    await reader.scroll_up(1500)
    await reader.see_at_rest()
    blocks = "[...document.querySelectorAll('.text > *')]"
    top = f"() => {blocks}.find((node) => node.getBoundingClientRect().top > 60)"
    mark = await reader.page.evaluate_handle(top)
    before = await mark.evaluate("node => node.getBoundingClientRect().top")
    answer.say(LONG["everything"][20_000:40_000]).finish()
    await reader.see(reader.done, count=1)
    await reader.see_at_rest()
    assert abs(await mark.evaluate("node => node.getBoundingClientRect().top") - before) < 1


async def test_a_long_conversation_is_not_painted_whole_at_each_key_and_no_focus_is_cut_off(reader, llm):
    llm.answers("think").delta(reasoning_content="Hm.").say("[Done](https://a.example/)").finish()
    await reader.ask("think")
    await reader.ask("and now")
    assert await reader.turns.first.evaluate("turn => getComputedStyle(turn).contain") == "content"
    room = """turn => {
      const { left, right, top, bottom } = turn.getBoundingClientRect();
      const all = [...turn.querySelectorAll('button, a, summary')].filter((node) => node.offsetWidth);
      const boxes = all.map((node) => node.getBoundingClientRect());
      return boxes.flatMap((box) => [box.left - left, right - box.right, box.top - top, bottom - box.bottom]);
    }"""
    for turn in await reader.turns.all():
        assert min(await turn.evaluate(room)) >= 4  # the width and the distance of an outline


async def test_the_page_can_be_typed_into_at_once(open_page):
    reader = await open_page()
    await reader.refresh()
    await reader.see_focus(reader.box)
    # When the box was there and heard what is typed: main.js marks it.
    ready = "performance.getEntriesByName('ready')[0].startTime"
    before = f"performance.getEntriesByType('resource').filter((entry) => entry.startTime < {ready})"
    listed = "[...document.querySelectorAll('[href], script')].map((node) => node.src ?? node.href)"
    read, known = await reader.page.evaluate(f"[{before}.map(({{ name }}) => name), {listed}]")
    print("ms to typing:", await reader.page.evaluate(ready), "of", len(read), "files")
    found_late = {name for name in {*read} - {*known} if "/vendor/" not in name}  # nothing waits for those
    assert read
    assert not found_late, "they were found only when another had been read"


async def test_fifty_conversations_leave_nothing_behind(reader, server):
    session = await reader.page.context.new_cdp_session(reader.page)

    async def measure() -> dict[str, float]:
        await session.send("HeapProfiler.collectGarbage")
        metrics = (await session.send("Performance.getMetrics"))["metrics"]
        return {item["name"]: item["value"] for item in metrics}

    await session.send("Performance.enable")
    ids = []
    for number in range(60):
        _, made = await server.call("POST", "/sessions", {"metadata": {"title": f"talk {number}"}})
        ids.append(made["session_id"])
        body = {"session_id": ids[-1], "message": LONG["everything"][:6000]}
        assert (await server.call("POST", "/chat", body))[0] == 200
    sizes = []
    for number, session_id in enumerate(ids):
        await reader.page.evaluate("id => { location.hash = id; }", session_id)
        await reader.see(reader.page.locator("h1"), f"talk {number}")
        await reader.see(reader.questions, count=1)
        if number in (9, 59):
            await reader.see_at_rest()
            sizes.append(await measure())
    first, last = sizes
    print({name: (first[name], last[name]) for name in ("JSHeapUsedSize", "Nodes", "JSEventListeners")})
    assert last["Nodes"] < first["Nodes"] * 1.5
    assert last["JSHeapUsedSize"] < first["JSHeapUsedSize"] * 1.5 + 3e6
