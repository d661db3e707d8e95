"""A long message is written in pieces that fit together, whoever else reads, or not at all."""

from __future__ import annotations

import json

import pytest

from chatbot.api.pages import MAX_PIECE, MessageWriter
from chatbot.api.responses import message_object, plain_message
from chatbot.chat.history import Ref
from chatbot.records import dumps
from tests.tools.scripted_llm import ScriptedLLM, answer, completion
from tests.tools.server import Running


async def long_message(server: Running, llm: ScriptedLLM, letter: str) -> tuple[str, Ref]:
    session = await server.session()
    llm.play(answer(body=completion(letter * 3 * MAX_PIECE)))
    await server.chat(session)
    [(seq,)] = server.sql("SELECT max(seq) FROM turns")
    return session, Ref(seq, 0)


@pytest.mark.parametrize("said", ['"quoted" \\ \x00 \u2028', "한국어 😀", '","content":"'])
async def test_text_that_is_not_parsed_is_written_as_it_would_be_if_it_were(
    server: Running, llm: ScriptedLLM, said: str
) -> None:
    session = await server.session()
    for reasons in (False, True):
        body = completion(said)
        body["choices"][0]["message"] |= {"reasoning_content": said} if reasons else {}
        llm.play(answer(body=body))
        await server.chat(session, said)
    [(seq,)] = server.sql("SELECT max(seq) FROM turns")
    turn = server.store.turn(seq)
    assert turn
    for place in (0, 1):
        assert plain_message(turn, place) == dumps(message_object(server.store, turn, place))


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
