from __future__ import annotations
import asyncio, gc, sqlite3
from tests.tools.scripted_llm import *
from tests.openai.door import Door

async def test_reads_are_closed(llm, start, tmp_path):
    gc.collect(); gc.disable()
    server = await start(database_url=f"{tmp_path}/a.db")
    server.store._checkpoints.stop()
    other = sqlite3.connect(f"{tmp_path}/a.db", isolation_level=None, timeout=0)
    def free(what):
        row = other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        print(what, row)
        assert row[0] == 0, what
    try:
        s = await server.session()
        for i in range(30): await server.chat(s, f"m{i}")
        free("chat")
        conv = f"conv_{s}"
        door = Door(server)
        async def check(what, method, path, body=None):
            st, ans, _ = await server.call(method, path, body)
            print(what, st, str(ans)[:80])
            await asyncio.sleep(0.02)
            # a write, so that the wal is not empty
            await server.session(); free(what)
        await check("items", "GET", f"/v1/conversations/{conv}/items?limit=3")
        await check("items asc", "GET", f"/v1/conversations/{conv}/items?limit=3&order=asc")
        _, a, _ = await server.call("GET", f"/api/sessions/{s}/messages?limit=3")
        m = a["messages"][0]["message_id"]
        await check("page", "GET", f"/api/sessions/{s}/messages?limit=3")
        await check("before", "GET", f"/api/sessions/{s}/messages?limit=3&before={m}")
        await check("after", "GET", f"/api/sessions/{s}/messages?limit=3&after=start")
        await check("context", "GET", f"/api/sessions/{s}/context")
        await check("call refused", "POST", "/v1/responses", {"input":[{"type":"function_call_output","call_id":"x","output":"y"}], "conversation": conv})
        await check("resp", "POST", "/v1/responses", {"input":"a", "conversation": conv})
        await check("call refused", "POST", "/v1/responses", {"input":[{"type":"function_call_output","call_id":"x","output":"y"}], "conversation": conv, "stream": True})
        await check("bad", "GET", f"/v1/conversations/{conv}/items?limit=3&after=msg_zz")
        await check("del", "DELETE", f"/api/sessions/{s}/messages/{m}")
        llm.play(answer("400 Bad", {"error":{"message":"This model's maximum context length is 5 tokens"}}), answer("400 Bad", {"error":{"message":"This model's maximum context length is 5 tokens"}}))
        await check("toolong", "POST", "/api/chat", {"session_id": s, "message":"x"})
        await check("tool outs", "POST", "/api/chat", {"session_id": s, "tool_outputs":[{"tool_call_id":"x","output":"y"}]})
    finally:
        gc.enable(); other.close(); server.store._checkpoints._thread = __import__("threading").Thread(target=int); server.store._checkpoints._thread.start()
