"""Real signals at any moment of beginning and ending a step: whatever a handler does there, nothing stays."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("steps_under_signals.py")
SIGNALS = 600


@pytest.mark.parametrize("does", ["raises", "ends the request", "starts a profiler of the user's"])
def test_a_signal_at_any_moment_of_a_step_leaves_nothing_behind(does: str) -> None:
    # When the handlers of many signals do this somewhere in steps
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    run = subprocess.run(
        [sys.executable, PROGRAM, does, str(SIGNALS)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
    )

    # Then no hook is left, nobody to pay for one, and the user's profiler could be stopped
    assert run.stdout == "done\n", run.stderr
