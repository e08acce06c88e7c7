from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given, settings
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans

from otel_pyinstrument.transport.oversize import span_without_payload
from otel_pyinstrument.transport.parts import split
from otel_pyinstrument.transport.sizes import span_bytes

KIB = 1024


def parts_of(batch, max_bytes):
    return split(
        batch,
        max_bytes=max_bytes,
        size_of=span_bytes,
        without_profile=span_without_payload,
    )


def event_of(span):
    (event,) = [event for event in span.events if event.name == "pyinstrument.profile"]
    return event


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.integers(0, 40 * KIB), min_size=1, max_size=30))
def test_parts_hold_everything_in_order_within_the_limit(spans_of_sizes, sizes) -> None:
    batch = spans_of_sizes(sizes)

    parts = parts_of(batch, 64 * KIB)

    assert [span for part in parts for span in part] == batch
    assert all(0 < encode_spans(part).ByteSize() <= 64 * KIB for part in parts)


def test_no_more_parts_are_made_than_needed(spans) -> None:
    batch = spans(100, payload_bytes=10 * KIB)

    parts = parts_of(batch, 128 * KIB)

    assert len(parts) == 10  # 11 spans of 10.7 KiB in each


def test_a_batch_that_fits_is_passed_on_as_it_is(spans) -> None:
    batch = spans(20)

    (part,) = parts_of(batch, 64 * KIB)

    assert part is batch


def test_a_span_too_large_loses_its_profile_and_nothing_else(spans) -> None:
    # Given a profile larger than a request between two others
    before, large, after = spans(payload_bytes=10), spans(payload_bytes=70 * KIB), spans(payload_bytes=10)

    # When
    sent = [span for part in parts_of(before + large + after, 64 * KIB) for span in part]

    # Then all three spans are there, and that profile says what happened to it
    assert sent[0] is before[0]
    assert sent[2] is after[0]
    assert [event.name for event in sent[1].events] == ["first", "pyinstrument.profile"]
    attributes = dict(event_of(sent[1]).attributes)
    assert attributes.pop("pyinstrument.error") == (
        f"the payload of {70 * KIB} bytes was left out: span and profile exceed a request of {64 * KIB} bytes"
    )
    assert attributes == {"pyinstrument.format": 1, "pyinstrument.summary": ("99% work app.py:1",)}
    assert event_of(sent[1]).timestamp == event_of(large[0]).timestamp
    assert sent[1].attributes == large[0].attributes
    assert encode_spans(sent).ByteSize() < 64 * KIB


def test_other_exporters_keep_the_whole_span(spans) -> None:
    (span,) = spans(payload_bytes=70 * KIB)

    parts_of([span], 64 * KIB)

    assert len(event_of(span).attributes["pyinstrument.payload"]) == 70 * KIB


def test_a_span_too_large_without_a_profile_is_sent_alone(spans) -> None:
    small, large = spans(2), spans(text="x" * 70 * KIB)

    assert [list(part) for part in parts_of([*small, *large], 64 * KIB)] == [small, large]


def test_dropped_events_stay_counted() -> None:
    # Given a span that lost 72 of 200 events of its own
    from opentelemetry.sdk.trace import SpanLimits, TracerProvider

    span = (
        TracerProvider(span_limits=SpanLimits(max_events=128), shutdown_on_exit=False)
        .get_tracer("t")
        .start_span("s")
    )
    for _ in range(199):
        span.add_event("e")
    span.add_event("pyinstrument.profile", {"pyinstrument.payload": bytes(100)})
    span.end()

    (stripped,) = parts_of([span], 200)[0]

    assert (len(stripped.events), stripped.dropped_events) == (128, 72)
