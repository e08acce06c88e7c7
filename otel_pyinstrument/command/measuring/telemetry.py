"""OpenTelemetry as the service would have it, except that nothing leaves the process."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import SpanKind

from otel_pyinstrument.command.measuring.contender import NOT_MEASURED
from otel_pyinstrument.private_names import processors_of
from otel_pyinstrument.settings import variable_of
from otel_pyinstrument.span_processor import ProfilingSpanProcessor
from otel_pyinstrument.transport.signals import signal_named

_EVERY_REQUEST: dict[str, Any] = {
    "enabled": True,
    "rate": 1.0,
    "endpoint_rates": (),
    "cpu_budget": 1.0,
    "max_concurrent": 1000,
    "include": (),
    "exclude": (),
}


class TelemetryFailed(Exception):
    """OpenTelemetry could not be set up; the message says what to do."""


class DiscardingExporter(SpanExporter):
    """Encodes spans as the OTLP exporters do, and drops the bytes."""

    def __init__(self) -> None:
        self._encode = signal_named("traces").encode

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        try:
            self._encode(spans)
        except ImportError:
            # Without the OTLP encoder: at least the profiles, which are encoded when they are read.
            for event in (event for span in spans for event in span.events):
                dict(event.attributes or {})
        return SpanExportResult.SUCCESS


class _CountServerSpans(SpanProcessor):
    def __init__(self) -> None:
        self.count = 0

    def on_end(self, span: ReadableSpan) -> None:
        self.count += span.kind is SpanKind.SERVER


class Telemetry:
    """Auto-instrumentation of this process, and for `ours...` profiling. Before the application is loaded.

    `settings` are named like the fields of `Settings`.

    Raises:
        TelemetryFailed: no tracer provider came of it.
    """

    def __init__(self, contender: str, settings: Mapping[str, Any]) -> None:
        for name in NOT_MEASURED:
            # For what the application may install in code: that must not lead out of the process either.
            os.environ.pop(variable_of(name), None)
        loaded: Any = import_module("opentelemetry.instrumentation.auto_instrumentation")
        loaded.initialize()
        provider = trace.get_tracer_provider()
        if not isinstance(provider, TracerProvider):
            raise TelemetryFailed(
                "auto-instrumentation makes no tracer provider here: `otel-pyinstrument verify` says why"
            )
        self._provider = provider
        self._counter = _CountServerSpans()
        provider.add_span_processor(self._counter)
        provider.add_span_processor(BatchSpanProcessor(DiscardingExporter()))
        if contender != "otel":
            self._profile(settings, every_request=contender == "ours_every_request")

    def _profile(self, settings: Mapping[str, Any], *, every_request: bool) -> None:
        from otel_pyinstrument import PyinstrumentInstrumentor

        arguments = dict(settings)
        if every_request:
            arguments |= _EVERY_REQUEST
        PyinstrumentInstrumentor().instrument(tracer_provider=self._provider, **arguments)

    @property
    def server_spans(self) -> int:
        """How many spans of requests have ended."""
        return self._counter.count

    @property
    def profiled(self) -> int:
        """How many requests were profiled until now."""
        return sum(
            processor.gate.decisions()["profiled"]
            for processor in processors_of(self._provider)
            if isinstance(processor, ProfilingSpanProcessor)
        )

    def flush(self) -> None:
        """Encode and discard what waits."""
        self._provider.force_flush()
