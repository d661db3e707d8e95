"""The description of the API: openapi.json is served as it is; routes and request schemas come from it."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

from chatbot.web.static import File

FILE = File("openapi.json", resources.files("chatbot.api").joinpath("openapi.json").read_bytes())

_DOCUMENT: dict[str, Any] = json.loads(FILE.body)

SCHEMAS: dict[str, dict[str, Any]] = _DOCUMENT["components"]["schemas"]

OPERATIONS: list[tuple[str, str, str]] = [
    (operation["operationId"], method, path)
    for path, methods in _DOCUMENT["paths"].items()
    for method, operation in methods.items()
    if method != "parameters"
]
"""Of each operation: its id, its method and its path."""
