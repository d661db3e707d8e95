"""Recognises an LLM server's failures, and gives each our code and a message for the client. No I/O."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Container, Mapping
from typing import Any, NamedTuple

from chatbot.errors import TOO_LONG, ChatError, TooLong
from chatbot.llm import too_long
from chatbot.llm.json_text import parse, valid
from chatbot.records import as_json

MAX_MESSAGE_CHARS = 2_000
_MAX_DEPTH = 8

# fmt: off
# ruff: noqa: E501 (a pattern is a line)
_TABLE: list[tuple[str, str, bool, Container[int], str, str]] = [
    # kind, our code, may the request be repeated later (Retry-After), its statuses, our message, which the LLM's own
    # words follow, and a pattern for its code, type and message. A failure needs a status or the pattern. The first
    # line that matches is used, but "too long" is tested before them.
    ("money", "llm_error", False, (402,), "The LLM server's account has no money or quota left",
     r"^(?!.*resource_exhausted).*(insufficient[ _]?(user_)?(quota|balance|credit|fund)|exceeded your current quota|billing"
     r"|(?<![a-z])(?<!load.)balance(?![a-z])|(more|out of|any|enough) credits|payment required|arrear|overdue"
     r"|budget[_ ](has been )?exceeded|(exceeded|over)[_ ]?budget|spending limit|free_?tier_?only|欠费|余额|额度不足|充值|资源包|잔액|결제)"),
    ("moderation", "llm_rejected", False, (), "The LLM server's moderation rejected the request",
     r"content[_ ]?filter|content management|content[_ ]policy|moderation|flagged|data_?inspection|inappropriate|exists risk|censor|guardrail"
     r"|responsibleai|prohibited[_ ]content|safety(?!_(identifier|settings))|unsafe content|(?<!case.)(?<!in)sensitive|敏感|违规|不当|부적절|유해"),
    ("rate", "llm_rate_limited", True, (429,), "The LLM server limits the rate of requests",
     r"rate.?limit|throttl|too many requests|wait before trying|per[ _](minute|day|second|hour)\b|\b[rt]pm\b"
     r"|resource_exhausted|quota|限流|频率|速率|并发|请求过多|분당|초당|요청이 (너무 )?많|할당량"),
    ("credentials", "llm_error", False, (401,), "The LLM server refused the credentials; see LLM_API_KEY",
     r"(invalid|incorrect|missing|wrong|no)[ _](x-)?api[ _-]?key|api key (is )?(not valid|invalid|expired)"
     r"|authenticat|authorization header|no auth|无效的(令牌|api)|身份验证|인증"),
    ("loading", "llm_unavailable", True, (498, 503, 529), "The LLM server is not available now",
     r"loading (the )?model|model is (currently |still )?loading|not ready\b|overload|at capacity|server is busy"
     r"|service (is )?(temporarily )?unavailable|no (available|healthy) |繁忙|负载|과부하"),
    ("memory", "llm_error", True, (), "The LLM server ran out of memory",
     r"out of memory|outofmemory|cuda error|requires more system memory|insufficient (memory|system resources)|failed to allocate"),
    ("template", "llm_rejected", False, (), "The LLM's template rejected the request",
     r"(system|developer|tool) (role|message)s?.{0,20}not supported|jinja|chat.?template|must alternate|must be at the beginning"
     r"|valid role|unexpected role|only user(,| and) (assistant|model)"),
    ("model", "llm_error", False, (), "The LLM server does not have the model",
     r"model_?not_?(found|exist|available|supported)|deployment_?not_?found|模型不存在|decommissioned"
     r"|(unknown|invalid|valid|no such|unrecognized|unavailable) model\b|no models? loaded|no endpoints found for"
     r"|not[_ ]?(found|exist)\w*\W+(the )?models?\b|\b(model|deployment)\b([^.]|\.\w){0,100}(not found|(does|do) ?n.t exist"
     r"|(does )?not exist|not available|not loaded|identifier is invalid)"),
    ("failed", "llm_error", True, (), "The LLM server failed",
     r"\bcrashed\b|model unloaded|failed to load (the )?model"),  # LM Studio, with status 400
    ("forbidden", "llm_error", False, (403, 410), "The LLM server forbids it", r"$^"),
    ("slow", "llm_error", True, (408, 504, 524), "The LLM server took too long", r"$^"),
    ("rejected", "llm_rejected", False, range(400, 500), "The LLM server rejected the request",
     r"(image|audio|video)s?( input)? (is|are) not supported"),  # llama-server sends it with status 500
    ("failed", "llm_error", True, range(1000), "The LLM server failed", r"$^"),
]
_OURS = {
    # Failures with our own message, some with words of the LLM in it: kind, our code, the message.
    "cut": ("llm_error", "The connection to the LLM server broke before the reply was complete."),
    "early": ("llm_error", "The LLM server's stream ended before the reply did."),
    "timeout": ("llm_timeout", "The LLM server was silent for {} seconds."),
    "nonsense": ("llm_error", "The LLM server sent something that is not a chat completion: {}"),
    "large": ("llm_error", "The LLM server sent {}."),
    "finish": ("llm_error", 'The LLM server failed in the middle (finish_reason "{}"): {}'),
    "empty": ("llm_error", 'The LLM server sent a reply without text (finish_reason "{}").'),
    "filtered": ("llm_rejected", 'The LLM\'s filter let nothing of the answer through (finish_reason "{}").'),
    "files": ("overloaded", "There are too many open files to ask the LLM server."),
    "unreachable": ("llm_unavailable", "The LLM server cannot be reached; is it running at LLM_SERVER_URL?"),
    "tls": ("llm_unavailable", "The LLM server's certificate or TLS is not accepted: {}"),
    "proxy": ("llm_unavailable", "The proxy does not lead to the LLM server: {}"),
}
# fmt: on


def ours(kind: str, *words: object) -> ChatError:
    """Returns the error for a failure of _OURS; `words` are put into its message."""
    code, message = _OURS[kind]
    retry_after = "1" if code == "overloaded" else None
    return ChatError(code, message.format(*words)[:MAX_MESSAGE_CHARS], retry_after=retry_after, kind=kind)


class Failure(NamedTuple):
    """A failure that the LLM server sent in place of a reply.

    `status` is the HTTP status, or 0 inside an answer; there `number` is the status that would fit the failure.
    """

    status: int
    number: int
    codes: str
    words: str
    is_json: bool = True
    retry_after: str | None = None

    @property
    def kind(self) -> str:
        """The kind of the first line of the table that matches."""
        return self._line[0]

    @property
    def _line(self) -> tuple[str, str, bool, Container[int], str, str]:
        text = f"{self.codes} {self._own_words}"
        return next(
            line for line in _TABLE if self.number in line[3] or re.search(line[5], text, re.I | re.S)
        )

    @property
    def _own_words(self) -> str:
        """The words without URLs: some servers add links about rates or payment to any failure."""
        return re.sub(r"(?a)https?://[\w.:/?#&=%~+-]+", "", self.words)

    @property
    def is_no_api(self) -> bool:
        """Whether something else than the API seems to be at the URL."""
        bare = r"(?is)^.{0,11}$|url|(resource|page|path|route|endpoint) not found|no route|method not"
        is_bare = not self.is_json or re.search(bare, self.words)
        return self.status in (404, 405) and self.kind != "model" and bool(is_bare)

    def to_error(self, *, chose_model: bool = False, where: str = "") -> ChatError:
        """Returns the client's error. `chose_model`: the client named the model. `where`: the base URL."""
        is_too_long, limit = too_long.find(self.number, self.codes, self._own_words)
        words = self.words or (f"it answered {self.status}" if self.status else "no reason given")
        if is_too_long:
            words = f"{TOO_LONG}: {words}"[:MAX_MESSAGE_CHARS]
            # A proxy's 413 counts bytes, which says nothing about tokens: images have many bytes.
            teaches = self.number != 413 or limit is not None
            return TooLong("context_too_long", words, limit=limit, teaches=teaches)
        kind, code, again, _, says, _ = self._line
        if kind == "model" and chose_model:
            code = "llm_rejected"
        elif self.is_no_api:
            kind, code, says = "address", "llm_error", f"This is not an OpenAI-compatible API at {where}"
        if self.status and str(self.status) not in words:
            words = f"{words} ({self.status})"
        retry_after = self.retry_after if again else None
        return ChatError(code, f"{says}: {words}"[:MAX_MESSAGE_CHARS], retry_after=retry_after, kind=kind)


