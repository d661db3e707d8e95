from __future__ import annotations
import asyncio, json, random
import pytest
from tests.openai.door import Door
from tests.tools.scripted_llm import *
from tests.tools.server import Stream

@pytest.mark.parametrize("size,kind", [(300_000,"content"), (1000,"content"), (300_000,"mixed"),(7777,"reasoning_content")])
async def test_overflow(door, llm, size, kind):
    n = 4_300_000 // size
    def script(body=None):
        gate = Gate()
        ds = []
        for i in range(n):
            k = ("content","reasoning_content")[i%2] if kind == "mixed" else kind
            ds.append(delta(**{"text" if k=="content" else k: "é"*(size//2-3) + str(i%1000).zfill(3)}))
        return [*events(*ds, delta(finish="stop"), DONE), END]
    llm.script = script
    async def lines(method, url, **k):
        r = await door.server.http.request(method, url, **k)
        return (await r.content.read()).decode().split("\n\n")
    live = await lines("POST", door.server.url + "/v1/responses", json={"input":"x","stream":True})
    parse = lambda evs: [json.loads(e.split("data: ",1)[1]) for e in evs if "data: " in e and "[DONE]" not in e]
    a = parse(live)
    rid = a[0]["response"]["id"]
    b = parse(await lines("GET", door.server.url + f"/v1/responses/{rid}?stream=true"))
    print(len(a), len(b), a[-1]["type"], a[-1]["response"].get("incomplete_details"))
    assert [x for x in a] == [x for x in b]
    text = "".join(e["delta"] for e in a if e["type"].endswith(".delta"))
    print(len(text), len(text.encode()))
    # api
    s = await door.server.session()
    st = await lines("POST", door.server.url + "/api/chat/stream", json={"session_id":s,"message":"x"})
    evs = parse(st); ids = [int(e.split("id: ")[1].split("\n")[0]) for e in st if "id: " in e]
    t = "".join((e["choices"][0]["delta"].get("content") or "") + (e["choices"][0]["delta"].get("reasoning_content") or "") for e in evs if e["choices"])
    assert t == text and ids[-1] == len(text) and ids == sorted(ids)
    assert evs[-1]["choices"][0]["finish_reason"] == "length", evs[-1]
