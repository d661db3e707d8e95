"""What the LLM is sent of a turn: its messages byte for byte, and the tool calls that it won't refuse."""

from __future__ import annotations

import json
from typing import Any

import pytest

from chatbot.chat.turn_messages import in_order, open_calls, sent_of
from chatbot.records import Turn, as_json
from tests.context.conversation import assistant, make_turn, tool, user

Q, A = user("Q"), assistant("A")


def flat(turns: list[Turn], *said: str, **options: Any) -> list[str]:
    return [message for messages in sent_of(turns, said, **options) for message in messages]


def test_messages_go_byte_for_byte() -> None:
    odd = '{"role":"user","content":"\\u0041 한 <\\u2028>","name":"x"}'
    output = '{"role":"assistant","content":"\\"tool_calls\\":\\/"}'
    turns = [make_turn(1, [odd, Q], output)]
    assert flat(turns, Q) == [odd, Q, output, Q], "without calls it isn't even parsed"


def test_calls_go_with_their_outputs() -> None:
    calls = assistant("Let me see.", "a", "b")
    turns = [make_turn(1, [Q], calls), make_turn(2, [tool("a"), tool("b")], A)]
    assert flat(turns[:1], tool("a"), tool("b")) == [Q, calls, tool("a"), tool("b")]
    assert flat(turns, Q) == [Q, calls, tool("a"), tool("b"), A, Q]


def test_outputs_that_are_added_one_by_one_count_too() -> None:
    calls = assistant(None, "a", "b")
    turns = [make_turn(1, [Q], calls), make_turn(2, [tool("b")], None)]
    assert flat(turns, tool("a"), Q) == [Q, calls, tool("b"), tool("a"), Q]


def test_a_call_without_its_output_is_left_out_and_the_text_beside_it_stays() -> None:
    turns = [make_turn(1, [Q], assistant("Let me see.", "a", "b"))]
    assert flat(turns, tool("b")) == [Q, assistant("Let me see.", "b"), tool("b")]
    assert flat(turns, Q) == [Q, assistant("Let me see."), Q]
    assert flat([make_turn(1, [Q], assistant(None, "a"))], Q) == [Q, Q], (
        "with nothing beside it the message goes"
    )


def test_an_output_without_its_call_is_left_out() -> None:
    turns = [make_turn(1, [Q], assistant(None, "a"))]
    assert flat(turns, tool("a"), tool("a"), tool("b")) == [Q, assistant(None, "a"), tool("a")]
    late = [*turns, make_turn(2, [Q], A)]
    assert flat(late, tool("a"), Q) == [Q, Q, A, Q], "another turn stands between them"


@pytest.mark.parametrize("finish_reason", ["cancelled", "length", "MAX_TOKENS", "content_filter"])
def test_a_call_that_was_cut_is_never_sent(finish_reason: str) -> None:
    turn = make_turn(1, [Q], assistant("x", "a", "b"), finish_reason=finish_reason)
    assert flat([turn], tool("a"), tool("b")) == [Q, assistant("x", "a"), tool("a")]
    assert open_calls(turn) == ["a"]


def test_of_calls_written_by_turns_a_cut_leaves_those_that_are_whole() -> None:
    output = assistant("x", "a", "b", "c").replace('"arguments":"{}"', '"arguments":"{\\"q\\":"', 1)
    turn = make_turn(1, [Q], output, finish_reason="cancelled")
    assert open_calls(turn) == ["b"]
    assert flat([turn], tool("a"), tool("b")) == [Q, assistant("x", "b"), tool("b")]


def test_a_cut_call_that_is_nested_too_deep_to_be_read_is_not_sent() -> None:
    message = json.loads(assistant(None, "a", "b"))
    message["tool_calls"][0]["function"]["arguments"] = "[" * 200_000
    turn = make_turn(1, [Q], as_json(message), finish_reason="length")
    assert open_calls(turn) == []
    assert flat([turn], tool("a")) == [Q]


