"""API and pages in one server on one port: `python -m all_in_one.server`."""

from __future__ import annotations

import argparse
import asyncio
import errno
import logging
import signal
import socket
import sys
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from typing import TypeVar

import uvicorn
from pydantic import ValidationError
from pydantic_settings import BaseSettings
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route, Router
from starlette.types import ASGIApp
from uvicorn.loops.auto import auto_loop_factory

from all_in_one.settings import ServerSettings, settings_problems
from analysis_api.app import create_app as create_api
from analysis_api.errors import error_handlers
from analysis_api.guards import guarded
from analysis_api.health import health_routes
from profile_store import StoreSettings, open_store
from profile_store.contracts import Store, StoreError
from profile_store.ending import opened_unless
from profile_store.rollups.loop import rolling_up
from profile_store.upkeep import upkeep_running
from web.app import create_app as create_pages
from web.settings import WebSettings

EXIT_CANNOT_START = 2

DESCRIPTION = """\
Serve the API and the pages of the platform on one port, until SIGTERM or Ctrl-C.

Settings come from the environment, the most important ones:
  MONGODB_URL, MONGODB_DATABASE   the database, such as mongodb://127.0.0.1:27017, and its name there
  BIND_HOST, HTTP_PORT            the address and the port to listen on
  ADMIN_TOKEN                     what API and pages ask for; needed unless BIND_HOST is this machine alone
  ROLL_UP                         false where python -m profile_store roll-up --follow computes the statistics

docs/api.md has all of them with their defaults."""

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_GRACEFUL_STOP_SECONDS = 5
# Measured on answers of 1 and 2 MiB: 4 to 9 percent larger than level 9, in a sixth of its time or less.
_GZIP_LEVEL = 5
_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - recognised here, not bound

Settings = TypeVar("Settings", bound=BaseSettings)


class StartError(Exception):
    """One line per reason, each with its remedy."""


def create_server_app(store: Store, settings: ServerSettings) -> ASGIApp:
    """API under /api/v1, pages under /, /health and /ready, behind the guards."""
    web_settings = WebSettings(otlp_endpoint=_url(settings.bind_host, settings.otlp_grpc_port))
    app = Starlette(
        routes=[
            *health_routes(store),
            # Nested, so that a mistyped address under /api is answered by us and not with a page.
            Route("/api", _no_such_route),
            Mount("/api", Router([Mount("/v1", create_api(store))], redirect_slashes=False)),
            Mount("/", create_pages(store, web_settings)),
        ],
        middleware=[Middleware(GZipMiddleware, compresslevel=_GZIP_LEVEL)],
        exception_handlers=error_handlers(),
    )
    app.router.redirect_slashes = False
    return guarded(app, settings)


async def _no_such_route(_request: Request) -> Response:
    raise HTTPException(404)


async def serve(settings: ServerSettings, store_settings: StoreSettings, listener: socket.socket) -> None:
    """Open the store, answer on `listener` until SIGINT or SIGTERM, finish what runs, close the store.

    Statistics are computed meanwhile, if the settings say so.

    Raises:
        StoreError: the store cannot be opened.
    """
    stopping = asyncio.Event()
    for number in _STOP_SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    async with opened_unless(stopping, open_store(store_settings)) as store:
        if store is not None:
            await _serve(store, settings, listener, stopping)


async def _serve(
    store: Store, settings: ServerSettings, listener: socket.socket, stopping: asyncio.Event
) -> None:
    config = uvicorn.Config(
        create_server_app(store, settings),
        lifespan="off",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        # Nothing here asks for the client's address or scheme, so no proxy header needs trust.
        proxy_headers=False,
        timeout_graceful_shutdown=_GRACEFUL_STOP_SECONDS,
    )
    server = _Server(config, _url(settings.bind_host, listener.getsockname()[1]), stopping)
    async with upkeep_running(store), rolling_up(store) if settings.roll_up else nullcontext():
        await server.serve(sockets=[listener])


class _Server(uvicorn.Server):
    """Says when it is ready; returns after a signal instead of raising it again: the store is still open."""

    def __init__(self, config: uvicorn.Config, url: str, stopping: asyncio.Event) -> None:
        super().__init__(config)
        self._url = url
        self._stopping = stopping

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        print(f"all_in_one.server: pages on {self._url}/ and API on {self._url}/api/v1", flush=True)  # noqa: T201 - the one line for people and scripts

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        loop = asyncio.get_running_loop()
        for number in _STOP_SIGNALS:
            loop.add_signal_handler(number, self.handle_exit, number, None)
        self.should_exit = self._stopping.is_set()
        yield


def main() -> int:
    """Run the server; returns its exit code: 0 after a signal, 2 when it cannot start."""
    argparse.ArgumentParser(
        prog="python -m all_in_one.server",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()
    try:
        settings, store_settings = _read_settings()
        logging.basicConfig(
            level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
        )
        logging.getLogger("uvicorn").setLevel(
            logging.WARNING
        )  # its steps of starting and stopping say nothing new
        with (
            _bind(settings.bind_host, settings.http_port) as listener,
            asyncio.Runner(loop_factory=auto_loop_factory()) as runner,
        ):
            runner.run(serve(settings, store_settings, listener))
    except (StartError, StoreError) as reason:
        print(f"all_in_one.server cannot start:\n{reason}", file=sys.stderr)  # noqa: T201 - a line for people
        return EXIT_CANNOT_START
    return 0


def _read_settings() -> tuple[ServerSettings, StoreSettings]:
    """All settings, or all problems at once."""
    problems: list[str] = []
    settings = _read(ServerSettings, problems)
    store_settings = _read(StoreSettings, problems)
    if settings is None or store_settings is None:
        raise StartError("\n".join(problems))
    return settings, store_settings


def _read(kind: type[Settings], problems: list[str]) -> Settings | None:
    try:
        return kind()
    except ValidationError as raised:
        problems += settings_problems(raised)
        return None


def _bind(host: str, port: int) -> socket.socket:
    """A socket bound but not yet listening, so that a busy port is known before the store is opened."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            reason = f"HTTP_PORT={port}: another program uses it on {host}; stop that or choose another port"
        elif error.errno == errno.EACCES:
            reason = f"HTTP_PORT={port}: needs more rights than this user has; choose one above 1023"
        else:
            reason = (
                f"BIND_HOST={host}: cannot listen there ({error.strerror}); use an address of this machine"
            )
        raise StartError(reason) from error
    return listener


def _url(host: str, port: int) -> str:
    reachable = _ANY_ADDRESS.get(host, host)
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"


if __name__ == "__main__":
    sys.exit(main())
