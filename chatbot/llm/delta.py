"""Takes apart what a chunk or a whole answer adds to the reply, in whatever shape it is written. No I/O."""

from __future__ import annotations

import json
import secrets
from typing import Any

from chatbot.llm.json_text import valid
from chatbot.records import CALL, REASONING, REFUSAL, TEXT, CallHead, Piece, as_json

REASONING_FIELDS = (
    "reasoning_content",  # DeepSeek, vLLM, SGLang, llama-server, Zhipu, Moonshot; it is our name for it, too
    "reasoning",  # OpenRouter, Ollama, Groq, newer vLLM
    "thinking",
    "thought",
    "reasoning_text",  # Copilot
    "thinking_content",
    "reasoning_details",  # OpenRouter and MiniMax, beside `reasoning` or alone
    "thinking_blocks",  # LiteLLM, beside `reasoning_content`
)
OUR_FIELDS = frozenset({*REASONING_FIELDS, "content", "refusal", "tool_calls", "function_call"})

_THOUGHTS = ("thinking", "reasoning", "thought", "reasoning.text", "reasoning.summary", "redacted_thinking")
_MAX_DEPTH = 16


def parts(value: Any, kind: str = TEXT, depth: int = 0) -> list[tuple[str, str]]:
    """The texts in a content of any shape, each with its kind: a string, parts, parts in parts."""
    if isinstance(value, str):
        return [(kind, value)] if value else []
    if isinstance(value, list) and depth < _MAX_DEPTH:
        return [found for part in value for found in parts(part, kind, depth + 1)]
    if not isinstance(value, dict) or depth >= _MAX_DEPTH:
        return []
    named = value.get("type")
    if named in _THOUGHTS or value.get("thought") is True:  # the last is Gemini's
        kind = REASONING
    elif named == "refusal":
        kind = REFUSAL
    names = (
        "text",
        "output_text",
        "thinking",
        "reasoning",
        "refusal",
        "content",
        "parts",
        "summary",
        "value",
    )
    for name in names:
        if inner := value.get(name):
            other = {"thinking": REASONING, "reasoning": REASONING, "refusal": REFUSAL}.get(name, kind)
            return parts(inner, other, depth + 1)
    return []


def reasoning_in(delta: dict[str, Any]) -> tuple[str, str]:
    """The reasoning in a delta and the field that it stands in: the first of its names that holds any."""
    for name in REASONING_FIELDS:
        if value := delta.get(name):
            found = parts(value, REASONING)
            if text := "".join(text for _, text in found):
                return text, name if isinstance(value, str) else ""
    return "", ""


class CallReader:
    """Reads the tool calls of one reply, which come in pieces, whole, or several at once.

    Calls without an id, or with another's, are given one of their own.
    """

    def __init__(self) -> None:
        self._calls: list[_Call] = []
        self._last: _Call | None = None  # the one that goes on where nothing says which

    def read(self, delta: dict[str, Any]) -> tuple[list[Piece], bool]:
        """The pieces of calls in a delta, and whether they stand there just as we would write them."""
        entries = delta.get("tool_calls")
        as_it_came = True
        if legacy := delta.get("function_call"):
            entries, as_it_came = [{"index": 0, "function": legacy}], False
        if isinstance(entries, dict):
            entries, as_it_came = [entries], False
        pieces: list[Piece] = []
        for entry in entries if isinstance(entries, list) else ():
            if isinstance(entry, dict):
                found, is_ours = self._read_entry(entry)
                pieces += found
                as_it_came = as_it_came and is_ours
        return pieces, as_it_came

    def _read_entry(self, entry: dict[str, Any]) -> tuple[list[Piece], bool]:
        function = entry.get("function")
        if not isinstance(function, dict):
            function = entry
        index = entry.get("index")
        name, given = _text(function.get("name")), _text(entry.get("id"))
        arguments = function.get("arguments", function.get("parameters"))
        text = arguments if isinstance(arguments, str) else "" if arguments is None else as_json(arguments)
        call = self._find(index, given, name)
        is_ours = arguments is None or isinstance(arguments, str)
        is_ours = is_ours and name == (function.get("name") or "") and given == (entry.get("id") or "")
        if call is None:
            if not (name or given):
                return [], False  # a piece of nothing
            call = _Call(len(self._calls), index, given)
            self._calls.append(call)
        self._last = call
        is_ours = is_ours and index == call.number and function is not entry
        if call.has_begun:
            call.arguments.append(text)
            return [Piece(CALL, text, call.number)] if text else [], is_ours
        call.arguments.append(text)
        if not name:  # it begins when its name comes
            return [], False
        call.has_begun = True
        if not given or any(other.id == given for other in self._calls if other is not call):
            call.id, is_ours = f"call_{secrets.token_hex(12)}", False
        said = "".join(call.arguments)
        pieces = [Piece(CALL, "", call.number, CallHead(call.id, name))]
        return pieces + ([Piece(CALL, said, call.number)] if said else []), is_ours and said == text

    def _find(self, index: Any, given: str, name: str) -> _Call | None:
        """The call that goes on here; None if another begins."""
        if isinstance(index, int):
            known = next((call for call in reversed(self._calls) if call.index == index), None)
        elif given:
            known = next((call for call in self._calls if call.given == given), None)
        else:
            known = self._last
        if known is None or not known.has_begun:
            return known
        if given and known.given and given != known.given:
            return None  # Gemini gives each of several calls the index 0
        if name and (not given or given != known.given) and known.is_complete:
            return None
        return known


def _text(value: Any) -> str:
    return valid(value) if isinstance(value, str) else ""


class _Call:
    """A call as far as it has come; `given` is the LLM's id of it, `id` ours."""

    def __init__(self, number: int, index: Any, given: str) -> None:
        self.number = number
        self.index = index
        self.given = self.id = given
        self.arguments: list[str] = []
        self.has_begun = False

    @property
    def is_complete(self) -> bool:
        """Whether its arguments are whole: what follows belongs to another call."""
        try:
            json.loads("".join(self.arguments))
        except (ValueError, RecursionError):
            return False
        return True
