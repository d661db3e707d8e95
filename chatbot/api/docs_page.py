"""The API for people: one HTML page made of openapi.json, without scripts and with nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable
from functools import cache
from html import escape
from importlib import resources
from typing import Any

from aiohttp import web

from chatbot.api import openapi
from chatbot.api.schemas import SESSION_ID
from chatbot.web.static import File

Object = dict[str, Any]


def _shown(text: str) -> str:
    return re.sub("`(.+?)`", r"<code>\1</code>", escape(text, quote=False))


def _in(tag: str, text: str) -> str:
    return f"<{tag}>{escape(text, quote=False)}</{tag}>"


def _name(reference: Object) -> str:
    return str(reference["$ref"].rpartition("/")[2])


def _table(heads: str, rows: Iterable[tuple[str, str, Object]]) -> str:
    """In each row a name, a few words, and what the document says of it."""
    lines = [
        f"<tr><td>{name}</td><td>{words}</td><td>{_shown(thing.get('description', ''))}</td></tr>"
        for name, words, thing in rows
    ]
    titles = "".join(f"<th>{head}</th>" for head in heads.split("|"))
    return f"<table><tr>{titles}</tr>{''.join(lines)}</table>" if lines else ""


def _type(schema: Object) -> str:
    """What a value may be, in a few words."""
    if "$ref" in schema:
        return f'<a href="#{_name(schema)}">{_name(schema)}</a>'
    if values := schema.get("enum", [schema["const"]] if "const" in schema else []):
        return " | ".join(_in("code", json.dumps(value)) for value in values)
    if "anyOf" in schema and "type" not in schema:
        return " | ".join(dict.fromkeys(map(_type, schema["anyOf"])))
    if "items" in schema:
        return f"[{_type(schema['items'])}]"
    return str(schema.get("format") or schema.get("type", "any"))


def _curl(method: str, path: str, example: Any) -> str:
    """The call as it can be typed, with $URL, $S and $M as the page's beginning sets them."""
    url = f"$URL{path}".replace("{session_id}", "$S").replace("{message_id}", "$M")
    words = ["curl -sN" if path.endswith("/stream") else "curl -s"]
    words += [f'"{url}"'] if method == "GET" else [f'-X {method} "{url}"']
    if example is not None:
        body = json.dumps(example, ensure_ascii=False).replace(SESSION_ID, "'$S'")
        words.append(f"-d '{body}'")
    return _in("pre", " ".join(words))


def _operation(method: str, path: str, operation: Object, korean: str, components: Object) -> str:
    """One call: what it takes, how to make it, what comes back."""
    name, example, body = operation["operationId"], None, ""
    if "requestBody" in operation:
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        example = components["schemas"][_name(schema)]["examples"][0]
        body = f"<p>Body · 본문: {_type(schema)}</p>"
    parameters = (components["parameters"][_name(parameter)] for parameter in operation["parameters"])
    answers = [
        (status, "".join(_type(one["schema"]) for one in answer.get("content", {}).values()), answer)
        for status, answer in operation["responses"].items()
    ]
    return "".join([
        f'<h3 id="{name}"><code>{method} {path}</code></h3>',
        f'<h4>{_shown(operation["summary"])} · <span lang="ko">{korean}</span></h4>',
        _curl(method, path, example) + body,
        _table("Parameter · 매개변수||", [(_in("code", one["name"]), one["in"], one) for one in parameters]),
        _table("Status · 상태|Content · 내용|", answers),
    ])  # fmt: skip


def _schema(name: str, schema: Object) -> str:
    always = schema.get("required", ())
    rows = [
        (_in("code", field) + "*" * (field in always), _type(one), one)
        for field, one in schema.get("properties", {}).items()
    ]
    examples = [_in("pre", json.dumps(one, ensure_ascii=False)) for one in schema.get("examples", ())]
    about = f'<h3 id="{name}">{name}</h3><p>{_shown(schema.get("description", ""))}</p>'
    return about + _table("Field · 필드|Type · 형식|", rows) + "".join(examples)


@cache
def page() -> File:
    """The page, the same for everybody."""
    document = json.loads(openapi.document().body)
    info, components = document["info"], document["components"]
    calls = [
        (method.upper(), path, call)
        for path, methods in document["paths"].items()
        for method, call in methods.items()
    ]
    files = resources.files("chatbot.api")
    html = files.joinpath("docs.html").read_text("utf-8")
    korean = json.loads(files.joinpath("docs.ko.json").read_text("utf-8"))
    for name, texts in {
        "version": [info["version"]],
        "about": [re.sub(r"\n(?=- |$)", "</p><p>", _shown(info["description"]), flags=re.MULTILINE)],
        "links": [
            f'<li><a href="#{call["operationId"]}">{_in("code", f"{m} {p}")}</a></li>' for m, p, call in calls
        ],
        "calls": [_operation(m, p, call, korean[f"{m} {p}"], components) for m, p, call in calls],
        "schemas": [_schema(*item) for item in components["schemas"].items()],
    }.items():
        html = html.replace(f"{{{name}}}", "".join(texts), 1)
    style = html.partition("<style>")[2].partition("</style>")[0]
    known = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    return File("docs.html", html.encode(), f"{policy}; style-src 'sha256-{known}'")


async def docs(request: web.Request) -> web.StreamResponse:
    """Handle "GET /docs": the API for people."""
    return page().answer(request)
