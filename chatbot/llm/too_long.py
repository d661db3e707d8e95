"""Tells whether an LLM's refusal means that the conversation is too long for it, and how much it takes. No I/O."""

from __future__ import annotations

import re
from typing import Any

_CODES = re.compile(
    r"context_length_exceeded|exceed_context_size|context_window_exceeded|ContextWindowExceeded"
    r"|max_prompt_tokens_exceeded|prompt_too_long|input_too_long|string_above_max_length|tokens_limit_reached"
    r"|context_too_long|request_too_large|context_size_exceeded"
)

# What only looks like it: rates, waiting, money.
_NEVER = re.compile(
    r"\bper[ _](minute|min|day|hour|second|month)|\b[rt]p[mds]\b|rate.?limit|throttl|please wait|try again (in|later)"
    r"|too many requests|quota|balance|billing|credits?\b|insufficient|concurren|"
    r"余额|配额|限流|频率|每分钟|欠费|稍后|분당|초당|할당량|잔액|결제|잠시",
    re.I,
)

_ANSWER = r"max_?(completion_|new_|output_|response_)?tokens?"
# What speaks of the answer that was asked for, and not of what was said.
_ANSWER_ALONE = re.compile(
    rf"^\W*(the |parameter |param |value |for |of |invalid |field |body\W+)*\W*(range of )?\W*{_ANSWER}\b"
    rf"|(range|value|parameter|valid range) (of|for)?\W*{_ANSWER}\b(?!.{{0,80}}context)"
    rf"|supports? at most \d+ completion tokens|{_ANSWER}\W+(is )?(too large|must be|should be|out of range)",
    re.I,
)

_LENGTH = r"(length|size|window|limit|budget|capacity)"
_SAID = r"(prompts?|inputs?|messages?|contexts?|conversation|requests?|history|content|text|query|sequence|tokens?|document)"
_MUCH = r"(exceed\w*|too (long|large|big|many)|longer|larger|greater|over(flow\w*|s|)\b|more than|beyond|surpass\w*|above)"
_PATTERNS = [
    re.compile(pattern, re.I | re.S)
    for pattern in (
        rf"context[ _-]?{_LENGTH}",
        rf"{_SAID}\b.{{0,80}}\b{_MUCH}",
        rf"{_MUCH}.{{0,60}}\b{_SAID}\b",
    )
]


def find(status: int, codes: str, words: str) -> tuple[bool, int | None]:
    """Whether a refusal means that, and the tokens that the LLM says it takes."""
    if _CODES.search(codes):
        return True, limit_in(words)
    if status in (401, 402, 429) or _NEVER.search(f"{codes} {words}"):
        return False, None
    if status == 413:
        return True, limit_in(words)
    if _ANSWER_ALONE.search(words):
        return False, None
    return any(pattern.search(words) for pattern in _PATTERNS), limit_in(words)


def limit_in(words: str) -> int | None:
    return None


def is_full(usage: dict[str, Any], finish: str, context_size: int | None) -> bool:
    """Whether the usage of an answer without text shows that the conversation filled the context."""
    said, answered = usage.get("prompt_tokens"), usage.get("completion_tokens") or 0
    if "context_window" in finish:
        return True
    if not isinstance(said, int) or not isinstance(answered, int) or not said:
        return False
    if context_size:
        return said + answered >= context_size - 1
    return finish.lower() in ("length", "max_tokens") and answered <= 1
