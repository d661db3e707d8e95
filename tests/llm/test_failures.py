"""The LLM's failures reach the client in its own words and under the right code; no secret and no conversation leaks."""

# ruff: noqa: E501 (a case of a table is a line)
from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from typing import Any

import pytest

from chatbot.llm.errors import read_failure
from tests.llm.asking import DONE, STOP, event, failure, hear, opened, play, stream, text
from tests.tools.scripted_llm import Close, Hang, ScriptedLLM, Step, answer, completion, http_chunk
from tests.tools.server import Log, until

CODES = {
    **dict.fromkeys(("rejected", "moderation", "template"), "llm_rejected"),
    "rate": "llm_rate_limited",
    "loading": "llm_unavailable",
    "too_long": "context_too_long",
}
"""Our code for each kind of failure; all others are an llm_error."""

FAILURES: dict[str, tuple[int, Any, str, str]] = {
    # what it is: (status, body, kind, a part of our message)
    "400": (400, failure("bad temperature"), "rejected", "bad temperature"),
    "vLLM's shape": (400, {"object": "error", "message": "bad top_p"}, "rejected", "bad top_p"),
    "a text as error": (400, {"error": "bad seed"}, "rejected", "bad seed"),
    "plain text": (400, b"bad seed", "rejected", "bad seed"),
    "a list of details": (
        422, {"detail": [{"type": "x", "loc": ["body", "top_k"], "msg": "Extra inputs are not permitted", "input": "s3"}]},
        "rejected", "body.top_k: Extra inputs are not permitted",
    ),
    "an array (Gemini)": (
        400, [failure("Please use a valid role: user, model.", code=400, status="INVALID_ARGUMENT")], "template", "valid role",
    ),
    "errors[]": (400, {"errors": [{"code": "x", "message": "bad seed"}]}, "rejected", "bad seed"),
    "what was said is quoted, which quotes a failure (FastAPI)": (
        422, {"detail": [{"type": "missing", "msg": "bad seed", "input": 'What is {"code": "context_length_exceeded"}?'}]},
        "rejected", "bad seed",
    ),
    "message as an object": (422, {"message": {"detail": [{"msg": "bad seed"}]}}, "rejected", "bad seed"),
    "JSON in a string": (400, {"error": "{\"message\": \"bad seed\"}"}, "rejected", "bad seed"),
    "metadata.raw (OpenRouter)": (
        400, failure("Provider returned error", metadata={"raw": "{\"error\":{\"message\":\"bad seed\"}}"}),
        "rejected", "Provider returned error: bad seed",
    ),
    "names in capitals (Tencent)": (400, {"Response": {"Error": {"Code": "x", "Message": "bad seed"}}}, "rejected", "bad seed"),
    "errmsg": (400, {"errcode": 1, "errMsg": "bad seed"}, "rejected", "bad seed"),
    "fault (Apigee)": (400, {"fault": {"faultstring": "bad seed", "detail": {"errorcode": "x"}}}, "rejected", "bad seed"),
    "401": (401, failure("Incorrect API key"), "credentials", "LLM_API_KEY: Incorrect"),
    "401 empty": (401, b"", "credentials", "LLM_API_KEY"),
    "a key that is not valid (Gemini)": (400, [failure("API key not valid. Please pass a valid API key.")], "credentials", "not valid"),
    "402": (402, failure("Insufficient Balance"), "money", "Insufficient Balance"),
    "quota is money (OpenAI)": (
        429, failure("You exceeded your current quota, please check your plan", code="insufficient_quota"), "money", "quota",
    ),
    "quota is a rate (Gemini)": (429, [failure("You exceeded your current quota", status="RESOURCE_EXHAUSTED")], "rate", "quota"),
    "money in Chinese": (403, failure("账户余额不足", code="30001"), "money", "余额"),
    "403": (403, failure("Country, region, or territory not supported"), "forbidden", "region"),
    "moderation (OpenRouter)": (403, failure("Your input was flagged", metadata={"reasons": ["x"]}), "moderation", "flagged"),
    "moderation (Azure)": (400, failure("The response was filtered", code="content_filter"), "moderation", "filtered"),
    "moderation (Qwen)": (
        400, failure("Input data may contain inappropriate content.", code="data_inspection_failed"),
        "moderation", "inappropriate",
    ),
    "429": (429, failure("slow down"), "rate", "slow down"),
    "413 of tokens per minute (Groq)": (
        413, failure("Request too large on tokens per minute (TPM): Limit 6000", code="rate_limit_exceeded"), "rate", "TPM",
    ),
    "throttled by 400 (Bedrock)": (400, failure("Too many tokens, please wait before trying again.", code="throttling"), "rate", "wait"),
    "503 loading": (503, failure("Loading model"), "loading", "Loading model"),
    "503 bare": (503, b"", "loading", "answered 503"),
    "529": (529, failure("Overloaded"), "loading", "Overloaded"),
    "498": (498, failure("Flex tier capacity exceeded"), "loading", "capacity"),
    "overloaded by 500": (500, failure("The engine is currently overloaded"), "loading", "over"),
    "a template (llama-server)": (500, failure("System role not supported", code=500), "template", "System role"),
    "a template (vLLM)": (400, {"message": "Conversation roles must alternate user/assistant/user/assistant/..."}, "template", "altern"),
    "memory": (500, failure("CUDA out of memory"), "memory", "CUDA out of memory"),
    "memory (Ollama)": (500, failure("model requires more system memory (5.6 GiB) than is available"), "memory", "5.6"),
    "a model that is not there": (404, failure("The model `x` does not exist", code="model_not_found"), "model", "`x`"),
    "a model, by 400": (400, failure("model 'x' not found"), "model", "'x'"),
    "another path (FastAPI)": (404, {"detail": "Not Found"}, "address", "not an OpenAI-compatible API at …/v1"),
    "another path (HTML)": (404, b"<html><title>Not here</title></html>", "address", "not an OpenAI-compatible API at …/v1: Not here"),
    "another path (OpenAI)": (404, failure("Invalid URL (POST /v1/v1/chat/completions)"), "address", "not an OpenAI-"),
    "405 (Open WebUI)": (405, {"detail": "Method Not Allowed"}, "address", "not an OpenAI-compatible API"),
    "405": (405, b"", "address", "not an OpenAI-compatible API"),
    "500 with HTML": (500, b"<html>secrets</html>", "failed", "answered 500"),
    "502 with a title": (502, b"<html><title>Bad gateway</title></html>", "failed", "Bad gateway"),
    "504": (504, b"", "slow", "answered 504"),
    "408": (408, b"", "slow", "answered 408"),
    "a redirect to nowhere": (302, b"", "failed", "answered 302"),
    "403 of a store of files": (
        403, b"<?xml version='1.0'?><Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>",
        "forbidden", "it: Access Denied (403)",
    ),
    "Apigee": (
        429, {"fault": {"faultstring": "Rate limit quota violation", "detail": {"errorcode": "policies.ratelimit.QuotaViolation"}}},
        "rate", "quota violation",
    ),
    "a model with a dot in its name (Ollama)": (404, failure("model \"llama3.2\" not found, try pulling it first"), "model", "llama3.2"),
    "a model with a dot in its name (vLLM)": (
        404, failure("The model `Qwen/Qwen2.5-7B` does not exist.", type="NotFoundError"), "model", "2.5",
    ),
    "a model (Gemini)": (404, [failure("models/x-9.9 is not found for API version v1main", status="NOT_FOUND")], "model", "9.9"),
    "a model (Anthropic)": (404, failure("model: claude-x", type="not_found_error"), "model", "claude-x"),
    "a model (Kimi)": (404, failure("Not found the model kimi-x or Permission denied"), "model", "kimi-x"),
    "a model (Groq)": (
        400, failure("The model `llama3-70b-8192` has been decommissioned", code="model_decommissioned"),
        "model", "decommissioned",
    ),
    "a model (Together)": (404, failure("Unable to access model x", code="model_not_available"), "model", "Unable"),
    "a model (OpenRouter)": (400, failure("a/b is not a valid model ID", code=400), "model", "a/b"),
    "a function that is not there is no missing model": (
        400, failure("Function f was not found in the tools that the model has"), "rejected", "Function",
    ),
    "something else that is not there is no other server": (404, failure("Vector store not found"), "rejected", "Vector"),
    "a field that goes with no model is no missing model": (
        400, failure("Unsupported parameter: 'top_k' is not supported with this model.", code="unsupported_parameter"),
        "rejected", "top_k",
    ),
    "another path (Azure)": (404, failure("Resource not found", code="404"), "address", "Resource"),
    "a budget (LiteLLM)": (
        400, failure("Budget has been exceeded! Current cost: 26.075, Max budget: 0.25", type="budget_exceeded"),
        "money", "Budget",
    ),
    "a budget of a user (LiteLLM)": (
        429, failure("LiteLLM User: x, exceeded budget for model=y", type="budget_exceeded", code="429"), "money", "budget",
    ),
    "a budget of an end user (LiteLLM)": (400, failure("ExceededBudget: End User=x over budget. Spend=1, Budget=0.1"), "money", "budget"),
    "a rate, with where to pay for more (Groq)": (
        429, failure("Rate limit reached on tokens per minute (TPM). Need more tokens? Upgrade to Dev Tier today at "
              "https://console.groq.com/settings/billing", code="rate_limit_exceeded"), "rate", "/billing",
    ),
    "too long, with where to read of rates": (
        400, failure("prompt is too long: 9000 tokens > 8192 maximum, see https://x.ai/rate-limits"), "too_long", "8192",
    ),
    "money, with where to pay (Fireworks)": (
        412, failure("Account x is suspended, possibly due to reaching the monthly spending limit. Go to https://x.ai/billing"),
        "money", "suspended",
    ),
    "a free tier that is used up (DashScope)": (
        403, failure("The free tier of the model has been exhausted.", code="AllocationQuota.FreeTierOnly"), "money", "free tier",
    ),
    "a balance, in any words": (403, {"message": "Sorry, your account balance is insufficient"}, "money", "balance"),
    "a load balancer is no balance": (503, {"message": "no healthy load balancer target"}, "loading", "balancer"),
    "resources (LM Studio)": (400, failure("Model loading was stopped due to insufficient system resources."), "memory", "resources"),
    "a model that is not ready": (500, {"message": "Model is not ready for inference"}, "loading", "not ready"),
    "a stream in place of a body (DashScope)": (
        400, b'id:1\nevent:error\n:HTTP_STATUS/400\ndata:{"code":"InvalidParameter","message":"bad seed"}\n\n',
        "rejected", "request: bad seed (400)",
    ),
    "a guardrail (Portkey)": (446, failure("The guardrail checks failed"), "moderation", "checks"),
    "names that are case-sensitive are no moderation": (
        404, failure("Model 'X' not found. Names are case-sensitive, not case-insensitive."), "model", "'X'",
    ),
    "the name of a field is no moderation": (
        400, failure("Invalid 'safety_identifier': not a string", param="safety_identifier"), "rejected", "not a string",
    ),
    "a field that a proxy does not know is no moderation": (
        400, failure('Unknown name "safety_settings": Cannot find field.', status="INVALID_ARGUMENT"), "rejected", "Unknown",
    ),
    "a model (GitHub)": (400, failure("Unavailable model: o3", code="unavailable_model"), "model", "o3"),
    "another path (Kong)": (404, {"message": "no Route matched with those values"}, "address", "no Route"),
    "a missing key (Gemini)": (400, [failure("Missing or invalid Authorization header.")], "credentials", "header"),
    "a crash by 400 (LM Studio)": (400, {"error": "The model has crashed. (Exit code: 7)"}, "failed", "crashed"),
    "a model that fails to load, by 400 (LM Studio)": (
        400, failure("Failed to load model \"x\". Error: (Exit code: null)."), "failed", "load model",
    ),
    "gone (HF)": (410, {"error": "https://x is no longer supported."}, "forbidden", "no longer"),
    "OAuth": (400, {"error": "invalid_request", "error_description": "bad seed"}, "rejected", "bad seed"),
    "418": (418, failure("why"), "rejected", "why"),
    "inside a 200, errorCode": (200, {"errorCode": "Throttling", "errorMsg": "Requests throttled"}, "rate", "throttled"),
    "inside a 200, msg": (200, {"msg": "Requests throttled", "data": {"id": "x"}}, "rate", "throttled"),
    "inside a 200, detail": (200, {"detail": [{"loc": ["body"], "msg": "bad", "type": "value_error"}]}, "rejected", "body: bad"),
    "inside a 200, status": (200, {"error": True, "message": "bad key", "status": 401}, "credentials", "LLM_API_KEY: bad key"),
    "inside a 200, a status as error": (200, {"error": 503}, "loading", "not available now"),
    "inside a 200, error_type": (200, {"error": "bad top_p", "error_type": "validation"}, "rejected", "bad top_p"),
    "inside a 200, status_code": (200, failure("bad seed") | {"status_code": 400}, "rejected", "bad seed"),
    "inside a 200, code": (200, failure("bad seed") | {"message": "failed", "code": 400}, "rejected", "bad seed"),
    "inside a 200, http_status_code": (200, failure("bad best_of", http_status_code=422), "rejected", "bad best_of"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAILURES)
async def test_each_failure_has_its_code_and_the_llms_own_words(llm: ScriptedLLM, name: str) -> None:
    status, body, kind, words = FAILURES[name]
    llm.script = lambda _: answer(f"{status} X", body)
    failed = (await play(llm)).failed
    assert (failed.code, failed.kind) == (CODES.get(kind, "llm_error"), kind), failed.message
    assert words in failed.message
    assert "secrets" not in failed.message
    assert "s3" not in failed.message, "what the client sent is not sent back"


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
async def test_what_a_proxy_compresses_unasked_is_read(llm: ScriptedLLM, encoding: str, pack: Any) -> None:
    header = f"Content-Encoding: {encoding}\r\n"
    heard = await play(llm, answer("400 X", pack(b'{"error": "bad seed"}'), header))
    assert "bad seed" in heard.failed.message
    for body in (json.dumps(completion("Hello.")).encode(), event(text("Hello.")) + event(STOP)):
        assert (await play(llm, answer("200 OK", pack(body), header))).said == "Hello."
    assert llm.exchanges[0].headers["accept-encoding"] == "identity"


async def test_a_compression_that_cannot_be_read_is_named(llm: ScriptedLLM, monkeypatch: Any) -> None:
    monkeypatch.setattr("aiohttp.http_parser.HAS_BROTLI", False)
    heard = await play(llm, answer("200 OK", b"\x0b", "Content-Encoding: br\r\n"))
    assert "content-encoding: brotli" in heard.failed.message


@pytest.mark.parametrize(
    "name",
    [name for name, case in FAILURES.items() if case[0] > 200 and case[2] in ("money", "moderation", "rate")],
)
async def test_a_failure_inside_a_stream_is_the_same(llm: ScriptedLLM, name: str) -> None:
    status, body, kind, words = FAILURES[name]
    body = body[0] if isinstance(body, list) else body
    body.get("error", body).setdefault("code", status)
    heard = await play(llm, stream(body, DONE))
    assert (heard.failed.code, heard.failed.kind) == (CODES.get(kind, "llm_error"), kind)
    assert words in heard.failed.message


def endless(*begin: bytes) -> Iterator[Step]:
    yield from begin
    while True:
        yield http_chunk(b"x" * 65_536)


@pytest.mark.parametrize(
    "script",
    [
        [b"HTTP/1.1 400 X\r\nContent-Length: 99\r\n\r\n{", Close],
        [b"HTTP/1.1 400 X\r\nContent-Length: 9999999\r\n\r\n", b"x" * 70_000, Hang],
        endless(b"HTTP/1.1 400 X\r\nTransfer-Encoding: chunked\r\n\r\n"),
    ],
    ids=["cut", "silent", "endless"],
)
async def test_an_error_body_is_read_no_further_than_it_helps(llm: ScriptedLLM, script: list[Step]) -> None:
    llm.play(script)
    async with opened(llm) as way:
        failed = (await hear(way)).failed
        await until(lambda: not llm.connections)
    assert failed.code == "llm_rejected"
    assert len(failed.message) <= 2000


def test_the_llms_own_words_are_cut_and_valid_unicode() -> None:
    body = json.dumps(failure("\ud800" + "x" * 10**6)).encode()
    message = read_failure(400, {}, body).to_error().message
    assert 1900 < len(message) <= 2000
    message.encode()


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"Retry-After": "7"}, "7"),
        ({"Retry-After": "1.2"}, "2"),
        ({"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, "Wed, 21 Oct 2026 07:28:00 GMT"),
        ({"retry-after-ms": "1500", "Retry-After": "60"}, "2"),
        ({"x-ratelimit-reset-requests": "1s", "x-ratelimit-reset-tokens": "6m0s"}, "360"),
        ({"x-ratelimit-reset-tokens": "120ms"}, "1"),
        ({"RateLimit-Reset": "12"}, "12"),
        ({"x-ratelimit-reset-tokens-minute": "11.38", "x-ratelimit-reset-requests-day": "33011.38"}, "12"),
        ({"anthropic-ratelimit-requests-reset": "2026-11-27T01:00:00Z"}, None),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "-1"}, None),
        ({"Retry-After": ""}, None),
        ({"Retry-After": "9" * 500}, None),
        ({}, None),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
