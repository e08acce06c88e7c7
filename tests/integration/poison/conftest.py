"""A receiver process that is sent whatever a test likes, and checks of every answer."""

import http.client
import os
import random
import secrets
import time
from types import SimpleNamespace

import grpc
import pytest
from google.protobuf import json_format
from google.rpc.error_details_pb2 import BadRequest
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from pymongo import MongoClient

from otel_pyinstrument.call_tree import CallTreeBuilder, Frame, encode

EXAMPLES, EXAMPLES_AT_FULL_SCALE = 60, 2_000
SEED = 20_261_121
MEMORY_LIMIT_MIB = 400
EXPORT_TRACES = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
PROTOBUF, JSON = "application/x-protobuf", "application/json"


class Answer:
    """One answer over HTTP or gRPC. `rejected` counts the spans that a partial success names."""

    def __init__(self, ok, what, rejected=0, message=""):
        self.ok = ok
        self.what = what
        self.rejected = rejected
        self.message = message


class Target:
    """Sends what it is told to, and checks that every answer is one that OTLP knows."""

    def __init__(self, receiver, database):
        self.receiver = receiver
        self.database = database
        self.channel = grpc.insecure_channel(
            receiver.grpc, options=[("grpc.max_send_message_length", -1), ("grpc.max_metadata_size", 16_384)]
        )
        self._connection = self.connect()

    def connect(self):
        host, port = self.receiver.http.rsplit(":", 1)
        return http.client.HTTPConnection(host, int(port), timeout=60)

    def by_grpc(self, body, *, compressed=False, method=EXPORT_TRACES):
        call = self.channel.unary_unary(method)
        compression = grpc.Compression.Gzip if compressed else grpc.Compression.NoCompression
        try:
            content = call(body, timeout=60, compression=compression)
        except grpc.RpcError as error:
            return self._checked_refusal(error.code(), error.details())
        answer = ExportTraceServiceResponse.FromString(content)
        partial = answer.partial_success
        return Answer(True, grpc.StatusCode.OK, partial.rejected_spans, partial.error_message)

    def _checked_refusal(self, code, message):
        assert code.name in {"INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "UNIMPLEMENTED"}, f"{code} {message}"
        assert message
        return Answer(False, code, message=message)

    def by_http(self, body, media_type=PROTOBUF, *, path="/v1/traces", method="POST", **headers):
        headers = {"Content-Type": media_type} | {k.replace("_", "-"): v for k, v in headers.items()}
        try:
            self._connection.request(method, path, body, headers)
            response = self._connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException):
            # The receiver may close after a refusal; what it said before may be lost with it.
            self._connection.close()
            return Answer(False, None)
        if response.getheader("connection") == "close":
            self._connection.close()
        return self._checked(response, content, media_type)

    def _checked(self, response, content, media_type):
        assert response.status in {200, 400, 404, 405, 413, 415}, f"{response.status} {content[:500]}"
        asked = media_type.partition(";")[0].strip().lower()
        answered = response.getheader("content-type")
        assert answered == (asked if asked in {PROTOBUF, JSON} else JSON)
        message = ExportTraceServiceResponse() if response.status == 200 else Status()
        if answered == JSON:
            content = content.replace(b"rejectedLogRecords", b"rejectedSpans")  # the only difference
            json_format.Parse(content, message)
        else:
            message.ParseFromString(content)
        if response.status == 200:
            partial = message.partial_success
            return Answer(True, 200, partial.rejected_spans, partial.error_message)
        assert message.code > 0
        assert message.message
        bad_requests = [detail.Is(BadRequest.DESCRIPTOR) for detail in message.details]
        assert bad_requests == ([True] if response.status == 400 else [])
        return Answer(False, response.status, message=message.message)

    def stored(self, spans, collection="performance_records"):
        """How many of these spans are records; of log records, how many are in `profiles`."""
        keys = [span.trace_id + span.span_id for span in spans]
        return self.database[collection].count_documents({"_id": {"$in": keys}})

    def close(self):
        self.channel.close()
        self._connection.close()


