"""Calls a WSGI application as a server would, in this process."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit

from otel_pyinstrument.command.measuring.outcomes import Outcomes

Header = tuple[str, str]


def request_by_wsgi(app: Any, path: str, headers: Iterable[Header], outcomes: Outcomes) -> None:
    """One GET; the body is read to its end. What the application raises becomes an outcome."""
    statuses: list[int] = []

    def start_response(status: str, _headers: object, _exc_info: object = None) -> Callable[[bytes], None]:
        statuses.append(int(status[:3]))
        return lambda _data: None

    body: Any = ()
    try:
        try:
            body = app(_environ(path, headers), start_response)
            for _part in body:
                pass
        finally:
            close = getattr(body, "close", None)
            if close is not None:
                close()
    except Exception as error:
        outcomes.error(path, error)
        return
    outcomes.status(path, statuses[-1] if statuses else 500)


def _environ(path: str, headers: Iterable[Header]) -> dict[str, Any]:
    parts = urlsplit(path)
    environ: dict[str, Any] = {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        # PEP 3333: bytes, as latin-1 text.
        "PATH_INFO": unquote_to_bytes(parts.path).decode("latin-1"),
        "QUERY_STRING": parts.query,
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_HOST": "localhost",
        "REMOTE_ADDR": "127.0.0.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": False,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    for name, value in headers:
        environ[f"HTTP_{name.upper().replace('-', '_')}"] = value
    return environ
