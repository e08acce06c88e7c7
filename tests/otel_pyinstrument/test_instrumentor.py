from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator

import pytest
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ConcurrentMultiSpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import NoOpTracerProvider, SpanKind

from otel_pyinstrument import PyinstrumentInstrumentor, instrumentor, private_names, self_test
from otel_pyinstrument.private_names import processors_of
from otel_pyinstrument.self_test import PrivateNameError
from otel_pyinstrument.span_processor import ProfilingSpanProcessor


@pytest.fixture
def provider() -> Iterator[TracerProvider]:
    made = TracerProvider(resource=Resource.get_empty(), shutdown_on_exit=False)
    yield made
    made.shutdown()


def ours(provider: TracerProvider) -> list[ProfilingSpanProcessor]:
    return [each for each in processors_of(provider) if isinstance(each, ProfilingSpanProcessor)]


def profiled_by(provider: TracerProvider) -> bool:
    """Whether a request of this provider runs under the hook."""
    with provider.get_tracer("test").start_as_current_span("GET /", kind=SpanKind.SERVER):
        return sys.getprofile() is not None


def test_instrument_adds_one_processor_and_uninstrument_removes_it(provider: TracerProvider) -> None:
    # Given a provider with an exporter
    other = SimpleSpanProcessor(InMemorySpanExporter())
    provider.add_span_processor(other)

    # When profiling is switched on
    PyinstrumentInstrumentor().instrument(tracer_provider=provider, rate=1)
    assert len(ours(provider)) == 1
    assert profiled_by(provider)

    # And off again
    PyinstrumentInstrumentor().uninstrument()

    # Then the provider is as it was
    assert list(processors_of(provider)) == [other]
    assert not profiled_by(provider)


def test_instrumenting_twice_adds_one_processor(
    provider: TracerProvider, caplog: pytest.LogCaptureFixture
) -> None:
    PyinstrumentInstrumentor().instrument(tracer_provider=provider, rate=1)
    PyinstrumentInstrumentor().instrument(tracer_provider=provider, rate=1, skip_dep_check=True)

    assert len(ours(provider)) == 1
    assert [record.getMessage() for record in caplog.records] == [
        "Attempting to instrument while already instrumented"
    ]


def test_it_can_be_switched_off_and_on_again(provider: TracerProvider) -> None:
    for _ in range(3):
        PyinstrumentInstrumentor().instrument(tracer_provider=provider, rate=1)
        assert profiled_by(provider)
        PyinstrumentInstrumentor().uninstrument()
        assert not profiled_by(provider)


def test_uninstrumenting_inside_a_request_leaves_no_hook(provider: TracerProvider) -> None:
    PyinstrumentInstrumentor().instrument(tracer_provider=provider, rate=1)
    with provider.get_tracer("test").start_as_current_span("GET /", kind=SpanKind.SERVER):
        PyinstrumentInstrumentor().uninstrument()
        assert sys.getprofile() is None


@pytest.mark.parametrize("arguments", [{"enabled": False}, {"rate": 0}, {"max_concurrent": 0}])
def test_what_cannot_profile_anything_installs_nothing(
    arguments: dict, provider: TracerProvider, caplog: pytest.LogCaptureFixture
) -> None:
    PyinstrumentInstrumentor().instrument(tracer_provider=provider, **arguments)

    assert ours(provider) == []
    assert caplog.records == []


