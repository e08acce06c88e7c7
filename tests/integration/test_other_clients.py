"""Clients that other people wrote, as they are: what they send is in the store, under the right names."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans
from pymongo import MongoClient

from profile_store import StoreSettings, open_store
from profile_store.mongodb.documents import otlp_of
from tests.free_ports import find_free_ports

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

INSTALL = Path(__file__).parents[1] / "clients" / "install.py"
ARRIVAL_SECONDS = 60
SERVER = 1  # what OpenTelemetry for JavaScript calls SpanKind.SERVER


def installed(client, tool):
    """The path of a client's program, installed when it is not in the cache."""
    done = subprocess.run([sys.executable, INSTALL, client], capture_output=True, text=True, check=False)
    if done.returncode and shutil.which(tool) is None and os.environ.get("CI") != "true":
        pytest.skip(f"{tool} is not on PATH: {client} cannot be installed")
    if done.returncode:
        pytest.fail(f"{client} was not installed:\n{done.stderr[-4000:]}", pytrace=False)
    return done.stdout.splitlines()[-1]


@pytest.fixture(scope="session")
def javascript_shop():
    return installed("javascript", "npm")


@pytest.fixture(scope="session")
def telemetrygen():
    return installed("telemetrygen", "go")


@pytest.fixture
def database(mongodb_url, mongodb_database):
    with MongoClient(mongodb_url) as client:
        yield client[mongodb_database]


@pytest.fixture
async def project(mongodb_url, mongodb_database, anyio_backend):
    """A project that was made beforehand, as in key mode."""
    settings = StoreSettings(MONGODB_URL=mongodb_url, MONGODB_DATABASE=mongodb_database)
    async with open_store(settings) as store:
        return await store.create_project("shop")


def wait_until(condition, what):
    deadline = time.monotonic() + ARRIVAL_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"not within {ARRIVAL_SECONDS} s: {what}"
        time.sleep(0.05)


def stored_child_ids(database):
    """Trace and span ids of everything that is not a record."""
    chunks = [ResourceSpans.FromString(otlp_of(chunk)) for chunk in database.child_spans.find()]
    return {
        (span.trace_id.hex(), span.span_id.hex())
        for chunk in chunks
        for scope_spans in chunk.scope_spans
        for span in scope_spans.spans
    }


def run(command, **environment):
    """The standard output of a client that ends by itself, successfully."""
    done = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.mark.parametrize("protocol", ["http/json", "http/protobuf", "grpc"])
@pytest.mark.anyio
async def test_everything_of_a_javascript_shop_is_stored(
    javascript_shop, start_receiver_process, project, database, protocol
):
    # Given a receiver that takes spans with a key only
    receiver = start_receiver_process(INGEST_MODE="key")

    # When a shop in JavaScript serves some requests and sends its spans, compressed
    told = run(
        [shutil.which("node"), javascript_shop],
        OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
        OTEL_EXPORTER_OTLP_ENDPOINT=f"http://{receiver.grpc if protocol == 'grpc' else receiver.http}",
        OTEL_EXPORTER_OTLP_COMPRESSION="gzip",
        OTEL_EXPORTER_OTLP_HEADERS=f"x-project-key={project.project_key}",
        OTEL_SERVICE_NAME="another name than the project's",
        OTEL_RESOURCE_ATTRIBUTES="service.version=1.2.3,deployment.environment.name=test",
    )

    # Then every request is a record of that project, under its route
    spans = [json.loads(line) for line in told.splitlines()]
    requests = {(span["trace_id"], span["span_id"]) for span in spans if span["kind"] == SERVER}
    records = list(database.performance_records.find())
    assert len(requests) == 23
    assert {(record["trace_id"], record["span_id"]) for record in records} == requests
    assert Counter((record["endpoint"], record["status_code"], record["failed"]) for record in records) == {
        ("GET /orders/:id", 200, False): 20,
        ("POST /orders", 201, False): 1,
        ("GET /broken", 500, True): 1,
        ("GET /{unmatched}", 404, False): 1,
    }
    assert {record["path"] for record in records if record["status_code"] == 404} == {"/wp-login.php"}
    assert {(str(r["project_id"]), r["version"], r["environment"]) for r in records} == {
        (project.id, "1.2.3", "test")
    }
    # And nothing else of it is missing
    others = {(span["trace_id"], span["span_id"]) for span in spans} - requests
    assert len(others) > 20
    assert stored_child_ids(database) == others


