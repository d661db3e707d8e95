"""The documents: what they tell people to type is typed here, and their tables are held to the code."""

from __future__ import annotations

import inspect
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import fields

import pytest

from chatbot import __version__
from chatbot.config import Config
from chatbot.demo.server import create_demo_app
from chatbot.errors import ERRORS
from tests.tools.processes import ROOT, Process, start_chatbot

READMES = ["README.md", "README.ko.md"]
DOCUMENTS = sorted(str(path.relative_to(ROOT)) for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


def read(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def section(text: str, place: int) -> str:
    """The section that opens with the document's nth second-level heading."""
    return re.split(r"^## .*\n", text, flags=re.MULTILINE)[place]


def rows(text: str, columns: int, first: str) -> list[list[str]]:
    """The rows of the tables with so many columns whose first cell matches `first`."""
    lines = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line] for line in lines]
    return [row for row in cells if len(row) == columns and re.fullmatch(first, row[0])]


@pytest.fixture
def demo() -> Iterator[Process]:
    with start_chatbot("--demo", "--port", "0") as process:
        yield process


def as_pattern(shown: str) -> str:
    """What a printed output may look like: `…` stands for anything; curl ends its JSON without a newline."""
    return ".*?".join(re.escape(part) for part in shown.replace("\n", "").split("…"))


@pytest.mark.skipif(not shutil.which("curl"), reason="there is no curl")
@pytest.mark.parametrize("name", READMES)
def test_the_conversation_in_the_readme_goes_as_it_is_printed(name: str, demo: Process) -> None:
    conversation = section(read(name), 1)
    mark = "--- next block ---"
    commands = blocks(conversation, "sh")
    script = f"\nprintf '%s' '{mark}'\n".join(commands).replace("localhost:8080", f"127.0.0.1:{demo.port}")
    run = subprocess.run(["sh", "-eu"], input=script, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stderr
    outputs = run.stdout.replace("\n", "").split(mark)
    shown = blocks(conversation, "text")
    assert len(outputs) == len(shown) == len(commands) > 5
    for command, output, expected in zip(commands, outputs, shown, strict=True):
        assert re.fullmatch(as_pattern(expected), output), f"{command}printed\n{output}\nand not\n{expected}"
    assert demo.end(signal.SIGTERM) == 0, demo.output
    assert "Traceback" not in demo.output


@pytest.mark.parametrize("name", READMES)
def test_the_reply_lasts_for_as_long_as_it_may_take_to_read_on(name: str) -> None:
    [words] = set(map(int, re.findall(r"Count to (\d+)\"}'", read(name))))
    delay = inspect.signature(create_demo_app).parameters["delay"].default
    assert words * delay > Config().disconnect_grace_seconds


@pytest.mark.parametrize("name", READMES)
def test_the_first_commands_are_one_line_each_and_the_makefiles(name: str) -> None:
    recipes = dict(re.findall(r"^(\w+):\n((?:\t.*\n)+)", read("Makefile"), re.MULTILINE))
    run, test = blocks(section(read(name), 0), "sh")
    assert recipes["run"] == f"\t{run}"
    assert recipes["test"] == f"\t{test}"
    assert recipes["pyz"].replace("\t", "") in blocks(read(name), "sh")


def test_both_readmes_have_the_same_commands_and_the_same_outputs() -> None:
    english, korean = (blocks(read(name), "(?:sh|text)") for name in READMES)
    assert english == korean


@pytest.mark.parametrize("name", READMES)
def test_the_settings_table_is_the_configuration(name: str) -> None:
    table = rows(read(name), 3, r"`[A-Z_]+`")
    assert [row[0] for row in table] == [f"`{field.name.upper()}`" for field in fields(Config)]
    for variable, default, meaning in table:
        setting = variable.strip("`")
        config = Config.from_env({setting: default.strip("`")} if default else {})
        assert getattr(config, setting.lower()) == getattr(Config(), setting.lower()), setting
        assert default or not getattr(config, setting.lower()), f"{setting} has a default"
        assert meaning


def test_the_example_of_a_dotenv_file_shows_the_defaults() -> None:
    shown = dict(line[1:].split("=", 1) for line in read(".env.example").splitlines() if "=" in line)
    assert list(shown) == [field.name.upper() for field in fields(Config)]
    for variable, default in shown.items():
        assert default or not getattr(Config(), variable.lower()), variable
    assert Config.from_env(shown) == Config()


@pytest.mark.parametrize("name", READMES)
def test_the_settings_for_each_llm_server_are_taken(name: str) -> None:
    examples = re.findall(r"`(LLM_SERVER_URL=[^`]+)`", read(name))
    assert len(examples) >= 3
    for example in examples:
        Config.from_env(dict(word.split("=", 1) for word in example.split()))


def test_the_table_of_errors_is_the_codes_table() -> None:
    table = rows(read("docs/errors.md"), 4, r"\d+")
    assert {code.strip("`"): int(status) for status, code, *_ in table} == {
        code: status for code, (status, _) in ERRORS.items()
    }
    assert len(table) == len(ERRORS)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_link_of_a_document_leads_to_a_file(name: str) -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", read(name)) if "://" not in link]
    folder = (ROOT / name).parent
    assert [link for link in links if not (folder / link).exists()] == []


def test_every_document_names_only_files_that_there_are() -> None:
    there = {path.name for folder in ("chatbot", "tests", "tools") for path in (ROOT / folder).rglob("*.*")}
    for name in DOCUMENTS:
        named = set(re.findall(r"`(?:\w+/)*(\w+\.(?:py|sql|html))`", read(name)))
        assert named <= there, f"{name} names {named - there}"


def test_the_version_is_the_changelogs_newest() -> None:
    assert re.findall(r"^## (\d+\.\d+\.\d+)", read("CHANGELOG.md"), re.MULTILINE)[0] == __version__
