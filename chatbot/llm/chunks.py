"""Reads an LLM's chunks in order: which are passed on, how the reply ends, what it cost. No I/O.

choice.ChoiceReader reads what one chunk adds to the reply. A chunk is passed on byte for byte if we would
write it in the same way; otherwise it is rewritten. A chunk with a finish_reason is held until the stream
ends, because some LLMs send text after it. Then the held chunk is passed on without its finish_reason.
"""

from __future__ import annotations

import re
from typing import Any

from chatbot.errors import TOO_LONG, ChatError, TooLong
from chatbot.llm import errors, too_long
from chatbot.llm.choice import ChoiceReader, first_choice, is_standard, rewritten
from chatbot.llm.fast_path import EVENT, FastPath
from chatbot.llm.json_text import dump, one_line, parse_odd, stored_text, valid
from chatbot.records import CUT, FILTERED, REASONING, Chunk, Piece

MAX_HELD = 64
"""How many chunks are held from the one with the finish_reason on; more are dropped."""

_FAILED_FINISHES = re.compile(
    # OpenRouter, vLLM, Zhipu, Moonshot, DeepSeek's insufficient_system_resource, Gemini's MALFORMED_…, Cohere
    r"error|abort|overload|network|fail|time_?out|crash|unavailable|insufficient|exception|disconnect|malformed"
    r"|cancel|interrupt|preempt|unexpected",
    re.I,
)

MAX_MODEL_CHARS = 256
"""How many characters of a model's name are kept, whether the LLM or a client has sent it."""


class ChunkReader:
    """Reads the chunks of one answer in order.

    `model` is the model's name in the chunks. `finish_reason` and `usage` (JSON text, as it is stored) are
    None until the LLM has sent them; if text follows, `finish_reason` is None again. `is_done` is true after
    [DONE]. With `is_relay`, chunks in the standard format are passed on as they came, and none is held.
    """

    __slots__ = (
        "_choices", "_context_size", "_fast", "_has_begun", "_held", "_held_object", "_is_doubtful",
        "_is_relay", "_room", "_spent", "finish_reason", "is_done", "model", "recognise", "usage"
    )  # fmt: skip

    def __init__(self, *, is_relay: bool = False, context_size: int | None = None, room: Any = None) -> None:
        self.model = ""
        self.finish_reason: str | None = None
        self.usage: str | None = None
        self.is_done = False
        self._is_doubtful = False  # a finish_reason came too early: trust only [DONE] or the body's end
        self._is_relay = is_relay
        self._context_size = context_size
        self._room = room  # the request's limit on the answer, in tokens, if it has one
        self._spent: dict[str, Any] = {}
        self._has_begun = False
        self._held: list[Chunk] = []  # the chunk with the finish_reason, and later ones; all without text
        self._held_object: dict[str, Any] = {}
        self._choices = ChoiceReader()
        self._fast = FastPath()
        self.recognise = self._fast.recognise
        """Reads a whole event if only its plain text is new; returns None if its data must be read()."""

    def read(self, data: bytes) -> list[Chunk]:
        """Reads the data of one event. Raises ChatError if it is an error of the LLM, or not a chunk."""
        if chunk := self.recognise(b"%b%b%b" % (EVENT[0], data, EVENT[1])):
            return [chunk]
        if data.startswith(b"data:"):
            data = re.sub(rb"\A(?:data:\s*)+", b"", data)  # one-api writes "data:" twice
        if data.strip() in (b"", b"[DONE]"):
            self.is_done |= bool(data.strip())
            return []
        try:
            return self._read_object(*parse_odd(data), is_whole=False)
        except ValueError:
            if self.finish_reason:
                return []  # another form of [DONE], or an event that was cut off
            if len(parts := re.split(rb"(?<=\})\s*data:\s*(?=[{[])", data)) > 1:
                return [chunk for part in parts for chunk in self.read(part)]
            raise _nonsense(data) from None

    def read_whole(self, data: bytes) -> list[Chunk]:
        """Reads an answer that is one JSON object, or JSON lines with a chunk each. Raises ChatError."""
        try:
            chunks = self._read_object(*parse_odd(data), is_whole=True)
        except ValueError:
            if not data.startswith(b"{"):
                raise _nonsense(data) from None
            chunks = [chunk for line in data.splitlines() for chunk in self.read(line)]
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
        choice, is_plain = first_choice(chunk)
        if b'"usage"' in data:
            self._note_usage(chunk, choice)
        if not self.model and isinstance(model := chunk.get("model"), str):
            self.model = valid(model[:MAX_MODEL_CHARS])
        if finish := _finish_of(choice):
            self._is_doubtful = self._is_doubtful or not self._choices.came
        pieces, as_it_came = self._choices.read(
            choice, is_last=bool(finish), is_whole=chunk.get("object") == "chat.completion"
        )
        as_it_came = as_it_came and is_plain
        passes = (is_standard(chunk) if self._is_relay else as_it_came) and not is_whole
        read = Chunk(one_line(data) if passes else rewritten(chunk, pieces, finish), tuple(pieces))
        if finish or not as_it_came:
            self._fast.forget()
        elif pieces:
            self._fast.study(read)
        return self._hold(read, chunk, finish)

    def _note_usage(self, chunk: dict[str, Any], choice: dict[str, Any]) -> None:
        """Keeps the usage, if the chunk has one. Moonshot and Groq put it into places of their own."""
        for place in (chunk, choice, chunk.get("x_groq"), choice.get("delta"), choice.get("message")):
            usage = place.get("usage") if isinstance(place, dict) else None
            if isinstance(usage, dict) and usage:
                self._spent, self.usage = usage, stored_text(usage) or self.usage
                break

    # The end of the reply. If an LLM sends two finish_reasons, clients see only the last one:
    #
    #   what arrives     what is held then       what is passed on
    #   "Hel" + stop     stop                    "Hel"
    #   usage            stop, usage
    #   "lo" + stop      stop                    the held chunk without its stop; usage; "lo"
    #   length           length                  the held chunk without its stop
    #   the end                                  length (returned by end())

    def _hold(self, read: Chunk, chunk: dict[str, Any], finish: str | None) -> list[Chunk]:
        """Holds the chunk with the finish_reason and later ones without text; returns what to pass on."""
        out: list[Chunk] = []
        if self.finish_reason and (finish or read.pieces):  # it was not the last one
            self._is_doubtful = self._is_doubtful or bool(read.pieces)
            out, self._held, self.finish_reason = self._held, [], None
            if out:
                out[0] = Chunk(rewritten(self._held_object, (), None))
        self.finish_reason = finish or self.finish_reason
        if self._is_relay or not (self._held or finish):
            return [*out, read]
        if read.pieces:  # its text need not wait, only its finish_reason
            text, read = _split(chunk, read.pieces, finish)
            out.append(text)
        if not self._held:
            self._held_object = chunk
        if len(self._held) < MAX_HELD:
            self._held.append(read)
        return out

    def end(self, *, is_cut: bool) -> list[Chunk]:
        """Ends the answer and returns the held chunks. `is_cut`: the connection broke before its end.

        Raises ChatError if the answer is not complete, or if it is empty.
        """
        finish = self.finish_reason
        if not finish or (is_cut and not self.is_certain):
            if not self._has_begun and not self.is_done:
                # llama-cpp-python does this if the conversation is too long; a crash looks the same.
                raise TooLong("llm_error", "The LLM server sent an empty stream.", is_certain=False)
            raise errors.ours("cut" if is_cut else "early")
        came = self._choices.came
        if not self._is_relay and not came - {REASONING}:
            if too_long.is_full(self._spent, finish, self._context_size, self._room):
                raise TooLong("context_too_long", f"{TOO_LONG}: it left no room for an answer.")
            if not came or not CUT.search(finish):
                is_filtered = FILTERED.search(finish)
                raise errors.ours("filtered" if is_filtered else "empty", finish)
        held, self._held = self._held, []
        return held

    @property
    def is_certain(self) -> bool:
        """Whether the LLM has sent a finish_reason that can be trusted."""
        return bool(self.finish_reason) and not self._is_doubtful

    @property
    def may_end_soon(self) -> bool:
        """Whether only [DONE] or the end of the body is missing."""
        return bool(self._held and self.usage and self.is_certain)


