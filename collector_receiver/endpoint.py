"""Names the endpoint of a server span: method and route, or a template of the path when there is no route."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import urlsplit

from collector_receiver.semantic_conventions import (
    HTTP_METHOD,
    HTTP_ROUTE,
    HTTP_STATUS,
    RPC_STATUS,
    RPC_SYSTEM,
    URL_FULL,
    URL_PATH,
    URL_TARGET,
    first,
    first_text,
    one_line,
)
from profile_store.http_endpoints import known_method, origin_by_path
from profile_store.model import Attributes, EndpointOrigin, Record

MAX_ENDPOINT_CHARACTERS = 200
MAX_PATH_CHARACTERS = 2_048
MAX_SEGMENTS = 8
MAX_SEGMENT_CHARACTERS = 40

_UNIMPLEMENTED = (12, "12", "UNIMPLEMENTED")  # gRPC: 12 before, words since conventions 1.39
# A segment that names one thing of many: it holds a digit run, a UUID or a long hexadecimal number.
_IDENTIFIER = re.compile(
    r"\d+|[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"
    r"|(?=[^/]*\d)[0-9a-fA-F]{8,}|[^/]*\d{4,}[^/]*"
)


class Endpoint(NamedTuple):
    """`name` groups requests; `path` is what was really asked for, without the query."""

    name: str
    method: str
    path: str


def endpoint_of(attributes: Attributes, span_name: str) -> Endpoint:
    """The endpoint of a span. One that is not HTTP (gRPC, a profiled function) is named after the span."""
    method = known_method(first_text(attributes, HTTP_METHOD, limit=21))
    path = _path(attributes)
    name = one_line(span_name, limit=MAX_ENDPOINT_CHARACTERS) or "unknown"
    if not method:
        # As gRPC writes it on the wire, and some instrumentations in the span's name.
        return Endpoint(name.removeprefix("/") if first(attributes, RPC_SYSTEM) else name, "", path)
    route = first_text(attributes, HTTP_ROUTE, limit=MAX_ENDPOINT_CHARACTERS)
    if route and route[0] not in "/^*":
        route = f"/{route}"  # Django's routes have none in front
    if not route and not path:
        if name.startswith(f"{method} /"):
            asked_for = _without_query(name[len(method) + 1 :])
            return Endpoint(f"{method} {path_template(asked_for)}", method, path)
        return Endpoint(name if name.startswith(method) else f"{method} {name}", method, path)
    return Endpoint(f"{method} {route or path_template(path)}", method, path)


def origin_of(record: Record) -> EndpointOrigin:
    """Who decided the name that `endpoint_of` gave.

    A procedure that a gRPC server does not have says as little about an endpoint as a 404 without a route.
    """
    if not record.method:
        return "unmatched" if first(record.attributes, RPC_STATUS) in _UNIMPLEMENTED else "declared"
    by_path = record.path or record.endpoint.startswith(f"{record.method} /")
    if not by_path or first_text(record.attributes, HTTP_ROUTE, limit=1):
        return "declared"
    return origin_by_path(record.status_code)


def status_code_of(attributes: Attributes) -> int | None:
    """The HTTP status, None when absent or not between 100 and 599."""
    status = first(attributes, HTTP_STATUS)
    if isinstance(status, str) and status.isascii() and status.isdigit() and len(status) == 3:
        status = int(status)
    if isinstance(status, int) and not isinstance(status, bool) and 100 <= status <= 599:
        return status
    return None


def path_template(path: str) -> str:
    """`/orders/17/items` becomes `/orders/{id}/items`; so do UUIDs, hexadecimal ids and long segments."""
    segments = path.split("/")
    cut = len(segments) > MAX_SEGMENTS + 1
    template = "/".join(_segment_template(segment) for segment in segments[: MAX_SEGMENTS + 1])
    return (template + "/…" if cut else template)[:MAX_ENDPOINT_CHARACTERS]


def _segment_template(segment: str) -> str:
    if len(segment) > MAX_SEGMENT_CHARACTERS or _IDENTIFIER.fullmatch(segment):
        return "{id}"
    return segment


def _path(attributes: Attributes) -> str:
    path = first_text(attributes, URL_PATH, limit=MAX_PATH_CHARACTERS)
    if path:
        return path
    target = first_text(attributes, URL_TARGET, limit=MAX_PATH_CHARACTERS)
    if target and "://" not in target:
        return _without_query(target)
    try:
        # Proxies are asked for whole addresses, and then the target is one.
        return urlsplit(target or first_text(attributes, URL_FULL, limit=MAX_PATH_CHARACTERS)).path
    except ValueError:  # for example an unbalanced bracket in the host
        return ""


def _without_query(target: str) -> str:
    return re.split(r"[?#]", target, maxsplit=1)[0]
