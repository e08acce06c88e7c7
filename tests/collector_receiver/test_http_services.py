"""A real HTTP client against a real receiver: answers, status codes and content types of OTLP/HTTP."""

import asyncio
import contextlib
import gzip
import json
import zlib

import httpx2
import pytest
from google.protobuf import json_format
from google.rpc.error_details_pb2 import BadRequest, RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from collector_receiver import http_services
from collector_receiver.admission import MIN_WEIGHT_BYTES
from profile_store.contracts import StoreUnavailable
from profile_store.model import RecordQuery

pytestmark = pytest.mark.anyio

PROTOBUF = {"content-type": "application/x-protobuf"}
JSON = {"content-type": "application/json"}


class HttpClient:
    """Posts to a receiver what it is told to."""

    def __init__(self, address):
        self.address = address
        self._client = httpx2.AsyncClient(base_url=f"http://{address}", timeout=20, trust_env=False)

    async def post(self, path, body, headers, **more):
        return await self._client.post(path, content=body, headers=headers | more)

    async def request(self, *arguments, **options):
        return await self._client.request(*arguments, **options)

    async def traces(self, request, **more):
        return await self.post("/v1/traces", request.SerializeToString(), PROTOBUF, **more)

    async def close(self):
        await self._client.aclose()


@pytest.fixture
async def start_http(start_receiver):
    clients = []

    async def start(**settings):
        receiver = await start_receiver(**settings)
        receiver.http = HttpClient(receiver.http_address)
        clients.append(receiver.http)
        return receiver

    yield start
    for client in clients:
        await client.close()


@pytest.fixture
async def receiver(start_http):
    return await start_http()


def status_of(response):
    """The status in the body of a refusal, in the encoding of the request."""
    if response.headers["content-type"] == JSON["content-type"]:
        return json_format.Parse(response.content, Status())
    return Status.FromString(response.content)


def violations_of(response):
    """Field and description of each violation that a refusal names."""
    [packed] = status_of(response).details
    detail = BadRequest()
    assert packed.Unpack(detail)
    return [(violation.field, violation.description) for violation in detail.field_violations]


async def count_records(store, service="shop"):
    project = await store.project_for_service(service)
    return (await store.records(RecordQuery(project_id=project.id))).total


def as_otlp_json(request):
    """What an exporter of another language sends: hexadecimal ids, numbers of 64 bits as text."""

    def hexadecimal(node):
        if isinstance(node, list):
            return [hexadecimal(item) for item in node]
        if not isinstance(node, dict):
            return node
        ids = ("traceId", "spanId", "parentSpanId")
        return {
            key: json_format.base64.b64decode(value).hex() if key in ids else hexadecimal(value)
            for key, value in node.items()
        }

    values = json_format.MessageToDict(request, use_integers_for_enums=True)
    return json.dumps(hexadecimal(values)).encode()


async def test_spans_arrive_in_protobuf(receiver, make, store):
    response = await receiver.http.traces(make.request(make.span(), make.span()))

    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["content-type"] == "application/x-protobuf"
    assert await count_records(store) == 2


async def test_spans_arrive_in_json(receiver, make, store):
    # Given a request with a profile and a query below it
    server = make.span({"http.method": "GET", "http.route": "/orders"}, events=[make.text_profile_event()])
    query = make.span(kind=Span.SPAN_KIND_CLIENT, trace_id=server.trace_id, parent_span_id=server.span_id)

    # When it comes as JSON, from a sender that knows fields which we do not
    document = json.loads(as_otlp_json(make.request(server, query)))
    document["resourceSpans"][0]["unknown"] = {"deep": [1]}
    response = await receiver.http.post(
        "/v1/traces", json.dumps(document).encode(), {"content-type": "application/json; charset=utf-8"}
    )

    # Then it is the same as from protobuf
    assert (response.status_code, response.json()) == (200, {})
    assert response.headers["content-type"] == "application/json"
    project = await store.project_for_service("shop")
    detail = await store.record(project.id, (server.trace_id + server.span_id).hex())
    assert detail.record.endpoint == "GET /orders"
    assert detail.record.start_time_unix_nano == server.start_time_unix_nano
    assert detail.call_tree.duration_us == 250_000
    assert [span.span_id for span in detail.child_spans] == [query.span_id]


