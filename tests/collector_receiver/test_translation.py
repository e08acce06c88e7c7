"""OTLP requests become records and chunks of child spans."""

import dataclasses
import json
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span, Status

from collector_receiver import translation
from collector_receiver.translation import Destination, Translator

CLIENT = Span.SPAN_KIND_CLIENT
INTERNAL = Span.SPAN_KIND_INTERNAL
ATTRIBUTES = {"http.request.method": "GET", "http.route": "/orders", "http.response.status_code": 200}


def translate(request, *destinations):
    translator = Translator()
    given_ones = destinations or [Destination(project_id="p")] * len(request.resource_spans)
    return translator.translate(request, list(given_ones)), translator.outcome


def only_record(request):
    batch, _ = translate(request)
    (item,) = batch.records
    return item.record


def test_a_server_span_becomes_a_record(make):
    span = make.span(
        ATTRIBUTES,
        start_time_unix_nano=1_763_720_000_123_456_789,
        end_time_unix_nano=1_763_720_000_373_456_789,
    )
    resource = {
        "service.name": "shop",
        "service.version": "1.2",
        "deployment.environment.name": "prod",
        "host.name": "h",
    }

    record = only_record(make.request(span, resource=resource))

    assert (record.project_id, record.trace_id, record.span_id) == ("p", span.trace_id, span.span_id)
    assert (record.endpoint, record.method, record.status_code, record.failed) == (
        "GET /orders",
        "GET",
        200,
        False,
    )
    assert record.timestamp == datetime(2025, 11, 21, 10, 13, 20, 123_456, tzinfo=UTC)
    assert record.start_time_unix_nano == 1_763_720_000_123_456_789
    assert record.duration == pytest.approx(0.25)
    assert (record.service, record.version, record.environment) == ("shop", "1.2", "prod")
    assert (record.attributes, record.resource) == (ATTRIBUTES, resource)
    assert (record.parent_span_id, record.profile, record.events) == (None, None, [])


def test_the_old_name_of_the_environment_is_read(make):
    assert (
        only_record(make.request(make.span(), resource={"deployment.environment": "test"})).environment
        == "test"
    )


@pytest.mark.parametrize(
    ("attributes", "span_status", "failed"),
    [
        ({"http.status_code": 500}, Status.STATUS_CODE_UNSET, True),
        ({"http.status_code": 404}, Status.STATUS_CODE_UNSET, False),
        ({"http.status_code": 200}, Status.STATUS_CODE_ERROR, True),
        ({}, Status.STATUS_CODE_OK, False),
    ],
)
def test_a_request_failed_by_its_status_or_by_its_span(make, attributes, span_status, failed):
    span = make.span(attributes)
    span.status.code = span_status

    assert only_record(make.request(span)).failed is failed


def test_a_profile_is_attached_and_its_event_is_not_kept(make):
    span = make.span(events=[("exception", {"exception.type": "KeyError"}), make.profile_event()])

    batch, outcome = translate(make.request(span))

    (item,) = batch.records
    assert item.payload == make.payload()
    assert item.record.profile.node_count == 4
    assert item.record.hot_functions[0].function == "load_orders"
    assert [event.name for event in item.record.events] == ["exception"]
    assert item.record.events[0].attributes == {"exception.type": "KeyError"}
    assert outcome.message() == ""


def test_a_span_of_any_kind_with_a_profile_is_a_record(make):
    assert (
        only_record(
            make.request(make.span(kind=INTERNAL, name="job", events=[make.profile_event()]))
        ).endpoint
        == "job"
    )


def test_a_broken_profile_costs_the_profile_and_not_the_record(make):
    batch, outcome = translate(make.request(make.span(events=[make.profile_event(b"junk")])))

    (item,) = batch.records
    assert (item.payload, item.record.profile, item.record.hot_functions) == (None, None, ())
    assert (outcome.rejected_count, dict(outcome.warnings)) == (0, {"profile_not_zlib": 1})


