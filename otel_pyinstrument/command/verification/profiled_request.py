"""One really profiled request of the service, for `verify` to follow."""

from __future__ import annotations

import secrets
import time
from typing import NamedTuple

from opentelemetry import context, trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, TraceFlags

from otel_pyinstrument.installed import FORCED_KEY
from otel_pyinstrument.profile_event import EVENT_NAME
from otel_pyinstrument.version import __version__

ROUTE = "/otel-pyinstrument/verify"
WORK_FUNCTION = "work_of_the_test_request"

_SHORTEST_SECONDS = 0.1
_LONGEST_SECONDS = 3.0
_INTERVALS = 8


class ProfiledRequest(NamedTuple):
    """`span` is None when the sampler dropped it; `sample_count` is None without a profile on the span."""

    trace_id: str
    span_id: str
    span: ReadableSpan | None
    sample_count: int | None

    @property
    def record_id(self) -> str:
        """What the platform calls the record."""
        return f"{self.trace_id}{self.span_id}"


class _Keep(SpanProcessor):
    """Keeps the span of one id."""

    def __init__(self) -> None:
        self.span_id = 0
        self.kept: ReadableSpan | None = None

    def on_end(self, span: ReadableSpan) -> None:
        if span.context is not None and span.context.span_id == self.span_id:
            self.kept = span


def make_profiled_request(provider: TracerProvider, *, interval_seconds: float) -> ProfiledRequest:
    """A server span as of a request that a caller has sampled, with some work in it, profiled by force.

    Its trace id is one that samplers by ratio take at any ratio above 0. Takes 0.1 seconds or longer.
    """
    keep = _Keep()
    provider.add_span_processor(keep)
    # TraceIdRatioBased compares the lower 64 bits with its bound.
    trace_id = secrets.randbits(64) << 64 | secrets.randbits(20) | 1
    caller = SpanContext(
        trace_id, secrets.randbits(64) | 1, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED)
    )
    around = trace.set_span_in_context(NonRecordingSpan(caller), context.Context({FORCED_KEY: True}))
    span = provider.get_tracer("otel_pyinstrument", __version__).start_span(
        f"GET {ROUTE}",
        around,
        SpanKind.SERVER,
        attributes={
            "http.request.method": "GET",
            "http.route": ROUTE,
            "url.path": ROUTE,
            "url.scheme": "http",
            "http.response.status_code": 200,
        },
    )
    own = span.get_span_context()
    keep.span_id = own.span_id
    with trace.use_span(span, end_on_exit=True):
        if own.trace_flags.sampled:
            work_of_the_test_request(
                min(max(_SHORTEST_SECONDS, _INTERVALS * interval_seconds), _LONGEST_SECONDS)
            )
    samples = None if keep.kept is None else _sample_count(keep.kept)
    return ProfiledRequest(f"{own.trace_id:032x}", f"{own.span_id:016x}", keep.kept, samples)


def work_of_the_test_request(seconds: float) -> None:
    """Keeps the processor busy in calls that a profiler sees."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        _add_up(range(200))


def _add_up(numbers: range) -> int:
    return sum(number * number for number in numbers)


def _sample_count(span: ReadableSpan) -> int | None:
    for event in span.events:
        if event.name == EVENT_NAME:
            count = (event.attributes or {}).get("pyinstrument.sample_count", 0)
            return count if isinstance(count, int) else 0
    return None