@pytest.mark.parametrize("encoding", ["protobuf", "json"])
async def test_a_profile_in_a_log_record_joins_its_span(receiver, make, store, encoding):
    span = make.span()
    logs = make.logs(make.profile_log(span))
    await receiver.http.traces(make.request(span))

    if encoding == "protobuf":
        response = await receiver.http.post("/v1/logs", logs.SerializeToString(), PROTOBUF)
    else:
        response = await receiver.http.post("/v1/logs", as_otlp_json(logs), JSON)

    assert response.status_code == 200
    project = await store.project_for_service("shop")
    assert await store.call_tree(project.id, (span.trace_id + span.span_id).hex()) is not None


@pytest.mark.parametrize(("headers", "empty"), [(PROTOBUF, b""), (JSON, b"{}")])
async def test_metrics_are_answered_with_success(receiver, make, headers, empty):
    metrics = make.metrics(points=2_000)
    body = metrics.SerializeToString() if headers is PROTOBUF else as_otlp_json(metrics)

    for sent in (body, empty):
        response = await receiver.http.post("/v1/metrics", sent, headers)
        assert (response.status_code, response.content) == (200, empty)

    assert receiver.ingest.counters.ignored == {"metrics": 2}


@pytest.mark.parametrize(("headers", "body"), [(PROTOBUF, b"whatever"), (JSON, b'{"resourceMetrics": 1}')])
async def test_what_is_no_metrics_request_is_a_400(receiver, headers, body):
    response = await receiver.http.post("/v1/metrics", body, headers)

    assert response.status_code == 400
    assert "ExportMetricsServiceRequest" in status_of(response).message
    assert receiver.ingest.counters.ignored == {}


async def test_metrics_with_a_wrong_key_are_a_401(start_http, make):
    receiver = await start_http(ingest_mode="key")
    body = make.metrics().SerializeToString()

    wrong = await receiver.http.post("/v1/metrics", body, PROTOBUF, **{"x-project-key": "wrong"})
    missing = await receiver.http.post("/v1/metrics", body, PROTOBUF)

    assert (wrong.status_code, missing.status_code) == (401, 200)


@pytest.mark.parametrize("headers", [PROTOBUF, JSON])
async def test_gzip_is_understood(receiver, make, store, headers):
    request = make.request(make.span({"x": "y" * 3_000}))
    body = request.SerializeToString() if headers is PROTOBUF else as_otlp_json(request)
    half = len(body) // 2
    members = gzip.compress(body[:half]) + gzip.compress(body[half:])

    for compressed in (gzip.compress(body), members):
        sent = headers | {"content-encoding": "gzip"}
        assert (await receiver.http.post("/v1/traces", compressed, sent)).status_code == 200

    assert await count_records(store) == 1


async def test_a_partial_success_names_what_was_wrong(receiver, make, store):
    request = make.request(make.span(span_id=b"five5"), make.span())

    in_protobuf = await receiver.http.traces(request)
    in_json = await receiver.http.post("/v1/traces", as_otlp_json(request), JSON)

    answer = ExportTraceServiceResponse.FromString(in_protobuf.content)
    assert (in_protobuf.status_code, answer.partial_success.rejected_spans) == (200, 1)
    assert in_json.json() == {
        "partialSuccess": {"rejectedSpans": "1", "errorMessage": "spans rejected: invalid_span_id 1"}
    }
    assert await count_records(store) == 1


async def test_a_partial_success_of_logs_counts_log_records(receiver, make):
    logs = make.logs(make.profile_log(payload=b"junk"))

    response = await receiver.http.post("/v1/logs", logs.SerializeToString(), PROTOBUF)

    answer = ExportLogsServiceResponse.FromString(response.content)
    assert (response.status_code, answer.partial_success.rejected_log_records) == (200, 1)


