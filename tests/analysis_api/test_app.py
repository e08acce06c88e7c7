from __future__ import annotations

import subprocess
import sys

SCRIPT = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starlette.testclient import TestClient

from analysis_api.app import create_app

exporter = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)
with TestClient(create_app(object())) as client:
    assert client.get("/openapi.json").status_code == 200
    assert client.get("/projects?page=0").status_code == 422
print([span.name for span in exporter.get_finished_spans()])
"""


def test_the_api_makes_no_spans_of_its_own_in_a_process_with_a_tracer() -> None:
    # A tracer provider is set once per process, so it gets one of its own.
    result = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"
