"""A real gRPC client against a real receiver: answers and status codes."""

import asyncio
import gzip
import zlib

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2, health_pb2_grpc
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from collector_receiver import inflating
from collector_receiver.refusals import Undecodable
from profile_store.contracts import StoreUnavailable
from profile_store.model import RecordQuery
from tests.collector_receiver.raw_calls import RawCall, message

pytestmark = pytest.mark.anyio

LOGS = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"
METRICS = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export"
HEALTH = "/grpc.health.v1.Health/Check"
TRACES = "opentelemetry.proto.collector.trace.v1.TraceService"


async def count_records(store, service="shop"):
    project = await store.project_for_service(service)
    return (await store.records(RecordQuery(project_id=project.id))).total


async def test_spans_arrive(receiver, make, store):
    answer = await receiver.client.export(make.request(make.span(), make.span()))

    assert answer.SerializeToString() == b""
    assert await count_records(store) == 2


COMPRESSIONS = [grpc.Compression.Gzip, grpc.Compression.Deflate]


@pytest.mark.parametrize("compression", COMPRESSIONS, ids=["gzip", "deflate"])
async def test_compressed_requests_are_understood(receiver, make, store, compression):
    await receiver.client.export(make.request(make.span({"x": "y" * 3_000})), compression=compression)

    assert await count_records(store) == 1


async def test_a_partial_success_names_what_was_wrong(receiver, make, store):
    answer = await receiver.client.export(make.request(make.span(span_id=b"five5"), make.span()))

    assert answer.partial_success.rejected_spans == 1
    assert "invalid_span_id 1" in answer.partial_success.error_message
    assert await count_records(store) == 1


HOSTILE_BODIES = {
    "junk": b"\xff\xff\xff",
    "text": b"hello",
    "bad utf-8 in a name": bytes.fromhex("0a0612041202 2aff".replace(" ", "")),
    "length beyond the end": b"\x0a\xff\xff\xff\xff\x07",
    "groups without end": b"\x0b" * 5_000,
    "messages nested 5,000 deep": b"\x0a\x7f" * 5_000,
}


@pytest.mark.parametrize("body", HOSTILE_BODIES.values(), ids=HOSTILE_BODIES)
async def test_what_cannot_be_decoded_is_not_to_be_repeated(receiver, body):
    error = await receiver.client.refusal(body)

    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    status = Status.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"])
    assert (status.code, status.message) == (error.code().value[0], error.details())
    detail = BadRequest()
    assert status.details[0].Unpack(detail)
    assert [violation.description for violation in detail.field_violations] == [error.details()]


async def test_a_receiver_survives_every_hostile_request(receiver, make, store):
    # Given requests that protobuf accepts and databases do not
    spans = [
        make.span({"a\x00b": "nul"}),
        make.span({"$where": "1", "a.b": 1, "": 2}),
        make.span([("k", 1), ("k", 2)]),
        make.span({"n": float("nan"), "i": -(2**63)}),
        make.span(start_time_unix_nano=2**63 - 1, end_time_unix_nano=2**63 - 1),
        make.span(start_time_unix_nano=1, end_time_unix_nano=2),
        make.span(name="\x00\ud7ff\n" * 1_000),
        make.span({"x": "\U0001f4a9" * 100_000}),
        make.span({f"k{n}": "v" * 1_000 for n in range(1_000)}),
        make.span(events=[("e" * 100_000, {"a": b"\xff" * 100_000})]),
        make.span({"deep": [[[[[[[[[[[[[[[[[[[["bottom"]]]]]]]]]]]]]]]]]]]]}),
    ]

    # When they come one by one
    for span in spans:
        answer = await receiver.client.export(make.request(span))
        assert answer.partial_success.rejected_spans == 0

    # Then every one is stored and can be read
    project = await store.project_for_service("shop")
    for span in spans:
        assert await store.record(project.id, (span.trace_id + span.span_id).hex()) is not None


async def test_a_message_above_the_limit_is_refused_unread(start_receiver, make):
    receiver = await start_receiver(max_request_size=65_536)

    error = await receiver.client.refusal(make.request(make.span({"x": "y" * 70_000})))

    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("compression", COMPRESSIONS, ids=["gzip", "deflate"])
async def test_the_limit_counts_bytes_after_decompression(start_receiver, make, compression):
    receiver = await start_receiver(max_request_size=65_536)

    error = await receiver.client.refusal(
        make.request(make.span({"x": "y" * 5_000_000})), compression=compression
    )

    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert receiver.ingest.counters.requests == {"too_large": 1}


