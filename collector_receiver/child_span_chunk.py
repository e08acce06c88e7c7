"""Child spans of one trace, put together as OTLP bytes without reading or copying the spans as messages."""

from __future__ import annotations

from itertools import groupby
from operator import itemgetter

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

_SCOPE_OF = itemgetter(3)


class ChildSpanChunk:
    """Grows by one span at a time until it is full. `resource` is a serialised `Resource`."""

    def __init__(self, resource: bytes) -> None:
        self._resource = resource
        self._spans: list[tuple[bytes, int, bytes, bytes]] = []
        self._size_bytes = 0

    def add(self, span_id: bytes, start_time_unix_nano: int, span: bytes, scope: bytes) -> bool:
        """Append a serialised `Span` of an `InstrumentationScope`; True when the chunk is full now.

        Spans of one scope in a row share it.
        """
        self._spans.append((span_id, start_time_unix_nano, span, scope))
        self._size_bytes += len(span)
        return self._size_bytes >= MAX_CHUNK_BYTES or len(self._spans) >= MAX_CHUNK_SPANS

    def close(self, trace_id: bytes, project_id: str) -> IncomingChildSpans:
        """What the store takes. Nothing is added afterwards."""
        scopes = [_field(_RESOURCE, self._resource)]
        for scope, spans in groupby(self._spans, _SCOPE_OF):
            content = [_field(_SCOPE, scope)]
            for _, _, span, _ in spans:
                content += (field_head(_SPAN, len(span)), span)
            scopes.append(_field(_SCOPE_SPANS, b"".join(content)))
        return IncomingChildSpans(
            project_id=project_id,
            trace_id=trace_id,
            span_ids=[span_id for span_id, _, _, _ in self._spans],
            timestamp=utc(min((start for _, start, _, _ in self._spans), default=MAX_TIME_UNIX_NANO)),
            otlp=b"".join(scopes),
        )


def _field(tag: bytes, body: bytes) -> bytes:
    return field_head(tag, len(body)) + body
