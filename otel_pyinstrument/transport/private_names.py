"""Every name of the OTLP exporters and of uvicorn that is not their public interface.

As in `otel_pyinstrument.private_names`, nothing else of this package touches such a name.
"""

from __future__ import annotations

import copy
import signal
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from opentelemetry.sdk.trace import Event, EventBase, ReadableSpan

if TYPE_CHECKING:
    from opentelemetry._logs import LogRecord

_OTLP = "opentelemetry.exporter.otlp.proto."
_EXPORTER_NAMES = {"OTLPSpanExporter": "traces", "OTLPLogExporter": "logs"}
_DEFAULT_TIMEOUT_SECONDS = 10.0


class ExporterKind(NamedTuple):
    """Which of the four OTLP exporters something is."""

    protocol: str
    """`grpc` or `http`"""
    signal: str
    """`traces` or `logs`"""


def exporter_kind(exporter: object) -> ExporterKind | None:
    """None for what is not an OTLP exporter, or a subclass of one. Imports nothing."""
    for base in type(exporter).__mro__:
        if base.__module__.startswith(_OTLP) and base.__name__ in _EXPORTER_NAMES:
            protocol = base.__module__.removeprefix(_OTLP).split(".", 1)[0]
            return ExporterKind(protocol, _EXPORTER_NAMES[base.__name__])
    return None


def exporter_of(processor: object) -> Any:
    """The exporter of a batch or simple processor of spans or log records; None when there is none."""
    exporter = getattr(processor, "span_exporter", None)
    if exporter is None:
        exporter = getattr(getattr(processor, "_batch_processor", processor), "_exporter", None)
    return exporter


def hides_its_exporter(processor: object) -> bool:
    """Whether `processor` is one of the SDK's that have an OTLP exporter, and we do not find or know it."""
    exporter = exporter_of(processor)
    if exporter is None:
        return _is_of_the_sdk(processor) and type(processor).__name__.startswith(("Batch", "Simple"))
    return type(exporter).__module__.startswith(_OTLP) and exporter_kind(exporter) is None


def _is_of_the_sdk(instance: object) -> bool:
    return type(instance).__module__.startswith("opentelemetry.sdk.")


def log_processors_of(provider: object) -> list[object]:
    """The log record processors of an SDK logger provider; empty for others.

    Raises:
        AttributeError: this version of the SDK keeps them elsewhere.
    """
    if not _is_of_the_sdk(provider):
        return []
    return list(getattr(getattr(provider, "_multi_log_record_processor"), "_log_record_processors"))  # noqa: B009 - pyright forbids the private attributes


def log_export_results() -> tuple[object, object]:
    """What an export of log records answers: success, failure."""
    from opentelemetry.sdk._logs.export import LogRecordExportResult

    return LogRecordExportResult.SUCCESS, LogRecordExportResult.FAILURE


def encode_log_records(batch: Sequence[Any]) -> bytes:
    from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs

    return encode_logs(batch).SerializeToString()


def own_request_limit(exporter: object) -> int | None:
    """Bytes above which the HTTP exporter drops a request by itself (its `max_request_size`)."""
    limit = getattr(exporter, "_max_request_size", None)
    return limit if isinstance(limit, int) and limit > 0 else None


def is_shut_down(exporter: object) -> bool:
    return bool(getattr(exporter, "_shutdown", False))


def endpoint_of(exporter: object) -> str:
    """Where `exporter` sends to."""
    return str(getattr(exporter, "_endpoint"))  # noqa: B009 - pyright forbids the private attribute


def sends_without_tls(exporter: object) -> bool:
    """Whether a gRPC exporter was told to use no TLS."""
    return bool(getattr(exporter, "_insecure", False))


def headers_of(exporter: object) -> dict[str, str]:
    """The headers or metadata that go with each request, by name in lower case. They may be secret."""
    headers: Any = getattr(exporter, "_headers", None) or getattr(
        getattr(exporter, "_client", None), "_headers", None
    )
    pairs: Any = headers.items() if hasattr(headers, "items") else headers or ()
    return {str(name).lower(): str(value) for name, value in pairs}


def timeout_seconds_of(exporter: object) -> float:
    for owner in (exporter, getattr(exporter, "_client", None)):
        timeout = getattr(owner, "_timeout", None)
        if isinstance(timeout, (int, float)):
            return float(timeout)
    return _DEFAULT_TIMEOUT_SECONDS


def step_after_encoding(
    exporter: Any, protocol: str, check: Callable[[int], None]
) -> tuple[Any, str, Callable[..., Any]] | None:
    """The step of an export that knows the size of the request: its owner, its name, and what may replace it.

    The replacement tells `check` the number of bytes before they are sent; what that raises leaves `export`.
    None when this exporter is not built as we know it.
    """
    if protocol == "grpc":
        encode = getattr(exporter, "_translate_data", None)

        def encode_and_check(batch: Any) -> Any:
            request = encode(batch)  # pyright: ignore[reportOptionalCall]
            outermost = _fields_of(exporter).get("_translate_data") is encode_and_check
            if not (outermost and _takes_bytes(getattr(getattr(exporter, "_client", None), "Export", None))):
                check(request.ByteSize())
                return request
            # A message finds its size by writing itself: what is written is what is sent.
            body = request.SerializeToString()
            check(len(body))
            return body

        return None if encode is None else (exporter, "_translate_data", encode_and_check)
    client = getattr(exporter, "_client", None)
    send = getattr(client, "export", None)

    def check_and_send(body: bytes, *arguments: Any, **named: Any) -> Any:
        check(len(body))
        return send(body, *arguments, **named)  # pyright: ignore[reportOptionalCall]

    return None if send is None else (client, "export", check_and_send)


