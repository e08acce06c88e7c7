"""Who is compared: what each needs in its environment, and how its own documentation switches it on."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

INTERVAL_SECONDS = 0.01
"""Our default; bare pyinstrument gets the same."""

BASE = "otel"
"""Whose CPU time is 1."""


@dataclass(frozen=True, eq=False)
class Contender:
    """`distribution`: what has to be installed. `environment`: beside what all have.

    `apart`: in an environment of its own, because it replaces parts of OpenTelemetry where it is installed.
    """

    name: str
    title: str
    distribution: str | None = None
    environment: dict[str, str] = field(default_factory=dict[str, str])
    opentelemetry: bool = True
    ours: bool = False
    apart: bool = False

    def version(self) -> str | None:
        """The installed version of what is compared."""
        return importlib.metadata.version(self.distribution) if self.distribution else None


def _ours(name: str, title: str, **settings: str) -> Contender:
    environment = {f"OTEL_PYINSTRUMENT_{key.upper()}": value for key, value in settings.items()}
    return Contender(name, f"ours, {title}", "otel-pyinstrument", environment, ours=True)


CONTENDERS = (
    Contender("plain", "the application alone", opentelemetry=False),
    Contender(BASE, "OpenTelemetry alone", "opentelemetry-sdk"),
    _ours("not_chosen", "no request chosen", rate="1e-9", slow_rate="0", error_rate="0"),
    _ours("no_budget", "every request refused for the budget", rate="1", cpu_budget="1e-9"),
    _ours("default", "default settings"),
    _ours("tenth", "one request in ten", rate="0.1", cpu_budget="1", max_concurrent="100"),
    _ours("all", "every request", rate="1", cpu_budget="1", max_concurrent="100"),
    Contender("pyinstrument", "bare pyinstrument, every request, same interval", "pyinstrument"),
    Contender("pyinstrument_json", "bare pyinstrument, the same and written as JSON", "pyinstrument"),
    Contender("pyroscope", "Pyroscope, 100 Hz", "pyroscope-io"),
    Contender("sentry", "Sentry transaction profiling (and its own tracing)", "sentry-sdk"),
    Contender(
        "ddtrace",
        "ddtrace profiler",
        "ddtrace",
        {"DD_TRACE_ENABLED": "false", "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false"},
    ),
    Contender(
        "splunk",
        "Splunk AlwaysOn",
        "splunk-opentelemetry",
        {
            "OTEL_PYTHON_DISTRO": "splunk_distro",
            "OTEL_LOGS_EXPORTER": "otlp",
            "SPLUNK_PROFILER_ENABLED": "true",
        },
        apart=True,
    ),
)
BY_NAME = {contender.name: contender for contender in CONTENDERS}


INSTRUMENTED = {
    "flask": {"flask", "sqlite3", "jinja2"},
    "django": {"django", "sqlite3"},
    "fastapi": {"fastapi"},
}
"""Only what the application uses: other instrumentations would load its libraries into every process."""


def environment_of(
    contender: Contender, application: str, ports: dict[str, int], instrumentors: Iterable[str]
) -> dict[str, str]:
    """The environment of its process: all telemetry goes to the sink. `instrumentors`: those installed."""
    web = f"http://127.0.0.1:{ports['http']}"
    wanted = INSTRUMENTED[application] | ({"pyinstrument"} if contender.ours else set())
    disabled = sorted(set(instrumentors) - wanted)
    inherited = {
        key: value
        for key, value in os.environ.items()
        # PYTHON...: without compiled modules on disk a start would be dominated by compiling ours.
        if not key.startswith(("OTEL_", "PYTHON", "PYINSTRUMENT_", "DD_", "SENTRY_", "SPLUNK_", "DJANGO_"))
    }
    return inherited | {
        "PYTHONHASHSEED": "0",
        "DJANGO_SETTINGS_MODULE": "benchmarks.overhead.django_page",
        "OTEL_SERVICE_NAME": "benchmark",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{ports['grpc']}",
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
        "OTEL_PYTHON_DISTRO": "distro",
        "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": ",".join(disabled),
        "SENTRY_DSN": f"http://key@127.0.0.1:{ports['http']}/1",
        "PYROSCOPE_SERVER_ADDRESS": web,
        "DD_TRACE_AGENT_URL": web,
        "DD_SERVICE": "benchmark",
        **contender.environment,
    }


def switch_on(contender: Contender) -> None:
    """In the contender's own process, before the application is made."""
    if contender.opentelemetry:
        from opentelemetry.instrumentation.auto_instrumentation import initialize

        initialize()
    if contender.name == "pyroscope":
        import pyroscope

        pyroscope.configure(
            application_name="benchmark",
            server_address=os.environ["PYROSCOPE_SERVER_ADDRESS"],
            sample_rate=100,
        )
    elif contender.name == "sentry":
        import sentry_sdk

        sentry_sdk.init(traces_sample_rate=1.0, profiles_sample_rate=1.0)
    elif contender.name == "ddtrace":
        import ddtrace.profiling.auto  # noqa: F401 - the import is the switch


class BarePyinstrument:
    """Profiles every request as the documentation of pyinstrument shows it.

    `renderer`: one of pyinstrument's, for each profile; None throws the profile away.
    """

    def __init__(self, renderer: Any = None) -> None:
        self._renderer = renderer

    def wsgi(self, application: Any) -> Any:
        """Around a WSGI application."""
        from pyinstrument import Profiler

        def profiled(environ: Any, start_response: Any) -> Any:
            profiler = Profiler(interval=INTERVAL_SECONDS)
            profiler.start()
            try:
                return application(environ, start_response)
            finally:
                self._finish(profiler)

        return profiled

    def asgi(self, application: Any) -> Any:
        """Around an ASGI application."""
        from pyinstrument import Profiler

        async def profiled(scope: Any, receive: Any, send: Any) -> None:
            profiler = Profiler(interval=INTERVAL_SECONDS)
            profiler.start()
            try:
                await application(scope, receive, send)
            finally:
                self._finish(profiler)

        return profiled

    def _finish(self, profiler: Any) -> None:
        profiler.stop()
        if self._renderer is not None:
            profiler.output(self._renderer)


def bare_pyinstrument(contender: Contender) -> BarePyinstrument | None:
    """None unless it is one of the two of that name."""
    if contender.name == "pyinstrument":
        return BarePyinstrument()
    if contender.name == "pyinstrument_json":
        from pyinstrument.renderers import JSONRenderer

        return BarePyinstrument(JSONRenderer())
    return None
