"""What this LLM server was seen to refuse, and requests without it. No I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from chatbot.llm.errors import Failure

_LIMITS = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}
_HINTS = ("prompt_cache_key", "safety_identifier", "user")  # they change no answer
_REFUSED = re.compile(
    r"unsupported|not support|unknown|unrecognized|unexpected|extra (inputs|fields)|extra_forbidden"
    r"|not permitted|not allowed|invalid (param|argument|field)|must be verified|deprecated|instead"
    r"|cannot use|only non-?stream|不支持|未知|지원(하지|되지)",
    re.I,
)

_USAGE = {"include_usage": True}
_ADDED = "what a client adds to stream_options"


class Dialect:
    """Remembers for as long as the process lives."""

    def __init__(self) -> None:
        self._refused: set[str] = set()

    def fields_it_takes(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of a request as this LLM server takes them."""
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

    def learns_from(self, failure: Failure, sent: Mapping[str, Any]) -> str:
        """The field that is refused and can be done without, so that it is worth to ask again; "" if none."""
        text = f"{failure.codes} {failure.words}"
        # The first limit that is named is the one that is refused; the other may be what is wanted.
        limit = re.search(r"\bmax_(completion_)?tokens\b", text)
        names = [limit[0]] if limit and _LIMITS[limit[0]] not in {*sent, *self._refused} else []
        for name in [*names, *_HINTS, "stream_options", "stream"]:
            # Nobody would speak of this one, which is ours, but to refuse it.
            is_refused = name == "stream_options" or _REFUSED.search(text)
            if is_refused and sent.get(name) and re.search(rf"(?i)\b{name}(ing)?\b", text):
                if name == "stream_options" and sent[name] != _USAGE:
                    name = _ADDED  # ours may be taken without
                self._refused.add(name)
                return name
        return ""

    def forget(self, names: set[str]) -> None:
        """Asking without these fields helped nothing: other requests have them again."""
        self._refused -= names
