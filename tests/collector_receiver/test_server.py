"""The receiver as a process: its lines, its exit codes, its end; a graceful stop in the middle of a call."""

import asyncio
import http.client
import os
import re
import signal
import socket
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from google.rpc.error_details_pb2 import RetryInfo
from grpc_health.v1 import health_pb2, health_pb2_grpc
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as OTLPHttpSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind

from collector_receiver.profile_event import TooCostlyHere
from collector_receiver.server import STOP_SECONDS, Addresses, PortBusy, Receiver, announce
from collector_receiver.settings import ReceiverSettings
from collector_receiver.signals import TRACES
from profile_store.embedded_mongodb import embedded_mongodb

EXPORT_TRACES = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"


PROTOBUF = "application/x-protobuf"
READ_TRACES = TRACES.parse["protobuf"]
JSON_REQUEST = (
    b'{"resourceSpans": [{"scopeSpans": [{"spans": [{"traceId": "5b8efff798038103d269b633813fc60c",'
    b'"spanId": "eee19b7ec3c1b174", "startTimeUnixNano": "1544712660000000000"}]}]}]}'
)


def post(address, body, content_type=PROTOBUF):
    """Status, headers and body of the answer over OTLP/HTTP."""
    connection = http.client.HTTPConnection(address, timeout=30)
    try:
        connection.request("POST", "/v1/traces", body, {"Content-Type": content_type})
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


def wait_until_running(address, requests):
    """Return when a receiver works on so many requests."""
    deadline = time.monotonic() + 20
    running = ""
    while f" {requests}.0\n" not in running:
        assert time.monotonic() < deadline, running
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=20) as page:
            running = "".join(line.decode() for line in page if b"_requests_in_flight{" in line)
        time.sleep(0.02)


def test_the_process_serves_until_a_signal_and_says_what_it_did(start_process, make):
    process = start_process()
    address = process.wait_for_address()
    with grpc.insecure_channel(address) as channel:
        span = make.span({"http.method": "GET", "http.route": "/orders"}, events=[make.profile_event()])
        channel.unary_unary(EXPORT_TRACES)(make.request(span).SerializeToString(), timeout=20)

    process.signal(signal.SIGTERM)

    assert process.wait() == 0
    record_id = (span.trace_id + span.span_id).hex()
    assert re.search(
        rf"first profile received: project=\S+ record={record_id} endpoint=GET /orders$", process.stderr, re.M
    )
    assert "stopped: 1 spans accepted (1 new records, 1 new profiles), 0 rejected" in process.stderr
    assert "Traceback" not in process.stderr


def test_the_standard_exporter_of_python_is_understood(start_process):
    # Given the SDK and the exporter as an application has them
    process = start_process()
    resource = Resource({"service.name": "shop", "service.version": "1.0"})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    exporter = OTLPSpanExporter(
        endpoint=process.wait_for_address(), insecure=True, compression=grpc.Compression.Gzip
    )
    provider.add_span_processor(BatchSpanProcessor(exporter))
    tracer = provider.get_tracer("test")

    # When it sends requests with their queries
    for _ in range(50):
        with (
            tracer.start_as_current_span("GET /", kind=SpanKind.SERVER),
            tracer.start_as_current_span("SELECT"),
        ):
            pass
    provider.shutdown()

    # Then they are records and child spans
    process.signal(signal.SIGTERM)
    assert process.wait() == 0
    assert "stopped: 100 spans accepted (50 new records, 0 new profiles), 0 rejected" in process.stderr


def test_ctrl_c_stops_it_too(start_process):
    process = start_process()
    process.wait_for_address()

    process.signal(signal.SIGINT)

    assert process.wait() == 0
    assert "Traceback" not in process.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_the_database_is_waited_for_ends_it_at_once(start_process, number):
    # Given a receiver that waits for the answer of its database, for 8 seconds
    with socket.create_server(("127.0.0.1", 0)) as silent:
        process = start_process(MONGODB_URL=f"mongodb://127.0.0.1:{silent.getsockname()[1]}/")
        silent.accept()
        started = time.monotonic()

        # When a signal comes
        process.signal(number)

        # Then it has stopped as asked
        assert process.wait() == 0
    assert time.monotonic() - started < 6
    assert process.stderr == ""


