"""Lines break, pages are refreshed, servers go away: nothing is lost and nothing is asked twice."""

from __future__ import annotations

import pytest

from tests.browser.talking import file

TEXT = "Zwölf 한국어 👩‍👩‍👧 and 😀 then "


@pytest.mark.parametrize("how", ["the line is cut", "the page is refreshed", "nobody looks for a while"])
async def test_an_interrupted_answer_goes_on_from_the_very_character(open_page, line, llm, how, server):
    reader = await open_page(line.url)
    reader.expects("ERR_")
    question = f"interrupt me {line.port}"
    answer = await reader.begin(llm, question, TEXT)
    for number in range(3):
        address = reader.page.url
        if how == "the line is cut":
            await line.cut()
        else:
            await (reader.refresh() if "refreshed" in how else reader.page.goto("about:blank"))
        answer.say(f"{number} 😀 ")
        if how == "nobody looks for a while":
            await reader.page.goto(address)
        await reader.see(reader.answers, TEXT + "".join(f"{seen} 😀 " for seen in range(number + 1)))
    answer.say("end").finish()
    await reader.see(reader.done, count=1)
    await reader.see(reader.answers, TEXT + "0 😀 1 😀 2 😀 end")
    await reader.see(reader.questions, [question])
    assert llm.times_asked(question) == 1
    assert len(await server.history(reader.session())) == 2


async def test_a_line_that_breaks_before_the_first_word_sends_again_with_the_same_key(open_page, line, llm):
    reader = await open_page(line.url)
    reader.expects("ERR_")
    await reader.ask("hello")
    keys = []
    reader.page.on("request", lambda request: keys.append(request.headers.get("idempotency-key")))
    answer = await reader.begin(llm, "slow to begin")
    # Not cut alone: the browser itself repeats a request whose connection died, and the page would not know.
    await line.close()
    await reader.see(reader.turns.locator(".note").last, "The server cannot be reached. Trying again…")
    await line.open()
    answer.say("Here I am").finish()
    await reader.see(reader.answers.last, "Here I am")
    await reader.see(reader.done, count=2)
    await reader.see_value(reader.box, "")
    assert llm.times_asked("slow to begin") == 1
    assert len(keys) > 1
    assert len(set(filter(None, keys))) == 1


async def test_a_page_refreshed_before_the_first_word_finds_the_answer(reader, llm):
    answer = await reader.begin(llm, "refreshed early")
    await reader.refresh()
    await reader.see(reader.questions, "refreshed early")
    answer.say("Here I am").finish()
    await reader.see(reader.answers, "Here I am")
    await reader.see(reader.done, count=1)
    assert llm.times_asked("refreshed early") == 1


@pytest.mark.parametrize("call", ["sessions", "chat/stream"])
async def test_a_message_that_never_arrived_is_sent_after_a_refresh(reader, llm, call):
    reader.expects("ERR_")
    await reader.page.route(f"**/api/{call}", lambda route: route.abort())
    await reader.send(f"lost on the way to {call}")
    await reader.see(reader.turns.locator(".note"), "The server cannot be reached. Trying again…")
    await reader.page.unroute(f"**/api/{call}")
    await reader.refresh()
    await reader.see(reader.answers, f"You said: lost on the way to {call}")
    await reader.see(reader.questions, f"lost on the way to {call}")
    await reader.refresh()
    await reader.see(reader.done, count=1)
    assert llm.times_asked(f"lost on the way to {call}") == 1


async def away_until_answered(reader, answer):
    """Leaves the page, and comes back when the answer has ended."""
    address = reader.page.url
    await reader.page.goto("about:blank")
    answer.finish()
    watcher = await reader.another_tab(address)
    await watcher.see(watcher.done, count=1)
    await reader.page.goto(address)


async def test_a_message_answered_while_the_page_was_away_is_shown_once(reader, llm):
    """Its key, kept in the tab, is the proof that it need not be asked again."""
    answer = await reader.begin(llm, "answered meanwhile", "Soon")
    await away_until_answered(reader, answer)
    await reader.see(reader.done, count=1)
    await reader.page.wait_for_load_state("networkidle")
    await reader.see(reader.questions, ["answered meanwhile"])
    assert llm.times_asked("answered meanwhile") == 1


async def test_what_waited_for_an_answer_that_ended_while_the_page_was_away_is_sent(reader, llm):
    answer = await reader.begin(llm, "ends unseen", "Soon")
    await reader.send("waited for it")
    await away_until_answered(reader, answer)
    await reader.see(reader.answers, ["Soon", "You said: waited for it"])


async def test_two_tabs_show_the_same_answer_as_it_comes(reader, llm):
    await reader.ask("hello, tabs")
    idle = await reader.another_tab(reader.page.url)
    await idle.see(idle.done, count=1)
    answer = llm.answers("for both").say("One ")
    await reader.send("for both")
    late = None
    for piece in ("two ", "three ", "four"):
        await reader.see_part(reader.answers.last, "One ")
        await idle.see(idle.questions, ["hello, tabs", "for both"])
        late = late or await reader.another_tab(reader.page.url)
        answer.say(piece)
    for tab in (reader, idle, late):
        await tab.see(tab.answers.last, "One two three four")
    answer.finish()
    for tab in (reader, idle, late):
        await tab.see(tab.done, count=2)
    await idle.press("Answer again")
    for tab in (reader, idle, late):
        await tab.see(tab.answers, ["You said: hello, tabs", "You said: for both"])
        await tab.see(tab.done, count=2)
    assert llm.times_asked("for both") == 2


