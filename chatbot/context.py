"""Chooses how much of a conversation the LLM is sent. Pure functions."""

from __future__ import annotations

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


def as_messages(system_prompt: str | None, window: list[Turn]) -> list[dict[str, str]]:
    """The `messages` of a chat-completions request."""
    head = [("system", system_prompt)] if system_prompt else []
    return [{"role": role, "content": content} for role, content in head + window]
