"""The command line: loads .env, reads the settings, and runs the server or a task with its database."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

from chatbot import __version__
from chatbot.config import Config, ConfigError, id_range, read_dotenv
from chatbot.storage.lock import StoreError

# Modules that import aiohttp are imported only after .env is loaded: aiohttp then reads SSL_CERT_FILE.


def main(argv: list[str] | None = None) -> int:
    """Runs the server or a database task. Exit codes: 0 after a signal or the task, 2 for a failed start."""
    parser = _parser()
    options = parser.parse_args(argv)
    if bool(options.range) != bool(options.prune):  # the server's own range is SESSION_ID_RANGE
        parser.error("--prune needs --range, and nothing else takes it")
    if options.force and not (options.backup or options.prune):
        parser.error("--force goes with --backup or --prune")
    if options.version:
        import aiohttp

        print(f"chatbot {__version__} (aiohttp {aiohttp.__version__})")
        return 0
    try:
        _load_dotenv()
        if options.backup or options.check or options.prune:
            for number in (signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores SIGHUP
                    signal.signal(number, signal.default_int_handler)  # no unfinished file stays behind
            print(_do_with_database(options))
            return 0
        config = Config.from_env(os.environ, {"host": options.host, "port": options.port})
        return _serve(config, demo=options.demo)
    except (ConfigError, StoreError) as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        return _fail("interrupted")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="chatbot",
        description="A chatbot backend in front of an LLM server."
        " Settings are read from the environment and from .env.",
    )
    parser.add_argument("--host", help="address to listen on (HOST, 127.0.0.1)")
    parser.add_argument("--port", help="port to listen on (PORT, 8080)")
    parser.add_argument("--demo", action="store_true", help="talk to a built-in ELIZA instead of an LLM")
    parser.add_argument("--version", action="store_true", help="show the version and exit")
    database = parser.add_argument_group("instead of serving, with the database of DATABASE_URL")
    task = database.add_mutually_exclusive_group()
    for name, wants in (
        ("--backup", "copy it to FILE, also while a server uses it"),
        ("--check", "tell whether the database FILE is whole"),
        ("--prune", "delete the sessions of FILE outside of --range"),
    ):
        task.add_argument(name, metavar="FILE", type=_file, help=wants)
    database.add_argument(
        "--range", metavar="00-7f", help="first two digits of the ids of sessions that stay"
    )
    database.add_argument("--force", action="store_true", help="replace a FILE; delete without asking")
    return parser


def _file(text: str) -> str:
    if not text:  # from a shell variable that is not set; the server must not start instead
        raise argparse.ArgumentTypeError("it must name a file")
    if text != text.encode("utf-8", "ignore").decode():  # SQLite accepts no other names
        raise argparse.ArgumentTypeError("its name must be UTF-8")
    return text


def _load_dotenv() -> None:
    """Adds the variables of .env to the environment. A variable that is already set wins."""
    try:
        text = Path(".env").read_text("utf-8")
    except (FileNotFoundError, IsADirectoryError):
        return
    except (OSError, ValueError) as error:
        raise ConfigError(f".env cannot be read: {error}") from None
    for name, value in read_dotenv(text).items():
        os.environ.setdefault(name, value)


def _do_with_database(options: argparse.Namespace) -> str:
    from chatbot.storage import backup

    if options.check:
        return backup.check(options.check)
    if options.backup:
        path = Config.from_env({"DATABASE_URL": os.environ.get("DATABASE_URL", "")}).database_url
        if path == ":memory:":
            raise ConfigError("DATABASE_URL must name a file, or there is nothing to copy")
        return backup.backup(path, options.backup, force=options.force)
    try:
        first, last = id_range(options.range)
    except ValueError:
        raise ConfigError(
            f"--range must be two hex digits twice, like 00-7f, not {options.range!r}"
        ) from None
    return backup.prune(options.prune, first, last, lambda what: options.force or _confirm(what))


def _confirm(what: str) -> bool:
    print(f"{what}; delete them? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _serve(config: Config, *, demo: bool) -> int:
    from chatbot.web import logs

    logs.set_up(config.log_level, config.log_format)
    try:
        asyncio.run(_run(config, demo=demo))
    except OSError as error:
        return _fail(f"cannot listen on {config.host} port {config.port}: {error.strerror or error}")
    return 0


def _fail(message: str) -> int:
    print(f"chatbot: {message}", file=sys.stderr)
    return 2


async def _run(config: Config, *, demo: bool) -> None:
    from chatbot import server

    if not demo:
        return await server.serve(config)
    from aiohttp import web

    from chatbot.demo.server import create_demo_app

    runner = web.AppRunner(create_demo_app(), access_log=None, handler_cancellation=True)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        config = replace(
            config, llm_server_url=url, llm_model="", llm_api_key="", llm_headers={}, llm_extra_body={}
        )
        await server.serve(config, llm="a built-in ELIZA")
    finally:
        await runner.cleanup()


if __name__ == "__main__":
    sys.exit(main())
