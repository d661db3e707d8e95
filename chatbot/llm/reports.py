"""Keeps secrets out of what clients are sent, and the conversation out of the log."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable

from chatbot.errors import ChatError

log = logging.getLogger(__name__)

MAX_REASON_CHARS = 300


class Reports:
    """Tells the log of each failure; some servers echo the key in theirs: masks `secrets` in it."""

    def __init__(self, secrets: Iterable[str]) -> None:
        found = sorted({secret for secret in secrets if secret.strip()}, key=len, reverse=True)
        # A short one, like "1", may well be part of an innocent word.
        marks = [re.escape(s) if len(s) >= 8 else rf"(?<!\w){re.escape(s)}(?!\w)" for s in found]
        self._secrets = re.compile("|".join(marks)) if marks else None

    def mask(self, text: str) -> str:
        """The text without secrets."""
        return self._secrets.sub("***", text) if self._secrets else text

    def report(self, error: ChatError, said: str) -> ChatError:
        """Masks the error's message, and logs it without what was `said`."""
        error.message = self.mask(error.message)
        log.warning("llm: %s: %s", error.kind, without(error.message, said))
        return error


# Words of the servers' own that may stand in the log though they may well stand in the conversation, too.
_PLAIN = """
 a an and any are as at available be before by can cannot check context conversation credentials did do does down error
 exceeds failed for forbidden found from has have here however i if in input into invalid is it key later length less limit
 limits list llm long longer max maximum may memory message messages model must no not number of on only or organization
 out output parameter please process prompt provided rate reason reduce refused rejected reply request requested requests
 role server shorter size stream supported system than that the this time to token tokens too try type unavailable
 unexpected use user value was wants with you your """.replace("\n", "")


def without(words: str, said: str) -> str:
    """The words, cut, without what they quote of the conversation: no word that stands in `said` is shown, but
    for the servers' own, and of those no three in a row."""
    tokens = words[: 4 * MAX_REASON_CHARS].split()
    shown = list(tokens)
    for at, token in enumerate(tokens):
        core = token.strip(".,;:!?()[]{}<>'\"`“”‘’")
        if core and f" {core.lower()} " not in _PLAIN and core in said:
            shown[at] = "…"
        if at + 3 <= len(tokens) and " ".join(tokens[at : at + 3]) in said:
            shown[at : at + 3] = ["…"] * 3
    return " ".join(shown)[:MAX_REASON_CHARS].encode("utf-8", "replace").decode()
