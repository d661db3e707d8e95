"""Whatever is sent, the answer is one that the description knows, and the next request is served."""

from __future__ import annotations

import gzip
import io
import json
import re
from operator import itemgetter
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.test_openapi import OPERATIONS, request, turn, undocumented
from tests.tools.scripted_llm import ScriptedLLM
from tests.tools.server import Log, Running, StartServer
from tests.tools.sockets import Socket, get, post

many = settings(
    max_examples=100,
    deadline=None,
    database=None,
    # The server is shared by all examples of a test, as it is by all clients.
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
    ],
)

# What can be said in JSON or nearly so: also what Python writes and reads and others do not.
texts = st.text(st.characters(codec=None), max_size=20)  # lone surrogates and NUL among them
numbers = st.one_of(
    st.integers(),
    st.integers(-(10**400), 10**400),
    st.floats(),
    st.sampled_from([0, -1, 1, 2**31, 2**63, 2**64, 1.0, 0.5, 10**4000]),
)
scalars = st.one_of(st.none(), st.booleans(), numbers, texts)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
NAMES = [
    *("session_id", "message", "metadata", "system_prompt", "model", "temperature", "top_p", "max_tokens"),
    *("stop", "seed", "presence_penalty", "frequency_penalty", "response_format", "stream", "n", ""),
    *("replace", "current", "tool_outputs", "tools", "tool_choice", "extra_body", "logit_bias", "user"),
]
objects = st.dictionaries(st.sampled_from(NAMES) | texts, values, max_size=4)
parts = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "image_url", "input_audio", "file"]) | texts},
    optional={"text": texts, "image_url": st.fixed_dictionaries({"url": texts}) | values, "file": values},
)
outputs = st.fixed_dictionaries({}, optional={"tool_call_id": texts | values, "output": texts | values})
likely = st.fixed_dictionaries(
    {},
    optional={
        "message": st.text(min_size=1, max_size=50) | texts | st.lists(parts, max_size=3),
        "tool_outputs": st.lists(outputs, max_size=3),
        "replace": texts,
        "tools": st.lists(objects, max_size=2),
        "extra_body": st.dictionaries(texts, values, max_size=3),
        "metadata": st.dictionaries(texts, values, max_size=3) | values,
        "temperature": numbers,
        "max_tokens": numbers,
        "stop": st.lists(texts, max_size=3) | texts,
        "seed": numbers,
        "response_format": objects,
        "model": texts,
    },
)


def encoded(value: Any, encoding: str, ascii_only: bool) -> bytes:
    return json.dumps(value, ensure_ascii=ascii_only).encode(encoding, "surrogatepass")


encodings = st.sampled_from(["utf-8"] * 6 + ["utf-8-sig", "utf-16", "utf-16-le", "utf-32", "utf-7"])
whole_bodies = st.builds(encoded, objects | likely | values, encodings, st.booleans())


@st.composite
def spoilt_bodies(draw: st.DrawFn) -> bytes:
    """A body of which a piece is missing, doubled or replaced."""
    body = draw(whole_bodies)
    start = draw(st.integers(0, len(body)))
    end = draw(st.integers(start, len(body)))
    return body[:start] + draw(st.binary(max_size=8) | st.just(body[start:end] * 2)) + body[end:]


raw_bodies = st.one_of(whole_bodies, whole_bodies, spoilt_bodies(), st.binary(max_size=200))
content_types = st.sampled_from(
    [
        *("application/json", "application/json; charset=bogus", "text/plain; charset=utf-16"),
        *("", "multipart/form-data", "x"),
    ]
)


async def check(server: Running, log: Log, operation_id: str, status: int, body: Any, headers: Any) -> None:
    """An answer is as described, is no failure of ours, and left the server well."""
    assert not log.tracebacks, log.tracebacks[0]
    assert status < 500, body
    assert undocumented(operation_id, status, body, headers) == [], (status, body)
    health = await server.call("GET", "/api/health")
    assert health[0] == 200


def with_session(body: bytes, session_id: str) -> bytes:
    """The body with the id of a session that exists put into it, if it is an object at all."""
    return re.sub(rb"^\{", b'{"session_id":"%b",' % session_id.encode(), body, count=1).replace(b",}", b"}")


@pytest.mark.parametrize("operation_id", ["create_session", "patch_session", "chat", "chat_stream"])
@many
@given(data=raw_bodies, content_type=content_types, known=st.booleans(), key=st.booleans())
async def test_any_body_is_taken_or_refused_as_described(
    server: Running, log: Log, operation_id: str, data: bytes, content_type: str, known: bool, key: bool
) -> None:
    ids = await turn(server)
    if known and "chat" in operation_id:
        data = with_session(data, ids["session_id"])
    headers = {"Content-Type": content_type} | ({"Idempotency-Key": "k"} if key else {})
    await check(server, log, operation_id, *await request(server, operation_id, ids, data, headers))