async def test_what_inflates_to_more_than_there_is_room_for_is_to_come_again(start_receiver, make):
    # Given a receiver with room for little more than one request
    receiver = await start_receiver()
    receiver.ingest.admission.enter(receiver.ingest.admission.max_bytes - 100_000)

    # When one comes that is small before it is inflated
    error = await receiver.client.refusal(
        make.request(make.span({"x": "y" * 1_000_000})), compression=grpc.Compression.Gzip
    )

    # Then it may come again
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert receiver.ingest.counters.requests == {"overloaded": 1}


async def test_a_message_that_begins_like_zlib_is_a_message(receiver):
    # Field 15, unknown to OTLP, with a number
    await receiver.client.call(METRICS, b"\x78\x9c\x01")


@pytest.mark.parametrize("metadata", [None, [("x-project-key", "wrong")], [("x-project-key", "")]])
async def test_in_key_mode_a_missing_or_wrong_key_stores_nothing(start_receiver, make, store, metadata):
    receiver = await start_receiver(ingest_mode="key")

    error = await receiver.client.refusal(make.request(make.span()), metadata=metadata)

    assert error.code() is grpc.StatusCode.UNAUTHENTICATED
    assert "x-project-key" in error.details()
    assert (await store.projects()).total == 0


async def test_a_key_leads_to_its_project(start_receiver, make, store):
    receiver = await start_receiver(ingest_mode="key")
    project = await store.create_project("orders")

    await receiver.client.export(make.request(make.span()), metadata=[("x-project-key", project.project_key)])

    assert (await store.records(RecordQuery(project_id=project.id))).total == 1


async def test_metrics_are_answered_with_success(receiver, make, store):
    """Zero-code users send all three signals to one address."""
    answer = await receiver.client.call(METRICS, make.metrics().SerializeToString())

    assert ExportMetricsServiceResponse.FromString(answer) == ExportMetricsServiceResponse()
    assert receiver.ingest.counters.ignored == {"metrics": 1}
    assert (await store.projects()).total == 0


async def test_many_metrics_are_answered_with_success(receiver, make):
    body = make.metrics(points=30_000).SerializeToString()
    assert len(body) > 2_000_000  # from there on messages are counted too

    assert await receiver.client.call(METRICS, body) == b""


@pytest.mark.parametrize("body", HOSTILE_BODIES.values(), ids=HOSTILE_BODIES)
async def test_bytes_that_are_no_metrics_request_are_not_to_be_repeated(receiver, body):
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await receiver.client.call(METRICS, body)

    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "ExportMetricsServiceRequest" in error.value.details()
    assert receiver.ingest.counters.ignored == {}


async def test_metrics_with_countless_parts_are_refused_before_they_are_parsed(receiver):
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await receiver.client.call(METRICS, b"\x0a\x00" * 1_000_001)

    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert receiver.ingest.counters.requests == {"too_many_messages": 1}


async def test_metrics_need_no_database(receiver, make, store, monkeypatch):
    async def away(batch):
        raise StoreUnavailable("gone")

    monkeypatch.setattr(store, "write", away)

    assert await receiver.client.call(METRICS, make.metrics().SerializeToString()) == b""


async def test_log_records_are_answered_with_success_and_make_no_project(receiver, make, store):
    lines = [LogRecord(body=make.any_value(f"pyinstrument.profile line {n}")) for n in range(3)]

    assert await receiver.client.export_logs(make.logs(*lines)) == ExportLogsServiceResponse()

    assert (await store.projects()).total == 0
    assert receiver.ingest.counters.ignored == {"logs": 1}


async def test_bytes_that_are_no_logs_request_are_not_to_be_repeated(receiver):
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await receiver.client.call(LOGS, b"\xff\xff\xff")

    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "ExportLogsServiceRequest" in error.value.details()