async def test_an_answer_goes_on_while_another_conversation_is_looked_at(reader, llm):
    answer = await reader.begin(llm, "in the background", "Beginning, ")
    await reader.page.get_by_role("link", name="New conversation").click()
    await reader.see(reader.page.locator("nav a[data-busy]"), "in the background")
    await reader.ask("in front")
    answer.say("middle, end").finish()
    await reader.see(reader.page.locator("nav a[data-busy]"), count=0)
    await reader.listed.get_by_text("in the background").click()
    await reader.see(reader.answers, "Beginning, middle, end")


async def test_a_message_sent_while_the_server_is_away_arrives_when_it_is_back(open_page, line, llm):
    reader = await open_page(line.url)
    reader.expects("ERR_")
    await line.close()
    await reader.send("anybody there?")
    await reader.see(reader.turns.locator(".note"), "The server cannot be reached. Trying again…")
    await line.open()
    await reader.see(reader.answers, "You said: anybody there?")
    await reader.see(reader.turns.locator(".note"), "")
    assert llm.times_asked("anybody there?") == 1


@pytest.mark.parametrize("name", ["markdown-it.esm.min.mjs", "katex.min.js", "katex.min.css"])
async def test_what_could_not_be_fetched_is_fetched_later(reader, llm, name):
    reader.expects("ERR_")
    tries = []

    async def fail_once(route):
        tries.append(route.request.url)
        await (route.abort() if len(tries) == 1 else route.continue_())

    await reader.page.route(f"**/{name}*", fail_once)
    await reader.refresh()
    llm.answers("a formula").say("A **bold** $x^2$").finish()
    await reader.ask("a formula")
    await reader.see(reader.answers.locator("strong"), "bold")
    await reader.see(reader.answers.locator(".katex").first)
    assert len(tries) == 2


async def test_stopping_works_without_a_server(open_page, line, llm):
    reader = await open_page(line.url)
    reader.expects("ERR_")
    await reader.begin(llm, "stop offline", "So far")
    await line.close()
    await reader.see(reader.turns.locator(".note"), "The server cannot be reached. Trying again…")
    await reader.press("Stop the answer")
    await reader.see(reader.turns.locator(".note"), "Stopped")
    await reader.see(reader.page.get_by_role("button", name="Send"))


async def test_a_page_opened_while_the_server_is_away_finds_it_by_itself(open_page, line):
    reader = await open_page(line.url)
    reader.expects("ERR_")
    await reader.ask("still here")
    await reader.page.get_by_role("link", name="New conversation").click()
    # As after a refresh, which needs the server.
    await reader.in_module("state.js", "({ talks }) => talks.clear()")
    await line.close()
    await reader.listed.click()
    await reader.see_part(reader.failure, "The server cannot be reached. Trying again…")
    await line.open()
    await reader.see(reader.answers, "You said: still here")
    await reader.see_gone(reader.failure)


@pytest.mark.parametrize("how", ["button", "key"])
async def test_a_restarted_server_that_lost_the_conversation_is_said_plainly(open_page, own_server, how):
    server = await own_server()
    reader = await open_page(server.url)
    reader.expects("404", "ERR_")
    await reader.ask("remember this")
    await server.stop()
    await server.start()
    await reader.hold(file("notes.txt", "text/plain", b"hello"))
    await reader.send("what did I say? It was long to type.")
    await reader.see_part(reader.failure, "The server no longer has this conversation")
    await reader.see_value(reader.box, "what did I say? It was long to type.")
    await reader.see(reader.answers, ["You said: remember this"])
    if how == "button":
        await reader.press("Start a new conversation")
        await reader.see(reader.turns, count=0)
        await reader.see_value(reader.box, "what did I say? It was long to type.")
        await reader.see(reader.held, count=1)
    await reader.box.press("Enter")
    await reader.see(reader.answers, ["You said: what did I say? It was long to type."])
    await reader.see(reader.listed, ["what did I say? It was long to type."])


async def test_an_answer_that_a_restart_interrupted_is_kept_on_a_file_database(open_page, own_server, llm):
    server = await own_server(DATABASE_URL="sqlite:///chat.db", SHUTDOWN_GRACE_SECONDS="0")
    reader = await open_page(server.url)
    reader.expects("ERR_", "503")
    await reader.begin(llm, "restart in the middle", "As far as I got")
    await server.stop()
    await reader.see(reader.turns.locator(".note"), "The server cannot be reached. Trying again…")
    await server.start()
    await reader.see(reader.done.locator(".note"), "Stopped")
    await reader.see(reader.answers, "As far as I got")
    await reader.ask("go on")
    await reader.see(reader.answers.last, "You said: go on")


async def test_an_answer_that_a_crash_took_along_can_be_asked_for_again(open_page, own_server, llm):
    server = await own_server(DATABASE_URL="sqlite:///chat.db")
    reader = await open_page(server.url)
    reader.expects("ERR_", "404")
    await reader.begin(llm, "crash in the middle", "Gone soon")
    await server.stop(kill=True)
    await server.start()
    await reader.see_part(reader.failure, "The answer was lost on the way. Try again.")
    await reader.press("Try again")
    await reader.see(reader.answers, ["You said: crash in the middle"])
    assert len(await server.history(reader.session())) == 2


async def test_a_silent_line_is_given_up_and_taken_up_again(reader, llm):
    """A phone that slept holds a connection that says nothing and never ends; only a clock can tell."""
    await reader.page.clock.install()
    await reader.refresh()
    answer = await reader.begin(llm, "sleep", "Before ")
    resumed = []
    reader.page.on("request", lambda request: resumed.append(request.headers.get("last-event-id")))
    await reader.page.clock.run_for(46_000)
    answer.say("and after").finish()
    await reader.see(reader.done, count=1)
    await reader.see(reader.answers, "Before and after")
    assert resumed == [str(len("Before "))]
