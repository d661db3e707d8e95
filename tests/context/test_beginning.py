"""The beginning of a context stands still until it is full; then the older half goes at once."""

from __future__ import annotations

import json

import pytest

from chatbot.chat.context import WHOLE, Head, plan, shrink, system_message
from chatbot.chat.limits import Budget, ContextLimits
from chatbot.errors import TooLong
from chatbot.ids import message_id
from tests.context.conversation import Conversation, assistant, make_turn, tool, user
from tests.tools.prefix_llm import PrefixLLM


def conversation(messages: int, prompt: str = "", tokens: int = 0) -> Conversation:
    return Conversation(PrefixLLM(), ContextLimits(messages, tokens), prompt)


def counts(talked: Conversation) -> list[int]:
    return [context.count for context in talked.contexts]


def questions(messages: list[str]) -> list[str]:
    """The first words of what users said."""
    said = [json.loads(message) for message in messages]
    return [message["content"].split()[0] for message in said if message["role"] == "user"]


@pytest.mark.parametrize(
    ("allowed", "expected"),
    [
        (1, [1, 1, 1, 1]),
        (2, [1, 1, 1, 1]),
        (3, [1, 3, 3, 3]),
        (4, [1, 3, 3, 3]),  # four would begin with an answer, which many chat templates refuse
        (5, [1, 3, 5, 3, 5, 3, 5]),
        (10, [1, 3, 5, 7, 9, 5, 7, 9, 5, 7, 9]),
        (40, [*range(1, 40, 2), *range(19, 40, 2), *range(19, 40, 2)]),
    ],
)
def test_a_context_grows_until_it_is_full_and_then_half_of_it_stays(
    allowed: int, expected: list[int]
) -> None:
    talked = conversation(allowed, "Be kind.")
    talked.talk(len(expected))
    assert counts(talked) == expected, "the system prompt is not counted"
    assert all(context.messages[0] == system_message("Be kind.") for context in talked.contexts)


def test_a_rewind_and_a_branch_find_the_beginning_that_their_parent_had() -> None:
    talked = conversation(10)
    talked.talk(8)
    talked.current = 4  # it was answered from the beginning on
    assert questions(talked.next(user("Q5")).messages) == ["Q1", "Q2", "Q3", "Q4", "Q5"]
    talked.current = 7  # the second after the step
    assert talked.next(user("Q8")).messages[:-1] == talked.contexts[7].messages[:-1]


@pytest.mark.parametrize("change", ["model", "tools"])
def test_another_model_or_other_tools_are_another_head(change: str) -> None:
    head = Head.of("m", {"temperature": 1}, [system_message("Be kind.")])
    tools = {"tools": [{"type": "function", "function": {"name": "find"}}]}
    other = Head.of("n", {}, head.messages) if change == "model" else Head.of("m", tools, head.messages)
    assert other.key != head.key
    assert Head.of("m", {"temperature": 0}, head.messages).key == head.key, "options change no prompt"


def test_where_tools_are_not_known_the_beginning_is_that_of_the_last_question() -> None:
    talked = conversation(10)
    talked.fields = {"tools": [{"type": "function", "function": {"name": "find"}}]}
    talked.talk(6)
    unknown = plan(talked.path(), [], Head.of("m", None, []), Budget(10))
    assert unknown.messages == talked.next(user("Q7")).messages[:-1]
    assert len(unknown.turns) == 3
    assert plan(talked.path(), [], Head.of("n", None, []), Budget(10)).count == 8, "another model"


def test_only_what_is_sent_and_one_turn_more_is_read() -> None:
    talked = conversation(10)
    talked.talk(50)
    talked.read = 0
    context = talked.next(user("Q51"))
    assert talked.read <= len(context.turns) + 4
    talked.prompt, talked.read = "Be brief.", 0
    talked.next(user("Q51"))
    assert talked.read == 5


def test_a_smaller_limit_takes_as_many_steps_as_it_needs() -> None:
    talked = conversation(40)
    talked.talk(19)
    talked.limits = ContextLimits(6)
    talked.talk(3)
    assert counts(talked)[-3:] == [5, 3, 5]


def test_a_turn_that_only_added_messages_does_not_say_where_a_context_began() -> None:
    talked = conversation(10)
    talked.talk(6)
    said = [user("noted"), user("and this")]
    talked.turns[7] = make_turn(7, said, None)
    talked.current = 7
    context = talked.next(user("Q8"))
    assert questions(context.messages) == ["Q4", "Q5", "Q6", "noted", "and", "Q8"]
    assert context.messages[-3:-1] == said


def test_messages_that_were_deleted_alone_are_left_out() -> None:
    said = ["null", user("two")]
    turns = [make_turn(1, said, assistant("yes")), make_turn(2, ["null"], assistant("more"))]
    context = plan(reversed(turns), [user("three")], Head.of("m", {}, []), Budget(10))
    assert context.messages == [user("two"), assistant("yes"), assistant("more"), user("three")]
    assert context.first == message_id(turns[0].turn_id, 2)
    alone = plan(iter([turns[1]._replace(parent=None)]), [user("three")], Head.of("m", {}, []), Budget(10))
    assert alone.first == message_id(turns[1].turn_id, 0), (
        "its question is gone, so it begins with the answer"
    )


