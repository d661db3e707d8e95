"""The LLM's failures reach the client in its own words and under the right code; no secret and no conversation leaks."""

# ruff: noqa: E501 (a case of a table is a line)
from __future__ import annotations

import gzip
import json
import zlib
from typing import Any

import pytest

from chatbot.errors import ChatError, TooLong
from chatbot.llm.errors import read_failure
from tests.llm.asking import DONE, hear, opened, play, stream
from tests.llm.test_answers import STOP, text
from tests.tools.scripted_llm import END, Close, Hang, ScriptedLLM, Step, answer, completion, events

FAILURES: dict[str, tuple[int, Any, str, str, str]] = {
    # what it is: (status, body, our code, kind, a part of our message)
    "400": (400, {"error": {"message": "bad temperature"}}, "llm_rejected", "rejected", "bad temperature"),
    "vLLM's shape": (400, {"object": "error", "message": "bad top_p"}, "llm_rejected", "rejected", "bad top_p"),
    "a text as error": (400, {"error": "bad seed"}, "llm_rejected", "rejected", "bad seed"),
    "plain text": (400, b"bad seed", "llm_rejected", "rejected", "bad seed"),
    "a list of details": (
        422,
        {"detail": [{"type": "x", "loc": ["body", "top_k"], "msg": "Extra inputs are not permitted", "input": "s3"}]},
        "llm_rejected", "rejected", "body.top_k: Extra inputs are not permitted",
    ),
    "an array (Gemini)": (
        400, [{"error": {"code": 400, "message": "Please use a valid role: user, model.", "status": "INVALID_ARGUMENT"}}],
        "llm_rejected", "template", "valid role",
    ),
    "errors[]": (400, {"errors": [{"code": "x", "message": "bad seed"}]}, "llm_rejected", "rejected", "bad seed"),
    "what was said is quoted, which quotes a failure (FastAPI)": (
        422,
        {"detail": [{"type": "missing", "msg": "bad seed", "input": 'What is {"code": "context_length_exceeded"}?'}]},
        "llm_rejected",
        "rejected",
        "bad seed",
    ),
    "message as an object": (422, {"message": {"detail": [{"msg": "bad seed"}]}}, "llm_rejected", "rejected", "bad seed"),
    "JSON in a string": (400, {"error": "{\"message\": \"bad seed\"}"}, "llm_rejected", "rejected", "bad seed"),
    "metadata.raw (OpenRouter)": (
        400, {"error": {"message": "Provider returned error", "metadata": {"raw": "{\"error\":{\"message\":\"bad seed\"}}"}}},
        "llm_rejected", "rejected", "Provider returned error: bad seed",
    ),
    "names in capitals (Tencent)": (
        400, {"Response": {"Error": {"Code": "x", "Message": "bad seed"}}}, "llm_rejected", "rejected", "bad seed",
    ),
    "errmsg": (400, {"errcode": 1, "errMsg": "bad seed"}, "llm_rejected", "rejected", "bad seed"),
    "fault (Apigee)": (400, {"fault": {"faultstring": "bad seed", "detail": {"errorcode": "x"}}}, "llm_rejected", "rejected", "bad seed"),
    "401": (401, {"error": {"message": "Incorrect API key"}}, "llm_error", "credentials", "LLM_API_KEY: Incorrect"),
    "401 empty": (401, b"", "llm_error", "credentials", "LLM_API_KEY"),
    "a key that is not valid (Gemini)": (
        400, [{"error": {"message": "API key not valid. Please pass a valid API key."}}], "llm_error", "credentials", "not valid",
    ),
    "402": (402, {"error": {"message": "Insufficient Balance"}}, "llm_error", "money", "Insufficient Balance"),
    "quota is money (OpenAI)": (
        429, {"error": {"message": "You exceeded your current quota, please check your plan", "code": "insufficient_quota"}},
        "llm_error", "money", "quota",
    ),
    "quota is a rate (Gemini)": (
        429, [{"error": {"message": "You exceeded your current quota", "status": "RESOURCE_EXHAUSTED"}}],
        "llm_rate_limited", "rate", "quota",
    ),
    "money in Chinese": (403, {"error": {"message": "账户余额不足", "code": "30001"}}, "llm_error", "money", "余额"),
    "403": (403, {"error": {"message": "Country, region, or territory not supported"}}, "llm_error", "forbidden", "region"),
    "moderation (OpenRouter)": (
        403, {"error": {"message": "Your input was flagged", "metadata": {"reasons": ["x"]}}},
        "llm_rejected", "moderation", "flagged",
    ),
    "moderation (Azure)": (
        400, {"error": {"message": "The response was filtered", "code": "content_filter"}}, "llm_rejected", "moderation", "filtered",
    ),
    "moderation (Qwen)": (
        400, {"error": {"message": "Input data may contain inappropriate content.", "code": "data_inspection_failed"}},
        "llm_rejected", "moderation", "inappropriate",
    ),
    "429": (429, {"error": {"message": "slow down"}}, "llm_rate_limited", "rate", "slow down"),
    "413 of tokens per minute (Groq)": (
        413, {"error": {"message": "Request too large on tokens per minute (TPM): Limit 6000", "code": "rate_limit_exceeded"}},
        "llm_rate_limited", "rate", "TPM",
    ),
    "throttled by 400 (Bedrock)": (
        400, {"error": {"message": "Too many tokens, please wait before trying again.", "code": "throttling"}},
        "llm_rate_limited", "rate", "wait",
    ),
    "503 loading": (503, {"error": {"message": "Loading model"}}, "llm_unavailable", "loading", "Loading model"),
    "503 bare": (503, b"", "llm_unavailable", "loading", "answered 503"),
    "529": (529, {"error": {"message": "Overloaded"}}, "llm_unavailable", "loading", "Overloaded"),
    "498": (498, {"error": {"message": "Flex tier capacity exceeded"}}, "llm_unavailable", "loading", "capacity"),
    "overloaded by 500": (500, {"error": {"message": "The engine is currently overloaded"}}, "llm_unavailable", "loading", "over"),
    "a template (llama-server)": (
        500, {"error": {"code": 500, "message": "System role not supported"}}, "llm_rejected", "template", "System role",
    ),
    "a template (vLLM)": (
        400, {"message": "Conversation roles must alternate user/assistant/user/assistant/..."}, "llm_rejected", "template", "altern",
    ),
    "memory": (500, {"error": {"message": "CUDA out of memory"}}, "llm_error", "memory", "CUDA out of memory"),
    "memory (Ollama)": (
        500, {"error": {"message": "model requires more system memory (5.6 GiB) than is available"}}, "llm_error", "memory", "5.6",
    ),
    "a model that is not there": (
        404, {"error": {"message": "The model `x` does not exist", "code": "model_not_found"}}, "llm_error", "model", "`x`",
    ),
    "a model, by 400": (400, {"error": {"message": "model 'x' not found"}}, "llm_error", "model", "'x'"),
    "another path (FastAPI)": (404, {"detail": "Not Found"}, "llm_error", "address", "not an OpenAI-compatible API at …/v1"),
    "another path (HTML)": (
        404, b"<html><title>Not here</title></html>", "llm_error", "address", "not an OpenAI-compatible API at …/v1: Not here",
    ),
    "another path (OpenAI)": (
        404, {"error": {"message": "Invalid URL (POST /v1/v1/chat/completions)"}}, "llm_error", "address", "not an OpenAI-",
    ),
    "405 (Open WebUI)": (405, {"detail": "Method Not Allowed"}, "llm_error", "address", "not an OpenAI-compatible API"),
    "405": (405, b"", "llm_error", "address", "not an OpenAI-compatible API"),
    "500 with HTML": (500, b"<html>secrets</html>", "llm_error", "failed", "answered 500"),
    "502 with a title": (502, b"<html><title>Bad gateway</title></html>", "llm_error", "failed", "Bad gateway"),
    "504": (504, b"", "llm_error", "slow", "answered 504"),
    "408": (408, b"", "llm_error", "slow", "answered 408"),
    "a redirect to nowhere": (302, b"", "llm_error", "failed", "answered 302"),
    "403 of a store of files": (
        403, b"<?xml version='1.0'?><Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>",
        "llm_error", "forbidden", "it: Access Denied (403)",
    ),
    "Apigee": (
        429, {"fault": {"faultstring": "Rate limit quota violation", "detail": {"errorcode": "policies.ratelimit.QuotaViolation"}}},
        "llm_rate_limited", "rate", "quota violation",
    ),
    "a model with a dot in its name (Ollama)": (
        404, {"error": {"message": "model \"llama3.2\" not found, try pulling it first"}}, "llm_error", "model", "llama3.2",
    ),
    "a model with a dot in its name (vLLM)": (
        404, {"error": {"message": "The model `Qwen/Qwen2.5-7B` does not exist.", "type": "NotFoundError"}}, "llm_error", "model", "2.5",
    ),
    "a model (Gemini)": (
        404, [{"error": {"message": "models/x-9.9 is not found for API version v1main", "status": "NOT_FOUND"}}], "llm_error", "model", "9.9",
    ),
    "a model (Anthropic)": (404, {"error": {"type": "not_found_error", "message": "model: claude-x"}}, "llm_error", "model", "claude-x"),
    "a model (Kimi)": (404, {"error": {"message": "Not found the model kimi-x or Permission denied"}}, "llm_error", "model", "kimi-x"),
    "a model (Groq)": (
        400, {"error": {"message": "The model `llama3-70b-8192` has been decommissioned", "code": "model_decommissioned"}},
        "llm_error", "model", "decommissioned",
    ),
    "a model (Together)": (
        404, {"error": {"message": "Unable to access model x", "code": "model_not_available"}}, "llm_error", "model", "Unable",
    ),
    "a model (OpenRouter)": (400, {"error": {"message": "a/b is not a valid model ID", "code": 400}}, "llm_error", "model", "a/b"),
    "a function that is not there is no missing model": (
        400, {"error": {"message": "Function f was not found in the tools that the model has"}}, "llm_rejected", "rejected", "Function",
    ),
    "something else that is not there is no other server": (
        404, {"error": {"message": "Vector store not found"}}, "llm_rejected", "rejected", "Vector",
    ),
    "a field that goes with no model is no missing model": (
        400, {"error": {"message": "Unsupported parameter: 'top_k' is not supported with this model.", "code": "unsupported_parameter"}},
        "llm_rejected", "rejected", "top_k",
    ),
    "another path (Azure)": (404, {"error": {"code": "404", "message": "Resource not found"}}, "llm_error", "address", "Resource"),
    "a budget (LiteLLM)": (
        400, {"error": {"message": "Budget has been exceeded! Current cost: 26.075, Max budget: 0.25", "type": "budget_exceeded"}},
        "llm_error", "money", "Budget",
    ),
    "a budget of a user (LiteLLM)": (
        429, {"error": {"message": "LiteLLM User: x, exceeded budget for model=y", "type": "budget_exceeded", "code": "429"}},
        "llm_error", "money", "budget",
    ),
    "a budget of an end user (LiteLLM)": (
        400, {"error": {"message": "ExceededBudget: End User=x over budget. Spend=1, Budget=0.1"}}, "llm_error", "money", "budget",
    ),
    "a rate, with where to pay for more (Groq)": (
        429, {"error": {"message": "Rate limit reached on tokens per minute (TPM). Need more tokens? Upgrade to Dev Tier today at "
              "https://console.groq.com/settings/billing", "code": "rate_limit_exceeded"}}, "llm_rate_limited", "rate", "/billing",
    ),
    "too long, with where to read of rates": (
        400, {"error": {"message": "prompt is too long: 9000 tokens > 8192 maximum, see https://x.ai/rate-limits"}},
        "context_too_long", "too_long", "8192",
    ),
    "money, with where to pay (Fireworks)": (
        412, {"error": {"message": "Account x is suspended, possibly due to reaching the monthly spending limit. Go to https://x.ai/billing"}},
        "llm_error", "money", "suspended",
    ),
    "a free tier that is used up (DashScope)": (
        403, {"error": {"message": "The free tier of the model has been exhausted.", "code": "AllocationQuota.FreeTierOnly"}},
        "llm_error", "money", "free tier",
    ),
    "a balance, in any words": (403, {"message": "Sorry, your account balance is insufficient"}, "llm_error", "money", "balance"),
    "a load balancer is no balance": (503, {"message": "no healthy load balancer target"}, "llm_unavailable", "loading", "balancer"),
    "resources (LM Studio)": (
        400, {"error": {"message": "Model loading was stopped due to insufficient system resources."}}, "llm_error", "memory", "resources",
    ),
    "a model that is not ready": (500, {"message": "Model is not ready for inference"}, "llm_unavailable", "loading", "not ready"),
    "a stream in place of a body (DashScope)": (
        400, b'id:1\nevent:error\n:HTTP_STATUS/400\ndata:{"code":"InvalidParameter","message":"bad seed"}\n\n',
        "llm_rejected", "rejected", "request: bad seed (400)",
    ),
    "a guardrail (Portkey)": (446, {"error": {"message": "The guardrail checks failed"}}, "llm_rejected", "moderation", "checks"),
    "names that are case-sensitive are no moderation": (
        404, {"error": {"message": "Model 'X' not found. Names are case-sensitive, not case-insensitive."}}, "llm_error", "model", "'X'",
    ),
    "the name of a field is no moderation": (
        400, {"error": {"message": "Invalid 'safety_identifier': not a string", "param": "safety_identifier"}},
        "llm_rejected", "rejected", "not a string",
    ),
    "a model (GitHub)": (400, {"error": {"message": "Unavailable model: o3", "code": "unavailable_model"}}, "llm_error", "model", "o3"),
    "another path (Kong)": (404, {"message": "no Route matched with those values"}, "llm_error", "address", "no Route"),
    "a missing key (Gemini)": (400, [{"error": {"message": "Missing or invalid Authorization header."}}], "llm_error", "credentials", "header"),
    "a crash by 400 (LM Studio)": (400, {"error": "The model has crashed. (Exit code: 7)"}, "llm_error", "failed", "crashed"),
    "a model that fails to load, by 400 (LM Studio)": (
        400, {"error": {"message": "Failed to load model \"x\". Error: (Exit code: null)."}}, "llm_error", "failed", "load model",
    ),
    "gone (HF)": (410, {"error": "https://x is no longer supported."}, "llm_error", "forbidden", "no longer"),
    "OAuth": (400, {"error": "invalid_request", "error_description": "bad seed"}, "llm_rejected", "rejected", "bad seed"),
    "418": (418, {"error": {"message": "why"}}, "llm_rejected", "rejected", "why"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAILURES)
async def test_each_failure_has_its_code_and_the_llms_own_words(llm: ScriptedLLM, name: str) -> None:
    status, body, code, kind, words = FAILURES[name]
    llm.script = lambda _: answer(f"{status} X", body)
    async with opened(llm) as way:
        heard = await hear(way)
    assert (heard.failed.code, heard.failed.kind) == (code, kind), heard.failed.message
    assert words in heard.failed.message
    assert "secrets" not in heard.failed.message
    assert "s3" not in heard.failed.message, "what the client sent is not sent back"


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
async def test_what_a_proxy_compresses_unasked_is_read(llm: ScriptedLLM, encoding: str, pack: Any) -> None:
    header = f"Content-Encoding: {encoding}\r\n"
    heard = await play(llm, answer("400 X", pack(b'{"error": "bad seed"}'), header))
    assert "bad seed" in heard.failed.message
    streamed = b"".join(b"data: %b\n\n" % json.dumps(one).encode() for one in (text("Hello."), STOP))
    for body in (json.dumps(completion("Hello.")).encode(), streamed):
        assert (await play(llm, answer("200 OK", pack(body), header))).said == "Hello."
    assert llm.exchanges[0].headers["accept-encoding"] == "identity"


async def test_a_compression_that_cannot_be_read_is_named(llm: ScriptedLLM, monkeypatch: Any) -> None:
    monkeypatch.setattr("aiohttp.http_parser.HAS_BROTLI", False)
    heard = await play(llm, answer("200 OK", b"\x0b", "Content-Encoding: br\r\n"))
    assert "content-encoding: brotli" in heard.failed.message


@pytest.mark.parametrize(
    "name", [name for name, case in FAILURES.items() if case[3] in ("money", "moderation", "rate")]
)
async def test_a_failure_inside_a_stream_is_the_same(llm: ScriptedLLM, name: str) -> None:
    status, body, code, kind, words = FAILURES[name]
    body = body[0] if isinstance(body, list) else body
    body.get("error", body).setdefault("code", status)
    heard = await play(llm, stream(body, DONE))
    assert (heard.failed.code, heard.failed.kind) == (code, kind)
    assert words in heard.failed.message


async def test_a_model_that_the_client_named_is_the_clients_error(llm: ScriptedLLM) -> None:
    llm.play(answer("404 Not Found", {"error": {"message": "model 'x' not found"}}))
    async with opened(llm) as way:
        heard = await hear(way, model="x")
    assert heard.failed.code == "llm_rejected"


@pytest.mark.parametrize(
    "script",
    [
        [b"HTTP/1.1 400 X\r\nContent-Length: 99\r\n\r\n{", Close],
        [b"HTTP/1.1 500 X\r\nContent-Length: 9999999\r\n\r\n", b"x" * 70_000, Hang],
    ],
    ids=["cut", "endless"],
)
async def test_an_error_body_is_read_no_further_than_it_helps(llm: ScriptedLLM, script: list[Step]) -> None:
    heard = await play(llm, script)
    assert heard.failed.status in (400, 502)
    assert len(heard.failed.message) <= 2000


def test_the_llms_own_words_are_cut_and_valid_unicode() -> None:
    body = json.dumps({"error": {"message": "\ud800" + "x" * 10**6}}).encode()
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
    heard = await play(llm, answer(f"{status} X", {"error": {"message": "slow"}}, lines))
    assert heard.failed.retry_after == expected


async def test_when_to_come_again_is_read_out_of_the_words(llm: ScriptedLLM) -> None:
    heard = await play(llm, answer("429 X", {"error": {"message": "Limit. Please try again in 11.05s."}}))
    assert heard.failed.retry_after == "12"
    heard = await play(llm, answer("429 X", {"error": {"message": "Please try again in 14m24.5s."}}))
    assert heard.failed.retry_after == "865"
    for words, seconds in (
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
    ):
        heard = await play(llm, answer("429 X", {"error": {"message": words}}))
        assert heard.failed.retry_after == seconds
    heard = await play(llm, answer("429 X", b"Slow: so wait 5"))
    assert heard.failed.retry_after is None, "the words are not read on into themselves"
    heard = await play(llm, answer("400 X", {"error": {"message": "bad"}}, "Retry-After: 7\r\n"))
    assert heard.failed.retry_after is None, "what is refused for good is not to be repeated"


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
    for failed in (
        answer("429 X", [error]),
        answer("429 X", error),
        [*events(b"data: " + json.dumps(error).encode() + b"\n\n"), END],
    ):
        heard = await play(llm, failed)
        assert (heard.failed.code, heard.failed.retry_after) == ("llm_rate_limited", expected)


async def test_a_redirect_says_where_to(llm: ScriptedLLM) -> None:
    heard = await play(llm, answer("308 X", b"", "Location: https://llm.example/v1/chat?key=s3\r\n"))
    assert heard.failed.message == "The LLM server failed: it redirects to https://llm.example (308)"


SECRETS = {
    "llm_api_key": "sk-very-secret-1",
    "llm_headers": {"api-key": "header-secret-2", "X-Org": "org3", "X-Old": "sk-very", "X-No": " "},
}


@pytest.mark.parametrize("status", [400, 401, 429, 500])
async def test_a_key_that_the_llm_echoes_is_masked(llm: ScriptedLLM, log: Any, status: int) -> None:
    words = "Bearer sk-very-secret-1 and header-secret-2 of org3: - are wrong"
    for script in (answer(f"{status} X", {"error": {"message": words}}), stream({"error": words})):
        heard = await play(llm, script, **SECRETS)
        assert ": - are wrong" in heard.failed.message
        for place in (heard.failed.message, *log.entries):
            assert not [secret for secret in ("secret-1", "secret-2", "org3") if secret in place], place


async def test_the_log_has_a_reason_without_the_conversation(llm: ScriptedLLM, log: Any) -> None:
    said = json.dumps(
        {"role": "user", "content": "my password is hunter2 and I live in Seoul 서울 TGVl="},
        ensure_ascii=False,
    )
    words = "Grammar error near 'hunter2': cannot parse my password is hunter2 and I live in Seoul 서울 here"
    words += r" input_value='hunter2 at \"hunter2\" \uc11c\uc6b8 'TGVl='"
    for script in (answer("400 X", {"error": {"message": words}}), stream({"error": words})):
        llm.play(script)
        async with opened(llm) as way:
            heard = await hear(way, (said,))
        assert words in heard.failed.message, "the client said it and may read it"
    lines = log.lines(holding="Grammar error near")
    assert len(lines) == 2, log.entries
    assert not [
        word
        for word in ("hunter2", "password", "Seoul", "서울", "uc11c", "TGVl", "live")
        if word in "".join(lines)
    ], lines


async def test_what_a_terminal_would_obey_does_not_stand_in_the_log(llm: ScriptedLLM, log: Any) -> None:
    llm.play(answer("404 X", {"error": {"message": "The model '\x1b[2J\x9b2J\u202e\u2028' does not exist"}}))
    async with opened(llm) as way:
        await hear(way)
    assert all(line.isprintable() for line in log.lines(holding="does not exist")), log.entries


def test_too_long_carries_the_words_and_the_limit() -> None:
    body = b'{"error": {"message": "prompt is too long: 213462 tokens > 200000 maximum"}}'
    error = read_failure(400, {}, body).to_error()
    assert isinstance(error, TooLong)
    assert isinstance(error, ChatError)
    assert (error.code, error.limit, error.is_certain, error.param) == (
        "context_too_long",
        200_000,
        True,
        "message",
    )
    assert "213462 tokens" in error.message


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        ({"errorCode": "Throttling", "errorMsg": "Requests throttled"}, "llm_rate_limited", "throttled"),
        ({"msg": "Requests throttled", "data": {"id": "x"}}, "llm_rate_limited", "throttled"),
        ({"detail": [{"loc": ["body"], "msg": "bad", "type": "value_error"}]}, "llm_rejected", "body: bad"),
        ({"error": True, "message": "bad key", "status": 401}, "llm_error", "LLM_API_KEY: bad key"),
        ({"error": 503}, "llm_unavailable", "not available now"),
        ({"error": "bad top_p", "error_type": "validation"}, "llm_rejected", "bad top_p"),
        ({"error": {"message": "bad seed"}, "status_code": 400}, "llm_rejected", "bad seed"),
        ({"error": {"message": "bad seed"}, "message": "failed", "code": 400}, "llm_rejected", "bad seed"),
        ({"error": {"message": "bad best_of", "http_status_code": 422}}, "llm_rejected", "bad best_of"),
    ],
)
async def test_a_failure_inside_a_200_is_known_however_its_fields_are_named(
    llm: ScriptedLLM, body: Any, code: str, words: str
) -> None:
    heard = await play(llm, answer(body=body))
    assert heard.failed.code == code
    assert words in heard.failed.message
