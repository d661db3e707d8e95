"""A long message is written in pieces that fit together, whoever else reads, or not at all."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from unittest.mock import AsyncMock

import pytest

from chatbot.api.pages import MAX_PIECE, MessageWriter
from chatbot.chat.history import Page, Ref
from chatbot.ids import new_turn_id
from chatbot.records import Turn, as_json
from chatbot.web.backpressure import PIECE_BYTES, Pieces
from tests.tools.counting import Steps
from tests.tools.scripted_llm import ScriptedLLM, answer, completion
from tests.tools.server import Running


async def long_message(server: Running, llm: ScriptedLLM, letter: str) -> tuple[str, Ref]:
    session = await server.session()
    llm.play(answer(body=completion(letter * 3 * MAX_PIECE)))
    await server.chat(session)
    [(seq,)] = server.sql("SELECT max(seq) FROM turns")
    return session, Ref(seq, 0)


async def test_two_who_read_long_messages_by_turns_are_sent_each_their_own(
    server: Running, llm: ScriptedLLM
) -> None:
    writer = MessageWriter(server.store)
    wanted = {letter: await long_message(server, llm, letter) for letter in "ab"}
    readers = {letter: writer.message(*where, omit=False) for letter, where in wanted.items()}
    found = dict.fromkeys(readers, b"")
    for pieces in zip(*readers.values(), strict=True):
        for letter, piece in zip(found, pieces, strict=True):
            assert 0 < len(piece) <= MAX_PIECE
            found[letter] += piece
    for letter, text in found.items():
        assert json.loads(text)["content"] == letter * 3 * MAX_PIECE


async def test_a_message_that_changes_while_it_is_written_breaks_off(
    server: Running, llm: ScriptedLLM
) -> None:
    writer = MessageWriter(server.store)
    session, ref = await long_message(server, llm, "a")
    pieces = writer.message(session, ref, omit=False)
    next(pieces)
    list(writer.message(*await long_message(server, llm, "b"), omit=False))
    server.store.delete_session(session)
    with pytest.raises(ConnectionResetError):
        list(pieces)
    assert list(writer.message(session, ref, omit=False)) == []


class Splits(str):
    """A text that counts how often it is taken apart."""

    count = 0

    def split(self, *args: object, **kw: object) -> list[str]:
        Splits.count += 1
        return str(self).split("\n")


@pytest.mark.parametrize("versions", [1, 3])
async def test_a_turn_of_many_messages_is_taken_apart_once_and_its_versions_are_read_once(
    server: Running, monkeypatch: pytest.MonkeyPatch, versions: int
) -> None:
    """A page of a turn of 2,000 messages of 4 KB took 17 s, in which nobody was served."""
    steps, read = Steps(server.store._db.connection), []
    for number in (10, 100):
        session = await server.session()
        said = "\n".join(as_json({"role": "user", "content": f"{place}"}) for place in range(number))
        for _ in range(versions):
            seq = server.store.add_turn(Turn(0, session, None, new_turn_id(1), 1, 1, input=said))
        turn = server.store.turn(seq)
        assert turn
        counted = turn._replace(input=Splits(said))
        monkeypatch.setattr(server.store, "turn", lambda _, counted=counted: counted)
        steps.take()
        Splits.count = 0
        page = Page([Ref(seq, place + 1) for place in range(number)], False)
        data = b"".join(MessageWriter(server.store).page(session, page, omit=False))
        assert len(json.loads(data)["messages"]) == number
        assert Splits.count <= 1
        read.append(steps.take())
    assert read[1] < 2 * read[0]


async def test_others_have_their_turn_between_two_pieces_also_if_the_client_reads_at_once() -> None:
    order: list[object] = []

    def pieces() -> Iterator[bytes]:
        for number in range(3):
            order.append(number)
            asyncio.get_running_loop().call_soon(order.append, "another")
            yield bytes(PIECE_BYTES)

    await Pieces(pieces()).write(AsyncMock())  # which never keeps its writer waiting
    assert order == [0, "another", 1, "another", 2, "another"]
