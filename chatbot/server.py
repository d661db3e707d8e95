"""The process: listens, waits for a signal, lets the running replies finish, ends."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress

from aiohttp import web
from aiohttp.http import HttpProcessingError

from chatbot.app import REPLIES, create_app
from chatbot.config import Config
from chatbot.delivery import MAX_UNSENT
from chatbot.errors import ChatError
from chatbot.middleware import error_response, http_error, request_id
from chatbot.store import Store

log = logging.getLogger(__name__)

KEEP_ALIVE_SECONDS = 75.0
"""How long a connection may be without a complete request; longer than proxies keep theirs (nginx: 60)."""

BACKLOG = 4096


class Connection(web.RequestHandler):
    """One client's connection; tells even what is no HTTP in the shape of our errors."""

    __slots__ = ()
    closed = 0
    """How many there were, of all clients."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Bounds what the kernel holds unsent for a client, so that a slow reader is seen to read.

        It would take megabytes, and say that there is room only when a third of them was read.
        """
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):  # Linux, macOS
            connection = transport.get_extra_info("socket")
            with suppress(OSError):  # it may have been reset already
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, MAX_UNSENT)
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Also collects what closed connections leave behind, a thousand at a time; cf. tune_memory()."""
        super().connection_lost(exc)
        Connection.closed += 1
        if Connection.closed % 1000 == 0:
            gc.collect(0)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answers a request that never reached the application; the connection is closed after it."""
        if isinstance(exc, ConnectionError):
            raise exc  # the client has gone: nobody to answer, nothing to log
        if isinstance(exc, HttpProcessingError):
            logging.getLogger("chatbot.access").info("- - 400 bad HTTP: %s", type(exc).__name__)
            error = ChatError("invalid_request", "The request is not valid HTTP.")
        else:
            log.error("a request crashed", exc_info=exc)
            error = ChatError("internal_error", "Internal error.")
        if request.writer.output_size > 0:
            raise ConnectionResetError("the answer had begun")
        response = error_response(error, {"X-Request-ID": request_id(request)})
        response.force_close()
        return response

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Writes an answer, in our shape also one that aiohttp made before the middleware (Expect)."""
        if not resp.prepared and isinstance(resp, web.HTTPException) and isinstance(request, web.Request):
            logging.getLogger("chatbot.access").info("- - %d %s", resp.status, type(resp).__name__)
            resp = http_error(request, resp)
        return await super().finish_response(request, resp, start_time)


class Server:
    """The server with the given settings; `now` is the wall clock in seconds.

    start() raises OSError (the port) or StoreError (the database); `port` is then the real one.
    """

    def __init__(self, config: Config, *, now: Callable[[], float] = time.time) -> None:
        self._config = config
        self._now = now
        self.port = config.port

    async def start(self) -> None:
        """Opens the database and listens."""
        config = self._config
        store = Store(config.database_url, config.max_database_mb * 1024 * 1024)
        self.app = create_app(config, store, now=self._now)
        self._runner = web.AppRunner(
            self.app,
            handler_cancellation=True,  # a client that leaves ends its handler, in tests and out
            access_log=None,
            auto_decompress=False,
            keepalive_timeout=KEEP_ALIVE_SECONDS,
            shutdown_timeout=0.5,
        )
        try:
            await self._runner.setup()
        except BaseException:
            store.close()
            raise
        try:
            self._listener = await asyncio.get_running_loop().create_server(
                self._accept, config.host, config.port, backlog=BACKLOG, reuse_address=True
            )
        except BaseException:
            await self._runner.cleanup()
            raise
        self.port = self._listener.sockets[0].getsockname()[1]

    def _accept(self) -> web.RequestHandler:
        server = self._runner.server
        assert server is not None
        connection = server()
        connection.__class__ = Connection  # aiohttp has no hook for the class; it adds no state
        return connection

    async def stop(self, hurry: asyncio.Event | None = None) -> None:
        """Lets running replies finish within the grace, or until `hurry`; then ends everything.

        It goes on listening meanwhile, so that clients are told and a proxy's health check sees it.
        """
        replies = self.app[REPLIES]
        await replies.drain(self._config.shutdown_grace_seconds, hurry or asyncio.Event())
        self._listener.close()
        await self._runner.cleanup()


async def serve(config: Config) -> None:
    """Runs a server until SIGINT or SIGTERM; a second signal ends the grace."""
    stop, hurry = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        (hurry if stop.is_set() else stop).set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(number, on_signal)
        except NotImplementedError:  # Windows: Ctrl-C ends asyncio.run
            pass
    server = Server(config)
    await server.start()
    tune_memory()
    host = f"[{config.host}]" if ":" in config.host else config.host
    log.info("listening on http://%s:%d", host, server.port)
    try:
        await stop.wait()
        log.info("shutting down; running replies have %g s", config.shutdown_grace_seconds)
    finally:
        await server.stop(hurry)
    log.info("bye")


def tune_memory() -> None:
    """Settles the allocator and the garbage collector for a process that runs for long.

    asyncio reads into a fresh block of 256 KiB, and glibc maps a block of that size into memory and
    out of it again each time, until it has once seen such a block freed: from then on it takes them
    from the heap (mallopt(3), M_MMAP_THRESHOLD). That makes each read, and so each token, 5 to 15 µs
    cheaper; other allocators do not mind.

    What has been imported never becomes garbage: frozen, it is not looked at again. And a turn makes
    hundreds of objects that live as long as it does and no cycles: at its usual threshold the collector
    would look at hundreds of running turns, time and again, and find nothing. Only a closed connection
    leaves a cycle, asyncio's own (a transport holds a method of its own): `Connection` counts them.
    """
    bytes(1024 * 1024)
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 5, 50)


def raise_file_limit() -> None:
    """Allows as many open connections as the system lets us have; each stream takes two."""
    try:
        import resource
    except ImportError:  # Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (ValueError, OSError) as error:
            log.warning("the limit of %d open files stays: %s", soft, error)
