"""Requests that share an event loop: each tree holds its own work and its own waits, and nothing else."""

from __future__ import annotations

import asyncio
import contextvars
import random
import sys
import time
import types
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import accumulate
from statistics import median

import pytest
import uvloop
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind

from otel_pyinstrument import private_names
from otel_pyinstrument.call_tree import CallTree

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(params=LOOPS)
def run_on_loop(request: pytest.FixtureRequest) -> Callable[[Awaitable[object]], object]:
    def run(main: Awaitable[object]) -> object:
        loop = LOOPS[request.param]()
        try:
            return loop.run_until_complete(main)
        finally:
            loop.close()

    return run


@pytest.fixture
def many_traced(make_traced):
    """Profiles more requests of one loop than a real application would."""
    return make_traced(max_concurrent=1000)


def named(function: Callable[..., object], name: str) -> Callable[..., object]:
    """A copy of `function` that profiles show as `name`."""
    return types.FunctionType(
        function.__code__.replace(
            co_name=name, **({"co_qualname": name} if sys.version_info >= (3, 11) else {})
        ),
        function.__globals__,
        name,
        function.__defaults__,
        function.__closure__,
    )


def functions(tree: CallTree) -> set[str]:
    return {tree.frames[frame].function for frame in tree.frame}


def path_of(tree: CallTree, node: int) -> list[str]:
    path: list[str] = []
    while node > 0:
        path.append(tree.frames[tree.frame[node]].function)
        node = tree.parent[node]
    return path[::-1]


def time_at(tree: CallTree, *tail: str) -> int:
    """Microseconds of self time in nodes whose path ends like that."""
    return sum(
        tree.self_us[node]
        for node in range(tree.node_count)
        if path_of(tree, node)[-len(tail) :] == list(tail)
    )


class Timed:
    """A server span, and the wall time inside and around it: the tree's sum lies between the two."""

    def __init__(self, traced, name: str = "GET /") -> None:
        self._traced = traced
        self.name = name

    def __enter__(self) -> Timed:
        self._outer = time.perf_counter()
        self._span = self._traced.tracer.start_as_current_span(self.name, kind=SpanKind.SERVER)
        self._span.__enter__()
        self._inner = time.perf_counter()
        return self

    def __exit__(self, *error: object) -> None:
        self.inner_us = (time.perf_counter() - self._inner) * 1e6
        self._span.__exit__(*error)
        self.outer_us = (time.perf_counter() - self._outer) * 1e6

    @property
    def span(self) -> ReadableSpan:
        return next(span for span in self._traced.exporter.get_finished_spans() if span.name == self.name)

    def assert_sums(self, tree: CallTree) -> None:
        assert self.inner_us - 1 <= tree.duration_us <= self.outer_us + 1


