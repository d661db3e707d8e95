"""What the LLM is sent of a conversation: whole turns, the newest, and the new question. Pure functions.

A turn is a question and its reply, stored together or not at all. So what begins with a turn begins with a
question, as the chat templates of many models demand.
"""

from __future__ import annotations


def turns_within(limit: int) -> int:
    """How many turns may go along with a question, `limit` messages in all."""
    return (limit - 1) // 2


def messages(prompt: str, history: str, question: str) -> str:
    """The `messages` of a chat-completions request, as JSON, like all that it is made of.

    The `history` is what the store has of it.
    """
    parts = [f'{{"role":"system","content":{prompt}}}'] if prompt else []
    if history:
        parts.append(history)
    parts.append(f'{{"role":"user","content":{question}}}')
    return f"[{','.join(parts)}]"


def count_turns(history: str) -> int:
    """How many turns there are in a history, as the store writes it: a quote within a text is escaped."""
    return history.count('{"role":"user"')