def test_a_large_profile_leaves_the_users_attributes_alone(make):
    """The payload does not count against the 64 KiB of a span."""
    event = make.profile_event()
    event[1]["pyinstrument.more"] = "x" * 500_000

    record = only_record(make.request(make.span({"http.route": "/orders"}, events=[event])))

    assert record.attributes == {"http.route": "/orders"}


def test_child_spans_are_grouped_by_trace_and_keep_their_scope(make):
    # Given two traces whose child spans come from two libraries
    one, two = b"1" * 16, b"2" * 16
    spans = [make.span({"db.system": "sqlite"}, kind=CLIENT, trace_id=trace) for trace in (one, two, one)]
    templates = make.span(kind=INTERNAL, trace_id=one)
    resource_spans = make.resource_spans(*spans, scope="sqlite3")
    other = resource_spans.scope_spans.add()
    other.scope.name = "jinja2"
    other.spans.append(templates)

    # When they are translated
    batch, _ = translate(ExportTraceServiceRequest(resource_spans=[resource_spans]))

    # Then there is one chunk per trace, which holds exactly the named spans
    chunks = {chunk.trace_id: chunk for chunk in batch.child_spans}
    assert len(batch.child_spans) == 2
    assert chunks[one].span_ids == [spans[0].span_id, spans[2].span_id, templates.span_id]
    stored = ResourceSpans.FromString(chunks[one].otlp)
    assert [(s.scope.name, list(s.spans)) for s in stored.scope_spans] == [
        ("sqlite3", [spans[0], spans[2]]),
        ("jinja2", [templates]),
    ]
    assert chunks[two].span_ids == [spans[1].span_id]


def test_a_chunk_is_dated_by_its_earliest_span(make):
    later, earlier = (
        make.span(
            kind=CLIENT, trace_id=b"t" * 16, start_time_unix_nano=s * 10**9, end_time_unix_nano=10**19 // 2
        )
        for s in (2_000_000_000, 1_000_000_000)
    )

    (chunk,) = translate(make.request(later, earlier))[0].child_spans

    assert chunk.timestamp == datetime.fromtimestamp(1_000_000_000, UTC)


def test_a_trace_with_endless_child_spans_is_split_into_bounded_chunks(make):
    spans = [make.span({"sql": "x" * 4_000}, kind=CLIENT, trace_id=b"t" * 16) for _ in range(1_200)]

    batch, _ = translate(make.request(*spans))

    assert sum(len(chunk.span_ids) for chunk in batch.child_spans) == 1_200
    assert all(len(chunk.span_ids) <= 512 and len(chunk.otlp) < 1_100_000 for chunk in batch.child_spans)


def test_a_huge_resource_is_not_copied_into_every_chunk(make):
    spans = [make.span(kind=CLIENT) for _ in range(100)]

    batch, _ = translate(make.request(*spans, resource={"service.name": "shop", "more": "x" * 60_000}))

    assert len(batch.child_spans) == 100
    assert max(len(chunk.otlp) for chunk in batch.child_spans) < 500


def test_a_huge_resource_is_not_copied_into_every_record_of_many(make, monkeypatch):
    # Given resources of 40 KB, and room for three copies in one request
    monkeypatch.setattr(translation, "MAX_COPIED_BYTES", 150_000)
    resource = {"host.name": "h"} | {f"more.{number}": "x" * 400 for number in range(100)}
    resource |= {"service.name": "shop", "service.version": "1.2", "deployment.environment.name": "prod"}

    # When records come of two such, and child spans, which copy nothing
    request = ExportTraceServiceRequest(
        resource_spans=[
            make.resource_spans(
                *[make.span(kind=CLIENT) for _ in range(50)],
                *[make.span() for _ in range(5)],
                resource=resource,
            )
            for _ in range(2)
        ]
    )
    batch, outcome = translate(request)

    # Then the first three have all of it, the others what comes first, and all know whose they are
    records = [item.record for item in batch.records]
    assert [record.resource for record in records[:3]] == [resource] * 3
    assert {tuple(record.resource) for record in records[3:]} == {("host.name", "more.0", "more.1")}
    assert len(records) == 10
    assert {(record.service, record.version, record.environment) for record in records} == {
        ("shop", "1.2", "prod")
    }
    assert dict(outcome.warnings) == {"resource_cut": 7}


