"""Adapts a recipe of deploy/ to a test: other ports, other paths, nothing else."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.tools.processes import ROOT

PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


def find_program(name: str) -> str:
    """The path of a program of the distribution; skips the test where it is missing."""
    return shutil.which(name, path=PATH) or pytest.skip(f"{name} is not installed")


def adapted(name: str, changes: Mapping[str, str]) -> str:
    """The text of a recipe with every change made; each must have something to change."""
    text = (ROOT / "deploy" / name).read_text("utf-8")
    for old, new in changes.items():
        assert old in text, f"deploy/{name} no longer has {old!r}"
        text = text.replace(old, new)
    return text


def written(path: Path, text: str) -> Path:
    path.write_text(text, "utf-8")
    return path
