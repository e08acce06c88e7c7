"""The endpoint of a request as far as it is known when its span starts: method and route, or path."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple, cast

from opentelemetry.sdk.trace import Span

from otel_pyinstrument import private_names
from otel_pyinstrument.guard import came_from_signal_handler
from otel_pyinstrument.http_methods import METHODS, OTHER_METHOD
from otel_pyinstrument.learned_routes import PARAMETER, LearnedRoutes

_NAMED_PARAMETER = re.compile(r"<[^<>]*>|\{[^{}]*\}")
_IDENTIFIER = re.compile(r"\d+|[0-9a-fA-F-]{16,}|.*\d.*\d.*\d.*|.{33,}", re.DOTALL)
_MAX_SEGMENTS = 8
_MAX_CHARACTERS = 200
_MAX_PATH_CHARACTERS = 2_000
_FIRST_WORDS = METHODS | {"HTTP"}
"""Of names of spans; the last one where the method is not known."""


class Endpoint(NamedTuple):
    """`key` is what requests are counted under: `GET /orders/{}`. `path` is the real path if known.

    `is_route`: the application has named it. Otherwise anybody has, by asking for a path.
    """

    key: str
    method: str
    path: str
    is_route: bool = True


def endpoint_of(span: Span, routes: LearnedRoutes | None = None, *, with_path: bool = True) -> Endpoint:
    """From the attributes of both semantic-convention generations, else from the span's name.

    Flask and FastAPI (contrib) give `http.route` at the start, Django puts the route into the span's name.
    Where only the path is known (FastAPI's own telemetry, plain WSGI and ASGI), it is looked up in `routes`,
    and reduced to a template when they do not know it.
    `with_path`: False where nobody asks for the path, which takes time to find.
    """
    attributes = attributes_of(span)
    method = attributes.get("http.method") or attributes.get("http.request.method")
    if isinstance(method, str) and method not in METHODS:
        method = OTHER_METHOD
    route = attributes.get("http.route")
    if isinstance(route, str):
        route = route[:_MAX_CHARACTERS]
    if isinstance(route, str) and isinstance(method, str) and route and method:
        path = _path(attributes) if with_path else ""
        return Endpoint(endpoint_key(method, route), method, path) if path else _endpoint(method, route)
    path, name = _path(attributes), name_of(span)
    first, _, rest = name.partition(" ")
    if not isinstance(method, str) or not method:
        method = first if first in _FIRST_WORDS else ""
    if not isinstance(route, str) or not route:
        route = rest[:_MAX_CHARACTERS] if first in _FIRST_WORDS and rest != path else ""
    if route:
        # Where it begins with a slash it may be the path in other letters, as anybody has sent it.
        is_route = not route.startswith("/") or isinstance(attributes.get("http.route"), str)
        return Endpoint(endpoint_key(method, route), method, path or route, is_route)
    learned = routes.find(method, path) if routes is not None else ""
    shown = learned or path_template(path or name[:_MAX_CHARACTERS])
    return Endpoint(f"{method} {shown}", method, path, is_route=bool(learned))


def name_of(span: Span) -> str:
    """The name of a span; "" where the application has given it one that is no text."""
    name = cast("object", span.name)
    return name if isinstance(name, str) else ""


def is_named(endpoint: Endpoint, span_name: str) -> bool:
    """Whether a span of that name is one of `endpoint`: the name is method and route."""
    method, _, route = span_name.partition(" ")
    if not endpoint.is_route or not route or len(span_name) > _MAX_CHARACTERS:
        return False
    return endpoint_key(method, route) == endpoint.key


def learn_route(span: Span, endpoint: Endpoint, routes: LearnedRoutes) -> bool:
    """Teach `routes` what the ended `span` says, if that is not the `endpoint` that its start told.

    True when the application has named the endpoint, at the start or by now.
    """
    route = attributes_of(span).get("http.route")
    if not isinstance(route, str):
        return endpoint.is_route
    key = endpoint_key(endpoint.method, route[:_MAX_CHARACTERS])
    if key != endpoint.key:
        routes.learn(endpoint.method, key[len(endpoint.method) + 1 :], endpoint.path)
    return True


def attributes_of(span: Span) -> Mapping[str, Any]:
    """Not to be changed. A plain dict: the SDK's own mapping raises and catches for each missing name."""
    try:
        return private_names.attributes_in(span)
    except AttributeError as error:
        if came_from_signal_handler(error):
            raise
        return dict(span.attributes or {})


def _path(attributes: Mapping[str, Any]) -> str:
    path = attributes.get("http.target") or attributes.get("url.path")
    # Without the query string, which http.target has.
    return path[:_MAX_PATH_CHARACTERS].partition("?")[0] if isinstance(path, str) else ""


@lru_cache(maxsize=2048)
def _endpoint(method: str, route: str) -> Endpoint:
    return Endpoint(endpoint_key(method, route), method, route)


@lru_cache(maxsize=2048)
def endpoint_key(method: str, route: str) -> str:
    """Method and route with anonymous parameters, so that `<int:id>` and `{order_id}` are the same."""
    route = _NAMED_PARAMETER.sub(PARAMETER, route[:_MAX_CHARACTERS])
    return f"{method} /{route.lstrip('/')}"


@lru_cache(maxsize=2048)
def path_template(path: str) -> str:
    """`path` with `{}` for what looks like an identifier, and cut after 8 segments."""
    segments = path[: 4 * _MAX_CHARACTERS].lstrip("/").split("/")
    shown = [PARAMETER if _IDENTIFIER.fullmatch(segment) else segment for segment in segments[:_MAX_SEGMENTS]]
    if len(segments) > _MAX_SEGMENTS:
        shown.append("*")
    return ("/" + "/".join(shown))[:_MAX_CHARACTERS]