def read_failure(status: int, headers: Mapping[str, str], body: bytes) -> Failure:
    """Reads the failure in an answer whose status is not 200."""
    try:
        event = re.search(rb"^data: ?(\{.*)", body, re.M)  # DashScope sends a failure as a stream
        value, is_json = parse(event[1] if event else body), True
    except ValueError:
        value, is_json = body.decode("utf-8", "replace"), False
    words, text = words_of(value), body.decode("utf-8", "replace")
    host = re.match(r"https?://[\w.:\[\]-]{1,200}", headers.get("Location", ""))
    if not words and 300 <= status < 400 and host:  # without the path, which may quote the conversation
        words = f"it redirects to {host[0]}"
    return Failure(status, status, _codes(text), words, is_json, _retry_after(headers, f"{words}\n{text}"))


def failure_in(value: Any) -> Failure | None:
    """Returns the failure in what should be a chunk or a completion; None if there is no failure."""
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        value = {"error": value}  # Gemini
    if not isinstance(value, dict):
        return None
    choices = value.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    places = [value, value.get("x_groq"), first]
    if isinstance(first, dict) and first.get("finish_reason"):
        places.pop()  # its finish_reason reports the failure
    error = next((one["error"] for one in places if isinstance(one, dict) and one.get("error")), None)
    if isinstance(inner := value.get("base_resp"), dict) and inner.get("status_code"):
        error = inner  # MiniMax
    rest = {name: inner for name, inner in value.items() if name not in ("choices", "error")}
    if isinstance(error, int) and error:
        error = rest | {"code": error}  # its status, or True with the words beside it
    has_words = _BARE.intersection(map(_name, value)) or isinstance(value.get("status"), dict)
    is_bare = has_words and not first and not value.get("usage")
    if not error and (value.get("object") == "error" or is_bare) and words_of(value):
        error = rest
    if not error:
        return None
    text = as_json(error)
    codes = _codes(as_json([error, rest]))
    found = re.search(r"\b[45]\d\d\b", codes)
    number = int(found[0]) if found else 400 if _BLAMES_US.search(codes) else 500
    return Failure(0, number, codes, words_of(error), retry_after=_retry_after({}, text))


