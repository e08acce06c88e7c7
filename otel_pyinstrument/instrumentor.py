"""Switches profiling on: by the `opentelemetry_instrumentor` entry point, or in code."""

from __future__ import annotations

import os
from collections.abc import Collection
from functools import partial
from logging import getLogger
from typing import Any

from opentelemetry import metrics, trace
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor
from opentelemetry.sdk.environment_variables import OTEL_SDK_DISABLED
from opentelemetry.sdk.trace import SynchronousMultiSpanProcessor, TracerProvider

from otel_pyinstrument import gate_metrics, hop_patches, private_names, self_test
from otel_pyinstrument import installed as switched_on
from otel_pyinstrument.classification import load_strategies
from otel_pyinstrument.guard import came_from_signal_handler
from otel_pyinstrument.payload_kind import every_exporter_takes_bytes
from otel_pyinstrument.settings import Settings, read_settings
from otel_pyinstrument.span_processor import ProfilingSpanProcessor
from otel_pyinstrument.transport.delivery import Delivery

_logger = getLogger(__name__)
_processors: list[ProfilingSpanProcessor] = []


class _Configuration:
    """What OpenTelemetry's own configuration file may hold. Few have one, and making it takes time."""

    def __get__(self, instance: object, owner: type | None = None) -> type:
        from otel_pyinstrument.declarative_options import DeclarativeOptions

        return DeclarativeOptions


class PyinstrumentInstrumentor(BaseInstrumentor):
    """Adds profiling to a tracer provider. A singleton, as all instrumentors are.

    `instrument()` uses the global provider and the environment. Arguments win over the environment:
    `tracer_provider`, `meter_provider`, and each variable by its name in lower case, for example
    `instrument(rate=1.0, interval=10)`. Neither method raises: what goes wrong is logged, and then the
    application runs unprofiled.
    """

    configuration = _Configuration()
    _installed: tuple[TracerProvider, ProfilingSpanProcessor] | None = None
    _delivery: Delivery | None = None

    def instrumentation_dependencies(self) -> Collection[str]:
        return ()

    def instrument(self, **kwargs: Any) -> None:
        """Switch profiling on. When that was not possible, a later call tries again."""
        super().instrument(**kwargs)
        self._is_instrumented_by_opentelemetry = self._installed is not None

    def _instrument(self, **kwargs: Any) -> None:
        try:
            self._install(**kwargs)
        except Exception as error:
            self._uninstrument()  # what was installed before
            if came_from_signal_handler(error):
                raise
            # Anything but ImportError would keep the instrumentors after us from being loaded.
            _logger.exception("Profiling is off: it could not be installed")

    def _uninstrument(self, **kwargs: Any) -> None:
        installed, self._installed = self._installed, None
        switched_on.provider, switched_on.mask = None, ()
        if installed is None:
            return
        provider, processor = installed
        delivery, self._delivery = self._delivery, None
        try:
            processor.shutdown()  # first: nothing is profiled, whatever of the rest fails
            if delivery is not None:
                delivery.uninstall()
            if processor in _processors:
                _processors.remove(processor)
            hop_patches.uninstall()
            private_names.remove_processor(provider, processor)
        except Exception as error:
            if came_from_signal_handler(error):
                raise
            _logger.exception("Profiling is off, but not all of it could be removed")

    def _install(
        self,
        tracer_provider: trace.TracerProvider | None = None,
        meter_provider: metrics.MeterProvider | None = None,
        **arguments: Any,
    ) -> None:
        settings = read_settings(os.environ, arguments)
        if not settings.profiles_anything:
            _logger.debug("Profiling is off: %s", settings)
            return
        if os.environ.get(OTEL_SDK_DISABLED, "").strip().lower() == "true":
            _logger.debug("Profiling is off: %s", OTEL_SDK_DISABLED)
            return
        provider = trace.get_tracer_provider() if tracer_provider is None else tracer_provider
        if not isinstance(provider, TracerProvider):
            _logger.warning(
                "Profiling is off: the tracer provider is %s, not one of the OpenTelemetry SDK. Create the "
                "provider first, then call PyinstrumentInstrumentor().instrument(tracer_provider=...)",
                type(provider).__name__,
            )
            return
        ending_hook_works = _self_test()
        if ending_hook_works is None:
            return
        composite = private_names.composite_of(provider)
        if not isinstance(composite, SynchronousMultiSpanProcessor):
            _logger.warning(
                "Profiling is off: %s may call span processors on other threads than the request's. Create "
                "the tracer provider without active_span_processor",
                type(composite).__name__,
            )
            return
        processor = self._add_processor(provider, settings, ending_hook_works=ending_hook_works)
        gate_metrics.report(processor.gate, meter_provider)

    def _add_processor(
        self, provider: TracerProvider, settings: Settings, *, ending_hook_works: bool
    ) -> ProfilingSpanProcessor:
        delivery = Delivery(provider, settings)
        processor = ProfilingSpanProcessor(
            settings,
            payload_as_bytes=partial(every_exporter_takes_bytes, provider),
            ending_hook_works=ending_hook_works,
            log_events=delivery.log_events,
        )
        _reset_after_fork()
        _processors.append(processor)
        provider.add_span_processor(processor)
        self._installed = (provider, processor)
        hop_patches.install()
        switched_on.provider, switched_on.mask = provider, settings.mask
        self._delivery = delivery
        delivery.install()
        return processor


def _self_test() -> bool | None:
    """Whether spans tell of their ending; None, with one warning, when profiling cannot work here."""
    try:
        private_names.silence_overhead_warning()
        private_names.keep_samplers_by_thread()
        self_test.check_sampler()
        load_strategies()
        return self_test.ending_hook_works()
    except (self_test.PrivateNameError, ImportError, AttributeError) as error:
        _logger.warning("Profiling is off: it does not work with an installed library. %s", error)
        return None


def _reset_after_fork() -> None:
    global _fork_hook_registered
    if not _fork_hook_registered and hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_reset_processors)
        _fork_hook_registered = True


def _reset_processors() -> None:
    for processor in list(_processors):
        processor.reset_after_fork()


_fork_hook_registered = False
