"""The request object: hung on the request's root span, inherited by the spans below it."""

from __future__ import annotations

from opentelemetry.trace import Span

from otel_pyinstrument.facts.request_facts import RequestFacts
from otel_pyinstrument.gate import Slot
from otel_pyinstrument.segment import Recording, Segment

_ATTRIBUTE = "otel_pyinstrument_request"


class Request:
    """One profiled request, from the start of its local root span to its end."""

    def __init__(self, root_span_id: int, reason: str, slot: Slot, segment: Segment) -> None:
        self.root_span_id = root_span_id
        self.reason = reason
        self.facts = RequestFacts()
        self._slot = slot
        self._segment = segment

    def finish(self) -> Recording | None:
        """End sampling and give the slot back. None when it had ended before. Any thread."""
        try:
            return self._segment.close()
        finally:
            self._slot.release()


def request_of(span: Span) -> Request | None:
    """The request that `span` belongs to, if it is profiled."""
    return getattr(span, _ATTRIBUTE, None)


def is_decided(span: Span) -> bool:
    """Whether `span` belongs to something that was, or was not, chosen to be profiled as a whole."""
    return hasattr(span, _ATTRIBUTE)


def attach_request(span: Span, request: Request | None) -> None:
    """Make `span` belong to `request`. Needs no context variable: anything that carries spans carries it."""
    setattr(span, _ATTRIBUTE, request)
