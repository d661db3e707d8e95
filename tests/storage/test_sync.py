"""With DATABASE_SYNC=full the end of a reply leaves after the disk has the turn."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import sys
from pathlib import Path

import pytest

from tests.tools.processes import ROOT, start_chatbot

TRACED = "trace=fsync,fdatasync,pwrite64,write,writev,sendto,sendmsg"


def calls_of_two_chats(tmp_path: Path) -> list[str]:
    """What a server's event loop did with the disk and with its client while it streamed two replies."""
    strace = shutil.which("strace") or pytest.skip("strace is not installed")
    trace = tmp_path / "trace"
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "DATABASE_SYNC": "full"}
    env["DATABASE_URL"] = f"sqlite:///{tmp_path}/chat.db"
    command = [strace, "-f", "-yy", "-s", "200", "-e", TRACED, "-o", trace, sys.executable, "-m", "chatbot"]
    with start_chatbot("--demo", "--port", "0", command=command, env=env) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        connection.request("POST", "/api/sessions")
        session = json.loads(connection.getresponse().read())["session_id"]
        for number in range(2):
            body = json.dumps({"session_id": session, "message": f"Hello {number}"})
            connection.request("POST", "/api/chat/stream", body)
            assert connection.getresponse().read().endswith(b"data: [DONE]\n\n")
        connection.close()
        thread = trace.read_text("utf-8", "replace").split(maxsplit=1)[0]
        os.kill(int(thread), signal.SIGTERM)
        server.wait()
    sent = rf"send\w+\(\d+<TCP:\[127\.0\.0\.1:{server.port}->"
    ours = re.compile(rf"{thread} +({sent}|(fsync|fdatasync|pwrite64)\(\d+<[^>]*-wal>)")
    return [call for call in trace.read_text("utf-8", "replace").splitlines() if ours.match(call)]


def test_the_end_of_a_reply_leaves_after_the_disk_has_the_turn(tmp_path: Path) -> None:
    calls = calls_of_two_chats(tmp_path)
    ends = [number for number, call in enumerate(calls) if "data: [DONE]" in call]
    assert len(ends) == 2
    for end in ends:
        on_disk = [call for call in calls[:end] if "-wal>" in call]
        assert "sync(" in on_disk[-1], on_disk[-3:]
