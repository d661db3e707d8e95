"""Finds the parent and the messages of a question that replaces another, or that gives outputs of tools."""

from __future__ import annotations

from collections.abc import Iterable

from chatbot.chat.history import find_message
from chatbot.chat.turn_messages import is_nothing, open_calls
from chatbot.errors import ChatError
from chatbot.ids import MAX_INPUT_MESSAGES
from chatbot.records import DELETED, Turn, as_json
from chatbot.storage.store import Store


def in_place_of(
    store: Store, session_id: str, message_id: str, said: tuple[str, ...] | None
) -> tuple[int | None, tuple[str, ...]]:
    """The parent and the new messages of a question that is asked in place of a message's turn.

    If nothing is `said`, the same is asked again. Raises ChatError: message_not_found, invalid_request.
    """
    turn, _ = find_message(store, session_id, message_id, "replace")
    again = tuple(message for message in turn.messages if message != DELETED)
    if not said and not again and is_nothing(store.path_up(turn.parent)):
        message = "Of that turn's question nothing is left that could be asked again."
        raise ChatError("invalid_request", message, "replace")
    return turn.parent, said or again or (DELETED,)


def tool_messages(path: Iterable[Turn], outputs: Iterable[tuple[str, object]]) -> tuple[str, ...]:
    """The messages for outputs of tools, which are given as (tool_call_id, output).

    The calls must be of the newest turn on the upward `path` that is not empty. Raises ChatError if a call is
    not of this turn, was cut or is answered twice, or if there are too many outputs.
    """
    turn = next((turn for turn in path if not is_nothing([turn])), None)
    waiting = set(open_calls(turn) if turn else ())
    messages = []
    for call_id, output in outputs:
        if call_id not in waiting:
            message = f"The last reply made no call {call_id!r}, or it was cut, or its output is given twice."
            raise ChatError("invalid_request", message, "tool_outputs")
        waiting.remove(call_id)
        messages.append(as_json({"role": "tool", "tool_call_id": call_id, "content": output}))
    if len(messages) > MAX_INPUT_MESSAGES:
        raise ChatError(
            "invalid_request", f"There are more than {MAX_INPUT_MESSAGES} outputs.", "tool_outputs"
        )
    return tuple(messages)
