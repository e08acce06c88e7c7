"""What our package adds to the start of a process under `opentelemetry-instrument`."""

from __future__ import annotations

import os
import statistics
import subprocess
from pathlib import Path
from typing import NamedTuple

from benchmarks.overhead.contenders import BASE, BY_NAME, environment_of
from benchmarks.overhead.interpreters import Interpreter

_OURS = "default"
_MODULES = "import sys, flask; print(*sys.modules)"
_IMPORTING = """
import flask, importlib, time
for names in {groups!r}:
    start = time.process_time()
    for name in names:
        importlib.import_module(name)
    print(time.process_time() - start)
"""


class Start(NamedTuple):
    """Seconds of CPU time, medians."""

    without_us: float
    added: float
    package: float
    """`import otel_pyinstrument` alone, which loads next to nothing."""
    imports: float
    """The part of `added` that imports take: every module that is not loaded without us."""
    pyinstrument: float
    """The part of `imports` that pyinstrument takes, which loads its renderers too."""


def measure_start(interpreter: Interpreter, ports: dict[str, int], *, runs: int) -> Start:
    """What the default settings add to a process that imports Flask under OpenTelemetry."""
    starts = {
        name: _Process(
            interpreter.python, environment_of(BY_NAME[name], "flask", ports, interpreter.instrumentors)
        )
        for name in (BASE, _OURS)
    }
    known = set(starts[BASE].run(_MODULES).split())
    more = [name for name in starts[_OURS].run(_MODULES).split() if name not in known]
    package = ["otel_pyinstrument"]
    pyinstrument = [name for name in more if name.partition(".")[0] == "pyinstrument"]
    groups = [package, pyinstrument, [name for name in more if name not in pyinstrument]]
    took: dict[str, list[float]] = {BASE: [], _OURS: []}
    imports: list[list[float]] = []
    for _ in range(runs):
        for name, seconds in took.items():
            starts[name].run("import flask")
            seconds.append(starts[name].cpu_seconds)
        imports.append(
            [float(seconds) for seconds in starts[BASE].run(_IMPORTING.format(groups=groups)).split()]
        )
    base = statistics.median(took[BASE])
    return Start(
        base,
        statistics.median(took[_OURS]) - base,
        package=statistics.median(package for package, _, _ in imports),
        imports=statistics.median(sum(parts) for parts in imports),
        pyinstrument=statistics.median(pyinstrument for _, pyinstrument, _ in imports),
    )


class _Process:
    def __init__(self, python: str, environment: dict[str, str]) -> None:
        self._command = [str(Path(python).with_name("opentelemetry-instrument")), python, "-c"]
        # An installed package has its bytecode; the first run of each kind, which nobody times, writes it.
        self._environment = {
            name: value for name, value in environment.items() if name != "PYTHONDONTWRITEBYTECODE"
        }
        self.cpu_seconds = 0.0

    def run(self, code: str) -> str:
        """What it prints."""
        with subprocess.Popen(
            [*self._command, code], env=self._environment, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            printed = process.stdout.read()
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"{' '.join(self._command)} ended with status {process.returncode}")
        self.cpu_seconds = usage.ru_utime + usage.ru_stime
        return printed
