"""Understands what an LLM says in a stream: chunk by chunk its text, its end, its usage, its errors. No I/O.

A chunk is passed on as the bytes that came. It is rewritten only where those could not be passed on
as they are: a surrogate pair split over two chunks, broken UTF-8, JSON written over several lines.
"""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple, NoReturn

from chatbot.errors import ChatError, TooLong

MAX_USAGE_CHARS = 16_384
MAX_MESSAGE_CHARS = 2_000


class Frame(NamedTuple):
    """One chunk: its JSON as bytes on one line, and the reply's text in it.

    Text that did not come as a chunk has the payload b"".
    """

    payload: bytes
    text: str


class Reader:
    """Reads the chunks of one stream in order.

    `finish_reason` and `usage` (JSON text, as it is stored) are None until the LLM has said them; `done` is
    whether it said [DONE].
    """

    def __init__(self) -> None:
        self.finish_reason: str | None = None
        self.usage: str | None = None
        self.done = False
        self._surrogate = ""  # the first half of a pair whose second half has not come
        # Chunks of one stream are alike but for their text. What stands around it is learned from a
        # chunk that was parsed; one that begins and ends with the same bytes and has a plain string
        # between differs in that string alone, and need not be parsed again.
        self._before, self._after, self._least = b"\0", b"\0", 2
        self._credit = 3  # a stream whose chunks are never alike is not studied for long
        self._has_spoken = False  # nor before its first word is on its way

    def read(self, data: bytes) -> Frame | None:
        """Reads the data of one event; None for one that says nothing to anybody ([DONE], an empty one).

        Raises ChatError when the LLM reports an error or the data is no chunk.
        """
        if frame := self.recognise(data):
            return frame
        if data.strip() in (b"", b"[DONE]"):
            self.done = self.done or bool(data.strip())
            return None
        chunk = parse_object(data)
        raise_error(chunk)
        return self._read_chunk(data, chunk)

    def recognise(self, data: bytes) -> Frame | None:
        """Reads a chunk that differs in nothing but plain text from the one that was learned; else None.

        What it recognises has no line end in it.
        """
        if not data.startswith(self._before) or not data.endswith(self._after) or self._surrogate:
            return None
        literal = data[len(self._before) : -len(self._after)]
        if b'"' in literal or b"\\" in literal or len(data) < self._least:
            return None
        try:
            text = literal.decode()
        except UnicodeDecodeError:
            return None
        if not text.isprintable():  # control characters are no JSON
            return None
        self._credit += 1
        return Frame(data, text)

    def read_whole(self, completion: dict[str, Any]) -> str:
        """Reads an answer that came in one piece; returns the reply's text.

        Raises ChatError when the LLM reports an error or it is no finished chat completion.
        """
        raise_error(completion)
        choice = _first_choice(completion)
        message = choice.get("message")
        self._note(completion, choice)
        if not isinstance(message, dict) or not self.finish_reason:
            raise ChatError(
                "llm_error", "The LLM server sent what is not a chat completion with a finish_reason."
            )
        return self._without_split_pairs(_text(message), last=True)

    def _read_chunk(self, data: bytes, chunk: dict[str, Any]) -> Frame:
        choice = _first_choice(chunk)
        self._note(chunk, choice)
        delta = choice.get("delta")
        if not isinstance(delta, dict):
            delta = {}
        text = _text(delta)
        last = bool(choice.get("finish_reason"))
        whole = self._without_split_pairs(text, last=last)
        if whole != text:
            choice["delta"] = delta | {"content": whole}
            return Frame(_dump(chunk), whole)
        data = _one_line(data)
        if text and not last:
            if self._has_spoken and self._credit >= 3:
                self._learn(data, text)
            self._has_spoken = True
        return Frame(data, whole)

    def _note(self, chunk: dict[str, Any], choice: dict[str, Any]) -> None:
        """Remembers the usage and the finish_reason, if they are told here."""
        if isinstance(usage := chunk.get("usage"), dict) and usage:
            self.usage = usage_text(usage)
        if isinstance(reason := choice.get("finish_reason"), str) and reason:
            self.finish_reason = reason[:64].encode("utf-8", "replace").decode()

    def _without_split_pairs(self, text: str, *, last: bool) -> str:
        """`text` with a pair joined that began in the chunk before, and halves that stay alone replaced.

        A first half at the end waits for the next chunk, so that every chunk is valid Unicode.
        """
        if text.isascii() and not self._surrogate:
            return text
        text, self._surrogate = self._surrogate + text, ""
        if not last and text and "\ud800" <= text[-1] <= "\udbff":
            text, self._surrogate = text[:-1], text[-1]
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")

    def _learn(self, data: bytes, text: str) -> None:
        """Remembers what stands around the text, having proved that it is the text that stands there."""
        self._credit -= 3
        literal = json.dumps(text, ensure_ascii=False).encode()
        start = data.find(literal, data.find(b'"content"') + len(b'"content"'))
        if start < 0:
            return
        before, after = data[: start + 1], data[start + len(literal) - 1 :]
        try:
            changed = json.loads(before + b"\\u0000" + after)
            proved = changed["choices"][0]["delta"]["content"] == "\0"
        except (ValueError, LookupError, TypeError):
            return
        if proved:
            self._before, self._after, self._least = before, after, len(before) + len(after)


