"""The framework's floor: a bare aiohttp relay, with no session, no SQL and no parsing.

Everything is measured as a ratio to it. Usage: python -m tests.bench.relay PORT UPSTREAM
"""

import sys
from collections.abc import AsyncIterator

import aiohttp
from aiohttp import web

PORT, UPSTREAM = int(sys.argv[1]), sys.argv[2]
CLIENT = web.AppKey("client", aiohttp.ClientSession)


async def relay(request: web.Request) -> web.StreamResponse:
    async with request.app[CLIENT].post(
        UPSTREAM + request.path,
        data=await request.read(),
        headers={"Content-Type": "application/json"},
    ) as answer:
        response = web.StreamResponse(headers={"Content-Type": answer.headers["Content-Type"]})
        await response.prepare(request)
        async for chunk in answer.content.iter_any():
            await response.write(chunk)
        await response.write_eof()
        return response


async def client(app: web.Application) -> AsyncIterator[None]:
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as app[CLIENT]:
        yield


app = web.Application()
app.cleanup_ctx.append(client)
app.router.add_post("/v1/chat/completions", relay)
web.run_app(app, host="127.0.0.1", port=PORT, access_log=None, print=None, backlog=4096)
