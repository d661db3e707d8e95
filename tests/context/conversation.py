"""A conversation in memory, asked as a reply asks, so that the rule of the context is tested alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from chatbot.chat.context import Context, Head, plan, shrink, system_message
from chatbot.chat.limits import Budget, ContextLimits
from chatbot.errors import TooLong
from chatbot.ids import new_turn_id
from chatbot.records import Turn, as_json
from tests.tools.prefix_llm import PrefixLLM


def user(content: Any) -> str:
    return as_json({"role": "user", "content": content})


def assistant(content: str | None, *calls: str) -> str:
    message: dict[str, Any] = {"role": "assistant", "content": content}
    if calls:
        function = {"name": "find", "arguments": "{}"}
        message["tool_calls"] = [{"id": call, "type": "function", "function": function} for call in calls]
    return as_json(message)


def tool(call: str, content: str = "found") -> str:
    return as_json({"role": "tool", "tool_call_id": call, "content": content})


def make_turn(seq: int, said: Sequence[str], output: str | None, **values: Any) -> Turn:
    """A row of the table; what is not given is empty."""
    row: dict[str, Any] = dict.fromkeys(Turn._fields)
    finish = "stop" if output else None
    row |= {"seq": seq, "parent": seq - 1 or None, "session_id": "s", "turn_id": new_turn_id(seq)}
    row |= {"input": "\n".join(said), "output": output, "finish_reason": finish}
    return Turn(**row | {"asked_at": 0, "replied_at": 0} | values)


class Conversation:
    """Turns by their seq. `contexts` has what was sent for each; `read` counts the turns that were read.

    With `reports` the LLM's usage is stored.
    """

    def __init__(
        self,
        llm: PrefixLLM,
        limits: ContextLimits,
        prompt: str = "",
        *,
        model: str = "m",
        fields: Mapping[str, Any] | None = None,
        reports: bool = True,
    ) -> None:
        self.llm, self.limits, self.prompt, self.model = llm, limits, prompt, model
        self.fields = fields or {}
        self.reports = reports
        self.turns: dict[int, Turn] = {}
        self.current: int | None = None
        self.contexts: list[Context] = []
        self.read = 0

    def path(self) -> Iterator[Turn]:
        """As the store reads it: upwards from the current turn."""
        seq = self.current
        while seq is not None:
            self.read += 1
            yield self.turns[seq]
            seq = self.turns[seq].parent

    def head(self) -> Head:
        return Head.of(self.model, self.fields, [system_message(self.prompt)] if self.prompt else [])

    def budget(self) -> Budget:
        return self.limits.budget(self.model, self.fields)

    def next(self, *said: str) -> Context:
        """What would be sent."""
        return plan(self.path(), said, self.head(), self.budget())

    def talk(self, turns: int, words: int = 20) -> None:
        """Asks so many questions of a few words, which are answered with twice as many."""
        for _ in range(turns):
            number = len(self.turns) + 1
            self.ask(
                user(f"Q{number}" + " word" * words), output=assistant(f"A{number}" + " word" * 2 * words)
            )

    def ask(self, *said: str, output: str, usage: Mapping[str, Any] | None = None, **values: Any) -> Context:
        """Asks and stores the turn; returns what was answered from."""
        context = self.next(*said)
        while True:
            try:
                counted = self.llm.ask(context.messages, output)
                break
            except TooLong as error:
                self.limits.refused(self.model, self.fields, context.count, context.tokens, error)
                context = shrink(context, self.budget(), error)
        measured = counted["prompt_tokens"] if self.reports else context.tokens
        self.limits.answered(self.model, context.count, measured)
        kept = {"context_start": context.start, "context_key": context.key, "parent": self.current}
        seq = len(self.turns) + 1
        counts = json.dumps(counted | dict(usage or {})) if self.reports else None
        self.turns[seq] = make_turn(seq, said, output, token_usage=counts, **kept | values)
        self.current = seq
        self.contexts.append(context)
        return context
