"""Secrets in captured headers are not stored."""

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span

from collector_receiver.translation import Destination, Translator

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
