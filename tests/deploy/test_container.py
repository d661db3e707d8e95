"""The container's recipes say of ports, paths and variables what the code says; nothing is built."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import fields
from typing import Any

import yaml

from chatbot.config import Config
from tests.tools.processes import ROOT
from tests.tools.server import Running

VARIABLES = {field.name.upper() for field in fields(Config)}


def instructions() -> list[tuple[str, str]]:
    """The Containerfile's instructions, with continued lines joined and comments left out."""
    text = (ROOT / "deploy/Containerfile").read_text("utf-8")
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", "")
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in text.splitlines() if line.strip()]


def last(name: str) -> str:
    """What the image that is built in the end has of an instruction."""
    return [value for instruction, value in instructions() if instruction == name][-1]


def environment() -> dict[str, str]:
    return dict(word.split("=", 1) for word in shlex.split(last("ENV")))


def compose() -> dict[str, Any]:
    services = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text("utf-8"))["services"]
    assert set(services) == {"chatbot", "llm"}
    return dict(services)


def test_the_variables_are_settings_and_can_be_used() -> None:
    config = Config.from_env(environment())
    assert set(environment()) <= VARIABLES
    assert (config.host, config.port) == ("0.0.0.0", int(last("EXPOSE")))
    given = compose()["chatbot"]["environment"]
    assert set(given) <= VARIABLES
    assert Config.from_env(given).llm_server_url.startswith("http://llm:")


def test_the_database_is_on_the_volume_which_the_user_may_write() -> None:
    volume = last("VOLUME")
    assert Config.from_env(environment()).database_url.startswith(f"{volume}/")
    user, _, group = last("USER").partition(":")
    made = next(value for name, value in instructions() if name == "RUN" and volume in value)
    assert f"install -d -o {user} -g {group} -m 700 {volume}" in made
    assert int(user) > 0, "it does not run as root"
    assert f"chats:{volume}" in compose()["chatbot"]["volumes"]


async def test_the_health_is_asked_where_the_server_says_it(server: Running) -> None:
    ((port, path),) = re.findall(r"http://127\.0\.0\.1:(\d+)(/[a-z/]+)", last("HEALTHCHECK"))
    assert port == last("EXPOSE")
    assert (await server.call("GET", path))[0] == 200


def test_the_server_is_process_1_and_is_ended_as_it_wants() -> None:
    assert last("STOPSIGNAL") == "SIGTERM"
    assert json.loads(last("ENTRYPOINT")) == ["/app/bin/python", "-m", "chatbot"]
    stop = compose()["chatbot"]["stop_grace_period"]
    assert int(stop.removesuffix("s")) > Config().shutdown_grace_seconds + 2


def test_the_image_has_what_the_server_needs_and_its_python_is_new_enough() -> None:
    images = [value.split()[0] for name, value in instructions() if name == "FROM"]
    assert len(set(images)) == 1, "what was compiled for one Python runs under it"
    version = tuple(map(int, re.findall(r":(\d+)\.(\d+)", images[0])[0]))
    assert version >= (3, 11)
    copied = [value.split() for name, value in instructions() if name == "COPY"]
    assert ["--from=build", "/app", "/app"] in copied


def test_compose_publishes_to_this_machine_alone_and_asks_the_llm_where_it_listens() -> None:
    chatbot, llm = compose()["chatbot"], compose()["llm"]
    assert chatbot["ports"] == [f"127.0.0.1:8080:{last('EXPOSE')}"]
    assert (chatbot["read_only"], chatbot["cap_drop"]) == (True, ["ALL"])
    assert (ROOT / "deploy" / chatbot["build"]["context"] / chatbot["build"]["dockerfile"]).exists()
    port = llm["command"][llm["command"].index("--port") + 1]
    assert chatbot["environment"]["LLM_SERVER_URL"] == f"http://llm:{port}"


def test_only_what_the_package_is_made_of_goes_into_the_build() -> None:
    everything, *kept = (ROOT / ".dockerignore").read_text("utf-8").split()
    assert everything == "*"
    kept = [line.removeprefix("!") for line in kept if line.startswith("!")]
    assert all((ROOT / name).exists() for name in kept)
    setup = (ROOT / "setup.cfg").read_text("utf-8")
    named = re.findall(r"^long_description = file: (.*)$|^license_files = (.*)$", setup, re.MULTILINE)
    links = [path.resolve().relative_to(ROOT) for path in (ROOT / "chatbot").rglob("*") if path.is_symlink()]
    needed = {"chatbot", "setup.cfg", "pyproject.toml", *map(str, links)}
    assert needed | {"".join(name) for name in named} == set(kept)
