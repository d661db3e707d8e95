"""Wires the parts together into one aiohttp Application."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

from aiohttp import web

from chatbot import api
from chatbot.config import Config
from chatbot.health import Health
from chatbot.llm import LLM
from chatbot.middleware import CONFIG, gate, set_headers
from chatbot.page import Page
from chatbot.replies import Replies
from chatbot.sessions import Sessions
from chatbot.store import Store


def create_app(config: Config, store: Store, *, now: Callable[[], float] = time.time) -> web.Application:
    """The application over an open `store`, which it closes; `now` is the wall clock in seconds."""
    app = web.Application(middlewares=[gate], client_max_size=config.max_request_bytes)
    app[CONFIG] = config
    app.on_response_prepare.append(set_headers)

    async def parts(app: web.Application) -> AsyncIterator[None]:
        llm = LLM(config)
        replies = Replies(config, store, llm, now)
        sessions = Sessions(replies)
        app[api.REPLIES], app[api.SESSIONS] = replies, sessions
        Health().add_routes(app.router)
        sweep = asyncio.create_task(sessions.sweep_forever())
        yield
        sweep.cancel()
        with suppress(asyncio.CancelledError):
            await sweep
        await replies.close()
        await llm.close()
        store.close()

    async def end_streams(app: web.Application) -> None:
        await app[api.REPLIES].close()

    api.add_routes(app.router)
    Page().add_routes(app.router)
    app.cleanup_ctx.append(parts)
    app.on_shutdown.append(end_streams)  # or the server would wait for the streams that are open
    return app
