"""Which spans can never be stored, and why. What can be repaired is repaired (bounds, translation)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from opentelemetry.proto.trace.v1.trace_pb2 import Span

TRACE_ID_BYTES = 16
SPAN_ID_BYTES = 8
MAX_TIME_UNIX_NANO = 2**63 - 1  # BSON has no larger integer; the year 2262, inside datetime's range

UNREADABLE_SPAN = "unreadable_span"
"""Why an empty span is refused: the readers of requests put one in the place of what they cannot read."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NO_TRACE_ID = bytes(TRACE_ID_BYTES)
_NO_SPAN_ID = bytes(SPAN_ID_BYTES)


def is_sound(trace_id: bytes, span_id: bytes, parent_id: bytes, start: int, end: int) -> bool:
    """Whether a span with these values is as it should be, so that nobody has to ask `refusal`."""
    return (
        len(trace_id) == TRACE_ID_BYTES
        and len(span_id) == SPAN_ID_BYTES
        and (not parent_id or len(parent_id) == SPAN_ID_BYTES)
        and 0 < start <= end <= MAX_TIME_UNIX_NANO
        and trace_id != _NO_TRACE_ID
        and span_id != _NO_SPAN_ID
    )


def refusal(span: Span) -> str | None:
    """The reason why `span` cannot be stored, None when it can.

    Protobuf enforces none of this: it accepts ids of any length and 64-bit unsigned times. "Valid" ids are
    those of the trace API specification: 16 and 8 bytes, not all zero.
    """
    if reason := id_refusal(span.trace_id, span.span_id):
        return reason if span.ByteSize() else UNREADABLE_SPAN
    if len(span.parent_span_id) not in (0, SPAN_ID_BYTES):
        return "invalid_parent_span_id"
    start = span.start_time_unix_nano
    if not start:
        return "missing_start_time"
    if start > MAX_TIME_UNIX_NANO or span.end_time_unix_nano > MAX_TIME_UNIX_NANO:
        return "time_out_of_range"
    return None


def id_refusal(trace_id: bytes, span_id: bytes) -> str | None:
    """The reason why these ids name no span, None when they may."""
    if len(trace_id) != TRACE_ID_BYTES or trace_id == _NO_TRACE_ID:
        return "invalid_trace_id"
    if len(span_id) != SPAN_ID_BYTES or span_id == _NO_SPAN_ID:
        return "invalid_span_id"
    return None


def parent_of(span: Span) -> bytes | None:
    """The parent's id; some SDKs write eight zero bytes for "none"."""
    parent = span.parent_span_id
    return parent if parent and parent != _NO_SPAN_ID else None


def utc(time_unix_nano: int) -> datetime:
    """Nanoseconds since 1970, below 2**63, as a date; exact to the microsecond, unlike a float."""
    return _EPOCH + timedelta(microseconds=time_unix_nano // 1_000)
