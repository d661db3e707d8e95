"""Makes the page for people out of the API's description: python3 tools/docs.py [--write]

chatbot/page/docs.html is made of chatbot/api/openapi.json, the frame tools/docs.html and Korean headings.
Without --write nothing is changed, and the exit code is 1 if the page is not what it would be made.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any

Object = dict[str, Any]

TOOLS = Path(__file__).parent
PAGE = TOOLS.parent / "chatbot" / "page" / "docs.html"
DOCUMENT: Object = json.loads((TOOLS.parent / "chatbot" / "api" / "openapi.json").read_text("utf-8"))
COMPONENTS: Object = DOCUMENT["components"]
METHODS = ("get", "post", "patch", "delete")


def _shown(text: str) -> str:
    return re.sub("`(.+?)`", r"<code>\1</code>", escape(text, quote=False))


def _in(tag: str, text: str) -> str:
    return f"<{tag}>{escape(text, quote=False)}</{tag}>"


def _name(reference: Object) -> str:
    return str(reference["$ref"].rpartition("/")[2])


def _meant(thing: Object) -> Object:
    """What it is, or the component that it refers to."""
    if "$ref" not in thing:
        return thing
    found: Object = COMPONENTS[thing["$ref"].split("/")[2]][_name(thing)]
    return found


def _table(heads: str, rows: Iterable[tuple[str, str, Object]]) -> str:
    """In each row a name, a few words, and what the document says of it."""
    lines = [
        f"\n<tr><td>{name}</td><td>{words}</td><td>{_shown(thing.get('description', ''))}</td></tr>"
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
    session_id = COMPONENTS["parameters"]["session_id"]["example"]
    url = f"$URL{path}".replace("{session_id}", "$S").replace("{message_id}", "$M")
    words = ["curl -sN" if path.endswith("/stream") else "curl -s"]
    words += [f'"{url}"'] if method == "get" else [f'-X {method.upper()} "{url}"']
    if example is not None:
        body = json.dumps(example, ensure_ascii=False).replace(session_id, "'$S'")
        words.append(f"-d '{body}'")
    return _in("pre", " ".join(words))


def _operation(method: str, path: str, item: Object, korean: str) -> str:
    """One call: what it takes, how to make it, what comes back."""
    operation = item[method]
    name, example, body = operation["operationId"], None, ""
    if "requestBody" in operation:
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        example = COMPONENTS["schemas"][_name(schema)]["examples"][0]
        body = f"<p>Body · 본문: {_type(schema)}</p>"
    parameters = map(_meant, item.get("parameters", []) + operation.get("parameters", []))
    answers = [
        (status, "".join(_type(one["schema"]) for one in answer.get("content", {}).values()), answer)
        for status, answer in ((status, _meant(one)) for status, one in operation["responses"].items())
    ]
    return "\n".join([
        f'<h3 id="{name}"><code>{method.upper()} {path}</code></h3>',
        f'<h4>{_shown(operation["summary"])} · <span lang="ko">{korean}</span></h4>',
        _curl(method, path, example) + body,
        _table("Parameter · 매개변수||", [(_in("code", one["name"]), one["in"], one) for one in parameters]),
        _table("Status · 상태|Content · 내용|", answers) + "\n",
    ])  # fmt: skip


def _schema(name: str, schema: Object) -> str:
    always = schema.get("required", ())
    rows = [
        (_in("code", field) + "*" * (field in always), _type(one), one)
        for field, one in schema.get("properties", {}).items()
    ]
    examples = [_in("pre", json.dumps(one, ensure_ascii=False)) for one in schema.get("examples", ())]
    about = f'<h3 id="{name}">{name}</h3><p>{_shown(schema.get("description", ""))}</p>'
    return "\n".join([about, _table("Field · 필드|Type · 형식|", rows), *examples, ""])


def page() -> str:
    """The page as it is to be."""
    info, paths, schemas = DOCUMENT["info"], DOCUMENT["paths"], COMPONENTS["schemas"]
    calls = [(method, path, item) for path, item in paths.items() for method in METHODS if method in item]
    korean = json.loads((TOOLS / "docs.ko.json").read_text("utf-8"))
    html = (TOOLS / "docs.html").read_text("utf-8")
    for name, texts in {
        "version": [info["version"]],
        "about": [re.sub(r"\n(?=- |$)", "</p><p>", _shown(info["description"]), flags=re.MULTILINE)],
        "links": [
            f'<li><a href="#{item[m]["operationId"]}">{_in("code", f"{m.upper()} {p}")}</a></li>\n'
            for m, p, item in calls
        ],
        "calls": [_operation(m, p, item, korean[f"{m.upper()} {p}"]) for m, p, item in calls],
        "schemas": [_schema(*item) for item in schemas.items()],
    }.items():
        html = html.replace(f"{{{name}}}", "".join(texts), 1)
    return html


def main(write: bool) -> int:
    """Compares the page with what it is to be, or writes it."""
    if write:
        PAGE.write_text(page(), "utf-8")
    return int(PAGE.read_text("utf-8") != page())


if __name__ == "__main__":
    sys.exit(main("--write" in sys.argv[1:]))
