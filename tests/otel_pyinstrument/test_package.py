from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from opentelemetry.instrumentation.dependencies import get_dist_dependency_conflicts
from packaging.requirements import Requirement

import otel_pyinstrument

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"
EXTRAS = tomllib.loads(PYPROJECT.read_text("utf-8"))["project"]["optional-dependencies"]
FRAMEWORKS = {"django": {"asgi", "django"}, "fastapi": {"fastapi"}, "flask": {"flask"}}
"""What a user may ask for, and the instrumentations that bring its requests."""

MEASURE = """
import json, sys, time
import typing, importlib.util
before = set(sys.modules)
start = time.perf_counter()
import otel_pyinstrument
seconds = time.perf_counter() - start
print(json.dumps({"seconds": seconds, "modules": sorted(set(sys.modules) - before)}))
"""


def in_a_new_process(code: str) -> dict:
    # Without what a coverage run would load there
    environ = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, text=True, env=environ
    )
    return json.loads(run.stdout)


def test_the_import_costs_less_than_20_ms() -> None:
    # When the package is imported in new processes
    fastest = min(in_a_new_process(MEASURE)["seconds"] for _ in range(5))

    # Then that is cheap: every Python subprocess of an instrumented application pays it
    assert fastest < 0.020


def test_the_import_loads_nothing_but_the_package_itself() -> None:
    loaded = in_a_new_process(MEASURE)["modules"]

    assert [name for name in loaded if name.split(".")[0] != "otel_pyinstrument"] == ["__future__"]


def test_switching_on_loads_no_exporter_and_no_server_library() -> None:
    # When profiling is switched on for a provider
    loaded = in_a_new_process(
        "import json, sys\n"
        "from opentelemetry.sdk.trace import TracerProvider\n"
        "from otel_pyinstrument import PyinstrumentInstrumentor\n"
        "PyinstrumentInstrumentor().instrument(tracer_provider=TracerProvider(), rate=1)\n"
        "assert PyinstrumentInstrumentor().is_instrumented_by_opentelemetry\n"
        "print(json.dumps({'modules': sorted({name.split('.')[0] for name in sys.modules})}))"
    )["modules"]

    # Then the application's process holds none of these for our sake
    assert {"grpc", "pymongo", "fastapi", "starlette", "uvicorn", "pydantic", "jinja2", "flask"}.isdisjoint(
        loaded
    )


@pytest.mark.parametrize("library", ["asyncio", "greenlet"])
def test_the_first_profile_loads_nothing_in_its_request(library: str) -> None:
    # Given a library whose tasks or greenlets share threads, loaded before profiling is switched on
    pytest.importorskip(library)
    loaded = in_a_new_process(
        f"import {library}\n"
        "import json, sys\n"
        "from opentelemetry.sdk.trace import TracerProvider\n"
        "from opentelemetry.trace import SpanKind\n"
        "from otel_pyinstrument import PyinstrumentInstrumentor\n"
        "provider = TracerProvider()\n"
        "PyinstrumentInstrumentor().instrument(tracer_provider=provider, rate=1, cpu_budget=1)\n"
        "requests = []\n"
        "for number in range(2):\n"
        "    before = set(sys.modules)\n"
        "    with provider.get_tracer('t').start_as_current_span('GET /', kind=SpanKind.SERVER) as span:\n"
        "        query = {'kind': SpanKind.CLIENT, 'attributes': {'db.system': 'x', 'db.statement': '1'}}\n"
        "        provider.get_tracer('t').start_span('SELECT', **query).end()\n"
        "    requests.append(sorted(set(sys.modules) - before))\n"
        "print(json.dumps({'modules': requests, 'events': [event.name for event in span.events]}))"
    )

    # When a request with a query is profiled, then everything that this takes is there
    assert loaded == {"modules": [[], []], "events": ["pyinstrument.profile"]}


def test_all_names_the_public_names_and_each_exists() -> None:
    assert otel_pyinstrument.__all__ == [
        "ASGIMiddleware",
        "PyinstrumentInstrumentor",
        "WSGIMiddleware",
        "__version__",
        "profile",
    ]
    assert all(getattr(otel_pyinstrument, name) for name in otel_pyinstrument.__all__)
    assert set(otel_pyinstrument.__all__) <= set(dir(otel_pyinstrument))


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(otel_pyinstrument, "unknown")


def test_each_framework_has_an_extra() -> None:
    assert EXTRAS.keys() - {"server"} == FRAMEWORKS.keys()


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_an_extra_brings_all_that_zero_code_needs(framework: str) -> None:
    # Given what `pip install otel-pyinstrument[framework]` asks for
    wanted = {each.name: each.specifier for each in map(Requirement, EXTRAS[framework])}

    # Then that is the distro with its command, an exporter and the instrumentation of the framework
    assert wanted.keys() == {
        "opentelemetry-distro",
        "opentelemetry-exporter-otlp",
        *(f"opentelemetry-instrumentation-{name}" for name in FRAMEWORKS[framework]),
    }
    # And what the tests run with is of these versions
    for name, versions in wanted.items():
        assert versions.contains(metadata.version(name), prereleases=True), name

    # And opentelemetry-instrument finds the instrumentation, for the version of the framework that is there
    (found,) = metadata.entry_points(group="opentelemetry_instrumentor", name=framework)
    assert get_dist_dependency_conflicts(found.dist) is None
    assert metadata.entry_points(group="console_scripts", name="opentelemetry-instrument")
