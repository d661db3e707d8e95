from __future__ import annotations
import asyncio, json
from tests.openai.door import Door
from tests.tools.scripted_llm import *

async def items(door, conversation):
    return (await door.call("GET", f"/conversations/{conversation}/items?order=asc&limit=100"))[1]["data"]

async def test_delete_first_call_twice(door: Door):
    def call(n): return {"type":"function_call","call_id":f"c{n}","name":"f","arguments":"{}"}
    _, conv = await door.call("POST", "/conversations", {"items":[{"role":"user","content":"a"}, call(1), call(2), call(3)]})
    found = await items(door, conv["id"])
    print([(i["id"], i.get("call_id")) for i in found])
    path = f"/conversations/{conv['id']}/items/"
    print(await door.call("DELETE", path + found[1]["id"]))
    left = await items(door, conv["id"])
    print([(i["id"], i.get("call_id")) for i in left])
    assert [i["id"] for i in left] == [found[0]["id"], *(i["id"] for i in found[2:])]

async def test_failed_resumed(door: Door, llm):
    llm.play([*events(delta("Hello there my friend"), delta(" and more")), Close])
    stream = await door.stream(background=True)
    evs = await stream.rest()
    print([(e["sequence_number"], e["type"]) for e in evs])
    rid = evs[0]["response"]["id"]
    await door.server.ended()
    again = await (await door.resume(rid, evs[-2]["sequence_number"])).rest()
    print([(e["sequence_number"], e["type"]) for e in again])
    assert [e["type"] for e in again] == ["response.failed"]

async def test_cancelled_before_first_resumed(door: Door, llm):
    llm.play([SSE_HEAD, Hang])
    r = await door.respond(background=True)
    print(await door.call("POST", f"/responses/{r['id']}/cancel"))
    print(await door.call("GET", f"/responses/{r['id']}"))
    ev = await (await door.resume(r["id"])).rest()
    print([(e["sequence_number"], e["type"], e.get("response",{}).get("status")) for e in ev])
