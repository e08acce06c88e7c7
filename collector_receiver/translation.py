"""OTLP trace requests to what the store keeps: server spans become records, the others chunks of OTLP bytes.

Pure: no clock, no network, no loop. May run on any thread; takes the request apart while it works on it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import attrgetter

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span, Status

from collector_receiver.bounds import (
    MAX_ATTRIBUTES,
    MAX_TEXT_BYTES,
    bound_resource,
    bound_span,
    bounded_scope,
)
from collector_receiver.child_span_chunk import ChildSpanChunk
from collector_receiver.endpoint import endpoint_of, origin_of, status_code_of
from collector_receiver.header_masking import mask_attributes, masked_otlp
from collector_receiver.outcome import Outcome, log_failure
from collector_receiver.profile_event import (
    BrokenProfile,
    DecodeBudget,
    ReceivedProfile,
    TooCostlyHere,
    read_profile,
    take_profile_event,
)
from collector_receiver.rate_limit import RateLimit
from collector_receiver.semantic_conventions import (
    DROPPED_ATTRIBUTES,
    DROPPED_EVENTS,
    ENVIRONMENT,
    PROJECT_KEY,
    SERVICE_NAME,
    SERVICE_VERSION,
    UNKNOWN_SERVICE,
    first_text,
)
from collector_receiver.validation import MAX_TIME_UNIX_NANO, is_sound, parent_of, refusal, utc
from collector_receiver.written_spans import WrittenResource, spans_as_written
from profile_store.model import (
    Attributes,
    AttributeValue,
    IncomingBatch,
    IncomingChildSpans,
    IncomingRecord,
    Record,
    SpanEvent,
)
from profile_store.otlp_attributes import attributes_of

MAX_SPANS_PER_REQUEST = 65_536
MAX_COPIED_BYTES = 64 * 1024 * 1024
"""Of resources, in all records of one request: each record holds the attributes of its resource."""
MIN_RESOURCE_BYTES = 1_024
"""What a record keeps of its resource all the same."""
MAX_NAME_CHARACTERS = 200
SDK_SCOPE = "otel_pyinstrument"

_NO_LIMIT = RateLimit()
_SERVER = Span.SPAN_KIND_SERVER

# What every span is asked for, at once: asking protobuf is most of what a child span costs.
_ABOUT = attrgetter(
    "trace_id", "span_id", "parent_span_id", "kind", "start_time_unix_nano", "end_time_unix_nano", "events"
)


@dataclass(frozen=True, slots=True)
class Destination:
    """Where the spans of one resource go: a project with its limit, or nowhere for a named reason."""

    project_id: str = ""
    refusal: str = ""
    limit: RateLimit = _NO_LIMIT


@dataclass(frozen=True, slots=True)
class Sender:
    """What all spans of one resource share.

    `stored_resource`: what child spans keep of it, as OTLP bytes. `first_of_resource`: as many of its
    attributes as have room in `MIN_RESOURCE_BYTES`, from the first one on.
    """

    project_id: str
    resource: Attributes
    service: str
    version: str
    environment: str
    stored_resource: bytes
    resource_bytes: int
    first_of_resource: Attributes


@dataclass(frozen=True, slots=True)
class _Scope:
    """An instrumentation scope: whether it is our own, and what is kept of it, as OTLP bytes."""

    is_sdk: bool
    otlp: bytes

    @classmethod
    def of(cls, scope: InstrumentationScope) -> _Scope:
        return cls(scope.name == SDK_SCOPE, bounded_scope(scope).SerializeToString())


@dataclass(frozen=True, slots=True)
class Translated:
    """One request after translation. `received` counts its spans, or the log records that hold profiles."""

    batch: IncomingBatch
    outcome: Outcome
    received: int


class Translator:
    """Translates one request. Make one, call `translate` once, read `outcome` afterwards.

    `may_hold_headers`: whether any of its spans may, which the bytes of the whole tell for less than those of
    each span.
    """

    def __init__(self, decode_budget: DecodeBudget | None = None, *, may_hold_headers: bool = True) -> None:
        self.outcome = Outcome()
        self.span_count = 0
        self._examined = self._copied_bytes = 0
        self._decode_budget = decode_budget or DecodeBudget()
        self._may_hold_headers = may_hold_headers
        # By project. The kind belongs to it: Zipkin's clients and servers share one span id.
        self._seen: defaultdict[str, set[tuple[bytes, bytes, int]]] = defaultdict(set)
        self._records: list[IncomingRecord] = []
        self._chunks: list[IncomingChildSpans] = []
        self._open_chunks: dict[bytes, ChildSpanChunk] = {}

    def translated(
        self,
        request: ExportTraceServiceRequest,
        destinations: Sequence[Destination],
        written: Sequence[WrittenResource] | None = None,
    ) -> Translated:
        """`translate`, with what became of the spans."""
        batch = self.translate(request, destinations, written)
        return Translated(batch, self.outcome, self.span_count)

    def translate(
        self,
        request: ExportTraceServiceRequest,
        destinations: Sequence[Destination],
        written: Sequence[WrittenResource] | None = None,
    ) -> IncomingBatch:
        """The batch to store. `destinations` holds one entry per `resource_spans`, in their order.

        `written` are the bytes that protobuf has read the spans from; without them they are written again.

        Never raises for what a span holds: a span that cannot be stored is counted in `outcome` and left out.

        Raises:
            TooCostlyHere: by its decode budget. The request is not whole any more.
        """
        if written is None:
            written = spans_as_written(request.SerializeToString())
        for resource_spans, destination, in_bytes in zip(
            request.resource_spans, destinations, written, strict=True
        ):
            if destination.refusal:
                refused = sum(len(scope_spans.spans) for scope_spans in resource_spans.scope_spans)
                self.span_count += refused
                self.outcome.reject(destination.refusal, refused)
            else:
                sender = sender_of(resource_spans.resource, destination.project_id)
                self._translate_resource(resource_spans, in_bytes, sender)
        return IncomingBatch(records=self._records, child_spans=self._chunks)

    def _translate_resource(
        self, resource_spans: ResourceSpans, written: WrittenResource, sender: Sender
    ) -> None:
        for scope_spans, in_bytes in zip(resource_spans.scope_spans, written.scope_spans, strict=True):
            scope = _Scope.of(scope_spans.scope)
            spans = scope_spans.spans
            room = max(0, MAX_SPANS_PER_REQUEST - self._examined)
            self._examined += len(spans)
            self.span_count += len(spans)
            self.outcome.reject("too_many_spans", max(0, len(spans) - room))
            self._translate_spans(spans[:room], in_bytes.spans[:room], sender, scope)
        for trace_id, chunk in self._open_chunks.items():
            self._chunks.append(chunk.close(trace_id, sender.project_id))
        self._open_chunks.clear()

    def _translate_spans(
        self, spans: Sequence[Span], written: Sequence[bytes], sender: Sender, scope: _Scope
    ) -> None:
        seen, open_chunks = self._seen[sender.project_id], self._open_chunks
        for span, about, otlp in zip(spans, map(_ABOUT, spans), written, strict=True):
            trace_id, span_id, parent_id, kind, start, end, events = about
            if not is_sound(trace_id, span_id, parent_id, start, end) and (reason := refusal(span)):
                self.outcome.reject(reason)
                continue
            identity = (trace_id, span_id, kind)
            if identity in seen:
                continue
            seen.add(identity)
            try:
                if end < start:
                    # The clock was set back; the request did happen.
                    span.end_time_unix_nano = start
                    self.outcome.warn("end_before_start")
                    otlp = span.SerializeToString()
                event = take_profile_event(span) if events else None
                if event is not None or len(otlp) > MAX_TEXT_BYTES or len(span.attributes) > MAX_ATTRIBUTES:
                    otlp = bound_span(span)
                # The last one is a run of `@profile` outside any request: its profile may come as a log
                # record.
                if event is not None or kind == _SERVER or (scope.is_sdk and parent_of(span) is None):
                    self._records.append(self._record(span, event, sender))
                    continue
                if self._may_hold_headers:
                    otlp = masked_otlp(span, otlp)
                chunk = open_chunks.get(trace_id)
                if chunk is None:
                    chunk = open_chunks[trace_id] = ChildSpanChunk(sender.stored_resource)
                if chunk.add(span_id, start, otlp, scope.otlp):
                    del open_chunks[trace_id]
                    self._chunks.append(chunk.close(trace_id, sender.project_id))
            except TooCostlyHere:
                raise
            except Exception as error:
                log_failure(self.outcome, "a span", error)

    def _record(self, span: Span, event: Span.Event | None, sender: Sender) -> IncomingRecord:
        profile = self._profile(event)
        self._copied_bytes += sender.resource_bytes
        if self._copied_bytes > MAX_COPIED_BYTES and sender.resource_bytes > MIN_RESOURCE_BYTES:
            sender = replace(sender, resource=sender.first_of_resource)
            self.outcome.warn("resource_cut")
        record = record_of(span, sender, profile)
        return IncomingRecord(
            record=record,
            payload=profile.payload if profile else None,
            endpoint_origin=origin_of(record),
        )

    def _profile(self, event: Span.Event | None) -> ReceivedProfile | None:
        if event is None:
            return None
        try:
            return read_profile(event.attributes, self._decode_budget)
        except BrokenProfile as broken:
            self.outcome.warn(broken.reason)
            return None


def record_of(span: Span, sender: Sender, profile: ReceivedProfile | None) -> Record:
    """The record of one request. The span must have passed `validation.refusal` and `bounds.bound_span`."""
    attributes = attributes_of(span.attributes)
    mask_attributes(attributes)
    if span.dropped_attributes_count:
        attributes[DROPPED_ATTRIBUTES] = span.dropped_attributes_count
    if span.dropped_events_count:
        attributes[DROPPED_EVENTS] = span.dropped_events_count
    endpoint = endpoint_of(attributes, span.name)
    status_code = status_code_of(attributes)
    return Record(
        project_id=sender.project_id,
        trace_id=span.trace_id,
        span_id=span.span_id,
        parent_span_id=parent_of(span),
        endpoint=endpoint.name,
        method=endpoint.method,
        path=endpoint.path,
        status_code=status_code,
        failed=span.status.code == Status.STATUS_CODE_ERROR or (status_code or 0) >= 500,
        duration=(span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
        timestamp=utc(span.start_time_unix_nano),
        start_time_unix_nano=span.start_time_unix_nano,
        version=sender.version,
        environment=sender.environment,
        service=sender.service,
        attributes=attributes,
        resource=sender.resource,
        events=[_event_of(event, span) for event in span.events],
        profile=profile.facts if profile else None,
        hot_functions=profile.hot_functions if profile else (),
        facts=profile.request_facts if profile else "",
    )


def sender_of(resource: Resource, project_id: str) -> Sender:
    """Reads and bounds a resource. The project key is a secret and is not kept."""
    bound_resource(resource)
    attributes = attributes_of(resource.attributes)
    service = first_text(attributes, SERVICE_NAME, limit=MAX_NAME_CHARACTERS) or UNKNOWN_SERVICE
    attributes.pop(PROJECT_KEY, None)
    stored = Resource()
    stored.attributes.add(key=SERVICE_NAME[0]).value.string_value = service
    return Sender(
        project_id=project_id,
        resource=attributes,
        service=service,
        version=first_text(attributes, SERVICE_VERSION, limit=MAX_NAME_CHARACTERS),
        environment=first_text(attributes, ENVIRONMENT, limit=MAX_NAME_CHARACTERS),
        stored_resource=stored.SerializeToString(),
        resource_bytes=resource.ByteSize(),
        first_of_resource=_first_of(attributes),
    )


def _first_of(attributes: Attributes) -> Attributes:
    first: dict[str, AttributeValue] = {}
    size = 0
    for key, value in attributes.items():
        size += len(key) + len(str(value))
        if size > MIN_RESOURCE_BYTES:
            break
        first[key] = value
    return first


def _event_of(event: Span.Event, span: Span) -> SpanEvent:
    time_unix_nano = event.time_unix_nano
    return SpanEvent(
        name=event.name,
        time_unix_nano=time_unix_nano if time_unix_nano <= MAX_TIME_UNIX_NANO else span.start_time_unix_nano,
        attributes=attributes_of(event.attributes),
    )
