"""Reads the LLM server's list of models: which models can chat, and their context sizes. No I/O."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from chatbot.errors import ChatError
from chatbot.llm.json_text import parse

# vLLM, SGLang; llama-server's slot (n_ctx_train comes last); LM Studio's loaded model; other servers
_SIZES = "max_model_len n_ctx loaded_context_length max_context_length context_length context_window"
_SIZES += " context_size max_context_window_tokens max_input_tokens max_seq_len n_ctx_train"
_PLACES = ("meta", "metadata", "top_provider", "limits", "model_info", "capabilities", "details")

# Matches names and types of models that cannot chat. Hugging Face's type "image-text-to-text" can chat.
_NO_CHAT = re.compile(
    r"^(?!.*text-to-text).*(embed|rerank|whisper|moderation|guard|dall-?e|stable-?diffusion|\bsdxl?\b|flux|\btts|\bstt"
    r"|speech|transcri|\basr\b|(^|/)(bge|gte|e5|minilm|all-mpnet|jina-(clip|colbert)|colbert|clip|nomic)\b|classif"
    r"|text-(search|similarity)|image|audio|video|veo|sora|kokoro|diffusion|realtime|babbage|davinci-00|turbo-instruct|ocr\b)",
    re.I,
)


class Models(NamedTuple):
    """The first model that can chat, and the context sizes in tokens by the name of the model."""

    first: str
    sizes: dict[str, int]


NO_MODELS = Models("", {})


def entries_of(data: bytes) -> dict[str, dict[str, Any]]:
    """Returns the entries of the list by name. Raises ChatError if it is no list, or names no model."""
    try:
        listed = parse(data) if data.strip() else []  # mlx-lm sends nothing if its model is not in the cache
    except ValueError:
        listed = None
    if isinstance(listed, dict):
        listed = listed.get("data", listed.get("models"))  # "models": older Ollama, Cohere
    if not isinstance(listed, list):
        raise ChatError("llm_error", "It is none: this is not an OpenAI-compatible API.", kind="address")
    entries: dict[str, dict[str, Any]] = {}
    for entry in listed:
        entry = entry if isinstance(entry, dict) else {"id": entry}
        name = entry.get("id") or entry.get("name") or entry.get("model")
        if isinstance(name, str) and name.isprintable():
            entries.setdefault(name, entry)
    if not entries:
        raise ChatError("llm_error", "The LLM server lists no model; name one with LLM_MODEL.", kind="model")
    return entries


def read(data: bytes) -> Models:
    """Reads the list. Raises ChatError if it is no list, or names no model."""
    entries = entries_of(data)
    first = next((name for name, entry in entries.items() if _can_chat(name, entry)), next(iter(entries)))
    return Models(first, {name: size for name, entry in entries.items() if (size := _size(entry))})


def _can_chat(name: str, entry: dict[str, Any]) -> bool:
    can = entry.get("capabilities")
    said = can.get("completion_chat", can.get("chat_completion")) if isinstance(can, dict) else None
    said = entry.get("supports_chat", said)
    if isinstance(said, bool):  # Mistral, Azure and Fireworks say it
        return said
    if isinstance(can, list) and can:  # Ollama
        return not {"completion", "chat", "tools", "vision"}.isdisjoint(map(str, can))
    types = (entry.get(field) for field in ("type", "task", "model_type", "mode", "pipeline_tag", "modality"))
    # OpenRouter's modality is like "text->image".
    kinds = (kind.rpartition("->")[2] for kind in types if isinstance(kind, str))
    return not any(map(_NO_CHAT.search, (name, *kinds)))


def _size(entry: dict[str, Any]) -> int | None:
    holders = [one for one in (entry, *map(entry.get, _PLACES)) if isinstance(one, dict)]
    for field in _SIZES.split():
        for holder in holders:
            size = holder.get(field)
            if isinstance(size, int) and not isinstance(size, bool) and 0 < size < 2**40:
                return size
    return None
