"""One who does not read costs little, slows nobody, is let go in time, misses nothing when it reads again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from chatbot.storage.database import when_unlocked
from chatbot.web.backpressure import MAX_UNSENT
from tests.storage.tools import a_turn
from tests.tools.processes import ENV, start_chatbot
from tests.tools.raw import RawClient
from tests.tools.scripted_llm import END, Gate, ScriptedLLM, delta, events, reply
from tests.tools.server import Clock, Running, StartServer, Stream, text_of, until
from tests.web.test_hang_ups import resident

BIG = [f"{number:04d}" * 8192 for number in range(120)]
"""3.75 MiB of text, far more than the kernel keeps for one who does not read."""

MOST_UNSENT = 512 * 1024
"""64 KiB may wait for one client, and what the LLM sends at once may come on top."""


Stall = Callable[..., Awaitable[RawClient]]


@pytest.fixture
async def stall() -> AsyncIterator[Stall]:
    """Makes requests whose clients read only what they are told to."""
    clients: list[RawClient] = []

    async def stall(port: int, method: str, path: str, body: Any = None) -> RawClient:
        clients.append(RawClient())
        await clients[-1].request(port, method, path, body)
        return clients[-1]

    yield stall
    for client in clients:
        client.close()


def unsent(server: Running) -> list[int]:
    """How many bytes wait in the server for each client."""
    assert server.server._runner.server
    transports = [connection.transport for connection in server.server._runner.server.connections]
    return [transport.get_write_buffer_size() for transport in transports if transport]  # type: ignore[attr-defined]


async def settled(server: Running) -> int:
    """Waits until no more of what waits for a client leaves; returns how much that is."""
    same, before = 0, -1
    while same < 1000:
        now = max(unsent(server), default=0)
        same = same + 1 if now == before else 0
        before = now
        await asyncio.sleep(0)
    return before


def asked(session: str, message: str = "Hi") -> dict[str, str]:
    return {"session_id": session, "message": message}


async def read_to(stream: Stream, length: int) -> None:
    """Reads events until so many characters have been delivered."""
    while event := await stream.event():
        if event.id is not None and event.id >= length:
            return
    pytest.fail(f"the stream ended before character {length}")


async def test_a_listener_that_reads_nothing_makes_none_of_twenty_others_wait(
    server: Running, llm: ScriptedLLM, stall: Stall
) -> None:
    gates = [Gate() for _ in range(100)]
    steps: list[str | Gate] = []
    for gate in gates:
        steps += [gate, "word "]
    llm.play(reply("Hi ", gates[0], *BIG, *steps[1:]))
    session, first = await server.begin()
    message_id = first.message_id
    await stall(server.server.port, "GET", f"/api/sessions/{session}/messages/{message_id}/stream")
    others = [first, *[await server.resume(session, message_id, 3) for _ in range(19)]]
    gates[0].open()
    length = 3 + sum(map(len, BIG))
    await asyncio.gather(*(read_to(stream, length) for stream in others))
    assert max(unsent(server)) > 0, "the silent one was not stalled: the test shows nothing"
    for number, gate in enumerate(gates[1:]):
        # The LLM says no other word before each of the twenty has this one: none of them can be late.
        length += len("word ")
        words = await asyncio.gather(*(stream.read() for stream in others))
        assert [(word.text, word.id) for [word] in words] == [("word ", length)] * 20, f"word {number}"
        waiting = max(unsent(server))
        assert waiting < MOST_UNSENT, f"{waiting} bytes wait for one client"
        gate.open()
    for stream in others:
        assert (await stream.rest())[-1].data == "[DONE]"
    await server.ended()
    assert (await server.history(session))[-1][1] == "Hi " + "".join(BIG) + "word " * 100


async def test_one_who_reads_in_fits_while_the_reply_goes_on_is_caught_up_with_the_very_text(
    server: Running, llm: ScriptedLLM, stall: Stall
) -> None:
    texts = [text + "한é👩‍👧" for text in BIG]
    gates = [Gate() for _ in range(8)]
    steps: list[str | Gate] = []
    for number, gate in enumerate(gates):
        steps += [*texts[number * 15 : number * 15 + 15], gate]
    llm.play(reply(*steps, "the end"))
    session = await server.session()
    slow = await stall(server.server.port, "POST", "/api/chat/stream", asked(session))
    for number, gate in enumerate(gates):
        await gate.reached.wait()
        assert await settled(server), "it was not stalled: the test shows nothing"
        await slow.read((number % 3) * 300_000)
        gate.open()
    await server.ended()
    await slow.read_to_done()
    found = slow.events
    assert text_of(found) == "".join(texts) + "the end"
    assert max(len(event.text) for event in found) <= 64 * 1024, "a catch-up has a bounded size"
    assert [event.finish_reason for event in found if event.finish_reason] == ["stop"]
    length = 0
    for event in found[:-1]:
        length += len(event.text)
        assert event.id == length


async def test_one_who_reads_nothing_for_thirty_seconds_is_let_go_and_can_come_back(
    start: StartServer, llm: ScriptedLLM, clock: Clock, stall: Stall
) -> None:
    server = await start(disconnect_grace_seconds=1000, llm_timeout_seconds=1000)
    gate = Gate()
    llm.play(reply(*BIG, gate, "the end"))
    session = await server.session()
    silent = await stall(server.server.port, "POST", "/api/chat/stream", asked(session))
    await gate.reached.wait()
    assert await settled(server), "it was not stalled: the test shows nothing"
    open_before = server.connections
    clock.advance(29)
    await server.call("GET", "/api/health")
    assert server.connections == open_before, "let go before its 30 s were over"
    clock.advance(2)
    await until(lambda: server.connections < open_before)
    _, health, _ = await server.call("GET", "/api/health")
    assert health["active_replies"] == 1, "the reply goes on without it"
    while await silent.read(1):
        pass
    found = silent.events
    assert "[DONE]" not in [event.data for event in found]
    last = next(event.id for event in reversed(found) if event.id is not None)
    _, body, _ = await server.call("GET", f"/api/sessions/{session}")
    again = await server.resume(session, body["active_reply"]["message_id"], last)
    gate.open()
    rest = await again.rest()
    assert text_of(found) + text_of(rest) == "".join(BIG) + "the end"
    assert rest[-1].data == "[DONE]"


async def test_one_who_stops_reading_is_let_go_wherever_it_stops(
    server: Running, clock: Clock, stall: Stall
) -> None:
    # Of some nothing waits at the end, of some the middle of the text, of some its very last piece.
    session = await server.session()
    for length in range(50_000, 3_500_000, 50_000):
        turn = a_turn(session, reply="x" * length, chunk_ends=None)
        await when_unlocked(lambda turn=turn: server.store.add_turn(turn))  # type: ignore[misc]
        path = f"/api/sessions/{session}/messages/{turn.turn_id}/stream"
        await stall(server.server.port, "GET", path)
    assert 0 < await settled(server) < MOST_UNSENT
    clock.advance(31)
    await settled(server)
    clock.advance(31)  # of some a little had left in the first thirty seconds
    await settled(server)
    assert [size for size in unsent(server) if size] == [], "still waiting after 62 s"


async def test_one_who_reads_a_little_now_and_then_is_not_let_go(
    start: StartServer, llm: ScriptedLLM, clock: Clock, stall: Stall
) -> None:
    server = await start(llm_timeout_seconds=10_000)
    gate = Gate()
    llm.play(reply(*BIG, gate, "the end"))
    session = await server.session()
    slow = await stall(server.server.port, "POST", "/api/chat/stream", asked(session))
    await gate.reached.wait()
    rounds, enough = 0, sum(map(len, BIG)) - 500_000  # at the very end there is less to read than it asks for
    while len(slow.received) < enough and await settled(server):
        clock.advance(25)
        await server.call("GET", "/api/health")
        assert await slow.read(100_000), "let go though it reads"
        rounds += 1
    assert rounds >= 2, "it did not read slowly: the test shows nothing"
    gate.open()
    await slow.read_to_done()
    assert text_of(slow.events) == "".join(BIG) + "the end"


async def test_while_a_client_of_the_relay_reads_nothing_the_llm_is_not_taken_for_silent(
    start: StartServer, llm: ScriptedLLM, clock: Clock, stall: Stall
) -> None:
    server = await start(llm_timeout_seconds=5)
    llm.play(reply(*BIG))
    body = {"messages": [{"role": "user", "content": "Hi"}], "stream": True}
    slow = await stall(server.server.port, "POST", "/v1/chat/completions", body)
    await until(lambda: max(unsent(server), default=0) > MAX_UNSENT)
    for _ in range(3):
        for seconds in (5.1, 0.1):
            clock.advance(seconds)
            for _ in range(3):
                await asyncio.sleep(0)  # what is due by now is done
    await slow.read_to_done()
    assert b'"error"' not in slow.received


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
async def test_fifty_listeners_that_read_nothing_cost_the_process_little_memory(
    llm: ScriptedLLM, stall: Stall
) -> None:
    gate, end = Gate(), Gate()
    # What a model says is a few characters a frame: 1 MiB of text are over 10 MiB of frames.
    words = [delta(f"{number:08d} wood chucks ") for number in range(50_000)]
    bunches = [b"".join(words[start : start + 100]) for start in range(0, len(words), 100)]
    llm.play([*events(delta("Hi "), gate, *bunches, end, delta(finish="stop")), END])
    with start_chatbot("--port", "0", env=ENV | {"LLM_SERVER_URL": llm.url, "LLM_MODEL": "m"}) as process:
        url = process.url
        async with aiohttp.ClientSession() as http:
            async with http.post(f"{url}/api/sessions", json={}) as response:
                session = (await response.json())["session_id"]
            reader = Stream(await http.post(f"{url}/api/chat/stream", json=asked(session)))
            await reader.event()
            path = f"/api/sessions/{session}/messages/{reader.message_id}/stream"
            for _ in range(50):
                silent = await stall(process.port, "GET", path)
                await silent.read(1)
            before = resident(process)
            gate.open()
            await read_to(reader, 3 + 50_000 * 21)
            grown = resident(process) - before
            end.open()
            await reader.rest()
    assert sum(map(len, bunches)) > 8 * 2**20
    # 50 times what may wait, the text itself, and some room for the allocator; all frames for all
    # of them would be over 400 MiB.
    assert grown < 48 * 2**20, f"{grown / 2**20:.1f} MiB for 50 silent listeners"
