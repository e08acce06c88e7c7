"""OpenTelemetry's own configuration file switches profiling on with options."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path

import pytest

from otel_pyinstrument import PyinstrumentInstrumentor
from otel_pyinstrument.settings import Settings

PROGRAM = """
import json
from opentelemetry.instrumentation.auto_instrumentation import initialize
initialize()
from otel_pyinstrument import PyinstrumentInstrumentor
_, processor = PyinstrumentInstrumentor()._installed
print(json.dumps(processor._settings._asdict()))
"""

CONFIG = """
file_format: "1.0"
tracer_provider:
  processors:
    - simple: {exporter: {console: }}
instrumentation/development:
  python:
    pyinstrument:
      rate: 0.5
      exclude: [/health]
      endpoint_rates: {"GET /orders/{id}": 1, /ping: 0}
      interval:
      rat: 1
"""


def test_the_options_are_those_of_the_settings() -> None:
    assert [field.name for field in fields(PyinstrumentInstrumentor.configuration)] == list(
        Settings()._asdict()
    )


@pytest.mark.skipif(
    find_spec("opentelemetry.configuration") is None,
    reason="opentelemetry-configuration needs a newer SDK",
)
def test_the_file_sets_options_and_leaves_the_rest_to_the_environment(tmp_path: Path) -> None:
    # Given a file that names some settings, and one that is not known
    path = tmp_path / "otel.yaml"
    path.write_text(CONFIG, "utf-8")
    environ = {
        name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "COVERAGE_"))
    }
    environ |= {
        "OTEL_CONFIG_FILE": str(path),
        "OTEL_PYINSTRUMENT_INTERVAL": "7",
        "OTEL_PYINSTRUMENT_RATE": "1",
    }

    # When a process starts as opentelemetry-instrument starts it
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=environ, timeout=60, check=True
    )

    # Then the file's options hold like options in code, the variable holds for what the file leaves out
    settings = json.loads(run.stdout.splitlines()[-1])
    assert (settings["rate"], settings["exclude"], settings["interval"]) == (0.5, ["/health"], 7)
    assert settings["endpoint_rates"] == ["GET /orders/{id}=1", "/ping=0"]
    assert "Unknown options rat" in run.stderr
