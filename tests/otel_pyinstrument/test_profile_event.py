"""The lazy event against the real batch processor and the real exporters."""

from __future__ import annotations

import base64
import copy
import io
import json
import pickle
import sys
import threading
from collections.abc import Callable, Iterator, Sequence

import pytest
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    ConsoleSpanExporter,
    SimpleSpanProcessor,
    SpanExporter,
    SpanExportResult,
)
from opentelemetry.trace import SpanKind

from otel_pyinstrument import PyinstrumentInstrumentor, profile_event
from otel_pyinstrument.call_tree import CallTreeBuilder, decode
from otel_pyinstrument.profile_event import ProfileEvent
from otel_pyinstrument.recording import Recording, RecordingFacts


def recording() -> Recording:
    builder = CallTreeBuilder()
    builder.add(["view\0/app/views.py\x001"], 0.5)
    return Recording(
        builder,
        [],
        RecordingFacts(
            duration_seconds=0.5,
            cpu_seconds=0.25,
            hooked_cpu_seconds=0.25,
            switching_cpu_seconds=0.0,
            sample_count=1,
            truncated=False,
            interrupted=False,
            failure=None,
        ),
    )


def event(
    payload_as_bytes: Callable[[], bool] = lambda: False,
    report: Callable[[str, Exception], None] = lambda hook, error: None,
    charge_encoding: Callable[[float], None] | None = None,
) -> ProfileEvent:
    return ProfileEvent(
        recording(),
        reason="rate",
        interval_seconds=0.01,
        timestamp=5,
        payload_as_bytes=payload_as_bytes,
        report=report,
        charge_encoding=charge_encoding,
    )


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the threads that encoded a tree."""
    threads: list[str] = []
    original = profile_event.encode

    def encode(*arguments: object, **options: object) -> object:
        threads.append(threading.current_thread().name)
        return original(*arguments, **options)

    monkeypatch.setattr(profile_event, "encode", encode)
    return threads


@pytest.fixture
def provider() -> Iterator[TracerProvider]:
    made = TracerProvider(resource=Resource.get_empty(), shutdown_on_exit=False)
    yield made
    made.shutdown()


def serve(provider: TracerProvider, name: str = "GET /") -> None:
    with provider.get_tracer("test").start_as_current_span(name, kind=SpanKind.SERVER):
        pass


def attributes_of(span: object) -> dict[str, object]:
    """The attributes of the profile event of a span that arrived over OTLP."""
    (found,) = [event for event in span.events if event.name == "pyinstrument.profile"]
    return {entry.key: getattr(entry.value, entry.value.WhichOneof("value")) for entry in found.attributes}


# --- the event alone ---------------------------------------------------------------------------------


def test_many_readers_at_once_encode_once(counted: list[str]) -> None:
    # Given an event that several threads read at the same moment
    shared = event()
    results: list[object] = []
    barrier = threading.Barrier(8)

    def read() -> None:
        barrier.wait()
        results.append(shared.attributes)

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(counted) == 1
    assert all(result is results[0] for result in results)


def test_the_raw_tree_is_freed_once_encoded() -> None:
    made = event()
    before = made._recording

    assert before is not None
    assert made.attributes
    assert made._recording is None


@pytest.mark.parametrize("part", ["encode", "summary", "current_describer"])
def test_a_failure_to_encode_leaves_the_facts_and_an_error(
    part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: list[str] = []

    def fail(*_arguments: object) -> None:
        raise MemoryError("x" * 1000)

    monkeypatch.setattr(profile_event, part, fail)

    attributes = event(report=lambda hook, error: reported.append(hook)).attributes

    assert attributes["pyinstrument.duration"] == 0.5
    assert attributes["pyinstrument.error"].startswith("MemoryError: x")
    assert len(attributes["pyinstrument.error"]) == 200
    assert not {"pyinstrument.payload", "pyinstrument.encoding"} & attributes.keys()
    assert reported == ["encoding"]


def test_a_failure_to_choose_the_form_does_not_raise() -> None:
    def fail() -> bool:
        raise RuntimeError("no such provider")

    assert event(fail).attributes["pyinstrument.error"] == "RuntimeError: no such provider"


def test_a_failure_to_charge_the_encoding_costs_nothing_of_the_profile() -> None:
    # Given a gate that cannot be told what the encoding took
    reported: list[str] = []

    def fail(_cpu_seconds: float) -> None:
        raise RuntimeError("on purpose")

    # When exporters read the event twice
    made = event(report=lambda hook, error: reported.append(hook), charge_encoding=fail)
    read = [made.attributes, made.attributes]

    # Then they have the whole profile, and it was said once
    assert read[0] is read[1]
    assert dict(read[0]) == dict(event().attributes)
    assert reported == ["charging the encoding"]


def test_an_event_has_what_encoders_read() -> None:
    made = event()

    assert (made.name, made.timestamp, made.dropped_attributes) == ("pyinstrument.profile", 5, 0)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda made: pickle.loads(pickle.dumps(made))])
def test_copies_are_plain_events(copied: Callable[[object], object]) -> None:
    made = event()

    plain = copied(made)

    assert type(plain) is Event
    assert dict(plain.attributes) == dict(made.attributes)


def test_bytes_and_text_hold_the_same_payload() -> None:
    as_bytes, as_text = event(lambda: True).attributes, event().attributes

    assert as_bytes["pyinstrument.encoding"] == "zlib+json"
    assert as_text["pyinstrument.encoding"] == "zlib+json+base64"
    assert base64.b64decode(as_text["pyinstrument.payload"]) == as_bytes["pyinstrument.payload"]


# --- with exporters ----------------------------------------------------------------------------------


def test_the_batch_processor_encodes_on_its_own_thread(
    provider: TracerProvider, grpc_sink, counted: list[str], wait_until
) -> None:
    # Given a batch processor that exports by itself
    provider.add_span_processor(
        BatchSpanProcessor(GrpcExporter(endpoint=grpc_sink.endpoint, insecure=True), schedule_delay_millis=50)
    )
    PyinstrumentInstrumentor().instrument(tracer_provider=provider, rate=1)

    # When a request is served
    serve(provider)
    wait_until(grpc_sink.spans)

    # Then the request's thread did not pay for the encoding
    assert counted == ["OtelBatchSpanRecordProcessor"]


@pytest.mark.parametrize("processor", [SimpleSpanProcessor, BatchSpanProcessor])
def test_who_waits_for_the_export_pays_for_the_encoding(
    processor: type, provider: TracerProvider, http_sink, counted: list[str]
) -> None:
    # Given a processor that exports at once, or when it is told to
    provider.add_span_processor(processor(HttpExporter(endpoint=http_sink.endpoint)))
    PyinstrumentInstrumentor().instrument(tracer_provider=provider, rate=1)

    # When that is done on this thread
    serve(provider)
    provider.force_flush()

    assert counted == [threading.current_thread().name]
    assert [span.name for span in http_sink.spans()] == ["GET /"]


@pytest.mark.parametrize("protocol", ["grpc", "http"])
@pytest.mark.parametrize("ours_first", [True, False])
def test_otlp_carries_the_payload_as_bytes(
    protocol: str, ours_first: bool, provider: TracerProvider, grpc_sink, http_sink
) -> None:
    # Given a batch processor before or after ours
    sink = {"grpc": grpc_sink, "http": http_sink}[protocol]
    exporter = (
        GrpcExporter(endpoint=sink.endpoint, insecure=True)
        if protocol == "grpc"
        else HttpExporter(endpoint=sink.endpoint)
    )
    if ours_first:
        PyinstrumentInstrumentor().instrument(tracer_provider=provider, rate=1)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    if not ours_first:
        PyinstrumentInstrumentor().instrument(tracer_provider=provider, rate=1)

    # When requests and other spans are exported in one batch
    serve(provider)
    provider.get_tracer("test").start_span("other").end()
    provider.force_flush()

    # Then all arrive, and the profile decodes
    assert sorted(span.name for span in sink.spans()) == ["GET /", "other"]
    (span,) = [span for span in sink.spans() if span.name == "GET /"]
    attributes = attributes_of(span)
    assert attributes["pyinstrument.encoding"] == "zlib+json"
    assert decode(attributes["pyinstrument.payload"]).node_count == attributes["pyinstrument.node_count"]
    assert span.events[-1].time_unix_nano == span.end_time_unix_nano


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_retry_sends_the_same_bytes(
    protocol: str, provider: TracerProvider, grpc_sink, http_sink, counted: list[str]
) -> None:
    # Given an endpoint that refuses the first attempt
    sink = {"grpc": grpc_sink, "http": http_sink}[protocol]
    sink.refuse_next = 1
    provider.add_span_processor(
        BatchSpanProcessor(
            GrpcExporter(endpoint=sink.endpoint, insecure=True)
            if protocol == "grpc"
            else HttpExporter(endpoint=sink.endpoint)
        )
    )
    PyinstrumentInstrumentor().instrument(tracer_provider=provider, rate=1)

    serve(provider)
    provider.force_flush()

    first, second = sink.requests
    assert first == second
    assert len(counted) == 1


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_profile_that_cannot_be_encoded_takes_no_other_span_with_it(
    protocol: str, provider: TracerProvider, grpc_sink, http_sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given an encoder that fails
    sink = {"grpc": grpc_sink, "http": http_sink}[protocol]
    provider.add_span_processor(
        BatchSpanProcessor(
            GrpcExporter(endpoint=sink.endpoint, insecure=True)
            if protocol == "grpc"
            else HttpExporter(endpoint=sink.endpoint)
        )
    )
    PyinstrumentInstrumentor().instrument(tracer_provider=provider, rate=1)

    def fail(*_arguments: object) -> None:
        raise RuntimeError("on purpose")

    monkeypatch.setattr(profile_event, "encode", fail)

    # When a batch is exported
    serve(provider)
    provider.get_tracer("test").start_span("other").end()
    provider.force_flush()

    # Then every span arrives, and the profile says what happened
    assert sorted(span.name for span in sink.spans()) == ["GET /", "other"]
    (span,) = [span for span in sink.spans() if span.name == "GET /"]
    assert attributes_of(span)["pyinstrument.error"] == "RuntimeError: on purpose"


def test_the_console_exporter_gets_text(provider: TracerProvider) -> None:
    # Given spans printed to the console, in a batch with others
    out = io.StringIO()
    provider.add_span_processor(
        BatchSpanProcessor(
            ConsoleSpanExporter(out=out, formatter=lambda span: span.to_json(indent=None) + "\n")
        )
    )
    PyinstrumentInstrumentor().instrument(tracer_provider=provider, rate=1)

    serve(provider)
    provider.get_tracer("test").start_span("other").end()
    provider.force_flush()

    printed = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [span["name"] for span in printed] == ["GET /", "other"]
    assert printed[0]["events"][0]["attributes"]["pyinstrument.encoding"] == "zlib+json+base64"


@pytest.mark.parametrize("processor", [SimpleSpanProcessor, BatchSpanProcessor])
def test_a_profile_that_cannot_be_encoded_is_printed_with_all_other_spans(
    processor: type, provider: TracerProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given an encoder that fails, and spans printed at once or in a batch
    out = io.StringIO()
    provider.add_span_processor(
        processor(ConsoleSpanExporter(out=out, formatter=lambda span: span.to_json(indent=None) + "\n"))
    )
    PyinstrumentInstrumentor().instrument(tracer_provider=provider, rate=1)

    def fail(*_arguments: object) -> None:
        raise MemoryError("on purpose")

    monkeypatch.setattr(profile_event, "encode", fail)

    serve(provider)
    provider.get_tracer("test").start_span("other").end()
    provider.force_flush()

    printed = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [span["name"] for span in printed] == ["GET /", "other"]
    assert printed[0]["events"][0]["attributes"]["pyinstrument.error"] == "MemoryError: on purpose"


def test_one_exporter_that_is_not_otlp_is_enough_for_text(provider: TracerProvider, http_sink) -> None:
    provider.add_span_processor(BatchSpanProcessor(HttpExporter(endpoint=http_sink.endpoint)))
    provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(out=io.StringIO())))
    PyinstrumentInstrumentor().instrument(tracer_provider=provider, rate=1)

    serve(provider)
    provider.force_flush()

    (span,) = http_sink.spans()
    assert attributes_of(span)["pyinstrument.encoding"] == "zlib+json+base64"


def test_an_exporter_added_later_is_seen(provider: TracerProvider) -> None:
    out = io.StringIO()
    PyinstrumentInstrumentor().instrument(tracer_provider=provider, rate=1)
    provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(out=out)))

    serve(provider)

    assert "zlib+json+base64" in out.getvalue()


class HookSpy(SpanExporter):
    """Looks at the profile function of the thread it is called on."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, object]] = []

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.seen.append((threading.current_thread().name, sys.getprofile()))
        return SpanExportResult.SUCCESS


def test_the_export_thread_is_never_profiled(provider: TracerProvider, wait_until) -> None:
    # Given a request that runs while the export thread works
    spy = HookSpy()
    provider.add_span_processor(BatchSpanProcessor(spy, schedule_delay_millis=20))
    PyinstrumentInstrumentor().instrument(tracer_provider=provider, rate=1)

    serve(provider)
    with provider.get_tracer("test").start_as_current_span("GET /", kind=SpanKind.SERVER):
        assert sys.getprofile() is not None
        wait_until(lambda: spy.seen)

    assert {hook for _, hook in spy.seen} == {None}
    assert {name for name, _ in spy.seen} == {"OtelBatchSpanRecordProcessor"}


def test_the_simple_processor_exports_without_the_hook(provider: TracerProvider) -> None:
    # Exporting on the request's thread is not part of the request either
    spy = HookSpy()
    provider.add_span_processor(SimpleSpanProcessor(spy))
    PyinstrumentInstrumentor().instrument(tracer_provider=provider, rate=1)

    serve(provider)

    assert spy.seen == [(threading.current_thread().name, None)]
