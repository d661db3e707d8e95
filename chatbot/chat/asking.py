"""Asks the LLM one question: with as much of the conversation as fits, with less when it says "too long"."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from chatbot.chat.context import Context, Head, plan, shrink, system_message
from chatbot.chat.limits import Budget, ContextLimits
from chatbot.chat.reply_log import Columns
from chatbot.config import Config
from chatbot.errors import TooLong
from chatbot.ids import affinity_of
from chatbot.llm.chunks import MAX_MODEL_CHARS
from chatbot.llm.client import LLM
from chatbot.llm.response import Answer, Take
from chatbot.records import Turn
from chatbot.storage.store import Store


@dataclass(slots=True)
class Question:
    """What is asked, and how its reply is treated."""

    session_id: str
    parent: int | None  # the turn that it follows
    input: tuple[str, ...]  # the messages that are new, as JSON
    options: Mapping[str, Any]  # fields of the request to the LLM
    key: str = ""  # an idempotency key's hash (reply_registry.key_hash); "" without one
    request_hash: str = ""
    # Nothing else may be asked in its session meanwhile; else it becomes current only if its parent still is.
    occupies: bool = True
    stored: bool = True  # else it leaves nothing behind
    instructions: str | None = None  # stand before the turns, for this once
    response_id: str | None = None  # OpenAI's door knows it by this id
    response: str | None = None  # with these settings
    detached: bool = False  # its reply needs no listeners to go on


class Asking:
    """One question on its way to the LLM, and its answer on the way back.

    `context_messages` is how many messages of the conversation went.
    """

    def __init__(
        self, question: Question, *, config: Config, store: Store, llm: LLM, limits: ContextLimits
    ) -> None:
        self._model = ""
        self.context_messages = 0
        self.question = question
        self._config = config
        self._store = store
        self._llm = llm
        self._limits = limits
        self._answer: Answer | None = None
        self._context: Context | None = None  # until the answer begins, for it may be long
        self._context_start: int | None = None
        self._context_key: str | None = None
        self._tokens = 0  # that the context was estimated to measure, where tokens are limited

    @property
    def model(self) -> str:
        """The model that answers, as it names itself, else the one that is asked; "" before that is known."""
        return (self._answer.reader.model if self._answer else "") or self._model[:MAX_MODEL_CHARS]

    @property
    def finish_reason(self) -> str | None:
        """How the LLM says that it ended; it may go on all the same."""
        return self._answer.reader.finish_reason if self._answer else None

    @property
    def is_complete(self) -> bool:
        """Whether the LLM has said everything and all chunks were taken."""
        return self._answer is not None and self._answer.is_complete

    @property
    def usage(self) -> str | None:
        """How many tokens it took, as the LLM says (JSON), if it has."""
        return self._answer.reader.usage if self._answer else None

    async def run(self, take: Take) -> None:
        """Asks, and has each piece of the answer taken until its end, or until `take` says False.

        Raises ChatError.
        """
        fields = self.question.options
        self._model = asked = await self._llm.model_for(fields)
        listed = self._llm.context_size(asked)
        budget = self._limits.budget(asked, fields, listed)
        self._prepare(self.plan_context(asked, budget, fields), budget)
        has_guessed = False
        while True:
            try:
                await self._pass_on(take)
            except TooLong as error:
                # What may also be a crash is taken for "too long" only once: a crash must cost no history.
                if self._context is None or (has_guessed and not error.is_certain):
                    raise
                has_guessed = not error.is_certain
                self._limits.refused(asked, fields, self.context_messages, self._context.tokens, error)
                budget = self._limits.budget(asked, fields, listed)
                self._prepare(shrink(self._context, budget, error), budget)
            else:
                counted = json.loads(self.usage or "{}").get("prompt_tokens")
                tokens = counted if isinstance(counted, int) else self._tokens
                return self._limits.answered(asked, self.context_messages, tokens)

    def plan_context(self, model: str, budget: Budget, fields: Mapping[str, Any] | None) -> Context:
        """What the question is asked with, within `budget`.

        `fields` are those of the request; without them it is not known which tools go with it.
        """
        question, session_id = self.question, self.question.session_id
        prompt = self._store.prompt(session_id) if session_id else None
        system = [text for text in (prompt and prompt.content, question.instructions) if text]
        if not system and self._config.system_prompt:
            system = [self._config.system_prompt]
        # In one message: the templates of many models refuse a second one.
        head = Head.of(model, fields, [system_message("\n\n".join(system))] if system else [])
        path = self._store.path_up(session_id, question.parent)
        return plan(path, question.input, head, budget, send_reasoning=self._config.send_reasoning)

    def _prepare(self, context: Context, budget: Budget) -> None:
        self._context = context
        self.context_messages = context.count
        self._tokens = 0 if budget.tokens is None else context.tokens
        self._context_start, self._context_key = context.start, context.key

    async def _pass_on(self, take: Take) -> None:
        assert self._context
        answer = self._answer = await self._llm.ask(
            self._context.messages, self.question.options, affinity=self._affinity()
        )
        await answer.deliver(take, self._drop_context)

    def _drop_context(self) -> None:
        self._context = None

    def to_turn(
        self,
        turn_id: str,
        asked_at: int,
        replied_at: int,
        finish_reason: str,
        first_token_ms: int | None,
        said: Columns,
    ) -> Turn:
        """The question and what was said to it, as they are stored."""
        question = self.question
        return Turn(
            seq=0,
            session_id=question.session_id,
            parent=question.parent,
            turn_id=turn_id,
            asked_at=asked_at,
            replied_at=replied_at,
            finish_reason=finish_reason,
            context_start=self._context_start,
            context_key=self._context_key,
            model=self.model or None,
            first_token_ms=first_token_ms,
            token_usage=self.usage,
            idempotency_key=question.key or None,
            request_hash=question.request_hash if question.key else None,
            response_id=question.response_id,
            response=question.response,
            input="\n".join(question.input),
            **said._asdict(),
        )

    def _affinity(self) -> str | None:
        """By what LLM servers know the conversation; its id, which opens it, is not theirs to know."""
        session_id = self.question.session_id
        if not session_id or not self._llm.wants_affinity:
            return None
        return affinity_of(self._store.affinity_key, session_id)
