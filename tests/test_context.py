"""How much of a conversation the LLM is sent, over HTTP; tests/context/ holds the rule itself to its word."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.tools.scripted_llm import END, ScriptedLLM, Step, answer, capture, completion, delta, events, reply
from tests.tools.server import Running, StartServer, text_of


def sent(llm: ScriptedLLM, number: int = -1) -> list[str]:
    """The messages of one request, as "role: content"."""
    return [f"{message['role']}: {message['content']}" for message in llm.exchanges[number].body["messages"]]


def sent_bytes(llm: ScriptedLLM, number: int = -1) -> bytes:
    """The messages of one request as they stood in it, without the bracket that closes them."""
    raw = llm.exchanges[number].raw
    begin = raw.index(b'"messages":') + len(b'"messages":')
    _, end = json.JSONDecoder().raw_decode(raw[begin:].decode())
    return raw[begin:][: len(raw[begin:].decode()[:end].encode()) - 1]


async def talk(server: Running, session: str, turns: int, first: int = 1) -> None:
    for number in range(first, first + turns):
        status, told, _ = await server.chat(session, f"Q{number}")
        assert status == 200, told


async def ids(server: Running, session: str) -> list[str]:
    _, told, _ = await server.call("GET", f"/api/sessions/{session}/messages")
    return [message["message_id"] for message in told["messages"]]


async def explained(server: Running, session: str) -> Any:
    status, told, _ = await server.call("GET", f"/api/sessions/{session}/context")
    assert status == 200, told
    return told


async def ask_again(server: Running, session: str, message: str) -> None:
    """Asks on a branch beside the newest turn."""
    newest = (await ids(server, session))[-1]
    status, told, _ = await server.chat(session, message, replace=newest)
    assert status == 200, told


async def stop(server: Running) -> None:
    await server.server.stop(asyncio.Event())
    server.stopped = True


# What goes


@pytest.mark.parametrize(
    ("configured", "own", "expected"),
    [
        ("", {}, []),
        ("Be kind.", {}, ["system: Be kind."]),
        ("Be kind.", {"system_prompt": "Be brief."}, ["system: Be brief."]),
        ("Be kind.", {"system_prompt": ""}, ["system: Be kind."]),
        ("", {"system_prompt": "Be brief."}, ["system: Be brief."]),
    ],
)
async def test_the_newest_messages_go_in_order_after_the_sessions_own_system_prompt_or_the_configured_one(
    start: StartServer, llm: ScriptedLLM, configured: str, own: dict[str, str], expected: list[str]
) -> None:
    server = await start(system_prompt=configured, max_context_messages=3)
    llm.script = lambda body: reply("A" + body["messages"][-1]["content"][1:])
    session = await server.session(**own)
    await talk(server, session, 5)
    assert sent(llm) == [*expected, "user: Q4", "assistant: A4", "user: Q5"]


@pytest.mark.parametrize(
    ("words", "is_event"),
    [
        ("After the optional system message, conversation roles must alternate", False),  # Mistral
        ("A conversation must alternate between user and assistant roles.", False),  # Bedrock
        ("Error rendering prompt with jinja template: roles must alternate", True),  # LM Studio
    ],
)
async def test_a_template_that_wants_the_roles_by_turns_gets_them_so(
    server: Running, llm: ScriptedLLM, words: str, is_event: bool
) -> None:
    error = {"error": {"message": words}}
    in_an_event = [*events(b"data: %b\n\n" % json.dumps(error).encode()), END]

    def strict(body: Any) -> list[Step]:
        if "useruser" in "".join(message["role"] for message in body["messages"]):
            return in_an_event if is_event else answer("400 X", error)
        if body["messages"][-1]["content"] == "think":
            return [*events(delta(reasoning_content="Hm"), delta(finish="length")), END]
        return reply("Hello.")

    llm.script = strict
    session = await server.session()
    for text in ("think", "Q1", "Q2"):
        status, told, _ = await server.chat(session, text)
        assert status == 200, told
    assert sent(llm) == ["user: think\n\nQ1", "assistant: Hello.", "user: Q2"]
    assert len(llm.exchanges) == 4, "refused once, and never asked so again"


@pytest.mark.parametrize("model", ["m", "m" * 300])
async def test_a_template_that_refuses_any_order_is_asked_twice_and_no_more(
    server: Running, llm: ScriptedLLM, model: str
) -> None:
    llm.script = lambda _: answer("400 X", {"error": {"message": "conversation roles must alternate"}})
    for text in ("Q1", "Q2"):
        llm.exchanges.clear()
        said = [{"role": "user", "content": text}, {"role": "user", "content": "and?"}]
        status, _, _ = await server.call("POST", "/v1/responses", {"input": said, "model": model})
        assert status == 400
        assert len(llm.exchanges) <= 2


async def test_a_prompt_that_a_client_repeats_goes_once_to_a_template_that_refuses_it(
    server: Running, llm: ScriptedLLM
) -> None:
    def strict(body: Any) -> list[Step]:
        if any(message["role"] == "system" for message in body["messages"][1:]):
            return answer("400 X", {"error": {"message": "System message must be at the beginning."}})  # Qwen
        return reply("Hello.")

    llm.script = strict
    more: dict[str, str] = {}
    for text in ("Q1", "Q2"):
        said = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": text}]
        asked = {"input": said, "instructions": "Hi.", **more}
        status, told, _ = await server.call("POST", "/v1/responses", asked)
        assert status == 200, told
        more = {"previous_response_id": told["id"]}
    assert sent(llm) == ["system: Hi.\n\nBe kind.", "user: Q1", "assistant: Hello.", "user: Q2"]


async def test_a_question_after_a_tools_output_goes_to_an_llm_that_wants_an_answer_in_between(
    server: Running, llm: ScriptedLLM
) -> None:
    words = "Unexpected role 'user' after role 'tool'"  # Mistral

    def strict(body: Any) -> list[Step]:
        if "tooluser" in "".join(message["role"] for message in body["messages"]):
            error = {"message": words, "type": "invalid_request_message_order", "code": "3230"}
            return answer("400 X", {"object": "error"} | error)
        return reply("Hello.")

    llm.script = strict
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    output = {"type": "function_call_output", "call_id": "c", "output": "42"}
    said = [{"role": "user", "content": "Q1"}, call, output, {"role": "user", "content": "Q2"}]
    status, told, _ = await server.call("POST", "/v1/responses", {"input": said})
    assert status == 200, told
    roles = [message["role"] for message in llm.exchanges[-1].body["messages"]]
    assert roles == ["user", "assistant", "tool", "assistant", "user"]


async def test_a_template_that_refuses_what_is_in_order_is_asked_once(
    server: Running, llm: ScriptedLLM
) -> None:
    llm.play(answer("400 X", {"error": {"message": "Conversation roles must alternate"}}))
    status, told, _ = await server.chat(await server.session(), "Q")
    assert (status, told["error"]["code"], len(llm.exchanges)) == (400, "llm_rejected", 1)


@pytest.mark.parametrize("how", ["chat", "stream"])
async def test_how_many_messages_went_is_told(server: Running, how: str) -> None:
    session = await server.session(system_prompt="Be kind.")
    for expected in (1, 3, 5, 7, 9, 5, 7):
        if how == "chat":
            _, _, headers = await server.chat(session)
        else:
            stream = await server.stream(session)
            headers = stream.headers
            await stream.rest()
        assert headers["X-Context-Messages"] == str(expected), "the system prompt is not counted"


# The beginning stands still


async def test_the_bytes_that_were_sent_are_sent_again(
    start: StartServer, llm: ScriptedLLM, tmp_path: Any
) -> None:
    """Also after a restart, and for a branch."""
    settings: dict[str, Any] = {"database_url": str(tmp_path / "chat.db"), "system_prompt": "Be kind."}
    llm.script = lambda body: reply("한글 \\u00e9\u2028", str(len(llm.exchanges)), "😀")
    server = await start(**settings)
    session = await server.session()
    await talk(server, session, 7)
    await stop(server)
    server = await start(**settings)
    await talk(server, session, 1, first=8)
    bodies = [sent_bytes(llm, number) for number in range(8)]
    grown = [number for number in range(1, 8) if bodies[number].startswith(bodies[number - 1])]
    assert grown == [1, 2, 3, 4, 6, 7], "all but where the older half was dropped"
    await ask_again(server, session, "Q8 again")
    assert sent_bytes(llm).startswith(bodies[6]), "a branch begins where its trunk did"
    assert sent(llm)[-1] == "user: Q8 again"


async def test_another_system_prompt_is_sent_with_as_much_as_fits(server: Running, llm: ScriptedLLM) -> None:
    session = await server.session(system_prompt="Be kind.")
    await talk(server, session, 6)
    status, _, _ = await server.call("PATCH", f"/api/sessions/{session}", {"system_prompt": "Be brief."})
    assert status == 200
    for text, expected in (("Q7", 9), ("Q8", 5)):
        _, _, headers = await server.chat(session, text)
        assert headers["X-Context-Messages"] == str(expected), "and from there it stands"
        assert sent(llm)[0] == "system: Be brief."


async def test_a_limit_of_tokens_holds_by_the_llms_own_counts(start: StartServer, llm: ScriptedLLM) -> None:
    def script(body: Any) -> list[Step]:
        prompt = sum(4 + len(message["content"]) // 3 for message in body["messages"])
        usage = {"prompt_tokens": prompt, "completion_tokens": 104}
        return answer(body=completion("A" * 300) | {"usage": usage})

    llm.script = script
    server = await start(max_context_messages=1000, max_context_tokens=1000)
    session = await server.session()
    prompts = []
    for _ in range(30):
        _, told, _ = await server.chat(session, "Q" * 100)
        prompts.append(told["token_usage"]["prompt_tokens"])
    assert max(prompts) <= 1000
    assert sum(prompts[10:]) / 20 >= 650
    assert (await explained(server, session))["reason"] == "max_context_tokens"


async def test_what_the_list_of_models_says_is_a_limit(start: StartServer, llm: ScriptedLLM) -> None:
    listed = {"id": "found", "object": "model", "max_model_len": 1000}
    llm.models = answer(body={"object": "list", "data": [listed]})
    llm.script = lambda body: reply("word " * 100)
    server = await start(llm_model="", max_context_messages=1000)
    session = await server.session()
    await talk(server, session, 20)
    assert max(len(sent(llm, number)) for number in range(20)) < 15
    told = await explained(server, session)
    assert (told["reason"], told["max_tokens"]) == ("llm_context_size", 875)


# When the LLM says that it is too long

PROSE = answer(
    "400 Bad Request", {"object": "error", "message": "This model's maximum context length is 512 tokens."}
)
SILENT = "llama-cpp-python, says nothing at all"
WAYS: dict[str, list[Step]] = {
    "llama-server": capture("llama-server", "too_long_stream"),
    "llama-cpp-python, in one piece": capture("llama-cpp-python", "too_long"),
    SILENT: capture("llama-cpp-python", "too_long_stream"),
    "vLLM": PROSE,
    "in an event": [
        *events(b'data: {"error": {"code": "context_length_exceeded", "message": "m"}}\n\n'),
        END,
    ],
}


@pytest.mark.parametrize("way", WAYS)
async def test_a_context_that_is_too_long_is_halved_until_it_fits(
    server: Running, llm: ScriptedLLM, way: str
) -> None:
    session = await server.session(system_prompt="Be kind.")
    await talk(server, session, 4)
    refusals = 1 if way == SILENT else 2  # what may have been something else is tried once more
    llm.play(*[WAYS[way]] * refusals)
    stream = await server.stream(session, "Q5")
    assert stream.status == 200
    assert text_of(await stream.rest()) == "Hello there."
    a = "assistant: Hello there."
    assert [sent(llm, number) for number in range(4, len(llm.exchanges))] == [
        ["system: Be kind.", "user: Q1", a, "user: Q2", a, "user: Q3", a, "user: Q4", a, "user: Q5"],
        ["system: Be kind.", "user: Q3", a, "user: Q4", a, "user: Q5"],
        ["system: Be kind.", "user: Q4", a, "user: Q5"],
    ][: refusals + 1]
    assert stream.headers["X-Context-Messages"] == str(7 - 2 * refusals), "of what was answered"
    assert len(await server.history(session)) == 11, "what is not sent is not forgotten"


@pytest.mark.parametrize("way", WAYS)
async def test_a_message_that_alone_is_too_long_is_refused(
    server: Running, llm: ScriptedLLM, way: str
) -> None:
    session = await server.session()
    await talk(server, session, 2)
    llm.play(*[WAYS[way]] * 3)
    status, told, _ = await server.chat(session, "Q3")
    if way == SILENT:  # nothing was said of a length, after all
        assert (status, told["error"]["code"]) == (502, "llm_error"), told
    else:
        assert len(llm.exchanges) == 5, "5 messages, then 3, then the new one alone"
        assert sent(llm) == ["user: Q3"]
        assert (status, told["error"]["code"]) == (400, "context_too_long"), told
        assert told["error"]["param"] == "message"
    assert len(await server.history(session)) == 4
    llm.play(reply("ok"), reply("ok"))
    status, _, _ = await server.chat(session, "Q3")
    assert status == 200, "the next turn works"


async def test_what_was_refused_is_not_asked_for_again(start: StartServer, llm: ScriptedLLM) -> None:
    """An LLM that takes 11 messages, and names a number that is none of them."""
    llm.script = lambda body: reply("Hello there.") if len(body["messages"]) <= 11 else PROSE
    server = await start(max_context_messages=40)
    for _ in range(3):
        session = await server.session()
        await talk(server, session, 20, first=10)
    assert len(llm.exchanges) <= 62, "once a question"
    assert (await explained(server, session))["reason"] == "llm_refused"


async def test_a_question_that_alone_is_too_long_shortens_no_other_conversation(
    server: Running, llm: ScriptedLLM
) -> None:
    """Its tokens are estimated: a table of numbers has more than twice as many."""
    llm.script = lambda body: reply("ok") if len(body["messages"][-1]["content"]) < 500 else PROSE
    session = await server.session()
    await talk(server, session, 2)
    status, told, _ = await server.chat(session, "1234567," * 70)
    assert (status, told["error"]["code"]) == (400, "context_too_long")
    assert (await explained(server, session))["max_tokens"] == 512 * 7 // 8, "as the LLM said"


async def test_pictures_that_a_proxy_refused_shorten_no_other_conversation(
    start: StartServer, llm: ScriptedLLM
) -> None:
    server = await start(max_context_messages=40)
    url = {"url": f"data:image/png;base64,{'A' * 4096}"}
    asked = {"session_id": await server.session(), "message": [{"type": "image_url", "image_url": url}]}
    llm.play(answer("413 Payload Too Large", b"<html><title>413 Request Entity Too Large</title></html>"))
    status, told, _ = await server.call("POST", "/api/chat", asked)
    assert (status, told["error"]["code"]) == (400, "context_too_long")
    session = await server.session()
    await talk(server, session, 3)
    await server.chat(session, "word " * 2000)
    await server.chat(session, "Q5")
    assert len(sent(llm)) == 9


async def test_what_is_too_long_after_a_role_that_said_nothing_is_asked_with_less(
    server: Running, llm: ScriptedLLM
) -> None:
    session = await server.session()
    await talk(server, session, 2)
    llm.play([*events(delta("", role="assistant"), delta("", "model_context_window_exceeded")), END])
    stream = await server.stream(session, "Q3")
    assert text_of(await stream.rest()) == "Hello there."
    assert len(llm.exchanges) == 4
    assert len(await server.history(session)) == 6


async def test_a_stream_that_had_begun_is_not_begun_again(server: Running, llm: ScriptedLLM) -> None:
    session = await server.session()
    await talk(server, session, 2)
    too_long = b'data: {"error": {"message": "m", "type": "exceed_context_size_error"}}\n\n'
    llm.play([*events(delta("one"), too_long), END])
    stream = await server.stream(session, "Q3")
    told = await stream.rest()
    assert text_of(told[:-1]) == "one"
    assert told[-1].json["error"]["code"] == "context_too_long"
    assert len(llm.exchanges) == 3
    assert len(await server.history(session)) == 4


@pytest.mark.parametrize(
    "failure",
    [
        answer("500 Oops", b"<html>"),
        answer("400 Bad Request", {"error": {"message": "bad temperature"}}),
        answer("429 Slow down", {"error": {"message": "rate limit"}}),
    ],
    ids=["500", "400", "429"],
)
async def test_another_error_is_not_tried_with_less(
    server: Running, llm: ScriptedLLM, failure: list[Step]
) -> None:
    session = await server.session()
    await talk(server, session, 2)
    llm.play(failure)
    assert (await server.chat(session, "Q3"))[0] in (400, 429, 502)
    assert [len(sent(llm, number)) for number in range(2, len(llm.exchanges))] == [5]


# How it is explained


async def test_the_context_of_the_next_question_is_explained(start: StartServer, llm: ScriptedLLM) -> None:
    server = await start(system_prompt="Be secret.")
    session = await server.session()
    told = await explained(server, session)
    assert (told["messages"], told["first_message_id"], told["reason"]) == ([], None, "whole_conversation")
    await talk(server, session, 6)
    told = await explained(server, session)
    await talk(server, session, 1, first=7)
    assert [f"{message['role']}: {message['content']}" for message in told["messages"]] == sent(llm)[1:-1]
    assert told["first_message_id"] == (await ids(server, session))[6]
    assert (told["reason"], told["system_prompt"]) == ("max_context_messages", "operator")
    assert "secret" not in json.dumps(told)


# By what the LLM's machines are told which conversation it is


async def test_a_conversation_has_one_key_for_life_which_is_not_its_id(
    start: StartServer, llm: ScriptedLLM, tmp_path: Any
) -> None:
    settings: dict[str, Any] = {
        "database_url": str(tmp_path / "chat.db"),
        "llm_headers": {"x-session-affinity": "{session}"},
        "llm_extra_body": {"prompt_cache_key": "chat-{session}"},
    }
    server = await start(**settings)
    session, other = await server.session(), await server.session()
    await talk(server, session, 2)
    await talk(server, other, 1)
    await stop(server)
    server = await start(**settings)
    await ask_again(server, session, "again")
    keys = [exchange.headers["x-session-affinity"] for exchange in llm.exchanges]
    assert keys[0] == keys[1] == keys[3] != keys[2], "after a restart and on a branch too"
    cache_keys = [exchange.body["prompt_cache_key"] for exchange in llm.exchanges]
    assert cache_keys == [f"chat-{key}" for key in keys]
    assert session not in keys[0]
    assert session.replace("-", "") not in keys[0]
