"""Tells reasoning in tags at the head of a text from the text, however the chunks cut it. No I/O."""

from __future__ import annotations

OPEN = (
    *("<think>", "<thinking>", "<thought>", "<reasoning>"),  # the third is Gemini's, the last Bedrock's
    *("[THINK]", "<seed:think>", "◁think▷"),  # Mistral's, ByteDance's, Kimi's
)
"""The tags that begin it; one that ends it is the same with a slash."""

MAX_WAITING = 256
"""White space that is longer belongs to no tag: it would be copied again with each piece that comes."""

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
            elif not any(tag.startswith(head) for tag in OPEN) or len(text) >= MAX_WAITING:
                self._state = _TEXT
            elif not is_last:
                self._waiting, text = text, ""
        if self._state == _OPENED and (text := text.lstrip()):
            self._state = _THINKING
        if self._state == _THINKING:
            inner, tag, rest = text.partition(self._close)
            if tag:
                self._state, reasoning, text = _CLOSED, inner.rstrip(), rest
            else:
                kept, text = _undecided(inner, self._close), ""
                reasoning = inner.removesuffix(kept)
                if is_last:
                    reasoning += kept.rstrip()
                else:
                    self._waiting = kept
        if self._state == _CLOSED and (text := text.lstrip()):
            self._state = _TEXT
        return reasoning, text


def _undecided(text: str, close: str) -> str:
    """The end of `text` that may be white space before the closing tag, or a part of it."""
    for length in range(min(len(close) - 1, len(text)), 0, -1):
        if close.startswith(text[-length:]):
            break
    else:
        length = 0
    body = text[: len(text) - length].rstrip()
    return text[len(body) :] if len(text) - len(body) < MAX_WAITING else text[len(text) - length :]
