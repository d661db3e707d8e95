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
_TEXT_FIELDS = (
    *("text", "output_text", "thinking", "reasoning", "refusal", "content", "parts", "summary", "value"),
)
_ARGUMENTS = ("arguments", "parameters", "input")
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
    for name in _TEXT_FIELDS:
        if inner := value.get(name):
            other = {"thinking": REASONING, "reasoning": REASONING, "refusal": REFUSAL}.get(name, kind)
            return parts(inner, other, depth + 1)
    return []


def reasoning_in(delta: dict[str, Any]) -> tuple[str, str]:
    """The reasoning in a delta and the field that it stands in: the first of its names that holds any."""
    if delta.keys().isdisjoint(REASONING_FIELDS):
        return "", ""
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

    def read(self, delta: dict[str, Any]) -> tuple[list[Piece], bool]:
        """The pieces of calls in a delta, and whether they stand there just as we would write them."""
        entries = delta.get("tool_calls")
        can_pass_on = not delta.get("function_call") and not isinstance(entries, dict)
        if not can_pass_on:
            entries = [entries or {"index": 0, "function": delta["function_call"]}]
        pieces: list[Piece] = []
        for entry in entries if isinstance(entries, list) else ():
            if isinstance(entry, dict):
                found, as_it_came = self._read_entry(entry)
                pieces += found
                can_pass_on = can_pass_on and as_it_came
        return pieces, can_pass_on

    def _read_entry(self, entry: dict[str, Any]) -> tuple[list[Piece], bool]:
        function = entry.get("function") or entry.get("custom")
        can_pass_on = isinstance(entry.get("function"), dict)
        function = function if isinstance(function, dict) else entry
        name, given = (
            valid(text) if isinstance(text, str) else "" for text in (function.get("name"), entry.get("id"))
        )
        arguments = next((function[name] for name in _ARGUMENTS if name in function), None)
        text = arguments if isinstance(arguments, str) else "" if arguments is None else as_json(arguments)
        index = entry.get("index")
        if isinstance(index, str) and index.isdecimal():
            index = int(index[:9])
        call = self._find(index, given, name)
        if call is None:
            if not (name or given):
                return [], False  # a piece of nothing
            call = _Call(len(self._calls), index, given)
            self._calls.append(call)
        call.arguments.append(text)
        as_given = (function.get("name") or "", entry.get("id") or "", arguments or "", entry.get("index"))
        can_pass_on = can_pass_on and as_given == (name, given, text, call.number)
        if not call.has_begun:
            if not name:
                return [], False  # it begins when its name comes
            call.has_begun = True
            if not given or any(other.id == given for other in self._calls if other is not call):
                call.id, can_pass_on = f"call_{secrets.token_hex(12)}", False
            can_pass_on, text = can_pass_on and len(call.arguments) == 1, "".join(call.arguments)
            pieces = [Piece(CALL, "", call.number, CallHead(call.id, name)), Piece(CALL, text, call.number)]
        else:
            pieces = [Piece(CALL, text, call.number)]
        return [piece for piece in pieces if piece.length], can_pass_on

    def _find(self, index: Any, given: str, name: str) -> _Call | None:
        """The call that goes on here; None if another begins."""
        if isinstance(index, int):
            same = [call for call in self._calls if call.index == index]
        else:
            same = [call for call in self._calls if call.given == given] if given else self._calls
        known = same[-1] if same else None
        if known is None or not known.has_begun:
            return known
        if given and known.given and given != known.given:
            return None  # Gemini gives each of several calls the index 0
        if name and (not given or given != known.given):
            try:
                json.loads("".join(known.arguments))
                return None  # the last is whole: a name begins another
            except (ValueError, RecursionError):
                pass
        return known


class _Call:
    """A call as far as it has come; `given` is the LLM's id of it, `id` ours."""

    def __init__(self, number: int, index: Any, given: str) -> None:
        self.number = number
        self.index = index
        self.given = self.id = given
        self.arguments: list[str] = []
        self.has_begun = False
