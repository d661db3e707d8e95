"""The server: listens, waits for a signal, lets the running replies finish, and stops."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from aiohttp import web

from chatbot import process
from chatbot.app import REGISTRY, create_app
from chatbot.config import Config
from chatbot.storage.store import Store
from chatbot.web.accept import Acceptor
from chatbot.web.stalls import Connections

log = logging.getLogger(__name__)


class Server:
    """The server with the given settings; `now` is the wall clock in seconds.

    start() raises OSError (the port) or StoreError (the database). After it, `port` is the real port.
    """

    def __init__(
        self, config: Config, *, now: Callable[[], float] = time.time, connections: Connections | None = None
    ) -> None:
        self._config = config
        self._now = now
        self._connections = connections or Connections()
        self.port = config.port

    async def start(self) -> None:
        """Opens the database and listens."""
        config = self._config
        store = Store(config.database_url, config.max_database_mb * 1024 * 1024, config.database_sync)
        self.app = create_app(config, store, now=self._now, connections=self._connections)
        self._runner = web.AppRunner(
            self.app,
            handler_cancellation=True,  # a client's hang-up cancels its handler, in tests and in production
            shutdown_timeout=0.5,
        )
        try:
            await self._runner.setup()
            assert self._runner.server is not None
            self._acceptor = Acceptor(self._runner.server, self._connections)
            self.port = await self._acceptor.listen(config.host, config.port)
        except BaseException:
            await self._runner.cleanup()
            store.close()  # after a failed setup() the cleanup does not close it
            raise

    async def stop(self, hurry: asyncio.Event | None = None) -> None:
        """Lets running replies finish in the grace period, or until `hurry` is set. Then stops the server.

        Until then it listens, so that clients and a proxy's health check learn that it shuts down.
        """
        await self.app[REGISTRY].drain(self._config.shutdown_grace_seconds, hurry or asyncio.Event())
        self._acceptor.close()
        await self._runner.cleanup()


async def serve(config: Config, *, llm: str = "") -> None:
    """Runs a server until SIGINT, SIGTERM or SIGHUP; a second one ends the grace. `llm`: its name, to log."""
    stop, hurry = asyncio.Event(), asyncio.Event()
    asyncio.get_running_loop().set_default_executor(process.Threads())
    process.on_stop_signal(lambda: (hurry if stop.is_set() else stop).set())
    limit = process.connection_limit(process.raise_file_limit())
    server = Server(config, connections=Connections(limit, process.SURPLUS))
    await server.start()
    process.tune_memory()
    is_file = config.database_url != ":memory:"
    log.info(
        "conversations are kept in %s", config.database_url if is_file else "memory, until the process ends"
    )
    log.info("the LLM is %s", llm or f"{config.llm_shown} {config.llm_model}".strip())
    host = f"[{config.host}]" if ":" in config.host else config.host
    log.info(
        "the page is at http://%s:%d/", "localhost" if host in ("0.0.0.0", "[::]") else host, server.port
    )
    log.info("listening on http://%s:%d", host, server.port)
    try:
        await stop.wait()
        log.info("shutting down; running replies have %g s", config.shutdown_grace_seconds)
    finally:
        await server.stop(hurry)
    log.info("bye")
