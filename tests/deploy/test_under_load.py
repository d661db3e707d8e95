"""Under load a backup is whole or not there, whoever is killed, and a replicator's locks lose no turn.

BACKUPS=50 makes as many backups as that, LITESTREAM_SECONDS=3600 replicates for an hour.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from chatbot.storage.store import Store
from tests.deploy.load import Litestream, Load, check, script
from tests.storage.tools import a_chain, a_session
from tests.tools.processes import ROOT, Process, free_port
from tests.tools.scripted_llm import ScriptedLLM

BACKUPS = int(os.environ.get("BACKUPS", "3"))
LITESTREAM_SECONDS = float(os.environ.get("LITESTREAM_SECONDS", "3"))
FILL = 2000 if BACKUPS > 10 else 200  # turns of 20,000 characters that are there already


@pytest.fixture
def env(llm: ScriptedLLM, tmp_path: Path) -> dict[str, str]:
    llm.script = script
    with closing(Store(str(tmp_path / "chat.db"))) as store:
        a_chain(store, a_session(store), FILL, reply="x" * 20_000)
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "LOG_LEVEL": "WARNING"}
    env |= {"LLM_SERVER_URL": llm.url, "LLM_MODEL": "m", "SESSION_TIMEOUT_HOURS": "800000"}
    return env | {"DATABASE_URL": f"sqlite:///{tmp_path}/chat.db", "PORT": str(free_port())}


@asynccontextmanager
async def served(env: dict[str, str]) -> AsyncIterator[Process]:
    """A server that runs; its log says nothing at WARNING, so it is asked until it answers."""
    with Process([sys.executable, "-m", "chatbot"], env=env) as process:
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", int(env["PORT"]))
                break
            except OSError:
                await asyncio.sleep(0.05)
        writer.close()
        yield process


@asynccontextmanager
async def loaded(env: dict[str, str]) -> AsyncIterator[Load]:
    """Clients that talk to the server, until the end of the block."""
    load = Load(f"http://127.0.0.1:{env['PORT']}")
    task = asyncio.create_task(load.run())
    yield load
    assert not task.done(), task.exception()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def a_backup(env: dict[str, str], target: Path, killed_after: float | None) -> int:
    """Runs --backup; returns its exit code."""
    command = (sys.executable, "-m", "chatbot", "--backup", str(target))
    process = await asyncio.create_subprocess_exec(*command, env=env, stdout=asyncio.subprocess.DEVNULL)
    if killed_after is not None:
        await asyncio.sleep(killed_after)
        if process.returncode is None:
            process.kill()
    return await process.wait()


@pytest.mark.timeout(60 + 10 * BACKUPS)
async def test_a_backup_has_what_was_acknowledged_or_is_not_there(
    env: dict[str, str], tmp_path: Path
) -> None:
    rng = random.Random(seed := random.randrange(2**32))
    whole = killed = 0
    async with loaded(env) as load:
        number = 0
        while number < BACKUPS:
            async with served(env) as server:
                # In turn: nobody is killed, the backup is, the server is.
                for who in ("nobody", "backup", "server"):
                    await load.goes_on(50)
                    number += 1
                    before, moment = dict(load.acknowledged), rng.uniform(0.1, 0.8)
                    target = tmp_path / f"copy{number}.db"
                    copying = asyncio.create_task(a_backup(env, target, moment if who == "backup" else None))
                    if who == "server":
                        await asyncio.sleep(moment)
                        server.signal(signal.SIGKILL)
                    code = await copying
                    assert code != 0 or target.exists(), "a copy that was finished is not there"
                    assert who == "backup" or code == 0, server.output
                    killed += code != 0
                    if target.exists():  # a killed one may have been about to exit; what is there is whole
                        whole += 1
                        check(target, load, before)
                        target.unlink()
        rate = load.turns_a_second()
    print(
        f"seed {seed}: {number} backups, {whole} whole, {killed} killed in the middle; "
        f"{len(load.acknowledged)} turns, {rate:.0f} a second"
    )


@pytest.mark.timeout(60 + 2 * LITESTREAM_SECONDS)
async def test_a_replicator_that_locks_the_file_loses_no_turn(env: dict[str, str], tmp_path: Path) -> None:
    path, copy = tmp_path / "chat.db", tmp_path / "replica.db"
    stopped, largest = threading.Event(), 0
    async with served(env), loaded(env) as load:
        with closing(Litestream(path)) as replicator:
            working = asyncio.create_task(asyncio.to_thread(replicator.work, stopped, 0.1))
            until = asyncio.get_running_loop().time() + LITESTREAM_SECONDS
            while asyncio.get_running_loop().time() < until:
                await asyncio.sleep(0.2)
                largest = max(largest, replicator.wal.stat().st_size)
            stopped.set()
            await working
            before = dict(load.acknowledged)
            await asyncio.to_thread(replicator.copy, copy)
            check(copy, load, before)
    assert not load.refused, "a turn was refused for a lock"
    print(
        f"{len(before)} turns, {load.turns_a_second():.0f} a second, {replicator.rounds} rounds, "
        f"WAL at most {largest >> 10} KiB"
    )


async def test_a_key_is_rotated_by_restarts_without_losing_a_turn(
    env: dict[str, str], tmp_path: Path
) -> None:
    """docs/operate.md: old; old and new, while the clients change over; new."""
    async with loaded(env) as load:
        load.key = "old"
        for keys, given in (("old", "old"), ("old,new", "new"), ("new", "new")):
            async with served(env | {"API_KEYS": keys}) as server:
                await load.goes_on(50)
                load.key = given
                await load.goes_on(50)
                before = dict(load.acknowledged)
                server.signal(signal.SIGTERM)
                assert await asyncio.to_thread(server.wait) == 0
                check(tmp_path / "chat.db", load, before)
    assert set(load.refused) <= {503}, "nobody was refused but by a server that was ending"
