"""One line a request, and nothing secret in any of them."""

from __future__ import annotations

import json
import logging
import os
import re
import sys

import pytest

from chatbot.web.logs import Handler, JsonFormatter
from tests.tools.scripted_llm import Abort, Close, Hang, ScriptedLLM, answer, delta, events, reply
from tests.tools.server import SECRETS, WHOLE_LOG, Log, Running, StartServer
from tests.tools.sockets import Socket, get, post

MESSAGE = "planted-message-9d1f"
PLANTED = (
    *(MESSAGE, "planted-reply-77aa", "planted-api-key-5c3e"),
    *("planted-llm-key-02bd", "planted-metadata-6b6b"),
)
SECRETS.update(PLANTED)
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")


async def test_nothing_that_goes_wrong_writes_a_secret_into_the_log(
    start: StartServer, llm: ScriptedLLM, log: Log
) -> None:
    """Every way a request can go that logs something, with secrets wherever they may stand."""
    _, said, key, llm_key, metadata = PLANTED
    server = await start(api_keys=(key,), llm_api_key=llm_key, system_prompt=MESSAGE)
    server.http.headers["Authorization"] = f"Bearer {key}"
    session_id = await server.session(metadata={"a": metadata}, system_prompt=MESSAGE)
    path = f"/api/sessions/{session_id}"
    quoting = {"error": {"message": f"I do not like {MESSAGE} under {llm_key}"}}
    scripts = [
        reply(said),
        answer("400 Bad Request", quoting),
        answer("401 Unauthorized", quoting),
        answer("429 Too Many Requests", quoting),
        answer("500 Internal Server Error", quoting),
        answer("503 Service Unavailable", quoting),
        answer("302 Found", b"", f"Location: http://evil.example/{MESSAGE}\r\n"),
        answer(body=f"no JSON: {MESSAGE}".encode()),
        [*events(delta(said)), Abort],
        [*events(b"data: {" + said.encode() + b"\n\n"), Close],
        [b"HTTP/1.1 200 OK\r\nA: " + said.encode() * 3000 + b"\r\n\r\n"],
        [Abort],
    ]
    for script in scripts:
        for api in ("/api/chat", "/api/chat/stream"):
            llm.play(script)
            body = {"session_id": session_id, "message": MESSAGE, "stop": MESSAGE}
            async with server.http.post(server.url + api, json=body) as response:
                await response.read()
    llm.play([*events(delta(said)), Hang])
    stream = await server.stream(session_id, MESSAGE)
    await stream.event()
    await server.call("POST", f"{path}/messages/{stream.message_id}/cancel")
    await server.call("GET", f"{path}/messages?before={MESSAGE}")
    await server.call("PATCH", path, {"metadata": {"a": metadata}})
    await server.call("POST", "/api/chat", {"session_id": session_id, "message": MESSAGE, MESSAGE: 1})
    await server.call("GET", f"/{MESSAGE}/{session_id}?{key}")
    bare = await Socket.open(server)
    await bare.send(get(path, f"Authorization: Basic {key}\r\nCookie: {key}\r\n".encode()))
    await bare.answer()
    await bare.send(post("/api/chat", b"{" + MESSAGE.encode()) + MESSAGE.encode() * 3 + b"\r\n\r\n")
    await bare.ended()

    def crash(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    server.store.session = crash  # type: ignore[assignment]
    assert (await server.call("GET", f"{path}/messages?limit=7"))[0] == 500
    assert len(log.tracebacks) == 1, "a bug is told with its traceback"
    await server.call("DELETE", path)
    text = "\n".join(log.entries)
    for secret in (*PLANTED, session_id):
        assert secret not in text, [entry for entry in log.entries if secret in entry]


async def test_a_request_is_one_line_with_its_route_status_time_and_id(server: Running, log: Log) -> None:
    session_id = await server.session()
    await server.call(
        "GET", f"/api/sessions/{session_id}/messages?limit=3", headers={"X-Request-ID": "my-id"}
    )
    await server.call("GET", "/nowhere", headers={"X-Request-ID": "my-other-id"})
    lines = [line.split("chatbot.access: ")[1] for line in log.lines(holding="chatbot.access")]
    assert len(lines) == 3, lines
    expected = r"GET /api/sessions/\{session_id\}/messages 200 \d+\.\dms my-id session=[0-9a-f]{8}"
    assert re.fullmatch(expected, lines[1]), lines[1]
    assert re.fullmatch(r"GET - 404 \d+\.\dms my-other-id error=not_found", lines[2]), lines[2]


async def test_the_line_of_a_chat_says_what_came_of_it_as_text_and_as_json(
    server: Running, llm: ScriptedLLM, caplog: pytest.LogCaptureFixture
) -> None:
    session_id = await server.session()
    for stream in (False, True):
        llm.play(reply("Hello"))
        await (await server.stream(session_id)).rest() if stream else await server.chat(session_id)
        record = [record for record in caplog.records if record.name == "chatbot.access"][-1]
        line = json.loads(JsonFormatter().format(record))
        assert (line["model"], line["end"], line["session"]) == ("m", "stop", session_id[:8])
        assert (line["level"], line["method"], line["status"]) == ("INFO", "POST", 200)
        assert line["duration_ms"] + 1 >= line["first_token_ms"] >= 0  # which counts whole milliseconds
        assert " model=m " in record.getMessage()
        assert record.getMessage().endswith(" end=stop")


async def test_the_line_of_a_refusal_says_why(start: StartServer, log: Log) -> None:
    server = await start(max_database_mb=1)
    session_id = await server.session(system_prompt="x" * 1_000_000)
    path = f"/api/sessions/{session_id}"
    await server.call("POST", "/api/sessions", {})
    await server.call("POST", "/api/chat", {"session_id": session_id, "message": 5})
    await server.call("GET", f"{path}/messages/{session_id}")
    lines = [line.rpartition(" ")[2] for line in log.lines(holding="chatbot.access")[1:]]
    assert lines == ["error=storage_full", "error=invalid_request", "error=message_not_found"]


def test_a_crash_is_one_line_of_json() -> None:
    try:
        raise RuntimeError("two\nlines")
    except RuntimeError:
        record = logging.LogRecord("a", logging.ERROR, "", 0, "it %s", ("failed",), sys.exc_info())
    text = JsonFormatter().format(record)
    assert "\n" not in text
    assert json.loads(text)["message"] == "it failed"
    assert "RuntimeError: two\nlines" in json.loads(text)["traceback"]


@pytest.mark.parametrize("length", [99, 20_000])  # the second is a crash's
def test_a_log_that_nobody_reads_stops_nobody(length: int) -> None:
    ours, theirs = os.pipe()
    os.set_blocking(ours, False)
    with open(ours, "rb", buffering=0) as pipe, open(theirs, "w") as stream:
        handler = Handler(stream)
        for _ in range(5000):  # a pipe holds 64 KiB
            handler.emit(logging.makeLogRecord({"msg": "x" * length}))
        while pipe.read(2**20):
            pass
        handler.emit(logging.makeLogRecord({"msg": "it is read again"}))
        assert pipe.read() == b"it is read again\n"


async def test_a_client_that_left_is_logged_as_such(server: Running, llm: ScriptedLLM, log: Log) -> None:
    llm.play([*events(delta("begun")), Hang])
    stream = await server.stream(await server.session())
    await stream.event()
    await server.leave(stream)
    assert log.lines(holding="/api/chat/stream 499 "), log.entries


@pytest.mark.last
def test_nothing_secret_stands_in_the_whole_log_of_all_tests() -> None:
    """Looks for every session id, message and key that the tests before it used."""
    text = "\n".join(WHOLE_LOG.entries)
    ids = {secret for secret in SECRETS if UUID.fullmatch(secret)}
    assert not ids & set(UUID.findall(text)), "whole session ids stand in the log"
    # Words as short as "Hi" stand in any text.
    for secret in SECRETS - ids:
        if len(secret) >= 12:
            assert secret not in text, WHOLE_LOG.lines(holding=secret)[:1]
            assert json.dumps(secret)[1:-1] not in text, WHOLE_LOG.lines(holding=json.dumps(secret)[1:-1])[:1]
