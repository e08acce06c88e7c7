"""Secrets in captured headers are not stored."""

import pytest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span

from collector_receiver.profile_event import DecodeBudget
from collector_receiver.signals import TRACES
from collector_receiver.translation import Destination, Translator
from collector_receiver.wire_writing import varint

HEADERS = {
    "http.request.header.authorization": ["Bearer secret"],
    "http.request.header.x_api_key": "secret",
    "http.response.header.set-cookie": ["session=secret"],
    "http.request.header.user-agent": ["curl"],
    "http.route": "/header.tokens",
}
MASKED = HEADERS | {
    "http.request.header.authorization": "***",
    "http.request.header.x_api_key": "***",
    "http.response.header.set-cookie": "***",
}


def translate(request):
    return Translator().translate(request, [Destination(project_id="p")])


def test_secret_headers_of_a_request_are_masked(make):
    (item,) = translate(make.request(make.span(HEADERS))).records

    assert item.record.attributes == MASKED


def test_secret_headers_of_child_spans_are_masked(make):
    span = make.span(HEADERS, kind=Span.SPAN_KIND_CLIENT)
    plain = make.span({"db.statement": "SELECT token"}, kind=Span.SPAN_KIND_CLIENT, trace_id=span.trace_id)

    (chunk,) = translate(make.request(span, plain)).child_spans

    assert b"secret" not in chunk.otlp
    stored = ResourceSpans.FromString(chunk.otlp).scope_spans[0].spans
    assert list(stored[0].attributes) == make.pairs(MASKED)
    assert stored[1] == plain


@pytest.mark.parametrize("kind", [Span.SPAN_KIND_SERVER, Span.SPAN_KIND_CLIENT])
def test_spans_without_headers_stay_as_they_are(make, kind):
    batch = translate(make.request(make.span({"auth.token": "not a header"}, kind=kind)))

    kept = batch.records[0].record.attributes if batch.records else batch.child_spans[0].otlp
    assert "not a header" in (kept["auth.token"] if batch.records else kept.decode(errors="replace"))


@pytest.mark.parametrize("name", ["http.request.header.authorization", "http.response.header.set-cookie"])
def test_secret_headers_are_masked_where_the_bytes_of_spans_are_kept(make, name):
    # Given a request whose only captured header is a secret one
    span = make.span({name: "secret"}, kind=Span.SPAN_KIND_CLIENT)
    plain = make.span({"db.statement": "SELECT 1"}, kind=Span.SPAN_KIND_CLIENT, trace_id=span.trace_id)

    # When it is read and translated as it came
    traces = TRACES.parse["protobuf"](make.request(plain, span).SerializeToString())
    batch = TRACES.translate(traces, [Destination(project_id="p")], DecodeBudget()).batch

    # Then the secret is gone, and the other span is kept as it was written
    (chunk,) = batch.child_spans
    assert b"secret" not in chunk.otlp
    assert plain.SerializeToString() in chunk.otlp


def test_what_is_stored_of_a_header_is_masked_even_where_protobuf_overlooks_it(make):
    # Given a span whose attribute has a second key, which replaces the one of a secret header
    renamed = make.span({"x": "y"}, kind=Span.SPAN_KIND_CLIENT)
    del renamed.attributes[:]
    first, second = KeyValue(key="http.request.header.cookie"), KeyValue(key="x")
    both = first.SerializeToString() + second.SerializeToString()
    span = renamed.SerializeToString() + bytes((9 << 3 | 2, len(both))) + both
    scope = bytes((2 << 3 | 2,)) + varint(len(span)) + span
    resource = bytes((2 << 3 | 2,)) + varint(len(scope)) + scope

    # When it is translated
    traces = TRACES.parse["protobuf"](bytes((1 << 3 | 2,)) + varint(len(resource)) + resource)
    batch = TRACES.translate(traces, [Destination(project_id="p")], DecodeBudget()).batch

    # Then the bytes hold no trace of the first key
    assert b"http.request.header" not in batch.child_spans[0].otlp
