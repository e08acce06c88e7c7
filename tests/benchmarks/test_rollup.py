"""The benchmark itself runs, whatever it measures."""

from __future__ import annotations

import sys

import pytest

from benchmarks import rollup
from profile_store.mongodb import rollup_marks

LINES = {
    "write, with marks": 3,
    "roll up": 3,
    "correct 1 % that came late": 3,
    "all 1 hours": 1,
    "the same by endpoint": 1,
    "one endpoint by version": 1,
    "series, 1 points": 1,
    "series, 12 points": 1,
    "series of one endpoint, 12 points": 1,
    "merged call tree of one endpoint": 1,
    "hot functions of all endpoints": 1,
    "project_statistics": 1,
    "performance_records": 4,
    "profiles": 4,
    "rollup_minutes": 4,
    "rollup_hours": 4,
    "rollup_trees": 4,
    "record": 7,
    "profile": 7,
    "both": 7,
}
"""The lines of the tables, and how many figures stand in them."""


@pytest.mark.integration
@pytest.mark.usefixtures("mongod_executable")
def test_a_short_run_prints_the_tables_and_whether_each_reading_is_met(monkeypatch, capsys) -> None:
    # Given a roller that trusts a mark that it sees for the second time, instead of waiting for ten seconds
    monkeypatch.setattr(rollup_marks, "FRESH_SECONDS", 0.0)
    monkeypatch.setattr(rollup_marks, "SETTLE_SECONDS", 0.0)

    # When the benchmark runs with few requests of one hour
    arguments = ["--records", "1000", "--hours", "1", "--endpoints", "2"]
    monkeypatch.setattr(sys, "argv", ["rollup.py", *arguments])
    rollup.main()
    lines = capsys.readouterr().out.splitlines()

    # Then all steps, questions and collections have their figures
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    figures = {
        name: [float(cell) for cell in cells] for name, *cells in rows if cells and cells[0][:1].isdigit()
    }
    assert {name: len(values) for name, values in figures.items()} == LINES
    stored = {name: figures[name][0] for name in ("performance_records", "rollup_minutes")}
    assert stored["performance_records"] == 1_000
    assert 60 <= stored["rollup_minutes"] <= 61

    # And each of the ratios is said to be met or missed
    verdicts = [line for line in lines if line.startswith(("- met   ", "- MISSED"))]
    assert [line[9:] for line in verdicts] == [
        f"{name}, {what}: {ratio:.1f}"
        for name in ("record", "profile", "both")
        for what, ratio in zip(("JSON / stored BSON", "disk / disk"), figures[name][-2:], strict=True)
    ]
    assert verdicts[0].startswith("- MISSED record, JSON")
    assert verdicts[2].startswith("- met    profile, JSON")