async def test_when_to_come_again_is_passed_on(
    llm: ScriptedLLM, status: int, headers: dict[str, str], expected: str | None
) -> None:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    heard = await play(llm, answer(f"{status} X", failure("slow"), lines))
    assert heard.failed.retry_after == expected


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("Limit. Please try again in 11.05s.", "12"),
        ("Please try again in 14m24.5s.", "865"),
        ("Rate limit of 10 per 60s exceeded. Please wait 43 seconds before retrying.", "43"),
        ("Please wait for 2 hours.", "7200"),
        ("Wait 5 minutes and 3 hours.", "300"),
        ("Please wait 5 more seconds.", None),
        ("Your plan resets in 3 months.", None),
        ("Your quota will reset after 2h21m11s.", "8471"),
        ("请求过于频繁，请在 30 秒后重试", "30"),
        ("요청이 너무 많습니다. 20초 후에 다시 시도해 주세요.", "20"),
        ("요청 한도를 넘었습니다. 15초 뒤에 다시 시도해 주세요.", "15"),
        ("请求过多，请 5 秒之后再试", "5"),
        ("请60秒后重试", "60"),
        ("Limited to 10 per 60 seconds", None),
        (b"Slow: so wait 5", None),  # the words are not read on into themselves
    ],
)
async def test_when_to_come_again_is_read_out_of_the_words(
    llm: ScriptedLLM, words: str | bytes, expected: str | None
) -> None:
    body = words if isinstance(words, bytes) else failure(words)
    assert (await play(llm, answer("429 X", body))).failed.retry_after == expected


