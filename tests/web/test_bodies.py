"""What is taken for JSON is JSON, in Unicode, of bounded depth and structure, and what is wrong is named."""

from __future__ import annotations

import json
from typing import Any

import pytest

from chatbot.errors import ChatError
from chatbot.web.bodies import MAX_DEPTH, MAX_VALUES, parse_json


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b"", {}),
        (b" \r\n", {}),
        (b'\xef\xbb\xbf{"a": 1}', {"a": 1}),
        ('{"a": "\\ud83d\\ude00 한"}'.encode(), {"a": "😀 한"}),
        (b'{"a": "NaN and Infinity and 1e999"}', {"a": "NaN and Infinity and 1e999"}),
        (b'{"a": 1e100, "b": null}', {"a": 1e100, "b": None}),
        (b"[" * MAX_DEPTH + b"]" * MAX_DEPTH, json.loads("[" * MAX_DEPTH + "]" * MAX_DEPTH)),
    ],
)
def test_what_is_json_is_taken(body: bytes, value: Any) -> None:
    assert parse_json(body) == value


@pytest.mark.parametrize(
    ("body", "code", "param", "said"),
    [
        (b"{", "invalid_json", None, "line 1, column 2"),
        (b'{"secret": secret}', "invalid_json", None, "line 1, column 12"),
        (b'{"a": "\xff"}', "invalid_json", None, "UTF-8"),
        (b"[" * 60_000 + b"]" * 60_000, "invalid_request", None, "nested"),
        (b'{"a": ' + b"9" * 5000 + b"}", "invalid_json", None, "not JSON"),
        (b'{"a": {"b": NaN}}', "invalid_request", "a", "number"),
        (b'{"a": -Infinity}', "invalid_request", "a", "number"),
        (b'{"a": [1e999]}', "invalid_request", "a", "number"),
        (b'{"a": 1' + b"0" * 400 + b".0}", "invalid_request", "a", "number"),
        (b'{"a": 1, "b": ["\\ud83d"]}', "invalid_request", "b", "surrogate"),
        (b'{"\\ude00": 1}', "invalid_request", "?", "surrogate"),
        (b'"\\uDBFF"', "invalid_request", None, "surrogate"),
        (b'{"a": ' + b"[" * 65 + b"]" * 65 + b"}", "invalid_request", "a", "nested"),
        (b"[" + b"1," * MAX_VALUES + b"1]", "invalid_request", None, "more than 65536 values"),
    ],
)
def test_what_is_none_is_refused_by_name(body: bytes, code: str, param: str | None, said: str) -> None:
    with pytest.raises(ChatError) as caught:
        parse_json(body)
    error = caught.value
    assert (error.code, error.param) == (code, param), error.message
    assert said in error.message
    assert "secret" not in error.message


def test_a_long_text_is_no_structure() -> None:
    text = '"[{,' * MAX_VALUES
    assert parse_json(json.dumps({"a": text}).encode()) == {"a": text}


def test_a_body_of_many_objects_is_not_written_again_to_be_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """To write one of 8 MB took longer than to read it, and every agent's request has many objects."""
    monkeypatch.delattr("chatbot.web.bodies._strict")
    value = {"tools": [{}] * (MAX_DEPTH + 1)}
    assert parse_json(json.dumps(value).encode()) == value
