"""The settings: what can be used is taken, what cannot be is refused by name."""

from __future__ import annotations

import pytest

from chatbot.config import Config, ConfigError, read_dotenv


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("LLM_SERVER_URL", "https://api.openai.com/v1", "https://api.openai.com/v1"),
        ("LLM_SERVER_URL", "http://[::1]:8000", "http://[::1]:8000"),
        ("LLM_SERVER_URL", "http://my_llm:8000", "http://my_llm:8000"),
        ("LLM_SERVER_URL", "http://user:pass@host", "http://user:pass@host"),
        ("LLM_SERVER_URL", "https://a.example/?api-version=1", "https://a.example/?api-version=1"),
        ("LLM_HEADERS", '{"api-key": "k", "X-S": "{session}"}', {"api-key": "k", "X-S": "{session}"}),
        ("LLM_EXTRA_BODY", '{"a": {"id": "{session}"}, "k": 5}', {"a": {"id": "{session}"}, "k": 5}),
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
        ("PORT", "65535", 65_535),
        ("API_KEYS", " a, b ,,c", ("a", "b", "c")),
        ("ALLOWED_ORIGINS", "https://A.io/, http://localhost:3", ("https://a.io", "http://localhost:3")),
        ("ALLOWED_ORIGINS", "capacitor://localhost", ("capacitor://localhost",)),
        ("ALLOWED_ORIGINS", "tauri://localhost", ("tauri://localhost",)),
        ("ALLOWED_ORIGINS", "app://obsidian.md", ("app://obsidian.md",)),
        ("ALLOWED_ORIGINS", "chrome-extension://abcdefgh", ("chrome-extension://abcdefgh",)),
        ("ALLOWED_ORIGINS", "vscode-webview://1a2b3c", ("vscode-webview://1a2b3c",)),
        ("ALLOWED_ORIGINS", "https://xn--mnchen-3ya.de", ("https://xn--mnchen-3ya.de",)),
        ("ALLOWED_ORIGINS", "http://[::1]:3000", ("http://[::1]:3000",)),
        ("MAX_CONTEXT_TOKENS", "0", 0),
        ("SEND_REASONING", "TRUE", True),
        ("SEND_REASONING", "0", False),
        ("SESSION_ID_RANGE", "40-7F", (0x40, 0x7F)),
        ("SESSION_ID_RANGE", "7f-7f", (0x7F, 0x7F)),
        ("DATABASE_SYNC", "full", "full"),
        ("LOG_FORMAT", "JSON", "json"),
        ("HOST", "LocalHost", "localhost"),
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


BAD: dict[str, list[str]] = {
    "LLM_SERVER_URL": [
        *("localhost:8000", "ftp://host", "http://", "http://host:port", "http://host:99999"),
        *("http://host:0", "http://ex..ample/", "http://xn--zzzzzz--9999.com", "http://192.168.0/"),
        *("http://192.168.0.256/", "http://a%zz/", "http://" + "a" * 64 + ".example", "http://host/#a"),
        *("http://[::1", "http://a host", "http://a\thost", "http://host/v1 http://other/v1"),
    ],
    "ALLOWED_ORIGINS": [
        *("http://127.1", " , ", "  ", "null", "file://x", "https://a@example.com", "*", "example.com"),
        *("https://example.com/path", "https://"),
    ],
    "LLM_HEADERS": [
        *("api-key: k", '["api-key"]', '{"api-key": 1}', '{"api key": "k"}', '{"api-key": "a\\nb"}'),
        *('{"api-key": "열쇠"}', '{"Host": "h"}', '{"Transfer-Encoding": "chunked"}'),
    ],
    "LLM_EXTRA_BODY": [
        *("{", '{"a": NaN}', '{"a": 1e999}', '{"a": "\\ud800"}', '{"messages": []}', "[" * 100_000),
    ],
    "MAX_CONTEXT_TOKENS": ["-1"],
    "SEND_REASONING": ["maybe"],
    "SESSION_ID_RANGE": ["7f-00", "0-f", "00-100"],
    "DATABASE_SYNC": ["off"],
    "LOG_FORMAT": ["xml"],
    "HOST": ["x86_64-conda-linux-gnu", "chat.example"],
    "LLM_API_KEY": ["two\nlines", "열쇠", "a b"],
    "SYSTEM_PROMPT": ["half a pair \ud83d"],
    "LLM_TIMEOUT_SECONDS": ["0", "soon", "1_0.5"],
    "MAX_CONTEXT_MESSAGES": ["0", "1.5", "9" * 5000],
    "SESSION_TIMEOUT_HOURS": ["0", "-1", "inf", "876001"],
    "DATABASE_URL": [
        *("postgres://host/db", "sqlite:///", "sqlite:///dir/", "sqlite:///a.db?mode=ro", "sqlite:///a\0b"),
    ],
    "PORT": ["65536", "http", "８０８０"],
    "API_KEYS": ["a key, b", "열쇠", ",", "  ", '""'],
    "MAX_REQUEST_BYTES": ["1023", "1_048_576"],
    "MAX_DATABASE_MB": ["0"],
    "MAX_ACTIVE_REPLIES": ["0"],
    "DISCONNECT_GRACE_SECONDS": ["-1", "nan"],
    "STREAM_HEARTBEAT_SECONDS": ["0"],
    "SHUTDOWN_GRACE_SECONDS": ["86401"],
    "LOG_LEVEL": ["LOUD"],
}


