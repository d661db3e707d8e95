"""How the LLM server is reached and asked, and what is learned from its refusals."""

# ruff: noqa: E501 (a case of a table is a line)
from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
import ssl
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from chatbot.config import Config, ConfigError
from chatbot.errors import ChatError
from chatbot.llm.endpoint import Endpoint
from chatbot.records import as_json
from tests.llm.asking import DONE, HI, STOP, failure, hear, opened, play, stream, text, whole
from tests.tools.processes import free_port
from tests.tools.scripted_llm import Abort, Close, Gate, Hang, ScriptedLLM, Step, answer, completion

CERTIFICATE = Path(__file__).parent / "self_signed.pem"
HELLO = {"content": "Hello"}
NO_MODEL = failure("model 'x' not found", code=404, type="not_found_error")

# Where it is


@pytest.mark.parametrize(
    ("url", "chat"),
    [
        ("http://h:1", "http://h:1/v1/chat/completions"),
        ("http://h:1//", "http://h:1/v1/chat/completions"),
        ("http://h/v1", "http://h/v1/chat/completions"),
        ("http://h/v1/", "http://h/v1/chat/completions"),
        ("http://h/a/b", "http://h/a/b/chat/completions"),
        ("http://h/api/paas/v4", "http://h/api/paas/v4/chat/completions"),
        ("http://h/a%2Fb/v1", "http://h/a%2Fb/v1/chat/completions"),
        ("http://h/v1/chat/completions", "http://h/v1/chat/completions"),
        ("http://h/v1/chat/completions/", "http://h/v1/chat/completions"),
        ("http://h/openai?api-version=2024-10-21", "http://h/openai/chat/completions?api-version=2024-10-21"),
        ("http://u:p@h/v1", "http://h/v1/chat/completions"),
        ("http://[::1]:8/v1", "http://[::1]:8/v1/chat/completions"),
    ],
)
def test_a_url_with_a_path_is_a_base_url_as_it_is(url: str, chat: str) -> None:
    endpoint = Endpoint(Config(llm_server_url=url))
    assert str(endpoint.chat_url) == chat
    assert str(endpoint.models_url) == chat.replace("chat/completions", "models")
    assert endpoint.name.startswith("…/"), "where it is, is nobody's business"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"llm_api_key": "k"}, "Bearer k"),
        ({}, None),
        ({"llm_server_url": "http://user:p%40ss@h/v1"}, "Basic dXNlcjpwQHNz"),
        ({"llm_headers": {"Authorization": "Token t"}}, "Token t"),
    ],
)
def test_the_credentials_are_those_of_the_settings(settings: dict[str, Any], expected: str | None) -> None:
    assert Endpoint(Config(**settings)).headers(None).get("Authorization") == expected


PROXY = "http://proxy.test:3128"


@pytest.mark.parametrize(
    ("environment", "url", "expected"),
    [
        ({"HTTPS_PROXY": PROXY}, "https://llm.test/v1", PROXY),
        ({"https_proxy": "proxy.test:3128"}, "https://llm.test/v1", PROXY),
        ({"HTTP_PROXY": PROXY}, "https://llm.test/v1", None),
        ({"HTTP_PROXY": PROXY}, "http://llm.test/v1", PROXY),
        ({"HTTP_PROXY": PROXY, "NO_PROXY": "llm.test"}, "http://llm.test/v1", None),
        ({"HTTP_PROXY": PROXY, "NO_PROXY": "x, .test"}, "http://llm.test/v1", None),
        ({"HTTP_PROXY": PROXY, "NO_PROXY": "*"}, "http://llm.test/v1", None),
        ({"HTTP_PROXY": PROXY, "NO_PROXY": "llm.test:81"}, "http://llm.test/v1", PROXY),
        ({"HTTP_PROXY": PROXY}, "http://localhost:8000", None),
        ({"HTTP_PROXY": PROXY}, "http://127.9.9.9:8000", None),
        ({"HTTP_PROXY": PROXY}, "http://[::1]:8000", None),
    ],
)
def test_a_proxy_of_the_environment_is_used_but_never_for_loopback(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], url: str, expected: str | None
) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    proxy = Endpoint(Config(llm_server_url=url)).proxy
    assert (str(proxy).rstrip("/") if proxy else None) == expected