def test_messages_that_were_deleted_alone_take_no_room_of_others() -> None:
    turns = [make_turn(1, [user("one")], None), make_turn(2, ["null", "null", user("two")], None)]
    turns += [make_turn(seq, ["null", "null"], None) for seq in range(3, 9)]
    context = plan(reversed(turns), [user("three")], Head.of("m", {}, []), Budget(4))
    assert questions(context.messages) == ["one", "two", "three"]


def test_turns_of_which_nothing_is_left_are_no_part_of_the_half_that_stays() -> None:
    talked = conversation(10)
    talked.talk(4)
    talked.turns[5] = make_turn(5, ["null", "null"], None)
    talked.current = 5
    talked.talk(2)
    assert questions(talked.contexts[-1].messages) == ["Q4", "Q6", "Q7"]


def test_a_beginning_that_was_taken_out_of_the_conversation_is_followed_by_the_next() -> None:
    talked = conversation(10)
    talked.talk(7)
    talked.turns[5] = talked.turns[5]._replace(parent=3)  # without turn 4, at which the context began
    assert questions(talked.next(user("Q8")).messages) == ["Q5", "Q6", "Q7", "Q8"]


# Rounds of tool calls


def rounds(length: int, first: int = 1, said: str = "Q") -> list[tuple[list[str], str]]:
    """A user's question, `length` rounds of a tool call and its output, and the answer."""
    turns, ask = [], [user(said)]
    for number in range(first, first + length):
        turns.append((ask, assistant(None, f"c{number}")))
        ask = [tool(f"c{number}")]
    return [*turns, (ask, assistant("found"))]


def test_a_context_begins_with_a_users_message_whatever_the_rounds_are() -> None:
    talked = conversation(12)
    for number in range(30):
        for said, output in rounds(number % 4, 10 * number):
            context = talked.ask(*said, output=output)
            assert json.loads(context.messages[0])["role"] == "user"
            assert context.count <= 12
    assert min(counts(talked)[10:]) >= 1


def test_a_round_goes_whole_even_over_the_limit() -> None:
    talked = conversation(4)
    talked.talk(2)
    for said, output in rounds(6):
        talked.ask(*said, output=output)
    assert counts(talked)[2:] == [3, 3, 5, 7, 9, 11, 13], "from the user's message on, and nothing before it"
    assert questions(talked.contexts[-1].messages) == ["Q"]
    talked.talk(1)
    assert counts(talked)[-1] == 1, "after it the round is a part of the conversation like any other"


def test_what_belongs_to_a_round_is_read_up_to_the_users_message() -> None:
    turns = [make_turn(seq, *turn) for seq, turn in enumerate(rounds(6), 1)]
    context = plan(reversed(turns[:-1]), turns[-1].messages, Head.of("m", {}, []), Budget(2))
    assert context.start == 1
    assert context.count == 13
    context = plan(iter([]), [assistant("Hi"), user("Q")], Head.of("m", {}, []), Budget(2))
    assert (context.count, context.reason) == (2, WHOLE), "there may be none"


class Counted(list[str]):
    """What is sent of a turn; counts how often anybody asks how much that is."""

    asked = 0

    def __len__(self) -> int:
        Counted.asked += 1
        return super().__len__()


def test_choosing_where_a_context_begins_counts_each_turn_once() -> None:
    path = [make_turn(seq, [user("Q")], assistant("A")) for seq in range(500, 0, -1)]
    context = plan(path, [user("Q")], Head.of("m", {}, []), Budget(2000))
    context.__dict__.pop("sizes", None)
    context.parts = [Counted(part) for part in context.parts]
    Counted.asked = 0
    assert context.step(0, Budget(1)) == 500
    assert Counted.asked <= len(context.parts)


def test_a_round_that_was_refused_is_left_out_whole() -> None:
    """Also if nothing was learned, and it seems to fit: else it would be asked again for ever."""
    rounds = [make_turn(1, [user("Q")], assistant("A")), make_turn(2, [user("Q")], assistant(None, "c2"))]
    rounds += [make_turn(seq, [tool(f"c{seq - 1}")], assistant(None, f"c{seq}")) for seq in (3, 4)]
    path = [make_turn(5, [tool("c4")], assistant("A")), *reversed(rounds)]
    context = plan(iter(path), [user("Q")], Head.of("m", {}, []), Budget(100))
    starts = [context.start]
    while context.turns:
        context = shrink(context, Budget(100), TooLong("context_too_long", "Too long.", teaches=False))
        starts.append(context.start)
        assert len(starts) < 9
    assert starts == [1, 2, None]


def test_a_context_that_is_made_shorter_is_not_measured_again() -> None:
    path = [make_turn(seq, [user("Q")], assistant("A")) for seq in range(9, 0, -1)]
    context = plan(path, [user("Q")], Head.of("m", {}, []), Budget(100, 10_000))
    shorter = shrink(context, Budget(100, 10_000), TooLong("context_too_long", "Too long."))
    assert (len(context.turns), len(shorter.turns)) == (9, 4)
    assert shorter.totals is context.totals
