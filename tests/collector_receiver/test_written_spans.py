"""The bytes of each span are cut out of those of its request."""

from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span

from collector_receiver.signals import TRACES
from collector_receiver.translation import Destination, Translator
from collector_receiver.written_spans import spans_as_written

names = st.text(max_size=5)
requests = st.lists(st.lists(st.lists(names, max_size=3), max_size=3), max_size=3)

# Fields of no message here, of every type of the wire but groups, and fields known here in another type.
STRANGE = [b"\x78\x01", b"\x79" + bytes(8), b"\x7d" + bytes(4), b"\x7a\x02hi", b"\x08\x07", b"\x10\x07"]


def field(number: int, body: bytes) -> bytes:
    """A field whose length takes two bytes more than it needs."""
    return bytes((number << 3 | 2, len(body) & 127 | 128, len(body) >> 7 | 128, 0)) + body


@given(requests, st.lists(st.sampled_from(STRANGE), min_size=3, max_size=3))
def test_each_span_has_its_own_bytes_whatever_stands_between(resources, strange):
    # Given a request as no exporter of today writes it, but as protobuf reads it
    body = b"".join(
        field(
            1,
            strange[0]
            + b"".join(
                field(
                    2,
                    b"".join(
                        field(2, Span(name=name).SerializeToString() + b"\xfa\x01\x01x") + strange[1]
                        for name in scope
                    ),
                )
                for scope in resource
            ),
        )
        + strange[2]
        for resource in resources
    )
    request = ExportTraceServiceRequest.FromString(body)

    # When the bytes of its spans are cut out
    written = spans_as_written(body)

    # Then they are those of the same spans, in the same places
    assert [
        [[Span.FromString(span) for span in scope.spans] for scope in resource.scope_spans]
        for resource in written
    ] == [[list(scope.spans) for scope in resource.scope_spans] for resource in request.resource_spans]


def test_a_child_span_is_stored_in_the_bytes_that_it_came_in(make):
    # Given a child span with a field that this version of OTLP does not know
    span = (
        make.span({"db.system": "sqlite"}, kind=Span.SPAN_KIND_CLIENT).SerializeToString() + b"\xfa\x7d\x02hi"
    )
    body = field(1, field(2, field(2, span)))

    # When it is stored
    traces = TRACES.parse["protobuf"](body)
    translator = Translator()
    batch = translator.translate(traces.request, [Destination(project_id="p")], traces.written)

    # Then its bytes lie there as they came
    assert ResourceSpans.FromString(batch.child_spans[0].otlp).scope_spans[0].spans[0] == Span.FromString(
        span
    )
    assert span in batch.child_spans[0].otlp


def test_a_span_that_has_to_be_changed_is_not_stored_as_it_came(make):
    # Given spans with a text that is too long, with an end before the start, and with a secret
    long = make.span({"db.statement": "x" * 5_000}, kind=Span.SPAN_KIND_CLIENT)
    late = make.span(kind=Span.SPAN_KIND_CLIENT, start_time_unix_nano=10**18, end_time_unix_nano=10**18 - 1)
    secret = make.span({"http.request.header.cookie": "session=1"}, kind=Span.SPAN_KIND_CLIENT)
    body = make.request(long, late, secret).SerializeToString()

    # When they are stored
    traces = TRACES.parse["protobuf"](body)
    batch = Translator().translate(traces.request, [Destination(project_id="p")], traces.written)

    # Then as they are then
    stored = {
        span.span_id: span
        for chunk in batch.child_spans
        for span in ResourceSpans.FromString(chunk.otlp).scope_spans[0].spans
    }
    assert "cut, 5000 bytes" in stored[long.span_id].attributes[0].value.string_value
    assert stored[late.span_id].end_time_unix_nano == 10**18
    assert b"session=1" not in b"".join(chunk.otlp for chunk in batch.child_spans)


def test_what_had_to_be_salvaged_is_not_stored_as_it_came(make):
    # Given a child span with a name that is no text
    span = make.span(name="xxxx", kind=Span.SPAN_KIND_CLIENT)
    body = make.request(span).SerializeToString().replace(b"xxxx", b"xx\xffx")

    # When it is stored
    traces = TRACES.parse["protobuf"](body)
    batch = Translator().translate(traces, [Destination(project_id="p")])

    # Then with a name that can be read
    stored = ResourceSpans.FromString(batch.child_spans[0].otlp)
    assert stored.scope_spans[0].spans[0].name == "xx\ufffdx"
