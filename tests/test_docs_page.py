"""/docs shows the whole API to people, needs nothing else, and each of its calls works as written."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from html import unescape
from html.parser import HTMLParser

import pytest

from chatbot.api.openapi import OPERATIONS
from tests.tools.processes import ROOT, start_chatbot
from tests.tools.server import Running, StartServer

VOID = {"meta", "link"}


class Page(HTMLParser):
    """What the tests look at: ids, links, headings, and whether every tag is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.other: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            elif name == "href":
                self.links.append(value or "")
            elif name in ("src", "style", "onclick", "action"):
                self.other.append(f"{tag} {name}")
        if tag in ("script", "img", "iframe"):
            self.other.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


async def get(server: Running) -> tuple[str, Mapping[str, str]]:
    async with server.http.get(f"{server.url}/docs") as response:
        assert response.status == 200
        return await response.text(), response.headers


async def test_it_is_whole_and_needs_nothing_from_elsewhere(server: Running) -> None:
    text, headers = await get(server)
    page = Page(text)
    assert (page.open, page.other) == ([], [])
    assert len(page.ids) == len(set(page.ids))
    icon, style, other = [link for link in page.links if not link.startswith("#")]
    for link, file in ((icon, r"icons/icon\.svg"), (style, r"docs\.css")):
        assert re.fullmatch(f"page/[0-9a-f]{{12}}/{file}", link)
        async with server.http.get(f"{server.url}/{link}") as response:
            assert response.status == 200
    assert other == "api/openapi.json"
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert not re.search("{(version|about|links|calls|schemas)}", text), "a place was not filled"


async def test_it_has_every_call_field_and_code_and_a_korean_heading_for_each(server: Running) -> None:
    text, _ = await get(server)
    _, document, _ = await server.call("GET", "/api/openapi.json")
    for path, calls in document["paths"].items():
        for method in set(calls) - {"parameters"}:
            call = calls[method]
            section = text.partition(f'<h3 id="{call["operationId"]}">')[2].partition("<h3")[0]
            assert section.startswith(f"<code>{method.upper()} {path}</code>")
            assert re.search(r'<span lang="ko">[^<]*[가-힣]', section)
            assert "<pre>curl " in section
            for status in call["responses"]:
                assert f"<td>{status}</td>" in section
    for name, schema in document["components"]["schemas"].items():
        section = text.partition(f'<h3 id="{name}">')[2].partition("<h3")[0]
        for field in schema.get("properties", {}):
            assert f"<code>{field}</code>" in section


async def test_it_can_be_read_without_a_key_and_is_not_sent_twice(start: StartServer) -> None:
    server = await start(api_keys=("key",))
    _, headers = await get(server)
    async with server.http.get(f"{server.url}/docs", headers={"If-None-Match": headers["ETag"]}) as again:
        assert (again.status, await again.read()) == (304, b"")


def test_it_is_made_of_the_description_as_it_is_now() -> None:
    assert subprocess.call([sys.executable, str(ROOT / "tools" / "docs.py")]) == 0, (
        "run tools/docs.py --write"
    )


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
async def test_each_call_works_as_it_stands_there() -> None:
    with start_chatbot("--demo", "--port", "0") as chatbot:
        page = await run(f"curl -s {chatbot.url}/docs")
        shown = re.findall("<pre>((?:URL=|curl ).*?)</pre>", page, flags=re.DOTALL)
        begin, *commands = map(unescape, shown)
        begin = begin.replace("http://localhost:8080", chatbot.url)
        assert len(commands) == len(OPERATIONS)
        for command in commands:
            printed = await run(f"{begin}\n{command.replace('curl ', 'curl --fail-with-body ', 1)}")
            if "/stream" in command:
                assert printed.rstrip().endswith("data: [DONE]"), (command, printed)
            elif printed and "metrics" not in command:
                assert "error" not in json.loads(printed), (command, printed)


async def run(script: str) -> str:
    """What a shell prints; it must succeed."""
    environment = {"PATH": os.environ["PATH"]}
    shell = await asyncio.create_subprocess_exec(
        "sh", "-ec", script, stdout=asyncio.subprocess.PIPE, env=environment
    )
    printed = (await shell.communicate())[0].decode()
    assert shell.returncode == 0, (script, printed)
    return printed
