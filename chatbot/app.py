"""Wires the parts together into one aiohttp Application."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

from aiohttp import web

from chatbot.api import Api
from chatbot.config import Config
from chatbot.health import Health
from chatbot.llm import LLM
from chatbot.middleware import Gate
from chatbot.page import Page
from chatbot.replies import Replies
from chatbot.sessions import Sessions
from chatbot.store import Store

REPLIES = web.AppKey("replies", Replies)
SESSIONS = web.AppKey("sessions", Sessions)


def create_app(config: Config, store: Store, *, now: Callable[[], float] = time.time) -> web.Application:
    """The application over an open `store`, which it closes; `now` is the wall clock in seconds."""
    gate = Gate(config)
    app = web.Application(middlewares=[gate.admit], client_max_size=config.max_request_bytes)
    app.on_response_prepare.append(gate.set_headers)

    async def parts(app: web.Application) -> AsyncIterator[None]:
        llm = LLM(config)
        replies = Replies(config, store, llm, now)
        sessions = Sessions(replies)
        app[REPLIES], app[SESSIONS] = replies, sessions
        Api(replies, sessions).add_routes(app.router)
        Health(replies).add_routes(app.router)
        sweep = asyncio.create_task(sessions.sweep_forever())
        yield
        sweep.cancel()
        with suppress(asyncio.CancelledError):
            await sweep
        await replies.close()
        await llm.close()
        store.close()

    async def end_streams(app: web.Application) -> None:
        await app[REPLIES].close()

    Page().add_routes(app.router)
    app.cleanup_ctx.append(parts)
    app.on_shutdown.append(end_streams)  # or the server would wait for the streams that are open
    return app