def test_a_small_resource_is_never_cut(make, monkeypatch):
    monkeypatch.setattr(translation, "MAX_COPIED_BYTES", 0)

    batch, outcome = translate(make.request(make.span(), resource={"service.name": "shop", "host.name": "h"}))

    assert [item.record.resource for item in batch.records] == [{"service.name": "shop", "host.name": "h"}]
    assert not outcome.warnings


def test_the_same_span_twice_in_one_request_is_kept_once(make):
    server, client = make.span(), make.span(kind=CLIENT)

    batch, outcome = translate(make.request(server, client, server, client))

    assert len(batch.records) == 1
    assert [len(chunk.span_ids) for chunk in batch.child_spans] == [1]
    assert outcome.rejected_count == 0


def test_a_client_and_a_server_may_share_a_span_id(make):
    """Zipkin's do, and Collectors translate them."""
    server = make.span()
    client = make.span(kind=CLIENT, trace_id=server.trace_id, span_id=server.span_id)

    batch, _ = translate(make.request(server, client))

    assert (len(batch.records), len(batch.child_spans)) == (1, 1)


def test_spans_of_a_refused_sender_do_not_count_against_the_limit(make, monkeypatch):
    monkeypatch.setattr(translation, "MAX_SPANS_PER_REQUEST", 2)
    request = ExportTraceServiceRequest(
        resource_spans=[
            make.resource_spans(*[make.span()] * 5),
            make.resource_spans(make.span(), make.span()),
        ]
    )

    batch, outcome = translate(
        request, Destination(refusal="unknown_project_key"), Destination(project_id="p")
    )

    assert len(batch.records) == 2
    assert dict(outcome.rejected) == {"unknown_project_key": 5}


def test_one_bad_span_never_takes_good_ones_with_it(make):
    spans = [make.span(), make.span(trace_id=b"short"), make.span(kind=CLIENT), make.span(span_id=bytes(8))]

    batch, outcome = translate(make.request(*spans))

    assert (len(batch.records), len(batch.child_spans)) == (1, 1)
    assert dict(outcome.rejected) == {"invalid_trace_id": 1, "invalid_span_id": 1}


def test_a_mistake_of_ours_about_one_span_refuses_that_span_only(make, monkeypatch, caplog):
    # Given a translation that fails for one span
    real = translation.endpoint_of
    monkeypatch.setattr(
        translation, "endpoint_of", lambda a, name: 1 / 0 if name == "secret" else real(a, name)
    )

    batch, outcome = translate(make.request(make.span(name="secret"), make.span(name="good")))

    # Then the good one is kept and the log holds the error's type and place, nothing the sender sent
    assert [item.record.endpoint for item in batch.records] == ["good"]
    assert dict(outcome.rejected) == {"internal_error": 1}
    assert "ZeroDivisionError at test_translation.py" in caplog.text
    assert "secret" not in caplog.text


def test_an_end_before_the_start_becomes_a_duration_of_zero(make):
    span = make.span(start_time_unix_nano=10**18, end_time_unix_nano=10**18 - 1)

    batch, outcome = translate(make.request(span))

    assert batch.records[0].record.duration == 0
    assert dict(outcome.warnings) == {"end_before_start": 1}


def test_an_event_with_an_impossible_time_gets_the_spans(make):
    span = make.span(events=[("e", {})])
    span.events[0].time_unix_nano = 2**64 - 1

    assert only_record(make.request(span)).events[0].time_unix_nano == span.start_time_unix_nano


def test_the_project_key_is_not_stored(make):
    record = only_record(
        make.request(make.span(), resource={"service.name": "shop", "project.key": "secret"})
    )

    assert record.resource == {"service.name": "shop"}