async def test_what_is_refused_for_good_is_not_to_be_repeated(llm: ScriptedLLM) -> None:
    heard = await play(llm, answer("400 X", failure("bad"), "Retry-After: 7\r\n"))
    assert heard.failed.retry_after is None


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"details": [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "38.4s"}]}, "39"),
        ({"retry_after": 5}, "5"),
        ({"metadata": {"retry_after_seconds": "7"}}, "7"),
        ({"retry_after_ms": 1500}, "2"),
        ({"retryAfterMs": 2500}, "3"),
        ({"metadata": {"headers": {"X-RateLimit-Limit": "20", "X-RateLimit-Reset": "9"}}}, "9"),
        ({"estimated_time": 20.5}, "21"),
        ({"retry_after": None}, None),
        ({"retry": "after 5"}, None),
    ],
)
async def test_when_to_come_again_is_read_out_of_fields(
    llm: ScriptedLLM, more: dict[str, Any], expected: str | None
) -> None:
    error = {"error": {"code": 429, "message": "slow", "status": "RESOURCE_EXHAUSTED"} | more}
    for script in (answer("429 X", [error]), answer("429 X", error), stream(error)):
        failed = (await play(llm, script)).failed
        assert (failed.code, failed.retry_after) == ("llm_rate_limited", expected)


