"""Tells whether the process lives, whether it is ready, and what it can do."""

from __future__ import annotations

import asyncio

from aiohttp import web

from chatbot import __version__
from chatbot.api import json_response
from chatbot.page import File
from chatbot.replies import Replies

READY_CACHE_SECONDS = 5.0


class Health:
    """The handlers of the health endpoints and of the API's description."""

    def __init__(self, replies: Replies) -> None:
        self._replies = replies
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._asking = asyncio.Lock()
        self._llm = ""
        self._llm_until = 0.0
        self._openapi = File("openapi.json", "application/json")

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Registers the routes."""
        router.add_get("/api/health", self.health)
        router.add_get("/api/health/ready", self.ready)
        router.add_get("/api/openapi.json", self.openapi)

    async def health(self, request: web.Request) -> web.StreamResponse:
        """Handle "GET /api/health": the process lives.

        It never asks the LLM: a dead one would have this process restarted, and its memory lost.
        """
        return json_response(
            {
                "status": "ok",
                "version": __version__,
                "uptime_seconds": round(self._loop.time() - self._began, 3),
                "sessions": self._replies.store.sessions,
                "active_replies": len(self._replies),
            }
        )

    async def ready(self, request: web.Request) -> web.StreamResponse:
        """Handle "GET /api/health/ready": whether a chat would work now; what the LLM said is kept 5 s."""
        async with self._asking:
            if self._loop.time() >= self._llm_until:
                self._llm = await self._replies.llm.ready()
                self._llm_until = self._loop.time() + READY_CACHE_SECONDS
        if self._replies.closing:
            return json_response({"status": "shutting_down", "llm": self._llm}, 503)
        ready = self._llm == "ok"
        return json_response(
            {"status": "ok" if ready else "unavailable", "llm": self._llm}, 200 if ready else 503
        )

    async def openapi(self, request: web.Request) -> web.StreamResponse:
        """Handle "GET /api/openapi.json": the description of this API."""
        return self._openapi.answer(request)