async def test_an_unreadable_resource_or_scope_in_json_costs_only_its_own_spans(receiver, make, store):
    # Given a good resource with a second scope, and another resource
    request = make.request(make.span())
    request.resource_spans[0].scope_spans.add().spans.append(make.span())
    request.resource_spans.append(make.resource_spans(make.span(), resource={"service.name": "other"}))
    document = json.loads(as_otlp_json(request))
    first, other = document["resourceSpans"]

    # When that scope and that resource cannot be read
    first["scopeSpans"][1]["scope"] = {"name": "\ud800"}
    other["resource"]["attributes"].append({"key": "pid", "value": {"intValue": "x"}})
    response = await receiver.http.post("/v1/traces", json.dumps(document).encode(), JSON)

    # Then each is counted, and the rest is stored
    assert response.status_code == 200
    assert response.json() == {
        "partialSuccess": {"rejectedSpans": "2", "errorMessage": "spans rejected: unreadable_span 2"}
    }
    assert await count_records(store) == 1


HOSTILE = {
    "protobuf junk": (PROTOBUF, b"\xff\xff\xff"),
    "protobuf cut off": (PROTOBUF, b"\x0a\x7f\x00"),
    "json junk": (JSON, b"hello"),
    "json empty": (JSON, b""),
    "json cut off": (JSON, b'{"resourceSpans": ['),
    "json in utf-16": (JSON, '{"a": 1}'.encode("utf-16")),
    "json no object": (JSON, b"[]"),
    "json wrong type": (JSON, b'{"resourceSpans": 1}'),
    "json NaN": (JSON, b'{"x": NaN}'),
    "json nested": (JSON, b"[" * 100_000 + b"]" * 100_000),
    "json surrogate": (JSON, rb'{"resourceSpans":[{"scopeSpans":[{"spans":[{"name":"\ud800"}]}]}]}'),
    "json countless": (JSON, b'{"resourceSpans":[' + b"{}," * 500_000 + b"{}]}"),
    "gzip junk": (PROTOBUF | {"content-encoding": "gzip"}, b"no gzip"),
    "gzip cut off": (PROTOBUF | {"content-encoding": "gzip"}, gzip.compress(b"\x0a\x00" * 5_000)[:-9]),
    "gzip of countless members": (PROTOBUF | {"content-encoding": "gzip"}, gzip.compress(b"") * 1_000),
    "gzip with a tail": (PROTOBUF | {"content-encoding": "gzip"}, gzip.compress(b"") + b"\x00"),
    "gzip that is zlib": (PROTOBUF | {"content-encoding": "gzip"}, zlib.compress(b"")),
}


@pytest.mark.parametrize(("headers", "body"), HOSTILE.values(), ids=HOSTILE)
async def test_what_cannot_be_decoded_is_a_400_with_a_status(receiver, headers, body):
    response = await receiver.http.post("/v1/traces", body, headers)

    assert response.status_code == 400
    assert response.headers["content-type"] == headers["content-type"]
    status = status_of(response)
    assert status.code == 3
    assert status.message
    assert [description for _, description in violations_of(response)] == [status.message]
    assert "retry-after" not in response.headers


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"resourceSpans": 1}', "resourceSpans"),
        (
            b'{"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":"no hex"}]}]}]}',
            "resourceSpans.scopeSpans.spans.traceId",
        ),
        (b"[]", ""),
    ],
)
async def test_a_400_names_the_field_where_it_is_known(receiver, body, field):
    response = await receiver.http.post("/v1/traces", body, JSON)

    assert [named for named, _ in violations_of(response)] == [field]


async def test_a_request_above_the_limit_is_a_413(start_http, make):
    receiver = await start_http(max_request_size=65_536)
    request = make.request(make.span({"x": "y" * 70_000}))

    async def in_chunks():
        for _ in range(20):
            yield b"\x00" * 8_192

    declared = await receiver.http.traces(request)
    chunked = await receiver.http.post("/v1/traces", in_chunks(), PROTOBUF)
    bomb = await receiver.http.post(
        "/v1/traces", gzip.compress(b"\x00" * 50_000_000), PROTOBUF | {"content-encoding": "gzip"}
    )

    for response in (declared, chunked, bomb):
        assert response.status_code == 413
        assert Status.FromString(response.content).code == 8
        assert "65536 bytes" in Status.FromString(response.content).message
    assert receiver.ingest.counters.requests == {"too_large": 3}
    assert receiver.ingest.admission._bytes_in_flight == 0


