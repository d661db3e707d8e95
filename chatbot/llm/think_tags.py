"""Tells reasoning in tags at the head of a text from the text, however the chunks cut it. No I/O."""

from __future__ import annotations

import re
from functools import cache

MAX_WAITING = 256
"""White space that is longer belongs to no tag: it would be copied again with each piece that comes."""

OPEN = (
    *("<think>", "<thought>", "<reasoning>"),  # the second is Gemini's, the last Bedrock's
    *("[THINK]", "<seed:think>", "◁think▷"),  # Mistral's, ByteDance's, Kimi's
)
"""The tags that begin it; one that ends it is the same with a slash."""

_HEAD, _OPENED, _THINKING, _CLOSED, _TEXT = range(5)


class ThinkTags:
    """Cuts a text that comes in pieces into reasoning and text; tags and the white space at them are neither.

    Characters that may yet become a tag wait for the next piece, unless there is none.
    """

    def __init__(self) -> None:
        self._state = _HEAD
        self._close = ""
        self._waiting = ""

    def feed(self, text: str, *, is_last: bool) -> tuple[str, str]:
        """Takes the next characters; returns the reasoning and then the text that are certain now."""
        if self._state == _TEXT:
            return "", text
        text, self._waiting = self._waiting + text, ""
        reasoning = ""
        if self._state == _HEAD:
            head = text.lstrip()
            if tag := next((tag for tag in OPEN if head.startswith(tag)), ""):
                self._state, text, self._close = _OPENED, head[len(tag) :], f"{tag[0]}/{tag[1:]}"
            elif (text and is_last) or len(text) >= MAX_WAITING or not any(t.startswith(head) for t in OPEN):
                self._state = _TEXT
            else:
                self._waiting, text = text, ""
        if self._state == _OPENED and (text := text.lstrip()):
            self._state = _THINKING
        if self._state == _THINKING:
            reasoning, tag, text = text.partition(self._close)
            if tag or is_last:
                self._state, reasoning = _CLOSED if tag else _THINKING, reasoning.rstrip()
            elif undecided := _undecided(self._close).search(reasoning, len(reasoning) - 2 * MAX_WAITING):
                reasoning, self._waiting = reasoning[: undecided.start()], undecided[0]
        if self._state == _CLOSED and (text := text.lstrip()):
            self._state = _TEXT
        return reasoning, text


@cache
def _undecided(close: str) -> re.Pattern[str]:
    """Finds the end of a text that may be white space before the closing tag, or a part of it."""
    parts = "|".join(re.escape(close[:length]) for length in range(len(close) - 1, 0, -1))
    return re.compile(rf"\s{{,{MAX_WAITING}}}({parts})?\Z")