@pytest.mark.parametrize(
    ("protocol", "arguments"), [("grpc", []), ("http", ["--otlp-http", "--otlp-http-url-path=/v1/traces"])]
)
def test_everything_of_telemetrygen_is_stored(
    telemetrygen, full_scale, start_receiver_process, database, protocol, arguments
):
    # Given a receiver that takes spans of anybody
    receiver = start_receiver_process()
    traces = 2_000 if full_scale else 200

    # When the load generator of the Collector sends traces of two spans each
    run(
        [
            telemetrygen,
            "traces",
            "--otlp-insecure",
            f"--otlp-endpoint={receiver.http if protocol == 'http' else receiver.grpc}",
            f"--traces={traces // 2}",
            "--workers=2",
            "--rate=0",
            "--batch=false",  # else it drops what it cannot send in time
            "--service=load",
            *arguments,
        ]
    )

    # Then all are there: one server span and one client span in each trace
    assert database.projects.distinct("name") == ["load"]
    assert database.performance_records.count_documents({}) == traces
    endpoints = database.performance_records.distinct("endpoint")
    assert endpoints == ["okey-dokey-0"]
    assert len(stored_child_ids(database)) == traces


@pytest.mark.parametrize("encoding", ["proto", "json"])
def test_a_collector_that_sends_over_http_loses_nothing_over_an_outage(
    start_collector, start_receiver_process, database, make_request, encoding
):
    # Given a Collector that exports over HTTP, with gzip, to a receiver that is not there yet
    (port,) = find_free_ports(1)
    overrides = {
        "exporters::otlp_http::endpoint": f"http://127.0.0.1:{port}",
        "exporters::otlp_http::encoding": encoding,
        "exporters::otlp_http::compression": "gzip",
        "exporters::otlp_http::retry_on_failure::initial_interval": "200ms",
        "service::pipelines::traces::exporters": "[otlp_http]",
    }
    collector = start_collector("127.0.0.1:1", [f"yaml:{key}: {value}" for key, value in overrides.items()])
    requests = [make_request(f"/orders/{number}") for number in range(30)]
    for request in requests:
        send(collector, request)

    # When the receiver comes up
    start_receiver_process(OTLP_HTTP_PORT=str(port))

    # Then every span arrives, once
    wait_until(lambda: database.performance_records.count_documents({}) >= 30, "30 records")
    assert database.performance_records.distinct("endpoint") == ["GET /orders/{id}"]
    sent = {request.resource_spans[0].scope_spans[0].spans[0].span_id.hex() for request in requests}
    assert {record["span_id"] for record in database.performance_records.find()} == sent


@pytest.fixture
def make_request():
    def make(path):
        request = ExportTraceServiceRequest()
        resource_spans = request.resource_spans.add()
        resource_spans.resource.attributes.add(key="service.name").value.string_value = "shop"
        now = time.time_ns()
        span = resource_spans.scope_spans.add().spans.add(
            trace_id=os.urandom(16),
            span_id=os.urandom(8),
            name="GET",
            kind=2,
            start_time_unix_nano=now - 10**6,
            end_time_unix_nano=now,
        )
        for key, value in (("http.request.method", "GET"), ("url.path", path)):
            span.attributes.add(key=key).value.string_value = value
        return request

    return make


def send(collector, request):
    import grpc

    method = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
    with grpc.insecure_channel(collector.grpc_endpoint) as channel:
        channel.unary_unary(method)(request.SerializeToString(), timeout=30)
