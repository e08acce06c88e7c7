"""What differs between the OTLP signals on their way through `Ingest`: parsing, translating, answering."""

from __future__ import annotations

import gc
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Generic, Literal, NamedTuple, Protocol, TypeAlias, TypeVar

from google.protobuf.message import DecodeError, Message
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsPartialSuccess,
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans

from collector_receiver import log_profiles
from collector_receiver.counters import SignalName
from collector_receiver.header_masking import may_hold_headers
from collector_receiver.json_values import NotOtlpJson
from collector_receiver.otlp_json import to_protobuf
from collector_receiver.outcome import Outcome
from collector_receiver.profile_event import EVENT_NAME, DecodeBudget, TooCostlyHere
from collector_receiver.projects import Sending
from collector_receiver.refusals import Undecodable
from collector_receiver.salvage import salvage
from collector_receiver.translation import Destination, Translated, Translator
from collector_receiver.wire_scan import (
    MAX_MESSAGES,
    Malformed,
    TooManyMessages,
    check_messages,
    count_messages,
)
from collector_receiver.written_spans import WrittenResource, spans_as_written
from profile_store.model import IncomingBatch

Encoding: TypeAlias = Literal["protobuf", "json"]

MAX_RESOURCES_AND_SCOPES = 131_072  # a Collector may batch spans that each have a resource of their own
MANY_PARTS = 4_000  # resources, scopes and spans; an empty one may take 6 us, as much as one of 1 KiB
SALVAGED_ON_LOOP_BYTES = 8_192  # of the smallest parts, which take 2 us for each byte

Request = TypeVar("Request", bound=Message)
Parsed = TypeVar("Parsed")
Parsed_co = TypeVar("Parsed_co", covariant=True)


class _Within(Protocol):
    """The scopes of `ResourceSpans` or `ResourceLogs`, the items of one of these."""

    def __call__(self, element: Any, /) -> Sequence[object]: ...


class Parse(Protocol[Parsed_co]):
    """Reads a request.

    Raises:
        Undecodable: it is none, or has more of something than is taken.
        TooCostlyHere: `on_loop`, and reading and translating it would keep the event loop from others.
    """

    def __call__(self, body: bytes, /, *, on_loop: bool = False) -> Parsed_co: ...


class ReadTraces(NamedTuple):
    """A trace request that protobuf has read, and the bytes that it has read its spans from."""

    request: ExportTraceServiceRequest
    written: Sequence[WrittenResource]
    may_hold_headers: bool

    @property
    def resource_spans(self) -> Sequence[ResourceSpans]:
        return self.request.resource_spans


Traces: TypeAlias = ExportTraceServiceRequest | ReadTraces


@dataclass(frozen=True, slots=True)
class Signal(Generic[Parsed]):
    """One kind of telemetry that is taken. All functions are pure and may run on any thread.

    `senders` are the elements of a request that each have one resource; `size` is
    the number of spans or profiles in one of them. `translate` takes the request apart; it raises
    TooCostlyHere when the budget says so.
    """

    name: SignalName
    parse: Mapping[Encoding, Parse[Parsed]]
    senders: Callable[[Parsed], Sequence[Sending]]
    size: Callable[[Any], int]
    translate: Callable[[Parsed, Sequence[Destination], DecodeBudget], Translated]
    answer: Callable[[int, str], Message]


def _parse_traces(body: bytes, *, on_loop: bool = False) -> Traces:
    request, is_whole = _from_protobuf(ExportTraceServiceRequest, body, on_loop=on_loop)
    _checked_traces(request, on_loop=on_loop)
    return _read(request, body) if is_whole else request


def _parse_traces_json(body: bytes, *, on_loop: bool = False) -> ReadTraces:
    written = _from_json(ExportTraceServiceRequest, body, on_loop=on_loop)
    request = _checked_traces(ExportTraceServiceRequest.FromString(written), on_loop=on_loop)
    return _read(request, written)


def _read(request: ExportTraceServiceRequest, written: bytes) -> ReadTraces:
    return ReadTraces(request, spans_as_written(written), may_hold_headers(written))


def _parse_logs(body: bytes, *, on_loop: bool = False) -> ExportLogsServiceRequest:
    request, _ = _from_protobuf(ExportLogsServiceRequest, body, on_loop=on_loop)
    # Nearly every logs request holds no profile, which its bytes tell without a look at its records.
    if EVENT_NAME.encode() not in body:
        return ExportLogsServiceRequest()
    return _only_profiles(request, on_loop=on_loop)


def _parse_logs_json(body: bytes, *, on_loop: bool = False) -> ExportLogsServiceRequest:
    request = ExportLogsServiceRequest.FromString(_from_json(ExportLogsServiceRequest, body, on_loop=on_loop))
    return _only_profiles(request, on_loop=on_loop)


def _parse_metrics(body: bytes, *, on_loop: bool = False) -> ExportMetricsServiceRequest:
    """Nothing of a request that is one: metrics are not stored, but damage is told as with other signals."""
    # Their packed numbers, of which each may take eight times its bytes, become no objects.
    with _refusing(ExportMetricsServiceRequest):
        count_messages(ExportMetricsServiceRequest, body, limit=MAX_MESSAGES)
    return ExportMetricsServiceRequest()