@pytest.mark.parametrize("order", ["before", "after"])
async def test_a_profile_in_a_log_record_joins_its_span(receiver, make, store, order):
    # Given a request and its profile as a log record
    span = make.span({"http.method": "GET", "http.route": "/orders"})
    sends = [
        lambda: receiver.client.export_logs(make.logs(make.profile_log(span))),
        lambda: receiver.client.export(make.request(span)),
    ]

    # When they arrive in either order, and then again
    for send in sends if order == "before" else reversed(sends):
        assert (await send()).SerializeToString() == b""
    for send in sends:
        assert (await send()).SerializeToString() == b""

    # Then the record has the profile, once
    project = await store.project_for_service("shop")
    detail = await store.record(project.id, (span.trace_id + span.span_id).hex())
    assert detail.record.endpoint == "GET /orders"
    assert detail.call_tree.duration_us == 250_000
    assert detail.record.profile.reason == "slow"
    assert [hot.function for hot in detail.record.hot_functions] == ["load_orders", "view"]
    assert await count_records(store) == 1
    counters = receiver.ingest.counters
    assert (counters.log_profiles_accepted, counters.new_profiles, counters.new_records) == (2, 1, 1)


async def test_the_first_profile_is_announced_when_its_record_is_there(receiver, make, caplog):
    span = make.span({"http.method": "GET", "http.route": "/orders"})
    with caplog.at_level("INFO", logger="collector_receiver"):
        await receiver.client.export_logs(make.logs(make.profile_log(span)))
        assert "first profile" not in caplog.text
        await receiver.client.export(make.request(span))

    record_id = (span.trace_id + span.span_id).hex()
    assert f"record={record_id} endpoint=GET /orders" in caplog.text


async def test_a_profile_without_its_span_is_taken_and_makes_no_record(receiver, make, store):
    answer = await receiver.client.export_logs(make.logs(make.profile_log()))

    assert answer == ExportLogsServiceResponse()
    assert await count_records(store) == 0


async def test_a_broken_profile_does_not_take_others_with_it(receiver, make, store):
    good = make.span()
    await receiver.client.export(make.request(good))
    records = [make.profile_log(payload=b"junk"), make.profile_log(good)]

    answer = await receiver.client.export_logs(make.logs(*records))

    assert answer.partial_success.rejected_log_records == 1
    assert answer.partial_success.error_message == "log records rejected: profile_not_zlib 1"
    project = await store.project_for_service("shop")
    assert await store.call_tree(project.id, (good.trace_id + good.span_id).hex()) is not None


async def test_in_key_mode_a_profile_needs_a_key_as_spans_do(start_receiver, make, store):
    receiver = await start_receiver(ingest_mode="key")
    project = await store.create_project("orders")
    span = make.span()
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await receiver.client.export_logs(make.logs(make.profile_log(span)))
    assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED

    keyed = {"project.key": project.project_key}
    await receiver.client.export_logs(make.logs(make.profile_log(span), resource=keyed))
    await receiver.client.export(make.request(span, resource=keyed))

    assert await store.call_tree(project.id, (span.trace_id + span.span_id).hex()) is not None


async def test_in_key_mode_what_is_not_stored_anyway_needs_no_key(start_receiver, make, store):
    receiver = await start_receiver(ingest_mode="key")

    assert await receiver.client.export_logs(make.logs(LogRecord(body=make.any_value("x")))) == (
        ExportLogsServiceResponse()
    )
    await receiver.client.call(METRICS, make.metrics().SerializeToString())

    assert receiver.ingest.counters.ignored == {"logs": 1, "metrics": 1}
    assert (await store.projects()).total == 0


@pytest.mark.parametrize("mode", ["key", "open"])
async def test_a_wrong_key_is_refused_also_with_what_is_not_stored_anyway(start_receiver, make, store, mode):
    receiver = await start_receiver(ingest_mode=mode)
    project = await store.create_project("orders")
    line = make.logs(LogRecord(body=make.any_value("x")))

    for method, request in ((METRICS, make.metrics()), (LOGS, line)):
        body = request.SerializeToString()
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await receiver.client.call(method, body, metadata=[("x-project-key", "wrong")])
        assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED
        right = [("x-project-key", project.project_key)]
        assert await receiver.client.call(method, body, metadata=right) == b""

    assert receiver.ingest.counters.ignored == {"logs": 1, "metrics": 1}


async def test_a_profiled_run_outside_any_request_is_a_record(receiver, make, store):
    """Its span is INTERNAL; only its scope tells that it has a profile when that is a log record."""
    span = make.span(kind=Span.SPAN_KIND_INTERNAL, name="nightly")
    await receiver.client.export_logs(make.logs(make.profile_log(span)))
    await receiver.client.export(make.request(span, scope="otel_pyinstrument"))

    project = await store.project_for_service("shop")
    assert await store.call_tree(project.id, (span.trace_id + span.span_id).hex()) is not None


