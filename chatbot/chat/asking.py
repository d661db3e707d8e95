"""Asks the LLM one question with as much of the conversation as fits, and with less if it is too long."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any

from chatbot.chat.context import WHOLE, Context, Head, plan, shrink, system_message
from chatbot.chat.limits import Budget, ContextLimits
from chatbot.chat.turn_messages import in_order
from chatbot.config import Config
from chatbot.errors import TOO_LONG, ChatError, TooLong
from chatbot.ids import affinity_of
from chatbot.llm.chunks import MAX_MODEL_CHARS, ChunkReader
from chatbot.llm.client import LLM
from chatbot.llm.response import Answer, Take
from chatbot.records import Chunk
from chatbot.storage.store import Store


@dataclass(slots=True)
class Question:
    """What is asked, and how its reply is treated."""

    session_id: str
    parent: int | None  # the turn (its seq) that the question follows
    input: tuple[str, ...]  # the new messages, as JSON
    options: Mapping[str, Any]  # fields of the request to the LLM
    key_hash: str = ""  # the hash of the idempotency key (reply_registry.key_hash); "" without a key
    request_hash: str = ""  # the hash of the request that used the key

    # Only OpenAI's door sets these. If the question `occupies` its session, no other such question may run in
    # it. If not, its turn becomes the session's current turn only if its parent still is the current turn.
    occupies: bool = True
    stored: bool = True  # whether its turn is stored
    detached: bool = False  # whether its reply goes on without listeners
    truncates: bool = True  # whether the oldest turns are left out if not all fit; if not, that is an error
    instructions: str | None = None  # a system prompt for this question only, after the session's
    response_id: str | None = None  # the id that the door gave to the response
    response: str | None = None  # the settings of the response, as JSON


class NoAnswer:
    """Stands for the answer until the LLM begins to give one."""

    reader = ChunkReader()  # it has read nothing
    is_complete = False


@dataclass(eq=False)
class Asking:
    """Sends one question to the LLM and hands its answer over.

    `context_messages` is how many messages of the conversation were sent.
    """

    question: Question
    _: KW_ONLY
    config: Config
    store: Store
    llm: LLM
    limits: ContextLimits

    def __post_init__(self) -> None:
        self.answer: Answer | NoAnswer = NoAnswer()
        self.context_messages = 0
        self._model = ""  # the model that is asked
        self.context_start: int | None = None
        self.context_key: str | None = None
        self._tokens = 0  # the estimated size of the context, if tokens are limited

    @property
    def model(self) -> str:
        """The model's own name for itself, else the name that was asked for; "" before that is known."""
        return self.answer.reader.model or self._model[:MAX_MODEL_CHARS]

    async def run(self, take: Take) -> None:
        """Asks, and hands the answer's chunks to `take` until the answer ends or `take` returns False.

        Raises ChatError.
        """
        answer, first = await self._ask(take)
        await answer.deliver(first, take)
        counted = json.loads(answer.reader.usage or "{}").get("prompt_tokens")
        tokens = counted if isinstance(counted, int) else self._tokens
        self.limits.answered(self._model, self.context_messages, tokens)

    async def _ask(self, take: Take) -> tuple[Answer, list[Chunk]]:
        """Asks until the LLM accepts the context: with less if it is too long, in another order if needed.

        Returns the answer and its first chunks that have content. Earlier chunks were handed to `take`.
        """
        fields = self.question.options
        self._model = model = await self.llm.model_for(fields)
        listed = self.llm.context_size(model)
        budget = self.limits.budget(model, fields, listed)
        context = self.plan_context(model, budget, fields)
        if not self.question.truncates and context.reason != WHOLE:
            raise TooLong("context_too_long", f"{TOO_LONG} ({context.reason}), and truncation is disabled.")
        has_guessed, refused = False, self.limits.sizes_refused(model)
        while True:
            self.context_messages = context.count
            self.context_start, self.context_key = context.start, context.key
            self._tokens = 0 if budget.tokens is None else context.tokens
            sent = in_order(context.messages) if budget.is_strict else context.messages
            try:
                answer = self.answer = await self.llm.ask(sent, fields, affinity=self._affinity())
                return answer, await answer.first(take)
            except TooLong as error:
                # If the error may be a crash, the LLM is asked once with less. A second one is a crash.
                is_crash = has_guessed and not error.is_certain
                if is_crash or not self.question.truncates:
                    raise
                has_guessed = not error.is_certain
                self.limits.refused(model, fields, context.count, context.tokens, error)
                if context.is_least:  # the question alone is too long, which says nothing of others
                    self.limits.unlearn(model, refused)
                budget = self.limits.budget(model, fields, listed)
                context = shrink(context, budget, error)
            except ChatError as error:
                if error.kind != "template" or budget.is_strict or sent == in_order(sent):
                    raise
                self.limits.refused_order(model)
                budget = budget._replace(is_strict=True)

    def plan_context(self, model: str, budget: Budget, fields: Mapping[str, Any] | None) -> Context:
        """Chooses what the LLM is sent with the question, within `budget`.

        `fields` are those of the request. Without them its tools are not known.
        """
        question, session_id = self.question, self.question.session_id
        prompt = self.store.prompt(session_id)
        system = [text for text in (prompt and prompt.content, question.instructions) if text]
        if not system and self.config.system_prompt:
            system = [self.config.system_prompt]
        # There is only one system message: the templates of many models refuse a second one.
        head = Head.of(model, fields, [system_message("\n\n".join(system))] if system else [])
        path = self.store.path_up(question.parent)
        return plan(path, question.input, head, budget, send_reasoning=self.config.send_reasoning)

    def _affinity(self) -> str | None:
        """The key by which LLM servers recognise the conversation. Its id stays secret: it gives access."""
        session_id = self.question.session_id
        return affinity_of(self.store.affinity_key, session_id) if session_id else None
