"""The process, its libraries and its release. Read by the exporter's thread, once per process."""

from __future__ import annotations

import os
import platform
import re
import socket
import sys
from functools import lru_cache
from importlib import metadata

_SCOPE_PREFIX = "opentelemetry.instrumentation."
_OWN_TELEMETRY_PREFIXES = ("fastapi", "starlette", "litestar")
_NO_FRAMEWORK = frozenset({"wsgi", "asgi"})
_DISTRIBUTIONS = {"django": "Django", "aiohttp_server": "aiohttp"}

_SERVERS = ("gunicorn", "uvicorn", "uwsgi", "hypercorn", "granian", "waitress", "daphne")

_COMMIT_VARIABLES = ("GIT_COMMIT", "GIT_SHA", "COMMIT_SHA", "SOURCE_VERSION", "HEROKU_SLUG_COMMIT")
_COMMIT = r"[0-9a-fA-F]{7,64}"


def process_facts(thread: str) -> dict[str, object]:
    """Where the request ran."""
    return {"pid": os.getpid(), "host": _host(), "thread": thread}


def runtime_facts(scope: str) -> dict[str, object]:
    """What the request ran on. `scope` is the instrumentation that made its span."""
    framework, version = _framework(scope)
    return {
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "framework": framework,
        "framework_version": version,
        "server": _server(),
    }


@lru_cache(maxsize=1)
def commit() -> str:
    """The commit that is running, if the environment tells it; deployment platforms set these names."""
    for name in _COMMIT_VARIABLES:
        if re.fullmatch(_COMMIT, value := os.environ.get(name, "").strip()):
            return value.lower()
    return ""


@lru_cache(maxsize=16)
def _framework(scope: str) -> tuple[str, str]:
    """Name and version of the framework whose instrumentation made the span; empty when it is none."""
    if scope.startswith(_SCOPE_PREFIX):
        name = scope.removeprefix(_SCOPE_PREFIX)
    else:
        name = next((name for name in _OWN_TELEMETRY_PREFIXES if scope.startswith(name)), "")
    if not name or name in _NO_FRAMEWORK:
        return "", ""
    try:
        return name, metadata.version(_DISTRIBUTIONS.get(name, name))
    except metadata.PackageNotFoundError:
        return name, ""


@lru_cache(maxsize=1)
def _server() -> str:
    """Of the servers that are loaded the one that runs the others: gunicorn may run uvicorn's workers."""
    for name in _SERVERS:
        if sys.modules.get(name) is not None:
            try:
                return f"{name} {metadata.version(name)}"
            except metadata.PackageNotFoundError:
                return name
    return ""


@lru_cache(maxsize=1)
def _host() -> str:
    return socket.gethostname()
