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
import atexit, base64, json, sys
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from otel_pyinstrument import PyinstrumentInstrumentor
from otel_pyinstrument.call_tree import decode
exporter = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)
PyinstrumentInstrumentor().instrument(rate=1.0)
def functions(event):
    tree = decode(base64.b64decode(event.attributes["pyinstrument.payload"]))
    tree.self_check()
    return [frame.function for frame in tree.frames]
atexit.register(lambda: print(json.dumps({
    span.name: [span.kind.name, [functions(event) for event in span.events]]
    for span in exporter.get_finished_spans()
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


@pytest.mark.parametrize(
    ("containing", "spans"),
    [
        (
            "nightly report",
            {"load": ("INTERNAL", 0), "part": ("INTERNAL", 0), "nightly report": ("INTERNAL", 1)},
        ),
        ("async def fetch", {"fetch": ("INTERNAL", 0), "all": ("INTERNAL", 1)}),
        ("yield from", {"sum": ("INTERNAL", 1)}),
        ("WSGIMiddleware(app)", {"GET": ("SERVER", 1)}),
        ("ASGIMiddleware(app)", {"GET": ("SERVER", 1)}),
    ],
)
def test_an_example_makes_these_spans_and_profiles(containing: str, spans: dict, tmp_path: Path) -> None:
    (example,) = [example for example in EXAMPLES if containing in example]

    made = json.loads(run(example, tmp_path, TRACED).stderr)

    assert {name: (kind, len(profiles)) for name, (kind, profiles) in made.items()} == spans


def test_the_profile_of_the_async_example_shows_what_it_awaits(tmp_path: Path) -> None:
    (example,) = [example for example in EXAMPLES if "async def fetch" in example]

    _, (functions,) = json.loads(run(example, tmp_path, TRACED).stderr)["all"]

    assert {"main", "[await]"} <= set(functions)


def test_a_provider_of_ones_own_exports_the_profile(tmp_path: Path) -> None:
    (example,) = [example for example in EXAMPLES if "set_tracer_provider" in example]

    assert '"name": "pyinstrument.profile"' in run(example, tmp_path).stdout


def test_the_public_names_are_all_in_the_document() -> None:
    assert all(f"`{name}`" in DOCUMENT or name in EXAMPLES[0] for name in otel_pyinstrument.__all__)
    assert len(otel_pyinstrument.__all__) <= 6
