"""Exporters of real backends, taken over in place."""

from __future__ import annotations

import inspect
import logging
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import EventBase, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from otel_pyinstrument import PyinstrumentInstrumentor
from otel_pyinstrument.payload_kind import every_exporter_takes_bytes
from otel_pyinstrument.private_names import processors_of
from otel_pyinstrument.transport import export as export_module
from otel_pyinstrument.transport import install, private_names
from otel_pyinstrument.transport.signals import signal_named

KIB = 1024
MIB = 1024 * KIB


@pytest.fixture
def provider():
    made = TracerProvider(resource=Resource({"service.name": "shop"}), shutdown_on_exit=False)
    yield made
    made.shutdown()


def payloads_of(spans) -> Counter:
    return Counter(
        bytes(attribute.value.bytes_value)
        for span in spans
        for event in span.events
        for attribute in event.attributes
        if attribute.key == "pyinstrument.payload"
    )


def test_512_large_profiles_pass_a_receiver_with_the_default_limit(
    backend, provider, installed, spans
) -> None:
    # Given one batch of 32 MiB
    exporter = backend.exporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    installed(provider)
    batch = spans(512, payload_bytes=64 * KIB)

    # When
    result = exporter.export(batch)

    # Then every span arrived once, in order, and every payload is the same to the bit
    assert result is SpanExportResult.SUCCESS
    assert backend.numbers == list(range(512))
    assert payloads_of(backend.spans) == Counter(
        event.attributes["pyinstrument.payload"]
        for span in batch
        for event in span.events
        if len(event.attributes) > 1
    )
    assert backend.too_large == 0
    assert len(backend.bodies) == 10


def test_with_gzip_the_size_before_compression_counts(
    backend, wire, provider, installed, spans, monkeypatch
) -> None:
    # Given compression as users switch it on
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    exporter = backend.exporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    installed(provider, max_request_bytes=64 * KIB)

    # When a batch of 144 KiB is exported that is a hundredth of that when compressed
    result = exporter.export(spans(6, text="x" * 24 * KIB))

    # Then it goes in parts that the receiver takes when it has unpacked them, each compressed
    assert result is SpanExportResult.SUCCESS
    assert backend.numbers == list(range(6))
    assert len(backend.bodies) == 3
    assert max(map(len, backend.bodies)) <= 64 * KIB
    assert wire.sent_bytes < 16 * KIB


@pytest.mark.parametrize("make_processor", [SimpleSpanProcessor, BatchSpanProcessor])
@pytest.mark.parametrize("before", [True, False])
def test_processors_that_come_before_and_after_are_split(
    make_processor, before, grpc_backend, provider, installed
) -> None:
    # Given a processor that is there when we come, or comes later
    if before:
        provider.add_span_processor(make_processor(grpc_backend.exporter()))
    installed(provider, max_request_bytes=64 * KIB)
    if not before:
        provider.add_span_processor(make_processor(grpc_backend.exporter()))

    # When spans end that are too large together, and one that is too large alone
    tracer = provider.get_tracer("test")
    for number in range(3):
        with tracer.start_as_current_span("GET /", attributes={"number": number}) as span:
            span.add_event(
                "pyinstrument.profile", {"pyinstrument.payload": bytes((40 + 30 * (number == 1)) * KIB)}
            )
    provider.force_flush()

    # Then all arrive, in requests of the allowed size
    assert grpc_backend.numbers == [0, 1, 2]
    assert max(map(len, grpc_backend.bodies)) <= 64 * KIB


def test_an_exporter_stays_what_it_is_and_gets_everything_back(backend, provider, installed) -> None:
    exporter = backend.exporter()
    processor = BatchSpanProcessor(exporter)
    provider.add_span_processor(processor)
    before = (dict(vars(exporter)), dict(vars(provider)))

    transport = installed(provider, spool_dir="")
    assert processor.span_exporter is exporter
    assert every_exporter_takes_bytes(provider)
    assert "export" in vars(exporter)
    transport.uninstall()

    assert (dict(vars(exporter)), dict(vars(provider))) == before


def test_an_exporter_of_two_processors_is_taken_over_once(grpc_backend, provider, installed, spans) -> None:
    exporter = grpc_backend.exporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    installed(provider)

    assert exporter.export.original.__self__ is exporter
    exporter.export(spans())
    assert len(grpc_backend.bodies) == 1


