"""How much is measured: the full run, and the quick one that only sees that everything works."""

from dataclasses import dataclass, field
from pathlib import Path

from .targets import NAMES


@dataclass(frozen=True)
class Load:
    """So many streams of so many tokens, so many milliseconds apart."""

    streams: int
    tokens: int
    interval_ms: float

    @property
    def title(self) -> str:
        plural = "s" if self.streams > 1 else ""
        rate = 1000 / self.interval_ms
        return f"{self.streams:,} stream{plural} × {rate:g} tokens/s, {self.tokens} tokens each"

    @property
    def seconds(self) -> float:
        return (self.tokens - 1) * self.interval_ms / 1000


@dataclass(frozen=True)
class Plan:
    rounds: int = 5
    patience: int = 1  # how often a measurement that other programs disturbed is made again
    targets: list[str] = field(default_factory=lambda: list(NAMES))
    other: Path | None = None  # a second checkout of this server
    # All but the first move 10,000 tokens a second, so that only the number of streams differs.
    loads: tuple[Load, ...] = (
        Load(1, 100, 20),
        Load(200, 100, 20),
        Load(1000, 80, 100),
        Load(5000, 60, 500),
    )
    turn_seconds: float = 3  # of whole turns, against each target in each round
    connections: int = 32  # that ask for whole turns at the same time
    history: int = 10_000  # messages of the long session
    pages: int = 200  # read of each kind in each round
    idle_sessions: int = 100_000  # to be swept, of 4 messages
    memory_turns: int = 100_000

    def order(self, turn: int) -> list[str]:
        """The targets in this round's order: each is the first in its turn."""
        at = turn % len(self.targets)
        return self.targets[at:] + self.targets[:at]


QUICK = Plan(
    rounds=1,
    patience=0,
    loads=(Load(20, 10, 20),),
    turn_seconds=0.3,
    connections=8,
    history=200,
    pages=10,
    idle_sessions=300,
    memory_turns=200,
)
