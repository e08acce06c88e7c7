"""The shipped otel-collector.yaml, unchanged, in a standard Collector, against a real OTLP receiver."""

import gzip
import hashlib
import os
import re
import subprocess
import threading
import time
import urllib.parse
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path

import grpc
import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.free_ports import find_free_ports

pytestmark = pytest.mark.integration

REPOSITORY = Path(__file__).parents[2]
CONFIG = (REPOSITORY / "otel-collector.yaml").read_text()
ARRIVAL_SECONDS = 90
MIB = 1024 * 1024
RECEIVER_LIMIT_BYTES = 16 * MIB
REQUESTS = {
    "trace": ExportTraceServiceRequest,
    "logs": ExportLogsServiceRequest,
    "metrics": ExportMetricsServiceRequest,
}


class OtlpSink:
    """A gRPC OTLP receiver on loopback that keeps every request and can be taken down and up again."""

    def __init__(self, port):
        self.requests = []  # (signal, serialized request after decompression)
        self.endpoint = f"127.0.0.1:{port}"
        self.start()

    def start(self):
        # The size limit is off here: the tests look at the sizes themselves.
        options = [("grpc.max_receive_message_length", -1), ("grpc.so_reuseport", 0)]
        self._server = grpc.server(ThreadPoolExecutor(8), options=options)
        for signal in REQUESTS:
            service = f"opentelemetry.proto.collector.{signal}.v1.{signal.capitalize()}Service"
            keep = grpc.unary_unary_rpc_method_handler(
                lambda body, _context, signal=signal: self.requests.append((signal, body)) or b""
            )
            self._server.add_generic_rpc_handlers(
                [grpc.method_handlers_generic_handler(service, {"Export": keep})]
            )
        self._server.add_insecure_port(self.endpoint)
        self._server.start()

    def stop(self):
        self._server.stop(grace=None).wait()

    def sizes_bytes(self):
        return [len(body) for _, body in list(self.requests)]

    def spans(self):
        """Every span that arrived, as often as it arrived."""
        return [
            span
            for signal, body in list(self.requests)
            if signal == "trace"
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def span_ids(self):
        return {span.span_id for span in self.spans()}


@pytest.fixture
def sink():
    sink = OtlpSink(*find_free_ports(1))
    yield sink
    sink.stop()


def request_of(payload_sizes_bytes):
    """One export request: a span per size, each with an event that carries so many random bytes."""
    request = ExportTraceServiceRequest()
    scope = request.resource_spans.add().scope_spans.add()
    trace_id = os.urandom(16)
    for size_bytes in payload_sizes_bytes:
        span = scope.spans.add(trace_id=trace_id, span_id=os.urandom(8), name="GET /orders", kind=2)
        attribute = span.events.add(name="pyinstrument.profile").attributes.add(key="pyinstrument.payload")
        attribute.value.bytes_value = os.urandom(size_bytes)
    return request


def spans_of(request):
    return list(request.resource_spans[0].scope_spans[0].spans)


def span_ids_of(request):
    return {span.span_id for span in spans_of(request)}


def content(span):
    """What must arrive unchanged. (Collectors add an empty status, so whole spans are not compared.)"""
    payload = span.events[0].attributes[0].value.bytes_value
    return span.trace_id, span.span_id, span.name, span.events[0].name, hashlib.sha256(payload).digest()


def send_by_grpc(collector, request, signal="trace"):
    """Returns when the Collector has acknowledged; raises grpc.RpcError when it refused."""
    method = f"/opentelemetry.proto.collector.{signal}.v1.{signal.capitalize()}Service/Export"
    with grpc.insecure_channel(collector.grpc_endpoint) as channel:
        channel.unary_unary(method)(request.SerializeToString(), timeout=30)


def send_by_http(collector, request):
    """Returns the status of the Collector's answer."""
    headers = {"Content-Type": "application/x-protobuf", "Content-Encoding": "gzip"}
    body = gzip.compress(request.SerializeToString(), 1)
    address = urllib.parse.urlsplit(collector.http_endpoint).netloc
    with closing(HTTPConnection(address, timeout=30)) as connection:
        connection.request("POST", "/v1/traces", body, headers)
        return connection.getresponse().status


def wait_until(condition, what):
    deadline = time.monotonic() + ARRIVAL_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"not within {ARRIVAL_SECONDS} s: {what}"
        time.sleep(0.1)


def test_traces_sent_by_grpc_and_by_http_arrive(start_collector, sink):
    # Given
    collector = start_collector(sink.endpoint)
    by_grpc, by_http = request_of([100]), request_of([200])

    # When
    send_by_grpc(collector, by_grpc)
    status = send_by_http(collector, by_http)

    # Then
    assert status == 200
    sent = spans_of(by_grpc) + spans_of(by_http)
    wait_until(lambda: len(sink.spans()) >= 2, "two spans")
    assert sorted(map(content, sink.spans())) == sorted(map(content, sent))


def test_logs_and_metrics_arrive(start_collector, sink):
    # Given
    collector = start_collector(sink.endpoint)
    logs = ExportLogsServiceRequest()
    record = logs.resource_logs.add().scope_logs.add().log_records.add(event_name="pyinstrument.profile")
    record.body.string_value = "x"
    metrics = ExportMetricsServiceRequest()
    metric = (
        metrics.resource_metrics.add().scope_metrics.add().metrics.add(name="http.server.request.duration")
    )
    metric.gauge.data_points.add(as_double=0.5)

    # When
    send_by_grpc(collector, logs, "logs")
    send_by_grpc(collector, metrics, "metrics")

    # Then
    wait_until(lambda: len(sink.requests) >= 2, "one request for each signal")
    arrived = {signal: REQUESTS[signal].FromString(body) for signal, body in sink.requests}
    assert arrived["logs"].resource_logs[0].scope_logs[0].log_records[0] == record
    assert arrived["metrics"].resource_metrics[0].scope_metrics[0].metrics[0] == metric


def test_many_profiles_arrive_whole_in_requests_the_receiver_takes(start_collector, sink):
    # Given 512 spans with a profile each, sent as a client does that stays below 4 MiB
    collector = start_collector(sink.endpoint)
    requests = [request_of([60 * 1024] * 64) for _ in range(8)]
    assert all(3.5 * MIB < request.ByteSize() < 4 * MIB for request in requests)

    # When they are sent at the same time
    with ThreadPoolExecutor(8) as senders:
        list(senders.map(lambda request: send_by_grpc(collector, request), requests))

    # Then
    sent = {content(span) for request in requests for span in spans_of(request)}
    wait_until(lambda: len(sink.spans()) >= 512, "512 spans")
    assert {content(span) for span in sink.spans()} == sent
    assert max(sink.sizes_bytes()) <= RECEIVER_LIMIT_BYTES


def test_small_requests_are_batched(start_collector, sink):
    # Given
    collector = start_collector(sink.endpoint)

    # When
    for _ in range(50):
        send_by_grpc(collector, request_of([100]))

    # Then
    wait_until(lambda: len(sink.spans()) >= 50, "50 spans")
    assert len(sink.requests) < 25


@pytest.mark.parametrize("send", [send_by_grpc, send_by_http])
def test_the_largest_span_that_is_let_in_takes_no_other_span_with_it(start_collector, sink, send):
    # Given a span just below the limit for requests, between small ones
    collector = start_collector(sink.endpoint)
    requests = [request_of([100]), request_of([100, 12 * MIB - 65_536, 100]), request_of([100])]

    # When
    for request in requests:
        assert send(collector, request) in {None, 200}

    # Then
    sent = {span_id for request in requests for span_id in span_ids_of(request)}
    wait_until(lambda: sink.span_ids() >= sent, "all five spans")
    assert max(sink.sizes_bytes()) <= RECEIVER_LIMIT_BYTES


def test_a_request_above_the_limit_is_refused_and_not_lost_in_silence(start_collector, sink):
    # Given
    collector = start_collector(sink.endpoint)
    too_large = request_of([12 * MIB])

    # When
    with pytest.raises(grpc.RpcError) as by_grpc:
        send_by_grpc(collector, too_large)
    by_http = send_by_http(collector, too_large)

    # Then
    assert by_grpc.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert by_http in {400, 413}


def test_a_full_queue_refuses_with_an_error_that_clients_retry(start_collector, sink):
    # Given a queue of 1 MiB and nobody who takes from it
    sink.stop()
    queue_size = "yaml:exporters::otlp_grpc::sending_queue::queue_size: 1048576"
    collector = start_collector(sink.endpoint, [queue_size])
    send_by_grpc(collector, request_of([600 * 1024]))

    # When
    with pytest.raises(grpc.RpcError) as by_grpc:
        send_by_grpc(collector, request_of([600 * 1024]))
    by_http = send_by_http(collector, request_of([600 * 1024]))

    # Then
    assert by_grpc.value.code() is grpc.StatusCode.UNAVAILABLE
    assert by_http == 503


class SteadySender(threading.Thread):
    """Sends one span after the other and notes those that the Collector acknowledged."""

    def __init__(self, collector):
        super().__init__(daemon=True)
        self.acknowledged = set()
        self._collector = collector
        self._ended = threading.Event()

    def run(self):
        while not self._ended.wait(0.01):
            request = request_of([2000])
            try:
                send_by_grpc(self._collector, request)
            except grpc.RpcError:
                continue
            self.acknowledged |= span_ids_of(request)

    def wait_for_more(self, count, when):
        enough = len(self.acknowledged) + count
        wait_until(lambda: len(self.acknowledged) >= enough, f"{count} more acknowledged {when}")

    def end(self):
        self._ended.set()
        self.join()


def test_nothing_acknowledged_is_lost_when_the_receiver_is_down_and_the_collector_is_killed(
    start_collector, sink
):
    # Given a steady stream of spans
    collector = start_collector(sink.endpoint)
    sender = SteadySender(collector)
    sender.start()
    sender.wait_for_more(50, "while all is well")

    # When the receiver goes away, the Collector is killed and started again, the receiver returns
    sink.stop()
    sender.wait_for_more(50, "while the receiver is down")
    collector.kill()
    collector.start()
    sender.wait_for_more(50, "after the restart")
    sink.start()
    sender.wait_for_more(50, "after the receiver is back")
    collector.kill()
    collector.start()
    sender.wait_for_more(50, "after the second restart")
    sender.end()

    # Then
    wait_until(lambda: sink.span_ids() >= sender.acknowledged, "every acknowledged span")


def test_the_queue_directory_is_readable_by_its_owner_only(start_collector, sink):
    # Given / When
    collector = start_collector(sink.endpoint)

    # Then
    assert collector.queue_directory.stat().st_mode & 0o077 == 0


def test_the_configuration_is_valid_without_any_environment_variable(otelcol, tmp_path):
    # Given / When
    command = [otelcol, "validate", f"--config={REPOSITORY / 'otel-collector.yaml'}"]
    validated = subprocess.run(command, env={}, cwd=tmp_path, capture_output=True, text=True, check=False)

    # Then
    assert (validated.returncode, validated.stderr) == (0, "")


def test_default_addresses_do_not_collide_with_the_receiver_on_one_machine():
    # Given the defaults of the shipped file
    defaults = dict(re.findall(r"\$\{env:(\w+):-([^}]*)\}", CONFIG))

    # Then the Collector listens beside the receiver's 4317 and 4318 and sends to the former
    assert defaults["RECEIVER_ENDPOINT"] == "127.0.0.1:4317"
    listens = {defaults["OTLP_GRPC_LISTEN"], defaults["OTLP_HTTP_LISTEN"], defaults["HEALTH_LISTEN"]}
    assert len(listens) == 3
    assert not {"127.0.0.1:4317", "127.0.0.1:4318", "127.0.0.1:8000"} & listens


def test_the_documentation_names_every_environment_variable_and_its_default():
    # Given
    used = set(re.findall(r"\$\{env:(\w+):-([^}]*)\}", CONFIG))

    # When
    page = (REPOSITORY / "docs" / "collector.md").read_text()
    documented = set(re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", page, re.MULTILINE))

    # Then
    assert documented == used
