"""Counts what work is made of, for tests of what grows with what: a time would say as much of the machine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest


class Counted:
    """How many things a generator function has given; `take()` says so and begins anew."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
        self._count = 0
        original = getattr(owner, name)

        def counted(*args: Any) -> Iterator[Any]:
            for one in original(*args):
                self._count += 1
                yield one

        monkeypatch.setattr(owner, name, counted)

    def take(self) -> int:
        count, self._count = self._count, 0
        return count


class Ticking:
    """A clock that goes on by so many seconds each time that it is looked at."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._now = 0.0

    def __call__(self) -> float:
        self._now += self._seconds
        return self._now