@pytest.mark.parametrize(("name", "text"), [(name, text) for name in BAD for text in BAD[name]])
def test_a_bad_value_is_refused_in_one_line_that_names_the_variable(name: str, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config.from_env({name: text})
    message = str(caught.value)
    assert message.startswith(f"{name} ")
    assert "\n" not in message
    message.encode()


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("PORT", " x ", "a whole number from 0 to 65535, not 'x'"),
        ("LLM_TIMEOUT_SECONDS", "0", "a number above 0, at most 86400, not '0'"),
        ("LOG_FORMAT", "xml", "text or json, not 'xml'"),
        ("ALLOWED_ORIGINS", "null", "comma-separated origins like https://example.com, not 'null'"),
        ("ALLOWED_ORIGINS", "https://", "comma-separated origins like https://example.com, not 'https://'"),
    ],
)
def test_a_refusal_says_what_the_variable_wants_and_what_it_was(name: str, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config.from_env({name: text})
    assert str(caught.value) == f"{name} must be {said}"


@pytest.mark.parametrize("name", ["LLM_API_KEY", "API_KEYS", "LLM_HEADERS", "LLM_EXTRA_BODY"])
def test_a_secret_is_shown_neither_when_refused_nor_in_the_settings_text(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config.from_env({name: "geheim und so"})
    assert "geheim" not in str(caught.value)
    good = "geheim" if name.endswith(("KEY", "KEYS")) else '{"a": "geheim"}'
    assert "geheim" not in repr(Config.from_env({name: good}))


def test_a_password_in_a_url_is_shown_neither_when_refused_nor_in_the_log() -> None:
    with pytest.raises(ConfigError) as caught:
        Config.from_env({"LLM_SERVER_URL": "http://me:geheim@ex..ample"})
    assert "geheim" not in str(caught.value)
    config = Config.from_env({"LLM_SERVER_URL": "http://me:geheim@host:1/v1?key=geheim"})
    assert config.llm_shown == "http://host:1/v1"


@pytest.mark.parametrize("also", [{"LLM_API_KEY": "k"}, {"LLM_HEADERS": '{"authorization": "Bearer k"}'}])
def test_two_ways_to_say_who_asks_are_refused(also: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"^LLM_SERVER_URL must be without user:password@") as caught:
        Config.from_env({"LLM_SERVER_URL": "http://user:geheim@host"} | also)
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize(
    ("origin", "instead"),
    [
        ("https://example.com:443", "https://example.com"),
        ("http://example.com:0080", "http://example.com"),
        ("https://münchen.de", "https://xn--mnchen-3ya.de"),
        ("https://example.com/chat", "https://example.com"),
        ("http://[0:0:0:0:0:0:0:1]", "http://[::1]"),
        ("example.com", "https://example.com"),
        ("https://*.example.com", "each origin"),
    ],
)
def test_an_origin_that_could_never_match_is_refused_with_what_to_write_instead(
    origin: str, instead: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        Config.from_env({"ALLOWED_ORIGINS": f"https://good.example, {origin}"})
    assert repr(origin) in str(caught.value)
    assert f"write {instead}" in str(caught.value)


def test_a_host_that_a_shell_exports_is_named_and_not_read_where_the_option_is_given() -> None:
    environ = {"HOST": "x86_64-conda-linux-gnu"}
    with pytest.raises(ConfigError, match=r"^HOST must be .* use --host\)$"):
        Config.from_env(environ)
    assert Config.from_env(environ, {"host": "::1"}).host == "::1"
    with pytest.raises(ConfigError, match=r"^--host must be "):
        Config.from_env({}, {"host": "a..b"})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("A=${HOME} $x", "${HOME} $x"),
        ('A="${HOME} $x"', "${HOME} $x"),
        ("A='two\nlines'", "two\nlines"),
        ("\ufeffexport A=b # and more", "b"),
        ("A=", ""),
    ],
)
def test_a_dotenv_is_not_interpolated(text: str, value: str) -> None:
    assert read_dotenv(text) == {"A": value}


@pytest.mark.parametrize("line", ["A b=c", "PORT", "A='open", "=x", "A=b\0c", "A\0b=c"])
def test_a_line_of_dotenv_that_cannot_be_read_is_named(line: str) -> None:
    with pytest.raises(ConfigError, match=r"^\.env: line 4 "):
        read_dotenv(f"# settings\nB=1\n\n{line}\nC=2\n")


@pytest.mark.parametrize("text", ["", "   "])
def test_an_empty_variable_counts_as_not_set(text: str) -> None:
    assert Config.from_env({"PORT": text, "SYSTEM_PROMPT": text}) == Config()
