"""The benchmark itself runs, whatever it measures."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "call_tree.py"


@pytest.mark.integration
def test_a_quick_run_prints_both_tables() -> None:
    # When the benchmark runs once with small trees
    done = subprocess.run([sys.executable, BENCHMARK, "--quick"], capture_output=True, text=True, timeout=150)

    # Then each depth and each size has a line of figures
    assert done.returncode == 0, done.stderr
    adding, transforming = [table.splitlines() for table in done.stdout.split("\n\n")]
    assert adding[0].startswith("add, per sample")
    assert [line.split()[0] for line in adding[1:]] == ["20", "60", "100"]
    assert transforming[0].startswith("per tree, ms")
    assert [int(line.split()[0]) for line in transforming[1:]] == [500, 5_000]
    for line in transforming[1:]:
        assert all(float(figure.removeprefix("x")) > 0 for figure in line.replace("x ", "x").split())
