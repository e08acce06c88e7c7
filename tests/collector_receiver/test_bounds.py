"""Spans and resources are cut to a bounded size, visibly."""

import pytest
from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from collector_receiver.bounds import bound_resource, bound_span, bounded_scope, cut_text

ROUGHLY_64_KIB = 80_000


def test_a_usual_span_is_left_alone(make):
    span = make.span(
        {"http.route": "/orders", "n": 1}, events=[("exception", {"exception.type": "KeyError"})]
    )
    before = span.SerializeToString(deterministic=True)

    bound_span(span)

    assert span.SerializeToString(deterministic=True) == before


def test_a_long_text_is_cut_and_says_so(make):
    span = make.span({"db.statement": "é" * 10_000})

    bound_span(span)

    text = span.attributes[0].value.string_value
    assert text.startswith("é" * 2_048)
    assert text.endswith("…[cut, 20000 bytes]")
    assert len(text.encode()) < 4_200


def test_a_text_of_exactly_the_limit_is_not_cut():
    assert cut_text("é" * 2_048) == "é" * 2_048


def test_attributes_beyond_the_count_are_dropped_and_counted(make):
    span = make.span({f"a{n}": n for n in range(500)}, dropped_attributes_count=7)

    bound_span(span)

    assert (len(span.attributes), span.dropped_attributes_count) == (128, 379)


def test_the_first_attributes_survive_the_byte_budget(make):
    span = make.span([("http.route", "/orders"), *((f"a{n}", "x" * 4_096) for n in range(60))])

    bound_span(span)

    assert span.attributes[0].key == "http.route"
    assert span.ByteSize() < ROUGHLY_64_KIB
    assert len(span.attributes) + span.dropped_attributes_count == 61


@pytest.mark.parametrize(
    "value",
    [
        b"x" * 1_000_000,
        ["x" * 1_000] * 1_000,
        list(range(200_000)),
        [[]] * 200_000,
        {f"k{n}": "x" * 100 for n in range(5_000)},
        {"k" * 500_000: "v"},
        [[["x" * 5_000] * 50] * 10] * 5,
    ],
    ids=["bytes", "texts", "numbers", "empty lists", "map", "long key", "nested"],
)
def test_any_huge_value_is_cut(make, value):
    span = make.span({"huge": value})

    bound_span(span)

    assert span.ByteSize() < ROUGHLY_64_KIB


def test_events_are_cut_and_counted(make):
    span = make.span(events=[("e", {"text": "x" * 3_000})] * 1_000)

    bound_span(span)

    assert span.ByteSize() < ROUGHLY_64_KIB
    assert len(span.events) + span.dropped_events_count == 1_000
    assert len(span.events) >= 20


def test_many_empty_events_are_cut(make):
    span = make.span(events=[("", {})] * 5_000)

    bound_span(span)

    assert (len(span.events), span.dropped_events_count) == (128, 4_872)


def test_links_name_status_and_trace_state_are_cut(make):
    span = make.span(name="n" * 100_000, trace_state="s" * 100_000)
    span.status.message = "m" * 100_000
    span.links.extend([Span.Link(trace_id=b"t" * 16, span_id=b"s" * 8)] * 10_000)

    bound_span(span)

    assert span.ByteSize() < 20_000
    assert len(span.links) + span.dropped_links_count == 10_000


def test_a_link_with_a_long_text_is_dropped_and_counted(make):
    links = [Span.Link(trace_state=text) for text in ("", "x" * 5_000, "")]
    span = make.span(links=links)

    bound_span(span)

    assert (len(span.links), span.dropped_links_count) == (1, 2)


def test_bytes_above_the_limit_of_a_text_say_only_how_many_they_were(make):
    """Although all of them would fit into what a span may have."""
    span = make.span({"body": b"x" * 5_000})

    bound_span(span)

    assert span.attributes[0].value.string_value == "…[cut, 5000 bytes]"


def test_counts_that_are_full_already_do_not_overflow(make):
    span = make.span({f"a{n}": n for n in range(500)}, dropped_attributes_count=2**32 - 1)

    bound_span(span)

    assert span.dropped_attributes_count == 2**32 - 1


def test_a_resource_is_cut(make):
    resource = Resource(attributes=make.pairs({f"a{n}": "x" * 4_000 for n in range(1_000)}))

    bound_resource(resource)

    assert resource.ByteSize() < ROUGHLY_64_KIB
    assert len(resource.attributes) + resource.dropped_attributes_count == 1_000


def test_a_resource_of_many_small_attributes_is_cut_by_their_count(make):
    resource = make.resource_spans(resource={f"a{n}": n for n in range(200)}).resource
    assert resource.ByteSize() < 4_096

    bound_resource(resource)

    assert (len(resource.attributes), resource.dropped_attributes_count) == (128, 72)


def test_of_a_scope_only_its_bounded_name_and_version_stay(make):
    scope = InstrumentationScope(
        name="n" * 9_999, version="v" * 9_999, attributes=make.pairs({"a": "x" * 9_999})
    )

    assert bounded_scope(scope).ByteSize() < 600