@pytest.mark.parametrize("status", [400, 401, 429, 500])
async def test_a_key_that_the_llm_echoes_is_masked(llm: ScriptedLLM, log: Log, status: int) -> None:
    headers = {"api-key": "header-secret-2", "X-Org": "org3", "X-Old": "sk-very", "X-No": " "}
    words = "Bearer sk-very-secret-1 and header-secret-2 of org3: - are wrong"
    for script in (answer(f"{status} X", failure(words)), stream({"error": words})):
        heard = await play(llm, script, llm_api_key="sk-very-secret-1", llm_headers=headers)
        assert ": - are wrong" in heard.failed.message
        for place in (heard.failed.message, *log.entries):
            assert not [secret for secret in ("secret-1", "secret-2", "org3") if secret in place], place


async def test_the_log_has_a_reason_without_the_conversation(llm: ScriptedLLM, log: Log) -> None:
    said = json.dumps(
        {"role": "user", "content": "my password is hunter2 and I live in Seoul 서울 TGVl="},
        ensure_ascii=False,
    )
    words = "Grammar error near 'hunter2': cannot parse my password is hunter2 and I live in Seoul 서울 here"
    words += r" input_value='hunter2 at \"hunter2\" \uc11c\uc6b8 'TGVl='"
    for script in (answer("400 X", failure(words)), stream({"error": words})):
        llm.play(script)
        async with opened(llm) as way:
            heard = await hear(way, (said,))
        assert words in heard.failed.message, "the client said it and may read it"
    lines = log.lines(holding="Grammar error near")
    assert len(lines) == 2, log.entries
    secrets = ("hunter2", "password", "Seoul", "서울", "uc11c", "TGVl", "live")
    assert not [word for word in secrets if word in "".join(lines)], lines


async def test_what_a_terminal_would_obey_does_not_stand_in_the_log(llm: ScriptedLLM, log: Log) -> None:
    await play(llm, answer("404 X", failure("The model '\x1b[2J\x9b2J\u202e\u2028' does not exist")))
    assert all(line.isprintable() for line in log.lines(holding="does not exist")), log.entries
