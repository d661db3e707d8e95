"""Understands the LLM's list of models: which can chat, and how much each takes. No I/O."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from chatbot.errors import ChatError
from chatbot.llm.json_text import parse

_SIZES = (
    # vLLM, SGLang; llama-server's slot, before what the model was trained for; LM Studio's loaded one; the others
    "max_model_len",
    "n_ctx",
    "loaded_context_length",
    "max_context_length",
    "context_length",
    "context_window",
    "max_context_window_tokens",
    "max_input_tokens",
    "max_seq_len",
    "n_ctx_train",
)
_PLACES = ("", "meta", "top_provider", "limits", "model_info", "capabilities", "details")

_NO_CHAT = re.compile(
    r"embed|rerank|whisper|moderation|guard|dall-?e|stable-?diffusion|\bsdxl?\b|flux|\btts|speech|transcri|\basr\b"
    r"|(^|/)(bge|gte|e5|minilm|all-mpnet|jina-(clip|colbert)|colbert|clip|nomic)\b|text-(search|similarity)|image|imagen"
    r"|veo|sora|voxtral-.*transcribe|kokoro|diffusion|realtime|babbage|davinci-00|ocr\b",
    re.I,
)
_NO_CHAT_TYPES = re.compile(
    r"embed|rerank|image|audio|speech|moderation|transcri|tts|stt|video|classif", re.I
)


class Models(NamedTuple):
    """What the list says: the first model that can chat, and the tokens that models take, by name."""

    first: str
    sizes: dict[str, int]


def read(data: bytes) -> Models:
    """Reads the list. Raises ChatError if it is none or names no model."""
    try:
        value = parse(data)
    except ValueError:
        value = None
    listed = value
    if isinstance(value, dict):
        listed = value.get("data", value.get("models"))  # the second is an older Ollama's, or Cohere's
    if not isinstance(listed, list):
        raise ChatError("llm_error", "The LLM server's list of models is none.", kind="address")
    entries = [entry if isinstance(entry, dict) else {"id": entry} for entry in listed]
    named = [(name, entry) for entry in entries if (name := _name(entry))]
    if not named:
        raise ChatError("llm_error", "The LLM server lists no model; name one with LLM_MODEL.", kind="model")
    first = next((name for name, entry in named if _can_chat(name, entry)), named[0][0])
    return Models(first, {name: size for name, entry in named for size in (_size(entry),) if size})


def _name(entry: dict[str, Any]) -> str:
    name = entry.get("id") or entry.get("name") or entry.get("model")
    return name if isinstance(name, str) and name.isprintable() else ""


def _can_chat(name: str, entry: dict[str, Any]) -> bool:
    for field in ("type", "task", "model_type", "mode", "pipeline_tag", "modality"):
        if isinstance(kind := entry.get(field), str) and _NO_CHAT_TYPES.search(
            kind.partition("->")[2] or kind
        ):
            return "text-to-text" in kind or "vlm" in kind
    capabilities = entry.get("capabilities")
    if isinstance(capabilities, dict):
        for field in ("completion_chat", "chat_completion", "chat"):
            if isinstance(can := capabilities.get(field), bool):
                return can
    elif isinstance(capabilities, list) and capabilities:
        return any(str(can) in ("completion", "chat", "text", "vision", "tools") for can in capabilities)
    if entry.get("supports_chat") is False or entry.get("active") is False:
        return False
    return not _NO_CHAT.search(name)


def _size(entry: dict[str, Any]) -> int | None:
    return next(_found(entry), None)


def _found(entry: dict[str, Any]) -> Iterator[int]:
    for field in _SIZES:
        for place in _PLACES:
            holder = entry.get(place) if place else entry
            size = holder.get(field) if isinstance(holder, dict) else None
            if isinstance(size, int) and not isinstance(size, bool) and 0 < size < 2**40:
                yield size
