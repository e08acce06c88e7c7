"""A chunk that is put together from bytes is what protobuf itself would write."""

from hypothesis import example, given, settings
from hypothesis import strategies as st
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span

from collector_receiver.child_span_chunk import ChildSpanChunk

RESOURCE = Resource(attributes=[KeyValue(key="service.name", value=AnyValue(string_value="shop"))])

lengths = st.integers(0, 300) | st.sampled_from([127, 128, 16_383, 16_384])
spans_of_scopes = st.lists(st.tuples(st.sampled_from(["", "flask", "sqlite3"]), lengths), max_size=6)


@settings(deadline=None)
@example([("flask", 2_097_151), ("flask", 2_097_152)])
@given(spans_of_scopes)
def test_the_bytes_are_those_of_protobuf(parts):
    # Given spans of several scopes, of all lengths whose prefix differs
    built = ChildSpanChunk(RESOURCE.SerializeToString())
    expected = ResourceSpans(resource=RESOURCE)
    previous = None

    # When they are added as bytes, and as messages
    for scope_name, length in parts:
        scope, span = InstrumentationScope(name=scope_name), Span(name="n" * length)
        built.add(b"s" * 8, 1, span.SerializeToString(), scope.SerializeToString())
        if scope_name != previous:
            expected.scope_spans.add().scope.CopyFrom(scope)
            previous = scope_name
        expected.scope_spans[-1].spans.append(span)

    # Then both are the same
    assert built.close(b"t" * 16, "p").otlp == expected.SerializeToString()