NASTY_BODIES: dict[str, bytes] = {
    "empty": b"",
    "spaces": b" \r\n\t ",
    "null": b"null",
    "array": b"[]",
    "string": b'"{}"',
    "two": b"{}{}",
    "nan": b'{"metadata":{"a":NaN},"temperature":NaN}',
    "infinity": b'{"metadata":{"a":-Infinity},"temperature":-Infinity}',
    "number beyond floats": b'{"metadata":{"a":1e999},"temperature":1e999}',
    "number of 4,000 digits": b'{"metadata":{"a":%b},"seed":%b}' % (b"9" * 4000, b"9" * 4000),
    "number of 5,000 digits": b'{"metadata":{"a":%b},"seed":%b}' % (b"9" * 5000, b"9" * 5000),
    "number of a million digits": b'{"metadata":{"a":%b}}' % (b"9" * 1_000_000),
    "lone surrogate": b'{"metadata":{"a":"\\ud800"},"message":"\\udfff","system_prompt":"\\ud800"}',
    "lone surrogate as a name": b'{"metadata":{"\\ud800":1},"\\ud800":1}',
    "lone surrogate in bytes": b'{"metadata":{"a":"\xed\xa0\x80"},"message":"\xed\xa0\x80"}',
    "NUL": b'{"metadata":{"a":"\\u0000"},"message":"a\\u0000b","system_prompt":"\\u0000"}',
    "NUL byte": b'{"metadata":{"a":"\x00"},"message":"\x00"}',
    "name twice": b'{"metadata":{"a":1},"metadata":{"a":2},"message":"one","message":"two"}',
    "nested 65 deep": b'{"metadata":' + b'{"a":' * 65 + b"1" + b"}" * 66,
    "nested 900 deep": b'{"metadata":' + b'{"a":' * 900 + b"1" + b"}" * 901,
    "arrays nested 100,000 deep": b'{"metadata":{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}}",
    "objects nested 100,000 deep": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "nested and never closed": b"[" * 1_000_000,
    "utf-16": '{"metadata":{}}'.encode("utf-16"),
    "latin-1": '{"metadata":{"a":"é"}}'.encode("latin-1"),
    "byte order mark": b"\xef\xbb\xbf{}",
    "overlong": b'{"metadata":{"a":"\xc0\xaf"}}',
    "gzip without saying so": gzip.compress(b"{}"),
    "half a million numbers": b'{"metadata":{"a":[' + b"0," * 500_000 + b"0]}}",
    "300,000 arrays": b'{"metadata":{"a":[' + b"[]," * 300_000 + b"0]}}",
}


@pytest.mark.parametrize("operation_id", ["create_session", "patch_session", "chat", "chat_stream"])
@pytest.mark.parametrize("name", NASTY_BODIES)
async def test_a_nasty_body_is_taken_or_refused_as_described(
    server: Running, log: Log, operation_id: str, name: str
) -> None:
    ids = await turn(server)
    data = NASTY_BODIES[name]
    for headers in ({}, {"Content-Type": "application/json; charset=utf-16"}):
        status, body, got = await request(server, operation_id, ids, data, headers)
        await check(server, log, operation_id, status, body, got)
    assert (await server.chat(ids["session_id"], "And now?"))[0] == 200


@pytest.mark.parametrize("name", ["nested and never closed", "half a million numbers", "300,000 arrays"])
async def test_a_body_that_would_take_long_to_read_is_refused_unread(server: Running, name: str) -> None:
    status, answer, _ = await request(server, "create_session", {}, NASTY_BODIES[name])
    assert (status, answer["error"]["code"]) == (400, "invalid_request")
    assert "65536 values" in answer["error"]["message"]


@pytest.mark.parametrize(
    "text",
    ["[[{,:" * 100_000, r"\"\\" * 100_000, "책" * 300_000, r"\n" * 300_000, r"\"],[" * 60_000],
)
async def test_a_message_may_be_a_book_of_anything(server: Running, llm: ScriptedLLM, text: str) -> None:
    session_id = await server.session()
    body = f'{{"session_id":"{session_id}","message":"{text}"}}'.encode()
    status, answer, _ = await request(server, "chat", {}, body)
    assert status == 200, answer
    assert llm.exchanges[0].body["messages"][0]["content"] == json.loads(f'"{text}"')


@pytest.mark.parametrize(
    "body", ['"' + r"\"" * 500_000, '"' * 1_000_001, "\\" * 1_000_000, '{"a":"' + "\\" * 1_000_000]
)
async def test_a_string_that_never_ends_is_read_once(server: Running, body: str) -> None:
    status, answer, _ = await request(server, "create_session", {}, body.encode())
    assert (status, answer["error"]["type"]) == (400, "invalid_request_error")


