"""Trouble, said in words that a person understands, with what to do about it."""

from __future__ import annotations

import pytest

from tests.tools.processes import free_port


async def test_a_rate_limit_counts_down_and_then_lets_try_again(reader, llm):
    reader.expects("429")
    llm.answers("too often").refuse(429, "slow down", "Retry-After: 3\r\n")
    await reader.stop_clock()
    await reader.send("too often")
    await reader.see_part(reader.failure, "Too many requests.")
    again = reader.failure.get_by_role("button").first
    seen = []
    for text in ("Try again in 3 s", "Try again in 2 s", "Try again in 1 s"):
        await reader.see(again, text)
        seen.append(await again.is_disabled())
        await reader.page.clock.run_for(1000)
    assert all(seen)
    await reader.see(again, "Try again")
    await reader.page.clock.resume()
    await again.click()
    await reader.see(reader.answers, "You said: too often")
    await reader.see(reader.questions, ["too often"])
    assert llm.times_asked("too often") == 2


async def test_a_model_that_cannot_be_reached_is_named_with_the_setting_to_look_at(open_page, own_server):
    server = await own_server(f"http://127.0.0.1:{free_port()}")
    reader = await open_page(server.url)
    reader.expects("502")
    await reader.send("hello?")
    await reader.see_part(reader.failure, "Is it running at the address in LLM_SERVER_URL?")
    await reader.see(reader.page.get_by_role("button", name="Try again"))
    await reader.see(reader.questions, "hello?")
    await reader.refresh()
    await reader.see_value(reader.box, "hello?")


async def test_an_answer_that_breaks_off_keeps_what_was_read_and_can_be_asked_for_again(reader, llm, server):
    llm.answers("break off").say("Half an ").break_off()
    await reader.send("break off")
    await reader.see_part(reader.failure, "The language model could not answer.")
    await reader.see(reader.answers, "Half an ")
    await reader.press("Try again")
    await reader.see(reader.answers, ["You said: break off"])
    assert len(await server.history(reader.session())) == 2


async def test_a_failed_message_can_be_edited_and_sent(reader, llm):
    reader.expects("400")
    too_long = "This model's maximum context length is 8 tokens."
    llm.answers("too long a text").refuse(400, too_long, code="context_length_exceeded")
    await reader.send("too long a text")
    await reader.see_part(reader.failure, "This message is too long. Make it shorter.")
    await reader.press("Edit", reader.failure)
    await reader.see_value(reader.box, "too long a text")
    await reader.send("short")
    await reader.see(reader.answers, ["You said: short"])


async def test_a_message_that_the_server_does_not_take_is_said_to_be_too_long(open_page, own_server):
    server = await own_server(MAX_REQUEST_BYTES="2000")
    reader = await open_page(server.url)
    reader.expects("413")
    await reader.send("x" * 3000)
    await reader.see_part(reader.failure, "This message is too long. Make it shorter, or add fewer files.")


async def test_a_busy_server_says_so(open_page, own_server, llm):
    server = await own_server(MAX_ACTIVE_REPLIES="1")
    reader = await open_page(server.url)
    reader.expects("503")
    answer = await reader.begin(llm, "hold the line", "…")
    second = await reader.another_tab()
    second.expects("503")
    await second.send("me too")
    await second.see_part(second.failure, "Too many requests.")
    answer.finish()
    await reader.see(reader.done, count=1)


async def test_a_wanted_key_is_asked_for_and_kept_in_the_tab(open_page, own_server):
    server = await own_server(API_KEYS="secret,other")
    reader = await open_page(server.url)
    reader.expects("401")
    dialog, field = reader.page.get_by_role("dialog"), reader.page.locator("dialog input")
    await reader.send("let me in")
    await reader.see_part(dialog, "This server wants an access key.")
    assert await field.get_attribute("type") == "password"
    await field.fill("wrong")
    await field.press("Enter")
    await reader.until("document.querySelector('dialog input').value === ''")
    await reader.see(dialog)
    await field.fill("secret")
    await field.press("Enter")
    await reader.see(reader.answers, "You said: let me in")
    assert await reader.page.evaluate("sessionStorage.getItem('key')") == '"secret"'
    assert "secret" not in await reader.page.evaluate("JSON.stringify(localStorage) + document.cookie")
    await reader.refresh()
    await reader.see(reader.answers, "You said: let me in")
    await reader.see_gone(dialog)


