"""Per-request call trees for OpenTelemetry: which function made each endpoint slow.

Importing this package loads neither pyinstrument nor the OpenTelemetry SDK; that happens when profiling
is switched on, by `opentelemetry-instrument` or by `PyinstrumentInstrumentor().instrument()`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from otel_pyinstrument.version import __version__

if TYPE_CHECKING:
    from otel_pyinstrument.asgi import ASGIMiddleware
    from otel_pyinstrument.in_code import profile
    from otel_pyinstrument.instrumentor import PyinstrumentInstrumentor
    from otel_pyinstrument.wsgi import WSGIMiddleware

__all__ = ["ASGIMiddleware", "PyinstrumentInstrumentor", "WSGIMiddleware", "__version__", "profile"]

_MODULES = {
    "ASGIMiddleware": "otel_pyinstrument.asgi",
    "PyinstrumentInstrumentor": "otel_pyinstrument.instrumentor",
    "WSGIMiddleware": "otel_pyinstrument.wsgi",
    "profile": "otel_pyinstrument.in_code",
}


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