@pytest.mark.parametrize("proxy", ["socks5://proxy.test:1080", "http://a%zz", "xn--zzzzzz--9999.com"])
def test_a_proxy_that_cannot_be_used_is_an_error(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy)
    with pytest.raises(ConfigError, match="HTTP_PROXY"):
        Endpoint(Config(llm_server_url="http://llm.test"))


async def test_through_a_proxy_the_llm_is_asked_by_its_whole_url(
    llm: ScriptedLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", llm.url)
    monkeypatch.setenv("no_proxy", "")
    assert (await play(llm, llm_server_url="http://llm.test/v1")).said == "Hello there."
    assert llm.exchanges[0].path == "http://llm.test/v1/chat/completions"


# What it is sent


async def test_the_request_is_what_the_api_wants(llm: ScriptedLLM) -> None:
    async with opened(llm, llm_api_key="k") as way:
        await hear(way, (HI, HI), temperature=0.5, top_p=None)
    [exchange] = llm.exchanges
    assert exchange.body == {
        "model": "m",
        "temperature": 0.5,
        "stream": True,
        "stream_options": {"include_usage": True},
        "messages": [json.loads(HI)] * 2,
    }
    usual = {"host", "accept", "user-agent", "content-type", "content-length"}
    assert set(exchange.headers) - usual == {"accept-encoding", "authorization"}
    assert exchange.headers["accept-encoding"] == "identity"


async def test_the_clients_fields_go_over_the_operators(llm: ScriptedLLM) -> None:
    extra = {"temperature": 1, "top_k": 5, "cache": {"key": "k-{session}", "x": 1}}
    ours = {"n": 9, "messages": [], "stream": 0}
    headers = {"X-Key": "s-{session}", "X-Other": "o"}
    async with opened(llm, llm_extra_body=extra | ours, llm_headers=headers) as way:
        await hear(way, temperature=0.5, top_k=None, affinity="abc")
        await hear(way)
    one, two = llm.exchanges
    assert (one.body["temperature"], one.body["top_k"], one.body["stream"]) == (0.5, 5, True)
    assert "n" not in one.body
    assert (one.body["cache"], two.body["cache"]) == ({"key": "k-abc", "x": 1}, {"x": 1})
    assert (one.headers["x-key"], one.headers["x-other"]) == ("s-abc", "o")
    assert "x-key" not in two.headers, "without a conversation there is no key of it"


async def test_a_relay_sends_the_clients_body_and_passes_on_what_comes(llm: ScriptedLLM) -> None:
    body = {"messages": [json.loads(HI)], "model": "x", "n": 2, "logprobs": True, "stream": True}
    two_at_once = [{"index": 1, "delta": {"content": "b"}}, {"index": 0, "delta": {"content": "<think>a"}}]
    sent: list[Any] = [
        {"choices": two_at_once},
        {"choices": [{"index": 0, "delta": {"reasoning": "r"}, "finish_reason": "stop"}]},
        {"choices": [{"index": 1, "delta": {}, "finish_reason": "stop"}]},
    ]
    message = {"content": "Hi"}
    llm.play(stream(*sent, DONE), answer(body=whole(message)), stream(text("one"), Close))
    async with opened(llm, llm_extra_body={"top_k": 1}) as way:

        async def relayed(**fields: Any) -> list[Any]:
            asked = await way.relay(body | fields, affinity="a")
            try:
                return [json.loads(one.data) for chunks in [c async for c in asked] for one in chunks]
            finally:
                asked.close()

        assert await relayed() == sent
        as_a_chunk = {"index": 0, "delta": message, "finish_reason": "stop"}
        whole_as_chunk = whole(None, object="chat.completion.chunk", choices=[as_a_chunk])
        assert await relayed(stream=False) == [whole_as_chunk]
        with pytest.raises(ChatError, match="broke"):
            await relayed()
    assert (llm.exchanges[0].body["n"], llm.exchanges[0].body["top_k"]) == (2, 1)
    assert [exchange.body["stream"] for exchange in llm.exchanges] == [True, True, True]


# What it refuses

REFUSED = {
    "stream_options (OpenAI's shape)": (
        400, failure("Unrecognized request argument supplied: stream_options"), {"stream_options": None},
    ),
    "stream_options (Mistral)": (
        422, {"detail": [{"type": "extra_forbidden", "loc": ["body", "stream_options"], "msg": "Extra inputs are not permitted"}]},
        {"stream_options": None},
    ),
    "max_tokens (OpenAI)": (
        400,
        failure("Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
                param="max_tokens", code="unsupported_parameter"),
        {"max_tokens": None, "max_completion_tokens": 9},
    ),
    "stream (OpenAI)": (
        400, failure("Your organization must be verified to stream this model.", param="stream", code="unsupported_value"),
        {"stream": False, "stream_options": None},
    ),
    "stream, in a capital": (400, failure("Streaming is not supported for this model"), {"stream": False}),
    "stream (llama-server, with tools)": (
        500, failure("Cannot use tools with stream", code=500, type="server_error"), {"stream": False},
    ),
    "stream_options, whatever the words": (400, failure("参数 stream_options 无效"), {"stream": True, "stream_options": None}),
    "stream_options, on a server without such a field": (
        500, failure("ChatCompletionRequest has no field named stream_options"), {"stream_options": None},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
async def test_a_field_that_is_refused_is_left_out_and_that_is_remembered(
    llm: ScriptedLLM, name: str
) -> None:
    status, body, changed = REFUSED[name]
    llm.play(answer(f"{status} X", body))
    async with opened(llm) as way:
        for _ in range(2):
            assert (await hear(way, max_tokens=9)).said == "Hello there."
    assert len(llm.exchanges) == 3, "refused once, and never asked for again"
    for exchange in llm.exchanges[1:]:
        assert {field: exchange.body.get(field) for field in changed} == changed


async def test_a_call_goes_with_an_empty_text_where_null_is_refused(llm: ScriptedLLM) -> None:
    """llama-cpp-python so refused for ever what it had answered itself."""
    words = "('body', 'messages', 1, 'ChatCompletionRequestAssistantMessage', 'content'), 'msg': 'Input should be a valid string'"
    llm.play(answer("500 X", failure(words)))
    call = {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "function": {"name": "f"}}]}
    said = {"role": "tool", "tool_call_id": "c", "content": 'Is "content":null a text?'}
    async with opened(llm) as way:
        for _ in range(2):
            (await way.ask([HI, as_json(call), as_json(said)], {})).close()
    assert [exchange.body["messages"][1]["content"] for exchange in llm.exchanges] == [None, "", ""]
    assert all(exchange.body["messages"][2] == said for exchange in llm.exchanges)


async def test_what_a_client_adds_to_stream_options_costs_nobody_the_usage(llm: ScriptedLLM) -> None:
    refused = failure("body.stream_options.include_obfuscation: Extra inputs are not permitted")

    def script(body: Any) -> list[Step]:
        is_added_to = len(body.get("stream_options", ())) > 1
        return answer("422 X", refused) if is_added_to else answer(body=whole(HELLO))

    llm.script = script
    relayed = {"messages": [json.loads(HI)], "stream_options": {"include_obfuscation": False}}
    async with opened(llm) as way:
        for _ in range(2):
            (await way.relay(relayed)).close()
        assert (await hear(way)).said == "Hello"
    assert len(llm.exchanges) == 4, "refused once, and never asked for again"
    for exchange in llm.exchanges[1:]:
        assert exchange.body["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize("field", ["prompt_cache_key", "safety_identifier", "user"])
@pytest.mark.parametrize(
    "answered",
    [
        failure("property '{}' is unsupported"),  # Groq
        {"detail": [{"type": "extra_forbidden", "loc": ["body", "{}"], "msg": "Extra inputs are not permitted"}]},
        failure('Invalid JSON payload received. Unknown name "{}": Cannot find field.'),  # Gemini
    ],
)  # fmt: skip
async def test_what_changes_no_answer_is_left_out_where_it_is_refused(
    llm: ScriptedLLM, field: str, answered: dict[str, Any]
) -> None:
    llm.play(answer("400 X", json.dumps(answered).replace("{}", field).encode()))
    async with opened(llm) as way:
        for _ in range(2):
            assert (await hear(way, top_k=5, **{field: "me"})).said == "Hello there."
    sent = [(exchange.body.get(field), exchange.body["top_k"]) for exchange in llm.exchanges]
    assert sent == [("me", 5), (None, 5), (None, 5)]


async def test_the_other_limit_is_tried_the_other_way_round(llm: ScriptedLLM) -> None:
    refused = {"loc": ["body", "max_completion_tokens"], "msg": "Extra inputs are not permitted"}
    heard = await play(llm, answer("422 X", {"detail": [refused]}), fields={"max_completion_tokens": 9})
    assert heard.error is None
    assert llm.exchanges[1].body["max_tokens"] == 9
    assert "max_completion_tokens" not in llm.exchanges[1].body


async def test_what_stays_refused_is_an_error(llm: ScriptedLLM) -> None:
    words = "Unsupported: max_tokens, stream_options, stream"
    llm.script = lambda _: answer("400 X", failure(words))
    assert (await play(llm, fields={"max_tokens": 9})).failed.code == "llm_rejected"
    assert len(llm.exchanges) == 4, "each field is tried without once"


async def test_a_field_is_not_blamed_for_good_if_it_helped_nothing_to_leave_it_out(llm: ScriptedLLM) -> None:
    """Strict servers list all fields that they know when a client sends another."""
    words = b"unknown field `top_k`, expected one of `model`, `messages`, `stream`, `stream_options`"
    llm.script = lambda body: answer("422 X", words) if "top_k" in body else answer(body=whole(HELLO))
    async with opened(llm) as way:
        assert words.decode() in (await hear(way, top_k=5)).failed.message
        llm.exchanges.clear()
        assert (await hear(way)).said == "Hello"
    assert llm.exchanges[0].body["stream"] is True
    assert llm.exchanges[0].body["stream_options"] == {"include_usage": True}


async def test_a_value_that_is_refused_is_no_field_that_is(llm: ScriptedLLM) -> None:
    error = {"message": "max_tokens must be at least 1", "param": "max_tokens"}
    heard = await play(llm, answer("400 X", {"error": error}), fields={"max_tokens": 0})
    assert (heard.failed.code, len(llm.exchanges)) == ("llm_rejected", 1)


# Its connections


async def test_a_refused_connection_is_unavailable() -> None:
    port = free_port()
    async with opened(f"http://127.0.0.1:{port}") as way:
        heard = await hear(way)
        assert await way.ready() == ("unreachable", heard.failed.message)
    assert heard.failed.code == "llm_unavailable"
    assert "LLM_SERVER_URL" in heard.failed.message
    assert str(port) not in heard.failed.message


async def test_a_name_that_does_not_resolve_is_unavailable() -> None:
    async with opened("http://nowhere.invalid") as way:
        assert (await hear(way)).failed.code == "llm_unavailable"


async def test_a_host_that_does_not_answer_is_given_up_after_ten_seconds(clock: Any) -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        crowd = [socket.socket() for _ in range(4)]  # more than its backlog: all others knock in vain
        for one in crowd:
            one.setblocking(False)
            one.connect_ex(deaf.getsockname())
        async with opened(f"http://127.0.0.1:{deaf.getsockname()[1]}") as way:
            way._has_looked = True
            asking = asyncio.create_task(hear(way))
            began = asyncio.get_running_loop().time()
            while not asking.done():
                clock.advance(0.1)
                await asyncio.sleep(0)
            assert (await asking).failed.code == "llm_unavailable"
            assert asyncio.get_running_loop().time() - began < 60
        for one in crowd:
            one.close()


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
async def test_no_file_for_the_connection_is_overloaded(
    llm: ScriptedLLM, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def no_socket(**_: Any) -> None:
        raise OSError(number, os.strerror(number))

    async with opened(llm) as way:
        monkeypatch.setattr("aiohappyeyeballs.impl.socket", SimpleNamespace(socket=no_socket))
        heard = await hear(way)
        monkeypatch.undo()
        assert (heard.failed.code, heard.failed.retry_after) == ("overloaded", "1")
        assert (await hear(way)).said == "Hello there."


async def test_a_name_server_that_is_silent_is_not_waited_for_longer_than_for_a_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gate = threading.Event()

    def look_up(*_: Any, **__: Any) -> None:
        gate.wait()
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr("chatbot.llm.client.CONNECT_SECONDS", 0.05)
    monkeypatch.setattr("socket.getaddrinfo", look_up)
    try:
        async with opened("http://llm.test") as way:
            assert (await hear(way)).failed.code == "llm_unavailable"
    finally:
        gate.set()


@pytest.mark.parametrize("death", [Close, Abort])
async def test_a_pooled_connection_that_died_is_replaced_once(llm: ScriptedLLM, death: Any) -> None:
    async with opened(llm) as way:
        await hear(way)
        llm.play([death])
        assert (await hear(way)).said == "Hello there."
        assert len(llm.exchanges) == 3, "asked on the dead connection and on a fresh one"
        await hear(way)
        llm.play([death], [death])
        assert (await hear(way)).failed.code == "llm_error"
        assert len(llm.exchanges) == 6


async def test_a_fresh_connection_that_dies_is_not_tried_again(llm: ScriptedLLM) -> None:
    llm.models = [*answer(body={"data": [{"id": "m"}]}), Close]
    assert (await play(llm, [Close], [Close])).failed.code == "llm_error"
    assert len(llm.exchanges) == 1


async def test_a_pooled_connection_that_dies_in_its_answer_is_not_asked_twice(llm: ScriptedLLM) -> None:
    async with opened(llm) as way:
        await hear(way)
        llm.play(stream(text("one"), Abort))
        assert (await hear(way)).failed.code == "llm_error"
    assert len(llm.exchanges) == 2, "a reply that had begun was paid for twice"


@pytest.mark.parametrize("is_read", [False, True], ids=["in the socket", "already read"])
async def test_an_unasked_answer_on_a_kept_connection_is_nobodys(is_read: bool) -> None:
    """One conversation's text in another's is the worst that can happen."""
    listening = socket.create_server(("127.0.0.1", 0))
    speak, has_spoken = threading.Event(), threading.Event()
    kept: list[socket.socket] = []

    def serve() -> None:
        for said in ("one", "Hello there."):
            connection, _ = listening.accept()
            kept.append(connection)
            connection.recv(65_536)
            connection.sendall(answer(body=completion(said))[0])  # type: ignore[arg-type]
            if said == "one":
                speak.wait()
                connection.sendall(answer(body=completion("of another conversation"))[0])  # type: ignore[arg-type]
                has_spoken.set()

    thread = threading.Thread(target=serve)
    thread.start()
    async with opened(f"http://127.0.0.1:{listening.getsockname()[1]}") as way:
        way._has_looked = True
        assert (await hear(way)).said == "one"
        speak.set()
        has_spoken.wait()  # meanwhile the event loop reads nothing
        await asyncio.sleep(0.05 if is_read else 0)
        assert (await hear(way)).said == "Hello there."
    thread.join()
    for one in (*kept, listening):
        one.close()


async def test_connections_are_used_again_though_the_body_ends_late(llm: ScriptedLLM) -> None:
    async with opened(llm) as way:
        for _ in range(3):
            gate = Gate()  # what ends the answer comes after what ends the reply
            llm.play(stream(text("one"), STOP, DONE, gate, b": bye\n\n"))
            assert (await hear(way)).said == "one"
            await gate.reached.wait()
            gate.open()
            await asyncio.sleep(0.02)
    assert llm.opened == 1, "an answer that had ended took its connection along"


async def test_a_connection_that_does_not_end_is_let_go(llm: ScriptedLLM, clock: Any) -> None:
    llm.play(stream(text("one"), STOP, DONE, Hang))
    async with opened(llm) as way:
        assert (await hear(way)).said == "one"
        assert not llm.exchanges[0].gone.is_set()
        clock.advance(1)
        await asyncio.wait_for(llm.exchanges[0].gone.wait(), 5)


@pytest.mark.parametrize(
    ("headers", "is_read"),
    [
        (f"X-Policy: {'a' * 30_000}\r\n", True),
        ("".join(f"X-Gateway-{number}: passed\r\n" for number in range(900)), True),
        (f"X-Policy: {'a' * 40_000}\r\n", False),
    ],
    ids=["30 KB", "hundreds", "40 KB"],
)
async def test_headers_of_thirty_kilobytes_are_read_and_longer_ones_are_not(
    llm: ScriptedLLM, headers: str, is_read: bool
) -> None:
    heard = await play(llm, answer(body=completion("Hi"), headers=headers))
    if is_read:
        assert heard.said == "Hi"
    else:
        assert heard.failed.code == "llm_error"
        assert heard.failed.message == "The LLM server sent headers of over 32 KiB."


@pytest.fixture
async def over_tls(llm: ScriptedLLM) -> AsyncIterator[asyncio.Server]:
    """The LLM, with a certificate that nobody signed (it is of these tests alone, so it is no secret)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    server = await asyncio.start_server(llm._serve, "127.0.0.1", 0, ssl=context)
    yield server
    server.close()


def url_of(server: asyncio.Server) -> str:
    return f"https://localhost:{server.sockets[0].getsockname()[1]}"


async def test_a_wrong_certificate_says_so(over_tls: asyncio.Server) -> None:
    async with opened(url_of(over_tls)) as way:
        heard = await hear(way)
        state, note = await way.ready()
    assert (heard.failed.code, heard.failed.kind, state) == ("llm_unavailable", "tls", "unreachable")
    assert "certificate" in heard.failed.message
    assert "self-signed" in note
    assert "Cannot connect" not in heard.failed.message, "where it is, is nobody's business"


async def test_a_certificate_of_the_operators_own_is_trusted(
    over_tls: asyncio.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    async with opened(url_of(over_tls)) as way:
        assert (await hear(way)).said == "Hello there."


@pytest.mark.parametrize("begins", [False, True], ids=["silent", "begun"])
async def test_over_tls_too_the_llm_is_let_go_of_at_once(
    llm: ScriptedLLM, over_tls: asyncio.Server, monkeypatch: pytest.MonkeyPatch, begins: bool
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    begun, ended = asyncio.Event(), asyncio.Event()

    async def like_nginx(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Of a client that leaves, only the end of its connection is heard, not that of TLS."""
        there, back = await asyncio.open_connection(*over_tls.sockets[0].getsockname())

        async def answer() -> None:
            while data := await there.read(65536):
                writer.write(data)

        answering = asyncio.create_task(answer())
        while data := await reader.read(65536):
            if not llm.exchanges:
                back.write(data)
        ended.set()
        answering.cancel()
        back.close()
        writer.close()

    proxy = await asyncio.start_server(like_nginx, "127.0.0.1", 0)
    llm.play(stream(text("Once "), Hang) if begins else [Hang])
    async with opened(url_of(proxy)) as way:

        async def ask() -> None:
            answer = await way.ask([HI], {})
            first = await answer.first(lambda _: True)
            begun.set()
            await answer.deliver(first, lambda _: True)

        asking = asyncio.create_task(ask())
        await (begun.wait() if begins else llm.asked())
        asking.cancel()
        await asyncio.wait_for(ended.wait(), 5)
    proxy.close()


async def test_a_redirect_is_not_followed_and_the_key_does_not_travel(llm: ScriptedLLM) -> None:
    other = ScriptedLLM()
    await other.start()
    redirect = answer("307 Temporary", b"", f"Location: {other.url}/v1/chat/completions?key=s3\r\n")
    failed = (await play(llm, redirect, llm_api_key="travels-not")).failed
    assert failed.message == f"The LLM server failed: it redirects to {other.url} (307)"
    assert (len(other.exchanges), other.model_requests) == (0, 0)
    await other.stop()


async def test_a_conversation_of_megabytes_is_sent_whole(llm: ScriptedLLM) -> None:
    message = json.dumps({"role": "user", "content": "x" * 3_000_000})
    async with opened(llm) as way:
        assert (await hear(way, (message,))).error is None
    assert len(llm.exchanges[0].body["messages"][0]["content"]) == 3_000_000
