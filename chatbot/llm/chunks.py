"""Understands an LLM's chunks in order: what each adds to the reply, how it ends, what it cost. No I/O.

A chunk is passed on byte for byte if we would write it in the same way; else it is rewritten. A chunk with a
finish_reason is held until the stream ends, because some LLMs send text after it. It goes out without its
finish_reason if text follows: of "Hel" + stop, "lo" + stop clients are sent "Hel", then "lo" + stop.
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
from chatbot.records import CALL, CUT, FIELDS, FILTERED, REASONING, REFUSAL, TEXT, Chunk, Piece

MAX_HELD = 64
"""How many chunks that say nothing are kept after a finish_reason."""

_FAILED_FINISHES = re.compile(
    # OpenRouter, vLLM, Zhipu, Moonshot, DeepSeek's insufficient_system_resource, Gemini's MALFORMED_…, Cohere
    r"error|abort|overload|network|fail|time_?out|crash|unavailable|insufficient|exception|disconnect|malformed"
    r"|cancel|interrupt|preempt",
    re.I,
)

MAX_MODEL_CHARS = 256
"""How much of a model's name is kept, whoever gave it."""


class ChunkReader:
    """Reads the chunks of one answer in order.

    `finish_reason` and `usage` (JSON text, as it is stored) are None until the LLM has said them; `is_done`
    is whether it said [DONE]. `is_doubtful`: this LLM says a finish_reason early, and only a proper end shows
    that it means it. With `is_relay` chunks are passed on as they came, whatever they hold.
    """

    def __init__(self, *, is_relay: bool = False, context_size: int | None = None) -> None:
        self.model = ""
        self.finish_reason: str | None = None
        self.usage: str | None = None
        self.is_done = False
        self.is_doubtful = False
        self._is_relay = is_relay
        self._context_size = context_size
        self._spent: dict[str, Any] = {}
        self._has_begun = False
        self._kinds: set[str] = set()
        self._held: list[Chunk] = []  # the one with the finish_reason, and silent ones after it
        self._held_object: dict[str, Any] = {}
        self._tags = ThinkTags()
        self._calls = CallReader()
        self._halves: dict[str, str] = {}  # by kind, first halves of surrogate pairs
        self._came_as_delta = False
        self._fast = FastPath()
        self.recognise = self._fast.recognise
        """Reads the data of one event if it is plain text like the last; None if it must be read()."""

    def read(self, data: bytes) -> list[Chunk]:
        """Reads the data of one event. Raises ChatError when the LLM reports an error or it is no chunk."""
        if chunk := self.recognise(data):
            return [chunk]
        while data.startswith(b"data:"):
            data = data[5:].lstrip()  # one-api writes it twice
        if data.strip() in (b"", b"[DONE]"):
            self.is_done = self.is_done or bool(data.strip())
            return []
        try:
            return self._read_object(parse(data), data, is_whole=False)
        except ValueError:
            if self.finish_reason:
                return []  # another way to say [DONE], or an event cut short
            raise _nonsense(data) from None

    def read_whole(self, data: bytes) -> list[Chunk]:
        """Reads an answer that came in one piece, or as JSON lines, which is a stream in disguise."""
        try:
            chunks = self._read_object(parse(data), data, is_whole=True)
        except ValueError:
            lines = [line for line in data.splitlines() if line.strip()]
            if len(lines) < 2 or not lines[0].startswith(b"{"):
                raise _nonsense(data) from None
            chunks = [chunk for line in lines for chunk in self.read(line)]
        if not self.finish_reason and not self._is_relay:
            raise _nonsense(data)
        return chunks

    def _read_object(self, chunk: Any, data: bytes, *, is_whole: bool) -> list[Chunk]:
        is_odd = not isinstance(chunk, dict) or not chunk.get("choices")
        if is_odd and (inner := _unwrapped(chunk)):
            chunk, is_odd, data = inner, False, dump(inner)
        if (is_odd or b"error" in data or b"base_resp" in data) and (failure := errors.failure_in(chunk)):
            raise failure.to_error()
        if not isinstance(chunk, dict):
            raise ValueError
        self._has_begun = True
        choice, is_plain = _first_choice(chunk)
        if b'"usage"' in data:
            self._note_usage(chunk, choice)
        if not self.model and isinstance(model := chunk.get("model"), str):
            self.model = valid(model[:MAX_MODEL_CHARS])
        finish = choice.get("finish_reason")
        if not isinstance(finish, str) or finish.lower() in ("null", "none"):
            finish = None
        finish = finish and valid(finish[:64])
        if finish and _FAILED_FINISHES.search(finish):
            raise errors.ours("finish", finish, errors.words_of(choice.get("error")) or "no reason given")
        pieces, can_pass_on = self._pieces(choice, bool(finish), chunk.get("object") == "chat.completion")
        if (self._is_relay or (can_pass_on and is_plain)) and not is_whole:
            read = Chunk(one_line(data), pieces)
            if pieces and not finish:
                self._fast.study(read)
        else:
            read = Chunk(_rewritten(chunk, pieces, finish), pieces)
        return self._hold(read, chunk, finish)

    def _note_usage(self, chunk: dict[str, Any], choice: dict[str, Any]) -> None:
        """Remembers the usage; Moonshot and Groq have places of their own for it."""
        for place in (chunk, choice, chunk.get("x_groq"), choice.get("delta"), choice.get("message")):
            usage = place.get("usage") if isinstance(place, dict) else None
            if isinstance(usage, dict) and usage:
                self._spent, self.usage = usage, usage_text(usage) or self.usage
                break

    # How it ends

    def _hold(self, read: Chunk, chunk: dict[str, Any], finish: str | None) -> list[Chunk]:
        """Keeps a chunk that may be the last, and what says nothing after it; returns what may go out."""
        out: list[Chunk] = []
        if read.pieces and self.finish_reason:  # so that was no end
            out, self._held = self._held, []
            if out:
                out[0] = Chunk(_rewritten(self._held_object, out[0].pieces, None), out[0].pieces)
            self.finish_reason, self.is_doubtful = None, True
        if finish:
            self.is_doubtful = self.is_doubtful or not self._kinds
            self.finish_reason = finish
        self._kinds |= {piece.kind for piece in read.pieces}
        if self._is_relay or not (self._held or finish):
            return [*out, read]
        if not self._held:
            self._held_object = chunk
        self._fast.forget()
        if len(self._held) < MAX_HELD:
            self._held.append(read)
        return out

    def release_text(self) -> list[Chunk]:
        """Returns the text of a held chunk: only its finish_reason must wait for what comes next."""
        if not self._held or not self._held[0].pieces:
            return []
        pieces, chunk = self._held[0].pieces, self._held_object
        self._held[0] = Chunk(_rewritten(chunk, (), self.finish_reason))
        self._held_object = chunk | {"choices": []}
        return [Chunk(_rewritten({k: v for k, v in chunk.items() if k != "usage"}, pieces, None), pieces)]

    def end(self, *, is_cut: bool) -> list[Chunk]:
        """The answer has ended, or `is_cut`: its connection broke. Returns the chunks that were held.

        Raises ChatError if it is not whole.
        """
        if not self.finish_reason or (is_cut and self.is_doubtful):
            if not self._has_begun and not self.is_done:
                raise errors.empty_stream()
            raise errors.ours("cut" if is_cut else "early")
        if not self._is_relay and not self._kinds & {TEXT, REFUSAL, CALL}:
            if too_long.is_full(self._spent, self.finish_reason, self._context_size):
                raise errors.full_context()
            if not self._kinds or not CUT.search(self.finish_reason):
                is_filtered = FILTERED.search(self.finish_reason)
                raise errors.ours("filtered" if is_filtered else "empty", self.finish_reason)
        held, self._held = self._held, []
        return held

    @property
    def may_end_soon(self) -> bool:
        """Whether all that was due has come, but for [DONE] or the end of the body."""
        return bool(self._held and self.usage and self._kinds and not self.is_doubtful)

    # What it adds

    def _pieces(
        self, choice: dict[str, Any], is_last: bool, is_whole: bool
    ) -> tuple[tuple[Piece, ...], bool]:
        """What a choice adds to the reply, and whether it stands there just as we would write it."""
        delta, is_message = _delta_of(choice)
        found = parts(delta.get("content"))
        if is_message and is_whole and self._came_as_delta:
            found = []  # MiniMax repeats the whole at the end
        self._came_as_delta = self._came_as_delta or bool(found and not is_message)
        thoughts, field = reasoning_in(delta)
        texts = {REASONING: thoughts, TEXT: "", REFUSAL: ""}
        for kind, text in (*found, *parts(delta.get("refusal"), REFUSAL)):
            texts[kind] += text
        self._settle_texts(texts, is_last)
        calls, can_pass_on = self._calls.read(delta)
        can_pass_on = can_pass_on and not is_message and field in ("", "reasoning_content")
        pieces = []
        for kind, text in texts.items():
            can_pass_on = can_pass_on and (delta.get(FIELDS[kind]) or "") == text
            if text:
                pieces.append(Piece(kind, text))
        for call in calls:
            piece = call._replace(text=self._whole(f"call {call.call}", call.text, is_last))
            if piece.length:
                pieces.append(piece)
        return tuple(pieces), can_pass_on

    def _settle_texts(self, texts: dict[str, str], is_last: bool) -> None:
        """Takes out of the texts what must wait for the next chunk: half a character, what may be a tag."""
        for kind, text in texts.items():
            texts[kind] = self._whole(kind, text, is_last)
        thoughts, texts[TEXT] = self._tags.feed(texts[TEXT])
        texts[REASONING] += thoughts
        if is_last:
            thoughts, text = self._tags.flush()
            texts[REASONING] += thoughts
            texts[TEXT] += text

    def _whole(self, kind: str, text: str, is_last: bool) -> str:
        """`text` with a surrogate pair joined that began in the chunk before; a lone half is replaced.

        A first half at the end waits for the next chunk, so that every chunk is valid Unicode.
        """
        if kind not in self._halves and (text.isascii() or not text):
            return text
        text = self._halves.pop(kind, "") + text
        if not is_last and text and "\ud800" <= text[-1] <= "\udbff":
            text, self._halves[kind] = text[:-1], text[-1]
            self._fast.forget()
        return valid(text)


