"""Asks the LLM one question: with as much of the conversation as fits, with less when it says "too long"."""

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
    parent: int | None  # the turn that it follows
    input: tuple[str, ...]  # the messages that are new, as JSON
    options: Mapping[str, Any]  # fields of the request to the LLM
    key_hash: str = ""  # of its idempotency key (reply_registry.key_hash); "" without one
    request_hash: str = ""  # of what the key was used for

    # What only OpenAI's door sets

    # Nothing else may be asked in its session meanwhile; else it becomes current only if its parent still is.
    occupies: bool = True
    stored: bool = True  # else it leaves nothing behind
    detached: bool = False  # its reply needs no listeners to go on
    truncates: bool = True  # what does not fit goes without its oldest turns; else it is an error
    instructions: str | None = None  # stand before the turns, for this once
    response_id: str | None = None  # the door knows it by this id
    response: str | None = None  # with these settings


class NoAnswer:
    """Stands for the answer until the LLM begins to give one."""

    reader = ChunkReader()  # that has read nothing
    is_complete = False


@dataclass(eq=False)
class Asking:
    """One question on its way to the LLM, and its answer on the way back.

    `context_messages` is how many messages of the conversation went.
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
        self._model = ""  # that is asked
        self.context_start: int | None = None
        self.context_key: str | None = None
        self._tokens = 0  # that the context was estimated to measure, where tokens are limited

    @property
    def model(self) -> str:
        """The model that answers, as it names itself, else the one that is asked; "" before that is known."""
        return self.answer.reader.model or self._model[:MAX_MODEL_CHARS]

    async def run(self, take: Take) -> None:
        """Asks, and has each piece of the answer taken until its end, or until `take` says False.

        Raises ChatError.
        """
        answer, first = await self._ask(take)
        await answer.deliver(first, take)
        counted = json.loads(answer.reader.usage or "{}").get("prompt_tokens")
        tokens = counted if isinstance(counted, int) else self._tokens
        self.limits.answered(self._model, self.context_messages, tokens)

    async def _ask(self, take: Take) -> tuple[Answer, list[Chunk]]:
        """Asks with what the LLM does not refuse: less if it is too long, another order if it wants that.

        Returns the answer and its first chunks that say something; those before them were taken.
        """
        fields = self.question.options
        self._model = model = await self.llm.model_for(fields)
        listed = self.llm.context_size(model)
        budget = self.limits.budget(model, fields, listed)
        context = self.plan_context(model, budget, fields)
        if not self.question.truncates and context.reason != WHOLE:
            raise TooLong("context_too_long", f"{TOO_LONG}, and truncation is disabled.")
        has_guessed = False
        while True:
            self.context_messages = context.count
            self.context_start, self.context_key = context.start, context.key
            self._tokens = 0 if budget.tokens is None else context.tokens
            sent = in_order(context.messages) if budget.is_strict else context.messages
            try:
                answer = self.answer = await self.llm.ask(sent, fields, affinity=self._affinity())
                return answer, await answer.first(take)
            except TooLong as error:
                # What may also be a crash is taken for "too long" only once: a crash must cost no history.
                is_crash = has_guessed and not error.is_certain
                if is_crash or not self.question.truncates:
                    raise
                has_guessed = not error.is_certain
                self.limits.refused(model, fields, context.count, context.tokens, error)
                budget = self.limits.budget(model, fields, listed)
                context = shrink(context, budget, error)
            except ChatError as error:
                if error.kind != "template" or budget.is_strict or sent == in_order(sent):
                    raise
                self.limits.refused_order(model)
                budget = budget._replace(is_strict=True)

    def plan_context(self, model: str, budget: Budget, fields: Mapping[str, Any] | None) -> Context:
        """What the question is asked with, within `budget`.

        `fields` are those of the request; without them it is not known which tools go with it.
        """
        question, session_id = self.question, self.question.session_id
        prompt = self.store.prompt(session_id) if session_id else None
        system = [text for text in (prompt and prompt.content, question.instructions) if text]
        if not system and self.config.system_prompt:
            system = [self.config.system_prompt]
        # In one message: the templates of many models refuse a second one.
        head = Head.of(model, fields, [system_message("\n\n".join(system))] if system else [])
        path = self.store.path_up(question.parent)
        return plan(path, question.input, head, budget, send_reasoning=self.config.send_reasoning)

    def _affinity(self) -> str | None:
        """By what LLM servers know the conversation; its id, which opens it, is not theirs to know."""
        session_id = self.question.session_id
        if not session_id or not self.llm.wants_affinity:
            return None
        return affinity_of(self.store.affinity_key, session_id)
