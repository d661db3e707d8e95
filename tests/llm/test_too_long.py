""" "Too long" is known by its meaning, in the words in which servers were seen to say it (too_long.json)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chatbot.errors import ChatError, TooLong
from chatbot.llm.errors import failure_in, read_failure
from tests.llm.asking import failure

HERE = Path(__file__).parent
CASES = json.loads((HERE / "too_long.json").read_text())

WORDS = json.loads((HERE / "too_long_words.json").read_text())


def error_of(status: int, body: Any) -> ChatError:
    """What a refusal with this body means; a status of 200 is an error inside an answer."""
    if status == 200:
        found = failure_in(body)
        assert found
        return found.to_error()
    data = body if isinstance(body, str) else json.dumps(body)
    return read_failure(status, {}, data.encode()).to_error()


@pytest.mark.parametrize(("seen", "status", "body", "limit"), CASES, ids=[case[0] for case in CASES])
def test_too_long_is_told_from_what_only_looks_like_it(seen: str, status: int, body: Any, limit: Any) -> None:
    error = error_of(status, body)
    assert isinstance(error, TooLong) == (not seen.startswith("NO ")), error
    if isinstance(error, TooLong):
        assert limit in ("any", error.limit), "the number of tokens that it says it takes"
        assert (error.code, error.is_certain, error.param) == ("context_too_long", True, "message")


@pytest.mark.parametrize("status", [400, 404, 413, 422, 500, 503])
def test_it_is_known_under_any_status_that_servers_give_it(status: int) -> None:
    assert isinstance(
        error_of(status, {"error": "This model's maximum context length is 512 tokens."}), TooLong
    )


@pytest.mark.parametrize("field", ["code", "type"])
def test_it_is_known_by_its_code_whatever_the_words(field: str) -> None:
    assert isinstance(error_of(400, {"error": {"message": "m", field: "context_length_exceeded"}}), TooLong)


@pytest.mark.parametrize(
    ("words", "is_too_long"), [(words, kind == "too long") for kind, each in WORDS.items() for words in each]
)
def test_words_that_nobody_was_seen_to_use_are_understood_as_well(words: str, is_too_long: bool) -> None:
    """Made up in the manner of the others (too_long_words.json), to hold the patterns to the meaning."""
    assert isinstance(error_of(400, failure(words)), TooLong) == is_too_long
