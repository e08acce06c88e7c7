from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import HealthCheck, given, settings
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, TraceFlags, TraceState
from opentelemetry.trace.status import Status, StatusCode

from otel_pyinstrument.transport.sizes import envelope_bytes, span_bytes

texts = st.text(st.characters(codec="utf-8"), max_size=40)
keys = st.text(st.characters(codec="utf-8"), min_size=1, max_size=40)
values = st.recursive(
    st.one_of(
        texts,
        st.booleans(),
        st.floats(),
        st.binary(max_size=300),
        st.integers(-(2**63), 2**63 - 1),
        st.none(),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(keys, inner, max_size=4)),
    max_leaves=8,
)
attributes = st.dictionaries(keys, values, max_size=5)
contexts = st.builds(
    lambda trace_id, span_id, remote, state: SpanContext(
        trace_id, span_id, remote, TraceFlags(1), TraceState(state)
    ),
    st.integers(1, 2**128 - 1),
    st.integers(1, 2**64 - 1),
    st.booleans(),
    st.lists(st.tuples(st.sampled_from(["vendor", "other"]), st.sampled_from(["x", "y" * 200])), max_size=2),
)
times = st.integers(0, 2**64 - 1)
scopes = st.builds(InstrumentationScope, texts, texts, texts, st.dictionaries(keys, texts, max_size=2))
resources = st.builds(Resource, attributes, texts)
spans = st.builds(
    ReadableSpan,
    name=texts,
    context=contexts,
    parent=st.none() | contexts,
    resource=resources,
    attributes=attributes,
    events=st.lists(st.builds(Event, texts, attributes, times), max_size=3),
    links=st.lists(st.builds(Link, contexts, attributes), max_size=3),
    kind=st.sampled_from(SpanKind),
    status=st.builds(lambda text: Status(StatusCode.ERROR, text), texts),
    start_time=times,
    end_time=times,
    instrumentation_scope=st.none() | scopes,
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(spans, min_size=1, max_size=3))
def test_the_estimate_is_never_below_the_encoded_size(batch: list[ReadableSpan]) -> None:
    estimate = envelope_bytes(batch) + sum(map(span_bytes, batch))

    assert estimate >= encode_spans(batch).ByteSize()


def test_the_estimate_of_a_profile_is_close() -> None:
    # A bound that is far too high would cut batches that could travel whole
    event = Event("pyinstrument.profile", {"pyinstrument.payload": bytes(60_000)}, 1)
    span = ReadableSpan("GET /", SpanContext(1, 2, False), events=[event], start_time=1, end_time=2)

    assert envelope_bytes([span]) + span_bytes(span) < 1.02 * encode_spans([span]).ByteSize()