def test_somebody_elses_wrapper_outlives_us(grpc_backend, provider, installed, spans) -> None:
    # Given a tool that wrapped the exporter before us, and one that came after us
    exporter = grpc_backend.exporter()
    seen = []

    def wrap(name):
        inner = exporter.export
        exporter.export = lambda batch: (seen.append((name, len(batch))), inner(batch))[1]

    wrap("earlier")
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    transport = installed(provider, max_request_bytes=64 * KIB)
    wrap("later")
    batch = spans(2, payload_bytes=40 * KIB)

    # When we go
    exporter.export(batch)
    transport.uninstall()
    exporter.export(batch)

    # Then both still work, and nothing is split any more
    assert seen == [
        *(("later", 2), ("earlier", 2), ("earlier", 1), ("earlier", 1)),  # whole it is refused unsent
        *(("later", 2), ("earlier", 2)),
    ]


def test_after_we_are_gone_nothing_is_kept_on_disk_for_somebody_elses_wrapper(
    grpc_backend, provider, installed, spans, tmp_path
) -> None:
    # Given a tool that wrapped the exporter after us, with the spool on, and a backend that is away
    exporter = grpc_backend.exporter(timeout=1)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    transport = installed(provider, spool_dir=str(tmp_path))
    ours = exporter.export
    exporter.export = lambda batch: ours(batch)
    grpc_backend.stop()

    # When we go
    transport.uninstall()

    # Then an export fails as it would alone
    assert exporter.export(spans()) is SpanExportResult.FAILURE
    assert not list(tmp_path.rglob("*.otlp"))


def test_two_threads_that_export_at_once_keep_their_sizes_apart(spans) -> None:
    # Given an exporter that is used by two threads
    large_has_begun, small_is_encoded, large_is_sent = (threading.Event() for _ in range(3))
    sent = []

    def send(batch):
        if threading.current_thread() is threading.main_thread():
            export.check_size(40 * KIB)
            small_is_encoded.set()
            assert large_is_sent.wait(10)
        else:
            large_has_begun.set()
            assert small_is_encoded.wait(10)
            export.check_size(40 * KIB * len(batch))
        sent.append(len(batch))
        return SpanExportResult.SUCCESS

    export = export_module.SplittingExport(send, signal_named("traces"), max_bytes=64 * KIB, spool=None)
    export.encodes_first = True

    # When one exports a batch that is too large, and in the middle of that the other one that is not
    with ThreadPoolExecutor(1) as other:
        large = other.submit(export, spans(2, payload_bytes=40 * KIB))
        large.add_done_callback(lambda _: large_is_sent.set())
        assert large_has_begun.wait(10)
        small = export(spans(1, payload_bytes=40 * KIB))

    # Then the large one has been sent in parts
    assert (large.result(), small) == (SpanExportResult.SUCCESS, SpanExportResult.SUCCESS)
    assert sent == [1, 1, 1]


def test_an_export_in_the_middle_of_another_leaves_the_size_of_that_one_alone(spans) -> None:
    # Given an exporter that makes a small span of its own, exported at once, before it has encoded a batch
    own = [spans(1)]
    sent = []

    def send(batch):
        if own:
            export(own.pop())
        export.check_size(40 * KIB * len(batch))
        sent.append(len(batch))
        return SpanExportResult.SUCCESS

    export = export_module.SplittingExport(send, signal_named("traces"), max_bytes=64 * KIB, spool=None)
    export.encodes_first = True

    # When the batch is too large
    result = export(spans(2, payload_bytes=40 * KIB))

    # Then it has been sent in parts, behind that span
    assert result is SpanExportResult.SUCCESS
    assert sent == [1, 1, 1]


def test_other_exporters_are_left_alone(provider, installed) -> None:
    exporter = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))

    installed(provider)

    assert "export" not in vars(exporter)


def test_the_instrumentor_installs_and_removes_it(grpc_backend, provider) -> None:
    exporter = grpc_backend.exporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))

    PyinstrumentInstrumentor().instrument(tracer_provider=provider, rate=1)
    installed = vars(exporter).get("export")
    PyinstrumentInstrumentor().uninstrument()

    assert isinstance(installed, export_module.SplittingExport)
    assert "export" not in vars(exporter)
    assert "add_span_processor" not in vars(provider)
    assert len(list(processors_of(provider))) == 1


