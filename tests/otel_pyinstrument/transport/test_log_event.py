"""Profiles as log records, through the SDK's own log processors and exporters."""

from __future__ import annotations

import base64
import io
import json
import threading
from importlib import metadata

import pytest
from opentelemetry import _logs
from opentelemetry._logs import _internal as logs_internal
from opentelemetry.sdk._logs import LoggerProvider, LogRecordLimits, LogRecordProcessor
from opentelemetry.sdk._logs.export import (
    BatchLogRecordProcessor,
    ConsoleLogRecordExporter,
    InMemoryLogRecordExporter,
    SimpleLogRecordProcessor,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind
from opentelemetry.util._once import Once
from packaging.version import Version

from otel_pyinstrument import PyinstrumentInstrumentor
from otel_pyinstrument.call_tree import decode
from otel_pyinstrument.profile_event import ProfileEvent
from otel_pyinstrument.transport.export import SplittingExport


@pytest.fixture
def logger_provider(monkeypatch):
    """The global logger provider, for this test only."""
    monkeypatch.setattr(logs_internal, "_LOGGER_PROVIDER", None)
    monkeypatch.setattr(logs_internal, "_LOGGER_PROVIDER_SET_ONCE", Once())
    provider = LoggerProvider(resource=Resource({"service.name": "shop"}), shutdown_on_exit=False)
    _logs.set_logger_provider(provider)
    yield provider
    provider.shutdown()


@pytest.fixture
def no_logger_provider(monkeypatch):
    monkeypatch.setattr(logs_internal, "_LOGGER_PROVIDER", None)
    monkeypatch.setattr(logs_internal, "_LOGGER_PROVIDER_SET_ONCE", Once())


class App:
    def __init__(self, **options) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False, **options)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        PyinstrumentInstrumentor().instrument(tracer_provider=self.provider, rate=1, interval=1, event="log")

    def request(self, burn):
        with self.provider.get_tracer("t").start_as_current_span("GET /", kind=SpanKind.SERVER):
            burn(0.02)
        return self.exporter.get_finished_spans()[-1]


def tree_of(attributes):
    return decode(base64.b64decode(attributes["pyinstrument.payload"]))


def test_the_profile_is_a_log_record_of_its_span(logger_provider, burn) -> None:
    # Given
    logs = InMemoryLogRecordExporter()
    logger_provider.add_log_record_processor(SimpleLogRecordProcessor(logs))

    # When
    span = App().request(burn)

    # Then the record carries what the event would, and the span nothing
    (readable,) = logs.get_finished_logs()
    record = readable.log_record
    assert record.event_name == "pyinstrument.profile"
    assert (record.trace_id, record.span_id) == (span.context.trace_id, span.context.span_id)
    assert record.trace_flags == span.context.trace_flags
    assert record.timestamp == span.end_time
    assert readable.instrumentation_scope.name == "otel_pyinstrument"
    assert readable.resource.attributes["service.name"] == "shop"
    assert record.attributes["pyinstrument.format"] == 1
    assert "run" in {frame.function for frame in tree_of(record.attributes).frames}
    assert span.events == ()


def test_it_arrives_over_otlp(backend, logger_provider, burn, monkeypatch) -> None:
    # Given a batch processor, whose thread does the encoding
    threads = []
    original = ProfileEvent._encoded
    monkeypatch.setattr(
        ProfileEvent, "_encoded", lambda self: (threads.append(threading.current_thread()), original(self))[1]
    )
    logger_provider.add_log_record_processor(
        BatchLogRecordProcessor(backend.log_exporter(), schedule_delay_millis=10)
    )

    # When
    span = App().request(burn)
    logger_provider.shutdown()

    # Then
    (record,) = backend.log_records
    assert record.event_name == "pyinstrument.profile"
    assert record.span_id == span.context.span_id.to_bytes(8, "big")
    attributes = {entry.key: entry.value for entry in record.attributes}
    assert tree_of({"pyinstrument.payload": attributes["pyinstrument.payload"].string_value}).node_count > 1
    if Version(metadata.version("opentelemetry-sdk")) < Version("1.45"):
        assert len(threads) == 1  # older SDKs read the attributes where the record is emitted
    else:
        assert [thread.name for thread in threads] == ["OtelBatchLogRecordProcessor"]


