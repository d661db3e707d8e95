"""Explains a session's context: what the LLM would be sent with the next question, and why."""

from __future__ import annotations

import json
from typing import Any

from chatbot.api.responses import without_parts
from chatbot.chat.asking import Asking, Question
from chatbot.chat.limits import ContextLimits
from chatbot.config import Config
from chatbot.errors import ChatError
from chatbot.llm.client import LLM
from chatbot.records import Session
from chatbot.storage.store import Store


async def explain(
    session: Session, *, config: Config, store: Store, limits: ContextLimits, llm: LLM
) -> dict[str, Any]:
    """Returns the messages that the LLM would be sent, without the contents of parts, and the reasons.

    Of the operator's system prompt it shows only that the LLM is sent one.
    """
    try:
        model = await llm.model_for({})
    except ChatError:  # the model, and so its limits, are unknown
        model = ""
    question = Question(session.session_id, session.current, (), {})
    budget = limits.budget(model, {}, llm.context_size(model))
    asking = Asking(question, config=config, store=store, llm=llm, limits=limits)
    context = asking.plan_context(model, budget, None)
    whose = "session" if store.prompt(session.session_id) else "operator" if config.system_prompt else None
    messages = [json.loads(message) for message in context.messages]
    for message in messages:
        message["content"] = without_parts(message.get("content"))
    return {
        "messages": messages[1:] if whose == "operator" else messages,
        "system_prompt": whose,
        "first_message_id": context.first,
        "reason": context.reason,
        "model": model or None,
        "estimated_tokens": context.tokens,
        "measured_tokens": context.measured,
        "max_messages": budget.messages,
        "max_tokens": budget.tokens,
    }