def test_no_span_is_measured_as_long_as_batches_fit(
    backend, provider, installed, spans, monkeypatch, caplog
) -> None:
    # Given a splitting that would fail
    monkeypatch.setattr(export_module, "split", lambda *_a, **_k: 1 / 0)
    exporter = backend.exporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    installed(provider)

    # Then it is not asked: the exporter tells how large the encoded request is
    assert exporter.export(spans(3)) is SpanExportResult.SUCCESS
    assert (len(backend.spans), caplog.records) == (3, [])


def test_an_exporter_that_encodes_elsewhere_has_its_spans_measured_before(
    provider, installed, spans, monkeypatch
) -> None:
    # Given an exporter of a version that does not have the step where we look for it
    monkeypatch.setattr(private_names, "step_after_encoding", lambda *_: None)
    sent = []
    monkeypatch.setattr(OTLPSpanExporter, "export", lambda self, batch: sent.append(len(batch)))
    exporter = OTLPSpanExporter(endpoint="http://127.0.0.1:1/v1/traces")
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    installed(provider, max_request_bytes=64 * KIB)

    exporter.export(spans(3, payload_bytes=40 * KIB))

    assert sent == [1, 1, 1]


@pytest.mark.parametrize("says", [SpanExportResult.SUCCESS, SpanExportResult.FAILURE])
def test_a_batch_too_large_arrives_through_an_exporter_that_swallows_exceptions(
    says, backend, provider, installed, spans
) -> None:
    # Given somebody's exporter, for which telemetry must never raise
    usual = type(backend.exporter())

    class Silent(usual):
        def export(self, batch):
            try:
                return super().export(batch)
            except Exception:
                return says

    exporter = backend.exporter()
    exporter.__class__ = Silent
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    installed(provider, max_request_bytes=64 * KIB)

    # When a batch is too large together, and a span alone
    exporter.export(spans(3, payload_bytes=40 * KIB))
    exporter.export(spans(1, payload_bytes=90 * KIB))

    # Then all arrive
    assert len(backend.spans) == 4
    assert max(map(len, backend.bodies)) <= 64 * KIB


def test_a_span_too_large_arrives_through_an_exporter_that_works_on_another_thread(
    backend, provider, installed, spans
) -> None:
    # Given somebody's exporter, of which we do not see how large its requests are
    usual = type(backend.exporter())

    class Elsewhere(usual):
        def export(self, batch):
            with ThreadPoolExecutor(1) as pool:
                return pool.submit(super().export, batch).result(30)

    exporter = backend.exporter()
    exporter.__class__ = Elsewhere
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    installed(provider)

    exporter.export(spans(1, payload_bytes=5 * MIB))

    assert len(backend.spans) == 1


def test_a_failure_of_ours_exports_the_batch_as_it_came(
    grpc_backend, provider, installed, spans, monkeypatch, caplog
) -> None:
    # Given a bug in the splitting
    monkeypatch.setattr(export_module, "split", lambda *_a, **_k: 1 / 0)
    exporter = grpc_backend.exporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    installed(provider, max_request_bytes=64 * KIB)

    # When batches are too large for one request
    results = [exporter.export(spans(3, payload_bytes=40 * KIB)) for _ in range(2)]

    # Then nothing is lost, and it is said once
    assert results == [SpanExportResult.SUCCESS] * 2
    assert len(grpc_backend.spans) == 6
    assert [record.getMessage() for record in caplog.records] == [
        "Spans are exported as without profiling: splitting failed"
    ]


def test_a_part_that_cannot_be_encoded_takes_no_other_part_with_it(
    grpc_backend, provider, installed, spans
) -> None:
    # Given a span with an event that cannot be read, as some library may add one
    class Broken(EventBase):
        @property
        def attributes(self):
            raise ValueError("of another library")

    exporter = grpc_backend.exporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    installed(provider)
    batch = spans(3)
    batch[1]._events.append(Broken("broken"))

    # When
    with pytest.raises(ValueError, match="of another library"):
        exporter.export(batch)

    # Then only its own span is lost; the SDK alone would lose all three
    assert grpc_backend.numbers == [0, 2]


def test_the_limit_of_the_exporter_itself_is_kept(provider, installed, spans) -> None:
    if "max_request_size" not in inspect.signature(OTLPSpanExporter).parameters:
        pytest.skip("this version of the exporter has no limit")
    exporter = OTLPSpanExporter(endpoint="http://127.0.0.1:1/v1/traces", max_request_size=100 * KIB)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    installed(provider)

    sent = []
    exporter.export.original = lambda batch: sent.append(len(batch))
    exporter.export(spans(6, payload_bytes=40 * KIB))

    assert sent == [2, 2, 2]