def test_batches_of_log_records_are_split_too(backend, logger_provider, burn) -> None:
    # Given the exporter of a provider that came after us
    exporter = backend.log_exporter()
    app = App()
    logger_provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))

    # When profiles are logged, and 8 MiB of log records in one batch
    app.request(burn)
    assert isinstance(exporter.export, SplittingExport)
    logs = InMemoryLogRecordExporter()
    logger_provider.add_log_record_processor(SimpleLogRecordProcessor(logs))
    logger = logger_provider.get_logger("test")
    for _ in range(8):
        logger.emit(body="x" * 1024 * 1024, attributes={"a": "b"})
    before = len(backend.bodies)
    result = exporter.export(logs.get_finished_logs())

    # Then
    assert result is type(result).SUCCESS
    assert len(backend.bodies) - before == 3
    PyinstrumentInstrumentor().uninstrument()
    assert "export" not in vars(exporter)


def test_without_a_logger_provider_it_travels_with_its_span_and_one_warning_says_so(
    no_logger_provider, burn, caplog
) -> None:
    app = App()

    spans = [app.request(burn) for _ in range(2)]

    assert [[event.name for event in span.events] for span in spans] == [["pyinstrument.profile"]] * 2
    (warning,) = caplog.messages
    assert warning.startswith(
        "OTEL_PYINSTRUMENT_EVENT=log: profiles travel as span events, because no logger"
    )
    assert "OTEL_LOGS_EXPORTER=otlp" in warning


def test_a_logger_provider_that_nobody_listens_to_is_none(logger_provider, burn, caplog) -> None:
    # As with OTEL_LOGS_EXPORTER=none
    span = App().request(burn)

    assert [event.name for event in span.events] == ["pyinstrument.profile"]
    assert len(caplog.messages) == 1


def test_a_failing_log_processor_does_not_end_profiling(logger_provider, burn, caplog) -> None:
    class Failing(LogRecordProcessor):
        def on_emit(self, log_record):
            raise RuntimeError("of the user")

        def shutdown(self):
            pass

        def force_flush(self, timeout_millis=30000):
            return True

    logger_provider.add_log_record_processor(Failing())
    app = App()

    spans = [app.request(burn) for _ in range(2)]

    assert [[event.name for event in span.events] for span in spans] == [["pyinstrument.profile"]] * 2
    assert len([message for message in caplog.messages if "the logger provider failed" in message]) == 1


def test_log_processors_may_add_attributes(logger_provider, burn) -> None:
    class Adding(LogRecordProcessor):
        def on_emit(self, log_record):
            log_record.log_record.attributes["team"] = "checkout"

        def shutdown(self):
            pass

        def force_flush(self, timeout_millis=30000):
            return True

    logs = InMemoryLogRecordExporter()
    logger_provider.add_log_record_processor(Adding())
    logger_provider.add_log_record_processor(SimpleLogRecordProcessor(logs))

    App().request(burn)

    (readable,) = logs.get_finished_logs()
    assert readable.log_record.attributes["team"] == "checkout"
    assert readable.log_record.attributes["pyinstrument.format"] == 1


def test_the_console_exporter_can_print_it(logger_provider, burn) -> None:
    out = io.StringIO()
    logger_provider.add_log_record_processor(SimpleLogRecordProcessor(ConsoleLogRecordExporter(out=out)))

    App().request(burn)

    printed = json.loads(out.getvalue())
    assert printed["event_name"] == "pyinstrument.profile"
    assert tree_of(printed["attributes"]).node_count > 1


def test_spans_without_room_for_events_are_profiled(logger_provider, burn) -> None:
    logs = InMemoryLogRecordExporter()
    logger_provider.add_log_record_processor(SimpleLogRecordProcessor(logs))

    App(span_limits=SpanLimits(max_events=0)).request(burn)

    assert len(logs.get_finished_logs()) == 1


def test_the_payload_is_text_where_span_exporters_take_bytes(backend, logger_provider, burn) -> None:
    # Given OTLP for spans, and logs that somebody prints as well
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(backend.exporter()))
    PyinstrumentInstrumentor().instrument(tracer_provider=provider, rate=1, interval=1, event="log")
    logs, out = InMemoryLogRecordExporter(), io.StringIO()
    logger_provider.add_log_record_processor(SimpleLogRecordProcessor(logs))
    logger_provider.add_log_record_processor(SimpleLogRecordProcessor(ConsoleLogRecordExporter(out=out)))

    # When
    with provider.get_tracer("t").start_as_current_span("GET /", kind=SpanKind.SERVER):
        burn(0.02)

    # Then every exporter of logs can write it
    (readable,) = logs.get_finished_logs()
    assert readable.log_record.attributes["pyinstrument.encoding"] == "zlib+json+base64"
    assert tree_of(readable.log_record.attributes).node_count > 1
    assert tree_of(json.loads(out.getvalue())["attributes"]).node_count > 1


