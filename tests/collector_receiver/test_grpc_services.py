"""A real gRPC client against a real receiver: answers and status codes."""

import asyncio

import grpc
import pytest
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2, health_pb2_grpc
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse

from profile_store.model import RecordQuery

pytestmark = pytest.mark.anyio

LOGS = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"
METRICS = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export"
TRACES = "opentelemetry.proto.collector.trace.v1.TraceService"


async def count_records(store, service="shop"):
    project = await store.project_for_service(service)
    return (await store.records(RecordQuery(project_id=project.id))).total


async def test_spans_arrive(receiver, make, store):
    answer = await receiver.client.export(make.request(make.span(), make.span()))

    assert answer.SerializeToString() == b""
    assert await count_records(store) == 2


async def test_gzip_is_understood(receiver, make, store):
    await receiver.client.export(
        make.request(make.span({"x": "y" * 3_000})), compression=grpc.Compression.Gzip
    )

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


async def test_the_limit_counts_bytes_after_decompression(start_receiver, make):
    receiver = await start_receiver(max_request_size=65_536)

    error = await receiver.client.refusal(
        make.request(make.span({"x": "y" * 5_000_000})), compression=grpc.Compression.Gzip
    )

    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


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


@pytest.mark.parametrize(
    ("method", "response"), [(LOGS, ExportLogsServiceResponse), (METRICS, ExportMetricsServiceResponse)]
)
async def test_logs_and_metrics_are_answered_with_success(receiver, method, response):
    """Zero-code users send all three signals to one address."""
    answer = await receiver.client.call(method, b"whatever")

    assert response.FromString(answer) == response()


async def test_an_unknown_method_is_unimplemented(receiver):
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await receiver.client.call(f"/{TRACES}/Import", b"")

    assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("service", ["", TRACES])
async def test_health_says_serving(receiver, service):
    stub = health_pb2_grpc.HealthStub(receiver.client.channel)

    answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))

    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_overload_is_unavailable_with_the_time_to_wait(receiver, make, monkeypatch):
    monkeypatch.setattr(receiver.ingest, "_max_bytes_in_flight", 1)
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
