"""Builders of OTLP requests, and a real receiver on a real store with a real gRPC channel to it."""

import base64
import os
import re
import selectors
import subprocess
import sys
import time
from types import SimpleNamespace

import grpc
import grpc.aio
import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue, KeyValueList
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.metrics.v1.metrics_pb2 import Exemplar
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span

from collector_receiver.server import Receiver
from collector_receiver.settings import ReceiverSettings
from otel_pyinstrument.call_tree import CallTreeBuilder, Frame, encode
from profile_store import StoreSettings, open_store

EXPORT_TRACES = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
EXPORT_LOGS = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"


def any_value(value):
    match value:
        case None:
            return AnyValue()
        case bool():
            return AnyValue(bool_value=value)
        case int():
            return AnyValue(int_value=value)
        case float():
            return AnyValue(double_value=value)
        case bytes():
            return AnyValue(bytes_value=value)
        case str():
            return AnyValue(string_value=value)
        case dict():
            return AnyValue(kvlist_value=KeyValueList(values=pairs(value)))
        case list():
            return AnyValue(array_value=ArrayValue(values=[any_value(item) for item in value]))


def pairs(attributes):
    items = attributes.items() if isinstance(attributes, dict) else attributes
    return [KeyValue(key=key, value=any_value(value)) for key, value in items]


def make_span(attributes=(), *, kind=Span.SPAN_KIND_SERVER, events=(), **changes):
    """A valid server span that ended a moment ago."""
    start = time.time_ns() - 10**9
    values = {
        "trace_id": os.urandom(16),
        "span_id": os.urandom(8),
        "name": "GET /orders",
        "kind": kind,
        "start_time_unix_nano": start,
        "end_time_unix_nano": start + 250_000_000,
    } | changes
    return Span(
        attributes=pairs(attributes),
        events=[Span.Event(name=name, attributes=pairs(of_event)) for name, of_event in events],
        **values,
    )


def make_resource_spans(*spans, resource=(("service.name", "shop"),), scope="flask"):
    result = ResourceSpans()
    result.resource.attributes.extend(pairs(resource))
    scope_spans = result.scope_spans.add()
    scope_spans.scope.name = scope
    scope_spans.spans.extend(spans)
    return result


def make_request(*spans, **more):
    return ExportTraceServiceRequest(resource_spans=[make_resource_spans(*spans, **more)])


def make_payload():
    """A tree of 0.25 s: load_orders takes 0.2 s of it."""
    builder = CallTreeBuilder()
    builder.add(["view", "load_orders", "execute"], 0.2)
    builder.add(["view"], 0.05)
    return encode(builder.build(lambda name: Frame(name, "shop/orders.py", 7, name != "execute"))).payload


def make_profile_event(payload=None, **changes):
    """Name and attributes of a profile event; changes replace attributes, None removes one."""
    payload = make_payload() if payload is None else payload
    attributes = {
        "format": 1,
        "encoding": "zlib+json",
        "payload": payload,
        "interval": 0.01,
        "duration": 0.25,
        "cpu_time": 0.2,
        "sample_count": 25,
        "node_count": 4,
        "reason": "slow",
        "truncated": False,
        "interrupted": False,
        "summary": ["80% load_orders shop/orders.py:7"],
    } | changes
    kept = {f"pyinstrument.{name}": value for name, value in attributes.items() if value is not None}
    return ("pyinstrument.profile", kept)


def make_text_profile_event():
    payload = base64.b64encode(make_payload()).decode()
    return make_profile_event(payload, encoding="zlib+json+base64")


def make_profile_log(span=None, **changes):
    """The log record that carries the profile of `span`; changes replace its attributes."""
    name, attributes = make_profile_event(**changes)
    return LogRecord(
        event_name=name,
        time_unix_nano=time.time_ns(),
        trace_id=span.trace_id if span else os.urandom(16),
        span_id=span.span_id if span else os.urandom(8),
        attributes=pairs(attributes),
    )


def make_logs(*records, resource=(("service.name", "shop"),)):
    request = ExportLogsServiceRequest()
    resource_logs = request.resource_logs.add()
    resource_logs.resource.attributes.extend(pairs(resource))
    resource_logs.scope_logs.add().log_records.extend(records)
    return request


def make_metrics(points=1):
    """A histogram with as many points, each with an example of a span."""
    request = ExportMetricsServiceRequest()
    resource_metrics = request.resource_metrics.add()
    resource_metrics.resource.attributes.extend(pairs({"service.name": "shop"}))
    metric = resource_metrics.scope_metrics.add().metrics.add(name="http.server.request.duration", unit="s")
    metric.histogram.aggregation_temporality = 2
    for number in range(points):
        metric.histogram.data_points.add(
            attributes=pairs({"http.route": f"/orders/{number}"}),
            time_unix_nano=time.time_ns(),
            count=3,
            sum=0.25,
            bucket_counts=[1, 2],
            explicit_bounds=[0.1],
            exemplars=[Exemplar(trace_id=os.urandom(16), span_id=os.urandom(8), as_int=-1)],
        )
    return request


