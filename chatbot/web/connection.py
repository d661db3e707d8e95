"""One client's connection: notices when the client hangs up, and answers bytes that are not HTTP."""

from __future__ import annotations

import asyncio
import logging
import socket
from contextlib import suppress
from typing import Any, cast

from aiohttp import web
from aiohttp.http import HttpProcessingError, HttpVersion11
from aiohttp.http_exceptions import LineTooLong

from chatbot.errors import ChatError, crashed
from chatbot.web.answers import COMMON_HEADERS, error_response, http_error
from chatbot.web.backpressure import EVENT_WRITER, MAX_UNSENT
from chatbot.web.logs import log_refusal, request_id
from chatbot.web.parser import MAX_HEAD, StrictParser
from chatbot.web.stalls import Connections, StallWatch

log = logging.getLogger(__name__)

PROBE_AFTER = 0.01
"""Seconds from when a client closes its half of the connection until the server sends a probe."""

LOOK_AFTER = (0.01, 0.1, 1.0)
"""Seconds after the probe at which the server checks whether the client has answered with a reset."""

KEEP_ALIVE_SECONDS = 75.0
"""How long a connection may have no complete request. Proxies close idle connections earlier (nginx: 60)."""

SURPLUS_SECONDS = 1.0
"""How long a surplus connection lives: one that came when the limit had already been reached."""

MAX_WAITING = 2
"""Pipelined requests that may wait behind the current one; while so many wait, reading is paused."""