def test_the_calls_that_wait_for_outputs() -> None:
    assert open_calls(make_turn(1, [Q], assistant(None, "a", "b"))) == ["a", "b"]
    assert open_calls(make_turn(1, [Q], A)) == open_calls(make_turn(1, [Q], None)) == []


def test_calls_that_a_client_added_are_treated_like_the_llms() -> None:
    added = make_turn(1, [Q, assistant(None, "a"), tool("a"), assistant(None, "b")], None)
    assert flat([added], tool("b")) == [Q, assistant(None, "a"), tool("a"), assistant(None, "b"), tool("b")]
    assert flat([added], Q) == [Q, assistant(None, "a"), tool("a"), Q]


def test_an_answer_of_nothing_is_left_out() -> None:
    turns = [make_turn(1, [Q], assistant(None), reasoning="hm", finish_reason="length")]
    assert flat(turns, Q) == [Q, Q]


@pytest.mark.parametrize("text", [" ", "\n\n", "\t \r\n", "\u3000"])
def test_an_answer_of_blanks_is_left_out(text: str) -> None:
    """Anthropic's servers and Bedrock's refuse it, and would refuse the conversation for ever."""
    assert flat([make_turn(1, [Q], assistant(text))], Q) == [Q, Q]


@pytest.mark.parametrize(
    "arguments", ["", '{"city": "Seo', '{"city": "a" and "b"}', "null", '"Seoul"', "[" * 99]
)
def test_a_call_whose_arguments_cannot_be_read_is_sent_without_them(arguments: str) -> None:
    """vLLM and llama.cpp parse them when they are sent back, and would refuse the conversation for ever."""
    calls = assistant("Let me see.", "a", "b")
    bad = calls.replace(as_json("{}"), as_json(arguments), 1)
    assert bad != calls
    assert flat([make_turn(1, [Q], bad)], tool("a"), tool("b")) == [Q, calls, tool("a"), tool("b")]
    assert flat([make_turn(1, [Q, bad], None)], tool("a"), tool("b")) == [Q, calls, tool("a"), tool("b")]


def test_reasoning_is_sent_only_to_those_who_want_it() -> None:
    turns = [make_turn(1, [Q], A, reasoning="hm")]
    assert flat(turns, Q) == [Q, A, Q]
    _, sent, _ = flat(turns, Q, send_reasoning=True)
    assert json.loads(sent) == {"role": "assistant", "content": "A", "reasoning_content": "hm"}


PROMPT, PICTURE = (
    as_json({"role": "system", "content": "Be kind."}),
    {"type": "image_url", "image_url": {"url": "data:,"}},
)
ORDERS = {
    "a prompt that is repeated": ([PROMPT, Q, A, PROMPT, Q], [PROMPT, Q, A, Q]),
    "another prompt later": (
        [PROMPT, Q, A, as_json({"role": "system", "content": "Be brief."}), Q],
        [as_json({"role": "system", "content": "Be kind.\n\nBe brief."}), Q, A, Q],
    ),
    "a question whose answer was nothing": ([Q, user("R"), A, Q], [user("Q\n\nR"), A, Q]),
    "with a picture": (
        [Q, as_json({"role": "user", "content": [PICTURE]})],
        [as_json({"role": "user", "content": [{"type": "text", "text": "Q"}, PICTURE]})],
    ),
    "calls after a text, and the outputs of two": (
        [Q, A, assistant(None, "a", "b"), tool("a"), tool("b"), A],
        [Q, assistant("A", "a", "b"), tool("a"), tool("b"), A],
    ),
    "a question after an output": (
        [Q, assistant(None, "a"), tool("a"), Q],
        [Q, assistant(None, "a"), tool("a"), as_json({"role": "assistant", "content": "OK"}), Q],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ORDERS)
def test_strict_templates_get_one_prompt_and_the_roles_by_turns(name: str) -> None:
    messages, expected = ORDERS[name]
    assert in_order(messages) == expected == in_order(expected)
