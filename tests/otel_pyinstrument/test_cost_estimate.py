"""The estimate of profiling's cost: with numbers made up, and against the CPU time of real work."""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Iterator

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import SpanKind

from otel_pyinstrument import PyinstrumentInstrumentor
from otel_pyinstrument.cost_estimate import CostEstimate
from otel_pyinstrument.private_names import processors_of
from otel_pyinstrument.span_processor import ProfilingSpanProcessor


def test_without_anything_to_compare_a_usual_slowdown_is_assumed() -> None:
    assert CostEstimate().cost_of(0.9) == pytest.approx(0.4)


def test_the_slowdown_is_learned_from_comparisons() -> None:
    estimate = CostEstimate()
    for i in range(300):
        estimate.compare(0.030 + i % 3 * 0.003, 0.011)

    assert estimate.slowdown == pytest.approx(3, rel=0.02)
    assert estimate.cost_of(3) == pytest.approx(2, rel=0.02)


@pytest.mark.parametrize(("profiled", "usual"), [(1e9, 0.01), (0.0, 0.01), (0.01, 0.0), (-1.0, 0.01)])
def test_absurd_comparisons_have_bounded_consequences(profiled: float, usual: float) -> None:
    estimate = CostEstimate()
    for _ in range(1000):
        estimate.compare(profiled, usual)

    assert 1 <= estimate.slowdown <= 5
    assert 0 <= estimate.cost_of(1) <= 0.8


def test_hooks_that_share_a_thread_count_its_time_once() -> None:
    estimate = CostEstimate()

    # Given two requests that take turns on one thread: from 0 to 10, and from 5 to 8
    estimate.hook_begins(1, 0.0, others_here=False)
    estimate.hook_begins(1, 5.0, others_here=True)
    inner = estimate.hook_ends(1, 8.0, others_here=True)
    outer = estimate.hook_ends(1, 10.0, others_here=False)

    assert inner + outer == 10
    estimate.hook_begins(1, 50.0, others_here=False)
    assert estimate.hook_ends(1, 51.0, others_here=False) == 1


@pytest.mark.parametrize(("held_thread", "own_cost"), [(True, 0.4), (False, 0.6)])
def test_what_other_threads_pay_is_charged_too(held_thread: bool, own_cost: float) -> None:
    # When a request used 0.9 s under the hook while others that it slowed used 3 s
    cost = CostEstimate().cost_of(0.9, 3.0, held_thread=held_thread)

    # Then both are charged, theirs at a slowdown of 1.8 whatever its own is
    assert cost == pytest.approx(own_cost + 4 / 3)


def leaf(number: int) -> int:
    return number + 1


def page(rows: int) -> str:
    lines = []
    for row in range(rows):
        lines.append(f"<li>{leaf(row)}</li>")
        lines.append(str(row).upper())
    sorted(range(rows), key=lambda row: -row)
    return "".join(lines) + json.dumps(list(range(rows)))


@pytest.fixture
def without_coverage() -> Iterator[None]:
    """It slows the lines of this package only, so the measured cost would hold more than profiling."""
    tracer = sys.gettrace()
    sys.settrace(None)
    yield
    sys.settrace(tracer)


@pytest.mark.usefixtures("without_coverage")
def test_the_estimate_is_within_30_percent_of_what_is_measured() -> None:
    # Given the same requests with and without profiling
    plain = TracerProvider(resource=Resource.get_empty(), shutdown_on_exit=False)
    profiled = TracerProvider(resource=Resource.get_empty(), shutdown_on_exit=False)
    PyinstrumentInstrumentor().instrument(tracer_provider=profiled, rate=0.3, cpu_budget=1)
    (processor,) = [each for each in processors_of(profiled) if isinstance(each, ProfilingSpanProcessor)]

    def serve(provider: TracerProvider, count: int) -> float:
        """The CPU time of this process for that."""
        tracer = provider.get_tracer("test")
        start = time.process_time()
        for i in range(count):
            route, rows = ("/small", 1000) if i % 4 else ("/large", 4000)
            with tracer.start_as_current_span(
                f"GET {route}", kind=SpanKind.SERVER, attributes={"http.method": "GET", "http.route": route}
            ):
                page(rows)
        return time.process_time() - start

    gc.collect()
    serve(plain, 20)
    serve(profiled, 40)
    before = processor.gate.costs()

    # When they are served in turns, so that a busy machine slows both
    without = with_profiling = 0.0
    for _ in range(20):
        without += serve(plain, 40)
        with_profiling += serve(profiled, 40)

    # Then the gate knows what it cost: as a share of what the requests cost without it
    after = processor.gate.costs()
    measured = (with_profiling - without) / without
    estimated = (after.hook - before.hook + after.encoding - before.encoding) / without
    assert measured > 0.1
    assert estimated == pytest.approx(measured, rel=0.3)