def _first_choice(completion: dict[str, Any]) -> dict[str, Any]:
    choices = completion.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    return choice if isinstance(choice, dict) else {}


def _text(message: dict[str, Any]) -> str:
    content = message.get("content")
    return content if isinstance(content, str) else ""


def parse_object(data: bytes) -> dict[str, Any]:
    """Parses a JSON object that the LLM sent; raises ChatError("llm_error") if it is none."""
    try:
        value = _DECODER.decode(data.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ChatError("llm_error", "The LLM server sent something that is not a chat completion.")
    return value


_encode_usage = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":"), check_circular=False
).encode


def usage_text(usage: dict[str, Any]) -> str | None:
    """The usage as it is stored; None if that is no JSON, huge or nested deep (SQLite stops at 1,000)."""
    try:
        text = _encode_usage(usage)
        text.encode()
    except (ValueError, RecursionError):
        return None
    return text if len(text) <= MAX_USAGE_CHARS and text.count("{") + text.count("[") <= 64 else None


def raise_error(chunk: dict[str, Any]) -> None:
    """Raises the ChatError for an error that came where a chunk was due; returns if it is none.

    Seen as {"error": {…}}, {"error": "text"} and vLLM's {"object": "error", "message": …}.
    """
    error = chunk if chunk.get("object") == "error" else chunk.get("error")
    if not error:
        return
    if is_too_long(error):
        raise too_long()
    code = error.get("code") if isinstance(error, dict) else None
    if code in (429, "429", "rate_limit_exceeded"):
        raise ChatError("llm_rate_limited", "The LLM server limits the rate of requests.")
    message = error_message(error) or "no reason given"
    raise ChatError("llm_error", f"The LLM server reported an error: {message}")


_TOO_LONG_CODES = ("context_length_exceeded", "exceed_context_size_error")
# llama-server and llama-cpp-python name it by code; vLLM, LM Studio, TGI, SGLang and others only in prose.
_TOO_LONG_PROSE = re.compile(
    r"(maximum|available|model'?s?|exceeds?|with) (the )?(context|model)[ _](length|size|window)"
    r"|exceeds? .{0,40}(context|n_ctx)|prompt .{0,40}(is too long|longer than)"
    r"|too many (input |prompt )?tokens|input .{0,20}too long",
    re.IGNORECASE,
)


def is_too_long(error: Any) -> bool:
    """Whether an error of the LLM says that the conversation does not fit its context."""
    if isinstance(error, dict) and any(error.get(key) in _TOO_LONG_CODES for key in ("code", "type")):
        return True
    return bool(_TOO_LONG_PROSE.search(error_message(error)))


def too_long() -> TooLong:
    """What a client is told when its message alone does not fit."""
    return TooLong("context_too_long", "The message is too long for the LLM's context.", "message")


def error_message(error: Any) -> str:
    """The LLM's own words, of bounded length; "" if there are none."""
    if isinstance(error, dict):
        error = error.get("message") or error.get("detail")
    if not isinstance(error, str):
        return ""
    return error.encode("utf-8", "replace").decode()[:MAX_MESSAGE_CHARS].strip()


def _dump(chunk: dict[str, Any]) -> bytes:
    try:
        return json.dumps(chunk, separators=(",", ":"), allow_nan=False).encode()
    except (ValueError, RecursionError):
        raise ChatError("llm_error", "The LLM server sent a number that JSON does not have.") from None


def _one_line(data: bytes) -> bytes:
    """JSON that may be sent as one data line: in valid JSON a line end is white space between tokens."""
    try:
        data.decode()
    except UnicodeDecodeError:
        data = data.decode("utf-8", "replace").encode()
    return data.replace(b"\n", b" ")


def _reject_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_reject_constant)
