"""An LLM that thinks, talks and calls tools, says the same to the same question, and fails now and then."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from tests.tools.scripted_llm import DONE, END, SSE_HEAD, Abort, Gate, Hang, Step, delta, http_chunk, usage
from tests.tools.scripted_llm import answer as whole_answer

WORDS = [
    *("안녕", "하세요 ", "word ", "👩\u200d👧", "e\u0301 ", "😀", "a longer piece of text, ", "\n\n", "끝. "),
    *("<b>", "</think"),
]

Character = tuple[str, int, str]
"""One character of a reply: its kind, its call, and itself; a call's head is its id and name."""


class Said(NamedTuple):
    """One piece of what is said: its kind ("tag": reasoning within tags), the call, its head, the letters."""

    kind: str
    letters: str
    call: int = 0
    head: tuple[str, str] | None = None


def said(question: str) -> list[Said]:
    """What the LLM says to a question, if it is let."""
    rng = random.Random(question)
    if question.startswith("long"):
        return [Said("text", f"{number:04d}" * 8192) for number in range(115)]
    pieces = []
    if rng.random() < 0.4:
        kind = rng.choice(["reasoning", "tag"])
        words = ["Hm, ", *rng.choices(WORDS[:-1], k=rng.randint(0, 8)), "so"]  # blanks at a tag are the tag's
        pieces += [Said(kind, word) for word in words]
    if pieces or rng.random() < 0.8:
        pieces += [
            Said("text", word) for word in [f"{question}: ", *rng.choices(WORDS[:-1], k=rng.randint(0, 20))]
        ]
    calls = rng.choice([1, 2]) if not pieces or rng.random() < 0.25 else 0
    for call in range(calls):
        pieces.append(Said("call", "", call, (f"call_{question}_{call}", "time")))
    left = {call: f'{{"n":{rng.randint(1, 9999)}}}' for call in range(calls) if rng.random() < 0.8}
    while left and rng.random() < 0.95:  # some arguments never become whole
        call, size = rng.choice(list(left)), rng.randint(1, 9)
        pieces.append(Said("call", left[call][:size], call))
        if rest := left.pop(call)[size:]:
            left[call] = rest
    return pieces


def characters(question: str) -> list[Character]:
    """All that a client hears of it."""
    found: list[Character] = []
    for kind, letters, call, head in said(question):
        kind = "reasoning" if kind == "tag" else kind
        found += [(kind, call, " ".join(head))] if head else []
        found += [(kind, call, letter) for letter in letters]
    return found


def end_of(question: str) -> str:
    """The finish_reason with which the LLM ends what it says to a question."""
    return "tool_calls" if any(piece.kind == "call" for piece in said(question)) else "stop"


def chunks(question: str, rng: random.Random) -> list[bytes]:
    """What is said as events; tags are cut anywhere."""
    pieces = said(question)
    thought = "".join(piece.letters for piece in pieces if piece.kind == "tag")
    found = []
    if thought:
        tagged = f"<think>{thought}</think>"
        while tagged:
            cut = rng.randint(1, 9)
            found.append(delta(tagged[:cut]))
            tagged = tagged[cut:]
    for kind, letters, call, head in pieces:
        if kind == "call":
            part: dict[str, Any] = {"index": call, "function": {"arguments": letters}}
            if head:
                part |= {"id": head[0], "type": "function"}
                part["function"]["name"] = head[1]
            found.append(delta(tool_calls=[part]))
        elif kind != "tag":
            found.append(delta(letters) if kind == "text" else delta(reasoning_content=letters))
    return found


class RandomLLM:
    """Answers with said(), a little now and a little then; one time in four something goes wrong.

    `may_be_asked` tells whether a question is not yet answered as often as it was to be.
    """

    def __init__(
        self, rng: random.Random, figures: Counter[str], may_be_asked: Callable[[str], bool]
    ) -> None:
        self._rng = rng
        self._figures = figures
        self._may_be_asked = may_be_asked
        self.paid_twice: list[str] = []

    def script(self, body: Any) -> Iterator[Step]:
        question = body["messages"][-1]["content"]
        self._figures["asked"] += 1
        if not self._may_be_asked(question):
            self.paid_twice.append(question)
        fault = ""
        if self._rng.random() < 0.25 and not question.startswith("long"):
            faults = ["500", "429", "503", "long", "abort", "cut", "error", "noise", "hang", "empty"]
            fault = self._rng.choice(faults)
            self._figures["faults"] += 1
        return self._play(question, fault)

    def _play(self, question: str, fault: str) -> Iterator[Step]:
        yield from self._pause()
        if fault in ("500", "429", "503"):
            yield from whole_answer(f"{fault} Sorry", {"error": {"message": "random"}})
        elif fault == "long":
            error = {"code": "context_length_exceeded", "message": "too long"}
            yield from whole_answer("400 Bad Request", {"error": error})
        else:
            if fault == "abort" and self._rng.random() < 0.3:
                yield Abort
            yield SSE_HEAD
            whole = chunks(question, self._rng)
            place = self._rng.randint(1, len(whole)) if fault else len(whole)
            for chunk in [] if fault == "empty" else whole[:place]:
                yield from self._pause()
                yield http_chunk(chunk)
            yield from self._end(question, fault)

    def _end(self, question: str, fault: str) -> Iterator[Step]:
        if fault == "abort":
            yield Abort
        if fault == "hang":
            yield Hang
        if fault == "error":
            yield http_chunk(b'data: {"error": {"message": "random"}}\n\n')
        elif fault == "noise":
            yield http_chunk(b"data: \xff\xfe{]\n\n")
        elif fault != "cut":
            yield http_chunk(delta(finish=end_of(question)))
            yield from self._pause()
            yield http_chunk(usage()) + http_chunk(DONE)
        yield END

    def _pause(self) -> Iterator[Step]:
        if self._rng.random() < 0.5:
            gate = Gate()
            asyncio.get_running_loop().call_later(self._rng.random() * 0.02, gate.open)
            yield gate
