"""An LLM that answers nothing but counts: what a prompt measures, and what of it has to be worked on anew."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import takewhile

from chatbot.errors import TooLong


def by_length(message: str) -> int:
    """Four characters a token, and four tokens around each message."""
    return len(message) // 4 + 4


class PrefixLLM:
    """Keeps the work that it did on the last prompt, as far as the next one begins the same.

    It refuses more than `takes` tokens or `takes_messages`, and says that it takes `named` tokens. With
    `hides_kept` its usage has only what was not kept. `prompts` has the tokens of each prompt that it
    answered, `anew` those that were not kept; `asks` counts also what it refused.
    """

    def __init__(
        self,
        count: Callable[[str], int] = by_length,
        *,
        takes: int | None = None,
        takes_messages: int | None = None,
        named: int | None = None,
        hides_kept: bool = False,
    ) -> None:
        self.count = count
        self.takes, self.takes_messages, self.named = takes, takes_messages, named
        self.hides_kept = hides_kept
        self.asks = 0
        self.prompts: list[int] = []
        self.anew: list[int] = []
        self.counts: list[int] = []
        self._kept: list[str] = []

    def ask(self, messages: Sequence[str], answer: str) -> dict[str, int]:
        """Takes a prompt and gives the usage of an answer."""
        self.asks += 1
        tokens = sum(map(self.count, messages))
        if (self.takes and tokens > self.takes) or (
            self.takes_messages and len(messages) > self.takes_messages
        ):
            raise TooLong("context_too_long", "too long", limit=self.named)
        same = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(self._kept, messages, strict=False))))
        self.prompts.append(tokens)
        self.counts.append(len(messages))
        self.anew.append(sum(map(self.count, messages[same:])))
        self._kept = [*messages, answer]
        if self.hides_kept:
            tokens = self.anew[-1]
        return {"prompt_tokens": tokens, "completion_tokens": self.count(answer)}
