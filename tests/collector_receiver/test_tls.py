"""TLS and client certificates on both ports, with real certificates and the real exporters of Python."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess

import grpc
import pytest
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExportResult
from opentelemetry.trace import SpanKind

from collector_receiver.settings import InvalidSettings, ReceiverSettings
from collector_receiver.tls import load_tls
from profile_store.model import RecordQuery

PROTOCOLS = ("grpc", "http")


class Certificates:
    """Two authorities; server and client have certificates of the first, a stranger has one of the second."""

    def __init__(self, directory):
        self._directory = directory
        for authority in ("ca", "other-ca"):
            self._openssl("req", "-x509", *self._new_key(authority), "-subj", f"/CN={authority}")
        for name, authority in (("server", "ca"), ("client", "ca"), ("stranger", "other-ca")):
            self._openssl(
                *("req", "-x509", *self._new_key(name), "-subj", f"/CN={name}"),
                *("-CA", self.certificate(authority), "-CAkey", self.key(authority)),
                *("-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"),
                *("-addext", "basicConstraints=critical,CA:FALSE"),
            )

    def certificate(self, name):
        return self._directory / f"{name}.pem"

    def key(self, name):
        return self._directory / f"{name}.key"

    def encrypted_key(self):
        path = self._directory / "encrypted.key"
        self._openssl("pkey", "-in", self.key("server"), "-aes256", "-passout", "pass:x", "-out", path)
        return path

    def _new_key(self, name):
        curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
        return (*curve, "-keyout", self.key(name), "-out", self.certificate(name))

    def _openssl(self, *arguments):
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=60)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    if shutil.which("openssl") is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("openssl is not on PATH")
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(autouse=True)
def no_authorities_of_the_machine(monkeypatch):
    """requests prefers them to those that an exporter is given."""
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)


def settings_for(certificates, *, client_ca=False):
    settings = {
        "otlp_tls_certificate": certificates.certificate("server"),
        "otlp_tls_key": certificates.key("server"),
    }
    return settings | ({"otlp_tls_client_ca": certificates.certificate("ca")} if client_ca else {})


def exporter_for(protocol, receiver, certificates, client=None, *, timeout=20):
    """The standard exporter, as a user would configure it. Unless it succeeds, it tries for `timeout`."""
    authority = certificates.certificate("ca")
    if protocol == "http":
        return HttpExporter(
            endpoint=f"https://{receiver.http_address}/v1/traces",
            certificate_file=str(authority),
            client_certificate_file=str(certificates.certificate(client)) if client else None,
            client_key_file=str(certificates.key(client)) if client else None,
            timeout=timeout,
        )
    own = {}
    if client:
        own = {
            "private_key": certificates.key(client).read_bytes(),
            "certificate_chain": certificates.certificate(client).read_bytes(),
        }
    credentials = grpc.ssl_channel_credentials(root_certificates=authority.read_bytes(), **own)
    return GrpcExporter(
        endpoint=f"https://{receiver.client.address}", credentials=credentials, timeout=timeout
    )


class Remembering:
    """An exporter that remembers how each export went."""

    def __init__(self, exporter):
        self._exporter, self.results = exporter, []

    def export(self, spans):
        self.results.append(self._exporter.export(spans))
        return self.results[-1]

    def __getattr__(self, name):
        return getattr(self._exporter, name)


async def send(exporter):
    """One span through the SDK; how the export went."""

    def through_the_sdk():
        remembering = Remembering(exporter)
        provider = TracerProvider(resource=Resource({"service.name": "shop"}), shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(remembering))
        with provider.get_tracer("test").start_as_current_span("GET /", kind=SpanKind.SERVER):
            pass
        provider.shutdown()
        return remembering.results

    return await asyncio.to_thread(through_the_sdk)


async def count_records(store):
    project = await store.project_for_service("shop")
    return (await store.records(RecordQuery(project_id=project.id))).total


@pytest.mark.anyio
async def test_the_standard_exporters_send_over_tls(start_receiver, certificates, store):
    receiver = await start_receiver(**settings_for(certificates))

    for protocol in PROTOCOLS:
        assert await send(exporter_for(protocol, receiver, certificates)) == [SpanExportResult.SUCCESS]

    assert await count_records(store) == 2


@pytest.mark.anyio
async def test_who_speaks_plain_text_to_a_tls_port_is_not_heard(start_receiver, certificates, make):
    receiver = await start_receiver(**settings_for(certificates))

    # Over gRPC, and over HTTP
    error = await receiver.client.refusal(make.request(make.span()), timeout=5)
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    reader, writer = await asyncio.open_connection(*receiver.http_address.split(":"))
    writer.write(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
    answer = await asyncio.wait_for(reader.read(), 20)
    writer.close()

    assert b"HTTP" not in answer
    assert receiver.ingest.counters.answers == {}


@pytest.mark.anyio
async def test_with_a_client_authority_only_its_clients_are_let_in(start_receiver, certificates, store):
    receiver = await start_receiver(**settings_for(certificates, client_ca=True))

    for protocol in PROTOCOLS:
        for client in (None, "stranger"):
            results = await send(exporter_for(protocol, receiver, certificates, client, timeout=2))
            assert results == [SpanExportResult.FAILURE], (protocol, client)
        assert await count_records(store) == PROTOCOLS.index(protocol)
        results = await send(exporter_for(protocol, receiver, certificates, "client"))
        assert results == [SpanExportResult.SUCCESS]
        assert await count_records(store) == PROTOCOLS.index(protocol) + 1


@pytest.mark.anyio
async def test_the_status_port_stays_plain_for_probes(start_receiver, certificates):
    """kubelet and Prometheus have no client certificate."""
    receiver = await start_receiver(**settings_for(certificates, client_ca=True), status_port=0)

    reader, writer = await asyncio.open_connection(*receiver.status_address.split(":"))
    writer.write(b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    answer = await asyncio.wait_for(reader.read(), 20)
    writer.close()

    assert answer.startswith(b"HTTP/1.1 200 ")


def broken_settings(certificates, case):
    """Settings with one mistake; the variable, and what the message must say of it."""
    good = settings_for(certificates, client_ca=True)
    junk = certificates.certificate("server").with_name("junk.pem")
    junk.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    missing = junk.with_name("missing.pem")
    return {
        "missing certificate": (
            good | {"otlp_tls_certificate": missing},
            "OTLP_TLS_CERTIFICATE",
            "No such file",
        ),
        "missing key": (good | {"otlp_tls_key": missing}, "OTLP_TLS_KEY", "No such file"),
        "a directory": (good | {"otlp_tls_key": junk.parent}, "OTLP_TLS_KEY", "directory"),
        "junk certificate": (
            good | {"otlp_tls_certificate": junk},
            "OTLP_TLS_CERTIFICATE",
            "no certificate in PEM",
        ),
        "junk authority": (
            good | {"otlp_tls_client_ca": junk},
            "OTLP_TLS_CLIENT_CA",
            "no certificate in PEM",
        ),
        "no key": (good | {"otlp_tls_key": junk}, "OTLP_TLS_KEY", "no private key in PEM"),
        "another key": (
            good | {"otlp_tls_key": certificates.key("client")},
            "OTLP_TLS_KEY",
            "does not belong",
        ),
        "encrypted key": (
            good | {"otlp_tls_key": certificates.encrypted_key()},
            "OTLP_TLS_KEY",
            "passphrase",
        ),
    }[case]


@pytest.mark.parametrize(
    "case",
    [
        "missing certificate",
        "missing key",
        "a directory",
        "junk certificate",
        "junk authority",
        "no key",
        "another key",
        "encrypted key",
    ],
)
def test_a_file_that_cannot_be_used_is_one_line_with_variable_file_and_problem(certificates, case):
    settings, variable, problem = broken_settings(certificates, case)

    with pytest.raises(InvalidSettings) as caught:
        load_tls(ReceiverSettings(**settings))

    message = str(caught.value)
    assert message.startswith(f"{variable}={settings[variable.lower()]}: ")
    assert problem in message
    assert "\n" not in message
    assert "PRIVATE KEY-----\n" not in message


def test_a_process_with_a_bad_file_ends_and_never_listens_in_plain_text(run, certificates):
    code, stderr = run(
        OTLP_TLS_CERTIFICATE=str(certificates.certificate("server")),
        OTLP_TLS_KEY=str(certificates.key("client")),
        RECEIVER_PROCESSES="2",
        MONGODB_URL="mongodb://127.0.0.1:1/?directConnection=true",
    )

    assert code == 2
    assert stderr.startswith("collector_receiver: OTLP_TLS_KEY=")
    assert stderr.count("\n") == 1


def test_who_speaks_plain_text_to_a_tls_port_does_not_fill_the_log(start_process, certificates):
    process = start_process(
        OTLP_TLS_CERTIFICATE=str(certificates.certificate("server")),
        OTLP_TLS_KEY=str(certificates.key("server")),
    )
    addresses = (process.wait_for_address(), process.http_address)

    for address in addresses:
        host, port = address.rsplit(":", 1)
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            while connection.recv(65_536):
                pass
    process.signal(signal.SIGTERM)

    assert process.wait() == 0
    assert all(" INFO collector_receiver: " in line for line in process.stderr.splitlines()), process.stderr
