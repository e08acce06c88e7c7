"""The estimate of profiling's cost and the budget it spends: with numbers made up, and with real work."""

from __future__ import annotations

import gc
import json
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from operator import truediv
from queue import SimpleQueue
from statistics import median

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import SpanKind

from otel_pyinstrument import PyinstrumentInstrumentor
from otel_pyinstrument.cost_estimate import CostEstimate
from otel_pyinstrument.gate import Costs, Gate
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


def test_one_absurd_comparison_is_soon_outweighed_by_others() -> None:
    # Given a request that did something else than its endpoint usually does
    estimate = CostEstimate()
    estimate.compare(1e6, 0.01)

    # When many follow that take twice as long as usual
    for _ in range(300):
        estimate.compare(0.02, 0.01)

    assert estimate.slowdown == pytest.approx(2, rel=0.02)


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


def serve(provider: TracerProvider, count: int) -> float:
    """The CPU time of this process for so many requests."""
    tracer = provider.get_tracer("test")
    start = time.process_time()
    for i in range(count):
        route, rows = ("/small", 1000) if i % 4 else ("/large", 4000)
        with tracer.start_as_current_span(
            f"GET {route}", kind=SpanKind.SERVER, attributes={"http.method": "GET", "http.route": route}
        ):
            page(rows)
    return time.process_time() - start


@pytest.mark.usefixtures("without_coverage")
def test_the_estimate_is_within_30_percent_of_what_is_measured() -> None:
    # Given the same requests with and without profiling
    plain = TracerProvider(resource=Resource.get_empty(), shutdown_on_exit=False)
    profiled = TracerProvider(resource=Resource.get_empty(), shutdown_on_exit=False)
    PyinstrumentInstrumentor().instrument(tracer_provider=profiled, rate=0.3, cpu_budget=1)
    (processor,) = [each for each in processors_of(profiled) if isinstance(each, ProfilingSpanProcessor)]
    gate = processor.gate
    gc.collect()
    serve(plain, 20)
    serve(profiled, 40)

    # When they are served in turns, so that a busy machine slows both
    measured: list[float] = []
    estimated: list[float] = []
    for _ in range(150):
        before = gate.costs()
        without = serve(plain, 20)
        measured.append((serve(profiled, 20) - without) / without)
        after = gate.costs()
        estimated.append((after.hook - before.hook + after.encoding - before.encoding) / without)

    # Then the gate knows what it cost: as a share of what the requests cost without it
    assert median(measured) > 0.1
    assert median(estimated) == pytest.approx(median(measured), rel=0.3)


class Encoding(SpanExporter):
    """Has the profiles encoded, as exporters do when they send them."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        for span in spans:
            assert all(event.attributes for event in span.events)
        return SpanExportResult.SUCCESS


def costs_up_to_the_next_profile(provider: TracerProvider, gate: Gate) -> Costs:
    """What the gate had charged right before the next request that can afford a profile."""
    for _ in range(100_000):
        costs, profiled_before = gate.costs(), gate.decisions()["profiled"]
        serve(provider, 1)
        if gate.decisions()["profiled"] > profiled_before:
            return costs
    raise AssertionError("no request is profiled any more")


@pytest.mark.usefixtures("without_coverage")
def test_a_budget_holds_under_a_steady_load_that_wants_every_profile(make_traced) -> None:
    # Given an application whose profiles may cost a twentieth of its CPU time, and would cost far more
    budget = 0.05
    unprofiled, profiled = (make_traced(rate=1.0, cpu_budget=share) for share in (1e-9, budget))
    for traced in (unprofiled, profiled):
        traced.provider.add_span_processor(SimpleSpanProcessor(Encoding()))
    gate = profiled.processor.gate
    gc.collect()
    serve(unprofiled.provider, 20)
    # And which has spent what the budget holds at its beginning, and can just afford its next profile
    while not gate.decisions()["budget"]:
        serve(profiled.provider, 1)
    before = costs_up_to_the_next_profile(profiled.provider, gate)
    decided_before = gate.decisions()

    # When it is under load for seconds of CPU time, in turns with one that can afford no profile at all
    without: list[float] = []
    with_profiling: list[float] = []
    while sum(with_profiling) < 2:
        without.append(serve(unprofiled.provider, 40))
        with_profiling.append(serve(profiled.provider, 40))
    decided = gate.decisions()
    # And until it can just afford the next one again: a profile while the machine stalls is a debt at first
    after = costs_up_to_the_next_profile(profiled.provider, gate)

    # Then profiling was charged that share, and not much less
    charged = after.hook - before.hook + after.encoding - before.encoding
    earned = budget * (after.process - before.process)
    assert 0.5 * earned <= charged <= 1.05 * earned
    assert decided["budget"] - decided_before["budget"] > decided["profiled"] - decided_before["profiled"] > 0
    # And it has cost no more than that can be
    assert median(map(truediv, with_profiling, without)) - 1 <= 2 * earned / sum(without)


class UnprofiledThread(threading.Thread):
    """Calls and does nothing else, while somebody waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self._asked: SimpleQueue[int] = SimpleQueue()
        self._cpu_seconds: SimpleQueue[float] = SimpleQueue()

    def run(self) -> None:
        while rounds := self._asked.get():
            start = time.thread_time()
            for _ in range(rounds):
                self._call()
            self._cpu_seconds.put(time.thread_time() - start)

    def _call(self) -> None:
        for number in range(1000):
            leaf(number)

    def work(self, rounds: int) -> float:
        """The CPU time that it took for them."""
        self._asked.put(rounds)
        return self._cpu_seconds.get()

    def end(self) -> None:
        self._asked.put(0)
        self.join()


@pytest.fixture
def unprofiled_thread() -> Iterator[UnprofiledThread]:
    thread = UnprofiledThread()
    thread.start()
    yield thread
    thread.end()


@pytest.mark.skipif(sys.version_info < (3, 12), reason="before 3.12 a hook slows its own thread only")
@pytest.mark.usefixtures("without_coverage")
def test_a_budget_bounds_what_a_thread_without_a_hook_pays(make_traced, unprofiled_thread) -> None:
    # Given requests that use hardly any CPU time themselves: they wait for a thread that their hook slows
    budget = 0.05
    unprofiled, profiled = (make_traced(rate=1.0, cpu_budget=share) for share in (1e-9, budget))
    gate = profiled.processor.gate

    def cpu_seconds_elsewhere(traced, requests: int) -> float:
        seconds = 0.0
        for _ in range(requests):
            with traced.tracer.start_as_current_span("GET /", kind=SpanKind.SERVER):
                seconds += unprofiled_thread.work(20)
        return seconds

    # And which have spent what the budget holds at its beginning
    cpu_seconds_elsewhere(unprofiled, 20)
    while not gate.decisions()["budget"]:
        cpu_seconds_elsewhere(profiled, 1)
    before, decided_before = gate.costs(), gate.decisions()

    # When all want a profile for seconds of CPU time, in turns with some that can afford none at all
    without: list[float] = []
    with_profiling: list[float] = []
    while sum(with_profiling) < 2:
        without.append(cpu_seconds_elsewhere(unprofiled, 40))
        with_profiling.append(cpu_seconds_elsewhere(profiled, 40))

    # Then most got none, for the budget
    earned = budget * (gate.costs().process - before.process)
    decided = gate.decisions()
    assert decided["budget"] - decided_before["budget"] > decided["profiled"] - decided_before["profiled"] > 0
    # And the thread paid what the budget allows; the gate assumes less than a loop of nothing but calls pays
    assert median(map(truediv, with_profiling, without)) - 1 <= 1.5 * earned / sum(without)
