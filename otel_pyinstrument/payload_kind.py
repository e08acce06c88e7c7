"""Which form of payload every exporter of a provider can write."""

from __future__ import annotations

from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

from otel_pyinstrument.private_names import processors_of

_OTLP = "opentelemetry.exporter.otlp.proto."
_WITHOUT_EXPORTER = ("opentelemetry.processor.", "otel_pyinstrument.")


def every_exporter_takes_bytes(provider: TracerProvider) -> bool:
    """Whether a payload may be `bytes`: only the OTLP exporters are known to write them.

    `ConsoleSpanExporter` and everything else that uses `ReadableSpan.to_json` would fail on bytes, and so
    might a processor that we do not know.
    """
    processors = [
        processor
        for processor in processors_of(provider)
        if not type(processor).__module__.startswith(_WITHOUT_EXPORTER)
    ]
    return bool(processors) and all(map(_takes_bytes, processors))


def _takes_bytes(processor: SpanProcessor) -> bool:
    exporter: object = getattr(processor, "span_exporter", None)
    return type(exporter).__module__.startswith(_OTLP)
