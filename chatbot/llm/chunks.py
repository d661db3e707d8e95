"""Understands an LLM's chunks in order: what each adds to the reply, how it ends, what it cost. No I/O.

A chunk is passed on as the bytes that came, unless it was understood otherwise. A finish_reason is no end
before it is known that nothing follows: its chunk is held, and goes out without it if something does.
"""

from __future__ import annotations

import re
from typing import Any

from chatbot.errors import ChatError
from chatbot.llm import errors, too_long
from chatbot.llm.delta import OUR_FIELDS, CallReader, parts, reasoning_in
from chatbot.llm.fast_path import FastPath
from chatbot.llm.json_text import dump, one_line, parse, usage_text, valid
from chatbot.llm.think_tags import ThinkTags
from chatbot.records import CALL, REASONING, REFUSAL, TEXT, Chunk, Piece

MAX_HELD = 64
"""How many chunks that say nothing are kept after a finish_reason."""

_CUT_FINISHES = re.compile(r"length|content.?filter|max_tokens|context_window|safety|sensitive|prohibit", re.I)
"""The finish_reasons with which an answer may well have no text."""

_FAILED_FINISHES = re.compile(
    # OpenRouter, vLLM, Zhipu, Moonshot, DeepSeek's insufficient_system_resource, Gemini's MALFORMED_…, Cohere
    r"error|abort|overload|network|fail|time_?out|crash|unavailable|insufficient|exception|disconnect|malformed"
    r"|cancel|interrupt|preempt",
    re.I,
)


