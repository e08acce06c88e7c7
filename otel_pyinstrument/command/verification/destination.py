"""Where an OTLP exporter sends to, and one attempt to send there."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from otel_pyinstrument.command.verification.listener import Listener, listener_at
from otel_pyinstrument.masking import masked_url
from otel_pyinstrument.transport import private_names
from otel_pyinstrument.transport.signals import signal_named

_CERTIFICATES = ("OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "OTEL_EXPORTER_OTLP_CERTIFICATE")
_DEFAULT_PORTS = {"http": 80, "https": 443, "grpc": 443}
INVALID_METADATA = "Invalid metadata"
"""What gRPC says of headers that it cannot send, without asking any server."""
_RETRY_INFO = "google.rpc.retryinfo-bin"


class Destination(NamedTuple):
    """`protocol` is `grpc` or `http`; `host` is "" when the endpoint is no network address."""

    exporter: Any
    protocol: str
    address: str
    host: str
    port: int
    has_tls: bool

    def __str__(self) -> str:
        if self.protocol == "grpc":
            return f"OTLP/gRPC to {self.address} {'with' if self.has_tls else 'without'} TLS"
        return f"OTLP/HTTP to {self.address}"

    @property
    def headers(self) -> Mapping[str, str]:
        """By name in lower case. They may be secret."""
        return private_names.headers_of(self.exporter)

    def listener(self, timeout_seconds: float) -> Listener | None:
        """Who listens there; None when that cannot be found out."""
        if not self.host:
            return None
        ca_file = next(filter(None, map(os.environ.get, _CERTIFICATES)), None)
        return listener_at(self.host, self.port, timeout_seconds=timeout_seconds, ca_file=ca_file)


class Answer(NamedTuple):
    """`code` is the gRPC status by name, or the HTTP status; "" without an answer."""

    delivered: bool
    code: str = ""
    detail: str = ""
    may_retry: bool = False


def destination_of(exporter: object) -> Destination | None:
    """None for what is not an OTLP exporter of spans."""
    kind = private_names.exporter_kind(exporter)
    if kind is None or kind.signal != "traces":
        return None
    endpoint = private_names.endpoint_of(exporter)
    is_grpc = kind.protocol == "grpc"
    if is_grpc:
        has_tls = not private_names.sends_without_tls(exporter)
        address, scheme = endpoint.rpartition("@")[2], "grpc"
    else:
        address, scheme = masked_url(endpoint), urlsplit(endpoint).scheme
        has_tls = scheme == "https"
    host, port = _host_and_port(f"//{endpoint}" if is_grpc else endpoint, scheme)
    return Destination(exporter, kind.protocol, address, host, port, has_tls)


def _host_and_port(address: str, scheme: str) -> tuple[str, int]:
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:
        return "", 0
    if scheme == "grpc" and address.startswith(("//unix:", "//dns:", "//ipv4:", "//ipv6:", "//xds:")):
        return "", 0
    return parts.hostname or "", port or _DEFAULT_PORTS.get(scheme, 0)


def send_once(destination: Destination, spans: list[Any], timeout_seconds: float) -> Answer:
    """One attempt without the exporter's retries, over its own connection settings."""
    signal = signal_named("traces")
    body = signal.encode(spans)
    if destination.protocol == "grpc":
        return _send_by_grpc(destination.exporter, signal.grpc_method, body, timeout_seconds)
    post = private_names.http_post_once(destination.exporter)
    if post is None:
        return Answer(False, "", "this version of the HTTP exporter is not known")
    try:
        status, reason = post(body, timeout_seconds)
    except OSError as error:
        # requests.RequestException is one too.
        return Answer(False, "", str(error))
    if status is None:
        return Answer(False, "", reason)
    return Answer(200 <= status < 300, str(status), reason)


def _send_by_grpc(exporter: Any, method: str, body: bytes, timeout_seconds: float) -> Answer:
    import grpc
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

    if not private_names.can_open_grpc_channel(exporter):
        return Answer(False, "", "this version of the gRPC exporter is not known")
    channel, metadata, compression = private_names.open_grpc_channel(exporter)
    try:
        answer = channel.unary_unary(method)(
            body, metadata=metadata, timeout=timeout_seconds, compression=compression
        )
    except grpc.RpcError as error:
        failed: Any = error
        trailers = failed.trailing_metadata() or ()
        asked_to_retry = any(name == _RETRY_INFO for name, _ in trailers)
        return Answer(False, failed.code().name, failed.details() or "", asked_to_retry)
    except (TypeError, ValueError):
        return Answer(False, "", INVALID_METADATA)
    finally:
        channel.close()
    partial: Any = ExportTraceServiceResponse.FromString(answer).partial_success
    return Answer(not partial.rejected_spans, "OK", partial.error_message)
