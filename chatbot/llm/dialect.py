"""Remembers which fields this LLM server refuses, and writes requests without them. No I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from chatbot.llm.errors import Failure

_LIMITS = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}
_HINTS = ("prompt_cache_key", "safety_identifier", "user")  # an answer does not depend on them
_REFUSED = re.compile(
    r"unsupported|not support|unknown|unrecognized|unexpected|extra (inputs|fields)|extra_forbidden"
    r"|not permitted|not allowed|invalid (param|argument|field)|must be verified|deprecated|instead"
    r"|cannot use|only non-?stream|不支持|未知|지원(하지|되지)",
    re.I,
)

_USAGE = {"include_usage": True}
_ADDED = "what a client adds to stream_options"
_NO_TEXT = '"content":null'  # in a string of JSON its quotes would be escaped


class Dialect:
    """The fields that the LLM server has refused since the process started."""

    def __init__(self) -> None:
        self._refused: set[str] = set()

    def fields_it_takes(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the fields of a request as this LLM server accepts them."""
        body = dict(fields)
        for name in self._refused.intersection(_HINTS):
            body.pop(name, None)
        for name, other in _LIMITS.items():
            if name in self._refused and name in body and other not in body:
                body[other] = body.pop(name)
        options = body.get("stream_options") or {}
        body["stream_options"] = _USAGE if _ADDED in self._refused else options | _USAGE
        body["stream"] = "stream" not in self._refused
        if not body["stream"] or "stream_options" in self._refused:
            body.pop("stream_options", None)
        return body

    def messages_it_takes(self, messages: str) -> str:
        """JSON messages; no content is "" and not null if the LLM server wants that (llama-cpp-python)."""
        return messages.replace(_NO_TEXT, '"content":""') if _NO_TEXT in self._refused else messages

    def learns_from(self, failure: Failure, sent: Mapping[str, Any], messages: str) -> str:
        """Notes and returns what was refused, if the request can be sent again without it; else ""."""
        text = f"{failure.codes} {failure.words}"
        wants_text = _NO_TEXT in messages and re.search(r"\bcontent\b.{0,40}\bstring", text)
        if wants_text and _NO_TEXT not in self._refused:
            self._refused.add(_NO_TEXT)
            return _NO_TEXT
        # The first limit in the text is the refused one; the text may name the other as its replacement.
        limit = re.search(r"\bmax_(completion_)?tokens\b", text)
        names = [limit[0]] if limit and _LIMITS[limit[0]] not in {*sent, *self._refused} else []
        for name in [*names, *_HINTS, "stream_options", "stream"]:
            # The server itself adds stream_options, so an error that names it refuses it.
            is_refused = name == "stream_options" or _REFUSED.search(text)
            if is_refused and sent.get(name) and re.search(rf"(?i)\b{name}(ing)?\b", text):
                if name == "stream_options" and sent[name] != _USAGE:
                    name = _ADDED  # our own options may be accepted
                self._refused.add(name)
                return name
        return ""

    def forget(self, names: set[str]) -> None:
        """Sends these fields again in other requests, because leaving them out did not help."""
        self._refused -= names