async def test_a_gzip_body_above_the_limit_is_a_413_although_it_inflates_to_nothing(start_http):
    # Given blocks of gzip that hold nothing, more of them than a request may have bytes
    receiver = await start_http(max_request_size=65_536)
    compressor = zlib.compressobj(wbits=31)
    body = compressor.flush(zlib.Z_FULL_FLUSH)
    empty_block = b"\x00\x00\x00\xff\xff"
    body += empty_block * 20_000 + compressor.flush()
    assert gzip.decompress(body) == b""

    async def in_chunks():
        for start in range(0, len(body), 8_192):
            yield body[start : start + 8_192]

    # When they come without telling how many they are
    response = await receiver.http.post("/v1/traces", in_chunks(), PROTOBUF | {"content-encoding": "gzip"})

    # Then that is too much
    assert response.status_code == 413


@pytest.mark.parametrize(
    "headers", [{}, {"content-type": "text/plain"}, {"content-type": "application/grpc"}]
)
async def test_another_content_type_is_a_415_that_names_the_right_ones(receiver, headers):
    response = await receiver.http.post("/v1/traces", b"{}", headers)

    assert response.status_code == 415
    assert "application/x-protobuf" in response.json()["message"]


async def test_another_compression_is_a_415_that_names_gzip(receiver):
    response = await receiver.http.post("/v1/traces", b"", PROTOBUF | {"content-encoding": "zstd"})

    assert (response.status_code, response.headers["accept-encoding"]) == (415, "gzip")
    assert "gzip" in Status.FromString(response.content).message


async def test_another_path_or_method_is_told_what_to_do(receiver):
    wrong_path = await receiver.http.post("/v1/profiles", b"", PROTOBUF)
    wrong_method = await receiver.http.request("GET", "/v1/traces")

    assert wrong_path.status_code == 404
    assert "/v1/traces" in Status.FromString(wrong_path.content).message
    assert (wrong_method.status_code, wrong_method.headers["allow"]) == (405, "POST")


async def test_of_two_keys_the_first_one_decides(start_http, make, store):
    receiver = await start_http(ingest_mode="key")
    first, second = [await store.create_project(name) for name in ("orders", "shop")]

    headers = [*PROTOBUF.items(), *(("x-project-key", project.project_key) for project in (first, second))]
    body = make.request(make.span()).SerializeToString()
    response = await receiver.http.request("POST", "/v1/traces", content=body, headers=headers)

    assert response.status_code == 200
    totals = [(await store.records(RecordQuery(project_id=item.id))).total for item in (first, second)]
    assert totals == [1, 0]


@pytest.mark.parametrize("key", [{}, {"x-project-key": "wrong"}, {"x-project-key": ""}])
async def test_in_key_mode_a_missing_or_wrong_key_stores_nothing(start_http, make, store, key):
    receiver = await start_http(ingest_mode="key")

    response = await receiver.http.traces(make.request(make.span()), **key)

    assert response.status_code == 401
    assert "x-project-key" in Status.FromString(response.content).message
    assert (await store.projects()).total == 0


async def test_a_key_leads_to_its_project(start_http, make, store):
    receiver = await start_http(ingest_mode="key")
    project = await store.create_project("orders")

    key = {"X-Project-Key": project.project_key}
    assert (await receiver.http.traces(make.request(make.span()), **key)).status_code == 200

    assert (await store.records(RecordQuery(project_id=project.id))).total == 1


@pytest.mark.parametrize("headers", [PROTOBUF, JSON])
async def test_trouble_with_the_database_is_a_503_with_the_time_to_wait(
    receiver, make, store, monkeypatch, headers
):
    async def away(batch):
        raise StoreUnavailable("gone")

    monkeypatch.setattr(store, "write", away)
    request = make.request(make.span())
    body = request.SerializeToString() if headers is PROTOBUF else as_otlp_json(request)

    response = await receiver.http.post("/v1/traces", body, headers)

    assert (response.status_code, response.headers["retry-after"]) == (503, "2")
    status = Status()
    if headers is PROTOBUF:
        status.ParseFromString(response.content)
    else:
        json_format.Parse(response.content, status)
    retry = RetryInfo()
    assert status.details[0].Unpack(retry)
    assert (status.code, retry.retry_delay.seconds) == (14, 2)


