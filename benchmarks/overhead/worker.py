"""One contender with one application in a process of its own. It serves when it is told to."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.overhead.applications import APPLICATIONS
from benchmarks.overhead.contenders import BY_NAME, Contender, bare_pyinstrument, switch_on

WARM_UP_REQUESTS = 60


def work(application: str, name: str) -> None:
    """Answer each line with a number of requests by what they cost, until standard input closes.

    Spans are flushed after each turn, so that what is encoded and sent for its requests is counted in it.
    What other profilers send by themselves counts only when it falls into a turn: to their advantage.
    """
    answers = sys.stdout
    sys.stdout = sys.stderr
    contender = BY_NAME[name]
    switch_on(contender)
    visit = APPLICATIONS[application](bare_pyinstrument(contender))
    clock = _RestingClock()
    if contender.ours:
        _rest_with(clock)
    visit(WARM_UP_REQUESTS)
    _flush()
    print(json.dumps({"version": contender.version()}), file=answers, flush=True)
    for line in sys.stdin:
        clock.go_on()
        estimated, decided = _estimated_seconds(), _decisions(contender)
        start = time.process_time()
        visit(int(line))
        _flush()
        answer = {
            "cpu_seconds": time.process_time() - start,
            "estimated_seconds": _estimated_seconds() - estimated,
            "resident_bytes": _resident_bytes(),
            "decisions": dict(_decisions(contender) - decided),
        }
        print(json.dumps(answer), file=answers, flush=True)
        clock.rest()


class _RestingClock:
    """The time that passed while it was this process' turn: the load is steady, as the budget sees it."""

    def __init__(self) -> None:
        self._rested = 0.0
        self._since: float | None = None

    def __call__(self) -> float:
        return (time.monotonic() if self._since is None else self._since) - self._rested

    def rest(self) -> None:
        self._since = time.monotonic()

    def go_on(self) -> None:
        if self._since is not None:
            self._rested += time.monotonic() - self._since
            self._since = None


def _decisions(contender: Contender) -> Counter[str]:
    return Counter(_gate().decisions() if contender.ours else {})


def _gate() -> Any:
    from otel_pyinstrument import PyinstrumentInstrumentor

    installed = PyinstrumentInstrumentor()._installed
    if installed is None:
        raise AssertionError("profiling was not installed")
    return installed[1].gate


def _rest_with(clock: _RestingClock) -> None:
    gate = _gate()
    gate._clock = clock
    gate.reset()


def _estimated_seconds() -> float:
    if "otel_pyinstrument.gate" not in sys.modules:
        return 0.0
    costs = _gate().costs()
    return costs.hook + costs.encoding + costs.standing


def _flush() -> None:
    from opentelemetry import trace

    flush = getattr(trace.get_tracer_provider(), "force_flush", None)
    if flush is not None:
        flush()


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