class ChunkReader:
    """Reads the chunks of one answer in order.

    `finish_reason` and `usage` (JSON text, as it is stored) are None until the LLM has said them; `is_done`
    is whether it said [DONE]. For a relay, `keep` is what is passed on as it came: "stream" all chunks, "whole"
    an answer in one piece, too.
    """

    def __init__(self, *, keep: str = "", context_size: int | None = None) -> None:
        self.model = ""
        self.finish_reason: str | None = None
        self.usage: str | None = None
        self.is_done = False
        self.kinds: set[str] = set()
        self.is_doubtful = False
        """Whether this LLM says a finish_reason early: only a proper end shows that it means it."""
        self._keep = keep
        self._context_size = context_size
        self._spent: dict[str, Any] = {}
        self._has_begun = False
        self._held: list[Chunk] = []
        self._held_object: dict[str, Any] = {}
        self._tags = ThinkTags()
        self._calls = CallReader()
        self._halves: dict[str, str] = {}  # by kind, first halves of surrogate pairs
        self._text_length = 0  # of what came as deltas
        self._fast = FastPath()

    def recognise(self, data: bytes) -> Chunk | None:
        """Reads the data of one event if it is plain text like the last; None if it must be read()."""
        return self._fast.recognise(data) if not self._held and not self._halves else None

    def read(self, data: bytes) -> list[Chunk]:
        """Reads the data of one event. Raises ChatError when the LLM reports an error or it is no chunk."""
        if chunk := self.recognise(data):
            return [chunk]
        if data.strip() in (b"", b"[DONE]"):
            self.is_done = self.is_done or bool(data.strip())
            return []
        try:
            chunk = parse(data)
        except ValueError:
            raise _nonsense(data) from None
        return self._read_object(chunk, data, is_whole=False)

    def read_whole(self, data: bytes) -> list[Chunk]:
        """Reads an answer that came in one piece (or as JSON lines, which is a stream in disguise)."""
        try:
            completion = parse(data)
        except ValueError:
            lines = [line for line in data.splitlines() if line.strip()]
            if len(lines) < 2 or not lines[0].startswith(b"{"):
                raise _nonsense(data) from None
            return [chunk for line in lines for chunk in self.read(line)]
        chunks = self._read_object(completion, data, is_whole=True)
        if not self.finish_reason and not self._keep:
            raise _nonsense(data)
        return chunks

    def _read_object(self, chunk: Any, data: bytes, *, is_whole: bool) -> list[Chunk]:
        if failure := errors.failure_in(chunk):
            raise failure.to_error()
        if not isinstance(chunk, dict):
            raise _nonsense(data)
        self._has_begun = True
        choice, is_plain = _first_choice(chunk)
        self._note(chunk, choice)
        finish = _finish_reason(choice)
        if finish and _FAILED_FINISHES.search(finish):
            raise errors.ours("finish", finish, errors.words_of(choice.get("error")) or "no reason given")
        added, is_ours = self._pieces(choice, last=bool(finish))
        if self._keep == "whole" or ((self._keep or (is_ours and is_plain)) and not is_whole):
            read = Chunk(one_line(data), added)
            if added and not finish:
                self._fast.study(read)
        else:
            chunk = _rebuilt(chunk, choice, added)
            read = Chunk(dump(chunk), added)
        return self._hold(read, chunk, finish)

    # How it ends

    def _hold(self, read: Chunk, chunk: dict[str, Any], finish: str | None) -> list[Chunk]:
        """Keeps a chunk that may be the last, and what says nothing after it; returns what may go out."""
        out: list[Chunk] = []
        if read.pieces and self.finish_reason:
            out, self._held = self._held, []
            if out:
                out[0] = Chunk(dump(_with_finish(self._held_object, None)), out[0].pieces)
            self.finish_reason, self.is_doubtful = None, True
        if finish:
            self.is_doubtful = self.is_doubtful or not self.kinds
            self.finish_reason = finish
        self.kinds |= {piece.kind for piece in read.pieces}
        if self._keep or not (self._held or finish):
            return [*out, read]
        if not self._held:
            self._held_object = chunk
        if len(self._held) < MAX_HELD:
            self._held.append(read)
        return out

    def spoken(self) -> list[Chunk]:
        """Nothing more is known for now: returns the text of a held chunk, which need not wait with it."""
        if not self._held or not self._held[0].pieces:
            return []
        pieces, last = self._held[0].pieces, self._held_object
        first = _with_finish({key: value for key, value in last.items() if key != "usage"}, None)
        self._held_object = _with_delta(last, {})
        self._held[0] = Chunk(dump(self._held_object))
        return [Chunk(dump(first), pieces)]

    def end(self, *, is_cut: bool) -> list[Chunk]:
        """The answer has ended: returns the chunks that were held. Raises ChatError if it is not whole.

        `is_cut` is whether the connection broke.
        """
        if not self.finish_reason or (is_cut and self.is_doubtful):
            if not self._has_begun and not self.is_done:
                # llama-cpp-python answers a conversation that is too long with a stream of nothing at all.
                raise errors.empty_stream()
            raise errors.ours("cut" if is_cut else "early")
        if not self._keep and not self.kinds & {TEXT, REFUSAL, CALL}:
            if too_long.is_full(self._spent, self.finish_reason, self._context_size):
                raise errors.full_context()
            if not (REASONING in self.kinds and _CUT_FINISHES.search(self.finish_reason)):
                is_filtered = re.search("filter|safety", self.finish_reason, re.I)
                raise errors.ours("filtered" if is_filtered else "empty", self.finish_reason)
        held, self._held = self._held, []
        return held

    @property
    def may_end_soon(self) -> bool:
        """Whether all that was due has come, but for [DONE] or the end of the body."""
        return bool(self._held and self.usage and self.kinds and not self.is_doubtful)

    def _note(self, chunk: dict[str, Any], choice: dict[str, Any]) -> None:
        """Remembers the model and the usage, if they stand here."""
        groq = chunk.get("x_groq")
        for place in (chunk, choice, groq, choice.get("delta"), choice.get("message")):
            usage = place.get("usage") if isinstance(place, dict) else None
            if isinstance(usage, dict) and usage:
                self._spent = usage
                self.usage = usage_text(usage) or self.usage
                break
        if not self.model and isinstance(model := chunk.get("model"), str):
            self.model = valid(model[:256])

    # What it adds

    def _pieces(self, choice: dict[str, Any], *, last: bool) -> tuple[tuple[Piece, ...], bool]:
        """What a choice adds to the reply, and whether it stands there just as we would write it."""
        given, message = choice.get("delta"), choice.get("message")
        delta: dict[str, Any]
        if isinstance(given, dict) and (given or not isinstance(message, dict)):
            delta, is_ours = given, True
        elif isinstance(message, dict):
            delta, is_ours = message, False
        else:
            delta = {"content": given or choice.get("text")}
            is_ours = not delta["content"]
        texts = parts(delta.get("content"))
        if not is_ours and 0 < self._text_length == sum(len(text) for _, text in texts):
            texts = []  # MiniMax repeats the whole at the end
        said = {kind: "".join(text for k, text in texts if k == kind) for kind in (REASONING, TEXT, REFUSAL)}
        thoughts, field = reasoning_in(delta)
        refused = "".join(text for _, text in parts(delta.get("refusal"), REFUSAL))
        thought, text = self._tags.feed(self._whole(TEXT, said[TEXT], last))
        if last:
            more = self._tags.flush()
            thought, text = thought + more[0], text + more[1]
        thoughts = self._whole(REASONING, thoughts + said[REASONING], last) + thought
        refused = self._whole(REFUSAL, said[REFUSAL] + refused, last)
        calls, calls_are_ours = self._calls.read(delta)
        if choice.get("message") is not delta:
            self._text_length += len(text)
        calls = [call._replace(text=self._whole(f"{CALL} {call.call}", call.text, last)) for call in calls]
        is_ours = (
            is_ours
            and calls_are_ours
            and _same(delta.get("content"), text)
            and _same(delta.get("refusal"), refused)
            and (_same(delta[field], thoughts) if field == "reasoning_content" else not thoughts and not field)
        )
        pieces = [Piece(REASONING, thoughts), Piece(TEXT, text), Piece(REFUSAL, refused), *calls]
        return tuple(piece for piece in pieces if piece.length), is_ours

    def _whole(self, kind: str, text: str, last: bool) -> str:
        """`text` with a surrogate pair joined that began in the chunk before; a lone half is replaced.

        A first half at the end waits for the next chunk, so that every chunk is valid Unicode.
        """
        if kind not in self._halves and (text.isascii() or not text):
            return text
        text = self._halves.pop(kind, "") + text
        if not last and text and "\ud800" <= text[-1] <= "\udbff":
            text, self._halves[kind] = text[:-1], text[-1]
        return valid(text)


