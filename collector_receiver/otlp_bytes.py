"""Puts spans that are bytes already together as one OTLP message, without reading them again.

Format: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans

_LENGTH_DELIMITED = 2


def _tag(number: int) -> int:
    return number << 3 | _LENGTH_DELIMITED  # one byte, as all numbers here are below 16


_RESOURCE = _tag(ResourceSpans.RESOURCE_FIELD_NUMBER)
_SCOPE_SPANS = _tag(ResourceSpans.SCOPE_SPANS_FIELD_NUMBER)
_SCOPE = _tag(ScopeSpans.SCOPE_FIELD_NUMBER)
_SPAN = _tag(ScopeSpans.SPANS_FIELD_NUMBER)


class ResourceSpansBytes:
    """A serialised `ResourceSpans` that grows by one span at a time."""

    def __init__(self, resource: bytes) -> None:
        self._parts = [_field(_RESOURCE, resource)]
        self._scope: bytes | None = None
        self._spans: list[bytes] = []
        self.size_bytes = 0

    def add(self, span: bytes, scope: bytes) -> None:
        """Append a `Span` of an `InstrumentationScope`. Spans of one scope in a row share it."""
        if scope != self._scope:
            self._end_scope()
            self._scope = scope
            self._spans = [_field(_SCOPE, scope)]
        self._spans.append(_field(_SPAN, span))
        self.size_bytes += len(span)

    def joined(self) -> bytes:
        """All of it."""
        self._end_scope()
        return b"".join(self._parts)

    def _end_scope(self) -> None:
        if self._spans:
            self._parts.append(_field(_SCOPE_SPANS, b"".join(self._spans)))
        self._scope, self._spans = None, []


def _field(tag: int, body: bytes) -> bytes:
    length = len(body)
    head = bytearray((tag,))
    while length > 127:
        head.append(length & 127 | 128)
        length >>= 7
    head.append(length)
    return bytes(head) + body
