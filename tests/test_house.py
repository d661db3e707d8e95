"""The house: rooms import downwards only, files are short, and each room says what lives there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

CHATBOT = Path(__file__).parent.parent / "chatbot"
FILES = sorted(CHATBOT.rglob("*.py"))

FLOORS = [
    {"__main__"},
    {"server", "process"},
    {"app"},
    {"api", "openai"},
    {"web"},
    {"chat"},
    {"llm", "storage", "demo"},
    {"config", "addresses"},
    {"records", "ids", "errors", ""},
]
"""From the top down. Rooms of one floor do not know each other, but for the files of TOGETHER."""

TOGETHER = {("server", "process"), ("config", "addresses"), ("records", "errors"), ("records", "ids")}


def room_of(module: str) -> str:
    """The room of a module `chatbot.room.file`; "" for the package itself."""
    return module.removeprefix("chatbot").strip(".").split(".")[0]


def imports(file: Path) -> set[str]:
    """The modules of ours that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            # `from chatbot import ids` names a module, `from chatbot import __version__` the package itself.
            inner = {f"chatbot.{name.name}" for name in node.names if (CHATBOT / f"{name.name}.py").exists()}
            found |= inner if node.module == "chatbot" and inner else {node.module}
    return {module for module in found if module.split(".")[0] == "chatbot"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(CHATBOT)))
def test_a_room_imports_only_what_is_below_it(file: Path) -> None:
    own = file.relative_to(CHATBOT).parts[0].removesuffix(".py").replace("__init__", "")
    floor = {room: place for place, rooms in enumerate(FLOORS) for room in rooms}
    for module in imports(file):
        room = room_of(module)
        is_allowed = room == own or floor[room] > floor[own] or (own, room) in TOGETHER
        assert is_allowed, f"{file.name} ({own}) imports {module}"


def test_only_the_storage_knows_sqlite() -> None:
    knows = {file.parent.name for file in FILES if "import sqlite3" in file.read_text("utf-8")}
    assert knows == {"storage"}


def test_no_file_is_longer_than_300_lines() -> None:
    lines = {file.name: len(file.read_text("utf-8").splitlines()) for file in FILES}
    assert {name: count for name, count in lines.items() if count > 300} == {}


def test_at_most_ten_files_lie_beside_one_another_at_the_top() -> None:
    assert len([file for file in CHATBOT.glob("*.py") if file.name != "__init__.py"]) <= 10


@pytest.mark.parametrize("room", sorted({file.parent for file in FILES}), ids=lambda room: room.name)
def test_each_room_says_what_lives_there(room: Path) -> None:
    tree = ast.parse((room / "__init__.py").read_text("utf-8"))
    assert ast.get_docstring(tree)


def test_the_architecture_names_functions_that_are_there() -> None:
    table = (CHATBOT.parent / "ARCHITECTURE.md").read_text("utf-8").partition("| what happens |")[2]
    rows = re.findall(r"^\|(?:[^|]*\|)? (`[a-z_/]+\.py`.*) \| (.+) \|$", table, re.MULTILINE)
    named = [(files, name) for files, words in rows for name in re.findall("`([a-z_]+)`", words)]
    assert len(named) > 60, "the tables were not read"
    known = {"handler_cancellation", "await", "finally", "reply_cancelled"}
    for files, name in named:
        text = "".join((CHATBOT / file).read_text("utf-8") for file in re.findall("`([^`]+)`", files))
        assert name in known or f"def {name}(" in text, f"{files} has no {name}"
