"""Reads the tool calls of a reply, in pieces, whole or several at once, in any known format. No I/O."""

from __future__ import annotations

import json
import secrets
from typing import Any

from chatbot.llm.json_text import stored_text, valid
from chatbot.records import CALL, CallHead, Piece, as_json

_ARGUMENTS = ("arguments", "parameters", "input")


class CallReader:
    """Reads the calls of one reply. A call without an id, or with the id of another call, gets a new id."""

    def __init__(self) -> None:
        self._calls: list[_Call] = []
        self._newest: dict[int | str, _Call] = {}  # by the LLM's index, and by its id
        self._ids: set[str] = set()  # of the calls that have begun

    def read(self, delta: dict[str, Any]) -> list[Piece]:
        """Returns the pieces of calls in a delta."""
        entries = delta.get("tool_calls")
        if not entries and (function := delta.get("function_call")):
            entries = {"index": 0, "function": function}
        if isinstance(entries, dict):
            entries = [entries]
        if not isinstance(entries, list):
            return []
        return [piece for entry in entries if isinstance(entry, dict) for piece in self._read_entry(entry)]

    def _read_entry(self, entry: dict[str, Any]) -> list[Piece]:
        function = entry.get("function") or entry.get("custom")
        function = function if isinstance(function, dict) else entry
        name, given = (
            valid(text) if isinstance(text, str) else "" for text in (function.get("name"), entry.get("id"))
        )
        arguments = next((function[field] for field in _ARGUMENTS if field in function), None)
        text = arguments if isinstance(arguments, str) else "" if arguments is None else as_json(arguments)
        index = entry.get("index")
        if isinstance(index, str) and index.isdecimal():
            index = int(index[:9])
        call = self._find(index, given, name)
        if call is None:
            if not (name or given):
                return []  # it belongs to no call
            call = _Call(len(self._calls), given)
            self._calls.append(call)
            if isinstance(index, int):
                self._newest[index] = call
            if given:
                self._newest[given] = call
        said = call.joined() if len(text) >= call.size > 0 and "custom" not in entry else ""
        if said.startswith("{") and text.startswith(said):  # no JSON begins with "{" twice
            text = text[call.size :]  # Qianfan repeats all so far in each piece, GLM at the end
        call.arguments.append(text)
        call.size += len(text)
        if call.has_begun:
            return [Piece(CALL, text, call.number)]
        if not name:
            return []  # the call begins when its name arrives
        call.has_begun = True
        if not call.given or call.given in self._ids:
            call.id = f"call_{secrets.token_hex(12)}"
        self._ids.add(call.id)
        extra = entry.get("extra_content")
        head = CallHead(call.id, name, extra if stored_text(extra, most=1024 * 1024) else None)
        return [Piece(CALL, "", call.number, head), Piece(CALL, call.joined(), call.number)]

    def _find(self, index: Any, given: str, name: str) -> _Call | None:
        """Returns the call that an entry continues; None if it begins a new call."""
        known = self._newest.get(index if isinstance(index, int) else given)
        if known is None and not given and not (name and isinstance(index, int)):
            known = self._calls[-1] if self._calls else None  # the call continues under a new index
        if known is None or not known.has_begun or not name or (given and given == known.given):
            return known  # Poolside sends later pieces with another id, but without a name
        # Gemini sends several calls with the index 0; other LLMs repeat the name with each piece of a call.
        return None if (given and known.given) or known.is_whole() else known


class _Call:
    """A call that has arrived so far. `given` is the id that the LLM gave it, `id` is the id that we use."""

    def __init__(self, number: int, given: str) -> None:
        self.number = number
        self.given = self.id = given
        self.arguments: list[str] = []
        self.size = 0  # of all arguments, in characters
        self.has_begun = False

    def joined(self) -> str:
        """Returns the arguments so far. They are joined only here, because few calls need it."""
        self.arguments = ["".join(self.arguments)]
        return self.arguments[0]

    def is_whole(self) -> bool:
        """Whether the arguments are complete JSON. To save time, few incomplete ones are parsed."""
        text = self.joined()
        if text.lstrip()[:1] == "{" and not text.rstrip().endswith("}"):
            return False
        try:
            json.loads(text)
        except (ValueError, RecursionError):
            return False
        return True
