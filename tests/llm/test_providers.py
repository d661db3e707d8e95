"""Every line of the README's table of LLM servers leads to the URL that the server serves."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from chatbot.config import Config
from chatbot.llm.endpoint import Endpoint

README = Path(__file__).parents[2] / "README.md"

ASKED = {
    "vLLM": "http://localhost:8000/v1/chat/completions",
    "llama.cpp": "http://localhost:8000/v1/chat/completions",
    "llama-cpp-python": "http://localhost:8000/v1/chat/completions",
    "Ollama": "http://localhost:11434/v1/chat/completions",
    "LM Studio": "http://localhost:1234/v1/chat/completions",
    "SGLang": "http://localhost:30000/v1/chat/completions",
    "LiteLLM": "http://localhost:4000/v1/chat/completions",
    "mlx-lm": "http://localhost:8000/v1/chat/completions",
    "transformers": "http://localhost:8000/v1/chat/completions",
    "OpenAI": "https://api.openai.com/v1/chat/completions",
    "Azure": "https://name.openai.azure.com/openai/v1/chat/completions?api-version=preview",
    "Gemini": "https://generativelanguage.googleapis.com/v1beta/openai/chat/completions",
    "OpenRouter": "https://openrouter.ai/api/v1/chat/completions",
    "Mistral": "https://api.mistral.ai/v1/chat/completions",
    "DeepSeek": "https://api.deepseek.com/v1/chat/completions",
    "xAI": "https://api.x.ai/v1/chat/completions",
    "Zhipu": "https://open.bigmodel.cn/api/paas/v4/chat/completions",
    "Fireworks": "https://api.fireworks.ai/inference/v1/chat/completions",
}


def lines() -> dict[str, dict[str, str]]:
    """The table: by name, the settings that stand in backquotes."""
    table = README.read_text().partition("<!-- providers -->")[2].partition("<!-- /providers -->")[0]
    rows = [line.strip("| ").split(" | ", 1) for line in table.splitlines() if line.startswith("| ")][2:]
    return {name: dict(re.findall(r"`([A-Z_]+)=([^`]+)`", settings)) for name, settings in rows}


def test_the_table_has_a_line_for_each() -> None:
    assert set(lines()) == set(ASKED)


@pytest.mark.parametrize("name", ASKED)
def test_the_settings_of_a_line_work(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    config = Config.from_env(lines()[name])
    endpoint = Endpoint(config)
    assert str(endpoint.chat_url) == ASKED[name]
    headers = endpoint.headers("key-of-the-conversation")
    if ASKED[name].startswith("https"):
        assert "KEY" in headers.get("Authorization", "") + headers.get("api-key", ""), "it wants a key"
    wants_key_of_it = "{session}" in str(config.llm_headers)
    assert ("key-of-the-conversation" in headers.values()) == wants_key_of_it, headers