class Slept:
    """Sleeps for some seconds, and keeps the time on the wall that this took in all, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    async def __call__(self, name: str, seconds: float) -> None:
        start = time.perf_counter()
        await asyncio.sleep(seconds)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


@pytest.mark.parametrize("count", [2, 50])
def test_concurrent_requests_do_not_mix(count: int, many_traced, tree_of, time_in, burn, run_on_loop) -> None:
    # Given requests on one loop whose work has the name of the request, and takes turns
    dice = random.Random(7)
    requests = [Timed(many_traced, f"GET /{number}") for number in range(count)]
    worked_seconds = 0.0

    def worker(seconds: float) -> None:
        nonlocal worked_seconds
        start = time.perf_counter()
        burn(seconds)
        worked_seconds += time.perf_counter() - start

    async def handler(number: int) -> None:
        work = named(worker, f"work_of_{number}_")
        with requests[number]:
            for _ in range(4):
                work(0.4 / count)
                await asyncio.sleep(dice.random() * 0.01)

    async def main() -> None:
        await asyncio.gather(*(handler(number) for number in range(count)))

    # When all run at once
    run_on_loop(main())

    # Then no tree has a function of another, each sums to its own wall time, and the rest is waiting
    own_us = waited_us = 0
    for number, request in enumerate(requests):
        tree = tree_of(request.span)
        assert {name for name in functions(tree) if name.startswith("work_of_")} <= {f"work_of_{number}_"}
        request.assert_sums(tree)
        own_us += time_in(tree, f"work_of_{number}_")
        waited_us += time_in(tree, "[await]")
    assert own_us / 1e6 == pytest.approx(worked_seconds, rel=0.25)
    assert waited_us + own_us == pytest.approx(sum(request.inner_us for request in requests), rel=0.1)


def test_two_hundred_requests_at_once_are_exact(make_traced, tree_of, time_in, worked, run_on_loop) -> None:
    slept = Slept()
    # Given 200 clients of one loop, each with several requests whose work has the name of the request, and
    # more than one sample
    traced = make_traced(max_concurrent=1000, interval=1.0)
    dice = random.Random(7)
    most_at_once = at_once = 0
    requests: list[Timed] = []

    async def request(work: Callable[[str, float], None], timed: Timed) -> None:
        nonlocal at_once, most_at_once
        with timed:
            at_once += 1
            most_at_once = max(most_at_once, at_once)
            for _ in range(3):
                work(timed.name, 0.0025)
                await slept(timed.name, dice.random() * 0.03)
            at_once -= 1

    async def client(number: int) -> None:
        for turn in range(3):
            work = named(lambda name, seconds: worked(name, seconds), f"work_of_{number}_{turn}_")
            requests.append(Timed(traced, f"GET /{number}/{turn}"))
            await request(work, requests[-1])

    async def main() -> None:
        await asyncio.gather(*(client(number) for number in range(200)))

    # When all ask at once
    run_on_loop(main())

    # Then all are profiled
    assert most_at_once >= 190
    spans = {span.name: span for span in traced.exporter.get_finished_spans()}
    assert len(spans) == len(requests) == 600
    profiled = [each for each in requests if spans[each.name].events]
    assert len(profiled) == 600

    # And no tree has a frame of another request, and each sums to its own wall time
    own_us = waited_us = 0
    missed_us: list[float] = []
    for each in profiled:
        tree = tree_of(spans[each.name])
        works = {name for name in functions(tree) if name.startswith("work_of_")}
        assert works <= {each.name.replace("GET /", "work_of_").replace("/", "_") + "_"}
        each.assert_sums(tree)
        own_us += sum(time_in(tree, name) for name in works)
        waited_us += time_in(tree, "[await]")
        missed_us.append(abs(slept.seconds[each.name] * 1e6 - time_in(tree, "[await]")))
    # And each has waited as long as it has slept, but for what the first of its steps may hide
    assert median(missed_us) <= 1_000
    # And all of them together have the work that was done, and the rest is waiting
    worked_us = sum(worked.seconds.values()) * 1e6
    assert own_us == pytest.approx(worked_us, rel=0.15)
    assert own_us + waited_us == pytest.approx(sum(each.inner_us for each in profiled), rel=0.1)


def test_what_a_request_does_before_it_waits_for_the_first_time_is_no_waiting(
    many_traced, tree_of, time_in, worked, run_on_loop
) -> None:
    # Given requests that begin behind each other, and work for less than an interval before they first wait
    slept = Slept()
    requests = [Timed(many_traced, f"GET /{number}") for number in range(30)]

    async def handler(timed: Timed) -> None:
        with timed:
            worked(timed.name, 0.004)
            await slept(timed.name, 0.02)

    async def main() -> None:
        await asyncio.gather(*map(handler, requests))

    # When all run at once
    run_on_loop(main())

    # Then what they have worked is not counted as waiting for the others' turns
    missed_us = []
    for request in requests:
        tree = tree_of(request.span)
        request.assert_sums(tree)
        missed_us.append(abs(slept.seconds[request.name] * 1e6 - time_in(tree, "[await]")))
    assert median(missed_us) <= 1_000


def test_of_two_hundred_requests_at_once_as_many_as_allowed_are_profiled(
    make_traced, profile_of, run_on_loop
) -> None:
    # Given 200 clients of one loop, each with several requests, and the default limit
    traced = make_traced()
    dice = random.Random(7)
    most_at_once = at_once = 0
    left: list[object] = []

    async def request(name: str) -> None:
        nonlocal at_once, most_at_once
        with traced.tracer.start_as_current_span(name, kind=SpanKind.SERVER):
            at_once += 1
            most_at_once = max(most_at_once, at_once)
            for _ in range(3):
                await asyncio.sleep(dice.random() * 0.01)
            at_once -= 1

    async def client(number: int) -> None:
        for _ in range(3):
            await request(f"GET /{number}")

    async def main() -> None:
        await asyncio.gather(*(client(number) for number in range(200)))
        # After the last of them, the loop and its thread are as before
        left.extend([sys.getprofile(), vars(asyncio.get_running_loop()).get("call_soon")])
        left.extend(private_names.stack_sampler().subscribers)
        # And the places are free again
        await asyncio.gather(*(request("again") for _ in range(6)))

    # When all ask at once
    run_on_loop(main())

    # Then some of them are profiled, four at a time
    assert most_at_once >= 190
    spans = traced.exporter.get_finished_spans()
    profiled = [span for span in spans if profile_of(span) is not None]
    assert len(spans) == 606
    assert most_open_at_once(profiled) == 4
    assert traced.processor.gate.decisions()["concurrency"] == 606 - len(profiled)
    assert sum(span.name != "again" for span in profiled) > 8
    assert left == [None, None]
    assert sum(span.name == "again" for span in profiled) == 4


def most_open_at_once(spans: Sequence[ReadableSpan]) -> int:
    """Of spans of one thread."""
    # At the same moment the end of one comes before the beginning of the next.
    changes = sorted([(span.end_time, -1) for span in spans] + [(span.start_time, 1) for span in spans])
    return max(accumulate(change for _, change in changes))


def test_a_wait_is_shown_where_it_is_awaited(traced, tree_of, time_in, burn, run_on_loop) -> None:
    # Given a lone request that waits in two places, and is idle meanwhile
    async def short_wait() -> None:
        await asyncio.sleep(0.03)

    async def long_wait() -> None:
        await asyncio.sleep(0.09)

    async def view() -> None:
        await short_wait()
        burn(0.03)
        await long_wait()

    async def main() -> None:
        with traced.tracer.start_as_current_span("GET /", kind=SpanKind.SERVER):
            await view()

    run_on_loop(main())

    # Then both carry their time
    (span,) = traced.exporter.get_finished_spans()
    tree = tree_of(span)
    short_us = time_at(tree, "view", "short_wait", "sleep", "[await]")
    long_us = time_at(tree, "view", "long_wait", "sleep", "[await]")
    assert short_us > 18_000
    assert long_us > 78_000
    assert short_us + long_us == time_in(tree, "[await]")
    assert [path_of(tree, child) for child in tree.children(0)] == [["main"]]


def test_a_wait_is_placed_when_no_python_runs_before_the_task_goes_on(
    traced, tree_of, time_in, run_on_loop
) -> None:
    # Given a request that is woken up by C code alone
    async def woken() -> None:
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        loop.call_later(0.05, future.set_result, None)
        await future

    async def view() -> None:
        await woken()

    async def main() -> None:
        with traced.tracer.start_as_current_span("GET /", kind=SpanKind.SERVER):
            await view()

    run_on_loop(main())

    # Then the time still stands at the innermost await
    (span,) = traced.exporter.get_finished_spans()
    assert time_at(tree_of(span), "view", "woken", "[await]") > 35_000


def test_the_cpu_time_is_that_of_the_request_alone(make_traced, profile_of, burn, run_on_loop) -> None:
    # Given a request that uses a sixth of the CPU of its loop
    traced = make_traced(interval=1.0)

    async def handler() -> None:
        with traced.tracer.start_as_current_span("GET /", kind=SpanKind.SERVER):
            for _ in range(10):
                burn(0.004)
                await asyncio.sleep(0)

    async def other() -> None:
        for _ in range(10):
            burn(0.02)
            await asyncio.sleep(0)

    async def main() -> None:
        await asyncio.gather(handler(), other())

    run_on_loop(main())

    (span,) = traced.exporter.get_finished_spans()
    assert profile_of(span).attributes["pyinstrument.cpu_time"] == pytest.approx(0.04, rel=0.35)


async def gathered(child: Callable[[], Awaitable[None]]) -> None:
    await asyncio.gather(child(), child())


async def as_task(child: Callable[[], Awaitable[None]]) -> None:
    await asyncio.create_task(child())


async def timed(child: Callable[[], Awaitable[None]]) -> None:
    await asyncio.wait_for(child(), 30)


async def grouped(child: Callable[[], Awaitable[None]]) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(child())


WAYS = [gathered, as_task, timed, *([grouped] if sys.version_info >= (3, 11) else [])]


@pytest.mark.parametrize("way", WAYS)
def test_child_tasks_stand_below_the_await_of_the_request(way, traced, tree_of, burn, run_on_loop) -> None:
    # Given a request whose work is done by tasks it has started, while a foreign task works too
    request = Timed(traced)

    async def child() -> None:
        burn(0.03)
        await asyncio.sleep(0.001)

    def foreign_work() -> None:
        burn(0.02)

    async def foreign() -> None:
        for _ in range(4):
            foreign_work()
            await asyncio.sleep(0)

    async def handler() -> None:
        with request:
            await way(child)

    async def main() -> None:
        await asyncio.gather(foreign(), handler())

    run_on_loop(main())

    # Then the work of the children is below what awaits it, and the foreign one is not there
    tree = tree_of(request.span)
    (path,) = {
        tuple(path_of(tree, node)[:2])
        for node in range(tree.node_count)
        if tree.frames[tree.frame[node]].function == "child"
    }
    assert path == ("handler", way.__name__)
    assert "foreign_work" not in functions(tree)
    request.assert_sums(tree)


def test_a_task_that_is_left_behind_is_no_part_of_the_request(traced, tree_of, burn, run_on_loop) -> None:
    # Given a request that starts a task with a root span of its own, in a context of its own
    def later_work() -> None:
        burn(0.03)

    async def later() -> None:
        with traced.tracer.start_as_current_span("job", context=None):
            later_work()

    async def main() -> None:
        with traced.tracer.start_as_current_span("GET /", kind=SpanKind.SERVER):
            burn(0.02)
            task = contextvars.Context().run(asyncio.ensure_future, later())
            await asyncio.sleep(0.05)
            burn(0.01)
        await task

    run_on_loop(main())

    # Then its work is waiting time of the request
    spans = {span.name: span for span in traced.exporter.get_finished_spans()}
    assert "later_work" not in functions(tree_of(spans["GET /"]))
    assert not spans["job"].events


def test_a_job_with_a_root_of_its_own_in_the_middle_of_a_request_has_no_profile_of_its_own(
    traced, profile_of, tree_of, burn, run_on_loop
) -> None:
    # Given a request that runs a job under a root of its own, in the same task
    def job_work() -> None:
        burn(0.03)

    async def main() -> None:
        with traced.tracer.start_as_current_span("GET /", kind=SpanKind.SERVER):
            with traced.tracer.start_as_current_span("job", context=Context(), kind=SpanKind.SERVER):
                await asyncio.sleep(0.01)
                job_work()
            await asyncio.sleep(0.01)

    run_on_loop(main())

    # Then there are not two of whom one would get the steps of the other: it is all in the request's tree
    spans = {span.name: span for span in traced.exporter.get_finished_spans()}
    assert profile_of(spans["job"]) is None
    assert "job_work" in functions(tree_of(spans["GET /"]))
    assert traced.processor.gate.decisions()["unavailable"] == 1


def test_a_span_that_ends_in_another_task_has_its_tree(traced, tree_of, burn, run_on_loop) -> None:
    # Given a span that a second task ends, as streaming responses do
    def streaming() -> None:
        burn(0.03)

    async def main() -> None:
        span = traced.tracer.start_span("GET /", kind=SpanKind.SERVER)

        async def rest() -> None:
            from opentelemetry.trace import use_span

            with use_span(span):
                await asyncio.sleep(0.01)  # it belongs to the request from its next step on
                streaming()
            span.end()

        burn(0.02)
        await asyncio.create_task(rest())

    run_on_loop(main())

    (span,) = traced.exporter.get_finished_spans()
    tree = tree_of(span)
    assert [path_of(tree, child) for child in tree.children(0)] == [["main"]]
    assert "streaming" in functions(tree)


def test_a_long_connection_gives_its_place_back_at_the_limit(
    make_traced, profile_of, tree_of, run_on_loop
) -> None:
    # Given a connection that stays open beyond the maximum duration, and room for one request
    traced = make_traced(max_duration=0.1, max_concurrent=1)
    hooks: list[object] = []

    async def another() -> None:
        with traced.tracer.start_as_current_span("GET /", kind=SpanKind.SERVER):
            await asyncio.sleep(0.02)

    async def connection() -> None:
        with traced.tracer.start_as_current_span("HTTP /ws", kind=SpanKind.SERVER):
            for _ in range(30):
                await asyncio.sleep(0.01)
            hooks.append(sys.getprofile())
            await contextvars.Context().run(asyncio.ensure_future, another())

    run_on_loop(connection())

    # Then it is cut there, and another one is profiled while it is still open
    assert hooks == [None]
    spans = {span.name: span for span in traced.exporter.get_finished_spans()}
    attributes = profile_of(spans["HTTP /ws"]).attributes
    assert attributes["pyinstrument.truncated"] is True
    assert 0.1 <= attributes["pyinstrument.duration"] < 0.2
    assert tree_of(spans["HTTP /ws"]).duration_us == pytest.approx(
        attributes["pyinstrument.duration"] * 1e6, abs=1
    )
    assert profile_of(spans["GET /"]) is not None


def test_waits_inside_async_generators_are_found(traced, tree_of, time_in, run_on_loop) -> None:
    # Given a wait below an async generator and an async context manager
    @asynccontextmanager
    async def session() -> AsyncIterator[str]:
        await asyncio.sleep(0.03)
        yield "session"

    async def rows() -> AsyncIterator[int]:
        for number in range(2):
            await asyncio.sleep(0.02)
            yield number

    async def view() -> None:
        async with session():
            async for _ in rows():
                pass

    async def main() -> None:
        with traced.tracer.start_as_current_span("GET /", kind=SpanKind.SERVER):
            await view()

    run_on_loop(main())

    (span,) = traced.exporter.get_finished_spans()
    tree = tree_of(span)
    session_us = time_at(tree, "session", "sleep", "[await]")
    rows_us = time_at(tree, "rows", "sleep", "[await]")
    assert session_us > 18_000
    assert rows_us > 28_000
    assert session_us + rows_us == time_in(tree, "[await]")


def test_a_blocking_call_on_the_loop_is_shown_in_the_request_that_made_it(
    traced, tree_of, run_on_loop
) -> None:
    async def blocks() -> None:
        await asyncio.sleep(0)
        time.sleep(0.05)

    async def main() -> None:
        with traced.tracer.start_as_current_span("GET /", kind=SpanKind.SERVER):
            await blocks()

    run_on_loop(main())

    (span,) = traced.exporter.get_finished_spans()
    assert time_at(tree_of(span), "blocks", "sleep") > 45_000


def test_work_of_another_trace_in_a_task_of_the_request_is_waiting(
    traced, tree_of, time_in, profile_of, burn, run_on_loop
) -> None:
    # Given a request that starts a task, whose first step works below a root span of its own
    spent: dict[str, float] = {}

    def work(name: str, seconds: float) -> None:
        start = time.perf_counter()
        burn(seconds)
        spent[name] = spent.get(name, 0.0) + time.perf_counter() - start

    def own_work() -> None:
        work("own", 0.02)

    def job_work() -> None:
        work("job", 0.06)

    async def job() -> None:
        with traced.tracer.start_as_current_span("job", context=Context()):
            job_work()

    async def handler() -> None:
        with traced.tracer.start_as_current_span("GET /", kind=SpanKind.SERVER):
            own_work()
            task = asyncio.create_task(job())
            await asyncio.sleep(0)
            own_work()
        await task

    run_on_loop(handler())

    # Then that is a wait of the request, and neither its own time nor its CPU time
    (span,) = [span for span in traced.exporter.get_finished_spans() if span.name == "GET /"]
    tree = tree_of(span)
    assert "job_work" not in functions(tree)
    assert time_in(tree, "own_work") / 1e6 == pytest.approx(spent["own"], abs=0.015)
    assert time_in(tree, "[await]") / 1e6 == pytest.approx(spent["job"], abs=0.015)
    assert profile_of(span).attributes["pyinstrument.cpu_time"] == pytest.approx(0.04, abs=0.015)


def test_cpu_time_of_another_trace_after_the_last_sample_of_a_step_is_not_the_requests(
    make_traced, profile_of, run_on_loop
) -> None:
    # Given a request that only starts a task, whose step has one sample in the middle
    traced = make_traced(interval=100.0)

    async def job() -> None:
        with traced.tracer.start_as_current_span("job", context=Context()):
            end = time.perf_counter() + 0.15
            while time.perf_counter() < end:
                pass

    async def handler() -> None:
        with traced.tracer.start_as_current_span("GET /", kind=SpanKind.SERVER):
            await asyncio.create_task(job())

    run_on_loop(handler())

    # Then the rest of that step is not the request's either
    (span,) = [span for span in traced.exporter.get_finished_spans() if span.name == "GET /"]
    assert profile_of(span).attributes["pyinstrument.cpu_time"] < 0.025
