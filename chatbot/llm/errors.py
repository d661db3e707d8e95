"""What an LLM's failure means: what it looks like, our code, what a client is sent. No I/O."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from chatbot.errors import ChatError, TooLong
from chatbot.llm import too_long
from chatbot.llm.json_text import parse, valid

MAX_MESSAGE_CHARS = 2_000
_MAX_DEPTH = 8


class Rule(NamedTuple):
    """A line of the table: by these statuses, or by these words (of code, type and message), it is known.

    `may_repeat` is whether the same request may succeed a while later.
    """

    kind: str
    code: str
    says: str
    may_repeat: bool
    statuses: frozenset[int]
    words: str


def _rule(kind: str, code: str, may_repeat: bool, statuses: str, words: str, says: str) -> Rule:
    return Rule(kind, code, says, may_repeat, frozenset(map(int, statuses.split())), words)


# The first that fits, fits. "Too long" stands before all: see too_long.py.
TABLE = (
    _rule(
        "money", "llm_error", False, "402",
        r"^(?!.*resource_exhausted).*(insufficient[ _]?(quota|balance|credit|fund)|exceeded your current quota|billing"
        r"|credit balance|more credits|out of credits|payment required|arrear|overdue|欠费|余额|잔액|결제)",
        "The LLM server wants money",
    ),
    _rule(
        "moderation", "llm_rejected", False, "",
        r"content[_ ]?filter|content management|content[_ ]policy|moderation|flagged|data_?inspection|inappropriate"
        r"|responsibleai|prohibited[_ ]content|safety|unsafe content|sensitive|敏感|违规|不当|부적절|유해",
        "The LLM server's moderation rejected the request",
    ),
    _rule(
        "rate", "llm_rate_limited", True, "429",
        r"rate.?limit|throttl|too many requests|wait before trying|per[ _](minute|day|second|hour)\b|\b[rt]pm\b"
        r"|resource_exhausted|quota|限流|频率|速率|并发|请求过多|분당|초당|요청이 (너무 )?많|할당량",
        "The LLM server limits the rate of requests",
    ),
    _rule(
        "credentials", "llm_error", False, "401",
        r"(invalid|incorrect|missing|wrong|no)[ _](x-)?api[ _-]?key|api key (is )?(not valid|invalid|expired)|authenticat"
        r"|no auth|无效的(令牌|api)|身份验证|인증",
        "The LLM server refused the credentials; see LLM_API_KEY",
    ),
    _rule(
        "loading", "llm_unavailable", True, "498 503 529",
        r"loading (the )?model|model is (currently |still )?loading|overload|at capacity|server is busy"
        r"|service (is )?(temporarily )?unavailable|no (available|healthy) |繁忙|负载|과부하",
        "The LLM server is not available now",
    ),
    _rule(
        "memory", "llm_error", True, "",
        r"out of memory|outofmemory|cuda error|requires more system memory|insufficient memory|failed to allocate",
        "The LLM server ran out of memory",
    ),
    _rule(
        "template", "llm_rejected", False, "",
        r"(system|developer|tool) (role|message)s?.{0,20}not supported|jinja|chat.?template|roles must alternate|valid role"
        r"|only user(,| and) (assistant|model)",
        "The LLM's template rejected the request",
    ),
    _rule(
        "model", "llm_error", False, "",
        r"model_?not_?(found|exist)|deployment_?not_?found|(unknown|invalid|no such|unrecognized) model\b|模型不存在|모델을 찾을 수 없"
        r"|\b(model|deployment)\b[^.]{0,100}(not found|(does|do) ?n.t exist|not exist|does not exist|not available|not loaded)",
        "The LLM server does not have the model",
    ),
    _rule("forbidden", "llm_error", False, "403", r"$^", "The LLM server forbids it"),
    _rule("slow", "llm_error", True, "408 504 524", r"$^", "The LLM server took too long"),
)
_REJECTED = _rule("rejected", "llm_rejected", False, "", "", "The LLM server rejected the request")
_FAILED = _rule("failed", "llm_error", True, "", "", "The LLM server failed")
_WORDS = {rule.kind: re.compile(rule.words, re.I | re.S) for rule in TABLE}


class Failure(NamedTuple):
    """What the LLM answered in place of a reply; `status` is 0 for one that came inside a stream."""

    status: int
    number: int
    codes: str
    words: str
    is_json: bool = True
    retry_after: str | None = None

    @property
    def rule(self) -> Rule:
        """The line of the table that fits."""
        text = f"{self.codes} {self.words}"
        for rule in TABLE:
            if self.number in rule.statuses or _WORDS[rule.kind].search(text):
                return rule
        return _REJECTED if 400 <= self.number < 500 else _FAILED

    def to_error(self, *, chose_model: bool = False, where: str = "") -> ChatError:
        """What the client is sent. `chose_model`: the client named the model; `where` the base URL."""
        is_too_long, limit = too_long.find(self.number, self.codes, self.words)
        words = self.words or (f"it answered {self.status}" if self.status else "no reason given")
        if is_too_long:
            message = f"The message is too long for the LLM's context: {words}"
            return TooLong("context_too_long", message[:MAX_MESSAGE_CHARS], limit=limit)
        kind, code, says, may_repeat, *_ = self.rule
        if kind == "model" and chose_model:
            code = "llm_rejected"
        elif self.is_no_api:
            kind, code, says = "address", "llm_error", f"This is not an OpenAI-compatible API at {where}"
        if self.status and str(self.status) not in words:
            words = f"{words} ({self.status})"
        message = f"{says}: {words}"[:MAX_MESSAGE_CHARS]
        return ChatError(code, message, retry_after=self.retry_after if may_repeat else None, kind=kind)

    @property
    def is_no_api(self) -> bool:
        """Whether there seems to be something else at the URL."""
        is_missing = self.status in (404, 405) and self.rule.kind != "model"
        return is_missing and (not self.is_json or len(self.words) < 12 or "url" in self.words.lower())

    @property
    def is_model_refused(self) -> bool:
        """Whether the model may be gone: the list is worth another look."""
        return self.status == 404 or self.rule.kind == "model"


def read_failure(status: int, headers: Mapping[str, str], body: bytes) -> Failure:
    """What an answer that is not 200 says."""
    try:
        value, is_json = parse(body), True
    except ValueError:
        value, is_json = body.decode("utf-8", "replace"), False
    codes, words = _codes(value), _words(value)
    return Failure(status, status, codes, words, is_json, _retry_after(headers, words))


def failure_in(value: Any) -> Failure | None:
    """The failure that came where a chunk or a completion was due; None if it is none."""
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        value = {"error": value}  # Gemini
    if not isinstance(value, dict):
        return None
    first = value["choices"][0] if isinstance(value.get("choices"), list) and value["choices"] else None
    inner = first.get("error") if isinstance(first, dict) and not first.get("finish_reason") else None
    groq, minimax = value.get("x_groq"), value.get("base_resp")
    error = value.get("error") or inner or (groq.get("error") if isinstance(groq, dict) else None)
    if isinstance(minimax, dict) and minimax.get("status_code"):
        error = error or minimax
    if not error and (value.get("object") == "error" or (not first and not value.get("usage") and _blames(value))):
        error = {key: inner for key, inner in value.items() if key not in ("choices", "model")}
    if not error:
        return None
    codes, words = _codes(error), _words(error)
    return Failure(0, _number(codes), codes, words, retry_after=_retry_after({}, words))


def _blames(value: dict[str, Any]) -> bool:
    """Whether an object without choices is an error all the same."""
    names = ("message", "detail", "errors", "msg", "error_msg", "error_message", "error_code", "errorMessage")
    return any(value.get(name) for name in names) or (
        isinstance(value.get("status"), dict) and bool(_words(value["status"]))
    )


def _number(codes: str) -> int:
    """The HTTP status that an error inside a stream would have had."""
    if found := re.search(r"\b[45]\d\d\b", codes):
        return int(found[0])
    return 400 if re.search(r"bad_?request|invalid_?(request|parameter|argument)|validation|unprocessable", codes, re.I) else 500


_WORD_NAMES = (
    "message", "msg", "detail", "details", "error", "errors", "error_message", "error_msg", "errorMessage",
    "status_msg", "status", "description", "reason", "title", "raw",
)  # fmt: skip
_CODE_NAMES = ("code", "type", "status", "status_code", "error_code", "error_type", "param", "statusCode", "http_code")


def _words(value: Any, depth: int = 0) -> str:
    """The LLM's own words, of bounded length, from any shape; "" if there are none."""
    if depth > _MAX_DEPTH:
        return ""
    if isinstance(value, str):
        return _plain(value, depth)
    if isinstance(value, list):
        each = [_words(item, depth + 1) for item in value[:4]]
        return "; ".join(words for words in each if words)[:MAX_MESSAGE_CHARS]
    if not isinstance(value, dict):
        return ""
    words: str = next((found for name in _WORD_NAMES if (found := _words(value.get(name), depth + 1))), "")
    metadata = value.get("metadata")
    raw = _words(metadata.get("raw"), depth + 1) if isinstance(metadata, dict) else ""
    if raw and raw not in words:
        words = f"{words}: {raw}" if words else raw
    if isinstance(place := value.get("loc"), list) and words:
        words = f"{'.'.join(str(step) for step in place[:8])}: {words}"
    return words[:MAX_MESSAGE_CHARS]