def _nonsense(data: bytes) -> ChatError:
    return errors.ours("nonsense", errors.words_of(data[:4096].decode("utf-8", "replace"))[:200] or "nothing")


def _unwrapped(chunk: Any) -> dict[str, Any] | None:
    """The chunk in an envelope: Cloudflare and some gateways put it into one."""
    places = [chunk.get("data"), chunk.get("result")] if isinstance(chunk, dict) else []
    return next((inner for inner in places if isinstance(inner, dict) and inner.get("choices")), None)


def _first_choice(chunk: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """The choice with the index 0, and whether it is the only one."""
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
    """What a choice adds, and whether it stands elsewhere than in its `delta`."""
    delta, message = choice.get("delta"), choice.get("message")
    if not delta and isinstance(message, dict):
        return message, True
    if isinstance(delta, dict):
        return delta, False
    text = delta or choice.get("text")  # as in completions
    return {"content": text}, bool(text)


def _rewritten(chunk: dict[str, Any], pieces: tuple[Piece, ...], finish: str | None) -> bytes:
    """The chunk as we would write it, with these pieces and this finish_reason."""
    choice, _ = _first_choice(chunk)
    if not choice:
        return dump(chunk | {"choices": []})
    delta = choice.get("delta") or choice.get("message")
    kept = {k: v for k, v in delta.items() if k not in OUR_FIELDS} if isinstance(delta, dict) else {}
    kept |= {FIELDS[piece.kind]: piece.text for piece in pieces if piece.kind != CALL}
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
    rest = {k: v for k, v in choice.items() if k not in ("message", "text")}
    choices = [rest | {"index": 0, "delta": kept, "finish_reason": finish}]
    return dump(chunk | {"object": "chat.completion.chunk", "choices": choices})
