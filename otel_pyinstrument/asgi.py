"""Spans, and thereby profiles, for an ASGI application that no OpenTelemetry instrumentation knows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from opentelemetry.trace import use_span

from otel_pyinstrument.server_span import HTTPRequest, start_server_span

Scope: TypeAlias = "MutableMapping[str, Any]"
Message: TypeAlias = "MutableMapping[str, Any]"
Receive: TypeAlias = "Callable[[], Awaitable[Message]]"
Send: TypeAlias = "Callable[[Message], Awaitable[None]]"
Application: TypeAlias = "Callable[[Scope, Receive, Send], Awaitable[None]]"


class ASGIMiddleware:
    """`app = ASGIMiddleware(app)`: a SERVER span for each HTTP request that has none yet.

    The span lasts until the application is done, and carries attributes of the stable HTTP semantic
    conventions, the route too where the framework leaves it in the scope, as Starlette does. Query
    parameters that look like secrets are masked. Websockets and lifespan events pass unseen.
    """

    def __init__(self, app: Application) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = start_server_span(_request, scope) if scope["type"] == "http" else None
        if started is None:
            await self._app(scope, receive, send)
            return

        async def observed_send(message: Message) -> None:
            if message["type"] == "http.response.start" and isinstance(message.get("status"), int):
                started.status(message["status"])
            await send(message)

        failure: BaseException | None = None
        try:
            with use_span(started.span, record_exception=False, set_status_on_exception=False):
                await self._app(scope, receive, observed_send)
        except BaseException as error:
            failure = error
            raise
        finally:
            if route := _route(scope):
                started.route(route)
            started.end(failure)


def _route(scope: Scope) -> str:
    """What the framework left as its route; "" if that is only the part below a mount."""
    route: object = getattr(scope.get("route"), "path", None)
    if not isinstance(route, str):
        return ""
    whole = ":path}" in route or route.count("/") == str(scope.get("path")).count("/")
    return route if whole else ""


def _request(scope: Scope) -> HTTPRequest:
    headers = {
        bytes(name).decode("latin-1").lower(): bytes(value).decode("latin-1")
        for name, value in scope.get("headers", ())
    }
    server, client = scope.get("server") or (None, None), scope.get("client") or (None, None)
    return HTTPRequest(
        str(scope.get("method", "")),
        bytes(scope.get("query_string", b"")).decode("latin-1"),
        headers,
        {
            "url.path": str(scope.get("path", "")),
            "url.scheme": scope.get("scheme"),
            "server.address": server[0],
            "server.port": server[1],
            "client.address": client[0],
            "network.protocol.version": scope.get("http_version"),
        },
    )