@pytest.mark.parametrize("given", [None, "비밀"], ids=["none", "one that no header can bear"])
async def test_without_a_key_the_message_is_kept_and_the_key_asked_for_again(open_page, own_server, given):
    server = await own_server(API_KEYS="secret")
    reader = await open_page(server.url)
    reader.expects("401")
    await reader.send("later then")
    await reader.see(reader.page.get_by_role("dialog"))
    if given:
        await reader.page.locator("dialog input").fill(given)
    await (reader.press("OK") if given else reader.page.keyboard.press("Escape"))
    await reader.see_part(reader.failure, "This server wants an access key.")
    await reader.press("Try again")
    await reader.page.locator("dialog input").fill("secret")
    await reader.press("OK")
    await reader.see(reader.answers, "You said: later then")


async def test_a_page_at_a_foreign_name_is_told_what_to_do(open_page, server):
    url = server.url.replace("127.0.0.1", "chat.example")
    reader = await open_page(url)
    reader.expects("403")
    await reader.send("hello")
    await reader.see_part(reader.failure, f"Open this page at localhost, or add {url} to ALLOWED_ORIGINS.")


async def test_an_unknown_conversation_in_the_address_is_said_to_be_gone(open_page, server):
    reader = await open_page(f"{server.url}/#00000000-0000-4000-8000-000000000000")
    reader.expects("404")
    await reader.see_part(reader.failure, "The server no longer has this conversation")
    await reader.press("Start a new conversation")
    await reader.ask("fresh start")


@pytest.mark.parametrize("junk", ["nonsense", "null", '{"a":1}', '[null, 1, {"id": "../../x"}, {"id": {}}]'])
async def test_a_storage_full_of_junk_does_no_harm(open_page, junk):
    reader = await open_page()
    await reader.page.evaluate("junk => localStorage.setItem('talks', junk)", junk)
    await reader.refresh()
    await reader.see(reader.listed, count=0)
    await reader.ask("works")


async def test_the_page_works_where_nothing_can_be_stored(open_page):
    reader = await open_page()
    await reader.page.add_init_script(
        "for (const name of ['localStorage', 'sessionStorage'])"
        " Object.defineProperty(window, name, { get() { throw new Error('forbidden'); } })"
    )
    await reader.refresh()
    await reader.ask("no memory")
    await reader.see(reader.answers, "You said: no memory")


async def test_a_proxy_between_speaks_html_and_is_understood(open_page):
    """Its 502 is a server that is away, and is asked again; its 413 would stay one, and is said."""
    reader = await open_page()
    reader.expects("502", "413")
    answers = [(502, "<h1>Bad gateway</h1>"), (413, "<h1>Too large</h1>")]

    async def interfere(route):
        if answers:
            status, body = answers.pop(0)
            await route.fulfill(status=status, content_type="text/html", body=body)
        else:
            await route.continue_()

    await reader.page.route("**/api/chat/stream", interfere)
    await reader.send("through a proxy")
    await reader.see_part(reader.failure, "This message is too long.")
    await reader.press("Try again")
    await reader.see(reader.answers, "You said: through a proxy")


async def test_a_failed_message_tried_again_later_takes_nothing_else_along(reader, llm, server):
    reader.expects("429")
    llm.answers("at first refused").refuse(429, "no")
    await reader.send("at first refused")
    await reader.see(reader.failure)
    await reader.ask("something else")
    await reader.press("Try again")
    await reader.see(reader.answers, ["You said: something else", "You said: at first refused"])
    assert len(await server.history(reader.session())) == 4