def test_a_second_signal_does_not_wait_for_running_calls(start_process, mongod_executable, make, tmp_path):
    # Given a receiver that stops while a request waits for a frozen database
    with embedded_mongodb(tmp_path) as server:
        process = start_process(MONGODB_URL=server.url)
        with grpc.insecure_channel(process.wait_for_address()) as channel:
            export = channel.unary_unary(EXPORT_TRACES)
            export(make.request(make.span()).SerializeToString(), timeout=30)
            os.kill(server.pid, signal.SIGSTOP)
            try:
                waiting = export.future(make.request(make.span()).SerializeToString(), timeout=60)
                with pytest.raises(grpc.FutureTimeoutError):
                    waiting.exception(timeout=1)
                process.signal(signal.SIGTERM)
                process.wait_for("stopping: finishing running calls")
                started = time.monotonic()

                # When a second signal comes
                process.signal(signal.SIGTERM)

                # Then it ends before the database gives up, which takes 8 seconds
                assert process.wait() == 0
                assert time.monotonic() - started < 6
            finally:
                os.kill(server.pid, signal.SIGCONT)
    assert "Traceback" not in process.stderr


def test_a_second_signal_tells_http_senders_to_come_again(start_process, mongod_executable, make, tmp_path):
    """A 500 would be final: a Collector drops the batch."""
    # Given a receiver that stops while requests wait for a frozen database
    body = make.request(make.span()).SerializeToString()
    with embedded_mongodb(tmp_path) as server, ThreadPoolExecutor() as senders:
        process = start_process(MONGODB_URL=server.url)
        process.wait_for_address()
        assert post(process.http_address, body)[0] == 200
        os.kill(server.pid, signal.SIGSTOP)
        try:
            waiting = [
                senders.submit(post, process.http_address, make.request(make.span()).SerializeToString()),
                senders.submit(post, process.http_address, JSON_REQUEST, "application/json"),
            ]
            wait_until_running(process.http_address, 2)
            process.signal(signal.SIGTERM)
            process.wait_for("stopping: finishing running calls")

            # When a second signal comes
            process.signal(signal.SIGTERM)

            # Then each is told when to come again
            for each in waiting:
                status, headers, answer = each.result(20)
                assert (status, headers["Retry-After"]) == (503, "1")
                assert b"the receiver is stopping" in answer
            assert process.wait() == 0
        finally:
            os.kill(server.pid, signal.SIGCONT)
    assert "Traceback" not in process.stderr


def test_who_watches_its_health_does_not_hold_up_a_stop(start_process):
    """Watch is a call that never ends."""
    process = start_process()
    with grpc.insecure_channel(process.wait_for_address()) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING

        process.signal(signal.SIGTERM)

        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert process.wait(timeout=0.8 * STOP_SECONDS) == 0
    assert "Traceback" not in process.stderr


def test_a_lost_database_is_unavailable_with_the_time_to_wait(
    start_process, mongod_executable, make, tmp_path
):
    # Given a receiver whose database is killed
    with embedded_mongodb(tmp_path) as server:
        process = start_process(MONGODB_URL=server.url)
        with grpc.insecure_channel(process.wait_for_address()) as channel:
            export = channel.unary_unary(EXPORT_TRACES)
            export(make.request(make.span()).SerializeToString(), timeout=30)
            os.kill(server.pid, signal.SIGKILL)
            assert server.exited.wait(20)

            # When spans arrive, of a known sender and of a new one
            new = make.request(make.span(), resource={"service.name": "new"})
            calls = [
                export.future(body.SerializeToString(), timeout=60)
                for body in (make.request(make.span()), new)
            ]

            # Then they are to be sent again
            for call in calls:
                assert call.code() is grpc.StatusCode.UNAVAILABLE
                retry = RetryInfo.FromString(dict(call.trailing_metadata())["google.rpc.retryinfo-bin"])
                assert retry.retry_delay.seconds == 2

    # And the receiver still stops as it should
    process.signal(signal.SIGTERM)
    assert process.wait() == 0
    assert "storage_unavailable" in process.stderr
    assert "stopped: 1 spans accepted" in process.stderr
    assert "Traceback" not in process.stderr