@pytest.mark.parametrize("field", ["metadata", "temperature", "seed", "stop", "response_format", "message"])
@pytest.mark.parametrize(
    "wrong",
    [
        *("[[]]", "true", '{"a":NaN}', '["\\ud800"]', "-Infinity", '"\\udc00"'),
        *("[" * 70 + "]" * 70, "1e400"),
    ],
)
async def test_a_wrong_field_is_named(server: Running, field: str, wrong: str) -> None:
    session_id = await server.session()
    operation_id = "create_session" if field == "metadata" else "chat"
    body = {} if field == "metadata" else {"session_id": session_id, "message": "Hi"}
    text = json.dumps(body | {field: "WRONG"}).replace('"WRONG"', wrong)
    status, answer, _ = await request(server, operation_id, {}, text.encode())
    assert (status, answer["error"]["code"], answer["error"]["param"]) == (400, "invalid_request", field)


async def test_64_levels_of_metadata_come_back_and_65_do_not(server: Running) -> None:
    def nested(levels: int) -> Any:
        value: Any = {}
        for _ in range(levels - 1):
            value = {"a": value}
        return value

    status, session, _ = await server.call("POST", "/api/sessions", {"metadata": nested(64)})
    assert (status, session["metadata"]) == (201, nested(64))
    status, answer, _ = await server.call("POST", "/api/sessions", {"metadata": nested(65)})
    assert (status, answer["error"]["param"]) == (400, "metadata")


async def test_a_compressed_body_is_refused_and_never_unpacked(server: Running, log: Log) -> None:
    bomb = gzip.compress(b'{"metadata":{"a":"' + b"a" * 200_000_000 + b'"}}', compresslevel=1)
    assert len(bomb) < 1_048_576
    for encoding in ("gzip", "deflate", "br", "zstd", "GZIP", "identity, gzip"):
        headers = {"Content-Encoding": encoding, "Content-Type": "application/json"}
        answered = await request(server, "create_session", {}, bomb, headers)
        await check(server, log, "create_session", *answered)
        assert answered[0] == 400
        assert answered[1]["error"]["param"] == "Content-Encoding"


async def test_a_body_of_exactly_the_limit_is_taken_and_one_byte_more_is_not(start: StartServer) -> None:
    server = await start(max_request_bytes=1_048_576)
    body = b'{"system_prompt":"' + b"a" * (1_048_576 - 20) + b'"}'
    assert len(body) == 1_048_576

    async def in_pieces(data: bytes) -> Any:
        for start in range(0, len(data), 100_000):
            yield data[start : start + 100_000]

    for extra, expected in ((b"", 201), (b" ", 413)):
        data = body + extra
        async with server.http.post(server.url + "/api/sessions", data=io.BytesIO(data)) as response:
            assert response.status == expected
        async with server.http.post(server.url + "/api/sessions", data=in_pieces(data)) as response:
            assert response.status == expected, "without a Content-Length the limit is the same"


PLACES = ["0", "1", "1000", "1001", "-1", "٣", "1e3", "null", "a b", "0x1"]
any_text = st.text(max_size=40) | st.sampled_from(PLACES)
MESSAGE_IDS = ["{question}", "{reply}", "{nothing}", "*", ""]


@many
@given(
    query=st.dictionaries(
        st.sampled_from(["limit", "before", "after", "cursor", ""]), any_text | st.sampled_from(MESSAGE_IDS)
    ),
    twice=st.booleans(),
)
async def test_any_query_of_a_page_is_answered_as_described(
    server: Running, log: Log, query: dict[str, str], twice: bool
) -> None:
    ids = await turn(server)
    _, page, _ = await server.call("GET", f"/api/sessions/{ids['session_id']}/messages")
    question = page["messages"][0]["message_id"]
    known = {"{question}": question, "{reply}": ids["message_id"], "{nothing}": "no-such"}
    pairs = [f"{quote(name)}={quote(known.get(value, value), safe='')}" for name, value in query.items()]
    path = f"/api/sessions/{ids['session_id']}/messages?" + "&".join(pairs * (1 + twice))
    client = await Socket.open(server)
    await client.send(get(path))
    await check(server, log, "list_messages", *lowered(await client.answer()))
    client.leave()


class Lower(dict[str, str]):
    """Headers whose names were lower-cased, found by any spelling."""

    def __contains__(self, name: object) -> bool:
        return super().__contains__(str(name).lower())

    def __getitem__(self, name: str) -> str:
        return super().__getitem__(name.lower())


