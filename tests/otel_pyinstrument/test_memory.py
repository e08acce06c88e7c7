"""Many requests of every kind, those that go wrong too: nothing of them stays in memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

REQUESTS = 10_000


def test_memory_is_flat_over_ten_thousand_requests() -> None:
    # When they are served in a process of their own. Without coverage.py, which keeps six blocks of memory of
    # each hop of anyio to a thread, with or without profiling
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    run = subprocess.run(
        [sys.executable, Path(__file__).with_name("many_requests.py"), str(REQUESTS)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    held = json.loads(run.stdout)

    # Then all were profiled, and from the second quarter on not even every tenth left one block behind
    assert held["profiles"] >= REQUESTS
    blocks, resident = held["blocks"], held["resident_bytes"]
    assert blocks[3] - blocks[1] < REQUESTS / 2 / 10, f"blocks by quarter: {blocks}"
    assert resident[3] is None or resident[3] - resident[1] < 4 * 2**20

    # And there is no hook, segment or place left
    assert (held["has_hook"], held["open_segments"], held["held_slots"]) == (False, 0, 0)
