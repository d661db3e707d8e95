"""The API for people: one HTML page made of openapi.json, without scripts and with nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
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


def _about(thing: Object) -> str:
    return _shown(thing.get("description", ""))


def _code(name: str) -> str:
    return f"<code>{escape(name)}</code>"


def _pre(text: str) -> str:
    return f"<pre>{escape(text, quote=False)}</pre>"


def _name(reference: Object) -> str:
    return str(reference["$ref"].rpartition("/")[2])


def _table(heads: str, rows: Sequence[Sequence[str]]) -> str:
    titles = "".join(f"<th>{head}</th>" for head in heads.split("|"))
    lines = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><tr>{titles}</tr>{lines}</table>" if rows else ""


def _type(schema: Object) -> str:
    """What a value may be, in a few words."""
    if "$ref" in schema:
        return f'<a href="#{_name(schema)}">{_name(schema)}</a>'
    if values := schema.get("enum", [schema["const"]] if "const" in schema else []):
        return " | ".join(_code(json.dumps(value)) for value in values)
    if either := schema.get("anyOf") if "type" not in schema else None:
        return " | ".join(dict.fromkeys(map(_type, either)))
    if "items" in schema:
        return f"[{_type(schema['items'])}]"
    return str(schema.get("format") or schema.get("type", "any"))


def _curl(method: str, path: str, example: Any) -> str:
    """The call as it can be typed, with $URL, $S and $M as the page's beginning sets them."""
    words = ["curl -sN" if path.endswith("/stream") else "curl -s"]
    if method != "GET" and (method != "POST" or example is None):
        words.append(f"-X {method}")
    words.append(f'"$URL{path}"'.replace("{session_id}", "$S").replace("{message_id}", "$M"))
    if example is not None:
        body = json.dumps(example, ensure_ascii=False).replace(SESSION_ID, "'$S'")
        words.append(f"-d '{body}'")
    return _pre(" ".join(words))


def _operation(method: str, path: str, operation: Object, korean: str, components: Object) -> str:
    """One call: what it takes, how to make it, what comes back."""
    name, example, body = operation["operationId"], None, ""
    if "requestBody" in operation:
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        example = components["schemas"][_name(schema)]["examples"][0]
        body = f"<p>Body · 본문: {_type(schema)}</p>"
    taken = [components["parameters"][_name(parameter)] for parameter in operation["parameters"]]
    answers = [
        (status, "".join(_type(one["schema"]) for one in answer.get("content", {}).values()), answer)
        for status, answer in operation["responses"].items()
    ]
    return "".join([
        f'<h3 id="{name}"><code>{method} {path}</code></h3>',
        f'<h4>{_shown(operation["summary"])} · <span lang="ko">{korean}</span></h4>',
        _curl(method, path, example) + body,
        _table("Parameter · 매개변수||", [(_code(p["name"]), p["in"], _about(p)) for p in taken]),
        _table("Status · 상태|Content · 내용|", [(status, kind, _about(a)) for status, kind, a in answers]),
    ])  # fmt: skip


def _schema(name: str, schema: Object) -> str:
    always = schema.get("required", ())
    rows = [
        (_code(field) + "*" * (field in always), _type(one), _about(one))
        for field, one in schema.get("properties", {}).items()
    ]
    examples = [_pre(json.dumps(example, ensure_ascii=False)) for example in schema.get("examples", ())]
    table = _table("Field · 필드|Type · 형식|", rows)
    return f'<h3 id="{name}">{name}</h3><p>{_about(schema)}</p>{table}{"".join(examples)}'


@cache
def page() -> File:
    """The page, the same for everybody."""
    document = json.loads(openapi.document().body)
    info, components = document["info"], document["components"]
    calls = [
        (method.upper(), path, call) for path, at in document["paths"].items() for method, call in at.items()
    ]
    links = [
        f'<li><a href="#{call["operationId"]}"><code>{m} {path}</code></a></li>' for m, path, call in calls
    ]
    files = resources.files("chatbot.api")
    html = files.joinpath("docs.html").read_text("utf-8")
    korean = json.loads(files.joinpath("docs.ko.json").read_text("utf-8"))
    for name, text in {
        "version": info["version"],
        "about": re.sub(r"\n(?=- |$)", "</p><p>", _about(info), flags=re.MULTILINE),
        "links": "".join(links),
        "calls": "".join(_operation(*call, korean[" ".join(call[:2])], components) for call in calls),
        "schemas": "".join(_schema(*item) for item in components["schemas"].items()),
    }.items():
        html = html.replace(f"{{{name}}}", text, 1)
    style = html.partition("<style>")[2].partition("</style>")[0]
    known = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    return File("docs.html", html.encode(), f"{policy}; style-src 'sha256-{known}'")


async def docs(request: web.Request) -> web.StreamResponse:
    """Handle "GET /docs": the API for people."""
    return page().answer(request)