def _plain(text: str, depth: int) -> str:
    text = text.strip()
    if text[:1] in ("{", "["):
        try:
            return _words(parse(text.encode("utf-8", "replace")), depth + 1) or text[:MAX_MESSAGE_CHARS]
        except ValueError:
            pass
    if text[:1] == "<" and (text[:5].lower() in ("<html", "<!doc") or "</" in text):
        title = re.search(r"<(title|h1)[^>]*>(.*?)</", text, re.I | re.S)
        text = " ".join(title[2].split()) if title else ""
    return valid(text[:MAX_MESSAGE_CHARS]).strip()


def _codes(value: Any, depth: int = 0) -> str:
    """All that stands under names of codes, types and statuses, joined by spaces."""
    return " ".join(_each_code(value, depth))[:1000]


def _each_code(value: Any, depth: int) -> Iterator[str]:
    if depth > _MAX_DEPTH:
        return
    if isinstance(value, list):
        for item in value[:4]:
            yield from _each_code(item, depth + 1)
    elif isinstance(value, dict):
        for name, item in list(value.items())[:50]:
            if name in _CODE_NAMES and isinstance(item, str | int):
                yield valid(str(item)[:100])
            elif name == "raw" and isinstance(item, str) and item.lstrip().startswith("{"):
                try:
                    yield from _each_code(parse(item.encode("utf-8", "replace")), depth + 1)
                except ValueError:
                    pass
            else:
                yield from _each_code(item, depth + 1)


