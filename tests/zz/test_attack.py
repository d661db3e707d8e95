from __future__ import annotations
import asyncio, gc, json, weakref
import pytest
from chatbot.llm.response import Answer
from chatbot.llm import response as R
from chatbot.chat.reply import Reply
from chatbot.openai.events import ResponseEncoder
from tests.tools.scripted_llm import *
from tests.tools.server import until, StartServer
from tests.llm.asking import opened, hear, HI

async def test_stop_in_the_moment_of_the_finish(llm, server, monkeypatch):
    """reasoning alone that ended by length, and a cancel before the task runs."""
    gate = Gate()
    llm.play([*events(delta(reasoning_content="hm"), gate, delta(reasoning_content="hm"), delta(finish="length") + usage() + DONE), Hang])
    session = await server.session()
    stream = await server.stream(session)
    reply = server.replies.running(session)
    await stream.event()
    inner = reply._take
    def take(chunks):
        result = inner(chunks)
        if reply.finish_sent:
            asyncio.get_running_loop().call_soon(reply.stop)
        return result
    reply._asking._answer._tapped_take = take
    gate.open()
    evs = await stream.rest()
    print([ (e.id,e.data) for e in evs])
    live = [e.finish_reason for e in evs if e.finish_reason]
    late = await server.resume(session, stream.message_id, 0)
    evs2 = await late.rest()
    assert live == [e.finish_reason for e in evs2 if e.finish_reason]

async def test_tail_of_cut(llm):
    words = [delta("x"*400) for _ in range(2000)]
    async with opened(llm) as way:
        llm.play([SSE_HEAD, http_chunk(delta("first")), b"".join(map(http_chunk, words)) + http_chunk(delta("END", finish="stop")), Close])
        heard = await hear(way)
        assert heard.error is None, heard.error
        assert heard.said.endswith("END")

@pytest.mark.parametrize("pieces", [1, 3])
async def test_leak_relay(llm, server, pieces):
    made = []
    init = Answer.__init__
    def noted(self, *a, **k):
        init(self, *a, **k); made.append(weakref.ref(self))
    Answer.__init__ = noted
    try:
        gc.collect(); gc.disable()
        for kind in ("relay", "relaystream", "chat", "response", "chatstream"):
            del made[:]
            for i in range(5):
                llm.play([*events(*[delta("hi")]*pieces), Close])
                body = {"messages":[{"role":"user","content":"x"}],"model":"m"}
                if kind.startswith("relay"):
                    await server.call_raw(body | {"stream": kind != "relay"}) if False else None
                    async with server.http.post(server.url+"/v1/chat/completions", json=body | {"stream": kind != "relay"}) as r:
                        await r.read()
                elif kind == "response":
                    async with server.http.post(server.url+"/v1/responses", json={"input":"x","model":"m"}) as r: await r.read()
                elif kind == "chat":
                    s = await server.session(); await server.chat(s)
                else:
                    s = await server.session(); st = await server.stream(s); await st.rest()
            await asyncio.sleep(.2)
            print(kind, len(made), "alive", sum(r() is not None for r in made))
            for r in made:
                if r():
                    print([type(x) for x in gc.get_referrers(r())]); break
    finally:
        Answer.__init__ = init
        gc.enable()
