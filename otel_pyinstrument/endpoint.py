"""The endpoint of a request as far as it is known when its span starts: method and route, or path."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from opentelemetry.sdk.trace import Span

_PARAMETER = re.compile(r"<[^<>]*>|\{[^{}]*\}")
_IDENTIFIER = re.compile(r"\d+|[0-9a-fA-F-]{16,}|.*\d.*\d.*\d.*|.{33,}", re.DOTALL)
_MAX_SEGMENTS = 8
_MAX_CHARACTERS = 200
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "HTTP"})


class Endpoint(NamedTuple):
    """`key` is what requests are counted under: `GET /orders/{}`. `path` is the real path if known."""

    key: str
    method: str
    path: str


def endpoint_of(span: Span) -> Endpoint:
    """From the attributes of both semantic-convention generations, else from the span's name.

    Flask and FastAPI (contrib) give `http.route` at the start, Django puts the route into the span's name.
    Where only the path is known (plain WSGI and ASGI, FastAPI's own telemetry), it is reduced to a template.
    """
    attributes: Mapping[str, Any] = span.attributes or {}
    method = attributes.get("http.request.method") or attributes.get("http.method")
    path = attributes.get("url.path") or attributes.get("http.target")
    first, _, rest = span.name.partition(" ")
    if not isinstance(method, str) or not method:
        method = first if first in _METHODS else ""
    # Without the query string, which http.target has.
    path = path.partition("?")[0] if isinstance(path, str) else ""
    route = attributes.get("http.route")
    if not isinstance(route, str) or not route:
        route = rest if first in _METHODS and rest != path else ""
    key = endpoint_key(method, route) if route else f"{method} {path_template(path or span.name)}"
    return Endpoint(key, method, path or route)


@lru_cache(maxsize=2048)
def endpoint_key(method: str, route: str) -> str:
    """Method and route with anonymous parameters, so that `<int:id>` and `{order_id}` are the same."""
    route = _PARAMETER.sub("{}", route[:_MAX_CHARACTERS])
    return f"{method} /{route.lstrip('/')}"


@lru_cache(maxsize=2048)
def path_template(path: str) -> str:
    """`path` with `{}` for what looks like an identifier, and cut after 8 segments."""
    segments = path[: 4 * _MAX_CHARACTERS].lstrip("/").split("/")
    shown = ["{}" if _IDENTIFIER.fullmatch(segment) else segment for segment in segments[:_MAX_SEGMENTS]]
    if len(segments) > _MAX_SEGMENTS:
        shown.append("*")
    return ("/" + "/".join(shown))[:_MAX_CHARACTERS]
