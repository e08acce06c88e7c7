"""Every example of docs/in-code.md runs as it stands, and does what the text says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import otel_pyinstrument

DOCUMENT = (Path(__file__).parents[2] / "docs" / "in-code.md").read_text("utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)

TRACED = """
import atexit, json, sys
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from otel_pyinstrument import PyinstrumentInstrumentor
exporter = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)
PyinstrumentInstrumentor().instrument(rate=1.0)
atexit.register(lambda: print(json.dumps({
    span.name: [span.kind.name, len(span.events)] for span in exporter.get_finished_spans()
}), file=sys.stderr))
"""


def run(example: str, tmp_path: Path, prelude: str = "") -> subprocess.CompletedProcess[str]:
    (tmp_path / "script.py").write_text(prelude + example)
    environ = {
        name: value for name, value in os.environ.items() if not name.startswith(("COVERAGE_", "OTEL_"))
    }
    return subprocess.run(
        [sys.executable, "-W", "error", "script.py"],
        cwd=tmp_path,
        env=environ,
        check=True,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_an_example_runs_without_tracing(example: str, tmp_path: Path) -> None:
    assert run(example, tmp_path).stderr == ""


# A request or a task on an event loop: whether it has a profile too is the engine's business.
@pytest.mark.parametrize(
    ("containing", "spans"),
    [
        (
            "nightly report",
            {"load": ("INTERNAL", {0}), "part": ("INTERNAL", {0}), "nightly report": ("INTERNAL", {1})},
        ),
        ("async def fetch", {"fetch": ("INTERNAL", {0}), "all": ("INTERNAL", {0, 1})}),
        ("yield from", {"sum": ("INTERNAL", {1})}),
        ("WSGIMiddleware(app)", {"GET": ("SERVER", {1})}),
        ("ASGIMiddleware(app)", {"GET": ("SERVER", {0, 1})}),
    ],
)
def test_an_example_makes_these_spans_and_profiles(containing: str, spans: dict, tmp_path: Path) -> None:
    (example,) = [example for example in EXAMPLES if containing in example]

    made = json.loads(run(example, tmp_path, TRACED).stderr)

    assert set(made) == set(spans)
    for name, (kind, events) in spans.items():
        assert made[name][0] == kind
        assert made[name][1] in events


def test_a_provider_of_ones_own_exports_the_profile(tmp_path: Path) -> None:
    (example,) = [example for example in EXAMPLES if "set_tracer_provider" in example]

    assert '"name": "pyinstrument.profile"' in run(example, tmp_path).stdout


def test_the_public_names_are_all_in_the_document() -> None:
    assert all(f"`{name}`" in DOCUMENT or name in EXAMPLES[0] for name in otel_pyinstrument.__all__)
    assert len(otel_pyinstrument.__all__) <= 6