class Connection(web.RequestHandler):
    """One client's connection; even bytes that are not HTTP are answered with an error in our shape.

    It uses these private attributes of aiohttp: _close, _current_request, _lingering_time,
    _max_msg_queue_size, _message_tail, _messages, _msg_queue_resume_size, _parser, _request_count, _waiter.
    """

    __slots__ = ("_connections", "_half_closed", "_stall_watch", "_strict_parser", "is_surplus")

    def __init__(
        self, manager: web.Server, loop: asyncio.AbstractEventLoop, connections: Connections
    ) -> None:
        super().__init__(
            manager,
            loop=loop,
            access_log=cast(Any, None),
            auto_decompress=False,
            keepalive_timeout=KEEP_ALIVE_SECONDS,
            max_line_size=MAX_HEAD,
            max_field_size=MAX_HEAD,
            read_bufsize=64 * 1024,  # twice this is buffered of a body that nobody reads yet
        )
        self._strict_parser = StrictParser(self._parser)
        self._parser = cast(Any, self._strict_parser)
        self._max_msg_queue_size = MAX_WAITING
        self._msg_queue_resume_size = MAX_WAITING // 2
        self._connections = connections
        self.is_surplus = connections.is_full
        self._half_closed = False
        self._stall_watch: StallWatch | None = None

    # A client that hangs up

    def connection_lost(self, exc: BaseException | None) -> None:
        """Called when the client has gone or was dropped.

        aiohttp then cancels the handler, since server.py sets handler_cancellation; this ends a stream. Large
        objects are released here, because this object may live until the garbage collector runs.
        """
        self._connections.open -= 1
        self._stop_watching()
        super().connection_lost(exc)
        del self._strict_parser  # it holds the last body
        self._messages.clear()
        self._message_tail = b""

    def eof_received(self) -> bool:  # type: ignore[override]  # as asyncio has it
        """Called when the client has closed its half: it waits for its responses, or it has gone.

        Returns whether responses are due. If so, the connection is kept, and a probe follows (PROBE_AFTER).
        """
        has_begun = self._request_count > 0
        if self.transport is None or not (self._messages or (has_begun and not self._waits_for_request)):
            return False
        self._half_closed = True
        self._loop.call_later(PROBE_AFTER, self._probe)
        return True

    @property
    def _waits_for_request(self) -> bool:
        """Whether aiohttp serves no request and waits for the next; `_waiter` is the future it waits on."""
        return self._waiter is not None

    def _probe(self) -> None:
        """Sends bytes that have no meaning; a client that has gone answers them with a reset.

        A reset that comes after the last check is noticed at the next write.
        """
        request, transport = self._current_request, self.transport
        if transport is None:
            return
        if not self._strict_parser.has_whole_body or (request is None and self._waits_for_request):
            self.force_close()  # the rest of a body will never come, or no response is due
            return
        if request is None:
            return
        if writer := request.get(EVENT_WRITER):
            writer.keep_alive()
        elif request.version >= HttpVersion11 and not request.writer.output_size:
            # Nothing but an interim response may stand before the headers of a response (RFC 9110, 15.2).
            transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        for seconds in LOOK_AFTER:
            self._loop.call_later(seconds, self._end_if_reset)

    def _end_if_reset(self) -> None:
        """Ends the connection if the client has answered with a reset.

        asyncio stops reading once the client has closed its half: it would see a reset only at a later write.
        """
        if self.transport is not None:
            connection = self.transport.get_extra_info("socket")
            if connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                self.transport.abort()

    # A client that connects, and one that does not read

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Limits how many unsent bytes the kernel buffers for a client.

        Otherwise the kernel would take megabytes, and report room only after a third of them was read. Until
        then a client that reads slowly would look like a client that reads nothing.
        """
        self._connections.open += 1
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):  # Linux, macOS
            with suppress(OSError):  # the connection may have been reset already
                connection = transport.get_extra_info("socket")
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, MAX_UNSENT)
        # With this asyncio calls pause_writing at the first byte that stays unsent.
        cast(asyncio.Transport, transport).set_write_buffer_limits(0)
        super().connection_made(transport)
        if self.is_surplus:
            self._loop.call_later(SURPLUS_SECONDS, self.force_close)

    def pause_writing(self) -> None:
        """Called when something could not be sent at once; begins to watch the client."""
        super().pause_writing()
        if self.transport is not None:
            self._stall_watch = StallWatch(self._connections, self.transport, self._count_written)

    def resume_writing(self) -> None:
        """Called when everything was sent; stops watching the client."""
        self._stop_watching()
        super().resume_writing()

    def _stop_watching(self) -> None:
        if self._stall_watch:
            self._stall_watch.stop()
            self._stall_watch = None

    def _count_written(self) -> int:
        """How many bytes of the current answer were given to the transport."""
        return self._current_request.writer.output_size if self._current_request else 0

    # Answers that do not come from the application

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answers bytes that are not HTTP, or a request that crashed; then the connection is closed."""
        if isinstance(exc, ConnectionError):
            raise exc  # the client has gone: nobody to answer, nothing to log
        error = crashed(exc)
        if isinstance(exc, HttpProcessingError):
            error = ChatError("invalid_request", "The request is not valid HTTP.")
            if isinstance(exc, LineTooLong):
                error = ChatError("headers_too_large", f"The headers exceed {MAX_HEAD} bytes.")
            log_refusal(request, error.status, f"bad HTTP: {type(exc).__name__}")
        else:
            # For a TimeoutError aiohttp passes no `exc`; True logs the exception that is being handled.
            log.error("request %s crashed", request_id(request), exc_info=exc or True)
        if request.writer.output_size > 0:
            raise ConnectionResetError("the answer had begun")
        response = error_response(request, error, COMMON_HEADERS | {"X-Request-ID": request_id(request)})
        response.force_close()
        return response

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """Logs an error, unless it is in a body that nobody reads any more."""
        if not isinstance(kw.get("exc_info"), web.RequestPayloadError):
            super().log_exception(*args, **kw)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Writes a response; an error that aiohttp raised before the middleware (Expect) gets our shape."""
        if not resp.prepared and isinstance(resp, web.HTTPException):
            why, resp = type(resp).__name__, http_error(request, resp)
            log_refusal(request, resp.status, why)
        finished = await super().finish_response(request, resp, start_time)
        if self._half_closed:
            self._lingering_time = 0.0  # the rest of a body will not come
            self._close = not self._messages
        return finished


def is_surplus(request: web.Request) -> bool:
    """Whether the request came over a surplus connection."""
    connection = request.protocol
    return isinstance(connection, Connection) and connection.is_surplus
