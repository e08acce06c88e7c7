"""All contenders of one application at once, one working at a time."""

from __future__ import annotations

import json
import math
import random
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from benchmarks.overhead.contenders import BASE, Contender, environment_of
from benchmarks.overhead.interpreters import ROOT, Interpreter

_TRIAL_REQUESTS = 100
"""Of each process before its first turn: the load is meant to be steady."""


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
    """One contender: what each of its turns took, in seconds of CPU time of the whole process.

    Of several processes one after another, the same number of turns each: where memory happens to lie makes
    one process a percent or two faster than the next, for as long as it lives.
    """

    processes: int
    version: str | None = None
    cpu_seconds: list[float] = field(default_factory=list[float])
    estimated_seconds: list[float] = field(default_factory=list[float])
    resident_bytes: int = 0
    """Of the last process."""
    decisions: Counter[str] = field(default_factory=Counter[str])

    def ratio_to(self, base: Measured) -> tuple[float, float]:
        """Sum to sum, because what is rare (a profile, say) counts too; and its standard error.

        The error is that between processes, where there are several.
        """
        ratio = sum(self.cpu_seconds) / sum(base.cpu_seconds)
        mine, theirs = self._parts(), base._parts()
        rest = [own - ratio * other for own, other in zip(mine, theirs, strict=True)]
        if len(rest) < 2:
            return ratio, math.nan
        return ratio, statistics.stdev(rest) / math.sqrt(len(rest)) / statistics.fmean(theirs)

    def _parts(self) -> list[float]:
        """CPU seconds of each process; of each turn when there was one process only."""
        if self.processes == 1:
            return self.cpu_seconds
        turns = len(self.cpu_seconds) // self.processes
        return [
            sum(self.cpu_seconds[first : first + turns]) for first in range(0, len(self.cpu_seconds), turns)
        ]

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
        try:
            self._process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()


def compare(
    application: str,
    contenders: Mapping[Contender, Interpreter],
    ports: dict[str, int],
    *,
    processes: int,
    rounds: int,
    turn_seconds: float,
) -> tuple[dict[str, Measured], int]:
    """What each contender took, and the requests of a turn: what takes OpenTelemetry alone `turn_seconds`.

    Each has `processes` processes one after another, and `rounds` turns with each of them. In every round
    each has a turn, so that a noisy neighbour hits all of them.
    """
    measured = {contender.name: Measured(processes) for contender in contenders}
    requests = 0
    for number in range(processes):
        with _started(application, contenders, ports) as workers:
            for name, worker in workers.items():
                measured[name].version = worker.answer()["version"]
            trials = {name: worker.turn(_TRIAL_REQUESTS) for name, worker in workers.items()}
            if not requests:
                seconds = trials[BASE]["cpu_seconds"] / _TRIAL_REQUESTS
                requests = max(math.ceil(turn_seconds / seconds), 5)
            orders = _orders(list(workers))
            for turn in range(rounds):
                _round(workers, measured, requests, next(orders))
                _show_progress(f"{application}: turn {number * rounds + turn + 1} of {processes * rounds}")
    return measured, requests


@contextmanager
def _started(
    application: str, contenders: Mapping[Contender, Interpreter], ports: dict[str, int]
) -> Iterator[dict[str, _Worker]]:
    workers: dict[str, _Worker] = {}
    try:
        for contender, interpreter in contenders.items():
            workers[contender.name] = _Worker(interpreter, application, contender, ports)
        yield workers
    finally:
        for worker in workers.values():
            worker.stop()


def _orders(names: list[str]) -> Iterator[list[str]]:
    """One for each round, at random. Nobody has two turns in a row: the second would find all in the caches.

    Forwards and backwards in turns, those at the ends had that at every second round, OpenTelemetry alone
    among them: the same contender in the middle cost 1.1 % more, by its place alone.
    """
    last = None
    while True:
        order = random.sample(names, len(names))
        if order[0] == last:
            order.append(order.pop(0))
        last = order[-1]
        yield order


def _round(
    workers: Mapping[str, _Worker], measured: Mapping[str, Measured], requests: int, order: Iterable[str]
) -> None:
    for name in order:
        answer = workers[name].turn(requests)
        of = measured[name]
        of.cpu_seconds.append(answer["cpu_seconds"])
        of.estimated_seconds.append(answer["estimated_seconds"])
        of.resident_bytes = answer["resident_bytes"]
        of.decisions.update(answer["decisions"])


def _show_progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{text} ", end="", file=sys.stderr, flush=True)
