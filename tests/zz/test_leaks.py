from __future__ import annotations
import asyncio, gc, json, weakref, collections
import pytest
from chatbot.llm.response import Answer
from chatbot.llm.tap import Tap
from chatbot.chat.reply import Reply
from chatbot.chat.asking import Asking
from chatbot.chat.context import Context
from chatbot.web.streaming import StreamListener
from chatbot.openai.events import ResponseEncoder
from tests.tools.scripted_llm import *
from tests.tools.server import until

CLS = (Answer, Tap, Reply, Asking, StreamListener, ResponseEncoder)
def census():
    c = collections.Counter()
    for o in gc.get_objects():
        if type(o) in CLS: c[type(o).__name__] += 1
    return dict(c)

@pytest.mark.parametrize("kind", ["hang", "cancel", "cut", "done", "abort", "grace", "rhang", "rcut", "rdone", "rbad", "overflow", "badchunk", "delete","idle"])
async def test_leaks(llm, start, kind, clock):
    server = await start(disconnect_grace_seconds=60 if kind == "grace" else 0)
    gc.collect(); gc.disable()
    try:
        for i in range(4):
            gate = Gate()
            tail = {"cut": [Close], "abort": [Abort], "done": [http_chunk(delta(finish="stop")+DONE), END], "rdone": [http_chunk(delta(finish="stop")+DONE), END], "rcut": [Close], "badchunk":[b"zzz\r\n"], "rbad":[b"zzz\r\n"],
              "overflow": [http_chunk(delta("x"*300_000)) for _ in range(16)]}.get(kind, [Hang])
            llm.play([SSE_HEAD, http_chunk(delta("a")), gate, http_chunk(delta("b")), http_chunk(delta("c")), *tail])
            if kind.startswith("r"):
                resp = await server.http.post(server.url + "/v1/responses", json={"input": "x", "stream": True, "model": "m"})
                await resp.content.readline()
                gate.open(); await asyncio.sleep(.05)
                if kind == "rhang": resp.close()
                else: await resp.read()
                del resp
            else:
                s = await server.session()
                st = await server.stream(s)
                await st.event(); gate.open(); await st.event()
                await asyncio.sleep(.02)
                if kind in ("hang", "grace"): st.leave()
                elif kind == "cancel": await server.call("POST", f"/api/sessions/{s}/messages/{st.message_id}/cancel")
                elif kind == "delete": await server.call("DELETE", f"/api/sessions/{s}")
                elif kind == "idle": clock.advance(200)
                if kind not in ("hang", "grace"): await st.rest()
                server.streams.clear(); del st
            if kind == "grace": await asyncio.sleep(.1); clock.advance(61)
            await until(lambda: not len(server.replies))
            await asyncio.sleep(.05)
        await asyncio.sleep(.1)
        c = census()
        print(kind, c)
        for o in gc.get_objects():
            if type(o) in (Answer,Reply) : print("   held by", [ (type(r).__name__, getattr(r,'f_code',None) and r.f_code.co_qualname) for r in gc.get_referrers(o)][:6]); break
    finally:
        gc.enable()
