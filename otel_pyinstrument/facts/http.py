"""What was asked and answered, from the attributes of the request's span, secrets masked. Never a body."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast
from urllib.parse import urlsplit

from otel_pyinstrument.masking import MASK, is_secret, query_pairs

_REQUEST_HEADER = "http.request.header."
_RESPONSE_HEADER = "http.response.header."
_MAX_HEADERS = 40
_MAX_PARAMETERS = 40
_MAX_CHARACTERS = 300


def request_facts(attributes: Mapping[str, Any], mask: Sequence[str]) -> dict[str, object]:
    """Captured headers and query parameters; names that contain one of `mask` are masked besides secrets."""
    query = _query(attributes)
    pairs = query_pairs(query)[:_MAX_PARAMETERS] if query else []
    return {
        "method": _first(attributes, "http.request.method", "http.method"),
        "route": _first(attributes, "http.route"),
        "parameters": [[name[:_MAX_CHARACTERS], _shown(name, value, mask)] for name, value in pairs],
        "headers": _headers(attributes, _REQUEST_HEADER, mask),
        "size": _first(attributes, "http.request.body.size", "http.request_content_length"),
    }


def response_facts(attributes: Mapping[str, Any], mask: Sequence[str]) -> dict[str, object]:
    """Status, captured headers and size."""
    return {
        "status_code": _first(attributes, "http.response.status_code", "http.status_code"),
        "headers": _headers(attributes, _RESPONSE_HEADER, mask),
        "size": _first(attributes, "http.response.body.size", "http.response_content_length"),
    }


def masked_query(query: str, mask: Sequence[str]) -> list[tuple[str, str]]:
    """Names and values of a query string, secrets and what `mask` names hidden."""
    return [(name, MASK if value and _is_named(name, mask) else value) for name, value in query_pairs(query)]


def _query(attributes: Mapping[str, Any]) -> str:
    query = attributes.get("url.query")
    if isinstance(query, str):
        return query.removeprefix("?")
    address = _first(attributes, "http.target", "url.full", "http.url")
    if not isinstance(address, str) or "?" not in address:
        return ""
    try:
        return urlsplit(address).query
    except ValueError:
        return ""


def _headers(attributes: Mapping[str, Any], prefix: str, mask: Sequence[str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for key, value in attributes.items():
        if prefix in key and key.startswith(prefix) and len(headers) < _MAX_HEADERS:
            name = key.removeprefix(prefix).replace("_", "-").lower()
            values = [value] if isinstance(value, str) else cast("Sequence[object]", value)
            headers[name] = _shown(name, ", ".join(map(str, values)), mask)
    return headers


def _shown(name: str, value: str, mask: Sequence[str]) -> str:
    return MASK if value and (is_secret(name) or _is_named(name, mask)) else value[:_MAX_CHARACTERS]


def _is_named(name: str, mask: Sequence[str]) -> bool:
    lower = name.lower()
    return any(part in lower for part in mask)


def _first(attributes: Mapping[str, Any], *names: str) -> object:
    for name in names:
        value = attributes.get(name)
        if isinstance(value, (str, int)) and value != "":
            return value[:_MAX_CHARACTERS] if isinstance(value, str) else value
    return None
