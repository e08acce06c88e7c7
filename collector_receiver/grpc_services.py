"""OTLP/gRPC: decodes metadata, calls `Ingest`, encodes the answer. Status codes are chosen only here.

Bodies stay bytes until `Ingest` has admitted them: gRPC only limits their size.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, NoReturn, TypeAlias

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from collector_receiver.ingest import Ingest
from collector_receiver.refusals import IngestRefused, TryAgain, Undecodable
from collector_receiver.signals import LOGS, TRACES, Signal

TRACE_SERVICE = "opentelemetry.proto.collector.trace.v1.TraceService"
LOGS_SERVICE = "opentelemetry.proto.collector.logs.v1.LogsService"
METRICS_SERVICE = "opentelemetry.proto.collector.metrics.v1.MetricsService"
SERVICES = (TRACE_SERVICE, LOGS_SERVICE, METRICS_SERVICE)

PROJECT_KEY_METADATA = "x-project-key"

# grpcio has no type information: its objects are `Any` here and only here.
Context: TypeAlias = Any
Handler: TypeAlias = Callable[[bytes, Context], Awaitable[bytes]]


def services(ingest: Ingest) -> list[Any]:
    """The generic handlers of the three OTLP services."""

    def take(signal: Signal[Any]) -> Handler:
        async def export(body: bytes, context: Context) -> bytes:
            key = project_key(context.invocation_metadata())
            try:
                answer = await ingest.export(body, project_key=key, signal=signal)
            except IngestRefused as refused:
                await _abort(context, refused)
            return answer.SerializeToString()

        return export

    async def ignore_metrics(_body: bytes, _context: Context) -> bytes:
        ingest.counters.ignored["metrics"] += 1
        return b""  # an empty message: full success

    return [
        _service(TRACE_SERVICE, take(TRACES)),
        _service(LOGS_SERVICE, take(LOGS)),
        _service(METRICS_SERVICE, ignore_metrics),
    ]


def project_key(metadata: Iterable[tuple[str, str | bytes]] | None) -> str | None:
    """The first `x-project-key` of a call; None when there is none."""
    for name, value in metadata or ():
        if name == PROJECT_KEY_METADATA:
            return value if isinstance(value, str) else value.decode("ascii", errors="replace")
    return None


def retry_trailers(code: int, message: str, retry_after_seconds: float) -> tuple[tuple[str, bytes], ...]:
    """RetryInfo as OTLP asks for it, and once more in the place where Python's gRPC exporter looks for it."""
    nanoseconds = round(retry_after_seconds * 1e9)
    retry = RetryInfo(retry_delay=Duration(seconds=nanoseconds // 10**9, nanos=nanoseconds % 10**9))
    detail = AnyMessage()
    detail.Pack(retry)
    status = Status(code=code, message=message, details=[detail])
    return (
        ("grpc-status-details-bin", status.SerializeToString()),
        ("google.rpc.retryinfo-bin", retry.SerializeToString()),
    )


async def _abort(context: Context, refused: IngestRefused) -> NoReturn:
    trailers: tuple[tuple[str, bytes], ...] = ()
    if isinstance(refused, TryAgain):
        code = grpc.StatusCode.UNAVAILABLE
        trailers = retry_trailers(code.value[0], str(refused), refused.retry_after_seconds)
    elif isinstance(refused, Undecodable):
        code = grpc.StatusCode.INVALID_ARGUMENT
    else:
        code = grpc.StatusCode.UNAUTHENTICATED
    await context.abort(code, str(refused), trailers)
    raise AssertionError("context.abort always raises")


def _service(name: str, export: Handler) -> Any:
    untyped: Any = grpc
    method = untyped.unary_unary_rpc_method_handler(export)
    return untyped.method_handlers_generic_handler(name, {"Export": method})