_BLAMES_US = re.compile(
    r"bad_?request|invalid_?(request|parameter|argument)|validation|unprocessable|value_error", re.I
)
_BARE = {"message", "detail", "errors", "msg", "errormsg", "errormessage", "errorcode", "errmsg", "fault"}
_WORD_NAMES = (
    *("message", "msg", "detail", "errordescription", "details", "error", "errors", "errormessage"),
    *("errormsg", "errmsg", "statusmsg", "status", "description", "reason", "title", "raw", "faultstring"),
)


def _name(field: str) -> str:
    """Returns one name for all spellings of a field: error_msg, errorMsg, ErrorMsg."""
    return field.replace("_", "").lower()


def words_of(value: Any, depth: int = 0) -> str:
    """Returns the LLM server's own words from a value of any format, cut; "" if there are none."""
    words = ""
    if isinstance(value, str):
        return _plain(value, depth)
    if isinstance(value, list) and depth <= _MAX_DEPTH:
        words = "; ".join(found for item in value[:4] if (found := words_of(item, depth + 1)))
    elif isinstance(value, dict) and depth <= _MAX_DEPTH:
        named = {_name(name): item for name, item in value.items()}
        # Each item is read once. To read nested items twice would be 2 ** depth reads.
        rest = (item for name, item in named.items() if name not in _WORD_NAMES)
        others = (item for item in rest if isinstance(item, dict | list))
        places = (*map(named.get, _WORD_NAMES), *others)
        words = next((found for item in places if (found := words_of(item, depth + 1))), "")
        metadata = value.get("metadata")  # OpenRouter puts the provider's answer there
        raw = words_of(metadata.get("raw"), depth + 1) if isinstance(metadata, dict) else ""
        words = f"{words}: {raw}".removeprefix(": ") if raw not in words else words
        if isinstance(place := value.get("loc"), list) and words:
            words = f"{'.'.join(str(step) for step in place[:8])}: {words}"
    return words[:MAX_MESSAGE_CHARS]