def test_a_bad_setting_is_exit_code_2_and_one_line(run):
    code, stderr = run(INGEST_MODE="closed")

    assert code == 2
    assert re.fullmatch(r"collector_receiver: INGEST_MODE=closed: .*\n", stderr)


def test_an_open_receiver_on_all_addresses_must_be_asked_for(run):
    code, stderr = run(BIND_HOST="0.0.0.0")

    assert code == 2
    assert "INGEST_MODE=key" in stderr


def test_a_busy_port_is_exit_code_3_and_names_the_remedy(run, mongodb_url, mongodb_database):
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = str(busy.getsockname()[1])
        code, stderr = run(OTLP_GRPC_PORT=port, MONGODB_URL=mongodb_url, MONGODB_DATABASE=mongodb_database)

    assert code == 3
    assert f"OTLP_GRPC_PORT={port}" in stderr
    assert "Traceback" not in stderr


def test_a_busy_http_port_is_exit_code_3_too(run, mongodb_url, mongodb_database):
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = str(busy.getsockname()[1])
        code, stderr = run(OTLP_HTTP_PORT=port, MONGODB_URL=mongodb_url, MONGODB_DATABASE=mongodb_database)

    assert code == 3
    assert f"OTLP_HTTP_PORT={port}" in stderr
    assert "Traceback" not in stderr


def test_the_standard_http_exporter_of_python_is_understood(start_process):
    # Given the SDK and the exporter as an application has them
    process = start_process()
    process.wait_for_address()
    address = re.search(r"OTLP/HTTP on (\S+)$", process.stderr, re.MULTILINE)[1]
    provider = TracerProvider(resource=Resource({"service.name": "shop"}), shutdown_on_exit=False)
    exporter = OTLPHttpSpanExporter(endpoint=f"http://{address}/v1/traces", compression=Compression.Gzip)
    provider.add_span_processor(BatchSpanProcessor(exporter))

    # When it sends requests
    for _ in range(50):
        with provider.get_tracer("test").start_as_current_span("GET /", kind=SpanKind.SERVER):
            pass
    provider.shutdown()

    # Then they are records
    process.signal(signal.SIGTERM)
    assert process.wait() == 0
    assert "stopped: 50 spans accepted (50 new records, 0 new profiles), 0 rejected" in process.stderr
    assert "Traceback" not in process.stderr


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("", "is not set"),
        ("mongodb://u:hun@ter2@h/", "is not usable: the driver raised InvalidURI"),
        (
            "mongodb://127.0.0.1/?tls=true&tlsCAFile=/nowhere/ca.pem",
            "is not usable: its file /nowhere/ca.pem",
        ),
    ],
)
def test_a_database_address_that_cannot_be_used_is_exit_code_2_and_one_line(run, url, told):
    code, stderr = run(MONGODB_URL=url)

    assert code == 2
    assert re.fullmatch(rf"collector_receiver: MONGODB_URL {told}.*\n", stderr)
    assert "ter2" not in stderr


def test_a_database_that_does_not_answer_is_exit_code_4(run):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        code, stderr = run(
            MONGODB_URL=f"mongodb://user:hunter2@127.0.0.1:{silent.getsockname()[1]}/?directConnection=true"
        )

    assert code == 4
    assert "hunter2" not in stderr
    assert "Traceback" not in stderr


@pytest.mark.anyio
async def test_a_second_receiver_on_the_same_port_fails(store, receiver):
    """gRPC shares ports by default: the second one would silently take half of the calls."""
    port = int(receiver.client.address.rsplit(":", 1)[1])

    with pytest.raises(PortBusy):
        await Receiver(store, ReceiverSettings(otlp_grpc_port=port, otlp_http_port=0)).start()