@pytest.fixture(scope="module")
def receiver(start_process, mongodb_url, database):
    """One process for all tests: whatever they did, it is there in the end, small, and stops as it should."""
    receiver = start_process(MONGODB_URL=mongodb_url, MONGODB_DATABASE=database.name)
    yield receiver
    assert receiver.process.poll() is None, receiver.log()[-4000:]
    memory_mib = receiver.largest_memory_mib()
    print(f"largest memory of the receiver: {memory_mib:.0f} MiB")
    assert memory_mib < MEMORY_LIMIT_MIB
    assert receiver.stop() == 0
    assert "Traceback" not in receiver.log()
    assert "internal_error" not in receiver.log()


@pytest.fixture(scope="module")
def database(mongodb_url):
    with MongoClient(mongodb_url) as client:
        database = client[f"test_{secrets.token_hex(8)}"]
        yield database
        client.drop_database(database.name)


@pytest.fixture
def target(receiver, database):
    target = Target(receiver, database)
    yield target
    target.close()
    assert receiver.process.poll() is None, receiver.log()[-4000:]


@pytest.fixture
def ask_many(full_scale):
    """Function (check): calls it with many dice; with the same ones each time, unless at full scale.

    `POISON_SEED=<the printed seed>` repeats a run.
    """

    def ask(check):
        seed = random.SystemRandom().randrange(2**32) if full_scale else SEED
        seed = int(os.environ.get("POISON_SEED", seed))
        count = EXAMPLES_AT_FULL_SCALE if full_scale else EXAMPLES
        print(f"{count} examples of seed {seed}")
        for number in range(count):
            try:
                check(random.Random(f"{seed}/{number}"))
            except Exception as error:
                raise AssertionError(f"example {number} of seed {seed}") from error

    return ask


def good_span():
    now = time.time_ns()
    span = Span(
        trace_id=os.urandom(16),
        span_id=os.urandom(8),
        name="GET /orders",
        kind=Span.SPAN_KIND_SERVER,
        start_time_unix_nano=now - 10**6,
        end_time_unix_nano=now,
    )
    span.attributes.add(key="http.route").value.string_value = "/orders"
    span.attributes.add(key="http.request.method").value.string_value = "GET"
    return span


def good_profile():
    """As a log record."""
    builder = CallTreeBuilder()
    builder.add(["view", "load_orders", "execute"], 0.01)
    payload = encode(builder.build(lambda name: Frame(name, "shop/views.py", 1, True))).payload
    record = LogRecord(
        event_name="pyinstrument.profile",
        trace_id=os.urandom(16),
        span_id=os.urandom(8),
        time_unix_nano=time.time_ns(),
    )
    record.attributes.add(key="pyinstrument.format").value.int_value = 1
    record.attributes.add(key="pyinstrument.encoding").value.string_value = "zlib+json"
    record.attributes.add(key="pyinstrument.payload").value.bytes_value = payload
    return record


def request_of(*spans, service="shop"):
    request = ExportTraceServiceRequest()
    resource_spans = request.resource_spans.add()
    resource_spans.resource.attributes.add(key="service.name").value.string_value = service
    resource_spans.scope_spans.add().spans.extend(spans)
    return request


def field(number, content):
    """One length-delimited field of a protobuf message."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def varint(value):
    result = bytearray()
    while value > 127:
        result.append(value & 127 | 128)
        value >>= 7
    return bytes([*result, value])


def request_with_raw_spans(*spans):
    """The bytes of a request whose spans (or log records) are bytes already, whatever they are."""
    resource = request_of().resource_spans[0].resource.SerializeToString()
    scope = b"".join(field(2, span) for span in spans)
    return field(1, field(1, resource) + field(2, scope))


def deep_span(levels):
    value = field(1, b"bottom")
    for _ in range(levels):
        value = field(5, field(1, value))
    return good_span().SerializeToString() + field(9, field(1, b"deep") + field(2, value))


@pytest.fixture
def make():
    """Good spans and profiles, requests, and the bytes of fields."""
    return SimpleNamespace(
        good_span=good_span,
        good_profile=good_profile,
        request_of=request_of,
        request_with_raw_spans=request_with_raw_spans,
        field=field,
        deep_span=deep_span,
    )