def _retry_after(headers: Mapping[str, str], words: str) -> str | None:
    """When to come again, as a Retry-After header wants it: whole seconds or a date."""
    given = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT", given, re.ASCII):
        return given
    seconds = _seconds(headers.get("retry-after-ms", "") + "ms") or _seconds(given)
    if seconds is None:
        resets = [headers.get(f"x-ratelimit-reset{name}", "") for name in ("-requests", "-tokens", "")]
        resets += re.findall(r"(?:again|retry) (?:in|after) ([\d.]+ ?m?s)", words)[:1]
        seconds = max((found for text in resets if (found := _seconds(text)) is not None), default=None)
    return None if seconds is None else str(math.ceil(seconds))


def _seconds(text: str) -> float | None:
    """Seconds written as "7", "1.5", "1.5s", "6m0s", "120ms" or as a Unix time in seconds or milliseconds."""
    text = text.replace(" ", "")
    if not re.fullmatch(r"(\d{1,13}(\.\d{1,9})?(ms|[hms])?)+", text, re.ASCII):
        return None
    units = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "": 1.0}
    seconds = sum(float(n) * units[unit] for n, unit in re.findall(r"([\d.]+)(ms|[hms]|)", text))
    for unit in (1.0, 1000.0):
        if 1e9 * unit < seconds < 1e10 * unit:
            seconds = max(0.0, seconds / unit - time.time())
    return seconds if seconds < 1e9 else None


# Failures that have no words of the LLM


def failed_finish(finish: str, choice: Mapping[str, Any]) -> ChatError:
    """The LLM ended the reply with a finish_reason that means a failure."""
    words = _words(choice.get("error")) or "no reason given"
    message = f'The LLM server failed in the middle (finish_reason "{finish}"): {words}'
    return ChatError("llm_error", message[:MAX_MESSAGE_CHARS], kind="failed")


def not_a_completion(data: bytes) -> ChatError:
    """Something came that is neither a chunk nor a completion."""
    words = _plain(data[:4096].decode("utf-8", "replace"), 0)[:200]
    message = "The LLM server sent something that is not a chat completion"
    return ChatError("llm_error", f"{message}: {words}" if words else f"{message}.", kind="nonsense")


def without_text(finish: str) -> ChatError:
    """A reply came that says nothing."""
    if "filter" in finish or "safety" in finish.lower():
        message = f'The LLM\'s content filter let nothing of the answer through (finish_reason "{finish}").'
        return ChatError("llm_rejected", message, kind="moderation")
    return ChatError("llm_error", f'The LLM server sent a reply without text (finish_reason "{finish}").', kind="empty")


def cut_short() -> ChatError:
    """The connection broke."""
    message = "The connection to the LLM server broke before the reply was complete."
    return ChatError("llm_error", message, kind="cut")


def ended_early() -> ChatError:
    """The stream ended as it should, and the reply in it did not."""
    return ChatError("llm_error", "The LLM server's stream ended before the reply did.", kind="cut")


def timed_out(seconds: float) -> ChatError:
    """What silence means."""
    return ChatError("llm_timeout", f"The LLM server was silent for {seconds:g} seconds.", kind="timeout")


def empty_stream() -> TooLong:
    """Nothing came at all: llama-cpp-python's way to say that a conversation is too long, or a crash."""
    return TooLong("llm_error", "The LLM server sent an empty stream.", is_certain=False)


def full_context() -> TooLong:
    """No text came, and the usage shows why."""
    message = "The message is too long for the LLM's context: it left no room for an answer."
    return TooLong("context_too_long", message)
