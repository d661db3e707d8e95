"""An LLM that floods, lies or talks nonsense costs bounded memory and breaks nothing: a reply or an error comes."""

# ruff: noqa: E501 (a case of a table is a line)
from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import Iterator

import pytest

from chatbot.errors import ChatError
from chatbot.llm.chunks import ChunkReader
from chatbot.llm.response import SLICE_BYTES
from tests.llm.asking import DONE, STOP, event, hear, opened, play, stream, text
from tests.tools.scripted_llm import SSE_HEAD, Close, ScriptedLLM, Step, answer, http_chunk
from tests.tools.server import Log


def endless(piece: bytes) -> Iterator[Step]:
    yield SSE_HEAD
    while True:
        yield http_chunk(piece)


@pytest.mark.parametrize(
    "piece",
    [
        *(b"x" * 65536, b"data: " + b"x" * 65536, b": " + b"x" * 65536, b"\x00" * 65536, b"data: x\n" * 5000),
        b'{"a":"' + b"x" * 65536,
    ],
    ids=lambda piece: piece[:8].decode(),
)
async def test_what_never_ends_is_an_error(llm: ScriptedLLM, piece: bytes) -> None:
    llm.script = lambda _: endless(piece)
    async with opened(llm) as way:
        heard = await hear(way)
        await asyncio.wait_for(llm.exchanges[0].gone.wait(), 10)
    assert (heard.failed.code, heard.failed.kind) == ("llm_error", "large")


@pytest.mark.parametrize(
    "piece", [b"data: {}\n\n", b"data:\n\n", b": ping\n\n", b"\n", event(text("a")), event(text(""))]
)
async def test_a_burst_of_a_hundred_thousand_events_keeps_nobody_waiting_long(
    llm: ScriptedLLM, piece: bytes
) -> None:
    script = stream(*[piece * 10_000] * 10, text("end"), STOP, DONE)
    task = asyncio.create_task(play(llm, script))
    turns = 0
    while not task.done():
        await asyncio.sleep(0)
        turns += 1
    heard = task.result()
    assert heard.error is None
    assert heard.said == ("a" * 100_000 if piece == event(text("a")) else "") + "end"
    assert 2 * turns >= 100_000 * len(piece) // SLICE_BYTES, "others have a turn after each slice"


@pytest.mark.parametrize(
    ("encoding", "kind"), [("gzip", "large"), ("deflate", "large"), ("br", "nonsense")], ids=repr
)
async def test_an_answer_compressed_unasked_is_unpacked_no_further_than_it_may_be_long(
    llm: ScriptedLLM, encoding: str, kind: str
) -> None:
    bomb = zlib.compress(b"x" * 50_000_000) if encoding == "deflate" else gzip.compress(b"x" * 50_000_000)
    heard = await play(llm, answer("200 OK", bomb, f"Content-Encoding: {encoding}\r\n"))
    assert (heard.failed.code, heard.failed.kind) == ("llm_error", kind)


HEADS = {
    "a header of 1 MiB": b"HTTP/1.1 200 OK\r\nA: " + b"a" * 1_048_576 + b"\r\n\r\n",
    "a header that never ends": b"HTTP/1.1 200 OK\r\nA: " + b"a" * 1_048_576,
    "headers of 1 MiB": b"HTTP/1.1 200 OK\r\n" + b"A: bcdefgh\r\n" * 90_000 + b"\r\n",
    "a reason of 1 MiB": b"HTTP/1.1 200 " + b"a" * 1_048_576 + b"\r\n\r\n",
    "no HTTP": b"SSH-2.0-OpenSSH_9.6\r\n",
    "nothing": b"\r\n\r\n",
    "a cut head": b"HTTP/1.1 200 OK\r\nContent-",
    "status 999": b"HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n",
    "status 204": b"HTTP/1.1 204 No Content\r\n\r\n",
    "status 101": b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "chunks that are none": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n",
}


@pytest.mark.parametrize("name", HEADS)
async def test_an_answer_that_is_hardly_http_is_an_error(llm: ScriptedLLM, log: Log, name: str) -> None:
    llm.script = lambda _: [HEADS[name], Close]
    assert (await play(llm)).failed.code == "llm_error"
    assert not log.tracebacks


def nested(depth: int, kind: str) -> bytes:
    return (b"[" * depth + b"]" * depth) if kind == "arrays" else (b'{"a":' * depth + b"1" + b"}" * depth)


