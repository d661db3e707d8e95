"""What a visitor believes of its conversation: a tree of turns, from which the history is predicted."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from chatbot.chat.reply_log import ReplyLog
from chatbot.records import Turn
from tests.chaos.random_llm import Character, characters, end_of
from tests.tools.server import Running


class Node(NamedTuple):
    """A turn: the reply's id, the one it follows, what was said, what was answered and how it ended."""

    message_id: str
    parent: str | None
    said: tuple[str, ...]
    heard: tuple[Character, ...]
    reason: str

    @property
    def question(self) -> str:
        """What the LLM was asked: the last of what was said."""
        return str(json.loads(self.said[-1])["content"])

    @property
    def open_calls(self) -> list[str]:
        """The ids of the calls that may be given outputs: of a cut reply not the last, nor a half one."""
        calls = told(self.heard, self.reason).get("tool_calls", [])
        if self.reason == "cancelled":
            calls = [call for call in calls[:-1] if call["function"]["arguments"].endswith("}")]
        return [call["id"] for call in calls]


def check(node: Node) -> None:
    """It is what the LLM says to its question, as far as it came."""
    whole = tuple(characters(node.question))
    assert node.reason in (end_of(node.question), "cancelled"), node
    assert node.heard == whole if node.reason != "cancelled" else node.heard == whole[: len(node.heard)], node
    assert node.heard, node


class Tree:
    """The turns in the order in which they were stored, and the one at which the conversation is."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self.current: str | None = None

    def below(self, message_id: str) -> set[str]:
        """A turn and all that follow from it."""
        found = {message_id}
        for node in self.nodes.values():
            if node.parent in found:
                found.add(node.message_id)
        return found

    def end_below(self, message_id: str) -> str:
        """The newest turn at or below another."""
        below = self.below(message_id)
        return [node for node in self.nodes if node in below][-1]

    def path(self) -> list[Node]:
        """The turns up to the current one, oldest first."""
        found: list[Node] = []
        at = self.current
        while at:
            found.insert(0, self.nodes[at])
            at = found[0].parent
        return found

    def history(self) -> list[dict[str, Any]]:
        """What the server shows of the path."""
        found = []
        for node in self.path():
            for place, text in enumerate(node.said, 1):
                found.append({"message_id": f"{node.message_id[:-3]}{place:03x}"} | json.loads(text))
            found.append(
                {"message_id": node.message_id, "finish_reason": node.reason} | told(node.heard, node.reason)
            )
            same = [
                one.message_id
                for one in self.nodes.values()
                if (one.parent, one.said) == (node.parent, node.said)
            ]
            if len(same) > 1:
                found[-1]["versions"] = {"ids": same, "index": same.index(node.message_id)}
        return found

    @classmethod
    def stored(cls, server: Running, session: str) -> Tree:
        """What is really stored, read behind the server's back."""
        tree = cls()
        row = server.store.session(session)
        pending: list[tuple[int | None, str | None]] = [(None, None)]
        found: list[tuple[int, Node]] = []
        while pending:
            seq, parent = pending.pop()
            for child in server.store.children(session, seq):
                turn = server.store.turn(child.seq)
                assert turn
                found.append((turn.seq, node_of(turn, parent)))
                pending.append((turn.seq, turn.turn_id))
                if row and row.current == turn.seq:
                    tree.current = turn.turn_id
        tree.nodes = {node.message_id: node for _, node in sorted(found)}
        return tree


def node_of(turn: Turn, parent: str | None) -> Node:
    """A turn as it is stored."""
    log = ReplyLog.from_turn(turn)
    heard: list[Character] = []
    for kind, letters, call, head in log.pieces(0, log.length):
        heard += [(kind, call, " ".join(head[:2]))] if head else []
        heard += [(kind, call, letter) for letter in letters]
    return Node(turn.turn_id, parent, tuple(turn.messages), tuple(heard), turn.finish_reason or "")


def told(heard: tuple[Character, ...], reason: str) -> dict[str, Any]:
    """The message that a reply is, from its characters; a whole call without arguments has {}."""
    text = [letter for kind, _, letter in heard if kind == "text"]
    found: dict[str, Any] = {"role": "assistant", "content": "".join(text) if text else None}
    if thoughts := [letter for kind, _, letter in heard if kind == "reasoning"]:
        found["reasoning"] = "".join(thoughts)
    calls: dict[int, dict[str, Any]] = {}
    for kind, call, letter in heard:
        if kind == "call" and call not in calls:
            call_id, name = letter.split(" ")
            calls[call] = {"id": call_id, "type": "function", "function": {"name": name, "arguments": ""}}
        elif kind == "call":
            calls[call]["function"]["arguments"] += letter
    for whole in calls.values() if reason != "cancelled" else ():
        whole["function"]["arguments"] = whole["function"]["arguments"] or "{}"
    return found | ({"tool_calls": list(calls.values())} if calls else {})
