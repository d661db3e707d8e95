"""The list of conversations: found again, renamed, deleted with a way back."""

from __future__ import annotations

import json

from tests.browser.talking import file


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
    async with reader.page.expect_response(lambda response: response.request.method == "PATCH"):
        await reader.rename("A better name")
    await reader.see(reader.listed, "A better name")
    await reader.see(reader.page.locator("h1"), "A better name")
    _, session = await server.call("GET", path)
    assert session["metadata"] == {"title": "A better name", "colour": "red"}
    await reader.rename("never", "Escape")
    await reader.see(reader.listed, "A better name")


async def test_a_deleted_conversation_can_be_brought_back_for_a_while(reader, server):
    await reader.ask("to be deleted")
    session = reader.session()
    await reader.stop_clock()
    await reader.choose("Delete")
    await reader.see(reader.listed, count=0)
    await reader.see(reader.turns, count=0)
    await reader.press("Undo")
    await reader.see(reader.answers, "You said: to be deleted")
    await reader.see(reader.listed, "to be deleted")
    assert (await server.call("GET", f"/sessions/{session}"))[0] == 200
    await reader.choose("Delete", "Menu of “to be deleted”")
    await reader.see(reader.listed, count=0)
    async with reader.page.expect_response(lambda response: response.request.method == "DELETE"):
        await reader.page.clock.run_for(10_000)
    assert (await server.call("GET", f"/sessions/{session}"))[0] == 404


async def test_what_was_deleted_when_the_page_was_left_is_deleted_when_it_is_opened(reader, server):
    await reader.ask("deleted in haste")
    session = reader.session()
    await reader.stop_clock()
    await reader.choose("Delete")
    await reader.see(reader.listed, count=0)
    await reader.refresh()
    await reader.see(reader.page.get_by_role("button", name="Send"))
    await reader.see(reader.listed, count=0)
    async with reader.page.expect_response(lambda response: response.request.method == "DELETE"):
        await reader.page.clock.run_for(10_000)
    assert (await server.call("GET", f"/sessions/{session}"))[0] == 404
    await reader.see(reader.listed, count=0)


async def test_a_deletion_can_be_undone_though_another_tab_was_opened(reader, server):
    await reader.ask("deleted by mistake")
    session = reader.session()
    await reader.stop_clock()
    await reader.choose("Delete")
    tab = await reader.another_tab()
    await tab.ask("in another tab")
    await tab.see(tab.listed, "in another tab")
    await reader.press("Undo")
    await reader.see(reader.answers, "You said: deleted by mistake")
    await reader.page.clock.run_for(10_000)
    await tab.see(tab.listed, count=2)
    assert (await server.call("GET", f"/sessions/{session}"))[0] == 200


async def test_what_was_written_in_a_deleted_conversation_is_deleted_with_it(reader, llm):
    await reader.begin(llm, "to be forgotten", "Some")
    await reader.send("secret that waits")
    await reader.hold(file("note.txt", "text/plain", b"secret"))
    await reader.type("secret draft")
    draft = f"draft {reader.session()}"
    await reader.stop_clock()
    await reader.choose("Delete")
    async with reader.page.expect_response(lambda response: response.request.method == "DELETE"):
        await reader.page.clock.run_for(10_000)
    stored = await reader.page.evaluate("JSON.stringify([{ ...localStorage }, { ...sessionStorage }])")
    assert "secret" not in stored
    assert await reader.in_module("keep.js", "({ parts }, key) => parts(key)", draft) == []


async def test_deleting_a_conversation_that_is_being_answered_stops_the_answer(reader, llm):
    answer = await reader.begin(llm, "delete me meanwhile", "Some")
    await reader.stop_clock()
    await reader.choose("Delete")
    await reader.see(reader.turns, count=0)
    await reader.refresh()
    await reader.see(reader.page.get_by_role("button", name="Send"))
    await reader.page.clock.run_for(10_000)
    await answer.left.wait()
    await reader.see(reader.page.get_by_role("button", name="Send"))


async def test_a_draft_survives_a_refresh_and_belongs_to_its_conversation(reader):
    await reader.ask("drafts")
    await reader.type("half a thought")
    await reader.refresh()
    await reader.see_value(reader.box, "half a thought")
    await reader.page.get_by_role("link", name="New conversation").click()
    await reader.see_value(reader.box, "")
    await reader.listed.click()
    await reader.see_value(reader.box, "half a thought")


async def test_a_folder_that_is_dropped_takes_no_file_with_it(reader, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "note.txt").write_text("hello")
    files = [str(tmp_path / name) for name in ("folder", "note.txt")]
    session = await reader.page.context.new_cdp_session(reader.page)
    data = {"items": [], "files": files, "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        await session.send("Input.dispatchDragEvent", {"type": kind, "x": 600, "y": 300, "data": data})
    await reader.see(reader.held, count=1)
    await reader.see(reader.page.locator(".toast"), "folder is of a kind that no model reads.")
