"""The request object: hung on the request's root span, inherited by the spans below it."""

from __future__ import annotations

from opentelemetry.sdk.trace import Span as RecordingSpan
from opentelemetry.trace import Span, StatusCode

from otel_pyinstrument.gate import Reason, Slot, Visit
from otel_pyinstrument.segment import Recording, Segment

_REQUEST = "otel_pyinstrument_request"
_VISIT = "otel_pyinstrument_visit"


class Request:
    """One profiled request, from the start of its local root span to its end."""

    def __init__(self, root_span_id: int, slot: Slot, segment: Segment) -> None:
        self.root_span_id = root_span_id
        self.slot = slot
        self._segment = segment

    @property
    def reason(self) -> Reason:
        """Why the gate chose it."""
        return self.slot.reason

    def finish(self) -> Recording | None:
        """End sampling and give the slot back. None when it had ended before. Any thread."""
        recording = None
        try:
            recording = self._segment.close()
            return recording
        finally:
            self.slot.release(None if recording is None else recording.facts.cpu_seconds)


def request_of(span: Span) -> Request | None:
    """The request that `span` belongs to, if it is profiled."""
    return getattr(span, _REQUEST, None)


def attach_request(span: Span, request: Request) -> None:
    """Make `span` belong to `request`. Needs no context variable: anything that carries spans carries it."""
    setattr(span, _REQUEST, request)


def attach_visit(span: Span, visit: Visit) -> None:
    """Make `span` the root span of `visit`, profiled or not."""
    setattr(span, _VISIT, visit)


def visit_of(span: Span) -> Visit | None:
    """The visit whose root span `span` is."""
    return getattr(span, _VISIT, None)


def is_ours(span: Span) -> bool:
    """Whether the end of `span` concerns us."""
    return hasattr(span, _VISIT) or hasattr(span, _REQUEST)


def failed(span: RecordingSpan) -> bool:
    """Whether the request failed on the server's side: an error status, or HTTP 500 and above."""
    if span.status.status_code is StatusCode.ERROR:
        return True
    attributes = span.attributes or {}
    status = attributes.get("http.status_code") or attributes.get("http.response.status_code")
    return isinstance(status, int) and status >= 500


def wall_seconds(span: RecordingSpan, end_time: int | None = None) -> float:
    """The duration of an ended span; `end_time` in nanoseconds where the SDK does not have it yet."""
    end = span.end_time if end_time is None else end_time
    if end is None or span.start_time is None:
        return 0.0
    return max(end - span.start_time, 0) / 1e9