def _nonsense(data: bytes) -> ChatError:
    return errors.ours("nonsense", errors.words_of(data[:4096].decode("utf-8", "replace"))[:200] or "nothing")


def _same(content: Any, text: str) -> bool:
    return content == text or (not text and content is None)


def _first_choice(chunk: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """The choice with the index 0, and whether it is the only one."""
    choices = chunk.get("choices")
    if isinstance(choices, dict) and choices:
        return choices, False
    found = [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []
    first = next((choice for choice in found if not choice.get("index")), None)
    return first or {}, not found or (first is not None and len(found) == 1)


def _finish_reason(choice: dict[str, Any]) -> str | None:
    reason = choice.get("finish_reason")
    if not isinstance(reason, str) or reason.lower() in ("", "null", "none"):
        return None
    return valid(reason[:64])


def _rebuilt(chunk: dict[str, Any], choice: dict[str, Any], pieces: tuple[Piece, ...]) -> dict[str, Any]:
    """The chunk as we would write it."""
    if not choice:
        return chunk | {"choices": []}
    delta = choice.get("delta") or choice.get("message")
    kept = {k: v for k, v in delta.items() if k not in OUR_FIELDS} if isinstance(delta, dict) else {}
    names = {REASONING: "reasoning_content", TEXT: "content", REFUSAL: "refusal"}
    kept |= {names[piece.kind]: piece.text for piece in pieces if piece.kind in names}
    calls: dict[int, dict[str, Any]] = {}
    for piece in pieces:
        if piece.kind == CALL:
            call = calls.setdefault(piece.call, {"index": piece.call, "function": {"arguments": ""}})
            if piece.head:
                call |= {"id": piece.head.id, "type": "function"}
                call["function"]["name"] = piece.head.name
            call["function"]["arguments"] += piece.text
    if calls:
        kept["tool_calls"] = list(calls.values())
    choice = {k: v for k, v in choice.items() if k not in ("message", "text")} | {"index": 0, "delta": kept}
    return chunk | {"object": "chat.completion.chunk", "choices": [{"finish_reason": None} | choice]}


def _with_finish(chunk: dict[str, Any], finish: str | None) -> dict[str, Any]:
    choice, _ = _first_choice(chunk)
    return chunk | {"choices": [choice | {"finish_reason": finish}]}


def _with_delta(chunk: dict[str, Any], delta: dict[str, Any]) -> dict[str, Any]:
    choice, _ = _first_choice(chunk)
    return chunk | {"choices": [choice | {"delta": delta}]}
