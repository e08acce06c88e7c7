"""Pages for who operates the receiver: /healthz, /readyz and /metrics. They name no key and no address."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol, TypeAlias, cast

from prometheus_client import exposition
from prometheus_client.metrics_core import Metric

from collector_receiver.readiness import Readiness

PATHS = ("/healthz", "/readyz", "/metrics")
PLAIN_TEXT = "text/plain; charset=utf-8"

Scope: TypeAlias = Mapping[str, Any]
Send: TypeAlias = Any


class Collecting(Protocol):
    """Where the metrics come from."""

    def collect(self) -> Iterable[Metric]: ...


class StatusPages:
    """An ASGI application for GET and HEAD on `PATHS`."""

    def __init__(self, readiness: Readiness, metrics: Collecting) -> None:
        self._readiness = readiness
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: object, send: Send) -> None:
        """Answer one request; its body, if it has one, is not read, and the connection closed."""
        status, media_type, body = self._answer(scope)
        headers = [
            (b"content-type", media_type.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"cache-control", b"no-store"),
        ]
        is_read = scope["method"] in ("GET", "HEAD")
        if not is_read:
            headers.append((b"allow", b"GET, HEAD"))
        if not is_read or _announces_body(scope):
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _answer(self, scope: Scope) -> tuple[int, str, bytes]:
        path = scope["path"]
        if path not in PATHS:
            return 404, PLAIN_TEXT, f"ask for one of {', '.join(PATHS)}\n".encode()
        if scope["method"] not in ("GET", "HEAD"):
            return 405, PLAIN_TEXT, b"ask with GET\n"
        if path == "/healthz":
            return 200, PLAIN_TEXT, b"alive\n"
        if path == "/readyz":
            problem = self._readiness.problem
            return (
                (503, PLAIN_TEXT, f"not ready: {problem}\n".encode())
                if problem
                else (200, PLAIN_TEXT, b"ready\n")
            )
        return self._exposed(scope)

    def _exposed(self, scope: Scope) -> tuple[int, str, bytes]:
        accept = next((value for name, value in scope["headers"] if name == b"accept"), b"").decode("latin-1")
        encode, media_type = exposition.choose_encoder(accept)
        return 200, media_type, encode(cast("Any", self._metrics))


def _announces_body(scope: Scope) -> bool:
    """Whether more of the request may come; nothing limits how long a kept connection waits for it."""
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value != b"0")
        for name, value in scope["headers"]
    )
