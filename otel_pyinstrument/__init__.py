"""Per-request call trees for OpenTelemetry: which function made each endpoint slow.

Importing this package loads neither pyinstrument nor the OpenTelemetry SDK; that happens when profiling
is switched on, by `opentelemetry-instrument` or by `PyinstrumentInstrumentor().instrument()`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_pyinstrument.version import __version__

if TYPE_CHECKING:
    from otel_pyinstrument.instrumentor import PyinstrumentInstrumentor

__all__ = ["PyinstrumentInstrumentor", "__version__"]


def __getattr__(name: str) -> object:
    if name == "PyinstrumentInstrumentor":
        from otel_pyinstrument.instrumentor import PyinstrumentInstrumentor

        return PyinstrumentInstrumentor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
