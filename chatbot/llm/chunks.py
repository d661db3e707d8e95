"""Understands an LLM's chunks in order: which are passed on, how the reply ends, what it cost. No I/O.

What one chunk adds is read by choice.ChoiceReader. A chunk is passed on byte for byte if we would write it in
the same way; else it is rewritten. A finish_reason is held until the stream ends, because some LLMs send
text after it: then the chunk goes out without it.
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
"""How many chunks that say nothing are kept after a finish_reason."""

_FAILED_FINISHES = re.compile(
    # OpenRouter, vLLM, Zhipu, Moonshot, DeepSeek's insufficient_system_resource, Gemini's MALFORMED_…, Cohere
    r"error|abort|overload|network|fail|time_?out|crash|unavailable|insufficient|exception|disconnect|malformed"
    r"|cancel|interrupt|preempt|unexpected",
    re.I,
)

MAX_MODEL_CHARS = 256
"""How much of a model's name is kept, whoever gave it."""


class ChunkReader:
    """Reads the chunks of one answer in order.

    `model` is the LLM's own name for it. `finish_reason` and `usage` (JSON text, as it is stored) are None
    until it has said them; text that comes later takes a finish_reason back. `is_done` is whether it said
    [DONE]. With `is_relay` chunks are passed on as they came, whatever they hold.
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
        self._is_doubtful = False  # it says a finish_reason too early: only a proper end shows it is meant
        self._is_relay = is_relay
        self._context_size = context_size
        self._room = room  # for the answer, in tokens, if the request says
        self._spent: dict[str, Any] = {}
        self._has_begun = False
        self._held: list[Chunk] = []  # the one with the finish_reason, without text, and silent ones after it
        self._held_object: dict[str, Any] = {}
        self._choices = ChoiceReader()
        self._fast = FastPath()
        self.recognise = self._fast.recognise
        """Reads an event, as it came, if it is plain text like the last; None if its data must be read()."""

    def read(self, data: bytes) -> list[Chunk]:
        """Reads the data of one event. Raises ChatError when the LLM reports an error or it is no chunk."""
        if chunk := self.recognise(b"%b%b%b" % (EVENT[0], data, EVENT[1])):
            return [chunk]
        if data.startswith(b"data:"):
            data = re.sub(rb"\A(?:data:\s*)+", b"", data)  # one-api writes it twice
        if data.strip() in (b"", b"[DONE]"):
            self.is_done = self.is_done or bool(data.strip())
            return []
        try:
            return self._read_object(*parse_odd(data), is_whole=False)
        except ValueError:
            if self.finish_reason:
                return []  # another way to say [DONE], or an event cut short
            if len(parts := re.split(rb"(?<=\})\s*data:\s*(?=[{[])", data)) > 1:
                return [chunk for part in parts for chunk in self.read(part)]
            raise _nonsense(data) from None

    def read_whole(self, data: bytes) -> list[Chunk]:
        """Reads an answer that came in one piece, or as JSON lines, which is a stream in disguise."""
        try:
            chunks = self._read_object(*parse_odd(data), is_whole=True)
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
        """Remembers the usage; Moonshot and Groq have places of their own for it."""
        for place in (chunk, choice, chunk.get("x_groq"), choice.get("delta"), choice.get("message")):
            usage = place.get("usage") if isinstance(place, dict) else None
            if isinstance(usage, dict) and usage:
                self._spent, self.usage = usage, stored_text(usage) or self.usage
                break

    # How it ends. Of an LLM that says twice that it stops, clients are sent one reply:
    #
    #   what comes       what is held then       what goes out
    #   "Hel" + stop     stop                    "Hel"
    #   usage            stop, usage
    #   "lo" + stop      stop                    the chunk that was held, its stop removed; usage; "lo"
    #   the end                                  stop, by end()

    def _hold(self, read: Chunk, chunk: dict[str, Any], finish: str | None) -> list[Chunk]:
        """Keeps the chunk with the finish_reason, and silent ones after it; returns what may go out."""
        out = self._take_back() if read.pieces and self.finish_reason else []
        self.finish_reason = finish or self.finish_reason
        if self._is_relay or not (self._held or finish):
            return [*out, read]
        if read.pieces:  # only the finish_reason must wait for what comes next
            text, read = _split(chunk, read.pieces, finish)
            out.append(text)
        if not self._held:
            self._held_object = chunk
        if len(self._held) < MAX_HELD:
            self._held.append(read)
        return out

    def _take_back(self) -> list[Chunk]:
        """What was said was no end, since text follows: returns what was held, without the finish_reason."""
        out, self._held = self._held, []
        if out:
            out[0] = Chunk(rewritten(self._held_object, (), None))
        self.finish_reason, self._is_doubtful = None, True
        return out

    def end(self, *, is_cut: bool) -> list[Chunk]:
        """The answer has ended, or `is_cut`: its connection broke. Returns the chunks that were held.

        Raises ChatError if it is not whole.
        """
        finish = self.finish_reason
        if not finish or (is_cut and not self.is_certain):
            if not self._has_begun and not self.is_done:
                # So llama-cpp-python says that a conversation is too long; or it was a crash.
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
        """Whether the LLM has said that it ends, and means it."""
        return bool(self.finish_reason) and not self._is_doubtful

    @property
    def may_end_soon(self) -> bool:
        """Whether all that was due has come, but for [DONE] or the end of the body."""
        return bool(self._held and self.usage and self.is_certain)


def _split(chunk: dict[str, Any], pieces: tuple[Piece, ...], finish: str | None) -> tuple[Chunk, Chunk]:
    """A chunk as two: one with its text, and one with all else that ends the reply, the usage too."""
    said = {name: value for name, value in chunk.items() if name != "usage"}
    with_text = ("delta", "message", "logprobs")
    bare = {name: value for name, value in first_choice(chunk)[0].items() if name not in with_text}
    ending = rewritten(chunk | {"choices": [bare]}, (), finish)
    return Chunk(rewritten(said, pieces, None), pieces), Chunk(ending)


def _finish_of(choice: dict[str, Any]) -> str | None:
    """The finish_reason of a choice. Raises ChatError for one that means a failure."""
    finish = choice.get("finish_reason")
    if not isinstance(finish, str) or finish.lower() in ("null", "none"):
        return None
    finish = valid(finish[:64])
    if _FAILED_FINISHES.search(finish):
        raise errors.ours("finish", finish, errors.words_of(choice.get("error")) or "no reason given")
    return finish


def _nonsense(data: bytes) -> ChatError:
    words = errors.words_of(data[:4096].decode("utf-8", "replace"))
    failure = errors.Failure(0, 500, "", words)  # which may be all that a proxy says of it
    if data[:1] not in b"{[" and (failure.kind != "failed" or too_long.find(500, "", words)[0]):
        return failure.to_error()
    return errors.ours("nonsense", words[:200] or "nothing")


def _unwrapped(chunk: Any) -> dict[str, Any] | None:
    """The chunk in an envelope: Cloudflare and some gateways put it into one."""
    places = [chunk.get("data"), chunk.get("result")] if isinstance(chunk, dict) else []
    return next((inner for inner in places if isinstance(inner, dict) and inner.get("choices")), None)
