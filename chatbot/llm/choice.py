"""Reads what one chunk adds to the reply, in any known format, and writes it in our format. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from chatbot.llm.calls import CallReader
from chatbot.llm.json_text import dump, valid
from chatbot.llm.think_tags import ThinkTags
from chatbot.records import CALL, FIELDS, REASONING, REFUSAL, TEXT, Piece

_REASONING_FIELDS = (
    "reasoning_content",  # DeepSeek, vLLM, SGLang, llama-server, Zhipu, Moonshot; also our own name
    "reasoning",  # OpenRouter, Ollama, Groq, newer vLLM
    "thinking",
    "thought",
    "reasoning_text",  # Copilot
    "thinking_content",
    "reasoning_details",  # OpenRouter and MiniMax, beside `reasoning` or alone
    "thinking_blocks",  # LiteLLM, beside `reasoning_content`
)
_WRITTEN = (*FIELDS.values(), "tool_calls", "function_call")
_OUR_FIELDS = frozenset({*_REASONING_FIELDS, *_WRITTEN})

_THOUGHTS = ("thinking", "reasoning", "thought", "reasoning.text", "reasoning.summary", "redacted_thinking")
_TEXT_FIELDS = {  # the fields of a part; with a kind if the field sets the kind of its text
    **dict.fromkeys(("text", "output_text", "content", "parts", "summary", "value")),
    "thinking": REASONING,
    "reasoning": REASONING,
    "refusal": REFUSAL,
}
_MAX_DEPTH = 16


class ChoiceReader:
    """Reads the choices of one answer's chunks in order.

    Half of a surrogate pair, and text that may be a part of a tag, wait for the next chunk. `came` has the
    kinds of the pieces so far.
    """

    def __init__(self) -> None:
        self._tags = ThinkTags()
        self._calls = CallReader()
        self._halves: dict[str, str] = {}  # the waiting first half of a surrogate pair, by kind
        self._has_thoughts = False  # whether a field of its own had reasoning
        self.came: set[str] = set()

    def read(self, choice: dict[str, Any], *, is_last: bool, is_whole: bool) -> tuple[list[Piece], bool]:
        """Returns what a choice adds to the reply, and whether we would write its delta in the same way."""
        delta, is_message = _delta_of(choice)
        thoughts = _reasoning_in(delta)
        self._has_thoughts = self._has_thoughts or bool(thoughts)
        found: dict[str, list[str]] = {REASONING: [thoughts], TEXT: [], REFUSAL: []}
        for kind, text in (*_parts(delta.get("content")), *_parts(delta.get("refusal"), REFUSAL)):
            found[kind].append(text)
        texts = {kind: self._whole(kind, "".join(parts), is_last) for kind, parts in found.items()}
        tagged, texts[TEXT] = self._tags.feed(texts[TEXT], is_last=is_last)
        texts[REASONING] += "" if self._has_thoughts else tagged  # MiniMax repeats its reasoning in tags
        pieces = [Piece(kind, text) for kind, text in texts.items() if text]
        for call in self._calls.read(delta):
            piece = call._replace(text=self._whole(f"call {call.call}", call.text, is_last))
            if piece.length:
                pieces.append(piece)
        stands = {name: value for name in _WRITTEN if (value := delta.get(name))}
        as_it_came = not is_message and stands == _fields(pieces)
        if is_message and is_whole:  # MiniMax repeats the whole answer at the end
            pieces = [piece for piece in pieces if piece.kind not in self.came]
        self.came.update([piece.kind for piece in pieces])
        return pieces, as_it_came

    def _whole(self, kind: str, text: str, is_last: bool) -> str:
        """Returns `text` after the first half of a surrogate pair that waited; replaces a lone half.

        A first half at the end of `text` waits for the next chunk, so that every chunk is valid Unicode.
        """
        if kind not in self._halves and (text.isascii() or not text):
            return text
        text = self._halves.pop(kind, "") + text
        if not is_last and text and "\ud800" <= text[-1] <= "\udbff":
            text, self._halves[kind] = text[:-1], text[-1]
        return valid(text)


def first_choice(chunk: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """Returns the choice with the index 0, and whether it is the only one, in the standard format."""
    choices = chunk.get("choices")
    if not choices:
        return {}, True
    if isinstance(choices, dict):
        return choices, False
    found = [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []
    first = next((choice for choice in found if str(choice.get("index") or 0) == "0"), None)
    is_plain = first is not None and len(found) == 1 and not isinstance(first.get("index"), str)
    return first or {}, not found or is_plain


def _delta_of(choice: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """Returns what a choice adds, and whether that was not in its `delta`."""
    delta, message = choice.get("delta"), choice.get("message")
    if not delta and isinstance(message, dict):
        return message, True
    if isinstance(delta, dict):
        return delta, False
    text = delta or choice.get("text")  # as in the older completions API
    return {"content": text}, bool(text)


def is_standard(chunk: dict[str, Any]) -> bool:
    """Whether a chunk has the standard format of the API, the only one that a relay's clients read."""
    choices = chunk.get("choices") or []
    return isinstance(choices, list) and all(map(_is_standard, choices))