def test_a_disabled_sdk_installs_nothing_and_needs_no_warning(
    provider: TracerProvider, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "TRUE")

    PyinstrumentInstrumentor().instrument(tracer_provider=provider, rate=1)

    assert ours(provider) == []
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_the_environment_decides_without_arguments(
    provider: TracerProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_PYINSTRUMENT_ENABLED", "false")
    PyinstrumentInstrumentor().instrument(tracer_provider=provider)
    assert ours(provider) == []

    monkeypatch.setenv("OTEL_PYINSTRUMENT_ENABLED", "true")
    monkeypatch.setenv("OTEL_PYINSTRUMENT_RATE", "1")
    PyinstrumentInstrumentor().instrument(tracer_provider=provider)
    assert profiled_by(provider)


def test_without_an_sdk_provider_one_warning_says_what_to_do(
    provider: TracerProvider, caplog: pytest.LogCaptureFixture
) -> None:
    # When there is no provider of the SDK yet
    PyinstrumentInstrumentor().instrument(tracer_provider=NoOpTracerProvider(), rate=1)

    # Then one line names the remedy
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "NoOpTracerProvider" in record.getMessage()
    assert "instrument(tracer_provider=...)" in record.getMessage()

    # And the remedy works
    PyinstrumentInstrumentor().instrument(tracer_provider=provider, rate=1)
    assert profiled_by(provider)


def test_a_provider_that_calls_processors_on_other_threads_is_not_profiled(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # Given a provider whose span processors are called by a pool of threads
    composite = ConcurrentMultiSpanProcessor(1)
    provider = TracerProvider(
        active_span_processor=composite, resource=Resource.get_empty(), shutdown_on_exit=False
    )

    # When profiling is switched on
    PyinstrumentInstrumentor().instrument(tracer_provider=provider, rate=1)

    # Then no thread gets a hook, and one line says why
    assert ours(provider) == []
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "ConcurrentMultiSpanProcessor" in record.getMessage()
    provider.shutdown()


def test_the_proxy_provider_is_not_enough() -> None:
    # Given a process in which nobody configured the SDK
    code = (
        "from otel_pyinstrument import PyinstrumentInstrumentor\n"
        "PyinstrumentInstrumentor().instrument()\n"
        "print(PyinstrumentInstrumentor().is_instrumented_by_opentelemetry)\n"
    )

    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)

    assert (run.returncode, run.stdout) == (0, "False\n")
    assert run.stderr.count("\n") == 1
    assert "ProxyTracerProvider" in run.stderr


def test_the_global_provider_is_the_default(
    provider: TracerProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)

    PyinstrumentInstrumentor().instrument(rate=1)

    assert profiled_by(provider)


@pytest.mark.parametrize("part", ["read_settings", "_self_test", "ProfilingSpanProcessor"])
def test_a_failure_to_install_is_logged_and_not_raised(
    part: str, provider: TracerProvider, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # Given a part of ours that fails
    def fail(*_arguments: object, **_options: object) -> None:
        raise RuntimeError("on purpose")

    monkeypatch.setattr(instrumentor, part, fail)

    # When profiling is switched on
    PyinstrumentInstrumentor().instrument(tracer_provider=provider, rate=1)

    # Then the application goes on, and a later try may succeed
    assert [record.getMessage() for record in caplog.records] == [
        "Profiling is off: it could not be installed"
    ]
    monkeypatch.undo()
    PyinstrumentInstrumentor().instrument(tracer_provider=provider, rate=1)
    assert profiled_by(provider)


def test_what_a_failure_leaves_half_installed_is_removed(
    provider: TracerProvider, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # Given a part of ours that fails when requests could be profiled already
    def fail() -> None:
        raise RuntimeError("on purpose")

    monkeypatch.setattr(instrumentor.hop_patches, "install", fail)

    # When profiling is switched on
    PyinstrumentInstrumentor().instrument(tracer_provider=provider, rate=1)

    # Then it is off, as the log says
    assert [record.getMessage() for record in caplog.records] == [
        "Profiling is off: it could not be installed"
    ]
    assert ours(provider) == []
    assert not profiled_by(provider)


BLOCKED = """
import sys
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import SpanKind
from otel_pyinstrument import PyinstrumentInstrumentor

# Given a module that may not be imported, and others that are loaded
import asyncio
sys.modules[{module!r}] = None
provider = TracerProvider(shutdown_on_exit=False)
tracer = provider.get_tracer("test")

# When a request in a task and one on a thread, each with a query, are profiled
PyinstrumentInstrumentor().instrument(tracer_provider=provider, rate=1, cpu_budget=1)
def request():
    with tracer.start_as_current_span("GET /", kind=SpanKind.SERVER) as span:
        query = {{"db.system": "sqlite", "db.statement": "SELECT 1"}}
        tracer.start_span("SELECT", kind=SpanKind.CLIENT, attributes=query).end()
    return [event.name for event in span.events]
async def main():
    return request()
print(asyncio.run(main()), request())
"""


@pytest.mark.parametrize("module", ["greenlet", "trio", "anyio.to_thread", "asgiref.sync", "uvicorn.server"])
def test_a_module_that_may_not_be_imported_costs_no_profile(module: str) -> None:
    run = subprocess.run(
        [sys.executable, "-c", BLOCKED.format(module=module)], capture_output=True, text=True, timeout=60
    )

    assert (run.stdout, run.stderr) == ("['pyinstrument.profile'] ['pyinstrument.profile']\n", "")


def test_a_failure_to_remove_is_logged_and_profiling_ends(
    provider: TracerProvider, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    PyinstrumentInstrumentor().instrument(tracer_provider=provider, rate=1)

    def fail(*_arguments: object) -> None:
        raise AttributeError("_span_processors")

    monkeypatch.setattr(private_names, "remove_processor", fail)
    PyinstrumentInstrumentor().uninstrument()

    assert len(caplog.records) == 1
    assert not profiled_by(provider)


@pytest.mark.parametrize("error", [PrivateNameError("pyinstrument: gone"), ImportError("no module")])
def test_libraries_that_changed_mean_one_warning(
    error: Exception,
    provider: TracerProvider,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(self_test, "check_sampler", fail)

    PyinstrumentInstrumentor().instrument(tracer_provider=provider, rate=1)

    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert str(error) in caplog.text
    assert ours(provider) == []


def test_nothing_is_demanded_from_the_environment() -> None:
    assert list(PyinstrumentInstrumentor().instrumentation_dependencies()) == []
