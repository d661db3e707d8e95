"""The domain without HTTP: a real store, a clock moved by hand, an LLM that says what a test says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import pytest

from chatbot.chat.asking import Question
from chatbot.chat.limits import ContextLimits
from chatbot.chat.reply import Reply
from chatbot.chat.reply_registry import ReplyRegistry
from chatbot.chat.sessions import Sessions
from chatbot.config import Config
from chatbot.errors import ChatError
from chatbot.records import CALL, TEXT, CallHead, Chunk, Piece, Session, Turn
from chatbot.storage.store import Store

HELLO = '{"role":"user","content":"Hello"}'


def text(letters: str) -> Chunk:
    return Chunk(json.dumps(letters).encode(), (Piece(TEXT, letters),))


def call(call_id: str, arguments: str = "{}", number: int = 0) -> Chunk:
    return Chunk(b"{}", (Piece(CALL, arguments, number, CallHead(call_id, "time")),))


class FakeAnswer:
    """An answer that comes as a test says it."""

    model = "parrot-1"

    def __init__(self) -> None:
        self.finish_reason: str | None = None
        self.usage: str | None = None
        self.closed = self.is_complete = False
        self._ending: tuple[str, str | None] = ("stop", None)
        self._steps: asyncio.Queue[list[Chunk] | ChatError | None] = asyncio.Queue()

    def say(self, *chunks: Chunk) -> FakeAnswer:
        self._steps.put_nowait(list(chunks))
        return self

    def finish(self, reason: str = "stop", usage: str | None = None) -> FakeAnswer:
        self._ending = (reason, usage)
        self._steps.put_nowait([Chunk(b"finish")])
        self._steps.put_nowait(None)
        return self

    def fail(self, error: ChatError) -> FakeAnswer:
        self._steps.put_nowait(error)
        return self

    @property
    def reader(self) -> FakeAnswer:
        """What a reader would know, this knows itself."""
        return self

    async def first(self, take: Callable[[list[Chunk]], bool]) -> list[Chunk]:
        try:
            step = await self._next()
        except BaseException:
            self.closed = True
            raise
        assert step, "an answer has chunks"
        return step

    async def deliver(self, first: list[Chunk], take: Callable[[list[Chunk]], bool]) -> None:
        try:
            step: list[Chunk] | None = first
            while step is not None and take(step):
                step = await self._next()
        finally:
            self.closed = True

    async def _next(self) -> list[Chunk] | None:
        step = await self._steps.get()
        if isinstance(step, ChatError):
            raise step
        if step and step[0].data == b"finish":
            self.finish_reason, self.usage = self._ending
            self.is_complete = self._steps.qsize() > 0
        return step


class FakeLLM:
    """Gives out `answers` in order, then new ones that say nothing yet; `asked` has what it was sent."""

    def __init__(self) -> None:
        self.answers: list[FakeAnswer | ChatError] = []
        self.given: list[FakeAnswer] = []
        self.asked: list[tuple[list[Any], Mapping[str, Any], str | None]] = []

    async def model_for(self, fields: Mapping[str, Any]) -> str:
        return str(fields.get("model", "parrot"))

    def context_size(self, model: str) -> int | None:
        return None

    async def ask(
        self, messages: Sequence[str], fields: Mapping[str, Any], *, affinity: str | None = None
    ) -> FakeAnswer:
        self.asked.append(([json.loads(message) for message in messages], fields, affinity))
        answer = self.answers.pop(0) if self.answers else FakeAnswer()
        if isinstance(answer, ChatError):
            raise answer
        self.given.append(answer)
        return answer


class Recorder:
    """A listener that remembers what it was pushed."""

    def __init__(self) -> None:
        self.pushed: list[tuple[bytes, int]] = []
        self.woken = 0

    def push(self, burst: Sequence[tuple[Chunk, int]]) -> None:
        self.pushed += [(chunk.data, offset) for chunk, offset in burst]

    def wake(self) -> None:
        self.woken += 1


class Clock:
    """Moves the time of the event loop and the wall clock, which begins at one million seconds."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.seconds = 0.0
        self._loop, self._real = loop, loop.time
        loop.time = lambda: self._real() + self.seconds  # type: ignore[method-assign]

    def now(self) -> float:
        return 1_000_000 + self.seconds

    async def advance(self, seconds: float) -> None:
        self.seconds += seconds
        await turns_of_the_loop()

    def restore(self) -> None:
        self._loop.time = self._real  # type: ignore[method-assign]


async def turns_of_the_loop(count: int = 30) -> None:
    """Lets everything run that can."""
    for _ in range(count):
        await asyncio.sleep(0)


class Room:
    """The parts of the domain, wired as the app wires them."""

    def __init__(self, clock: Clock, store: Store, **settings: Any) -> None:
        self.clock, self.store, self.llm = clock, store, FakeLLM()
        self.config = Config(**settings)
        self.ended: list[Reply] = []
        self.registry = ReplyRegistry(
            config=self.config,
            store=store,
            llm=self.llm,  # type: ignore[arg-type]
            limits=ContextLimits(self.config.max_context_messages),
            clock=clock.now,
            on_end=self.ended.append,
        )
        self.sessions = Sessions(config=self.config, store=store, registry=self.registry, clock=clock.now)

    def session(self, prompt: str | None = None) -> str:
        return self.sessions.create("{}", prompt).session_id

    def at(self, session_id: str) -> Session:
        session = self.store.session(session_id)
        assert session
        return session

    def ask(self, session_id: str, *said: str, **question: Any) -> Reply:
        """Asks what is said in a session, at its current turn if not said otherwise."""
        parent = question.pop("parent", self.at(session_id).current if session_id else None)
        return self.registry.start(
            Question(session_id, parent, said or (HELLO,), question.pop("options", {}), **question)
        )

    async def turn(self, session_id: str, *said: str, answer: str = "Hi", **question: Any) -> Turn:
        """A turn that is asked, answered and stored."""
        self.llm.answers.append(FakeAnswer().say(text(answer)).finish())
        reply = self.ask(session_id, *said, **question)
        await turns_of_the_loop()
        assert reply.turn, reply.error
        return reply.turn


StartRoom = Callable[..., Room]


@pytest.fixture
async def clock() -> AsyncIterator[Clock]:
    clock = Clock(asyncio.get_running_loop())
    yield clock
    clock.restore()


@pytest.fixture
async def start_room(clock: Clock) -> AsyncIterator[StartRoom]:
    rooms: list[Room] = []

    def start(path: str = ":memory:", **settings: Any) -> Room:
        rooms.append(Room(clock, Store(path), **settings))
        return rooms[-1]

    yield start
    for room in rooms:
        await room.registry.close()
        room.store.close()


@pytest.fixture
def room(start_room: StartRoom) -> Room:
    return start_room()
