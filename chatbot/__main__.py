"""The command line: loads .env, reads the settings, runs the server."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from dataclasses import replace

import aiohttp
from aiohttp import web
from dotenv import load_dotenv

from chatbot import __version__, server
from chatbot.config import Config, ConfigError
from chatbot.database import StoreError


def main(argv: list[str] | None = None) -> int:
    """Runs the server; returns the exit code: 0 after a signal, 2 for a start that failed."""
    parser = argparse.ArgumentParser(
        prog="chatbot", description="A chatbot backend in front of an LLM server."
    )
    parser.add_argument("--host", help="address to listen on (HOST, 127.0.0.1)")
    parser.add_argument("--port", help="port to listen on (PORT, 8080)")
    parser.add_argument("--demo", action="store_true", help="talk to a built-in ELIZA instead of an LLM")
    parser.add_argument(
        "--version",
        action="version",
        version=f"chatbot {__version__} (aiohttp {aiohttp.__version__})",
    )
    options = parser.parse_args(argv)
    # The path must be given: without it the file is looked for beside this one, which fails in a zipapp.
    try:
        load_dotenv(".env")
    except (OSError, ValueError) as error:
        return _fail(f".env cannot be read: {error}")
    given = {"HOST": options.host, "PORT": options.port}
    environ = os.environ | {name: value for name, value in given.items() if value is not None}
    try:
        config = Config.from_env(environ)
        logging.basicConfig(level=config.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        server.raise_file_limit()
        asyncio.run(_run(config, demo=options.demo))
    except (ConfigError, StoreError) as error:
        return _fail(str(error))
    except OSError as error:
        return _fail(f"cannot listen on {config.host} port {config.port}: {error.strerror or error}")
    except UnicodeError:  # from the codec for host names
        return _fail(f"HOST must be an address, not {config.host!r}")
    except KeyboardInterrupt:  # only where signals cannot be handled
        return 130
    return 0


def _fail(message: str) -> int:
    print(f"chatbot: {message}", file=sys.stderr)
    return 2


async def _run(config: Config, *, demo: bool) -> None:
    if not demo:
        return await server.serve(config)
    from chatbot.demo import create_demo_app

    runner = web.AppRunner(create_demo_app(), access_log=None, handler_cancellation=True)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port = runner.addresses[0][1]
        url = f"http://127.0.0.1:{port}"
        await server.serve(replace(config, llm_server_url=url, llm_model="", llm_api_key=""))
    finally:
        await runner.cleanup()


if __name__ == "__main__":
    sys.exit(main())