async def test_overload_is_a_503_before_the_body_is_in_memory(receiver, make, store):
    # Given a receiver that is full
    busy = receiver.ingest.admission.enter(receiver.ingest.admission.max_bytes)

    response = await receiver.http.traces(make.request(make.span()))
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")

    # When there is room again, then the same request is taken
    busy.leave()
    assert (await receiver.http.traces(make.request(make.span()))).status_code == 200


async def test_a_stopping_receiver_asks_to_come_again(receiver, make):
    receiver.ingest.refuse_new_requests()

    response = await receiver.http.traces(make.request(make.span()))

    assert (response.status_code, response.headers["retry-after"]) == (503, "1")


async def connect(receiver):
    host, port = receiver.http_address.rsplit(":", 1)
    return await asyncio.open_connection(host, int(port))


async def test_a_client_that_leaves_in_the_middle_of_its_body_leaves_no_trace(receiver):
    _, writer = await connect(receiver)
    writer.write(
        b"POST /v1/traces HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        b"content-length: 1000\r\n\r\n{"
    )
    await writer.drain()
    async with asyncio.timeout(20):
        while not receiver.ingest.admission._bytes_in_flight:
            await asyncio.sleep(0.01)

    writer.close()

    async with asyncio.timeout(20):
        while receiver.ingest.admission._bytes_in_flight:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("announced", [b"content-length: 1000", b"transfer-encoding: chunked"])
async def test_a_request_counts_from_its_head_on(receiver, announced):
    """Its head, call and task are in memory before its body comes."""
    _, writer = await connect(receiver)

    writer.write(
        b"POST /v1/traces HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n" + announced + b"\r\n\r\n"
    )

    async with asyncio.timeout(20):
        while receiver.ingest.admission.bytes_in_flight != MIN_WEIGHT_BYTES:
            await asyncio.sleep(0.01)
    writer.close()


async def test_a_body_that_never_comes_is_given_up_until_it_comes_again(receiver, monkeypatch):
    monkeypatch.setattr(http_services, "READ_SECONDS", 0.1)
    monkeypatch.setattr(http_services, "DISCARD_SECONDS", 0.1)
    reader, writer = await connect(receiver)
    writer.write(
        b"POST /v1/traces HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        b"content-length: 1000\r\n\r\n{"
    )

    answer = await asyncio.wait_for(reader.read(), 20)
    assert b" 503 " in answer.partition(b"\r\n")[0]
    assert b"retry-after: 1\r\n" in answer
    assert receiver.ingest.counters.retryable == {"slow_body": 1}
    writer.close()


async def test_stopping_does_not_wait_for_a_body_that_never_comes(receiver):
    reader, writer = await connect(receiver)
    writer.write(
        b"POST /v1/traces HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        b"content-length: 1000\r\n\r\n{"
    )
    async with asyncio.timeout(20):
        while not receiver.ingest.admission._bytes_in_flight:
            await asyncio.sleep(0.01)

        await receiver.stop(0.2)

        with contextlib.suppress(ConnectionError):
            await reader.read()
    writer.close()


async def test_headers_without_end_close_the_connection(receiver):
    reader, writer = await connect(receiver)
    writer.write(b"POST /v1/traces HTTP/1.1\r\nx: ")

    async def send_16_mib():
        for _ in range(1_000):
            writer.write(b"y" * 16_384)
            await writer.drain()
            await asyncio.sleep(0)
        await asyncio.wait_for(reader.read(), 20)

    with pytest.raises(ConnectionError):
        await send_16_mib()
    writer.close()


async def test_what_is_no_http_is_answered_and_forgotten(receiver, make):
    reader, writer = await connect(receiver)
    writer.write(b"\x16\x03\x01 hello\r\n\r\n")

    answer = await asyncio.wait_for(reader.read(), 20)
    writer.close()
    assert b" 400 " in answer.partition(b"\r\n")[0]
    status = json_format.Parse(answer.partition(b"\r\n\r\n")[2], Status())
    assert status.details[0].Is(BadRequest.DESCRIPTOR)
    assert (await receiver.http.traces(make.request(make.span()))).status_code == 200
