"""The benchmark itself runs, whatever it measures."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(sys.platform != "linux", reason="CPU time of other processes is read from /proc"),
    pytest.mark.usefixtures("mongod_executable"),
]


def test_a_quick_run_prints_each_protocol_beside_raw_and_the_goal() -> None:
    # When the benchmark runs with few spans; fewer might take no tick of the clock of CPU time
    command = [sys.executable, "benchmarks/ingest.py", "--spans", "2000", "--sizes", "10"]
    command += ["--receivers", "1", "--in-flight", "8"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=150)

    # Then each protocol has a line in which every figure was measured and both ratios are judged
    assert done.returncode == 0, done.stderr
    table = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith("|")]
    titles, _, *lines = table
    assert [line[:4] for line in lines] == [[name, "10", "8", "1"] for name in ("grpc", "http", "json")]
    for line in lines:
        figures = dict(zip(titles, line, strict=True))
        for title in titles[1:-2]:
            assert float(figures[title].replace(",", "")) > 0, title
        for title in ("rate / raw", "per core / raw"):
            ratio, verdict = figures[title].split()
            assert float(ratio.strip("*")) > 0
            assert verdict in {"met", "MISSED"}

    # And the goal stands below, judged by all lines
    for what, title in (("rate", "rate / raw"), ("spans per second and core", "per core / raw")):
        met = [line[titles.index(title)].split()[1] == "met" for line in lines]
        verdict = "met" if all(met) else "MISSED"
        assert f"- {verdict:6} {what}: {sum(met)} of 3 lines reach 0.6 of raw" in done.stdout