def _split(chunk: dict[str, Any], pieces: tuple[Piece, ...], finish: str | None) -> tuple[Chunk, Chunk]:
    """Splits a chunk in two: one with its text, one with the finish_reason, the usage and all else."""
    said = {name: value for name, value in chunk.items() if name != "usage"}
    with_text = ("delta", "message", "logprobs")
    bare = {name: value for name, value in first_choice(chunk)[0].items() if name not in with_text}
    ending = rewritten(chunk | {"choices": [bare]}, (), finish)
    return Chunk(rewritten(said, pieces, None), pieces), Chunk(ending)


def _finish_of(choice: dict[str, Any]) -> str | None:
    """Returns the finish_reason of a choice. Raises ChatError if it means that the LLM failed."""
    finish = choice.get("finish_reason")
    if not isinstance(finish, str) or finish.lower() in ("null", "none"):
        return None
    finish = valid(finish[:64])
    if _FAILED_FINISHES.search(finish):
        raise errors.ours("finish", finish, errors.words_of(choice.get("error")) or "no reason given")
    return finish


def _nonsense(data: bytes) -> ChatError:
    words = errors.words_of(data[:4096].decode("utf-8", "replace"))
    failure = errors.Failure(0, 500, "", words)  # a proxy's error page may be only text
    if data[:1] not in b"{[" and (failure.kind != "failed" or too_long.find(500, "", words)[0]):
        return failure.to_error()
    return errors.ours("nonsense", words[:200] or "nothing")


def _unwrapped(chunk: Any) -> dict[str, Any] | None:
    """Returns the chunk inside an envelope, as Cloudflare and some gateways send it, or None."""
    places = [chunk.get("data"), chunk.get("result")] if isinstance(chunk, dict) else []
    return next((inner for inner in places if isinstance(inner, dict) and inner.get("choices")), None)
