"""The middleware around every request: access, the shape of errors, common headers, the log."""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Awaitable, Callable

from aiohttp import hdrs, web
from aiohttp.http import HttpVersion11

from chatbot.errors import ChatError, without_frames
from chatbot.web import answers, backpressure
from chatbot.web.access import Access
from chatbot.web.answers import COMMON_HEADERS, error_response, http_error
from chatbot.web.connection import is_surplus
from chatbot.web.logs import LEFT, SESSION_ID, log_request, request_id, route_of

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Observer = Callable[[str, str, int, float], None]
"""Called with the method, the route, the status and the seconds of each request that has ended."""


class Gate:
    """The application's middleware, and the signal that adds the headers of all responses."""

    def __init__(self, access: Access, observe: Observer = lambda *_: None) -> None:
        self._access = access
        self._observe = observe

    def install(self, app: web.Application) -> None:
        """Installs the middleware and the signal in `app`."""
        app.middlewares.append(self.pass_through)
        app.on_response_prepare.append(self.set_headers)

    @web.middleware
    async def pass_through(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Gets the response to a request, sends it, and records it in the log and the metrics.

        Connection.handle_error answers any exception that leaves this method, and closes the connection.
        """
        began, status = time.perf_counter(), 500
        try:
            response = await self._answer(request, handler)
            if not response.prepared:
                if not request.content.is_eof() or is_surplus(request):
                    response.force_close()  # the unread rest of a body is not the next request
                await backpressure.finish(request, response)
            status = response.status
            return response
        except BaseException as error:
            if isinstance(error, ConnectionError | asyncio.CancelledError):
                status = LEFT
            # A closed connection is a reference cycle that holds this error, and the error holds its frames.
            # Without this line the data in them would stay in memory until the garbage collector runs.
            traceback.clear_frames(error.__traceback__)
            raise
        finally:
            route, seconds = route_of(request), time.perf_counter() - began
            log_request(request, route, status, seconds)
            self._observe(request.method, route, status, seconds)

    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            if is_surplus(request) and request.path != "/api/health":
                raise ChatError("overloaded", "Too many connections.", retry_after="1")
            self._access.check_origin(request)
            if preflight := self._access.preflight(request):
                return preflight
            self._access.check_key(request)
            response = await handler(request)
            if request.method == "GET" and not backpressure.has_room(backpressure.length_of(response)):
                raise ChatError("overloaded", "Others read too slowly what they asked for.", retry_after="1")
            return response
        except ChatError as error:
            return error_response(request, without_frames(error))
        except web.HTTPException as error:
            return http_error(request, error)

    async def set_headers(self, request: web.Request, response: web.StreamResponse) -> None:
        """Adds the headers of every response; an on_response_prepare signal."""
        headers = response.headers
        headers.update(COMMON_HEADERS)
        headers[answers.REQUEST_ID] = request_id(request)
        headers.setdefault(hdrs.CACHE_CONTROL, "no-store")
        session_id = request.get(SESSION_ID)
        if session_id and not request.path.startswith("/v1/responses"):  # its id opens one branch only
            headers[answers.SESSION_ID] = session_id
        if request.version < HttpVersion11:  # the response ends where the connection ends
            response.force_close()
            headers["Connection"] = "close"
        self._access.set_headers(request, response)
