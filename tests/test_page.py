"""The page's files: served under a strict policy, compressed, kept by browsers, and small."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from chatbot.web.static import Static

PAGE = Path(__file__).parents[1] / "chatbot" / "page"
OWN = sorted([*PAGE.glob("*.js"), *PAGE.glob("markdown/*.js")])


@pytest.fixture
async def client():
    app = web.Application()
    Static().add_routes(app.router)
    async with TestClient(TestServer(app), auto_decompress=False) as client:
        yield client


async def get(client, path, **headers):
    response = await client.get(path, headers=headers)
    return response, await response.read()


async def assets(client):
    _, html = await get(client, "/", **{"Accept-Encoding": "identity"})
    return re.findall(r'="(page/[^"]+)"', html.decode())


async def test_everything_the_page_names_is_there_and_may_be_kept_for_ever(client):
    names = await assets(client)
    assert any(name.endswith("main.js") for name in names)
    for name in names:
        response, _ = await get(client, f"/{name}")
        assert response.status == 200, name
        assert "immutable" in response.headers["Cache-Control"]


async def test_a_browser_that_has_a_file_is_not_sent_it_again(client):
    for path in ("/", "/page/style.css"):
        first, _ = await get(client, path)
        assert first.headers["Cache-Control"] == "no-cache"
        again, body = await get(client, path, **{"If-None-Match": first.headers["ETag"]})
        assert (again.status, body) == (304, b"")


async def test_who_accepts_gzip_is_sent_gzip_and_nobody_else(client):
    plain, body = await get(client, "/page/main.js", **{"Accept-Encoding": "gzip;q=0, br"})
    zipped, smaller = await get(client, "/page/main.js", **{"Accept-Encoding": "br, gzip"})
    assert "Content-Encoding" not in plain.headers
    assert zipped.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(smaller) == body == (PAGE / "main.js").read_bytes()
    assert plain.headers["ETag"] != zipped.headers["ETag"]
    assert plain.headers["Vary"] == zipped.headers["Vary"] == "Accept-Encoding"


async def test_a_page_of_an_older_version_is_given_files_that_it_does_not_keep(client):
    response, body = await get(client, "/page/0123456789ab/keys.js", **{"Accept-Encoding": "identity"})
    assert (response.status, response.headers["Cache-Control"]) == (200, "no-cache")
    assert body == (PAGE / "keys.js").read_bytes()


@pytest.mark.parametrize("path", ["nothing.js", "../app.py", "%2e%2e/app.py", "index.html", "x/../main.js/y"])
async def test_nothing_but_the_pages_files_is_served(client, path):
    response, _ = await get(client, f"/page/{path}")
    assert response.status == 404


async def test_the_policy_lets_nothing_in_that_is_not_the_pages_own(client):
    for path in ("/", "/page/markdown/colour_worker.js"):
        response, _ = await get(client, path)
        policy = response.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; ")
        assert not re.search(r"unsafe|http|\*", policy)
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Referrer-Policy"] == "no-referrer"


async def test_each_file_says_what_it_is(client):
    kinds = {
        "manifest.webmanifest": "application/manifest+json",
        "main.js": "text/javascript; charset=utf-8",
        "vendor/katex/fonts/KaTeX_Main-Regular.woff2": "font/woff2",
        "icons/icon.svg": "image/svg+xml",
    }
    for name, kind in kinds.items():
        response, _ = await get(client, f"/page/{name}")
        assert response.headers["Content-Type"] == kind


async def test_all_of_it_together_is_small_over_the_wire(client):
    total = 0
    for path in PAGE.rglob("*"):
        if path.is_file() and path.name not in ("index.html", "LICENSE", "vendor.json"):
            _, body = await get(client, f"/page/{path.relative_to(PAGE)}", **{"Accept-Encoding": "gzip"})
            total += len(body)
    print(total)
    assert total < 400_000


def test_what_is_others_is_exactly_what_they_published():
    packages = json.loads((PAGE / "vendor" / "vendor.json").read_text())
    files = [item for package in packages.values() for item in package["files"].items()]
    listed = {name: file["sha256"] for name, file in files}
    there = {
        str(path.relative_to(PAGE / "vendor")): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (PAGE / "vendor").rglob("*")
        if path.is_file() and path.name != "vendor.json"
    }
    assert listed == there
    assert all(package["license"] and package["version"] for package in packages.values())


def test_no_text_is_ever_made_into_markup():
    forbidden = r"(?:inner|outer)HTML|insertAdjacentHTML|document\.write|\beval\(|Function\(|DOMParser|srcdoc"
    found = {path.name: re.findall(forbidden, path.read_text()) for path in OWN}
    assert not any(found.values()), found
    html = (PAGE / "index.html").read_text()
    assert re.findall(r"\s(?:on\w+|style)=|<style|<script(?! type=\"module\" src)", html) == []
    assert re.findall(r"(?:src|href)=[\"']?(?:https?:)?//", html) == []


def imports(path: Path) -> set[Path]:
    """All that a script imports at once, and what those import."""
    found = {path}
    for name in re.findall(r"^import [^;]*?from '([^']+)'", path.read_text(), re.MULTILINE):
        other = (path.parent / name).resolve()
        found |= {other} if other in found else imports(other)
    return found


def test_all_that_the_page_needs_at_first_is_asked_for_at_once():
    html = (PAGE / "index.html").read_text()
    named = {PAGE / name for name in re.findall(r"rel=\"modulepreload\" href=\"page/([^\"]+)", html)}
    assert named == imports(PAGE / "main.js") - {PAGE / "main.js"}


def test_the_scripts_are_short_enough_to_be_read():
    assert max(len(path.read_text().splitlines()) for path in OWN) <= 300


def test_the_box_to_write_in_is_the_first_and_the_conversation_is_in_main():
    html = (PAGE / "index.html").read_text()
    assert re.search(r"<textarea id=\"(\w+)\"", html)[1] == "message"
    assert html.index("<main") < html.index('id="scroller"') < html.index("</main>")
