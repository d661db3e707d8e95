"""Chooses how much of a conversation the LLM is sent. Pure functions."""

from __future__ import annotations

import json

Turn = tuple[str, str]
"""A message as (role, content)."""


def newest(history: list[Turn], question: str, limit: int) -> list[Turn]:
    """The newest `limit` messages, the question counted and last, never beginning with a reply."""
    window = [*history, ("user", question)][-limit:]
    return _from_question(window)


def halved(window: list[Turn]) -> list[Turn]:
    """The window without its older half, for an LLM that says it is too long; always shorter.

    Not to be asked of a window of one: the question itself cannot be dropped.
    """
    return _from_question(window[len(window) // 2 :])


def _from_question(window: list[Turn]) -> list[Turn]:
    # Chat templates of many models refuse a conversation that begins with the assistant.
    start = 0
    while window[start][0] == "assistant":
        start += 1
    return window[start:] if start else window


_encode = json.JSONEncoder(ensure_ascii=False).encode


def as_messages(system_prompt: str | None, window: list[Turn]) -> str:
    """The `messages` of a chat-completions request, as JSON."""
    head = [("system", system_prompt)] if system_prompt else []
    objects = [f'{{"role":"{role}","content":{_encode(content)}}}' for role, content in head + window]
    return f"[{','.join(objects)}]"
