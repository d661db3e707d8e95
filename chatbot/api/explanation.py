"""Explains a session's context: what the LLM would be sent with the next question, and why."""

from __future__ import annotations

import json
from typing import Any

from chatbot.api.responses import without_parts
from chatbot.chat.context import Head, plan, system_message
from chatbot.chat.limits import ContextLimits
from chatbot.config import Config
from chatbot.errors import ChatError
from chatbot.llm.client import LLM
from chatbot.records import Session
from chatbot.storage.store import Store


async def explain(
    session: Session, *, config: Config, store: Store, limits: ContextLimits, llm: LLM
) -> dict[str, Any]:
    """What the next question would be sent, without what parts hold.

    Of the operator's system prompt it is only said that it is sent.
    """
    try:
        model = await llm.model_for({})
    except ChatError:  # what it takes is not known then
        model = ""
    prompt = store.prompt(session.session_id)
    system = prompt.content if prompt else config.system_prompt
    head = Head.of(model, None, [system_message(system)] if system else [])
    budget = limits.budget(model, {}, llm.context_size(model))
    path = store.path_up(session.session_id, session.current)
    context = plan(path, [], head, budget, send_reasoning=config.send_reasoning)
    messages = [json.loads(message) for message in context.messages]
    for message in messages:
        message["content"] = without_parts(message.get("content"))
    return {
        "messages": messages if prompt else messages[len(head.messages) :],
        "system_prompt": "session" if prompt else "operator" if system else None,
        "first_message_id": context.first,
        "reason": context.reason,
        "model": model or None,
        "estimated_tokens": context.tokens,
        "measured_tokens": context.measured,
        "max_messages": budget.messages,
        "max_tokens": budget.tokens,
    }
