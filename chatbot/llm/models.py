"""Understands the LLM's list of models: which can chat, and how much each takes. No I/O."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from chatbot.errors import ChatError
from chatbot.llm.json_text import parse

# vLLM, SGLang; llama-server's slot, before what the model was trained for; LM Studio's loaded one; the others
_SIZES = "max_model_len n_ctx loaded_context_length max_context_length context_length context_window"
_SIZES += " context_size max_context_window_tokens max_input_tokens max_seq_len n_ctx_train"
_PLACES = ("meta", "metadata", "top_provider", "limits", "model_info", "capabilities", "details")

# In the names of models that cannot chat, or in their types; Hugging Face's "image-text-to-text" can.
_NO_CHAT = re.compile(
    r"^(?!.*text-to-text).*(embed|rerank|whisper|moderation|guard|dall-?e|stable-?diffusion|\bsdxl?\b|flux|\btts|\bstt"
    r"|speech|transcri|\basr\b|(^|/)(bge|gte|e5|minilm|all-mpnet|jina-(clip|colbert)|colbert|clip|nomic)\b|classif"
    r"|text-(search|similarity)|image|audio|video|veo|sora|kokoro|diffusion|realtime|babbage|davinci-00|turbo-instruct|ocr\b)",
    re.I,
)


class Models(NamedTuple):
    """What the list says: the first model that can chat, and the tokens that models take, by name."""

    first: str
    sizes: dict[str, int]


NO_MODELS = Models("", {})


def entries_of(data: bytes) -> dict[str, dict[str, Any]]:
    """The entries of the list by their names. Raises ChatError if it is none or names no model."""
    try:
        listed = parse(data) if data.strip() else []  # mlx-lm with a model that is not in its cache
    except ValueError:
        listed = None
    if isinstance(listed, dict):
        listed = listed.get("data", listed.get("models"))  # the second is an older Ollama's, or Cohere's
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
    """Reads the list. Raises ChatError if it is none or names no model."""
    entries = entries_of(data)
    first = next((name for name, entry in entries.items() if _can_chat(name, entry)), next(iter(entries)))
    return Models(first, {name: size for name, entry in entries.items() if (size := _size(entry))})


def _can_chat(name: str, entry: dict[str, Any]) -> bool:
    can = entry.get("capabilities")
    said = can.get("completion_chat", can.get("chat_completion")) if isinstance(can, dict) else None
    said = entry.get("supports_chat", said)
    if isinstance(said, bool):  # by Mistral, Azure and Fireworks
        return said
    if isinstance(can, list) and can:  # Ollama
        return not {"completion", "chat", "tools", "vision"}.isdisjoint(map(str, can))
    types = (entry.get(field) for field in ("type", "task", "model_type", "mode", "pipeline_tag", "modality"))
    kinds = (
        kind.rpartition("->")[2] for kind in types if isinstance(kind, str)
    )  # OpenRouter's "text->image"
    return not any(map(_NO_CHAT.search, (name, *kinds)))


def _size(entry: dict[str, Any]) -> int | None:
    holders = [one for one in (entry, *map(entry.get, _PLACES)) if isinstance(one, dict)]
    for field in _SIZES.split():
        for holder in holders:
            size = holder.get(field)
            if isinstance(size, int) and not isinstance(size, bool) and 0 < size < 2**40:
                return size
    return None
