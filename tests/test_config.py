"""The settings: the documented names and defaults; what cannot be used is refused by name."""

from __future__ import annotations

import pytest

from chatbot.config import Config, ConfigError


def test_the_defaults_are_the_documented_ones() -> None:
    assert Config.from_env({}) == Config(
        llm_server_url="http://localhost:8000",
        llm_api_key="",
        llm_model="",
        system_prompt="",
        llm_timeout_seconds=120,
        max_context_messages=10,
        session_timeout_hours=24,
        database_url=":memory:",
        host="127.0.0.1",
        port=8080,
        api_keys=(),
        allowed_origins=(),
        max_request_bytes=1_048_576,
        max_database_mb=1024,
        max_active_replies=1000,
        disconnect_grace_seconds=60,
        stream_heartbeat_seconds=15,
        shutdown_grace_seconds=10,
        log_level="INFO",
    )


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("LLM_SERVER_URL", "https://api.openai.com/v1/", "https://api.openai.com/v1"),
        ("LLM_SERVER_URL", "http://[::1]:8000", "http://[::1]:8000"),
        ("LLM_API_KEY", "sk-1", "sk-1"),
        ("LLM_MODEL", "org/model:7b", "org/model:7b"),
        ("SYSTEM_PROMPT", "친절하게 대답해.", "친절하게 대답해."),
        ("SYSTEM_PROMPT", "two\nlines", "two\nlines"),
        ("LLM_TIMEOUT_SECONDS", "0.5", 0.5),
        ("MAX_CONTEXT_MESSAGES", "1", 1),
        ("SESSION_TIMEOUT_HOURS", "0.01", 0.01),
        ("DATABASE_URL", "sqlite:///:memory:", ":memory:"),
        ("DATABASE_URL", "sqlite:///chat.db", "chat.db"),
        ("DATABASE_URL", "sqlite:////var/lib/chat.db", "/var/lib/chat.db"),
        ("HOST", "::", "::"),
        ("PORT", "0", 0),
        ("API_KEYS", " a, b ,,c", ("a", "b", "c")),
        (
            "ALLOWED_ORIGINS",
            "https://Example.com/, http://localhost:3000",
            ("https://example.com", "http://localhost:3000"),
        ),
        ("MAX_REQUEST_BYTES", "1024", 1024),
        ("MAX_DATABASE_MB", "1", 1),
        ("MAX_ACTIVE_REPLIES", "1", 1),
        ("DISCONNECT_GRACE_SECONDS", "0", 0.0),
        ("STREAM_HEARTBEAT_SECONDS", "1e1", 10.0),
        ("SHUTDOWN_GRACE_SECONDS", "0", 0.0),
        ("LOG_LEVEL", "debug", "DEBUG"),
    ],
)
def test_a_good_value_is_taken(name: str, text: str, value: object) -> None:
    assert getattr(Config.from_env({name: text}), name.lower()) == value
    assert getattr(Config.from_env({name: f"  {text} "}), name.lower()) == value, "with white space around"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("LLM_SERVER_URL", "localhost:8000"),
        ("LLM_SERVER_URL", "ftp://host"),
        ("LLM_SERVER_URL", "http://"),
        ("LLM_SERVER_URL", "http://host:port"),
        ("LLM_SERVER_URL", "http://host:99999"),
        ("LLM_SERVER_URL", "http://host/?a=b"),
        ("LLM_SERVER_URL", "http://host/#a"),
        ("LLM_SERVER_URL", "http://[::1"),
        ("LLM_SERVER_URL", "http://a host"),
        ("LLM_SERVER_URL", "http://a\thost"),
        ("LLM_API_KEY", "two\nlines"),
        ("LLM_API_KEY", "열쇠"),
        ("LLM_API_KEY", "a b"),
        ("SYSTEM_PROMPT", "half a pair \ud83d"),
        ("LLM_TIMEOUT_SECONDS", "0"),
        ("LLM_TIMEOUT_SECONDS", "soon"),
        ("MAX_CONTEXT_MESSAGES", "0"),
        ("MAX_CONTEXT_MESSAGES", "1.5"),
        ("MAX_CONTEXT_MESSAGES", "9" * 5000),
        ("SESSION_TIMEOUT_HOURS", "0"),
        ("SESSION_TIMEOUT_HOURS", "-1"),
        ("SESSION_TIMEOUT_HOURS", "inf"),
        ("SESSION_TIMEOUT_HOURS", "876001"),
        ("DATABASE_URL", "postgres://host/db"),
        ("DATABASE_URL", "sqlite:///"),
        ("DATABASE_URL", "sqlite:///dir/"),
        ("DATABASE_URL", "sqlite:///a.db?mode=ro"),
        ("DATABASE_URL", "sqlite:///a\0b"),
        ("PORT", "65536"),
        ("PORT", "http"),
        ("API_KEYS", "a key, b"),
        ("API_KEYS", "열쇠"),
        ("ALLOWED_ORIGINS", "*"),
        ("ALLOWED_ORIGINS", "example.com"),
        ("ALLOWED_ORIGINS", "https://example.com/path"),
        ("ALLOWED_ORIGINS", "https://"),
        ("MAX_REQUEST_BYTES", "1023"),
        ("MAX_DATABASE_MB", "0"),
        ("MAX_ACTIVE_REPLIES", "0"),
        ("DISCONNECT_GRACE_SECONDS", "-1"),
        ("DISCONNECT_GRACE_SECONDS", "nan"),
        ("STREAM_HEARTBEAT_SECONDS", "0"),
        ("SHUTDOWN_GRACE_SECONDS", "86401"),
        ("LOG_LEVEL", "LOUD"),
    ],
)
def test_a_bad_value_is_refused_in_one_line_that_names_the_variable(name: str, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config.from_env({name: text})
    message = str(caught.value)
    assert message.startswith(f"{name} must be ")
    assert "\n" not in message
    message.encode()


@pytest.mark.parametrize("name", ["LLM_API_KEY", "API_KEYS"])
def test_a_secret_is_shown_neither_when_refused_nor_in_the_settings_text(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config.from_env({name: "geheim und so"})
    assert "geheim" not in str(caught.value)
    assert "geheim" not in repr(Config.from_env({name: "geheim"}))


@pytest.mark.parametrize("text", ["", "   "])
def test_an_empty_variable_counts_as_not_set(text: str) -> None:
    assert Config.from_env({"PORT": text, "SYSTEM_PROMPT": text}) == Config()