def test_an_export_after_shutdown_fails_as_before(backend, provider, installed, spans) -> None:
    exporter = backend.exporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    installed(provider)

    exporter.shutdown()

    assert exporter.export(spans()) is SpanExportResult.FAILURE


def test_a_refused_part_does_not_stop_the_others(backend, provider, installed, spans) -> None:
    # Given a backend that refuses for good, and says so at once
    import grpc

    exporter = backend.exporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    installed(provider, max_request_bytes=64 * KIB)
    tried = []
    original = exporter.export.original
    exporter.export.original = lambda batch: (tried.append(len(batch)), original(batch))[1]
    backend.abort_with = grpc.StatusCode.INVALID_ARGUMENT if backend.protocol == "grpc" else 400

    result = exporter.export(spans(3, payload_bytes=40 * KIB))

    assert result is SpanExportResult.FAILURE
    assert tried == [3, 1, 1, 1]  # of the whole only the size was found out


def test_an_absent_backend_costs_a_split_batch_no_more_time_than_a_whole_one(
    backend, provider, installed, spans, caplog
) -> None:
    # Given nobody who answers
    backend.stop()
    exporter = backend.exporter(timeout=2)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    installed(provider, max_request_bytes=64 * KIB)
    tried = []
    original = exporter.export.original
    exporter.export.original = lambda batch: (tried.append(len(batch)), original(batch))[1]

    # When a batch of five parts is exported
    result = exporter.export(spans(5, payload_bytes=40 * KIB))

    # Then only the first was retried until the timeout, and what was given up is counted
    assert result is SpanExportResult.FAILURE
    assert tried == [5, 1]  # of the whole only the size was found out
    assert "4 spans or log records are lost: the backend does not answer" in caplog.messages


def test_the_sdk_still_sees_whether_shutdown_takes_a_timeout(backend, provider, installed, tmp_path) -> None:
    exporter = backend.exporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    before = inspect.getfullargspec(exporter.shutdown).args

    installed(provider, spool_dir=str(tmp_path))

    assert "shutdown" in vars(exporter)
    after = inspect.getfullargspec(exporter.shutdown).args
    assert ("timeout_millis" in after) == ("timeout_millis" in before)


def test_a_black_hole_does_not_slow_requests_down(provider, installed, spans) -> None:
    # Given an endpoint that takes connections and never answers

    with socket.create_server(("127.0.0.1", 0)) as hole:
        exporter = OTLPSpanExporter(
            endpoint=f"http://127.0.0.1:{hole.getsockname()[1]}/v1/traces", timeout=30
        )
        provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=10))
        PyinstrumentInstrumentor().instrument(tracer_provider=provider, rate=1, spool_dir="")
        tracer = provider.get_tracer("test")
        exporting, returned = threading.Event(), threading.Event()
        original = exporter.export.original

        def export(batch):
            exporting.set()
            try:
                return original(batch)
            finally:
                returned.set()

        exporter.export.original = export

        # When requests run while an export hangs
        with tracer.start_as_current_span("GET /", kind=SpanKind.SERVER):
            pass
        assert exporting.wait(30)
        for _ in range(2_000):
            with tracer.start_as_current_span("GET /", kind=SpanKind.SERVER):
                pass
            # Then all 2,000 together take less than the one export: 15 ms each would be too much
            assert not returned.is_set()
        exporter.shutdown()
    PyinstrumentInstrumentor().uninstrument()
    provider.shutdown()


@contextmanager
def black_hole(*, takes_connections: bool) -> Iterator[str]:
    """An address that never answers; with a full backlog, nobody even gets a connection."""
    with ExitStack() as sockets:
        backlog = None if takes_connections else 0
        hole = sockets.enter_context(socket.create_server(("127.0.0.1", 0), backlog=backlog))
        for _ in range(0 if takes_connections else 4):
            waiting = sockets.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(hole.getsockname())
        yield f"http://127.0.0.1:{hole.getsockname()[1]}"


