"""All contenders in turns, each run in a fresh process, so that nothing of one sticks to another."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path

from otel_pyinstrument.command.measuring.contender import Plan, Result

CONTENDERS = {
    "plain": "the application alone",
    "otel": "with OpenTelemetry",
    "ours": "profiled, these settings",
    "ours_every_request": "profiled, every request",
}

_STOP_SECONDS = 5.0
_SHOWN_LINES = 15


class RunFailed(Exception):
    """A run gave no result; the message says why."""


class CannotRun(RunFailed):
    """The application cannot be loaded, or not be run in this way."""


def measure(
    plan: Plan, *, rounds: int, limit_seconds: float, progress: Callable[[str], None]
) -> dict[str, list[Result]]:
    """The results of each contender, one for each round.

    Each round begins with another contender, so that none always has the same neighbour or the warmest
    machine.

    Raises:
        CannotRun: the application cannot be loaded, or not be run in this way.
        RunFailed: a run ended without a result, or took too long.
        KeyboardInterrupt: no process is left behind.
    """
    names = list(CONTENDERS)
    results: dict[str, list[Result]] = {name: [] for name in names}
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            progress(f"round {number + 1} of {rounds}: {CONTENDERS[name]}")
            results[name].append(measure_once(replace(plan, contender=name), limit_seconds=limit_seconds))
    return results


def measure_once(plan: Plan, *, limit_seconds: float) -> Result:
    """One run of `plan.contender` in a process of its own.

    Raises:
        CannotRun, RunFailed: see `measure`.
    """
    with tempfile.TemporaryDirectory(prefix="otel-pyinstrument-") as directory:
        plan_path, result_path, log_path = (Path(directory, name) for name in ("plan", "result", "log"))
        plan_path.write_text(json.dumps(asdict(plan)), "utf-8")
        command = [sys.executable, "-m", f"{__package__}.contender", str(plan_path), str(result_path)]
        with log_path.open("wb") as log:
            process = subprocess.Popen(  # noqa: S603 - our own module, by the running interpreter
                command,
                env=environment_of(plan.contender, os.environ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
            try:
                code = process.wait(limit_seconds)
            except subprocess.TimeoutExpired:
                raise RunFailed(
                    f"{CONTENDERS[plan.contender]}: not done after {limit_seconds:g} s. Ask for fewer "
                    "requests (--requests), or allow more (--timeout)"
                ) from None
            finally:
                _stop(process)
        if not result_path.exists():
            lines = log_path.read_text("utf-8", "replace").splitlines()[-_SHOWN_LINES:]
            raise RunFailed(
                "\n".join([f"{CONTENDERS[plan.contender]}: the process ended with code {code}", *lines])
            )
        result = Result(**json.loads(result_path.read_text("utf-8")))
    if result.error:
        raise CannotRun(result.error)
    return result


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def environment_of(contender: str, environ: Mapping[str, str]) -> dict[str, str]:
    """The service's environment without what would export something or start profiling by itself."""
    exporters = ("OTEL_TRACES_EXPORTER", "OTEL_METRICS_EXPORTER", "OTEL_LOGS_EXPORTER")
    without = {"OTEL_CONFIG_FILE", "OTEL_EXPERIMENTAL_CONFIG_FILE"}
    kept = {name: value for name, value in environ.items() if name not in without}
    disabled = kept.get("OTEL_PYTHON_DISABLED_INSTRUMENTATIONS", "")
    kept |= dict.fromkeys(exporters, "none")
    kept["OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"] = f"{disabled},pyinstrument" if disabled else "pyinstrument"
    if "PYTHONPATH" in kept:
        # Of `opentelemetry-instrument`, which would instrument every contender.
        paths = [
            path
            for path in kept["PYTHONPATH"].split(os.pathsep)
            if not path.rstrip("/\\").endswith("auto_instrumentation")
        ]
        kept["PYTHONPATH"] = os.pathsep.join(paths)
    if contender in {"plain", "otel"}:
        # The application may switch profiling on in code.
        kept["OTEL_PYINSTRUMENT_ENABLED"] = "false"
    if contender == "plain":
        kept["OTEL_SDK_DISABLED"] = "true"
    return kept