PLACES = {
    "chunk": b'{"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":"stop"}],"x":%b}',
    "delta": b'{"choices":[{"index":0,"delta":{"content":"x","x":%b},"finish_reason":"stop"}]}',
    "usage": b'{"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":"stop"}],"usage":{"a":%b}}',
    "content": b'{"choices":[{"index":0,"delta":{"content":%b},"finish_reason":"stop"}]}',
    "a part": b'{"choices":[{"index":0,"delta":{"content":[{"type":"text","text":%b}]},"finish_reason":"stop"}]}',
    "reasoning": b'{"choices":[{"index":0,"delta":{"reasoning":%b,"content":"x"},"finish_reason":"stop"}]}',
    "refusal": b'{"choices":[{"index":0,"delta":{"refusal":%b},"finish_reason":"stop"}]}',
    "calls": b'{"choices":[{"index":0,"delta":{"tool_calls":%b},"finish_reason":"stop"}]}',
    "a call": b'{"choices":[{"index":0,"delta":{"tool_calls":[%b]},"finish_reason":"stop"}]}',
    "a call's id": b'{"choices":[{"delta":{"tool_calls":[{"id":%b,"function":{"name":"f"}}]},"finish_reason":"stop"}]}',
    "a call's name": b'{"choices":[{"delta":{"tool_calls":[{"id":"i","function":{"name":%b}}]},"finish_reason":"stop"}]}',
    "arguments": b'{"choices":[{"delta":{"tool_calls":[{"id":"i","function":{"name":"f","arguments":%b}}]},"finish_reason":"stop"}]}',
    "finish_reason": b'{"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":%b}]}',
    "index": b'{"choices":[{"index":%b,"delta":{"content":"x"},"finish_reason":"stop"}]}',
    "choices": b'{"choices":%b}',
    "choice": b'{"choices":[%b]}',
    "delta itself": b'{"choices":[{"index":0,"delta":%b,"finish_reason":"stop"}]}',
    "model": b'{"model":%b,"choices":[{"delta":{"content":"x"},"finish_reason":"stop"}]}',
    "usage itself": b'{"choices":[{"delta":{"content":"x"},"finish_reason":"stop"}],"usage":%b}',
    "error": b'{"error":%b}',
    "error message": b'{"error":{"message":%b}}',
    "error code": b'{"error":{"message":"m","code":%b}}',
    "raw": b'{"error":{"metadata":{"raw":%b}}}',
    "base_resp": b'{"base_resp":{"status_code":1,"status_msg":%b}}',
    "everything": b"%b",
}

NASTY = {
    f"{kind} nested {depth}": nested(depth, kind)
    for kind in ("arrays", "objects")
    for depth in (400, 900, 960, 100_000)
} | {
    "a number beyond floats": b"1e999",
    "a number of 4,000 digits": b"9" * 4000,
    "a number of 5,000 digits": b"9" * 5000,
    "NaN": b"NaN",
    "half a surrogate pair": b'"\\ud800"',
    "the other half": b'"x\\udc00y"',
    "NUL": b'"\\u0000"',
    "bytes that are no UTF-8": b'"\xff\xfe"',
    "half a megabyte": b'"' + b"x" * 500_000 + b'"',
    "null": b"null",
    "true": b"true",
    "a number": b"-1",
    "a list of everything": b'[null,true,1,"x",[],{},{"a":[{}]}]',
    "an object with a strange name": b'{"\\ud800":"\\udfff","text":"\\ud800","message":"\\ud800","code":"\\ud800"}',
    "JSON in a string": b'"{\\"error\\": {\\"message\\": \\"{\\\\\\"error\\\\\\":1}\\"}}"',
}


def check(*events: bytes, is_whole: bool = False) -> None:
    """Whatever the LLM said: chunks in valid Unicode and JSON, or an error that can be sent."""
    reader = ChunkReader()
    read_event = reader.read_whole if is_whole else reader.read
    try:
        read = [one for event in events for one in read_event(event)] + reader.end(is_cut=False)
    except ChatError as error:
        json.dumps(error.to_object(), ensure_ascii=False).encode()
        read = []
    for one in read:
        assert b"\n" not in one.data
        one.data.decode()
        for piece in one.pieces:
            piece.text.encode()
            assert piece.head is None or (piece.head.id + piece.head.name).encode()
    for noted in (reader.finish_reason, reader.usage, reader.model):
        (noted or "").encode()


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", NASTY)
def test_nonsense_anywhere_harms_nobody(name: str, place: str) -> None:
    chunk = PLACES[place] % NASTY[name]
    for said in (b"so", b"\\ud83d"):
        before = b'{"choices":[{"delta":{"content":"%b"}}]}' % said
        check(before, chunk, b"[DONE]")
        check(before, chunk, chunk, b"[DONE]")
    check(chunk.replace(b'"delta"', b'"message"'), is_whole=True)


@pytest.mark.parametrize("place", ["error", "error message", "error code", "raw", "everything"])
@pytest.mark.parametrize("name", NASTY)
async def test_nonsense_as_a_refusal_harms_nobody(llm: ScriptedLLM, log: Log, name: str, place: str) -> None:
    heard = await play(llm, answer("400 Bad Request", PLACES[place] % NASTY[name]))
    json.dumps(heard.failed.to_object(), ensure_ascii=False).encode()
    assert not log.tracebacks
