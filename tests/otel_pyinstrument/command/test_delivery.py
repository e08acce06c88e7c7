"""What `verify` says about receivers that refuse, or are none: real exporters against misbehaving sockets."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import certifi
import grpc
import pytest
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceResponse,
)
from opentelemetry.sdk.trace import TracerProvider

from otel_pyinstrument.command.verification.destination import destination_of, send_once
from otel_pyinstrument.command.verification.listener import Speaks, listener_at
from otel_pyinstrument.command.verification.remedies import Advice, advice

SECONDS = 2.0
CA_BUNDLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
TRACE_SERVICE = "opentelemetry.proto.collector.trace.v1.TraceService"


@pytest.fixture(autouse=True)
def no_certificates_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("OTEL_EXPORTER_OTLP", *CA_BUNDLES))]:
        monkeypatch.delenv(name)


@pytest.fixture
def a_span():
    return TracerProvider(shutdown_on_exit=False).get_tracer("test").start_span("GET /")


@pytest.fixture
def advice_for(a_span) -> Iterator[Callable[[object], Advice | None]]:
    """What is said about sending with an exporter; None when it was delivered."""
    used: list[object] = []

    def find(exporter: object) -> Advice | None:
        used.append(exporter)
        destination = destination_of(exporter)
        answer = send_once(destination, [a_span], SECONDS)
        return None if answer.delivered else advice(destination, answer, destination.listener(SECONDS))

    yield find
    for exporter in used:
        exporter.shutdown()


@pytest.fixture
def start() -> Iterator[Callable[..., int]]:
    """Function (context manager yielding a port) -> the port; ended after the test."""
    with ExitStack() as stack:
        yield stack.enter_context


@contextmanager
def grpc_server(answer, credentials=None, service=TRACE_SERVICE) -> Iterator[int]:
    """A gRPC server whose Export does `answer(context)`; its port."""
    server = grpc.server(ThreadPoolExecutor(2))
    handler = grpc.unary_unary_rpc_method_handler(lambda _body, context: answer(context))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Export": handler}),))
    if credentials is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    try:
        yield port
    finally:
        server.stop(0).wait()


@contextmanager
def http_server(status: int, context: ssl.SSLContext | None = None) -> Iterator[int]:
    """An HTTP/1 server that answers everything with `status`; its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_arguments: object) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        def handle_error(self, *_arguments: object) -> None:
            """A failed handshake is what some tests are about."""

    server = Quiet(("127.0.0.1", 0), Handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def silent_server() -> Iterator[int]:
    """Takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


@contextmanager
def chatty_server() -> Iterator[int]:
    """Speaks a protocol of its own, as a mail server does, and closes."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection:
                    connection.sendall(b"220 mail.example ESMTP ready\r\n")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)
    thread.join()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Files of a self-signed certificate for 127.0.0.1 and of its key."""
    if shutil.which("openssl") is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("openssl is not on PATH")
    directory = tmp_path_factory.mktemp("certificate")
    certificate, key = directory / "certificate.pem", directory / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-nodes", "-keyout", key, "-out", certificate, "-days", "2", "-subj", "/CN=127.0.0.1"),
            *("-addext", "subjectAltName=IP:127.0.0.1"),
        ],
        check=True,
        capture_output=True,
    )
    return certificate, key


@pytest.fixture
def tls_context(certificate) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    return context


@pytest.fixture
def tls_credentials(certificate):
    chain, key = certificate
    return grpc.ssl_server_credentials([(key.read_bytes(), chain.read_bytes())])


def accept(_context) -> bytes:
    return b""


# --- What a receiver answers ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        ("UNAUTHENTICATED", "OTEL_EXPORTER_OTLP_HEADERS=x-project-key="),
        ("PERMISSION_DENIED", "permission to send traces"),
        ("UNIMPLEMENTED", "a Collector without a pipeline for traces"),
        ("RESOURCE_EXHAUSTED", "OTEL_PYINSTRUMENT_MAX_REQUEST_BYTES"),
        ("UNAVAILABLE", "when it is only busy, wait"),
        ("INVALID_ARGUMENT", "something on the way may change requests"),
        ("DATA_LOSS", "Look at the log"),
    ],
)
def test_each_grpc_status_has_its_own_remedy(start, advice_for, code, remedy) -> None:
    port = start(grpc_server(lambda context: context.abort(grpc.StatusCode[code], "says the receiver")))

    said = advice_for(GrpcExporter(endpoint=f"http://127.0.0.1:{port}"))

    assert code in said.finding
    assert "says the receiver" in said.finding
    assert remedy in said.remedy


def test_a_grpc_server_without_the_trace_service_is_told_from_a_receiver(start, advice_for) -> None:
    port = start(grpc_server(accept, service="shop.Orders"))

    said = advice_for(GrpcExporter(endpoint=f"http://127.0.0.1:{port}"))

    assert "takes no traces" in said.finding


def test_a_partial_success_that_refuses_the_span_is_no_success(start, advice_for) -> None:
    refusal = ExportTraceServiceResponse(
        partial_success=ExportTracePartialSuccess(rejected_spans=1, error_message="time_out_of_range: 1")
    ).SerializeToString()
    port = start(grpc_server(lambda _context: refusal))

    said = advice_for(GrpcExporter(endpoint=f"http://127.0.0.1:{port}"))

    assert "time_out_of_range: 1" in said.finding


@pytest.mark.parametrize(
    ("status", "remedy"),
    [
        (400, "Look at its log"),
        (401, "OTEL_EXPORTER_OTLP_HEADERS=x-project-key="),
        (403, "permission to send traces"),
        (404, "without /v1/traces"),
        (405, "OTEL_EXPORTER_OTLP_ENDPOINT"),
        (413, "OTEL_PYINSTRUMENT_MAX_REQUEST_BYTES"),
        (429, "OTEL_PYINSTRUMENT_RATE"),
        (502, "correct the proxy"),
        (503, "when it is only busy, wait"),
        (500, "Look at the log"),
    ],
)
def test_each_http_status_has_its_own_remedy(start, advice_for, status, remedy) -> None:
    port = start(http_server(status))

    said = advice_for(HttpExporter(endpoint=f"http://127.0.0.1:{port}/v1/traces"))

    assert str(status) in said.finding
    assert remedy in said.remedy


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_what_is_accepted_needs_no_advice(start, advice_for, protocol) -> None:
    port = start(grpc_server(accept) if protocol == "grpc" else http_server(200))
    endpoint = f"http://127.0.0.1:{port}"

    assert (
        advice_for(GrpcExporter(endpoint=endpoint) if protocol == "grpc" else HttpExporter(endpoint)) is None
    )


def test_a_header_that_cannot_be_sent_is_said_without_its_value(start, advice_for) -> None:
    port = start(grpc_server(accept))

    said = advice_for(
        GrpcExporter(endpoint=f"http://127.0.0.1:{port}", headers=(("x-project key", "opk_secret"),))
    )

    assert "OTEL_EXPORTER_OTLP_HEADERS holds a name or value" in said.finding
    assert "opk_secret" not in said.finding + said.remedy


# --- Who listens there instead -------------------------------------------------------------------------


def exporters(endpoint: str) -> list[object]:
    return [GrpcExporter(endpoint=endpoint), HttpExporter(endpoint=f"{endpoint}/v1/traces")]


def test_nobody_listening_is_said_with_the_usual_port(advice_for) -> None:
    # Given a port that is certainly free: bound, and not listened on
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{bound.getsockname()[1]}"

        by_grpc, by_http = map(advice_for, exporters(endpoint))

    assert "nobody listens on 127.0.0.1" in by_grpc.finding
    assert "4317" in by_grpc.remedy
    assert "nobody listens on 127.0.0.1" in by_http.finding
    assert "4318" in by_http.remedy


def test_an_unknown_host_is_told_from_a_dead_one(advice_for) -> None:
    for exporter in exporters("http://no-such-host.invalid:4317"):
        assert "no-such-host.invalid is not known" in advice_for(exporter).finding


def test_grpc_to_an_http_port_names_both_ways_out(start, advice_for) -> None:
    port = start(http_server(200))

    said = advice_for(GrpcExporter(endpoint=f"http://127.0.0.1:{port}"))

    assert "speaks HTTP/1, not gRPC" in said.finding
    assert "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf" in said.remedy


def test_http_to_a_grpc_port_names_both_ways_out(start, advice_for) -> None:
    port = start(grpc_server(accept))

    said = advice_for(HttpExporter(endpoint=f"http://127.0.0.1:{port}/v1/traces"))

    assert "speaks gRPC, not HTTP/1" in said.finding
    assert "OTEL_EXPORTER_OTLP_PROTOCOL=grpc" in said.remedy


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_tls_to_a_plain_port_asks_for_http(start, advice_for, protocol) -> None:
    port = start(grpc_server(accept) if protocol == "grpc" else http_server(200))
    endpoint = f"https://127.0.0.1:{port}"

    said = advice_for(GrpcExporter(endpoint=endpoint) if protocol == "grpc" else HttpExporter(endpoint))

    assert "does not speak TLS" in said.finding
    assert "http://" in said.remedy


def test_an_address_without_scheme_means_tls_for_grpc_and_that_is_said(start, advice_for) -> None:
    port = start(grpc_server(accept))

    said = advice_for(GrpcExporter(endpoint=f"127.0.0.1:{port}"))

    assert "an address without either" in said.remedy


def test_plain_to_a_tls_port_asks_for_https(start, advice_for, tls_credentials, tls_context) -> None:
    grpc_port = start(grpc_server(accept, tls_credentials))
    http_port = start(http_server(200, tls_context))

    by_grpc = advice_for(GrpcExporter(endpoint=f"http://127.0.0.1:{grpc_port}"))
    by_http = advice_for(HttpExporter(endpoint=f"http://127.0.0.1:{http_port}/v1/traces"))

    for said in (by_grpc, by_http):
        assert "speaks TLS, and the exporter does not" in said.finding
        assert "https://" in said.remedy


def test_a_certificate_that_is_not_trusted_is_named_and_trusted_once_it_is_configured(
    start, advice_for, tls_credentials, tls_context, certificate, monkeypatch
) -> None:
    # Given receivers with a self-signed certificate
    grpc_port = start(grpc_server(accept, tls_credentials))
    http_port = start(http_server(200, tls_context))

    def both() -> list[Advice | None]:
        return [
            advice_for(GrpcExporter(endpoint=f"https://127.0.0.1:{grpc_port}")),
            advice_for(HttpExporter(endpoint=f"https://127.0.0.1:{http_port}/v1/traces")),
        ]

    # When nothing is configured
    untrusted = both()

    # Then
    for said in untrusted:
        assert "is not trusted (self" in said.finding
        assert "OTEL_EXPORTER_OTLP_CERTIFICATE" in said.remedy

    # When the certificate is
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", str(certificate[0]))

    # Then
    assert both() == [None, None]

    # When another variable wins over it, as it does for HTTP
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", certifi.where())

    # Then
    by_grpc, by_http = both()
    assert by_grpc is None
    assert "REQUESTS_CA_BUNDLE" in by_http.remedy


@pytest.mark.parametrize(
    ("server", "finding"),
    [(silent_server, "does not answer"), (chatty_server, "speaks neither HTTP nor gRPC")],
)
def test_what_is_no_receiver_at_all_is_said_in_bounded_time(start, advice_for, server, finding) -> None:
    port = start(server())

    for exporter in exporters(f"http://127.0.0.1:{port}"):
        assert finding in advice_for(exporter).finding


def test_a_listener_is_recognised_without_knowing_the_exporter(start, tls_context) -> None:
    def speaks(server) -> Speaks:
        return listener_at("127.0.0.1", start(server), timeout_seconds=SECONDS).speaks

    assert speaks(http_server(200)) is Speaks.HTTP1
    assert speaks(grpc_server(accept)) is Speaks.HTTP2
    assert speaks(http_server(200, tls_context)) is Speaks.TLS
    assert speaks(silent_server()) is Speaks.SILENT
    assert speaks(chatty_server()) is Speaks.UNKNOWN


def test_user_names_in_an_address_are_not_shown() -> None:
    exporter = HttpExporter(endpoint="http://ada:hunter2@127.0.0.1:4318/v1/traces?token=abc")

    shown = str(destination_of(exporter))

    exporter.shutdown()
    assert "127.0.0.1:4318/v1/traces" in shown
    assert "hunter2" not in shown
    assert "abc" not in shown
