"""Spans, and thereby profiles, for a WSGI application that no OpenTelemetry instrumentation knows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from opentelemetry.trace import use_span

from otel_pyinstrument.server_span import HTTPRequest, ServerSpan, start_server_span

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_HEADER_PREFIX = "HTTP_"


class WSGIMiddleware:
    """`app = WSGIMiddleware(app)`: a SERVER span for each request that has none yet.

    The span lasts until the response is written, and carries attributes of the stable HTTP semantic
    conventions. Query parameters that look like secrets are masked. Nothing of ours reaches the application.
    """

    def __init__(self, app: WSGIApplication) -> None:
        self._app = app

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        started = start_server_span(_request, environ)
        if started is None:
            return self._app(environ, start_response)

        def observed_start(status: str, *arguments: Any, **named: Any) -> Any:
            code = status[:3]
            if code.isdecimal():
                started.status(int(code))
            return start_response(status, *arguments, **named)

        try:
            with use_span(started.span, record_exception=False, set_status_on_exception=False):
                body = self._app(environ, observed_start)
        except BaseException as error:
            started.end(error)
            raise
        file_wrapper = environ.get("wsgi.file_wrapper")
        # Servers treat files and bodies of known length in special ways, so these stay what they are.
        if isinstance(body, (list, tuple)) or (
            isinstance(file_wrapper, type) and isinstance(body, file_wrapper)
        ):
            started.end()
            return body
        return _Body(body, started)


class _Body:
    """The application's body; the span is current while it produces a part, and ends with it."""

    def __init__(self, body: Iterable[bytes], started: ServerSpan) -> None:
        self._body = body
        self._parts: Iterator[bytes] | None = None
        self._started = started

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            with use_span(self._started.span, record_exception=False, set_status_on_exception=False):
                if self._parts is None:
                    self._parts = iter(self._body)
                return next(self._parts)
        except StopIteration:
            self._started.end()
            raise
        except BaseException as error:
            self._started.end(error)
            raise

    def close(self) -> None:
        """The server is done, or the client has gone."""
        try:
            close = getattr(self._body, "close", None)
            if close is not None:
                close()
        finally:
            self._started.end()


def _request(environ: WSGIEnvironment) -> HTTPRequest:
    headers = {
        name.removeprefix(_HEADER_PREFIX).replace("_", "-").lower(): value
        for name, value in environ.items()
        if name.startswith(_HEADER_PREFIX) and isinstance(value, str)
    }
    port = str(environ.get("SERVER_PORT", ""))
    return HTTPRequest(
        str(environ.get("REQUEST_METHOD", "")),
        str(environ.get("QUERY_STRING", "")),
        headers,
        {
            "url.path": f"{environ.get('SCRIPT_NAME', '')}{environ.get('PATH_INFO', '')}",
            "url.scheme": environ.get("wsgi.url_scheme"),
            "server.address": environ.get("SERVER_NAME"),
            "server.port": int(port) if port.isdecimal() else None,
            "client.address": environ.get("REMOTE_ADDR"),
            "network.protocol.version": str(environ.get("SERVER_PROTOCOL", "")).rpartition("/")[2],
        },
    )
