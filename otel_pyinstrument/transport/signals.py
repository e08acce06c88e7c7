"""What the transport must know of each signal: spans, and log records when profiles travel as such."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from opentelemetry.sdk.trace.export import SpanExportResult

from otel_pyinstrument.transport import private_names
from otel_pyinstrument.transport.oversize import log_record_without_payload, span_without_payload
from otel_pyinstrument.transport.sizes import attributes_bytes, span_bytes

_LOG_RECORD_BYTES = 160


class Signal(NamedTuple):
    """How items of one signal are measured, cut and encoded, and what an export of them answers."""

    grpc_method: str
    success: Any
    failure: Any
    size_of: Callable[[Any], int]
    without_payload: Callable[[Any, int], Any]
    encode: Callable[[Sequence[Any]], bytes]


def signal_named(name: str) -> Signal:
    """`traces` or `logs`. Imports the SDK's logs only when they are asked for."""
    return _traces() if name == "traces" else _logs()


def _traces() -> Signal:
    return Signal(
        grpc_method="/opentelemetry.proto.collector.trace.v1.TraceService/Export",
        success=SpanExportResult.SUCCESS,
        failure=SpanExportResult.FAILURE,
        size_of=span_bytes,
        without_payload=span_without_payload,
        encode=_encode_spans,
    )


def _encode_spans(spans: Sequence[Any]) -> bytes:
    from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans

    return encode_spans(spans).SerializeToString()


def _logs() -> Signal:
    success, failure = private_names.log_export_results()
    return Signal(
        grpc_method="/opentelemetry.proto.collector.logs.v1.LogsService/Export",
        success=success,
        failure=failure,
        size_of=_log_record_bytes,
        without_payload=log_record_without_payload,
        encode=private_names.encode_log_records,
    )


def _log_record_bytes(readable: Any) -> int:
    record = readable.log_record
    return (
        _LOG_RECORD_BYTES
        + attributes_bytes(record.attributes)
        + attributes_bytes({"body": record.body, "severity": record.severity_text, "name": record.event_name})
    )
