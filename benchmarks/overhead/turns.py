"""All contenders of one application at once, one working at a time."""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.overhead.contenders import BASE, Contender, environment_of
from benchmarks.overhead.interpreters import ROOT, Interpreter


class Sink:
    """The servers that take all telemetry, in a process of their own."""

    def __init__(self, interpreter: Interpreter) -> None:
        self._process = subprocess.Popen(
            [interpreter.python, "-m", "benchmarks.overhead", "--sink"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.ports: dict[str, int] = json.loads(self._process.stdout.readline())

    def stop(self) -> None:
        self._process.communicate(timeout=30)


@dataclass
class Measured:
    """One contender: what each of its turns took, in seconds of CPU time of the whole process."""

    version: str | None = None
    cpu_seconds: list[float] = field(default_factory=list[float])
    estimated_seconds: list[float] = field(default_factory=list[float])
    resident_bytes: int = 0
    decisions: dict[str, int] = field(default_factory=dict[str, int])

    def ratio_to(self, base: Measured) -> tuple[float, float]:
        """Sum to sum, because what is rare (a profile, say) counts too; and its standard error."""
        ratio = sum(self.cpu_seconds) / sum(base.cpu_seconds)
        rest = [
            mine - ratio * theirs for mine, theirs in zip(self.cpu_seconds, base.cpu_seconds, strict=True)
        ]
        turns = len(rest)
        if turns < 2:
            return ratio, math.nan
        return ratio, statistics.stdev(rest) / math.sqrt(turns) / statistics.fmean(base.cpu_seconds)

    def median_ratio_to(self, base: Measured) -> float:
        """The median of the ratios turn by turn: what noise hardly touches, nor anything rare."""
        return statistics.median(
            mine / theirs for mine, theirs in zip(self.cpu_seconds, base.cpu_seconds, strict=True)
        )


class _Worker:
    def __init__(
        self, interpreter: Interpreter, application: str, contender: Contender, ports: dict[str, int]
    ) -> None:
        self._process = subprocess.Popen(
            [interpreter.python, "-m", "benchmarks.overhead", "--work", application, contender.name],
            cwd=ROOT,
            env=environment_of(contender, application, ports, interpreter.instrumentors),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a contender ended with status {self._process.wait()}; its message is above")
        return json.loads(line)

    def turn(self, requests: int) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{requests}\n")
        self._process.stdin.flush()
        return self.answer()

    def stop(self) -> None:
        """By the end of its input; a profiler that does not let its process end is ended."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def compare(
    application: str,
    contenders: Mapping[Contender, Interpreter],
    ports: dict[str, int],
    *,
    rounds: int,
    turn_seconds: float,
) -> tuple[dict[str, Measured], int]:
    """What each contender took, and the requests of a turn: what takes OpenTelemetry alone `turn_seconds`.

    Each starts once; in every round each has a turn, so that a noisy neighbour hits all of them.
    """
    workers: dict[str, _Worker] = {}
    try:
        measured: dict[str, Measured] = {}
        for contender, interpreter in contenders.items():
            workers[contender.name] = _Worker(interpreter, application, contender, ports)
        for name, worker in workers.items():
            measured[name] = Measured(version=worker.answer()["version"])
        trial = workers[BASE].turn(100)
        requests = max(math.ceil(turn_seconds / trial["cpu_seconds"] * 100), 5)
        for number in range(rounds):
            # Every second round backwards: nobody always works right after the same neighbour.
            for name in workers if number % 2 == 0 else reversed(workers):
                answer = workers[name].turn(requests)
                of = measured[name]
                of.cpu_seconds.append(answer["cpu_seconds"])
                of.estimated_seconds.append(answer["estimated_seconds"])
                of.resident_bytes, of.decisions = answer["resident_bytes"], answer["decisions"]
            if sys.stderr.isatty():
                print(
                    f"\r{application}: round {number + 1} of {rounds} ", end="", file=sys.stderr, flush=True
                )
        return measured, requests
    finally:
        for worker in workers.values():
            worker.stop()