header_bytes = st.binary(max_size=40).map(
    lambda data: bytes(byte for byte in data if byte >= 32 and byte != 127)
)
HEADERS = [
    *(b"Authorization", b"Origin", b"X-Request-ID", b"Idempotency-Key", b"Last-Event-ID", b"If-None-Match"),
    *(b"Content-Type", b"Content-Encoding", b"Cookie", b"Accept", b"Range", b"If-Modified-Since", b"Date"),
]


TO_ANY_HEADER = [
    *("create_session", "get_session", "list_messages", "get_message", "cancel", "chat"),
    *("get_openapi", "health"),
]


@many
@given(
    operation_id=st.sampled_from(TO_ANY_HEADER),
    headers=st.lists(st.tuples(st.sampled_from(HEADERS), header_bytes), max_size=4, unique_by=itemgetter(0)),
)
async def test_any_header_is_answered_as_described(
    server: Running, log: Log, operation_id: str, headers: list[tuple[bytes, bytes]]
) -> None:
    ids = await turn(server)
    method, path = OPERATIONS[operation_id]
    extra = b"".join(b"%b: %b\r\n" % header for header in headers)
    body = b""
    if operation_id == "chat":
        body = json.dumps({"session_id": ids["session_id"], "message": "Hi"}).encode()
    data = post(path.format(**ids), body, extra) if method == "POST" else get(path.format(**ids), extra)
    client = await Socket.open(server)
    await client.send(data)
    await check(server, log, operation_id, *lowered(await client.answer()))
    client.leave()


def lowered(answer: tuple[int, Any, dict[str, str]]) -> tuple[int, Any, Lower]:
    status, body, headers = answer
    return status, body, Lower(headers)


@many
@given(place=any_text, in_header=st.booleans())
async def test_any_place_in_a_reply_is_answered_as_described(
    server: Running, log: Log, place: str, in_header: bool
) -> None:
    ids = await turn(server)
    path = OPERATIONS["resume"][1].format(**ids)
    headers = b"Connection: close\r\n"
    if in_header:
        headers += b"Last-Event-ID: %b\r\n" % re.sub("[\r\n]", "", place).encode()
    else:
        path += f"?after={quote(place, safe='')}"
    client = await Socket.open(server)
    await client.send(get(path, headers))
    head, _, rest = (await client.ended()).partition(b"\r\n\r\n")
    assert not log.tracebacks, log.tracebacks[0]
    status = int(head.split()[1])
    if status == 200:
        assert rest.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n"), rest
    else:
        assert status == 400, (head, rest)
        assert b'"code":"invalid_' in rest, rest


@many
@given(
    written=st.text(max_size=30).map(lambda text: quote(text, safe=""))
    | st.binary(max_size=20).map(lambda data: quote(data, safe="")),
    which=st.booleans(),
)
async def test_any_id_in_a_path_is_answered_as_described(
    server: Running, log: Log, written: str, which: bool
) -> None:
    ids = await turn(server)
    ids = ids | {"session_id" if which else "message_id": written}
    client = await Socket.open(server)
    for operation_id in ("get_message", "cancel", "rewind"):
        method, path = OPERATIONS[operation_id]
        await client.send(f"{method} {path.format(**ids)} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        status, body, _ = await client.answer()
        assert not log.tracebacks, log.tracebacks[0]
        code = body["error"]["code"].removeprefix("session_").removeprefix("message_")
        assert (status, code) in ((404, "not_found"), (405, "method_not_allowed")), body
    client.leave()


PIECES = [
    *(b"GET ", b"POST ", b"/api/health", b"/api/sessions", b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", b"\r\n"),
    *(b"Host: x\r\n", b"Content-Length: 2\r\n", b"Content-Length: 5\r\n", b"{}", b"\r\n\r\n", b"\x00"),
    *(b"Transfer-Encoding: chunked\r\n", b"2\r\n{}\r\n", b"0\r\n\r\n", b"ffffffffffffffff\r\n", b"zz\r\n"),
    *(b"Connection: close\r\n", b"Upgrade: websocket\r\nConnection: Upgrade\r\n"),
    *(b"Expect: 100-continue\r\n", b"Trailer: x\r\n", b" folded\r\n", b"A:b:c\r\n", b": \r\n"),
    *(b'2;ext="\r\n', b"\n", b"\r"),
]


@many
@given(pieces=st.lists(st.sampled_from(PIECES) | st.binary(max_size=6), max_size=14))
async def test_any_bytes_leave_the_server_well(server: Running, log: Log, pieces: list[bytes]) -> None:
    client = await Socket.open(server)
    await client.send(b"".join(pieces))
    client.writer.write_eof()
    for answer in re.findall(rb"HTTP/\d\.\d (\d+)", await client.ended()):
        assert int(answer) < 500, pieces
    assert not log.tracebacks, log.tracebacks[0]
    assert (await server.call("GET", "/api/health"))[0] == 200