def _parse_metrics_json(body: bytes, *, on_loop: bool = False) -> ExportMetricsServiceRequest:
    _from_json(ExportMetricsServiceRequest, body, on_loop=on_loop)
    return ExportMetricsServiceRequest()


def _from_protobuf(kind: type[Request], body: bytes, *, on_loop: bool = False) -> tuple[Request, bool]:
    """The request, and whether it is `body` as it came and not what could be salvaged of it."""
    with _refusing(kind):
        try:
            check_messages(kind, body)
            return kind.FromString(body), True
        except (DecodeError, Malformed):
            if on_loop and len(body) > SALVAGED_ON_LOOP_BYTES:
                raise TooCostlyHere from None
            return salvage(kind, body), False


@contextmanager
def _refusing(kind: type[Message]) -> Generator[None]:
    """What cannot be read is `Undecodable`."""
    try:
        yield
    except TooManyMessages:
        raise Undecodable(
            "too_many_messages",
            f"more than {MAX_MESSAGES} attributes, values and other parts; send smaller batches",
        ) from None
    except Malformed:
        raise Undecodable("undecodable", f"the body is not an {kind.DESCRIPTOR.name} in protobuf") from None


def _from_json(kind: type[Message], body: bytes, *, on_loop: bool) -> bytes:
    """The request as protobuf."""
    salvage_elsewhere = on_loop and len(body) > SALVAGED_ON_LOOP_BYTES
    try:
        with _without_collections() if on_loop else nullcontext():
            return to_protobuf(kind, body, keep_readable=not salvage_elsewhere)
    except NotOtlpJson as problem:
        if salvage_elsewhere:
            raise TooCostlyHere from None
        raise Undecodable(
            "undecodable", f"the body is not an {kind.DESCRIPTOR.name}: {problem}", field=problem.field
        ) from None


@contextmanager
def _without_collections() -> Generator[None]:
    """Python looks for circles after each 700 new objects: the thousands of a JSON document hold none, and to
    look at them costs as much as to make them. Only for what is short and on the loop's thread."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _checked_traces(
    request: ExportTraceServiceRequest, *, on_loop: bool = False
) -> ExportTraceServiceRequest:
    _bound_parts(
        request.resource_spans,
        lambda resource: resource.scope_spans,
        lambda scope: scope.spans,
        on_loop=on_loop,
    )
    return request


def _only_profiles(request: ExportLogsServiceRequest, *, on_loop: bool) -> ExportLogsServiceRequest:
    _bound_parts(
        request.resource_logs,
        lambda resource: resource.scope_logs,
        lambda scope: scope.log_records,
        on_loop=on_loop,
    )
    return log_profiles.only_profiles(request)


def _bound_parts(
    resources: Sequence[object], scopes_of: _Within, items_of: _Within, *, on_loop: bool
) -> None:
    most = MANY_PARTS if on_loop else MAX_RESOURCES_AND_SCOPES
    parts = len(resources)
    if parts <= most:
        parts += sum(len(scopes_of(resource)) for resource in resources)
    if on_loop and parts <= most:
        parts += sum(len(items_of(scope)) for resource in resources for scope in scopes_of(resource))
    if parts <= most:
        return
    if on_loop:
        raise TooCostlyHere
    raise Undecodable(
        "too_many_resources", f"the request has more than {MAX_RESOURCES_AND_SCOPES} resources and scopes"
    )


def _translate_traces(
    traces: Traces, destinations: Sequence[Destination], decode_budget: DecodeBudget
) -> Translated:
    if not isinstance(traces, ReadTraces):
        return Translator(decode_budget).translated(traces, destinations)
    translator = Translator(decode_budget, may_hold_headers=traces.may_hold_headers)
    return translator.translated(traces.request, destinations, traces.written)


def _answer_traces(rejected: int, message: str) -> ExportTraceServiceResponse:
    if not message:
        return ExportTraceServiceResponse()
    partial = ExportTracePartialSuccess(rejected_spans=rejected, error_message=message)
    return ExportTraceServiceResponse(partial_success=partial)


def _answer_logs(rejected: int, message: str) -> ExportLogsServiceResponse:
    if not message:
        return ExportLogsServiceResponse()
    partial = ExportLogsPartialSuccess(rejected_log_records=rejected, error_message=message)
    return ExportLogsServiceResponse(partial_success=partial)


TRACES: Signal[Traces] = Signal(
    name="traces",
    parse={"protobuf": _parse_traces, "json": _parse_traces_json},
    senders=lambda traces: traces.resource_spans,
    size=lambda element: sum(len(scope.spans) for scope in element.scope_spans),
    translate=_translate_traces,
    answer=_answer_traces,
)

LOGS: Signal[ExportLogsServiceRequest] = Signal(
    name="logs",
    parse={"protobuf": _parse_logs, "json": _parse_logs_json},
    senders=lambda request: request.resource_logs,
    size=lambda element: sum(len(scope.log_records) for scope in element.scope_logs),
    translate=log_profiles.translate,
    answer=_answer_logs,
)

METRICS: Signal[ExportMetricsServiceRequest] = Signal(
    name="metrics",
    parse={"protobuf": _parse_metrics, "json": _parse_metrics_json},
    senders=lambda _request: (),
    size=lambda _element: 0,
    translate=lambda _request, _destinations, _budget: Translated(IncomingBatch(), Outcome(), 0),
    answer=lambda _rejected, _message: ExportMetricsServiceResponse(),
)