@pytest.fixture
def make():
    """Functions that build what a sender sends."""
    return SimpleNamespace(
        span=make_span,
        resource_spans=make_resource_spans,
        request=make_request,
        payload=make_payload,
        profile_event=make_profile_event,
        text_profile_event=make_text_profile_event,
        profile_log=make_profile_log,
        logs=make_logs,
        metrics=make_metrics,
        pairs=pairs,
        any_value=any_value,
    )


@pytest.fixture
async def store(mongodb_url, mongodb_database, anyio_backend):
    async with open_store(
        StoreSettings(MONGODB_URL=mongodb_url, MONGODB_DATABASE=mongodb_database)
    ) as opened:
        yield opened


class Client:
    """A gRPC client that sends whatever bytes it is told to."""

    def __init__(self, address):
        self.address = address
        self.channel = grpc.aio.insecure_channel(address)

    async def call(self, method, body, *, metadata=None, timeout=20, compression=None):
        call = self.channel.unary_unary(method)
        return await call(body, metadata=metadata, timeout=timeout, compression=compression)

    async def export(self, request, **options):
        """Sends a request (or raw bytes); the decoded answer."""
        body = request if isinstance(request, bytes) else request.SerializeToString()
        return ExportTraceServiceResponse.FromString(await self.call(EXPORT_TRACES, body, **options))

    async def export_logs(self, request, **options):
        """The same with log records."""
        body = request if isinstance(request, bytes) else request.SerializeToString()
        return ExportLogsServiceResponse.FromString(await self.call(EXPORT_LOGS, body, **options))

    async def refusal(self, request, **options):
        """Sends a request that must fail; the error."""
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.export(request, **options)
        return caught.value


@pytest.fixture
async def start_receiver_on():
    """Function (store, **settings) -> receiver with `.client` on free ports; stopped after the test."""
    started = []

    async def start(store, **settings):
        receiver = Receiver(store, ReceiverSettings(otlp_grpc_port=0, otlp_http_port=0, **settings))
        addresses = await receiver.start()
        receiver.client = Client(addresses.grpc)
        receiver.http_address, receiver.status_address = addresses.http, addresses.status
        started.append(receiver)
        return receiver

    yield start
    for receiver in started:
        await receiver.client.channel.close()
        await receiver.stop(5)


@pytest.fixture
async def start_receiver(store, start_receiver_on):
    """Function (**settings) -> receiver on the test's store."""

    async def start(**settings):
        return await start_receiver_on(store, **settings)

    return start


@pytest.fixture
async def receiver(start_receiver):
    """A receiver in open mode."""
    return await start_receiver()


COMMAND = [sys.executable, "-m", "collector_receiver"]
READY = r"collector_receiver: OTLP/gRPC on (\S+)$"


def environment(**settings):
    names = {*ReceiverSettings.model_fields, "mongodb_url", "mongodb_database"}
    kept = {name: value for name, value in os.environ.items() if name.lower() not in names}
    return kept | {"OTLP_GRPC_PORT": "0", "OTLP_HTTP_PORT": "0"} | settings


@pytest.fixture
def run():
    """Function (**settings) -> exit code and stderr of a receiver that must fail at its start."""

    def start(**settings):
        done = subprocess.run(
            COMMAND,
            env=environment(**settings),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.returncode, done.stderr

    return start


class Process:
    """A receiver process whose stderr is collected."""

    def __init__(self, *, own_group=False, **settings):
        self._process = subprocess.Popen(
            COMMAND, env=environment(**settings), stderr=subprocess.PIPE, start_new_session=own_group
        )
        self.stderr = ""

    @property
    def pid(self):
        return self._process.pid

    def wait_for(self, pattern):
        """The match of a pattern in stderr."""
        deadline = time.monotonic() + 30
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stderr, selectors.EVENT_READ)
            while not (found := re.search(pattern, self.stderr, re.MULTILINE)):
                assert selector.select(max(0, deadline - time.monotonic())), f"no {pattern}: {self.stderr}"
                chunk = os.read(self._process.stderr.fileno(), 65_536).decode()
                assert chunk, f"ended early: {self.stderr}"
                self.stderr += chunk
        return found

    def wait_for_address(self):
        """Where it takes OTLP/gRPC; `http_address` is known afterwards too."""
        address = self.wait_for(READY).group(1)
        self.http_address = self.wait_for(r"OTLP/HTTP on (\S+)$").group(1)
        return address

    def signal(self, number):
        self._process.send_signal(number)

    def wait(self, timeout=30):
        """Exit code; all of stderr is in `.stderr` afterwards."""
        _, rest = self._process.communicate(timeout=timeout)
        self.stderr += rest.decode()
        return self._process.returncode

    def kill(self):
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def start_process(mongodb_url, mongodb_database):
    """Function (**settings) -> a running receiver process, killed after the test.

    With `own_group` it can be sent what a terminal sends to all processes of a command.
    """
    started = []

    def start(*, own_group=False, **settings):
        database = {"MONGODB_URL": mongodb_url, "MONGODB_DATABASE": mongodb_database}
        process = Process(own_group=own_group, **database | settings)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
