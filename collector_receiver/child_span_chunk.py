"""Child spans of one trace, put together as OTLP bytes without reading or copying the spans as messages."""

from __future__ import annotations

from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans

from collector_receiver.validation import MAX_TIME_UNIX_NANO, utc
from collector_receiver.wire_writing import field_head, tag_of
from profile_store.model import IncomingChildSpans

MAX_CHUNK_SPANS = 512
MAX_CHUNK_BYTES = 1_048_576

_RESOURCE = tag_of(ResourceSpans.DESCRIPTOR.fields_by_name["resource"])
_SCOPE_SPANS = tag_of(ResourceSpans.DESCRIPTOR.fields_by_name["scope_spans"])
_SCOPE = tag_of(ScopeSpans.DESCRIPTOR.fields_by_name["scope"])
_SPAN = tag_of(ScopeSpans.DESCRIPTOR.fields_by_name["spans"])


class ChildSpanChunk:
    """Grows by one span at a time until it is full. `resource` is a serialised `Resource`."""

    def __init__(self, resource: bytes) -> None:
        self._resource = resource
        self._span_ids: list[bytes] = []
        self._earliest = MAX_TIME_UNIX_NANO
        self._size_bytes = 0
        self._scope: bytes | None = None
        self._content: list[bytes] = []
        """Of the last scope, in the parts that it is joined from."""
        self._scopes: list[list[bytes]] = []

    def add(self, span_id: bytes, start_time_unix_nano: int, span: bytes, scope: bytes) -> bool:
        """Append a serialised `Span` of an `InstrumentationScope`; True when the chunk is full now.

        Spans of one scope in a row share it.
        """
        if scope != self._scope:
            self._scope = scope
            self._content = [_field(_SCOPE, scope)]
            self._scopes.append(self._content)
        length = len(span)
        self._content += (field_head(_SPAN, length), span)
        self._span_ids.append(span_id)
        if start_time_unix_nano < self._earliest:
            self._earliest = start_time_unix_nano
        self._size_bytes += length
        return self._size_bytes >= MAX_CHUNK_BYTES or len(self._span_ids) >= MAX_CHUNK_SPANS

    def close(self, trace_id: bytes, project_id: str) -> IncomingChildSpans:
        """What the store takes. Nothing is added afterwards."""
        scopes = (_field(_SCOPE_SPANS, b"".join(content)) for content in self._scopes)
        return IncomingChildSpans(
            project_id=project_id,
            trace_id=trace_id,
            span_ids=self._span_ids,
            timestamp=utc(self._earliest),
            otlp=b"".join((_field(_RESOURCE, self._resource), *scopes)),
        )


def _field(tag: bytes, body: bytes) -> bytes:
    return field_head(tag, len(body)) + body
