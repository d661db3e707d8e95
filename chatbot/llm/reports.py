"""Keeps secrets out of the errors that clients are sent, and the conversation out of the log."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable

from chatbot.errors import ChatError

log = logging.getLogger(__name__)

MAX_REASON_CHARS = 300
MAX_SEARCHED = 256 * 1024
"""A longer conversation is not searched, which would take too long: all words count as quoted from it."""


class Reports:
    """Logs each failure, and masks `secrets` in it, because some LLM servers echo the API key."""

    def __init__(self, secrets: Iterable[str]) -> None:
        found = sorted({secret for secret in secrets if secret.strip()}, key=len, reverse=True)
        # A short secret, like "1", is masked only as a whole word: it may be part of other words.
        marks = [re.escape(s) if len(s) >= 8 else rf"(?<!\w){re.escape(s)}(?!\w)" for s in found]
        self._secrets = re.compile("|".join(marks)) if marks else None

    def mask(self, text: str) -> str:
        """Returns the text with each secret replaced by ***."""
        return self._secrets.sub("***", text) if self._secrets else text

    def report(self, error: ChatError, messages: str | None) -> ChatError:
        """Masks the error's message. Logs it without quotes of `messages`, or not if they are None."""
        error.message = self.mask(error.message)
        reason = "in the middle of an answer" if messages is None else without(error.message, messages)
        log.warning("llm: %s: %s", error.kind, reason)
        return error


# Common words of error messages, which are logged even if the conversation has them, too.
_PLAIN = (
    " a an and are as at by can check context conversation do does error exceeds failed for found has have i"
    " in input into invalid is it key length limit llm long max maximum message messages model must no not of"
    " on only or out output prompt provided rate rejected request requested role server size supported than"
    " that the this to token tokens too type use value was with you your "
)


def without(words: str, messages: str) -> str:
    """Returns the words, cut, with "…" for words of `messages` (plain words only if three in a row)."""
    tokens = words[: 4 * MAX_REASON_CHARS].split()
    shown = list(tokens)
    if len(messages) > MAX_SEARCHED:
        messages = re.sub('"[!#-~]{4096,}"', '""', messages)  # the data of images and files
    is_long = len(messages) > MAX_SEARCHED
    if not (is_long or messages.isascii()):
        messages += json.dumps(messages)  # an error may quote JSON with \u escapes
    for at, token in enumerate(tokens):
        for part in token.split("="):
            core = part.strip(".,;:!?()[]{}<>'\"`“”‘’\\")
            if core and f" {core.lower()} " not in _PLAIN and (is_long or core in messages):
                shown[at] = "…"
        if at + 3 <= len(tokens) and not is_long and " ".join(tokens[at : at + 3]) in messages:
            shown[at : at + 3] = ["…"] * 3
    # A client may have sent the control characters that it quotes; a terminal would obey them.
    return "".join(c if c.isprintable() else "?" for c in " ".join(shown)[:MAX_REASON_CHARS])
