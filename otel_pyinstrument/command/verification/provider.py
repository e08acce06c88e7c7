"""Checks of what auto-instrumentation makes of this environment: provider, processor, exporters."""

from __future__ import annotations

import os
import sys
from importlib import import_module, metadata
from typing import Any, NamedTuple

from opentelemetry import trace
from opentelemetry.sdk.environment_variables import OTEL_SDK_DISABLED
from opentelemetry.sdk.trace import TracerProvider

from otel_pyinstrument.command.service_settings import (
    DISABLED_VARIABLE,
    ENTRY_POINT,
    declared_in,
    disabled_by_name,
    resolve_service_settings,
    tracing_is_disabled,
)
from otel_pyinstrument.command.verification.captured_log import CapturedLog
from otel_pyinstrument.command.verification.destination import Destination, destination_of
from otel_pyinstrument.command.verification.report import Report
from otel_pyinstrument.private_names import processors_of
from otel_pyinstrument.settings import Settings, variable_of
from otel_pyinstrument.span_processor import ProfilingSpanProcessor
from otel_pyinstrument.transport import private_names

_NO_RULES = "no rules are asked for"


class Pipeline(NamedTuple):
    """What spans go through."""

    provider: TracerProvider
    processor: ProfilingSpanProcessor
    destinations: list[Destination]


def check_settings(report: Report, log: CapturedLog) -> Settings:
    """Our own settings from environment and files, as the service would read them."""
    settings = resolve_service_settings().settings
    said = log.take()
    complaints = [text for text in said if _NO_RULES not in text]
    for hint in set(said) - set(complaints):
        report.note("settings", hint)
    for complaint in complaints:
        report.problem("settings", complaint, "Correct it; `otel-pyinstrument config` shows what holds now.")
    reason = _why_nothing_is_profiled(settings)
    if reason:
        report.problem("settings", f"nothing is profiled: {reason}", "Change that to profile requests.")
    elif not complaints:
        report.ok(
            "settings",
            f"rate {settings.rate:g}, CPU budget {settings.cpu_budget:g}, interval {settings.interval:g} ms",
        )
    return settings


def _why_nothing_is_profiled(settings: Settings) -> str:
    if settings.profiles_anything:
        return ""
    if not settings.enabled:
        return f"{variable_of('enabled')} is false"
    names = [name for name in ("rate", "cpu_budget", "max_concurrent") if not getattr(settings, name)]
    return ", ".join(f"{variable_of(name)} is 0" for name in names)


def check_provider(report: Report, log: CapturedLog) -> TracerProvider | None:
    """The global tracer provider, made as `opentelemetry-instrument` makes it if there is none yet."""
    if tracing_is_disabled():
        report.problem("provider", f"{OTEL_SDK_DISABLED} is true, so nothing is traced", "Unset it.")
        return None
    log.take()
    made_before = isinstance(trace.get_tracer_provider(), TracerProvider)
    if not made_before:
        _auto_instrument()
    said = log.take()
    provider = trace.get_tracer_provider()
    if not isinstance(provider, TracerProvider):
        report.problem("provider", *_why_no_provider(type(provider).__name__, said))
        return None
    report.ok(
        "provider",
        "opentelemetry-instrument has made one"
        if made_before
        else "auto-instrumentation makes one from these variables",
    )
    for message in said:
        if message.startswith(variable_of("spool_dir")):
            report.problem("spool", message, "Until then, what is sent while the backend is away is lost.")
        else:
            report.note("provider", f"auto-instrumentation says: {message}")
    service = service_name(provider)
    if service.startswith("unknown_service"):
        report.problem("service", "it has no name", "Set OTEL_SERVICE_NAME.")
    else:
        report.ok("service", service)
    return provider


def _auto_instrument() -> None:
    # An import by name: the package has neither stubs nor py.typed.
    loaded: Any = import_module("opentelemetry.instrumentation.auto_instrumentation")

    # opentelemetry-instrument puts the working directory on the path too.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    loaded.initialize()


def _why_no_provider(kind: str, said: list[str]) -> tuple[str, str]:
    if not metadata.entry_points(group="opentelemetry_configurator"):
        return (
            "nothing here configures OpenTelemetry, so there is no tracer provider",
            "pip install opentelemetry-distro opentelemetry-exporter-otlp, "
            "or an extra of ours: 'otel-pyinstrument[flask]'.",
        )
    reason = "; ".join(said) or f"the tracer provider is {kind}"
    return (
        f"auto-instrumentation made no tracer provider: {reason}",
        "Correct what it names; the service runs untraced until then.",
    )


def service_name(provider: TracerProvider) -> str:
    """The service's name; OpenTelemetry gives one that begins with `unknown_service` when none is set."""
    return str(provider.resource.attributes.get("service.name", "unknown_service"))


def check_processor(
    report: Report, log: CapturedLog, provider: TracerProvider, settings: Settings
) -> ProfilingSpanProcessor | None:
    """Ours, on that provider."""
    for processor in processors_of(provider):
        if isinstance(processor, ProfilingSpanProcessor):
            report.ok("processor", "ours is on the provider")
            return processor
    if not settings.profiles_anything:
        report.note("processor", "not installed, because the settings profile nothing")
        return None
    if disabled_by_name():
        finding = f"{DISABLED_VARIABLE} switches profiling off"
        remedy = f"Take {ENTRY_POINT} or * out of it."
    else:
        finding = "; ".join(["ours is not on the provider", *log.take()])
        remedy = "See the lines above; a reinstallation of otel-pyinstrument registers its entry point again."
    report.problem("processor", finding, remedy)
    return None


def check_exporters(report: Report, provider: TracerProvider, settings: Settings) -> list[Destination]:
    """Where spans go; the OTLP exporters among them."""
    exporters: list[Any] = [private_names.exporter_of(processor) for processor in processors_of(provider)]
    exporters = [exporter for exporter in exporters if exporter is not None]
    destinations = [found for exporter in exporters if (found := destination_of(exporter)) is not None]
    for destination in destinations:
        report.ok("exporter", str(destination))
    for exporter in exporters:
        if destination_of(exporter) is None:
            report.note("exporter", f"{type(exporter).__name__}, which is not OTLP: delivery is not checked")
    if not exporters:
        chosen = (
            "" if declared_in() else f" (OTEL_TRACES_EXPORTER={os.environ.get('OTEL_TRACES_EXPORTER', '')})"
        )
        report.problem(
            "exporter",
            f"spans are not exported{chosen}",
            "Set OTEL_TRACES_EXPORTER=otlp and OTEL_EXPORTER_OTLP_ENDPOINT; pip install "
            "opentelemetry-exporter-otlp.",
        )
    if settings.event == "log" and not _takes_logs():
        report.problem(
            "exporter",
            f"{variable_of('event')} is log, but log records are not exported",
            "Set OTEL_LOGS_EXPORTER=otlp.",
        )
    return destinations


def _takes_logs() -> bool:
    from opentelemetry import _logs

    return bool(private_names.log_processors_of(_logs.get_logger_provider()))
