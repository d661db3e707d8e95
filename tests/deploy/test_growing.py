"""docs/scale.md's recipes under load: a range is halved, and a minute of chaos behind a proxy."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest

from tests.deploy.farm import Farm
from tests.deploy.recipes import written

CHAOS_SECONDS = float(os.environ.get("CHAOS_SECONDS", "60"))


class Talker:
    """One client that talks in sessions of its own and remembers what was acknowledged."""

    def __init__(self, farm: Farm, name: str) -> None:
        self.farm = farm
        self.name = name
        self.said: dict[str, list[str]] = {}  # session -> questions whose answer was seen
        self.failures: list[tuple[str, Any]] = []
        self.stopped = False

    async def run(self) -> None:
        number = 0
        while not self.stopped:
            number += 1
            try:
                if len(self.said) < 6:
                    status, session, _ = await self.farm.call("POST", "/api/sessions", {})
                    if status == 201:
                        self.said[session["session_id"]] = []
                    continue
                session_id = random.choice(list(self.said))
                message = f"{self.name} {number}"
                status, answer, _ = await self.farm.chat(session_id, message)
                if status == 200:
                    self.said[session_id].append(message)
                else:
                    self.failures.append((session_id, answer["error"]["code"]))
            except (aiohttp.ClientError, ConnectionError) as error:
                self.failures.append(("", type(error).__name__))
            await asyncio.sleep(0)

    async def missing(self) -> list[str]:
        """What was acknowledged and is not in the history."""
        lost = []
        for session_id, said in self.said.items():
            history, before = set[str](), ""
            while before is not None:
                path = f"/api/sessions/{session_id}/messages?limit=1000{before}"
                status, page, _ = await self.farm.call("GET", path)
                assert status == 200, page
                history |= {message["content"] for message in page["messages"]}
                before = f"&before={page['messages'][0]['message_id']}" if page["has_more"] else None
            lost += [message for message in said if message not in history]
        return lost


async def under_load(farm: Farm, what: Callable[[], Awaitable[None]]) -> list[Talker]:
    """Does something while four clients talk; returns them when they have stopped."""
    talkers = [Talker(farm, f"client {number}") for number in range(4)]
    tasks = [asyncio.create_task(talker.run()) for talker in talkers]
    try:
        await what()
    finally:
        for talker in talkers:
            talker.stopped = True
        await asyncio.gather(*tasks)
    return talkers


@pytest.mark.parametrize("farm", ["haproxy"], indirect=True)
async def test_a_range_is_halved_and_nothing_is_lost(farm: Farm) -> None:
    """The recipe of docs/scale.md: 80-ff becomes 80-bf and c0-ff, which moves to a process of its own."""
    gone = await farm.session_of("two")
    await farm.call("DELETE", f"/api/sessions/{gone}")
    slots = farm.slots = written(farm.folder / "slots.map", farm.slots.read_text("utf-8"))

    async def route(backend: str) -> None:
        lines = [line for line in slots.read_text("utf-8").splitlines() if line[:1] not in set("cdef")]
        slots.write_text("\n".join([*lines, *(f"{digit} {backend}" for digit in "cdef"), ""]), "utf-8")
        port = farm.processes["three"].port if "three" in farm.processes else 9
        farm.more_backends = f"\nbackend three\n    server three 127.0.0.1:{port}\n"
        await farm.restart_proxy()

    async def halve() -> None:
        await asyncio.sleep(1)
        farm.ranges["two"] = "80-bf"  # from now on it makes no sessions in the half that moves
        await asyncio.to_thread(farm.processes["two"].end, signal.SIGTERM)
        await asyncio.to_thread(farm.start, "two")
        await route("moving")
        await asyncio.sleep(0.5)  # what was under way in the moving half ends
        command = [sys.executable, "-m", "chatbot", "--backup", f"{farm.folder}/three.db"]
        env = farm.env | {"DATABASE_URL": f"sqlite:///{farm.folder}/two.db"}
        await asyncio.to_thread(subprocess.run, command, env=env, check=True, capture_output=True)
        farm.ranges["three"] = "c0-ff"
        await asyncio.to_thread(farm.start, "three")
        await route("three")
        await asyncio.sleep(1)

    talkers = await under_load(farm, halve)
    assert sum(len(said) for talker in talkers for said in talker.said.values()) > 20
    for talker in talkers:
        assert await talker.missing() == []
        codes = {code for session_id, code in talker.failures if session_id and session_id < "8"}
        assert codes <= {"overloaded"}, "the other process noticed more than the proxy's own restart"
        codes = {code for session_id, code in talker.failures if "8" <= session_id < "c"}
        assert codes <= {"overloaded", "shutting_down"}, "what stays noticed more than the two restarts"
    assert (await farm.call("GET", f"/api/sessions/{gone}"))[0] == 404
    await prune(farm)
    for talker in talkers:
        assert await talker.missing() == []


async def prune(farm: Farm) -> None:
    """Takes out of both files what is outside of their range, with the processes at rest."""
    for name, own in (("two", "80-bf"), ("three", "c0-ff")):
        farm.processes[name].end(signal.SIGTERM)
        command = [sys.executable, "-m", "chatbot", "--prune", f"{farm.folder}/{name}.db", "--range", own]
        env = farm.env | {"SESSION_ID_RANGE": own}
        run = await asyncio.to_thread(
            subprocess.run, command, env=env, input="yes\n", text=True, capture_output=True
        )
        assert run.returncode == 0, run.stderr
        await asyncio.to_thread(farm.start, name)


@pytest.mark.chaos
async def test_a_killed_process_and_a_restarted_proxy_lose_nothing(farm: Farm) -> None:
    async def disturb() -> None:
        await asyncio.sleep(CHAOS_SECONDS / 3)
        await asyncio.to_thread(farm.processes["two"].end, signal.SIGKILL)
        await asyncio.to_thread(farm.start, "two")
        await asyncio.sleep(CHAOS_SECONDS / 3)
        await farm.restart_proxy()
        await asyncio.sleep(CHAOS_SECONDS / 3)

    talkers = await under_load(farm, disturb)
    said = sum(len(said) for talker in talkers for said in talker.said.values())
    failures = [one for talker in talkers for one in talker.failures]
    print(f"{farm.kind}: {said} turns acknowledged, {len(failures)} requests failed")
    assert said > 50
    for talker in talkers:
        assert await talker.missing() == []
        codes = {code for session_id, code in talker.failures if session_id and session_id < "8"}
        assert codes <= {"overloaded"}, "the other process noticed more than the proxy's own restart"
