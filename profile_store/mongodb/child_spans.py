"""Child spans out of stored OTLP chunks, and which of them belong to one record."""

from __future__ import annotations

import logging
from collections import defaultdict, deque
from collections.abc import Collection as Sized
from collections.abc import Iterable, Mapping, Sequence

from google.protobuf.message import DecodeError
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span, Status

from profile_store.model import ChildSpan
from profile_store.otlp_attributes import attributes_of

_logger = logging.getLogger(__name__)


def decode_child_spans(otlp: bytes) -> Iterable[ChildSpan]:
    """The spans of one serialised `ResourceSpans`; nothing, and a warning, when it is damaged."""
    try:
        resource_spans = ResourceSpans.FromString(otlp)
    except DecodeError:
        _logger.warning("stored child spans cannot be decoded (%d bytes)", len(otlp))
        return
    for scope_spans in resource_spans.scope_spans:
        for span in scope_spans.spans:
            yield _child_span(span, scope_spans.scope.name)


def _child_span(span: Span, scope: str) -> ChildSpan:
    return ChildSpan(
        trace_id=span.trace_id,
        span_id=span.span_id,
        parent_span_id=span.parent_span_id or None,
        name=span.name,
        kind=span.kind,
        start_time_unix_nano=span.start_time_unix_nano,
        end_time_unix_nano=span.end_time_unix_nano,
        failed=span.status.code == Status.STATUS_CODE_ERROR,
        scope=scope,
        attributes=attributes_of(span.attributes),
    )


def descendants(
    record_span_id: bytes,
    record_parent_span_id: bytes | None,
    spans: Iterable[ChildSpan],
    *,
    other_records: Sized[bytes],
) -> Sequence[ChildSpan]:
    """The spans that descend from a record, in start order, each once.

    `other_records` are the span ids of the trace's other records; what descends from them is theirs. When
    there is none, spans whose parent never arrived count too, unless the record descends from them.
    """
    by_id = {
        span.span_id: span
        for span in spans
        if span.span_id != record_span_id and span.span_id not in other_records
    }
    children: defaultdict[bytes | None, list[bytes]] = defaultdict(list)
    for span in by_id.values():
        children[span.parent_span_id].append(span.span_id)
    roots: list[bytes | None] = [record_span_id]
    if not other_records:
        not_below = {None, record_span_id, _unknown_ancestor(record_parent_span_id, by_id)}
        roots += [parent for parent in children if parent not in by_id and parent not in not_below]
    found: list[ChildSpan] = []
    queue = deque(roots)
    # Every span stands below one parent only, so none is met twice, and spans in a circle are below no root.
    while queue:
        for span_id in children.get(queue.popleft(), ()):
            found.append(by_id[span_id])
            queue.append(span_id)
    return sorted(found, key=lambda span: (span.start_time_unix_nano, span.span_id))


def _unknown_ancestor(parent: bytes | None, by_id: Mapping[bytes, ChildSpan]) -> bytes | None:
    """The first ancestor of a record that is not among the spans."""
    seen: set[bytes] = set()
    while parent is not None and parent in by_id and parent not in seen:
        seen.add(parent)
        parent = by_id[parent].parent_span_id
    return parent
