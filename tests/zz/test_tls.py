from __future__ import annotations
import asyncio, json, random, ssl
from pathlib import Path
import pytest
from chatbot.llm.client import LLM
from chatbot.config import Config
from chatbot.errors import ChatError
from tests.llm.asking import HI, said
from tests.tools.scripted_llm import *

PEM = Path(__file__).parents[1] / "llm" / "self_signed.pem"

@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("seed", range(8))
async def test_fuzz(tls, seed, monkeypatch):
    rnd = random.Random(seed)
    context = None
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER); context.load_cert_chain(PEM)
        monkeypatch.setenv("SSL_CERT_FILE", str(PEM))
    conns = 0
    plan = {}
    async def serve(reader, writer):
        nonlocal conns
        conns += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                n = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]) if b"content-length" in head.lower() else 0
                await reader.readexactly(n)
                if head.startswith(b"GET"):
                    body = b'{"object":"list","data":[{"id":"m"}]}'
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body); continue
                data, sizes, mode = plan["data"], plan["sizes"], plan["mode"]
                while data:
                    k = sizes(); writer.write(data[:k]); data = data[k:]
                    await writer.drain()
                    await asyncio.sleep(0 if rnd.random() < .8 else 0.001)
                if mode == "close": break
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError): pass
        finally: writer.close()
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    llm = LLM(Config(llm_server_url=f"http{'s' if tls else ''}://localhost:{port}", llm_model="m", llm_timeout_seconds=5))
    try:
        for i in range(7):
            words = [rnd.choice(["a", "hello ", "é", "\n", "x"*rnd.randrange(1, 3000), '"q"', "😀"]) for _ in range(rnd.randrange(1, 400))]
            mode = rnd.choice(["keep", "keep", "close", "cut", "nodone"])
            evs = [delta(w) for w in words] + [delta(finish="stop")] + ([usage()] if rnd.random()<.5 else [])
            if mode != "nodone": evs.append(DONE)
            if mode == "cut": evs = evs[:-rnd.randrange(2, 4)] if len(evs) > 4 else evs[:1]
            body = b"".join(evs)
            wire = b""
            while body:
                k = rnd.choice([1, 5, 200, 5000, 100000]); wire += http_chunk(body[:k]); body = body[k:]
            if mode != "cut": wire += END
            top = rnd.choice([200, 3000, 20000, 400_000])
            plan.update(data=SSE_HEAD + wire, sizes=lambda: rnd.randrange(1, top), mode="close" if mode in ("cut", "close") else "keep")
            got = []; 
            def take(chunks): got.extend(chunks); return True
            error = None
            answer = await llm.ask((HI,), {})
            try:
                first = True
                async for chunks in answer:
                    take(chunks)
                    if first: answer.tap(take); first = False
            except ChatError as e: error = e
            finally: answer.close()
            text = "".join(p.text for c in got for p in c.pieces)
            if mode == "cut":
                assert error or answer.finish_reason
                assert "".join(words).startswith(text)
                if not error: assert text == "".join(words)
            else:
                assert error is None, (mode, error)
                assert text == "".join(words), (mode, len(text), len("".join(words)))
            await asyncio.sleep(0.02)
            t = [c for c in llm._pooled.connector._conns.values()]
            for conns_ in t:
                for proto, _ in conns_:
                    assert proto.transport is None or proto.transport.get_protocol() is proto
    finally:
        await llm.close(); server.close(); await server.wait_closed()
