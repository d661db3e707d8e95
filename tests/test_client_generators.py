"""Clients that generators make of openapi.json can chat; needs openapi-python-client, node, the network."""

from __future__ import annotations

import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tools.processes import start_chatbot

pytestmark = [pytest.mark.generators, pytest.mark.timeout(600)]

PYTHON = """
import sys
from made import Client
from made.api.default import chat, chat_stream, create_session, list_messages, rewind
from made.models import Chat, Error, NewSession

client = Client(base_url=sys.argv[1])
session = create_session.sync(client=client, body=NewSession(system_prompt="Be brief."))
reply = chat.sync(client=client, body=Chat(session_id=str(session.session_id), message="Hello"))
assert reply.role == "assistant" and reply.finish_reason == "stop", reply
again = chat.sync(client=client, body=Chat(session_id=str(session.session_id), replace=str(reply.message_id)))
assert again.versions.index == 1, again
page = list_messages.sync(session.session_id, client=client, limit=10)
assert [message.role for message in page.messages] == ["system", "user", "assistant"], page
gone = rewind.sync(session.session_id, page.messages[1].message_id, client=client)
assert gone.deleted == 2, gone
error = chat.sync(client=client, body=Chat(session_id="nobody", message="Hello"))
assert isinstance(error, Error) and error.error.code == "session_not_found", error
"""

TYPESCRIPT = """
import type { components, paths } from "./made";
type Message = components["schemas"]["Message"];
type Chat = paths["/api/chat"]["post"]["requestBody"]["content"]["application/json"];
type Failure = paths["/api/chat"]["post"]["responses"][404]["content"]["application/json"];
type Made = paths["/api/sessions"]["post"]["responses"][201]["content"]["application/json"];
declare const process: { argv: string[] };

async function post<T>(path: keyof paths, body?: unknown): Promise<T> {
  const response = await fetch(process.argv[2] + path, { method: "POST", body: JSON.stringify(body ?? {}) });
  return (await response.json()) as T;
}

async function main(): Promise<void> {
  const session = await post<Made>("/api/sessions");
  const asked: Chat = { session_id: session.session_id, message: "Hello", temperature: 0.5 };
  const reply = await post<Message>("/api/chat", asked);
  if (reply.role !== "assistant" || reply.finish_reason !== "stop") throw new Error(JSON.stringify(reply));
  const failure = await post<Failure>("/api/chat", { ...asked, session_id: "nobody" } satisfies Chat);
  if (failure.error.code !== "session_not_found") throw new Error(JSON.stringify(failure));
}
main();
"""


@pytest.fixture
def url() -> Iterator[str]:
    with start_chatbot("--demo", "--port", "0") as server:
        yield server.url


@pytest.fixture
def document(url: str, tmp_path: Path) -> Path:
    with urllib.request.urlopen(f"{url}/api/openapi.json") as answer:
        path = tmp_path / "openapi.json"
        path.write_bytes(answer.read())
    return path


def run(folder: Path, *command: str | Path) -> None:
    """Runs a program that must succeed."""
    done = subprocess.run(list(map(str, command)), cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def test_openapi_python_client(url: str, document: Path, tmp_path: Path) -> None:
    pytest.importorskip("openapi_python_client")
    (tmp_path / "settings.yaml").write_text("post_hooks: []\n")
    generate = (sys.executable, "-m", "openapi_python_client", "generate", "--fail-on-warning")
    options = ("--output-path", "made", "--meta", "none", "--config", "settings.yaml")
    run(tmp_path, *generate, "--path", document, *options)
    (tmp_path / "chat.py").write_text(PYTHON)
    run(tmp_path, sys.executable, "chat.py", url)


def test_openapi_typescript(url: str, document: Path, tmp_path: Path) -> None:
    npx = shutil.which("npx") or pytest.skip("node is not installed")
    run(tmp_path, npx, "--yes", "openapi-typescript@7", document, "-o", "made.d.ts")
    (tmp_path / "chat.ts").write_text(TYPESCRIPT)
    options = ("--strict", "--skipLibCheck", "--target", "es2022", "--lib", "es2022,dom")
    run(tmp_path, npx, "--yes", "-p", "typescript@5", "tsc", *options, "--module", "commonjs", "chat.ts")
    run(tmp_path, "node", "chat.js", url)
