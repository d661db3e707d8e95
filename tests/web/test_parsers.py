"""Whatever the bytes, it is no crash: no 500, no traceback, with aiohttp's parser in C or in Python."""

from __future__ import annotations

import itertools
import os
import socket
from collections import Counter
from contextlib import suppress

import pytest

from tests.tools.processes import Process
from tests.tools.sockets import get, post
from tests.web.conftest import StartSite
from tests.web.fuzz import requests

COUNT = int(os.environ.get("FUZZ_REQUESTS", "1500"))
PARSERS = {"C": {}, "Python": {"AIOHTTP_NO_EXTENSIONS": "1"}}


@pytest.fixture(params=PARSERS)
def process(request: pytest.FixtureRequest, start_site: StartSite) -> Process:
    return start_site(**PARSERS[request.param])


def exchange(process: Process, data: bytes) -> bytes:
    """What is answered to these bytes and no more."""
    answer = b""
    with socket.create_connection(("127.0.0.1", process.port), 10) as client, suppress(ConnectionError):
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        while received := client.recv(65536):
            answer += received
    return answer


def test_nothing_that_a_fuzzer_sends_is_a_crash(process: Process, request: pytest.FixtureRequest) -> None:
    seed = int(os.environ.get("FUZZ_SEED", "1"))
    statuses: Counter[str] = Counter()
    for data in itertools.islice(requests(seed), COUNT):
        answer = exchange(process, data)
        status = answer[9:12].decode() or "closed"
        statuses[status] += 1
        assert status not in ("500", "100"), data
        assert b'"internal_error"' not in answer, data
    print(f"{request.node.name}: {COUNT} requests of seed {seed}: {dict(sorted(statuses.items()))}")
    assert statuses["200"] > COUNT / 20, f"hardly any was served: {statuses}"
    assert "Traceback" not in process.output, process.output
    assert b" 200 OK" in exchange(process, get("/api/health"))


CHUNKS = b"2\r\n{}\r\n0\r\n\r\n"
GOOD = b"GET /api/health HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (post("/upload", b"{}", b"Expect: \xff\r\n"), b"400"),
        (b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
        (b"GET /\xe2\x82\xac HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
        (b"GET /?a=\xff HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
        (b"POST /upload HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n" + CHUNKS, b"400"),
        (b"POST /upload HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, chunked\r\n\r\n" + CHUNKS, b"400"),
        (b"POST /upload HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: Chunked\r\n\r\n" + CHUNKS, b"200"),
        (b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
        (b"GET /api/health HTTP/2.0\r\nHost: x\r\n\r\n", b"400"),
        (GOOD + b"Cookie: \xff\xfe\r\nUser-Agent: \xe2\x82\xac\r\n\r\n", b"200"),
        (GOOD + b"X-Request-ID: \xff\r\n\r\n", b"200"),
        (GOOD + b"Origin: http://\xff\r\n\r\n", b"403"),
        (GOOD + b"A: " + b"a" * 30_000 + b"\r\n\r\n", b"200"),
        (GOOD + b"A: " + b"a" * 33_000 + b"\r\n\r\n", b"431"),
        (GOOD + b"A: " + b"a" * 20_000 + b"\r\nB: " + b"b" * 20_000 + b"\r\n\r\n", b"431"),
        (GOOD + b"A: aaaaaaaaaa\r\n" * 3_000, b"431"),
        (GOOD + b"A: b\r\n" * 200 + b"\r\n", b"431"),
        (b"GET /" + b"a" * 33_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", b"431"),
        (post("/upload", b"x" * 500_000) + GOOD + b"\r\n", b"200"),
    ],
)
def test_both_parsers_refuse_and_serve_the_same(process: Process, data: bytes, status: bytes) -> None:
    answer = exchange(process, data)
    assert answer[9:12] == status, answer
    assert answer.count(b"Server: chatbot\r\n") == answer.count(b"Server: ") > 0
    if status == b"200" and b"500000" in data:
        assert answer.count(b" 200 OK") == 2, "a long body was taken for headers"
    if status != b"200":
        assert b'"error"' in answer
        assert b"X-Request-ID" in answer
    assert "Traceback" not in process.output, process.output
