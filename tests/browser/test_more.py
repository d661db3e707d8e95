"""What models send besides text, what people send besides text, and what can be set."""

from __future__ import annotations

import json
import re
import zlib
from struct import pack

from tests.browser.talking import file

CALL = {
    "index": 0,
    "id": "call_1",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"city": "Seoul"}'},
}


def png(width: int, height: int) -> bytes:
    """A picture of many colours."""

    def part(kind: bytes, data: bytes) -> bytes:
        return pack(">I", len(data)) + kind + data + pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + bytes((x * y + x) % 256 for x in range(width * 3)) for y in range(height))
    head = part(b"IHDR", pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + part(b"IDAT", zlib.compress(rows, 1)) + part(b"IEND", b"")


async def test_thoughts_are_seen_while_they_are_thought_and_folded_when_the_answer_begins(reader, llm):
    answer = llm.answers("think").delta(reasoning_content="First **this**, ")
    await reader.send("think")
    fold = reader.page.locator("details.thinking")
    await reader.see(fold.locator("strong"), "this")
    await reader.see_part(fold.locator("summary"), "Thinking…")
    answer.delta(reasoning_content="then that.").say("The answer")
    await reader.see(reader.answers, "The answer")
    assert await fold.get_attribute("open") is None
    await reader.see(fold.locator("summary"), re.compile(r"^Thought for \d+ s$"))
    answer.finish()
    await reader.see(reader.done, count=1)
    await reader.refresh()
    await reader.see(fold.locator("summary"), "Thoughts")
    await fold.locator("summary").click()
    await reader.see(fold.locator("p"), "First this, then that.")


async def test_a_tools_call_is_shown_and_a_person_can_give_its_output(reader, llm):
    llm.answers("weather?").delta(tool_calls=[CALL]).finish("tool_calls")
    await reader.ask("weather?")
    fold = reader.page.locator("details.call")
    await reader.see(fold.locator("summary"), "Calls weather")
    await fold.locator("summary").click()
    await reader.see(fold.locator("pre").first, '{\n  "city": "Seoul"\n}')
    llm.answers("sunny").say("It is sunny.").finish()
    await reader.page.get_by_label("Output of weather").fill("sunny")
    await reader.press("Send the output")
    await reader.see(reader.answers.last, "It is sunny.")
    await reader.see(fold.locator("summary"), "Called weather")
    await reader.refresh()
    await reader.see(reader.answers.last, "It is sunny.")
    await reader.see(fold.locator("summary"), "Called weather")
    await reader.see(reader.page.get_by_label("Output of weather"), count=0)
    await reader.press("Answer again")
    await reader.see(reader.answers.last, "You said: sunny")
    await reader.see(reader.questions, ["weather?"])


async def test_an_output_given_before_a_refresh_or_in_another_tab_is_shown(reader, llm):
    llm.answers("weather here?").delta(tool_calls=[CALL]).finish("tool_calls")
    await reader.ask("weather here?")
    tab = await reader.another_tab(reader.page.url)
    await tab.see(tab.page.get_by_label("Output of weather"))
    answer = llm.answers("hail")
    await reader.page.get_by_label("Output of weather").fill("hail")
    await reader.press("Send the output")
    await answer.asked.wait()
    await reader.refresh()
    answer.say("It hails.").finish()
    for one in (reader, tab):
        await one.see(one.answers.last, "It hails.")
        await one.see(one.page.locator("details.call summary"), "Called weather")


async def test_outputs_are_not_asked_for_once_the_conversation_has_gone_on(reader, llm):
    llm.answers("weather now?").delta(tool_calls=[CALL]).finish("tool_calls")
    await reader.ask("weather now?")
    await reader.see(reader.page.get_by_label("Output of weather"))
    await reader.ask("never mind")
    await reader.see_gone(reader.page.get_by_label("Output of weather"))


async def test_a_refusal_says_that_it_is_one(reader, llm):
    llm.answers("bad idea").delta(refusal="I would rather not.").finish()
    await reader.ask("bad idea")
    refusal = reader.page.locator(".refusal")
    await reader.see(refusal, "The assistant declinedI would rather not.")
    await reader.refresh()
    await reader.see(refusal, "The assistant declinedI would rather not.")


async def test_what_an_answer_cost_is_there_for_who_looks(open_page, llm):
    reader = await open_page(width=360, height=500)
    usage = {"prompt_tokens": 2000, "completion_tokens": 30, "prompt_tokens_details": {"cached_tokens": 1500}}
    llm.answers("cost?").say("Little.\n\n" * 12).finish("stop", usage | {"total_tokens": 2030})
    await reader.ask("cost?")
    shown = ("Modelm", "Tokens read2,000", "of them cached1,500 (75 %)", "Tokens written30", "First token")
    for _ in range(2):
        await reader.press("About this answer")
        facts = reader.page.locator(".facts")
        bottom = "getBoundingClientRect().bottom"
        assert await facts.evaluate(f"facts => facts.{bottom} < scroller.{bottom} + 1"), "they are covered"
        for words in shown:
            await reader.see_part(facts, words)
        await reader.refresh()


async def test_a_picture_and_a_file_are_sent_shown_and_found_again(reader, llm):
    picture = file("big.png", "image/png", png(3000, 30))
    notes = file("notes.txt", "text/plain", "메모: hello".encode("euc-kr"))
    junk = file("junk.bin", "application/octet-stream", bytes(range(256)))
    await reader.hold(picture, notes, junk, count=2)
    await reader.see(reader.page.locator(".toast"), "junk.bin is of a kind that no model reads.")
    await reader.in_module("keep.js", "({ parts }) => parts('draft null')")  # they are stored by then
    await reader.refresh()
    await reader.see(reader.held, count=2)
    await reader.send("what is this?")
    await reader.see(reader.done, count=1)
    await reader.see(reader.listed, "what is this?")
    await reader.see(reader.held, count=0)
    content = llm.bodies[-1]["messages"][-1]["content"]
    assert [part["type"] for part in content] == ["image_url", "text", "text"]
    assert content[0]["image_url"]["url"].startswith("data:image/jpeg;base64,")
    assert content[1]["text"] == '<file name="notes.txt">\n메모: hello\n</file>'
    width = "document.querySelector('.picture-said')?.naturalWidth"
    for _ in range(2):
        await reader.see(reader.questions, "what is this?")
        await reader.see(reader.page.locator(".said .chip summary"), "notes.txt")
        await reader.until(f"{width} === 2048")
        await reader.refresh()
    await reader.press("Edit")
    await reader.see(reader.held, count=2)
    await reader.send("and this?")
    await reader.see(reader.questions, ["and this?"])
    assert llm.bodies[-1]["messages"][-1]["content"][:2] == content[:2]


async def test_the_end_stays_in_sight_while_pictures_and_formulas_take_their_room(reader, llm):
    await reader.hold(*[file("a.png", "image/png", png(400, 300))] * 3)
    llm.answers("look").say("$$\\frac{a}{b}$$\n\n" * 5).finish()
    await reader.ask("look")
    for _ in range(2):
        await reader.until("[...document.images].filter((one) => one.naturalWidth === 400).length === 3")
        await reader.see(reader.page.locator(".katex-display"), count=5)
        await reader.see_end()
        await reader.refresh()


async def test_a_picture_can_be_pasted_and_dropped(reader):
    script = """([kind, target, data]) => {
      const transfer = new DataTransfer();
      transfer.items.add(new File([Uint8Array.from(data)], 'a.png', { type: 'image/png' }));
      const options = { bubbles: true, cancelable: true, clipboardData: transfer, dataTransfer: transfer };
      const Kind = kind === 'paste' ? ClipboardEvent : DragEvent;
      document.querySelector(target).dispatchEvent(new Kind(kind, options));
    }"""
    data = list(png(20, 20))
    await reader.page.evaluate(script, ["paste", "#message", data])
    await reader.see(reader.held, count=1)
    await reader.page.evaluate(script, ["drop", "#scroller", data])
    await reader.see(reader.held, count=2)
    await reader.page.get_by_role("button", name="Take out Picture").first.click()
    await reader.see(reader.held, count=1)


async def set_fields(reader, button, **fields):
    await reader.page.locator("#adjust").click()
    for name, value in fields.items():
        field = reader.page.locator(f"#set-{name}")
        await (field.select_option(value) if name == "reasoning_effort" else field.fill(value))
    await reader.press(button, reader.page.locator("#settings"))


async def test_settings_are_sent_from_the_next_question_on_and_what_differs_is_seen(reader, llm, server):
    fields = {"model": "large-model", "system": "Be brief.", "temperature": "0.15", "max_tokens": "99"}
    await set_fields(reader, "Use here", **fields, reasoning_effort="low", other='{"top_p": 0.5}')
    await reader.ask("settled?")
    body = llm.bodies[-1]
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    sent = {"model": "large-model", "temperature": 0.15, "max_tokens": 99, "reasoning_effort": "low"}
    assert {name: body[name] for name in (*sent, "top_p")} == sent | {"top_p": 0.5}
    chip = reader.page.locator("#differs")
    await reader.see_part(chip, "large-model · System prompt · Temperature 0.15")
    await reader.refresh()
    await reader.see_part(chip, "large-model")
    await reader.page.locator("#adjust").click()
    await reader.see_value(reader.page.locator("#set-system"), "Be brief.")
    await reader.page.keyboard.press("Escape")
    await set_fields(reader, "Use here", model="", system="", temperature="")
    await reader.until("!document.querySelector('#differs').textContent.includes('large')")
    await reader.ask("and now?")
    assert llm.bodies[-1]["model"] == "m"
    assert "temperature" not in llm.bodies[-1]
    assert llm.bodies[-1]["messages"][0]["role"] == "user"


async def test_a_default_holds_for_new_conversations_and_is_no_difference(reader, llm):
    await set_fields(reader, "Use as default", system="Speak Latin.", temperature="0.1")
    await reader.ask("salve")
    await reader.see_gone(reader.page.locator("#differs"))
    await reader.page.get_by_role("link", name="New conversation").click()
    await reader.ask("vale")
    assert llm.bodies[-1]["temperature"] == 0.1
    assert llm.bodies[-1]["messages"][0] == {"role": "system", "content": "Speak Latin."}
    await set_fields(reader, "Use here", temperature="")
    for text in ("at any temperature", "still"):
        await reader.ask(text)
        assert "temperature" not in llm.bodies[-1]
        await reader.refresh()
        await reader.see_part(reader.page.locator("#differs"), "Temperature not set")
    await set_fields(reader, "Use as default", system="Speak Greek.")
    await reader.ask("chaire")
    assert llm.bodies[-1]["messages"][0] == {"role": "system", "content": "Speak Greek."}
    await reader.page.locator("#adjust").click()
    await reader.see(reader.page.locator("#models option"), count=2)
    await reader.page.locator("#set-other").fill("[1]")
    await reader.press("Use here")
    await reader.see_part(reader.page.locator("#settings"), "The other fields are not a JSON object.")


async def test_what_is_exported_can_be_imported_elsewhere(reader, open_page, llm):
    llm.answers("tell me").delta(reasoning_content="Hm.").say("Told.").finish()
    await reader.ask("tell me")
    await reader.ask("and more")
    llm.answers("too much").delta(refusal="I must not.").finish()
    await reader.hold(file("a.wav", "audio/wav", b"RIFF"))
    await reader.ask("too much")
    async with reader.page.expect_download() as download:
        await reader.choose("Export as JSON")
    path = await (await download.value).path()
    assert json.loads(path.read_text())["conversations"][0]["title"] == "tell me"
    async with reader.page.expect_download() as download:
        await reader.choose("Export as Markdown")
    text = (await (await download.value).path()).read_text()
    assert text.startswith("# tell me")
    assert "## You\n\nand more\n\n## Assistant\n\nYou said: and more" in text
    assert text.endswith("too much\n\n## Assistant\n\nI must not.")
    other = await open_page()
    await other.restore(path.read_bytes())
    await other.see(other.questions, ["tell me", "and more", "too much"])
    await other.see(other.page.locator(".said .chip"), "Sound")
    await other.see(other.answers, ["Told.", "You said: and more", "I must not."])
    assert other.session() != reader.session()
    await other.turns.first.hover()
    await other.press("Answer again", other.turns.first)
    await other.see(other.answers, ["You said: tell me"])
    await other.press("Previous version", other.turns.first)
    await other.see(other.answers, ["Told.", "You said: and more", "I must not."])
    await other.ask("go on")
    asked = [message["content"] for message in llm.bodies[-1]["messages"]]
    assert asked[-3][0] == {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}}
    assert asked[-2:] == ["I must not.", "go on"]


