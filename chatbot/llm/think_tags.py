"""Separates reasoning in tags at the start of a text from the text, across chunks. No I/O."""

from __future__ import annotations

import re
from functools import cache

MAX_WAITING = 256
"""The most white space before a tag. Waiting white space is copied with each piece that arrives."""

OPEN = (
    *("<think>", "<thought>", "<reasoning>"),  # the second is Gemini's, the last Bedrock's
    *("[THINK]", "<seed:think>", "◁think▷"),  # Mistral's, ByteDance's, Kimi's
)
"""The tags that begin reasoning. The tag that ends it is the same with a slash."""

_HEAD, _OPENED, _THINKING, _CLOSED, _TEXT = range(5)


class ThinkTags:
    """Splits a text that arrives in pieces into reasoning and text, without tags and the white space at them.

    Characters that may be the beginning of a tag wait for the next piece, unless this is the last one.
    """

    def __init__(self) -> None:
        self._state = _HEAD
        self._close = ""
        self._waiting = ""

    def feed(self, text: str, *, is_last: bool) -> tuple[str, str]:
        """Takes the next piece; returns the reasoning and the text that are certain now."""
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
    """Returns a pattern for the end of a text: white space, and what may be a part of the closing tag."""
    parts = "|".join(re.escape(close[:length]) for length in range(len(close) - 1, 0, -1))
    return re.compile(rf"\s{{,{MAX_WAITING}}}({parts})?\Z")
