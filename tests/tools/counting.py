"""Counts what work is made of, for tests of what grows with what: a time would say as much of the machine."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
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


class Steps:
    """How much work SQLite did, in steps of its virtual machine; `take()` says so and begins anew."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._count = 0
        connection.set_progress_handler(self._note, 1)

    def _note(self) -> int:
        self._count += 1
        return 0  # goes on

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


class Compared(str):
    """A text that counts how often one such is compared."""

    count = 0
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        Compared.count += 1
        return super().__eq__(other)


@contextmanager
def counted_calls(name: str) -> Iterator[list[Any]]:
    """The calls of built-in functions of this name, as they are made in the block."""
    calls: list[Any] = []

    def note(_: FrameType, event: str, called: Any) -> None:
        if event == "c_call" and called.__name__ == name:
            calls.append(called)

    sys.setprofile(note)
    try:
        yield calls
    finally:
        sys.setprofile(None)
