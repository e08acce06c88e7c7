"""Outgoing calls of a request."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from otel_pyinstrument.masking import masked_url
from profile_store.model import Attributes, ChildSpan, RecordDetail
from profile_store.request_facts.attribute_access import integer, text
from profile_store.request_facts.database import system_of

# opentelemetry.proto.trace.v1.Span.SpanKind
_CLIENT = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ExternalCall:
    """One outgoing call; `duration` in seconds, `start` in seconds after the request's start."""

    service: str
    url: str
    method: str
    start: float
    duration: float
    status_code: int | None
    failed: bool


def external_calls(detail: RecordDetail) -> list[ExternalCall]:
    """HTTP and RPC calls in start order; the address holds no password and no secret parameter."""
    start = detail.record.start_time_unix_nano
    return [_call(span, start) for span in detail.child_spans if _is_call(span)]


def _is_call(span: ChildSpan) -> bool:
    if span.kind != _CLIENT or system_of(span.attributes):
        return False
    return any(
        name in span.attributes
        for name in ("http.request.method", "http.method", "rpc.system", "rpc.system.name")
    )


def _call(span: ChildSpan, request_start: int) -> ExternalCall:
    attributes = span.attributes
    url = masked_url(text(attributes, "url.full", "http.url"))
    return ExternalCall(
        service=_service(attributes, url) or span.name,
        url=url,
        method=text(attributes, "http.request.method", "http.method", "rpc.method"),
        start=(span.start_time_unix_nano - request_start) / 1e9,
        duration=span.duration,
        status_code=integer(
            attributes, "http.response.status_code", "http.status_code", "rpc.grpc.status_code"
        ),
        failed=span.failed,
    )


def _service(attributes: Attributes, url: str) -> str:
    """Who was called: the name the application gave it, the RPC service, else host and port."""
    if name := text(attributes, "service.peer.name", "peer.service", "rpc.service"):
        return name
    if host := text(attributes, "server.address", "net.peer.name"):
        port = integer(attributes, "server.port", "net.peer.port")
        return host if port is None else f"{host}:{port}"
    return urlsplit(url).netloc