def _plain(text: str, depth: int) -> str:
    """Returns the words in a text, which may itself be JSON or an HTML page."""
    text = text.strip()
    if text[:1] in ("{", "["):
        try:
            return words_of(parse(text.encode("utf-8", "replace")), depth + 1) or text[:MAX_MESSAGE_CHARS]
        except ValueError:
            pass
    text = text[: 4 * MAX_MESSAGE_CHARS]  # bounds the search: each tag without an end is searched to the end
    if re.match(r"<(html|!doc)|<.*</", text, re.I | re.S):
        title = re.search(r"<(title|h1|message)[^>]*>(.*?)</", text, re.I | re.S)
        text = " ".join(title[2].split()) if title else ""
    return valid(text[:MAX_MESSAGE_CHARS])


def _codes(text: str) -> str:
    """Returns the values of all fields for codes, types and statuses in a JSON text, joined by spaces."""
    # JSON inside a JSON string has a backslash before each quote.
    name = r'"\w{,16}(?:code|type|status|param|reason)\\*" *: *'
    text = text.partition('"input":')[0]  # FastAPI quotes the request, which may mention codes
    return " ".join(re.findall(name + r'\\*"?([^"\\{}\[\],]{1,100})', text, re.I))[:1000]


_WAITS = re.compile(
    # A unit is a letter, or a word that begins with it; "5 more" and "3 months" must not match as minutes.
    r"(?:(?:again|retry|resets?) (?:in|after)|wait(?: for)?)"
    r" ((?:[\d.]+ ?(?:ms|[hms](?![a-z])|h(?=ou|r)|m(?=in)|s(?=ec)))+)"
    # LiteLLM sends the provider's answer as a string, with a backslash before each quote.
    r'|"(?:retry_?(?:after|delay)|x-ratelimit-reset|estimated_time)(?:_seconds)?_?(ms)?\\*" *: *\\*"?([\d.]+(?:ms|[hms])?)\b'
    r"|(?<!\d)(\d+) ?[秒초][钟鐘]? ?[之以]?[后後후뒤]",
    re.I,
)


def _retry_after(headers: Mapping[str, str], body: str) -> str | None:
    """Returns when to retry, in the form of a Retry-After header: whole seconds or a date."""
    given = headers.get("Retry-After", "")
    if re.fullmatch(r"[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT", given, re.ASCII):
        return given
    # Limits per day are ignored: they are rarely the ones that were reached.
    resets = [headers[name] for name in headers if re.search("ratelimit.*-reset(?!.*day)", name[:100], re.I)]
    resets += [f"{words}{number}{unit}{later}" for words, unit, number, later in _WAITS.findall(body)[:1]]
    for texts in ([headers.get("retry-after-ms", "") + "ms"], [given], resets):
        if found := [seconds for text in texts if (seconds := _seconds(text)) is not None]:
            return str(math.ceil(max(found)))
    return None


def _seconds(text: str) -> float | None:
    """Reads seconds: "7", "1.5", "1.5s", "6m0s", "120ms", or a Unix time in seconds or milliseconds."""
    text = text.replace(" ", "").lower()
    # Possessive (+): no backtracking, which could try 2 ** len(text) ways to split the text.
    if not re.fullmatch(r"(\d{1,13}+(\.\d{1,9}+)?+(ms|[hms])?+)++", text, re.ASCII):
        return None
    units = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "": 1.0}
    seconds = sum(float(n) * units[unit] for n, unit in re.findall(r"([\d.]+)(ms|[hms]|)", text))
    for unit in (1.0, 1000.0):
        if 1e9 * unit < seconds < 1e10 * unit:
            seconds = max(0.0, seconds / unit - time.time())
    return seconds if seconds < 1e9 else None
