"""Finished spans of any content, and a backend that can be switched off and on again."""

from __future__ import annotations

import gzip
import os
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from otel_pyinstrument.private_names import events_of
from tests.free_ports import find_free_ports

TRACES = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
LOGS = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"


class Spans:
    """Makes finished spans, not exported anywhere."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider(
            resource=Resource({"service.name": "shop", "list": ["a", "ü"]}), shutdown_on_exit=False
        )
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = provider.get_tracer("test", "1.0")

    def __call__(
        self, count: int = 1, *, payload_bytes: int | None = None, **attributes
    ) -> list[ReadableSpan]:
        made = []
        for number in range(count):
            span = self.tracer.start_span(f"GET /{number}", attributes={"number": number, **attributes})
            span.add_event("first", {"a": 1})
            if payload_bytes is not None:
                # As the span processor does: older SDKs refuse bytes in `add_event`.
                profile = {
                    "pyinstrument.format": 1,
                    "pyinstrument.encoding": "zlib+json",
                    "pyinstrument.summary": ("99% work app.py:1",),
                    "pyinstrument.payload": os.urandom(payload_bytes),
                }
                events_of(span).append(Event("pyinstrument.profile", profile))
            span.end()
            made.append(self.exporter.get_finished_spans()[-1])
            self.exporter.clear()
        return made


@pytest.fixture
def spans() -> Spans:
    return Spans()


@pytest.fixture(scope="session")
def spans_of_sizes() -> Callable[[list[int]], list[ReadableSpan]]:
    """Function (payload sizes) -> a finished span for each."""
    make = Spans()
    return lambda sizes: [span for size in sizes for span in make(payload_bytes=size)]


class Backend:
    """An OTLP receiver with the size limit that receivers have by default: 4 MiB.

    Keeps its port when it is stopped and started again.
    """

    LIMIT_BYTES = 4 * 1024 * 1024

    def __init__(self) -> None:
        (self.port,) = find_free_ports(1)
        self.bodies: list[bytes] = []
        self.metadata: list[dict[str, str]] = []
        self.too_large = 0
        self.refused = 0
        self.lock = threading.Lock()

    def keep(self, body: bytes, metadata: dict[str, str]) -> None:
        with self.lock:
            self.bodies.append(body)
            self.metadata.append(metadata)

    @property
    def spans(self) -> list:
        with self.lock:
            requests = [ExportTraceServiceRequest.FromString(body) for body in self.bodies]
        return [s for r in requests for rs in r.resource_spans for ss in rs.scope_spans for s in ss.spans]

    @property
    def log_records(self) -> list:
        with self.lock:
            requests = [ExportLogsServiceRequest.FromString(body) for body in self.bodies]
        return [e for r in requests for rl in r.resource_logs for sl in rl.scope_logs for e in sl.log_records]

    @property
    def numbers(self) -> list[int]:
        """The attribute `number` of each span, in the order of arrival."""
        return [a.value.int_value for span in self.spans for a in span.attributes if a.key == "number"]


class GrpcBackend(Backend):
    protocol = "grpc"

    def __init__(self) -> None:
        super().__init__()
        self.abort_with: grpc.StatusCode | None = None
        self.abort_trailers: tuple[tuple[str, bytes], ...] = ()
        self.server: grpc.Server | None = None
        self.endpoint = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        def take(body: bytes, context: grpc.ServicerContext) -> bytes:
            if self.abort_with is not None:
                self.refused += 1
                context.set_trailing_metadata(self.abort_trailers)
                context.abort(self.abort_with, "as the test wants")
            self.keep(body, dict(context.invocation_metadata()))
            return b""

        handlers = {"Export": grpc.unary_unary_rpc_method_handler(take)}
        # One worker: requests arrive in the order in which they are kept.
        self.server = grpc.server(futures.ThreadPoolExecutor(1), options=[("grpc.so_reuseport", 0)])
        for method in (TRACES, LOGS):
            service = method.split("/")[1]
            self.server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, handlers)])
        assert self.server.add_insecure_port(f"127.0.0.1:{self.port}") == self.port
        self.server.start()

    def stop(self) -> None:
        if self.server is not None:
            self.server.stop(0).wait()
            self.server = None

    def exporter(self, **options):
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

        return OTLPSpanExporter(endpoint=self.endpoint, insecure=True, **options)

    def log_exporter(self):
        from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter

        return OTLPLogExporter(endpoint=self.endpoint, insecure=True)


class HttpBackend(Backend):
    protocol = "http/protobuf"

    def __init__(self) -> None:
        super().__init__()
        self.abort_with: int | None = None
        self.server: ThreadingHTTPServer | None = None
        self.endpoint = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        backend = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                status = 200
                if len(body) > backend.LIMIT_BYTES:
                    backend.too_large += 1
                    status = 413
                elif backend.abort_with is not None:
                    backend.refused += 1
                    status = backend.abort_with
                else:
                    backend.keep(body, {name.lower(): value for name, value in self.headers.items()})
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        if self.server is not None:
            self.server.shutdown()
            self.server.server_close()
            self.server = None

    def exporter(self, **options):
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        return OTLPSpanExporter(endpoint=f"{self.endpoint}/v1/traces", **options)

    def log_exporter(self):
        from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter

        return OTLPLogExporter(endpoint=f"{self.endpoint}/v1/logs")


BACKENDS = {"grpc": GrpcBackend, "http": HttpBackend}


@pytest.fixture
def grpc_backend() -> Iterator[GrpcBackend]:
    backend = GrpcBackend()
    backend.start()
    yield backend
    backend.stop()


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """The same test over gRPC and over HTTP."""
    made = BACKENDS[request.param]()
    made.start()
    yield made
    made.stop()


class Wire:
    """Passes connections on to a backend, and counts the bytes that go there."""

    def __init__(self, backend_port: int) -> None:
        self.sent_bytes = 0
        self._backend_port = backend_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._open = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        for each in self._open:
            _hang_up(each)

    def _accept(self) -> None:
        while True:
            try:
                client, _address = self._listener.accept()
            except OSError:
                return
            try:
                backend = socket.create_connection(("127.0.0.1", self._backend_port))
            except OSError:
                client.close()
                continue
            self._open += [client, backend]
            for ends in ((client, backend), (backend, client)):
                threading.Thread(target=self._pass_on, args=(*ends, ends[0] is client), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, counted: bool) -> None:
        with suppress(OSError):
            while chunk := source.recv(65_536):
                self.sent_bytes += len(chunk) if counted else 0
                target.sendall(chunk)
        _hang_up(target)


def _hang_up(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()


@pytest.fixture
def wire(backend: Backend) -> Iterator[Wire]:
    """Between the exporters of `backend` and itself."""
    made = Wire(backend.port)
    backend.endpoint = made.endpoint
    yield made
    made.close()


@pytest.fixture
def installed(tmp_path) -> Iterator[Callable]:
    """Function (provider, **settings) -> an installed Transport; uninstalled after the test."""
    from otel_pyinstrument.settings import Settings
    from otel_pyinstrument.transport.install import Transport

    made = []

    def install(provider: TracerProvider, **settings: object) -> Transport:
        transport = Transport(provider, Settings(**settings))
        transport.install()
        made.append(transport)
        return transport

    yield install
    for transport in made:
        transport.uninstall()
