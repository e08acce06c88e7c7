from __future__ import annotations

import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ConcurrentMultiSpanProcessor, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SimpleSpanProcessor

from otel_pyinstrument.payload_kind import every_exporter_takes_bytes


class Unknown(SpanProcessor):
    pass


class OwnExporter(OTLPSpanExporter):
    """Might do anything with a span before it sends it."""


def otlp() -> SpanProcessor:
    return SimpleSpanProcessor(OTLPSpanExporter(endpoint="http://127.0.0.1:1/v1/traces"))


def console() -> SpanProcessor:
    return SimpleSpanProcessor(ConsoleSpanExporter())


def baggage() -> SpanProcessor:
    return type("BaggageSpanProcessor", (SpanProcessor,), {"__module__": "opentelemetry.processor.baggage"})()


@pytest.mark.parametrize(
    ("makers", "expected"),
    [
        ([], False),
        ([otlp], True),
        ([otlp, otlp], True),
        ([otlp, console], False),
        ([console], False),
        ([otlp, Unknown], False),
        ([baggage, otlp], True),
        ([baggage], False),
        ([lambda: SimpleSpanProcessor(OwnExporter(endpoint="http://127.0.0.1:1/v1/traces"))], False),
    ],
)
def test_bytes_need_otlp_exporters_only(makers: list, expected: bool) -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    for make in makers:
        provider.add_span_processor(make())

    assert every_exporter_takes_bytes(provider) is expected


def test_a_batch_processor_is_looked_into() -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint="http://127.0.0.1:1/v1/traces")))

    assert every_exporter_takes_bytes(provider)
    provider.shutdown()


def test_nested_processors_are_looked_into() -> None:
    inner = ConcurrentMultiSpanProcessor()
    inner.add_span_processor(console())
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(otlp())
    provider.add_span_processor(inner)

    assert not every_exporter_takes_bytes(provider)
