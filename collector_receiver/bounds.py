"""Cuts spans and resources down to a bounded size, in place, leaving a mark wherever something was cut.

A span of at most 4 KiB, which nearly every span is, costs no more than being written as bytes.
"""

from __future__ import annotations

from collections.abc import MutableSequence
from typing import TypeVar

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span

MAX_TEXT_BYTES = 4_096
MAX_SPAN_BYTES = 65_536
MAX_ATTRIBUTES = 128  # the SDKs' own default limits, "SDK environment variables"
MAX_EVENTS = 128
MAX_LINKS = 32
MAX_NAME_BYTES = 1_024
MAX_SCOPE_BYTES = 256

_ITEM_BYTES = 8  # what an attribute, an event or an element costs at least, however empty
_UINT32_MAX = 2**32 - 1

Item = TypeVar("Item")


class _Budget:
    """Bytes that may still be kept of one span or resource."""

    def __init__(self, available: int) -> None:
        self.left = available

    def take(self, size: int) -> bool:
        """Whether another `size` bytes fit; takes them when they do."""
        if size > self.left:
            return False
        self.left -= size
        return True


def bound_span(span: Span) -> bytes:
    """Keep at most 64 KiB of attributes, events and links of `span`; cut texts over 4 KiB.

    What is dropped is added to the span's own `dropped_*_count`, a cut text says so at its end. Returns the
    span as it is now, in bytes: protobuf makes them anyway to tell its size.
    """
    otlp = span.SerializeToString()
    if len(otlp) <= MAX_TEXT_BYTES and len(span.attributes) <= MAX_ATTRIBUTES:
        return otlp
    span.DiscardUnknownFields()
    span.name = cut_text(span.name, MAX_NAME_BYTES)
    span.status.message = cut_text(span.status.message)
    if len(span.trace_state) > MAX_TEXT_BYTES:
        span.trace_state = ""
    budget = _Budget(MAX_SPAN_BYTES)
    dropped = _bound_pairs(span.attributes, budget)
    span.dropped_attributes_count = min(_UINT32_MAX, span.dropped_attributes_count + dropped)
    span.dropped_events_count = min(_UINT32_MAX, span.dropped_events_count + _bound_events(span, budget))
    span.dropped_links_count = min(_UINT32_MAX, span.dropped_links_count + _bound_links(span, budget))
    return span.SerializeToString()


def bound_resource(resource: Resource) -> None:
    """The same for a resource; entity references are dropped."""
    resource.ClearField("entity_refs")
    if resource.ByteSize() <= MAX_TEXT_BYTES and len(resource.attributes) <= MAX_ATTRIBUTES:
        return
    resource.DiscardUnknownFields()
    dropped = _bound_pairs(resource.attributes, _Budget(MAX_SPAN_BYTES))
    resource.dropped_attributes_count = min(_UINT32_MAX, resource.dropped_attributes_count + dropped)


def bounded_scope(scope: InstrumentationScope) -> InstrumentationScope:
    """Name and version of an instrumentation scope, both cut: this is copied once per trace."""
    return InstrumentationScope(
        name=cut_text(scope.name, MAX_SCOPE_BYTES), version=cut_text(scope.version, MAX_SCOPE_BYTES)
    )


def cut_text(text: str, limit: int = MAX_TEXT_BYTES) -> str:
    """`text`, or its first `limit` bytes of UTF-8 with a note of how long it was."""
    if len(text) * 4 <= limit:
        return text
    raw = text.encode()
    if len(raw) <= limit:
        return text
    return f"{raw[:limit].decode(errors='ignore')}…[cut, {len(raw)} bytes]"


def _bound_events(span: Span, budget: _Budget) -> int:
    kept = 0
    for event in span.events:
        if kept >= MAX_EVENTS or not budget.take(_ITEM_BYTES):
            break
        event.name = cut_text(event.name, MAX_NAME_BYTES)
        budget.take(len(event.name))
        dropped = _bound_pairs(event.attributes, budget)
        event.dropped_attributes_count = min(_UINT32_MAX, event.dropped_attributes_count + dropped)
        kept += 1
    return _drop_tail(span.events, kept)


def _bound_links(span: Span, budget: _Budget) -> int:
    kept = 0
    for link in span.links:
        size = link.ByteSize()
        if kept >= MAX_LINKS or size > MAX_TEXT_BYTES or not budget.take(size):
            break
        kept += 1
    return _drop_tail(span.links, kept)


def _bound_pairs(pairs: MutableSequence[KeyValue], budget: _Budget) -> int:
    kept = 0
    for pair in pairs:
        if kept >= MAX_ATTRIBUTES or not _bound_pair(pair, budget):
            break
        kept += 1
    return _drop_tail(pairs, kept)


def _bound_pair(pair: KeyValue, budget: _Budget) -> bool:
    pair.key = cut_text(pair.key, MAX_NAME_BYTES)
    return budget.take(_ITEM_BYTES + len(pair.key)) and _bound_value(pair.value, budget)


def _bound_value(value: AnyValue, budget: _Budget) -> bool:
    """Cut `value`; False when not even its cut form fits. protobuf nests values at most 47 deep."""
    if value.ByteSize() <= MAX_TEXT_BYTES // 4:
        return budget.take(_ITEM_BYTES + value.ByteSize())
    match value.WhichOneof("value"):
        case "string_value":
            value.string_value = cut_text(value.string_value)
            return budget.take(len(value.string_value.encode()))
        case "bytes_value":
            if len(value.bytes_value) > MAX_TEXT_BYTES:
                value.string_value = f"…[cut, {len(value.bytes_value)} bytes]"
            return budget.take(value.ByteSize())
        case "array_value":
            items = value.array_value.values
            kept = 0
            for item in items:
                if not (budget.take(_ITEM_BYTES) and _bound_value(item, budget)):
                    break
                kept += 1
            _drop_tail(items, kept)
            return True
        case "kvlist_value":
            _bound_pairs(value.kvlist_value.values, budget)
            return True
        case _:
            return True


def _drop_tail(items: MutableSequence[Item], kept: int) -> int:
    dropped = len(items) - kept
    if dropped:
        del items[kept:]
    return dropped