@pytest.mark.anyio
async def test_ipv6_addresses_are_written_in_brackets(store):
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    ports = {"otlp_grpc_port": 0, "otlp_http_port": 0, "status_port": 0}
    receiver = Receiver(store, ReceiverSettings(bind_host="::1", status_host="::1", **ports))
    try:
        addresses = await receiver.start()
    except PortBusy:
        pytest.skip("no IPv6 loopback here")

    for address in addresses:
        assert re.fullmatch(r"\[::1\]:\d+", address)
    await receiver.stop(1)


@pytest.mark.anyio
async def test_stopping_finishes_running_calls_and_refuses_new_ones(store, receiver, make, monkeypatch):
    # Given a call that is held up in the middle of its work
    entered, go_on = threading.Event(), threading.Event()

    def slow(body, *, on_loop=False):
        if on_loop:
            raise TooCostlyHere
        entered.set()
        assert go_on.wait(20)
        return READ_TRACES(body)

    monkeypatch.setitem(TRACES.parse, "protobuf", slow)
    request = make.request(make.span(events=[make.profile_event()]))
    running = asyncio.create_task(receiver.client.export(request))
    assert await asyncio.to_thread(entered.wait, 20)

    # When the receiver stops
    stopping = asyncio.create_task(receiver.stop(20))
    errors = [await receiver.client.refusal(request) for _ in range(3)]
    go_on.set()

    # Then new calls may be repeated, and are told when; the running one is answered
    for error in errors:
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert error.details() == "the receiver is stopping"
        retry = RetryInfo.FromString(dict(error.trailing_metadata())["google.rpc.retryinfo-bin"])
        assert retry.retry_delay.seconds == 1
    assert await running == ExportTraceServiceResponse()
    await stopping


@pytest.mark.anyio
async def test_stopping_does_not_wait_for_ever(receiver, make, monkeypatch):
    entered, go_on = threading.Event(), threading.Event()

    def hangs(body, *, on_loop=False):
        if on_loop:
            raise TooCostlyHere
        entered.set()
        assert go_on.wait(60)
        return READ_TRACES(body)

    monkeypatch.setitem(TRACES.parse, "protobuf", hangs)
    running = asyncio.create_task(
        receiver.client.refusal(make.request(make.span(events=[make.profile_event()])))
    )
    assert await asyncio.to_thread(entered.wait, 20)

    await asyncio.wait_for(receiver.stop(0.2), 20)

    go_on.set()
    assert (await running).code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.anyio
async def test_who_sends_over_http_when_the_time_for_a_stop_is_over_is_to_come_again(
    receiver, make, monkeypatch
):
    # Given a request over HTTP that hangs
    entered, go_on = threading.Event(), threading.Event()

    def hangs(body, *, on_loop=False):
        if on_loop:
            raise TooCostlyHere
        entered.set()
        assert go_on.wait(60)
        return READ_TRACES(body)

    monkeypatch.setitem(TRACES.parse, "protobuf", hangs)
    body = make.request(make.span()).SerializeToString()
    running = asyncio.create_task(asyncio.to_thread(post, receiver.http_address, body))
    assert await asyncio.to_thread(entered.wait, 20)

    # When the receiver stops and its time is over
    await asyncio.wait_for(receiver.stop(0.2), 20)

    # Then the answer is not a final one
    status, headers, _ = await running
    go_on.set()
    assert (status, headers["Retry-After"]) == (503, "1")


@pytest.mark.parametrize(
    ("settings", "warnings"),
    [
        ({"bind_host": "0.0.0.0", "ingest_mode": "open"}, ["INGEST_MODE=open", "no TLS"]),
        ({"bind_host": "0.0.0.0", "ingest_mode": "key"}, ["no TLS"]),
        (
            {"bind_host": "0.0.0.0", "ingest_mode": "key", "otlp_tls_certificate": "c", "otlp_tls_key": "k"},
            [],
        ),
        ({"bind_host": "127.0.0.1"}, []),
    ],
)
def test_what_is_dangerous_beyond_loopback_is_said_at_the_start(caplog, settings, warnings):
    with caplog.at_level("INFO", logger="collector_receiver"):
        announce(Addresses("0.0.0.0:4317", "0.0.0.0:4318"), ReceiverSettings(**settings))

    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(said) == len(warnings)
    assert all(line.startswith(warning) for line, warning in zip(said, warnings, strict=True))
