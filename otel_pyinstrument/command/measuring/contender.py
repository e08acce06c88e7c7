"""One run of one contender, in a process of its own: `python -m ... PLAN RESULT`, both files of JSON."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from otel_pyinstrument.command.measuring.application import (
    Application,
    ApplicationNotFound,
    Interface,
    load_application,
)
from otel_pyinstrument.command.measuring.asgi_client import LifespanFailed, lifespan, requests_by_asgi
from otel_pyinstrument.command.measuring.outcomes import Outcomes
from otel_pyinstrument.command.measuring.wsgi_client import request_by_wsgi

NOT_MEASURED = ("config_file", "platform_url", "project_key", "spool_dir", "event")
"""Settings that would lead out of the process, need an exporter, or are secret."""


@dataclass(frozen=True)
class Plan:
    """What to run. `contender` is one of `rounds.CONTENDERS`."""

    contender: str
    target: str
    directory: str
    interface: Interface | None
    paths: list[str]
    headers: list[tuple[str, str]]
    requests: int
    warm_up: int
    concurrency: int
    settings: dict[str, Any]
    """By field of `Settings`, without `NOT_MEASURED`; those that `ours` has."""


@dataclass
class Result:
    """What one run measured. `error` is set, and the rest void, when it could not run."""

    error: str = ""
    interface: str = ""
    cpu_seconds: float = 0.0
    """Of the whole process, all threads, for one request; the encoding of the spans is in it."""
    wall_seconds: float = 0.0
    """For one request: the run's time divided by its requests."""
    profiled: int = 0
    wrapped: bool = False
    """No instrumentation made server spans, so our own middleware did."""
    failures: dict[str, int] = field(default_factory=dict[str, int])
    doubts: dict[str, int] = field(default_factory=dict[str, int])


def run(plan: Plan) -> Result:
    """Set up, load the application, warm it up, measure. Changes this process for good."""
    from otel_pyinstrument.command.measuring.telemetry import Telemetry, TelemetryFailed

    try:
        telemetry = None if plan.contender == "plain" else Telemetry(plan.contender, plan.settings)
        application = load_application(plan.target, directory=plan.directory, interface=plan.interface)
        if application.interface == "wsgi" and plan.concurrency > 1:
            return Result(error="--concurrency is for ASGI applications, and this one is WSGI")
        measured = _Run(plan, application, telemetry)
        return measured.by_asgi() if application.interface == "asgi" else measured.by_wsgi()
    except (ApplicationNotFound, LifespanFailed, TelemetryFailed) as error:
        return Result(error=str(error))


class _Run:
    def __init__(self, plan: Plan, application: Application, telemetry: Any) -> None:
        self._plan = plan
        self._app = application.app
        self._telemetry = telemetry
        self._result = Result(interface=application.interface)
        self._profiled_before = 0

    def by_wsgi(self) -> Result:
        def visit(paths: Sequence[str], outcomes: Outcomes) -> None:
            for path in paths:
                request_by_wsgi(self._app, path, self._plan.headers, outcomes)

        def warm_up() -> None:
            visit(self._paths(self._plan.warm_up), Outcomes())

        warm_up()
        if self._wrap("WSGIMiddleware"):
            warm_up()
        outcomes = Outcomes()
        finish = self._begin()
        visit(self._paths(self._plan.requests), outcomes)
        return finish(outcomes)

    def by_asgi(self) -> Result:
        return asyncio.run(self._by_asgi())

    async def _by_asgi(self) -> Result:
        async def visit(paths: Sequence[str], outcomes: Outcomes) -> None:
            await requests_by_asgi(
                self._app, paths, self._plan.headers, outcomes, concurrency=self._plan.concurrency
            )

        async with lifespan(self._app):
            warm = self._paths(self._plan.warm_up)
            await visit(warm, Outcomes())
            if self._wrap("ASGIMiddleware"):
                await visit(warm, Outcomes())
            outcomes = Outcomes()
            finish = self._begin()
            await visit(self._paths(self._plan.requests), outcomes)
            return finish(outcomes)

    def _paths(self, count: int) -> list[str]:
        return list(islice(cycle(self._plan.paths), count))

    def _wrap(self, middleware: str) -> bool:
        """Whether the application had to be wrapped, because no instrumentation makes spans for it."""
        if self._telemetry is None or self._telemetry.server_spans:
            return False
        import otel_pyinstrument

        self._app = getattr(otel_pyinstrument, middleware)(self._app)
        self._result.wrapped = True
        return True

    def _begin(self) -> Callable[[Outcomes], Result]:
        telemetry = self._telemetry
        if telemetry is not None:
            telemetry.flush()
        profiled = 0 if telemetry is None else telemetry.profiled
        gc.collect()
        cpu, wall = time.process_time(), time.perf_counter()

        def finish(outcomes: Outcomes) -> Result:
            elapsed = time.perf_counter() - wall
            if telemetry is not None:
                # What waits to be encoded belongs to these requests.
                telemetry.flush()
            result = self._result
            result.cpu_seconds = (time.process_time() - cpu) / self._plan.requests
            result.wall_seconds = elapsed / self._plan.requests
            result.profiled = 0 if telemetry is None else telemetry.profiled - profiled
            result.failures, result.doubts = dict(outcomes.failures), dict(outcomes.doubts)
            return result

        return finish


def main(plan_path: str, result_path: str) -> None:
    """Read the plan, run it, write the result."""
    raw: dict[str, Any] = json.loads(Path(plan_path).read_text("utf-8"))
    raw["headers"] = [(name, value) for name, value in raw["headers"]]
    result = run(Plan(**raw))
    Path(result_path).write_text(json.dumps(asdict(result)), "utf-8")
    # Threads of the application that are no daemons would keep the process from ending.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:3])