@pytest.mark.parametrize("protocol", ["grpc", "http"])
@pytest.mark.parametrize("takes_connections", [True, False])
@pytest.mark.parametrize("spooling", [False, True])
def test_shutdown_with_a_black_hole_waits_for_one_timeout_as_the_sdk_alone_does(
    installed, spans, tmp_path, spooling, takes_connections, protocol, monkeypatch
) -> None:
    # Given a batch of five parts for an endpoint that never answers
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter

    timeout_seconds = 2
    monkeypatch.setattr(install, "DRAIN_SECONDS", 30)
    with black_hole(takes_connections=takes_connections) as address:
        exporter = (
            GrpcExporter(endpoint=address, insecure=True, timeout=timeout_seconds)
            if protocol == "grpc"
            else HttpExporter(endpoint=f"{address}/v1/traces", timeout=timeout_seconds)
        )
        provider = TracerProvider(shutdown_on_exit=False)
        processor = BatchSpanProcessor(exporter, schedule_delay_millis=60_000)
        provider.add_span_processor(processor)
        spool_dir = str(tmp_path) if spooling else ""
        installed(provider, max_request_bytes=64 * KIB, spool_dir=spool_dir)
        tried = []
        original = exporter.export.original
        exporter.export.original = lambda batch: (tried.append(len(batch)), original(batch))[1]
        for span in spans(5, payload_bytes=40 * KIB):
            processor.on_end(span)

        # When
        begun = time.monotonic()
        provider.shutdown()

        # Then it waits for the answer to one part and not for the spool, in which nothing is lost
        assert time.monotonic() - begun < 2 * timeout_seconds
    assert tried == ([1] if spooling else [5, 1])  # of the whole only the size was found out
    assert len(list(tmp_path.rglob("*.otlp"))) == (5 if spooling else 0)


def test_logging_is_quiet_when_all_is_well(grpc_backend, provider, installed, spans, caplog) -> None:
    caplog.set_level(logging.WARNING)
    exporter = grpc_backend.exporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    installed(provider).uninstall()

    exporter.export(spans())

    assert caplog.records == []


class CountingSerializer:
    def __init__(self, serialize) -> None:
        self.serialize = serialize
        self.calls = 0

    def __call__(self, message) -> bytes:
        self.calls += 1
        return self.serialize(message)


def test_a_request_over_grpc_is_written_once(grpc_backend, provider, installed, spans) -> None:
    # Given an exporter whose call tells how often gRPC writes a message
    exporter = grpc_backend.exporter()
    call = exporter._client.Export
    serializer = CountingSerializer(call._request_serializer)
    call._request_serializer = serializer
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    installed(provider)

    # When
    result = exporter.export(spans(3))

    # Then what was written to know its size is what was sent
    assert result is SpanExportResult.SUCCESS
    assert grpc_backend.numbers == [0, 1, 2]
    assert serializer.calls == 0


def test_who_stands_around_the_encoding_of_a_grpc_exporter_sees_messages(
    grpc_backend, provider, installed, spans
) -> None:
    # Given somebody who looks at each message after it was encoded, and came after us
    exporter = grpc_backend.exporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    installed(provider)
    encode, seen = exporter._translate_data, []

    def encode_and_look(batch):
        message = encode(batch)
        seen.append(len(message.resource_spans))
        return message

    exporter._translate_data = encode_and_look

    # When
    result = exporter.export(spans(3))

    # Then
    assert result is SpanExportResult.SUCCESS
    assert grpc_backend.numbers == [0, 1, 2]
    assert seen == [1]


def test_who_stands_around_the_call_of_a_grpc_exporter_sees_messages(
    grpc_backend, provider, installed, spans
) -> None:
    # Given an interceptor's call, which expects a message
    exporter = grpc_backend.exporter()
    call, seen = exporter._client.Export, []

    def export(request, **named):
        seen.append(len(request.resource_spans))
        return call(request=request, **named)

    exporter._client.Export = export
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    installed(provider)

    # When
    result = exporter.export(spans(3))

    # Then
    assert result is SpanExportResult.SUCCESS
    assert grpc_backend.numbers == [0, 1, 2]
    assert seen == [1]


def test_after_uninstall_a_grpc_exporter_sends_its_messages(grpc_backend, provider, installed, spans) -> None:
    # Given
    exporter = grpc_backend.exporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    instrumentor = installed(provider)
    exporter.export(spans(1))

    # When
    instrumentor.uninstall()
    result = exporter.export(spans(3))

    # Then
    assert result is SpanExportResult.SUCCESS
    assert grpc_backend.numbers == [0, 0, 1, 2]