async def test_a_file_that_holds_no_conversations_is_said_to(reader):
    for body in (b"nonsense", b"{}", b'{"format": "chatbot conversations", "conversations": [{}]}'):
        await reader.restore(body)
        await reader.see_part(reader.page.locator(".toast").last, "This file holds no conversations")


async def test_the_list_is_searched_by_title_and_by_what_was_read(reader):
    await reader.ask("about cats")
    await reader.page.get_by_role("link", name="New conversation").click()
    await reader.ask("about dogs")
    await reader.page.keyboard.press("Control+k")
    search = reader.page.get_by_role("searchbox")
    await reader.see_focus(search)
    await search.fill("CATS said")
    await reader.see(reader.listed, ["about cats"])
    await search.fill("mice")
    await reader.see(reader.page.locator(".none"), "Nothing found")
    await search.press("Escape")
    await reader.see(reader.listed, ["about dogs", "about cats"])
    await reader.see(reader.page.locator("#list h2"), ["Today"])


async def test_the_keys_do_what_the_sheet_says(open_page, llm):
    reader = await open_page(permissions=["clipboard-read", "clipboard-write"])
    keyboard = reader.page.keyboard
    await reader.ask("by key")
    await keyboard.press("Control+Shift+C")
    await reader.until("document.querySelector('#status').textContent === 'Copied'")
    assert await reader.page.evaluate("navigator.clipboard.readText()") == "You said: by key"
    await keyboard.press("ArrowUp")
    await reader.see_value(reader.box, "by key")
    await keyboard.press("Escape")
    await keyboard.press("Control+,")
    await reader.see(reader.page.locator("#settings"))
    await keyboard.press("Escape")
    await reader.page.locator("#scroller").focus()
    await keyboard.press("?")
    await reader.see(reader.page.locator("#sheet"))
    await keyboard.press("Escape")
    await keyboard.press("Shift+Escape")
    await reader.see_focus(reader.box)
    await keyboard.press("Control+Shift+O")
    await reader.see(reader.turns, count=0)
    # As a Mac tells the key while Korean is written.
    init = {"key": "ㅏ", "code": "KeyK", "ctrlKey": True, "bubbles": True}
    await reader.box.evaluate("(box, init) => box.dispatchEvent(new KeyboardEvent('keydown', init))", init)
    await reader.see_focus(reader.page.get_by_role("searchbox"))
