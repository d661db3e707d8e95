"""Who may come in, and what every answer bears: keys, origins, request ids, one shape for every error."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from chatbot.errors import ERRORS
from chatbot.web.access import EXPOSED_HEADERS, METHODS
from chatbot.web.logs import JsonFormatter
from tests.test_openapi import DOC, MISSING, OPERATIONS, operations
from tests.tools.scripted_llm import Hang, ScriptedLLM
from tests.tools.server import Clock, Log, Running, StartServer, until
from tests.tools.sockets import Socket, get, post

OPEN = {"health", "ready", "get_openapi"}
ALLOWED = "https://chat.example"


def path_of(operation_id: str) -> tuple[str, str]:
    method, path = OPERATIONS[operation_id]
    return method, path.format(session_id=MISSING, message_id=MISSING)


def check_error(status: int, body: Any, code: str) -> None:
    """The one shape, and the status of the table."""
    assert set(body) == {"error"}, body
    assert body["error"]["code"] == code, body
    assert set(body["error"]) - {"message_id"} == {"code", "message", "param", "type"}, body
    assert (status, body["error"]["type"]) == ERRORS[code]


# Keys


@pytest.mark.parametrize("operation_id", OPERATIONS)
async def test_everything_but_health_the_description_and_the_page_wants_a_key(
    start: StartServer, operation_id: str
) -> None:
    server = await start(api_keys=("one", "two"))
    method, path = path_of(operation_id)
    async with server.http.request(method, server.url + path, data=b"{") as response:
        if operation_id in OPEN:
            assert response.status == 200
        else:
            assert response.headers["WWW-Authenticate"] == "Bearer"
            check_error(response.status, await response.json(), "unauthorized")
    described = DOC["paths"][OPERATIONS[operation_id][1]][method.lower()]
    assert (described.get("security") == []) == (operation_id in OPEN)


OPENS = ["Bearer one", "Bearer two", "bearer one", "BEARER  two "]
CLOSED = [
    *("", "one", "Bearer", "Bearer ", "Bearer o", "Bearer onex"),
    *("Bearer one,two", "Basic one", "Bearer ONE"),
]


@pytest.mark.parametrize("given", OPENS + CLOSED)
async def test_each_of_the_keys_opens_and_nothing_else(start: StartServer, given: str) -> None:
    server = await start(api_keys=("one", "two"))
    status, body, _ = await server.call("POST", "/api/sessions", headers={"Authorization": given})
    if given in OPENS:
        assert status == 201, body
    else:
        check_error(status, body, "unauthorized")


@pytest.mark.parametrize(
    ("path", "statuses"),
    [
        *((path, {401}) for path in ("/%61pi/sessions", "/api/%73essions", "/api/sessions?/api/health")),
        *((path, {401}) for path in ("/api/nothing", "/api/health/x")),
        # Paths are taken as they are written.
        *((path, {401, 404}) for path in ("//api/sessions", "/api//sessions")),
        *((path, {401, 404}) for path in ("/api/health/../sessions", "/api/./sessions")),
    ],
)
async def test_no_way_of_writing_a_path_gets_around_the_key(
    start: StartServer, path: str, statuses: set[int]
) -> None:
    server = await start(api_keys=("one",))
    client = await Socket.open(server)
    await client.send(post(path, b"{}", b"Authorization: Bearer \xff\xfe\r\n"))
    status, body, _ = await client.answer()
    assert status in statuses, body
    assert server.sql("SELECT count(*) FROM sessions") == [(0,)]


async def test_without_a_key_nothing_is_read_or_done(start: StartServer) -> None:
    server = await start(api_keys=("one",))
    client = await Socket.open(server)
    await client.send(post("/api/sessions", b"", length=1000))  # the body never comes
    status, body, headers = await client.answer()
    check_error(status, body, "unauthorized")
    assert headers["connection"] == "close", "a connection with half a request on it cannot be used again"
    assert server.sql("SELECT count(*) FROM sessions") == [(0,)]


# Browsers


def own(server: Running, host: str) -> dict[str, str]:
    """The headers of a browser whose page is served by this server under the name `host`."""
    return {"Host": f"{host}:{server.server.port}", "Origin": f"http://{host}:{server.server.port}"}


SERVED = ["127.0.0.1", "localhost", "LocalHost", "[::1]", "192.168.1.20", "[fe80::1]"]
REBOUND = ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "localhost.", "0x7f.1", "1.1"]


@pytest.mark.parametrize("host", SERVED + REBOUND)
async def test_the_servers_own_page_is_served_at_an_address_or_localhost_and_at_no_name_rebound_to_it(
    server: Running, host: str
) -> None:
    status, body, _ = await server.call("POST", "/api/sessions", headers=own(server, host))
    if host in SERVED:
        assert status == 201, body
    else:
        check_error(status, body, "origin_not_allowed")


OTHER_SITES = [
    *("null", "", "https://evil.example", "http://127.0.0.1", "http://127.0.0.1:1", "http://[::1"),
    *("http://127.0.0.1:{port}.evil.example", "http://evil.example@127.0.0.1:{port}"),
    *("http://127.0.0.1:{port}/", "file://127.0.0.1:{port}", "127.0.0.1:{port}", "http://localhost:{port}"),
    *("https://chat.example.evil.example", "https://chat.example:444", "http://chat.example"),
    "https://chat.example, https://evil.example",
]


@pytest.mark.parametrize("origin", OTHER_SITES)
@pytest.mark.parametrize(
    "operation_id", ["create_session", "chat", "chat_stream", "resume", "delete_session"]
)
async def test_another_site_is_refused(
    start: StartServer, llm: ScriptedLLM, origin: str, operation_id: str
) -> None:
    server = await start(allowed_origins=(ALLOWED,))
    session_id = await server.session()
    _, message, _ = await server.chat(session_id)
    before = server.sql("SELECT count(*) FROM sessions JOIN turns USING (session_id)")
    method, path = OPERATIONS[operation_id]
    path = path.format(session_id=session_id, message_id=message["message_id"])
    headers = {"Origin": origin.format(port=server.server.port)}
    body = {"session_id": session_id, "message": "Hi"} if "chat" in path else None
    status, answered, got = await server.call(method, path, body, headers)
    check_error(status, answered, "origin_not_allowed")
    assert "Access-Control-Allow-Origin" not in got
    assert len(llm.exchanges) == 1, "the LLM was asked for another site"
    assert server.sql("SELECT count(*) FROM sessions JOIN turns USING (session_id)") == before


async def test_programs_without_an_origin_are_served(server: Running) -> None:
    status, _, headers = await server.call("POST", "/api/sessions", headers={"Host": "anything.example"})
    assert status == 201
    assert "Access-Control-Allow-Origin" not in headers
    assert "Vary" not in headers


@pytest.mark.parametrize("origin", [ALLOWED, "https://CHAT.example"])
async def test_an_allowed_origin_is_served_and_may_read_the_answer(start: StartServer, origin: str) -> None:
    server = await start(allowed_origins=("https://other.example", ALLOWED), api_keys=("k",))
    headers = {"Origin": origin, "Authorization": "Bearer k"}
    for given, expected in ((headers, 201), ({"Origin": origin}, 401)):
        status, _, got = await server.call("POST", "/api/sessions", headers=given)
        assert status == expected
        assert got["Access-Control-Allow-Origin"] == origin
        assert got["Vary"].startswith("Origin")
        assert "X-Session-ID" in got["Access-Control-Expose-Headers"]
        assert "Access-Control-Allow-Credentials" not in got


@pytest.mark.parametrize(
    ("path", "parts"), [("/api/health", {"Origin"}), ("/page/style.css", {"Origin", "Accept-Encoding"})]
)
async def test_a_cache_may_give_an_answer_only_to_who_could_have_it_too(
    start: StartServer, path: str, parts: set[str]
) -> None:
    server = await start(allowed_origins=(ALLOWED,))
    async with server.http.get(server.url + path) as response:
        assert parts <= set(response.headers["Vary"].split(", "))


async def test_a_stream_is_open_to_an_allowed_page_and_so_are_its_errors(
    start: StartServer, llm: ScriptedLLM
) -> None:
    server = await start(allowed_origins=(ALLOWED,))
    session_id = await server.session()
    stream = await server.stream(session_id, headers={"Origin": ALLOWED})
    assert stream.headers["Access-Control-Allow-Origin"] == ALLOWED
    await stream.rest()
    failed = await server.stream(MISSING, headers={"Origin": ALLOWED})
    assert (failed.status, failed.headers["Access-Control-Allow-Origin"]) == (404, ALLOWED)


def preflight(origin: str, method: str = "POST") -> dict[str, str]:
    return {
        "Origin": origin,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": "authorization, content-type, x-stainless-os",
    }


@pytest.mark.parametrize("operation_id", OPERATIONS)
async def test_a_preflight_of_an_allowed_origin_needs_no_key(start: StartServer, operation_id: str) -> None:
    server = await start(allowed_origins=(ALLOWED,), api_keys=("k",))
    method, path = path_of(operation_id)
    status, body, headers = await server.call("OPTIONS", path, headers=preflight(ALLOWED, method))
    assert (status, body) == (204, None)
    assert headers["Access-Control-Allow-Origin"] == ALLOWED
    assert headers["Vary"].startswith("Origin")
    assert method in headers["Access-Control-Allow-Methods"].split(", ")
    assert headers["Access-Control-Allow-Headers"] == preflight("")["Access-Control-Request-Headers"]
    assert int(headers["Access-Control-Max-Age"]) > 0


@pytest.mark.parametrize("asked_for", [None, "x-a,\tx-b", f"x-{'a' * 5000}"])
async def test_a_preflight_is_granted_what_it_asks_for_and_nothing_else(
    start: StartServer, asked_for: str | None
) -> None:
    server = await start(allowed_origins=(ALLOWED,))
    asking = {"Origin": ALLOWED, "Access-Control-Request-Method": "POST"}
    asking |= {"Access-Control-Request-Headers": asked_for} if asked_for else {}
    status, _, headers = await server.call("OPTIONS", "/api/chat", headers=asking)
    assert (status, headers.get("Access-Control-Allow-Headers")) == (204, asked_for)


@pytest.mark.parametrize("origin", ["https://evil.example", "null"])
async def test_a_preflight_of_another_site_is_refused(start: StartServer, origin: str) -> None:
    server = await start(allowed_origins=(ALLOWED,))
    status, body, headers = await server.call("OPTIONS", "/api/chat", headers=preflight(origin))
    check_error(status, body, "origin_not_allowed")
    assert not [name for name in headers if name.lower().startswith("access-control-")]


def test_pages_may_read_every_header_that_is_described_and_use_every_method() -> None:
    read = {"X-Request-ID", "X-Session-ID", *DOC["components"]["headers"]}
    # What a page can always read, or has no use for.
    read -= {"Allow", "Cache-Control", "ETag", "WWW-Authenticate", "X-Accel-Buffering", "x-should-retry"}
    assert set(EXPOSED_HEADERS.split(", ")) >= read
    assert set(METHODS.split(", ")) == {method for method, _, _ in operations()}


# What every answer bears


SAFE_IDS = [b"a", b"order-4711.retry:2/x+y=@", b"A" * 128]
UNSAFE_IDS = [b"", b"A" * 129, b"two words", b"new\tline", b"\xff\xfe", b"<b>", b"a;b", b'"']


@pytest.mark.parametrize("given", SAFE_IDS + UNSAFE_IDS)
async def test_a_request_id_that_is_safe_in_a_log_comes_back_and_another_is_replaced(
    server: Running, log: Log, given: bytes
) -> None:
    client = await Socket.open(server)
    await client.send(get("/api/health", b"X-Request-ID: %b\r\n" % given))
    status, _, headers = await client.answer()
    shown = headers["x-request-id"]
    assert status == 200
    assert shown.encode() == given if given in SAFE_IDS else len(shown) == 36
    assert log.lines(holding=shown), log.entries


ODD_REQUESTS = {
    "not_found": (get("/api/nothing"), "not_found"),
    "not_found-post": (post("/nothing", b"{}"), "not_found"),
    "method": (get("/api/chat"), "method_not_allowed"),
    "method-unknown-to-most": (b"QUERY /api/health HTTP/1.1\r\nHost: x\r\n\r\n", "method_not_allowed"),
    "too-large": (post("/api/sessions", b"[" * 2000), "request_too_large"),
    "too-large-it-says": (post("/api/sessions", b"{", length=2000), "request_too_large"),
    "expect": (post("/api/sessions", b"{}", b"Expect: a-miracle\r\n"), "invalid_request"),
    "no-http": (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", "invalid_request"),
    "http-2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "invalid_request"),
    "no-such-method": (b"GOSSIP /api/health HTTP/1.1\r\nHost: x\r\n\r\n", "invalid_request"),
    "no-host": (b"GET /api/health HTTP/1.1\r\n\r\n", "invalid_request"),
    "two-hosts": (get("/api/health", b"Host: y\r\n"), "invalid_request"),
    "long-path": (get("/" + "a" * 33_000), "headers_too_large"),
    "long-header": (get("/", b"A: " + b"a" * 33_000 + b"\r\n"), "headers_too_large"),
    "endless-header": (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: bcdefgh\r\n" * 4000, "headers_too_large"),
    "many-headers": (get("/", b"A: b\r\n" * 1000), "headers_too_large"),
    "header-without-colon": (get("/", b"hello\r\n"), "invalid_request"),
    "raw-bytes-in-the-path": (b"GET /api/sessions/\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n", "invalid_request"),
    "raw-bytes-in-expect": (post("/api/sessions", b"{}", b"Expect: \xff\r\n"), "invalid_request"),
    "connect": (b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", "invalid_request"),
    "no-path-but-an-address": (get("http://[::1/"), "invalid_request"),
    "length-and-chunks": (post("/api/sessions", b"{}", b"Transfer-Encoding: chunked\r\n"), "invalid_request"),
    "two-lengths": (post("/api/sessions", b"{}", b"Content-Length: 3\r\n"), "invalid_request"),
    "negative-length": (post("/api/sessions", b"{}", length=-2), "invalid_request"),
    "endless-length": (post("/api/sessions", b"{}", length=10**30), "invalid_request"),
    "compressed": (post("/api/sessions", b"{}", b"Content-Encoding: gzip\r\n"), "invalid_request"),
}


@pytest.mark.parametrize("name", ODD_REQUESTS)
async def test_every_error_has_the_one_shape_and_one_line_in_the_log(
    start: StartServer, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    server = await start(max_request_bytes=1024)
    data, code = ODD_REQUESTS[name]
    client = await Socket.open(server)
    await client.send(data)
    status, body, headers = await client.answer()
    check_error(status, body, code)
    assert headers["content-type"].startswith("application/json")
    assert headers["server"] == "chatbot", "it says what the server is made of"
    assert ("allow" in headers) == (status == 405)
    [record] = [record for record in caplog.records if record.name == "chatbot.access"]
    line = json.loads(JsonFormatter().format(record))
    assert (line["status"], line["request_id"]) == (status, headers["x-request-id"])
    assert "reason" in line or line["error"] == code
    assert f" {headers['x-request-id']}" in line["message"]
    assert not [record for record in caplog.records if record.exc_info]
    assert (await server.call("GET", "/api/health"))[0] == 200


@pytest.mark.parametrize("path", list(DOC["paths"]))
async def test_a_method_that_a_path_does_not_take_is_told_those_it_takes(server: Running, path: str) -> None:
    takes = {method for method, known, _ in operations() if known == path}
    if "GET" in takes and not path.endswith("/stream"):
        takes.add("HEAD")
    for method in {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"} - takes:
        url = server.url + path.format(session_id=MISSING, message_id=MISSING)
        async with server.http.request(method, url) as response:
            assert response.status == 405, method
            assert set(response.headers["Allow"].split(", ")) == takes
            if method != "HEAD":
                check_error(405, await response.json(), "method_not_allowed")


async def test_head_answers_like_get_without_the_body(server: Running) -> None:
    session_id = await server.session()
    for path in ("/", "/api/health", "/api/openapi.json", f"/api/sessions/{session_id}"):
        async with server.http.get(server.url + path) as got, server.http.head(server.url + path) as head:
            assert (head.status, await head.read()) == (200, b""), path
            assert head.headers["Content-Type"] == got.headers["Content-Type"]


async def test_answers_are_neither_cached_nor_sniffed(server: Running) -> None:
    session_id = await server.session()
    for path in ("/api/health", f"/api/sessions/{session_id}", "/api/nothing"):
        _, _, headers = await server.call("GET", path)
        assert headers["Cache-Control"] == "no-store", path
        assert headers["X-Content-Type-Options"] == "nosniff", path
        assert "aiohttp" not in headers["Server"].lower(), "it says what the server is made of"


# Health


async def test_health_never_asks_the_llm_and_ready_asks_it_at_most_every_five_seconds(
    server: Running, llm: ScriptedLLM, clock: Clock
) -> None:
    for _ in range(3):
        status, body, _ = await server.call("GET", "/api/health")
        assert (status, body["status"], body["sessions"], body["active_replies"]) == (200, "ok", 0, 0)
    assert llm.model_requests == 0
    for _ in range(3):
        assert (await server.call("GET", "/api/health/ready"))[:2] == (
            200,
            {"status": "ok", "llm": "ok", "storage": "ok"},
        )
    assert llm.model_requests == 1
    llm.models = [b"HTTP/1.1 503 Loading\r\nContent-Length: 0\r\n\r\n"]
    clock.advance(4.5)
    assert (await server.call("GET", "/api/health/ready"))[0] == 200
    clock.advance(0.6)
    status, body, _ = await server.call("GET", "/api/health/ready")
    assert (status, body["status"], body["llm"]) == (503, "unavailable", "loading")


async def test_a_server_whose_storage_is_full_is_not_ready(start: StartServer) -> None:
    server = await start(max_database_mb=1)
    await server.session(system_prompt="x" * 1_000_000)
    status, body, _ = await server.call("GET", "/api/health/ready")
    assert (status, body) == (503, {"status": "unavailable", "llm": "ok", "storage": "full"})


@pytest.mark.parametrize(
    ("script", "llm_is"),
    [
        ([b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n"], "unauthorized"),
        ([b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"], "error"),
        ([b"HTTP/1.1 302 No\r\nLocation: http://evil.example/\r\nContent-Length: 0\r\n\r\n"], "error"),
        ([b"nonsense\r\n\r\n"], "unreachable"),
    ],
)
async def test_ready_says_what_is_wrong_with_the_llm(
    server: Running, llm: ScriptedLLM, script: Any, llm_is: str
) -> None:
    llm.models = script
    status, body, _ = await server.call("GET", "/api/health/ready")
    assert (status, body["status"], body["llm"]) == (503, "unavailable", llm_is)
    assert (await server.call("GET", "/api/health"))[0] == 200


async def test_ready_does_not_wait_for_an_llm_that_hangs(
    server: Running, llm: ScriptedLLM, clock: Clock
) -> None:
    llm.models = [Hang]
    asked = asyncio.create_task(server.call("GET", "/api/health/ready"))
    await until(lambda: llm.model_requests == 1)
    assert (await server.call("GET", "/api/health"))[0] == 200
    clock.advance(2.1)
    status, body, _ = await asked
    assert (status, body["llm"]) == (503, "unreachable")
