"""What our package adds to the start of a process under `opentelemetry-instrument`."""

from __future__ import annotations

import os
import statistics
import subprocess
from pathlib import Path

from benchmarks.overhead.contenders import BASE, BY_NAME, environment_of
from benchmarks.overhead.interpreters import Interpreter


def added_seconds(interpreter: Interpreter, ports: dict[str, int], *, runs: int) -> tuple[float, float]:
    """CPU time that the default settings add (difference of medians), and the median without us."""
    took: dict[str, list[float]] = {BASE: [], "default": []}
    for _ in range(runs):
        for name, seconds in took.items():
            environment = environment_of(BY_NAME[name], "flask", ports, interpreter.instrumentors)
            seconds.append(_start(interpreter.python, environment))
    base = statistics.median(took[BASE])
    return statistics.median(took["default"]) - base, base


def _start(python: str, environment: dict[str, str]) -> float:
    command = [str(Path(python).with_name("opentelemetry-instrument")), python, "-c", "import flask"]
    process = subprocess.Popen(command, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with status {process.returncode}")
    return usage.ru_utime + usage.ru_stime
