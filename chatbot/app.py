"""Wires the parts together into one aiohttp Application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from aiohttp import web

from chatbot.api.routes import Api
from chatbot.chat.limits import ContextLimits
from chatbot.chat.reply_registry import ReplyRegistry
from chatbot.chat.sessions import Sessions
from chatbot.config import Config
from chatbot.llm.client import LLM
from chatbot.openai.routes import OpenAIDoor
from chatbot.storage.store import Store
from chatbot.web.access import Access
from chatbot.web.health import Health
from chatbot.web.metrics import Metrics
from chatbot.web.middleware import Gate
from chatbot.web.stalls import Connections
from chatbot.web.static import Static

STORE = web.AppKey("store", Store)
REGISTRY = web.AppKey("registry", ReplyRegistry)
SESSIONS = web.AppKey("sessions", Sessions)


def create_app(
    config: Config, store: Store, *, now: Callable[[], float], connections: Connections
) -> web.Application:
    """Makes the application. It closes the open `store` at its end; `now` is the wall clock in seconds."""
    app = web.Application(client_max_size=config.max_request_bytes)
    metrics = Metrics(now)
    Gate(Access(config.api_keys, config.allowed_origins), metrics.request_ended).install(app)
    app[STORE] = store

    async def parts(app: web.Application) -> AsyncIterator[None]:
        llm = LLM(config)
        limits = ContextLimits(config.max_context_messages, config.max_context_tokens)
        registry = app[REGISTRY] = ReplyRegistry(
            config=config, store=store, llm=llm, limits=limits, clock=now, on_end=metrics.reply_ended
        )
        sessions = app[SESSIONS] = Sessions(config=config, store=store, registry=registry, clock=now)
        Api(
            config=config, store=store, registry=registry, sessions=sessions, limits=limits, llm=llm
        ).add_routes(app.router)
        OpenAIDoor(config, store, registry, sessions, llm, now).add_routes(app.router)
        Health(store=store, registry=registry, llm=llm).add_routes(app.router)
        watch_parts(metrics, store, registry, sessions, connections)
        forever = sessions.clean_forever(), metrics.watch_event_loop()
        tasks = [asyncio.create_task(one) for one in forever]
        yield
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await llm.close()
        store.close()

    async def end_streams(app: web.Application) -> None:
        await app[REGISTRY].close()

    Static().add_routes(app.router)
    metrics.add_routes(app.router)
    app.cleanup_ctx.append(parts)
    app.on_shutdown.append(end_streams)  # otherwise the server would wait for the open streams
    return app


def watch_parts(
    metrics: Metrics, store: Store, registry: ReplyRegistry, sessions: Sessions, connections: Connections
) -> None:
    """Adds metrics that read the state of the parts."""
    for name, wants, read in (
        ("chatbot_replies_running", "Replies that run.", lambda: len(registry)),
        ("chatbot_listeners", "Clients that wait for a reply.", lambda: sum(r.listeners for r in registry)),
        ("chatbot_connections", "Open connections of clients.", lambda: connections.open),
        ("chatbot_connections_limit", "Connections that are served at most.", lambda: connections.limit),
        ("chatbot_connections_refused_total", "Connections above the limit.", lambda: connections.refused),
        ("chatbot_clients_stalled", "Clients that do not read what is sent.", lambda: connections.stalled),
        ("chatbot_clients_dropped_total", "Clients that read nothing for 30 s.", lambda: connections.dropped),
        ("chatbot_sessions", "Sessions that are kept.", lambda: store.sessions),
        ("chatbot_sessions_expired_total", "Sessions deleted for being idle.", lambda: sessions.expired),
        ("chatbot_database_free_bytes", "What the limit and the disk leave.", lambda: store.free_bytes),
        ("chatbot_database_used_bytes", "What of the database is in use.", lambda: store.used_bytes),
        ("chatbot_database_wal_bytes", "The size of the write-ahead log.", lambda: store.wal_bytes),
    ):
        metrics.watch(name, wants, read)
