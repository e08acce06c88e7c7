"""A process that asks a gate for each request, with clocks that the tests move."""

from __future__ import annotations

import random

from otel_pyinstrument.endpoint import Endpoint
from otel_pyinstrument.gate import Gate
from otel_pyinstrument.other_threads import OtherThreads
from otel_pyinstrument.remote_rules.rules import read_rules
from otel_pyinstrument.settings import Settings

ORDERS = Endpoint("GET /orders", "GET", "/orders")


def endpoint(path: str, method: str = "GET") -> Endpoint:
    return Endpoint(f"{method} {path}", method, path)


class Service:
    """A process whose clocks move when it serves. A profiled request takes twice the CPU time."""

    def __init__(self, **settings: object) -> None:
        self.cpu = 0.0
        self.now = 0.0
        self.date = 1_000_000.0
        self.gate = Gate(
            Settings(**{"rate": 1.0, "cpu_budget": 1.0, "max_concurrent": 1000, **settings}),  # type: ignore[arg-type]
            thread_seconds=lambda: self.cpu,
            process_seconds=lambda: self.cpu,
            clock=lambda: self.now,
            rules_clock=lambda: self.date,
            other_threads=OtherThreads(every_thread_pays=False),
            span_seconds=1e-6,
        )
        self.gate._random = random.Random(1)
        self.extra = 0.0

    def serve(
        self,
        endpoint: Endpoint = ORDERS,
        *,
        cpu: float = 0.01,
        seconds: float = 0.02,
        failed: bool = False,
        forced: bool = False,
        child_spans: int = 0,
        refused: bool = False,
        is_route: bool | None = None,
    ) -> str | None:
        """The reason why the request was profiled; None when it was not."""
        passage = None if forced else self.gate.pass_by(endpoint.key)
        if passage is not None:
            self.cpu += cpu
            self.now += seconds
            self.gate.passed(passage, seconds=seconds, failed=failed)
            return None
        visit = self.gate.arrive(endpoint, forced=forced, span_name=endpoint.key)
        slot = None if visit is None else self.gate.admit(visit)
        if slot is not None:
            self.gate.begin_hook(slot)
        self.cpu += cpu
        self.now += seconds
        if slot is not None:
            self.cpu += cpu
            self.extra += cpu
            slot.release()
        if visit is not None:
            counted = 0 if slot is None else child_spans
            visit.is_route = visit.endpoint.is_route if is_route is None else is_route
            self.gate.leave(
                visit, seconds=seconds, failed=failed, refused=refused, slot=slot, child_spans=counted
            )
        return None if slot is None else slot.reason

    def rules(self, text: str) -> None:
        self.gate.apply(read_rules(text.encode()))
