"""What is switched on in this process, for code that must not load the SDK to ask."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.context import create_key

from otel_pyinstrument.version import __version__

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer, TracerProvider

FORCED_KEY = create_key("otel_pyinstrument_forced")
"""True in the context that a span is started with when the application asked for this very profile."""

provider: TracerProvider | None = None
"""The provider that profiling was added to; None while it is off."""

mask: tuple[str, ...] = ()
"""`Settings.mask`."""

_last: tuple[TracerProvider, Tracer] | None = None


def tracer() -> Tracer:
    """Ours, of the profiled provider, else of the global one: then spans are made, and profiles are not."""
    global _last
    wanted = provider or trace.get_tracer_provider()
    last = _last
    if last is None or last[0] is not wanted:
        last = _last = (wanted, wanted.get_tracer("otel_pyinstrument", __version__))
    return last[1]
