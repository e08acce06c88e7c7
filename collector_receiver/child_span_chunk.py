"""Child spans of one trace, put together as OTLP bytes without reading or copying the spans as messages.

Format: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans

from collector_receiver.validation import MAX_TIME_UNIX_NANO, utc
from profile_store.model import IncomingChildSpans

MAX_CHUNK_SPANS = 512
MAX_CHUNK_BYTES = 1_048_576

_LENGTH_DELIMITED = 2


def _tag(number: int) -> int:
    return number << 3 | _LENGTH_DELIMITED  # one byte, as all numbers here are below 16


_RESOURCE = _tag(ResourceSpans.RESOURCE_FIELD_NUMBER)
_SCOPE_SPANS = _tag(ResourceSpans.SCOPE_SPANS_FIELD_NUMBER)
_SCOPE = _tag(ScopeSpans.SCOPE_FIELD_NUMBER)
_SPAN = _tag(ScopeSpans.SPANS_FIELD_NUMBER)


class ChildSpanChunk:
    """Grows by one span at a time until it is full. `resource` is a serialised `Resource`."""

    def __init__(self, resource: bytes) -> None:
        self._scopes = [_field(_RESOURCE, resource)]
        self._scope: bytes | None = None
        self._spans: list[bytes] = []
        self._span_ids: list[bytes] = []
        self._size_bytes = 0
        self._start_time_unix_nano = MAX_TIME_UNIX_NANO

    def add(self, span_id: bytes, start_time_unix_nano: int, span: bytes, scope: bytes) -> bool:
        """Append a serialised `Span` of an `InstrumentationScope`; True when the chunk is full now.

        Spans of one scope in a row share it.
        """
        if scope != self._scope:
            self._end_scope()
            self._scope = scope
            self._spans.append(_field(_SCOPE, scope))
        self._spans.append(_field(_SPAN, span))
        self._span_ids.append(span_id)
        self._size_bytes += len(span)
        if start_time_unix_nano < self._start_time_unix_nano:
            self._start_time_unix_nano = start_time_unix_nano
        return self._size_bytes >= MAX_CHUNK_BYTES or len(self._span_ids) >= MAX_CHUNK_SPANS

    def close(self, trace_id: bytes, project_id: str) -> IncomingChildSpans:
        """What the store takes. Nothing is added afterwards."""
        self._end_scope()
        return IncomingChildSpans(
            project_id=project_id,
            trace_id=trace_id,
            span_ids=self._span_ids,
            timestamp=utc(self._start_time_unix_nano),
            otlp=b"".join(self._scopes),
        )

    def _end_scope(self) -> None:
        if self._spans:
            self._scopes.append(_field(_SCOPE_SPANS, b"".join(self._spans)))
            self._spans.clear()


def _field(tag: int, body: bytes) -> bytes:
    length = len(body)
    if length < 128:
        return bytes((tag, length)) + body
    if length < 16_384:  # nearly every span
        return bytes((tag, length & 127 | 128, length >> 7)) + body
    head = bytearray((tag,))
    while length > 127:
        head.append(length & 127 | 128)
        length >>= 7
    head.append(length)
    return bytes(head) + body
