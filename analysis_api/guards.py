"""What every request passes before it reaches the API or the pages: pure ASGI, no cookies, no state.

`guarded` puts them in order. A refusal has the shape of `errors.error_response`, whatever was asked for.
"""

from __future__ import annotations

import hmac
import logging
import re
import uuid
from typing import Any, cast

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from analysis_api.errors import ApiError, Code, error_response, request_id_of, shown
from analysis_api.settings import ApiSettings, is_loopback

log = logging.getLogger(__name__)

# Probes of an orchestrator carry no token and learn nothing but up or down.
OPEN_PATHS = frozenset({"/health", "/ready"})

# Applications ask here for their rules. The project key in the path is their credential: the route knows
# no other name of a project, and tells nothing but the rules.
_RULES_PATH = re.compile(r"/api/v1/projects/[A-Za-z0-9_-]{16,200}/config", re.ASCII)

_GIVEN_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_HOST_HEADER = re.compile(r"(?P<name>\[[0-9a-fA-F:.]+\]|[^:\[\]]+)(:\d{1,5})?", re.ASCII)

_SECURITY_HEADERS = {
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


def guarded(app: ASGIApp, settings: ApiSettings) -> ASGIApp:
    """`app` behind all guards: request id and headers outermost, unexpected errors, host or token, size."""
    app = RequestSize(app, settings.max_request_size)
    if settings.on_loopback:
        app = KnownHost(app, (settings.bind_host, *settings.allowed_hosts))
    else:
        token = settings.admin_token
        app = BearerToken(app, None if token is None else token.get_secret_value())
    return RequestId(LastResort(app))


class RequestId:
    """Gives each request an id (the client's `x-request-id` if harmless) and each answer the safe headers.

    Headers that the application has set itself stay: a page has its own content security policy.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _GIVEN_REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope["state"] = {**cast("dict[str, Any]", scope.get("state") or {}), "request_id": request_id}

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                for name, value in _SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, send_with_headers)


class LastResort:
    """Logs what no handler expected, with the request id, and answers 1005 if nothing was sent yet."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def send_noting(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, send_noting)
        except Exception:
            log.exception(
                "request %s failed: %s %s", request_id_of(scope), scope["method"], shown(scope["path"])
            )
            if not started:
                await error_response(scope, ApiError(Code.INTERNAL, "internal_error"))(scope, receive, send)


class KnownHost:
    """Refuses a Host header that is not this machine's: else any web page could come in by DNS rebinding."""

    def __init__(self, app: ASGIApp, names: tuple[str, ...]) -> None:
        self.app = app
        self._names = frozenset(name.lower() for name in names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            host = Headers(scope=scope).get("host", "")
            parts = _HOST_HEADER.fullmatch(host)
            name = parts["name"].strip("[]").lower() if parts else ""
            if not (is_loopback(name) or name in self._names):
                error = ApiError(Code.FORBIDDEN, "host_refused", host=shown(host))
                await error_response(scope, error)(scope, receive, send)
                return
        await self.app(scope, receive, send)


class BearerToken:
    """Lets only the bearer of the administrator's token through; nobody when there is none."""

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        self.app = app
        self._expected = None if token is None else token.encode("ascii")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not _is_open(scope) and not self._admits(scope):
            key = "no_anonymous_access" if self._expected is None else "token_missing"
            await error_response(scope, ApiError(Code.FORBIDDEN, key))(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _admits(self, scope: Scope) -> bool:
        scheme, _, token = Headers(scope=scope).get("authorization", "").partition(" ")
        return (
            self._expected is not None
            and scheme.lower() == "bearer"
            and hmac.compare_digest(token.strip().encode("latin-1"), self._expected)
        )


def _is_open(scope: Scope) -> bool:
    path = scope["path"]
    return path in OPEN_PATHS or (scope["method"] == "GET" and _RULES_PATH.fullmatch(path) is not None)


class RequestSize:
    """Refuses a body above the limit: by its Content-Length at once, else when too many bytes have come."""

    def __init__(self, app: ASGIApp, limit_bytes: int) -> None:
        self.app = app
        self._limit_bytes = limit_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        too_large = ApiError(Code.TOO_LARGE, "request_too_large", limit_bytes=self._limit_bytes)
        declared = Headers(scope=scope).get("content-length", "0")
        if (
            declared.isdecimal() and int(declared[:18]) > self._limit_bytes
        ):  # 18 digits are enough for any limit
            await error_response(scope, too_large)(scope, receive, send)
            return
        received_bytes = 0

        async def receive_counting() -> Message:
            nonlocal received_bytes
            message = await receive()
            received_bytes += len(message.get("body", b""))
            if received_bytes > self._limit_bytes:
                raise too_large
            return message

        await self.app(scope, receive_counting, send)
