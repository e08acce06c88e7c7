"""The request and the response, from the server span's attributes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from otel_pyinstrument.masking import masked, query_pairs
from profile_store.model import Attributes, RecordDetail
from profile_store.request_facts.attribute_access import integer, joined_text, text

_REQUEST_HEADER = "http.request.header."
_RESPONSE_HEADER = "http.response.header."


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestInfo:
    """Sizes in bytes. Header names are lower case with dashes; the values of secrets are masked."""

    method: str
    path: str
    query_params: Mapping[str, Sequence[str]]
    headers: Mapping[str, str]
    user_agent: str
    remote_ip: str
    request_size: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseInfo:
    """Sizes in bytes."""

    status_code: int | None
    response_size: int | None
    content_type: str
    headers: Mapping[str, str]


def request_info(detail: RecordDetail) -> RequestInfo:
    """What was asked."""
    record, attributes = detail.record, detail.record.attributes
    parameters: dict[str, list[str]] = {}
    for name, value in query_pairs(_query(attributes)):
        parameters.setdefault(name, []).append(value)
    return RequestInfo(
        method=record.method,
        path=record.path,
        query_params=parameters,
        headers=_headers(attributes, _REQUEST_HEADER),
        user_agent=user_agent(attributes),
        remote_ip=remote_ip(attributes),
        request_size=request_size(attributes),
    )


def response_info(detail: RecordDetail) -> ResponseInfo:
    """What was answered."""
    attributes = detail.record.attributes
    return ResponseInfo(
        status_code=detail.record.status_code,
        response_size=response_size(attributes),
        content_type=content_type(attributes),
        headers=_headers(attributes, _RESPONSE_HEADER),
    )


def user_agent(attributes: Attributes) -> str:
    known = text(attributes, "user_agent.original", "http.user_agent")
    return known or _headers(attributes, _REQUEST_HEADER).get("user-agent", "")


def remote_ip(attributes: Attributes) -> str:
    return text(
        attributes,
        "client.address",
        "http.client_ip",
        "network.peer.address",
        "net.sock.peer.addr",
        "net.peer.ip",
    )


def request_size(attributes: Attributes) -> int | None:
    return integer(attributes, "http.request.body.size", "http.request_content_length")


def response_size(attributes: Attributes) -> int | None:
    return integer(attributes, "http.response.body.size", "http.response_content_length")


def content_type(attributes: Attributes) -> str:
    """Of the response."""
    return _headers(attributes, _RESPONSE_HEADER).get("content-type", "")


def _query(attributes: Attributes) -> str:
    if query := text(attributes, "url.query"):
        return query.removeprefix("?")
    try:
        return urlsplit(text(attributes, "http.target", "url.full", "http.url")).query
    except ValueError:
        return ""


def _headers(attributes: Attributes, prefix: str) -> dict[str, str]:
    """Python's instrumentations write `content_type` where the convention has `content-type`."""
    headers: dict[str, str] = {}
    if prefix not in "".join(attributes):  # nearly always
        return headers
    for key, value in attributes.items():
        if key.startswith(prefix):
            name = key.removeprefix(prefix).replace("_", "-").lower()
            headers[name] = masked(name, joined_text(value))
    return dict(sorted(headers.items()))
