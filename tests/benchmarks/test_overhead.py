"""The benchmark itself runs, whatever it measures."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.integration
@pytest.mark.parametrize("application", ["flask", "django", "fastapi"])
def test_a_quick_run_prints_the_table_and_the_targets(application: str) -> None:
    # When the benchmark runs with few requests, where other profilers are not installed
    command = [sys.executable, "-m", "benchmarks.overhead", "--quick", "--application", application]
    done = subprocess.run(
        [*command, "--only", "otel", "all", "tenth", "default", "pyroscope"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=150,
    )

    # Then each contender that is here has a row with figures, the absent one is named, and targets follow
    assert done.returncode == 0, done.stderr
    rows = {
        cells[1]: cells[2:-1]
        for line in done.stdout.splitlines()
        if len(cells := [cell.strip() for cell in line.split("|")]) > 2
    }
    titles = ["OpenTelemetry alone (", "ours, default settings (", "ours, every request ("]
    for title in titles:
        (figures,) = [cells for name, cells in rows.items() if name.startswith(title)]
        assert float(figures[0]) > 0
        assert float(figures[1]) > 0
    (profiled,) = [cells for name, cells in rows.items() if name.startswith(titles[-1])]
    assert int(profiled[5]) >= 10
    assert rows["Pyroscope, 100 Hz"] == ["absent: pyroscope-io is not installed"]
    assert "one request in ten: the gate's estimate is off by" in done.stdout
    assert "CPU ms of all imports" in done.stdout
    assert "CPU ms added to the" in done.stdout