async def test_an_unknown_method_is_unimplemented(receiver):
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await receiver.client.call(f"/{TRACES}/Import", b"")

    assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_is_off(receiver, version):
    """What is offered is in the documentation; strangers are told no more."""
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await receiver.client.call(f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo", b"")

    assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("service", ["", TRACES])
async def test_health_says_serving(receiver, service):
    stub = health_pb2_grpc.HealthStub(receiver.client.channel)

    answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))

    assert answer.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize(
    ("compress", "encoding"), [(gzip.compress, "gzip"), (zlib.compress, "deflate")], ids=["gzip", "deflate"]
)
async def test_health_answers_who_compresses_everything(receiver, compress, encoding):
    request = compress(health_pb2.HealthCheckRequest(service=TRACES).SerializeToString())
    call = await RawCall.begin(
        receiver.client.address, message(request, compressed=True), method=HEALTH, grpc_encoding=encoding
    )

    assert (await asyncio.wait_for(call.status(), 20))["grpc-status"] == "0"
    call.close()


@pytest.mark.parametrize(
    "body", [b"\xff", b"\x1f\x8b no gzip", gzip.compress(bytes(3_000_000))], ids=["junk", "no gzip", "bomb"]
)
@pytest.mark.parametrize("method", ["Check", "Watch"])
async def test_what_asks_for_no_health_is_refused_for_good(receiver, body, method):
    call = await RawCall.begin(
        receiver.client.address,
        message(body, compressed=True),
        method=f"/grpc.health.v1.Health/{method}",
        grpc_encoding="gzip",
    )

    assert (await asyncio.wait_for(call.status(), 20))["grpc-status"] == "3"
    call.close()


def slow_gzip(size):
    """About `size` bytes of gzip that inflate to nothing: blocks of which each makes a table."""
    compressor = zlib.compressobj(wbits=31)
    data = compressor.compress(b"") + compressor.flush(zlib.Z_FULL_FLUSH)
    empty = compressor.flush(zlib.Z_FULL_FLUSH) or b"\x00\x00\x00\xff\xff"
    return data + empty * (size // len(empty)) + compressor.flush()


async def test_what_inflates_to_nothing_counts_while_it_is_inflated(start_receiver):
    # Given a receiver with room for less than a compressed body takes
    receiver = await start_receiver()
    receiver.ingest.admission.enter(receiver.ingest.admission.max_bytes - 500_000)

    # When one comes that inflates to nothing
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await receiver.client.call("/" + TRACES + "/Export", slow_gzip(1_000_000))

    # Then it may come again, when there is room for it as it is
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_what_breaks_after_it_has_inflated_to_something_is_damaged_and_no_message(receiver):
    # Given the first half of what zlib made
    whole = zlib.compress(b"x" * 1_000, level=0)
    place = receiver.ingest.admission.enter(1)

    # When it is inflated, then it is not taken for a message that only looks like zlib
    with pytest.raises(Undecodable, match="cut off"):
        await inflating.inflated(whole[: len(whole) // 2], max_bytes=10_000, place=place)
    place.leave()


async def test_others_have_their_turn_while_a_body_is_inflated(receiver, monkeypatch):
    # Given a body of many blocks that inflate to nothing
    body = slow_gzip(20 * inflating.SLICE_BYTES)
    turns = []

    async def count():
        while True:
            turns.append(None)
            await asyncio.sleep(0)

    # When it is inflated beside somebody who counts turns
    place = receiver.ingest.admission.enter(1)
    counting = asyncio.create_task(count())
    assert await inflating.inflated(body, max_bytes=1_000, place=place) == b""
    counting.cancel()
    place.leave()

    # Then there was one for each slice
    assert len(turns) >= 20


async def test_overload_is_unavailable_with_the_time_to_wait(receiver, make, monkeypatch):
    monkeypatch.setattr(receiver.ingest.admission, "max_bytes", 1)
    requests = [make.request(make.span(events=[make.profile_event()])) for _ in range(20)]

    results = await asyncio.gather(*map(receiver.client.export, requests), return_exceptions=True)

    errors = [result for result in results if isinstance(result, grpc.aio.AioRpcError)]
    assert errors
    for error in errors:
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        trailers = dict(error.trailing_metadata())
        status = Status.FromString(trailers["grpc-status-details-bin"])
        retry = RetryInfo()
        assert status.details[0].Unpack(retry)
        assert (status.code, retry.retry_delay.seconds) == (grpc.StatusCode.UNAVAILABLE.value[0], 1)
        assert RetryInfo.FromString(trailers["google.rpc.retryinfo-bin"]) == retry
