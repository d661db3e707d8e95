"""One client's connection: how a hang-up is noticed, and what is answered to a client that speaks no HTTP."""

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
"""Seconds until a client that ended its half of the connection is asked whether it is still there."""

LOOK_AFTER = (0.01, 0.1, 1.0)
"""Seconds after that at which it is looked whether it answered that it is gone."""

KEEP_ALIVE_SECONDS = 75.0
"""How long a connection may be without a complete request; longer than proxies keep theirs (nginx: 60)."""

SURPLUS_SECONDS = 1.0
"""How long a connection lives that came when there were already as many as there may be."""

MAX_WAITING = 2
"""Requests that wait behind one that is being answered; while there are as many, no more is read."""


class Connection(web.RequestHandler):
    """One client's connection; even bytes that are no HTTP are answered in the shape of our errors.

    Private attributes of aiohttp that it relies on: _close, _current_request, _lingering_time,
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
            read_bufsize=64 * 1024,  # of each body that nobody reads yet, twice this is kept
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
        """The client has gone, or was dropped.

        aiohttp then cancels the handler, since server.py sets handler_cancellation: a stream ends by that.
        All that is large is let go of here: what is left of it may wait for the garbage collector.
        """
        self._connections.open -= 1
        self._stop_watching()
        super().connection_lost(exc)
        del self._strict_parser  # which holds the last body
        self._messages.clear()
        self._message_tail = b""

    def eof_received(self) -> bool:  # type: ignore[override]  # as asyncio has it
        """The client has ended its half of the connection: it waits for its answers, or it has gone.

        Returns whether answers are due, for which the connection is kept. After a moment a probe is sent.
        """
        has_begun = self._request_count > 0
        if self.transport is None or not (self._messages or (has_begun and not self._waits_for_request)):
            return False
        self._half_closed = True
        self._loop.call_later(PROBE_AFTER, self._probe)
        return True

    @property
    def _waits_for_request(self) -> bool:
        """Whether aiohttp serves none, and was not woken for one that it has not taken yet."""
        return self._waiter is not None

    def _probe(self) -> None:
        """Sends something that means nothing: a client that has gone answers that with a reset.

        If the answer comes later than it is looked for, the next write finds it.
        """
        request, transport = self._current_request, self.transport
        if transport is None:
            return
        if not self._strict_parser.has_whole_body or (request is None and self._waits_for_request):
            self.force_close()  # the rest of a body will never come, or all was answered
            return
        if request is None:
            return
        if writer := request.get(EVENT_WRITER):
            writer.keep_alive()
        elif request.version >= HttpVersion11 and not request.writer.output_size:
            # Nothing else may be sent before the headers of an answer.
            transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        for seconds in LOOK_AFTER:
            self._loop.call_later(seconds, self._end_if_reset)

    def _end_if_reset(self) -> None:
        """Ends the connection if the client has answered with a reset.

        After the end of the client's half asyncio reads no more: it would see a reset only at the next write.
        """
        if self.transport is not None:
            connection = self.transport.get_extra_info("socket")
            if connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                self.transport.abort()

    # A client that comes, and one that does not read

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Bounds what the kernel holds unsent for a client.

        It would take megabytes, and report room only after a third of them was read: until then a client that
        reads slowly would look like one that does not read.
        """
        self._connections.open += 1
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):  # Linux, macOS
            with suppress(OSError):  # it may have been reset already
                connection = transport.get_extra_info("socket")
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, MAX_UNSENT)
        # Has pause_writing called at the first byte that stays unsent.
        cast(asyncio.Transport, transport).set_write_buffer_limits(0)
        super().connection_made(transport)
        if self.is_surplus:
            self._loop.call_later(SURPLUS_SECONDS, self.force_close)

    def pause_writing(self) -> None:
        """Something could not be sent at once: the client is watched."""
        super().pause_writing()
        if self.transport is not None:
            self._stall_watch = StallWatch(self._connections, self.transport, self._count_written)

    def resume_writing(self) -> None:
        """Everything was sent."""
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
        """Answers what is no HTTP, or a request that crashed; the connection is closed after it."""
        if isinstance(exc, ConnectionError):
            raise exc  # the client has gone: nobody to answer, nothing to log
        error = crashed(exc)
        if isinstance(exc, HttpProcessingError):
            error = ChatError("invalid_request", "The request is not valid HTTP.")
            if isinstance(exc, LineTooLong):
                error = ChatError("headers_too_large", f"The headers exceed {MAX_HEAD} bytes.")
            log_refusal(request, error.status, f"bad HTTP: {type(exc).__name__}")
        else:
            # aiohttp passes no error when it was a TimeoutError: that is the one being handled.
            log.error("request %s crashed", request_id(request), exc_info=exc or True)
        if request.writer.output_size > 0:
            raise ConnectionResetError("the answer had begun")
        response = error_response(error, COMMON_HEADERS | {"X-Request-ID": request_id(request)})
        response.force_close()
        return response

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """Passes over what is wrong with a body that nobody reads any more."""
        if not isinstance(kw.get("exc_info"), web.RequestPayloadError):
            super().log_exception(*args, **kw)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Writes an answer, in our shape also one that aiohttp made before the middleware (Expect)."""
        if not resp.prepared and isinstance(resp, web.HTTPException) and isinstance(request, web.Request):
            log_refusal(request, resp.status, type(resp).__name__)
            resp = http_error(resp)
        finished = await super().finish_response(request, resp, start_time)
        if self._half_closed:
            self._lingering_time = 0.0  # no more of a body will come
            self._close = not self._messages
        return finished


def is_surplus(request: web.Request) -> bool:
    """Whether it came over a connection that is one too many."""
    connection = request.protocol
    return isinstance(connection, Connection) and connection.is_surplus