class _WrittenOrNot(NamedTuple):
    """The serializer of a gRPC call that may be given what is written already."""

    serialize: Callable[[Any], Any]

    def __call__(self, request: Any) -> Any:
        return request if request.__class__ is bytes else self.serialize(request)


def _takes_bytes(call: Any) -> bool:
    """Whether gRPC's `call` sends bytes as they are. An exporter makes another one when it connects anew."""
    serialize = getattr(call, "_request_serializer", None)
    if isinstance(serialize, _WrittenOrNot):
        return True
    if type(call).__module__ != "grpc._channel" or not callable(serialize):
        return False  # an interceptor, which expects messages
    setattr(call, "_request_serializer", _WrittenOrNot(serialize))  # noqa: B010 - for pyright
    return True


def with_events(span: ReadableSpan, events: Iterable[EventBase]) -> ReadableSpan:
    """A copy of `span` that has `events` instead of its own and counts the same events as dropped."""
    from opentelemetry.sdk.util import BoundedList

    changed = copy.copy(span)
    kept: BoundedList[EventBase] = BoundedList(None)
    kept.extend(list(events))
    kept.dropped = span.dropped_events
    setattr(changed, "_events", kept)  # noqa: B010 - pyright forbids the private attribute
    return changed


def plain_event(event: EventBase, attributes: dict[str, Any]) -> Event:
    return Event(event.name, attributes, event.timestamp)


def _fields_of(owner: object) -> dict[str, Any]:
    return dict(vars(owner))


# --- Log records ---------------------------------------------------------------------------------------


def takes_log_records(provider: object, logger: Any, record: LogRecord) -> bool:
    """Whether somebody receives `record` from `logger`: nobody does from the API's own providers."""
    if type(provider).__module__.startswith("opentelemetry._logs."):
        return False
    enabled = getattr(logger, "enabled", None)
    if enabled is None:
        return bool(log_processors_of(provider))
    return bool(
        enabled(context=record.context, severity_number=record.severity_number, event_name=record.event_name)
    )


def with_lazy_attributes(logger: Any, record: LogRecord) -> Any:
    """What to emit so that the SDK does not read the attributes of `record` on this thread.

    The SDK copies and checks the attributes of a plain `LogRecord` at once; a record of its own type it hands
    to the processors as it is.
    """
    resource = getattr(logger, "resource", None)
    scope = getattr(logger, "instrumentation_scope", None)
    if resource is None or scope is None:
        return record
    try:
        lazy_record = _lazy_record()
    except ImportError:
        return record
    # The limits are not applied to a span event of ours either.
    return lazy_record(record, resource, scope, None)


@cache
def _lazy_record() -> Any:
    from opentelemetry.sdk._logs import ReadWriteLogRecord

    class LazyRecord(ReadWriteLogRecord):
        def __post_init__(self) -> None:
            """The base class copies the attributes here."""

    return LazyRecord


# --- Sending one request once, without the exporter's retries ------------------------------------------


def can_open_grpc_channel(exporter: object) -> bool:
    """Whether this gRPC exporter is built as we know it."""
    return {"_insecure", "_endpoint", "_credentials", "_headers", "_compression"} <= _fields_of(
        exporter
    ).keys()


def open_grpc_channel(exporter: Any) -> tuple[Any, Any, Any]:
    """A new channel to where `exporter` sends, with its credentials; its metadata; its compression."""
    import grpc

    values = _fields_of(exporter)
    compression = values["_compression"]
    options = values.get("_channel_options")
    if values["_insecure"]:
        channel = grpc.insecure_channel(values["_endpoint"], options, compression)
    else:
        channel = grpc.secure_channel(values["_endpoint"], values["_credentials"], options, compression)
    return channel, values["_headers"], compression


def http_post_once(exporter: Any) -> Callable[[bytes, float], tuple[int | None, str]] | None:
    """Function (body, timeout in seconds) -> (status or None without an answer, reason).

    None when this exporter is not built as we know it.
    """
    client = getattr(exporter, "_client", None)
    if all(hasattr(client, name) for name in ("_transport", "_compress", "_headers", "_endpoint")):
        inner = _fields_of(client)
        compress = getattr(client, "_compress")  # noqa: B009 - pyright forbids the private attribute

        def by_transport(body: bytes, timeout_seconds: float) -> tuple[int | None, str]:
            result = inner["_transport"].request(
                "POST",
                inner["_endpoint"],
                headers=inner["_headers"],
                data=compress(body),
                timeout=timeout_seconds,
            )
            return result.status_code, str(result.reason or result.error)

        return by_transport
    export = getattr(exporter, "_export", None)
    if export is None:
        return None

    def by_session(body: bytes, timeout_seconds: float) -> tuple[int | None, str]:
        answer = export(body, timeout_seconds)
        return answer.status_code, str(answer.reason)

    return by_session


# --- uvicorn ----------------------------------------------------------------------------------------


def ends_by_sigterm(server: object) -> bool:
    """Whether a `uvicorn.Server` will raise SIGTERM again after its shutdown. True when we cannot see it."""
    captured = getattr(server, "_captured_signals", None)
    return captured is None or signal.SIGTERM in captured
