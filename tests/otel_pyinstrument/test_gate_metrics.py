from __future__ import annotations

import gc

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from otel_pyinstrument import PyinstrumentInstrumentor, gate_metrics
from otel_pyinstrument.private_names import processors_of
from otel_pyinstrument.span_processor import ProfilingSpanProcessor


@pytest.fixture(autouse=True)
def gates_that_other_tests_have_left_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_metrics, "_gates", [])


@pytest.fixture
def reader():
    made = InMemoryMetricReader()
    yield made
    made.shutdown()


def points(reader: InMemoryMetricReader) -> dict[tuple[str, str], float]:
    """Values by metric and its one attribute."""
    data = reader.get_metrics_data()
    return {
        (metric.name, *point.attributes.values()): point.value
        for resource in (data.resource_metrics if data else ())
        for scope in resource.scope_metrics
        for metric in scope.metrics
        for point in metric.data.data_points
    }


def test_decisions_and_costs_are_reported(reader, burn, caplog: pytest.LogCaptureFixture) -> None:
    # Given profiling with a meter provider, switched on twice
    meter_provider = MeterProvider([reader], resource=Resource.get_empty(), shutdown_on_exit=False)
    tracer_provider = TracerProvider(resource=Resource.get_empty(), shutdown_on_exit=False)
    for exclude in ("/nothing", "/health"):
        PyinstrumentInstrumentor().uninstrument()
        PyinstrumentInstrumentor().instrument(
            tracer_provider=tracer_provider,
            meter_provider=meter_provider,
            rate=1,
            cpu_budget=1,
            exclude=exclude,
        )
    gc.collect()

    # When requests are served
    tracer = tracer_provider.get_tracer("test")
    for path in ("/a", "/a", "/health"):
        with tracer.start_as_current_span(
            f"GET {path}", kind=SpanKind.SERVER, attributes={"url.path": path, "http.request.method": "GET"}
        ):
            burn(0.02)

    # Then the metrics tell of them
    seen = points(reader)
    assert seen["otel_pyinstrument.gate.requests", "profiled"] == 2
    assert seen["otel_pyinstrument.gate.requests", "excluded"] == 1
    assert seen["otel_pyinstrument.gate.requests", "budget"] == 0
    assert 0.01 < seen["otel_pyinstrument.gate.cpu.cost", "hook"] < 0.1
    assert seen["otel_pyinstrument.gate.cpu.cost", "encoding"] == 0
    assert 0 < seen[("otel_pyinstrument.gate.cpu.share",)] < 1
    assert [
        record.getMessage() for record in caplog.records if "instrument with name" in record.getMessage()
    ] == []
    meter_provider.shutdown()


def test_a_process_without_requests_has_nothing_to_export(reader) -> None:
    # Given profiling with a meter provider
    meter_provider = MeterProvider([reader], resource=Resource.get_empty(), shutdown_on_exit=False)
    tracer_provider = TracerProvider(resource=Resource.get_empty(), shutdown_on_exit=False)
    PyinstrumentInstrumentor().instrument(tracer_provider=tracer_provider, meter_provider=meter_provider)
    # When it works without serving requests
    with tracer_provider.get_tracer("test").start_as_current_span("import products"):
        pass
    # Then its end does not wait for the export of metrics, which takes seconds where the backend is away
    assert reader.get_metrics_data() is None
    meter_provider.shutdown()


def test_costs_are_those_of_the_gate(reader, burn) -> None:
    # Given profiling with a meter provider, and a request whose profile somebody has read
    meter_provider = MeterProvider([reader], resource=Resource.get_empty(), shutdown_on_exit=False)
    tracer_provider = TracerProvider(resource=Resource.get_empty(), shutdown_on_exit=False)
    PyinstrumentInstrumentor().instrument(
        tracer_provider=tracer_provider, meter_provider=meter_provider, rate=1, cpu_budget=1
    )
    exporter = InMemorySpanExporter()
    tracer_provider.add_span_processor(SimpleSpanProcessor(exporter))
    gc.collect()
    with tracer_provider.get_tracer("test").start_as_current_span("GET /", kind=SpanKind.SERVER):
        burn(0.02)
    (span,) = exporter.get_finished_spans()
    (event,) = span.events
    assert event.attributes["pyinstrument.payload"]
    (processor,) = (
        each for each in processors_of(tracer_provider) if isinstance(each, ProfilingSpanProcessor)
    )
    gate = processor.gate

    # When the metrics are read
    before, seen, after = gate.costs(), points(reader), gate.costs()

    # Then the parts are those of the gate, and the share is theirs in the time that the process used
    assert seen["otel_pyinstrument.gate.cpu.cost", "hook"] == before.hook > 0
    assert seen["otel_pyinstrument.gate.cpu.cost", "encoding"] == before.encoding > 0
    assert seen["otel_pyinstrument.gate.cpu.cost", "standing"] == before.standing > 0
    cost = before.hook + before.encoding + before.standing
    assert cost / after.process <= seen[("otel_pyinstrument.gate.cpu.share",)] <= cost / before.process
    meter_provider.shutdown()


def test_what_requests_and_their_spans_pay_at_rest_is_reported(reader) -> None:
    # Given profiling with a meter provider
    meter_provider = MeterProvider([reader], resource=Resource.get_empty(), shutdown_on_exit=False)
    tracer_provider = TracerProvider(resource=Resource.get_empty(), shutdown_on_exit=False)
    PyinstrumentInstrumentor().instrument(
        tracer_provider=tracer_provider, meter_provider=meter_provider, rate=1, cpu_budget=1
    )
    tracer = tracer_provider.get_tracer("test")

    def standing() -> float:
        return points(reader).get(("otel_pyinstrument.gate.cpu.cost", "standing"), 0.0)

    def serve(child_spans: int) -> float:
        before = standing()
        with tracer.start_as_current_span(f"GET /{child_spans}", kind=SpanKind.SERVER):
            for _ in range(child_spans):
                with tracer.start_as_current_span("SELECT"):
                    pass
        return standing() - before

    # When requests with 0 and 30 spans below their roots are served
    without, with_spans = serve(0), serve(30)

    # Then each span counts, and a root as 70 of them
    assert without > 0
    assert with_spans / without == pytest.approx((70 + 30) / 70)
    meter_provider.shutdown()