def test_a_profile_that_falls_back_to_its_span_is_bytes_where_they_are_taken(
    backend, no_logger_provider, burn
) -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(backend.exporter()))
    PyinstrumentInstrumentor().instrument(tracer_provider=provider, rate=1, interval=1, event="log")

    with provider.get_tracer("t").start_as_current_span("GET /", kind=SpanKind.SERVER):
        burn(0.02)

    (span,) = backend.spans
    attributes = {entry.key: entry.value for entry in span.events[0].attributes}
    assert decode(attributes["pyinstrument.payload"].bytes_value).node_count > 1


@pytest.fixture(
    params=[
        ("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "64"),
        ("OTEL_ATTRIBUTE_COUNT_LIMIT", "3"),
        ("OTEL_LOGRECORD_ATTRIBUTE_VALUE_LENGTH_LIMIT", "64"),
        ("OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT", "3"),
    ],
    ids=lambda each: each[0],
)
def limit(request, monkeypatch) -> str:
    """A limit of the SDK that every profile is above. Comes before the logger provider that it is for."""
    name, value = request.param
    if "LOGRECORD" in name and not hasattr(LogRecordLimits(), "max_log_record_attributes"):
        pytest.skip("this version of the SDK does not know the limit")
    monkeypatch.setenv(name, value)
    return name


def profiles(logs: InMemoryLogRecordExporter) -> list:
    records = [readable.log_record for readable in logs.get_finished_logs()]
    return [record.attributes for record in records if record.event_name == "pyinstrument.profile"]


@pytest.mark.filterwarnings("ignore:Log record attributes were dropped due to limits")
def test_limits_of_attributes_cut_no_profile(limit, logger_provider, burn, caplog) -> None:
    # Given limits that cut the records of the application
    logs = InMemoryLogRecordExporter()
    logger_provider.add_log_record_processor(SimpleLogRecordProcessor(logs))
    own = {"text": "x" * 100, "1": 1, "2": 2, "3": 3}
    logger_provider.get_logger("shop").emit(_logs.LogRecord(attributes=own))
    assert dict(logs.get_finished_logs()[0].log_record.attributes) != own
    caplog.clear()

    # When
    span = App().request(burn)

    # Then the profile travels whole, if need be with its span
    as_records, as_events = profiles(logs), [event.attributes for event in span.events]
    (attributes,) = as_records + as_events
    assert tree_of(attributes).node_count > 1
    assert json.loads(attributes["pyinstrument.facts"])
    if Version(metadata.version("opentelemetry-sdk")) >= Version("1.45"):
        assert as_records
        assert caplog.messages == []


class ForwardingLogger(_logs.Logger):
    """As vendors wrap the SDK's: what it is made of is not to be seen."""

    def __init__(self, inner) -> None:
        super().__init__("forwarding")
        self._inner = inner

    def emit(self, record=None, **parts) -> None:
        self._inner.emit(record, **parts)

    def enabled(self, **_about) -> bool:
        return True


class ForwardingProvider(_logs.LoggerProvider):
    def __init__(self, inner) -> None:
        self._inner = inner

    def get_logger(self, name, version=None, schema_url=None, attributes=None):
        return ForwardingLogger(self._inner.get_logger(name, version, schema_url, attributes))


@pytest.fixture
def somebody_elses_logs(logger_provider, monkeypatch) -> InMemoryLogRecordExporter:
    """What arrives behind the global logger provider, which is not the SDK's own."""
    logs = InMemoryLogRecordExporter()
    logger_provider.add_log_record_processor(SimpleLogRecordProcessor(logs))
    monkeypatch.setattr(logs_internal, "_LOGGER_PROVIDER", ForwardingProvider(logger_provider))
    return logs


def test_the_logger_provider_of_somebody_else_gets_profiles_too(somebody_elses_logs, burn, caplog) -> None:
    span = App().request(burn)

    (attributes,) = profiles(somebody_elses_logs)
    assert tree_of(attributes).node_count > 1
    assert (span.events, caplog.messages) == ((), [])


def test_what_limits_would_cut_behind_somebody_elses_logger_provider_travels_with_its_span(
    limit, somebody_elses_logs, burn, caplog
) -> None:
    # Given limits that apply to each record that goes through that provider
    app = App()

    # When
    spans = [app.request(burn) for _ in range(2)]

    # Then no part of a profile is sent as if it were all, and one warning names the reason
    assert profiles(somebody_elses_logs) == []
    for span in spans:
        (event,) = span.events
        assert tree_of(event.attributes).node_count > 1
    (warning,) = caplog.messages
    assert "profiles travel as span events, because limits such as OTEL_ATTRIBUTE_VALUE_LENGTH" in warning
