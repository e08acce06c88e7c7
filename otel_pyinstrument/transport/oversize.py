"""What is left of a span that is too large for one request: everything but the call tree."""

from __future__ import annotations

import copy
from typing import Any

from opentelemetry.sdk.trace import EventBase, ReadableSpan

from otel_pyinstrument.profile_event import EVENT_NAME
from otel_pyinstrument.transport.private_names import plain_event, with_events

_PAYLOAD = "pyinstrument.payload"
_ENCODING = "pyinstrument.encoding"
_ERROR = "pyinstrument.error"


def span_without_payload(span: ReadableSpan, max_bytes: int) -> ReadableSpan:
    """`span`, or a copy whose profile says why its payload is missing. Other exporters keep the whole one."""
    if all(event.name != EVENT_NAME for event in span.events):
        return span
    return with_events(span, [_plain(event, max_bytes) for event in span.events])


def log_record_without_payload(readable: Any, max_bytes: int) -> Any:
    """The same for a `ReadableLogRecord`."""
    if readable.log_record.event_name != EVENT_NAME:
        return readable
    record = copy.copy(readable.log_record)
    record.attributes = _reason_instead(dict(record.attributes or {}), max_bytes)
    return type(readable)(record, readable.resource, readable.instrumentation_scope, readable.limits)


def _plain(event: EventBase, max_bytes: int) -> EventBase:
    if event.name != EVENT_NAME:
        return event
    return plain_event(event, _reason_instead(dict(event.attributes or {}), max_bytes))


def _reason_instead(attributes: dict[str, Any], max_bytes: int) -> dict[str, Any]:
    payload = attributes.pop(_PAYLOAD, None)
    attributes.pop(_ENCODING, None)
    if payload is not None:
        attributes[_ERROR] = (
            f"the payload of {len(payload)} bytes was left out: span and profile exceed a request of "
            f"{max_bytes} bytes"
        )
    return attributes