def test_what_was_dropped_is_told(make):
    record = only_record(make.request(make.span({f"a{n}": n for n in range(200)}, dropped_events_count=3)))

    assert record.attributes["otel.dropped_attributes_count"] == 72
    assert record.attributes["otel.dropped_events_count"] == 3


def test_a_service_without_a_name_is_unknown_service(make):
    assert only_record(make.request(make.span(), resource={})).service == "unknown_service"


def test_resources_go_to_their_own_destination(make):
    request = ExportTraceServiceRequest(
        resource_spans=[make.resource_spans(make.span()), make.resource_spans(make.span(), make.span())]
    )

    batch, outcome = translate(
        request, Destination(project_id="a"), Destination(refusal="unknown_project_key")
    )

    assert [item.record.project_id for item in batch.records] == ["a"]
    assert dict(outcome.rejected) == {"unknown_project_key": 2}


def test_spans_beyond_the_limit_of_a_request_are_refused_by_name(make, monkeypatch):
    monkeypatch.setattr(translation, "MAX_SPANS_PER_REQUEST", 3)
    request = ExportTraceServiceRequest(
        resource_spans=[
            make.resource_spans(make.span(), make.span()),
            make.resource_spans(*[make.span()] * 4),
        ]
    )

    batch, outcome = translate(request)

    assert len(batch.records) == 3
    assert dict(outcome.rejected) == {"too_many_spans": 3}


texts = st.text(max_size=20) | st.sampled_from(
    ["http.route", "http.method", "service.name", "\x00", "x" * 5_000]
)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | texts
    | st.binary(max_size=20)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=8,
)
attribute_lists = st.lists(st.tuples(texts, values), max_size=6)
times = st.sampled_from([0, 1, 10**18, 2**63 - 1, 2**63, 2**64 - 1]) | st.integers(0, 2**64 - 1)
ids = st.binary(max_size=17) | st.binary(min_size=16, max_size=16) | st.binary(min_size=8, max_size=8)
profile_attributes = st.lists(
    st.tuples(
        st.sampled_from([f"pyinstrument.{n}" for n in ("format", "encoding", "payload", "duration")]), values
    ),
    max_size=5,
)
events = st.lists(
    st.tuples(texts, attribute_lists) | st.tuples(st.just("pyinstrument.profile"), profile_attributes),
    max_size=3,
)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    attributes=attribute_lists,
    events=events,
    resource=attribute_lists,
    fields=st.fixed_dictionaries(
        {
            "trace_id": ids,
            "span_id": ids,
            "parent_span_id": ids,
            "name": texts,
            "kind": st.integers(-(2**31), 2**31 - 1),
            "start_time_unix_nano": times,
            "end_time_unix_nano": times,
            "dropped_attributes_count": st.integers(0, 2**32 - 1),
        }
    ),
    valid_ids=st.booleans(),
)
def test_no_valid_message_makes_translation_fail(make, attributes, events, resource, fields, valid_ids):
    # Given any message that protobuf accepts, half of them past the checks of the ids
    if valid_ids:
        fields |= {
            "trace_id": b"t" * 16,
            "span_id": b"s" * 8,
            "parent_span_id": b"",
            "start_time_unix_nano": 10**18,
        }
    span = make.span(attributes, events=events, **fields)

    # When it is translated
    batch, outcome = translate(make.request(span, resource=resource))

    # Then it is stored or refused by name, without an error of ours, and what is stored is sound
    assert "internal_error" not in outcome.rejected
    assert len(batch.records) + len(batch.child_spans) + outcome.rejected_count == 1
    for item in batch.records:
        record = item.record
        assert record.timestamp.tzinfo is UTC
        assert record.duration >= 0
        assert record.endpoint.isprintable()
        json.dumps([record.attributes, record.resource], default=lambda value: value.hex(), allow_nan=False)
        dataclasses.asdict(record)