def _is_standard(choice: Any) -> bool:
    delta = choice.get("delta") if isinstance(choice, dict) else None
    if not isinstance(delta, dict) or not isinstance(choice.get("index") or 0, int):
        return False
    calls = delta.get("tool_calls") or []
    are_calls = isinstance(calls, list) and all(isinstance(call, dict) for call in calls)
    return are_calls and bool(delta or not choice.get("message"))


def rewritten(chunk: dict[str, Any], pieces: Sequence[Piece], finish: str | None) -> bytes:
    """Returns the chunk as we would write it, with these pieces and this finish_reason."""
    choice, _ = first_choice(chunk)
    if not choice:
        return dump(chunk | {"choices": []})
    delta = choice.get("delta") or choice.get("message")
    kept = {k: v for k, v in delta.items() if k not in _OUR_FIELDS} if isinstance(delta, dict) else {}
    rest = {k: v for k, v in choice.items() if k not in ("message", "text")}
    choices = [rest | {"index": 0, "delta": kept | _fields(pieces), "finish_reason": finish}]
    return dump(chunk | {"object": "chat.completion.chunk", "choices": choices})


def _fields(pieces: Sequence[Piece]) -> dict[str, Any]:
    """Returns the fields of a delta that adds these pieces, as we write them."""
    fields: dict[str, Any] = {}
    calls: dict[int, dict[str, Any]] = {}
    arguments: dict[int, list[str]] = {}
    for piece in pieces:
        if piece.kind != CALL:
            fields[FIELDS[piece.kind]] = piece.text
        elif piece.call in calls:
            arguments[piece.call].append(piece.text)
        else:
            begun = piece.head.to_call("") if piece.head else {"function": {}}
            calls[piece.call], arguments[piece.call] = {"index": piece.call} | begun, [piece.text]
    for number, call in calls.items():
        call["function"]["arguments"] = "".join(arguments[number])
    if calls:
        fields["tool_calls"] = list(calls.values())
    return fields


def _parts(value: Any, kind: str = TEXT, depth: int = 0) -> list[tuple[str, str]]:
    """Returns (kind, text) of each text in a content: a string, parts, or parts in parts."""
    if isinstance(value, str):
        return [(kind, value)] if value else []
    if isinstance(value, list) and depth < _MAX_DEPTH:
        return [found for part in value for found in _parts(part, kind, depth + 1)]
    if not isinstance(value, dict) or depth >= _MAX_DEPTH:
        return []
    named = value.get("type")
    if named in _THOUGHTS or value.get("thought") is True:  # `thought` is Gemini's
        kind = REASONING
    for name, other in _TEXT_FIELDS.items():
        if inner := value.get(name):
            return _parts(inner, other or kind, depth + 1)
    return []


def _reasoning_in(delta: dict[str, Any]) -> str:
    """Returns the reasoning in a delta, from the first field that has any."""
    if delta.keys().isdisjoint(_REASONING_FIELDS):
        return ""
    for name in _REASONING_FIELDS:
        if text := "".join(text for _, text in _parts(delta.get(name), REASONING)):
            return text
    return ""
