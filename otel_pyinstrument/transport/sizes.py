"""Upper bounds of encoded OTLP sizes, in bytes, an order of magnitude cheaper than encoding.

Field sizes follow the protobuf wire format (https://protobuf.dev/programming-guides/encoding/): a tag and a
length are at most 6 bytes for the messages that occur here, a number at most 10 bytes and its tag.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any, cast

from opentelemetry.sdk.trace import ReadableSpan

_FIELD_BYTES = 6
_VALUE_BYTES = 2 * _FIELD_BYTES + 11
_ATTRIBUTE_BYTES = 2 * _FIELD_BYTES + _VALUE_BYTES
_SPAN_BYTES = 220
_EVENT_BYTES = 40
_LINK_BYTES = 70
_SCOPE_BYTES = 40
_BYTES_PER_CHARACTER = 4

_RESOURCE = attrgetter("resource")
_SCOPE = attrgetter("instrumentation_scope")


def span_bytes(span: ReadableSpan) -> int:
    """Of one span alone. Reads the attributes of its events, so a lazy profile is encoded here."""
    context = span.context
    size = _SPAN_BYTES + _text_bytes(span.name) + attributes_bytes(span.attributes)
    if context is not None and context.trace_state:
        size += _text_bytes(context.trace_state.to_header())
    if span.status.description:
        size += _text_bytes(span.status.description)
    for event in span.events:
        size += _EVENT_BYTES + _text_bytes(event.name) + attributes_bytes(event.attributes)
    for link in span.links:
        size += _LINK_BYTES + attributes_bytes(link.attributes)
        if link.context.trace_state:
            size += _text_bytes(link.context.trace_state.to_header())
    return size


def envelope_bytes(items: Sequence[Any]) -> int:
    """Of what a request holds beside its spans or log records: each resource once, in each every scope."""
    resources = {id(resource): resource for resource in map(_RESOURCE, items)}
    scopes = {id(scope): scope for scope in map(_SCOPE, items)}
    size = 0
    for resource in resources.values():
        size += _SCOPE_BYTES + attributes_bytes(resource.attributes) + _text_bytes(resource.schema_url)
    for scope in scopes.values():
        scope_bytes = _SCOPE_BYTES
        if scope is not None:
            scope_bytes += _text_bytes(scope.name) + _text_bytes(scope.version)
            scope_bytes += _text_bytes(scope.schema_url) + attributes_bytes(scope.attributes)
        size += len(resources) * scope_bytes
    return size


def attributes_bytes(attributes: Mapping[str, Any] | None) -> int:
    """Of a list of attributes."""
    if not attributes:
        return 0
    # The SDK's own mapping locks and looks up for each entry; a copy of it is a plain dict.
    copy: Callable[[], Mapping[str, Any]] | None = getattr(attributes, "copy", None)
    entries = attributes if copy is None else copy()
    size = _ATTRIBUTE_BYTES * len(entries)
    for key, value in entries.items():
        size += len(key) if key.isascii() else _BYTES_PER_CHARACTER * len(key)
        if isinstance(value, str):
            size += len(value) if value.isascii() else _BYTES_PER_CHARACTER * len(value)
        elif not isinstance(value, (int, float)):
            size += _any_bytes(value)
    return size


def _any_bytes(value: object) -> int:
    if isinstance(value, str):
        return _text_bytes(value)
    if isinstance(value, bytes):
        return len(value)
    if isinstance(value, Mapping):
        return attributes_bytes(cast("Mapping[str, Any]", value))
    if isinstance(value, Sequence):
        entries = cast("Sequence[object]", value)
        return sum(_VALUE_BYTES + _any_bytes(entry) for entry in entries)
    return 0


def _text_bytes(text: str | None) -> int:
    if not text:
        return 0
    return len(text) if text.isascii() else _BYTES_PER_CHARACTER * len(text)
