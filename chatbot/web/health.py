"""Reports whether the process is alive and whether it is ready."""

from __future__ import annotations

import asyncio

from aiohttp import web

from chatbot import __version__
from chatbot.chat.reply_registry import ReplyRegistry
from chatbot.llm.client import LLM
from chatbot.storage.store import Store
from chatbot.web.answers import json_response

READY_CACHE_SECONDS = 5.0


class Health:
    """The handlers of the health endpoints."""

    def __init__(self, *, store: Store, registry: ReplyRegistry, llm: LLM) -> None:
        self._store = store
        self._registry = registry
        self._llm = llm
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._asking = asyncio.Lock()
        self._llm_is = ("", "")  # what LLM.ready() returned last
        self._asked_until = 0.0

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Registers the routes."""
        router.add_get("/api/health", self.health)
        router.add_get("/api/health/ready", self.ready)

    async def health(self, request: web.Request) -> web.StreamResponse:
        """Handle "GET /api/health": the process is alive.

        It never asks the LLM: a dead LLM would have this process restarted, and its memory would be lost.
        """
        return json_response(
            {
                "status": "ok",
                "version": __version__,
                "uptime_seconds": round(self._loop.time() - self._began, 3),
                "sessions": self._store.sessions,
                "active_replies": len(self._registry),
            }
        )

    async def ready(self, request: web.Request) -> web.StreamResponse:
        """Handle "GET /api/health/ready": whether a chat would work now; the LLM's state is cached 5 s."""
        async with self._asking:
            if self._loop.time() >= self._asked_until:
                self._llm_is = await self._llm.ready()
                self._asked_until = self._loop.time() + READY_CACHE_SECONDS
        llm, note = self._llm_is
        storage = "full" if self._store.is_full else "ok"
        status = "ok" if llm == storage == "ok" else "unavailable"
        if self._registry.closing:
            status = "shutting_down"
        found = {"status": status, "llm": llm, "storage": storage} | ({"note": note} if note else {})
        return json_response(found, 200 if status == "ok" else 503)
