"""Work that a request waits for elsewhere stands below the call that waits, and is counted once."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial, wraps
from typing import Any

import anyio
import anyio.to_thread
import pytest
from asgiref.sync import AsyncToSync, SyncToAsync, ThreadSensitiveContext, async_to_sync, sync_to_async
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind

from otel_pyinstrument import hop_patches, private_names, request
from otel_pyinstrument.call_tree import CallTree
from otel_pyinstrument.engine import Engine


@pytest.fixture(autouse=True)
def patched() -> Iterator[None]:
    hop_patches.install()
    yield
    hop_patches.uninstall()


@pytest.fixture
def run_traced(traced, tree_of) -> Callable[..., CallTree]:
    """The tree of a server span around `view()` on an event loop, checked against the clock."""

    def run(view: Callable[[], object]) -> CallTree:
        times: list[float] = []

        async def main() -> None:
            times.append(time.perf_counter())
            with traced.tracer.start_as_current_span("GET /", kind=SpanKind.SERVER):
                times.append(time.perf_counter())
                await view()
                times.append(time.perf_counter())
            times.append(time.perf_counter())

        asyncio.run(main())
        outer, inner, inner_end, outer_end = times
        tree = tree_of(traced.exporter.get_finished_spans()[-1])
        assert (inner_end - inner) * 1e6 - 1 <= tree.duration_us <= (outer_end - outer) * 1e6 + 1
        return tree

    return run


def paths(tree: CallTree, function: str) -> set[tuple[str, ...]]:
    """The paths of all nodes of a function, without what is above `view`."""
    found: set[tuple[str, ...]] = set()
    for node in range(tree.node_count):
        if tree.frames[tree.frame[node]].function == function:
            path: list[str] = []
            while node > 0:
                path.append(tree.frames[tree.frame[node]].function)
                node = tree.parent[node]
            path.reverse()
            found.add(tuple(path[path.index("view") :] if "view" in path else path))
    return found


# --- anyio -------------------------------------------------------------------------------------------


def test_work_in_a_thread_stands_below_the_await(run_traced, time_in, burn) -> None:
    # Given an async view that has a thread do the work
    def in_thread() -> None:
        burn(0.04)
        start = time.perf_counter()
        time.sleep(0.03)
        seconds["asleep"] = time.perf_counter() - start

    async def view() -> None:
        start = time.perf_counter()
        await anyio.to_thread.run_sync(in_thread)
        seconds["away"] = time.perf_counter() - start
        await asyncio.sleep(0.02)

    seconds: dict[str, float] = {}

    tree = run_traced(view)

    # Then the thread's calls are there, and only what is left of the wait is waiting
    assert paths(tree, "in_thread") == {("view", "in_thread")}
    assert time_in(tree, "in_thread") > 65_000
    assert paths(tree, "[await]") <= {("view", "[await]"), ("view", "sleep", "[await]")}
    waited = time_in(tree, "[await]")
    # What a thread had to wait for its turn.
    lost_us = (seconds["away"] - seconds["asleep"] - 0.04) * 1e6
    left_us = tree.duration_us - time_in(tree, "in_thread")
    assert left_us - 15_000 - lost_us <= waited <= left_us


def test_so_does_work_that_asyncio_hands_to_a_thread(run_traced, time_in, burn) -> None:
    def in_thread(seconds: float, *, then: float) -> str:
        burn(seconds)
        burn(then)
        return "done"

    async def view() -> None:
        answers.append(await asyncio.to_thread(in_thread, 0.02, then=0.02))

    answers: list[str] = []

    tree = run_traced(view)

    assert answers == ["done"]
    assert paths(tree, "in_thread") == {("view", "in_thread")}
    assert time_in(tree, "in_thread") > 35_000


def test_names_of_arguments_are_the_applications(run_traced) -> None:
    async def in_loop(**named: int) -> dict[str, int]:
        return named

    async def view() -> None:
        assert await asyncio.to_thread(lambda **named: named, self=2) == {"self": 2}
        for names in ({"function": 1}, {"arguments": 3, "options": 4}):
            assert await asyncio.to_thread(lambda **named: named, **names) == names
            assert await sync_to_async(lambda **named: named)(**names) == names
            assert await sync_to_async(lambda names=names: async_to_sync(in_loop)(**names))() == names

    run_traced(view)


def test_what_is_moved_keeps_its_name_for_others(run_traced, monkeypatch) -> None:
    # Given somebody who asked before us what is handed to a thread
    def work() -> None:
        pass

    asked: list[str] = []
    original = asyncio.to_thread

    async def asking(function: Callable[..., object], *arguments: object) -> object:
        asked.append(function.__name__)
        return await original(function, *arguments)

    hop_patches.uninstall()
    monkeypatch.setattr(asyncio, "to_thread", asking)
    hop_patches.install()

    async def view() -> None:
        await asyncio.to_thread(work)

    run_traced(view)

    assert asked == ["work"]
    hop_patches.uninstall()
    monkeypatch.undo()
    hop_patches.install()


def test_a_hop_shorter_than_the_interval_keeps_its_time(make_traced, tree_of, time_in) -> None:
    # Given work too short for a sample
    traced = make_traced(interval=1000.0)

    class Orders:
        def load(self) -> None:
            time.sleep(0.02)

    async def main() -> None:
        with traced.tracer.start_as_current_span("GET /", kind=SpanKind.SERVER):
            await anyio.to_thread.run_sync(partial(Orders().load))

    asyncio.run(main())

    # Then its time stands at the function that was called
    tree = tree_of(traced.exporter.get_finished_spans()[-1])
    assert time_in(tree, "Orders.load") > 19_000


class AnswersEveryName:
    """As the methods of `xmlrpc.client.ServerProxy` do."""

    def __getattr__(self, name: str) -> AnswersEveryName:
        return AnswersEveryName()

    def __call__(self) -> str:
        return "done"


class RefusesEveryName:
    """As a proxy whose target is gone does."""

    def __getattr__(self, name: str) -> object:
        raise RuntimeError("no target")

    def __call__(self) -> str:
        return "done"


def one_that_wraps_itself() -> Callable[[], str]:
    def done() -> str:
        return "done"

    done.__wrapped__ = done
    return done


@pytest.mark.parametrize("make", [AnswersEveryName, RefusesEveryName, one_that_wraps_itself])
def test_a_callable_with_odd_attributes_costs_no_profile(
    make: Callable[[], Callable[[], str]], run_traced
) -> None:
    # Given a callable that cannot be asked for what it wraps
    async def view() -> None:
        answers.append(await asyncio.to_thread(make()))

    answers: list[str] = []

    # When a thread calls it for a request that is profiled
    run_traced(view)

    # Then it is called, and the profile is there
    assert answers == ["done"]


def test_a_short_hop_into_a_decorated_function_stands_at_the_function(make_traced, tree_of, time_in) -> None:
    # Given work too short for a sample, below a decorator
    traced = make_traced(interval=1000.0)

    def load() -> None:
        time.sleep(0.02)

    @wraps(load)
    def decorated() -> None:
        load()

    async def main() -> None:
        with traced.tracer.start_as_current_span("GET /", kind=SpanKind.SERVER):
            await anyio.to_thread.run_sync(decorated)

    asyncio.run(main())

    # Then its time stands at the function that was decorated
    tree = tree_of(traced.exporter.get_finished_spans()[-1])
    assert time_in(tree, "load") > 19_000


def test_hops_side_by_side_share_the_time_that_was_waited(run_traced, time_in) -> None:
    # Given two threads that work at the same time
    def first() -> None:
        time.sleep(0.08)

    def second() -> None:
        time.sleep(0.08)

    async def view() -> None:
        await asyncio.gather(anyio.to_thread.run_sync(first), anyio.to_thread.run_sync(second))

    tree = run_traced(view)

    # Then both are there, with about half of the wall time each
    assert time_in(tree, "first") / tree.duration_us == pytest.approx(0.5, abs=0.15)
    assert time_in(tree, "second") / tree.duration_us == pytest.approx(0.5, abs=0.15)
    assert min(tree.self_us) >= 0
    assert all(path[0] == "view" for path in paths(tree, "first") | paths(tree, "second"))


class SlowToReturn(ThreadPoolExecutor):
    """Its threads begin to work long before `submit` returns, as where threads compete for their turns."""

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **options: Any) -> Future[Any]:
        future = super().submit(function, *arguments, **options)
        time.sleep(0.03)
        return future


@pytest.mark.parametrize("in_own_task", [True, False])
def test_a_hop_is_whole_when_the_step_that_began_it_ends_later(
    in_own_task: bool, run_traced, time_in, burn
) -> None:
    # Given work in a thread that has begun when the loop's thread has not yet gone on
    def query() -> None:
        start = time.perf_counter()
        time.sleep(0.06)
        seconds.append(time.perf_counter() - start)

    async def asks() -> None:
        await asyncio.to_thread(query)
        burn(0.03)

    async def view() -> None:
        asyncio.get_running_loop().set_default_executor(SlowToReturn())
        await (asks() if in_own_task else asyncio.create_task(asks()))

    seconds: list[float] = []

    tree = run_traced(view)

    # Then what both did at that time is the work's, and what comes afterwards is seen as ever
    assert time_in(tree, "query") >= sum(seconds) * 1e6 - 1
    assert paths(tree, "SlowToReturn.submit") == set()
    assert paths(tree, "run") == {("view", "asks", "run")}
    assert time_in(tree, "run") > 20_000


@pytest.mark.skipif(sys.version_info < (3, 12), reason="tasks are eager from Python 3.12 on")
def test_what_comes_after_a_hop_of_an_eager_task_is_no_waiting(run_traced, time_in, burn) -> None:
    # Given tasks that run in the middle of a step until they wait for a thread
    async def asks() -> None:
        await asyncio.to_thread(time.sleep, 0.01)

    async def begins_another() -> None:
        others.append(asyncio.create_task(asks()))
        burn(0.05)

    async def view() -> None:
        loop = asyncio.get_running_loop()
        other = asyncio.create_task(begins_another())
        loop.set_task_factory(asyncio.eager_task_factory)
        await other
        await begins_another()
        await asyncio.gather(*others)

    others: list[asyncio.Task[None]] = []

    tree = run_traced(view)

    # Then the rest of that step is work, of the request's first task and of another
    assert paths(tree, "run") == {("view", "begins_another", "run")}
    assert time_in(tree, "run") > 90_000


def test_the_cpu_time_before_a_hop_is_counted(run_traced, burn, traced, profile_of) -> None:
    # When a request works for less than the interval, again and again, before it waits for a thread
    async def view() -> None:
        for _ in range(10):
            burn(0.006)
            await asyncio.to_thread(time.sleep, 0.001)

    run_traced(view)

    # Then its CPU time has all of that
    (span,) = traced.exporter.get_finished_spans()
    assert 0.058 < profile_of(span).attributes["pyinstrument.cpu_time"] < 0.085


def test_the_cpu_time_of_another_task_beside_a_hop_is_counted(run_traced, burn, traced, profile_of) -> None:
    # Given a task of the request that works while the first one waits for a thread
    async def beside() -> None:
        for _ in range(3):
            burn(0.02)
            await asyncio.sleep(0.001)

    async def view() -> None:
        other = asyncio.create_task(beside())
        await asyncio.to_thread(time.sleep, 0.1)
        await other

    run_traced(view)

    (span,) = traced.exporter.get_finished_spans()
    assert 0.058 < profile_of(span).attributes["pyinstrument.cpu_time"] < 0.085


def test_concurrent_requests_with_threads_do_not_mix(make_traced, tree_of, burn) -> None:
    # Given requests that each have a thread work for them
    traced = make_traced(max_concurrent=10)

    def work_of_a() -> None:
        burn(0.02)

    def work_of_b() -> None:
        burn(0.02)

    async def handler(name: str, work: Callable[[], None]) -> None:
        with traced.tracer.start_as_current_span(name, kind=SpanKind.SERVER):
            await anyio.to_thread.run_sync(work)
            work()
            await anyio.to_thread.run_sync(work)

    async def main() -> None:
        await asyncio.gather(handler("a", work_of_a), handler("b", work_of_b))

    asyncio.run(main())

    # Then each tree has its own work only
    for span in traced.exporter.get_finished_spans():
        functions = {frame.function for frame in tree_of(span).frames}
        assert {name for name in functions if name.startswith("work_of")} == {f"work_of_{span.name}"}


def test_what_ran_side_by_side_takes_nothing_from_what_ran_alone(run_traced, time_in) -> None:
    # Given a task of the request that waits for two threads at once, beside which it works, and for one alone
    def first() -> None:
        time.sleep(0.06)

    def second() -> None:
        time.sleep(0.06)

    def alone() -> None:
        time.sleep(0.06)

    async def works() -> None:
        time.sleep(0.03)

    async def asks() -> None:
        await asyncio.gather(asyncio.to_thread(first), asyncio.to_thread(second), works())
        await asyncio.to_thread(alone)

    async def view() -> None:
        await asyncio.create_task(asks())

    tree = run_traced(view)

    # Then only what ran at the same time shares its time, and half of that is the work's
    assert time_in(tree, "alone") > 59_000
    assert time_in(tree, "works") > 29_000
    for function in ("first", "second"):
        assert 12_000 < time_in(tree, function) < 22_000


def test_a_hop_ends_at_the_maximum_duration_when_nothing_waits_for_it(make_traced) -> None:
    # Given a request whose profile reaches its limit in a step of a task, while a thread works for another
    traced = make_traced(max_duration=0.05)
    hooks: list[object] = []

    def in_thread() -> None:
        end = time.perf_counter() + 10
        while sys.getprofile() is not None and time.perf_counter() < end:
            time.sleep(0.001)
        hooks.append(sys.getprofile())

    async def works() -> None:
        while not hooks:
            await asyncio.sleep(0.001)

    async def main() -> None:
        with traced.tracer.start_as_current_span("GET /", kind=SpanKind.SERVER):
            await asyncio.gather(asyncio.to_thread(in_thread), works())

    asyncio.run(main())

    # Then the thread has lost its hook before the request ended
    assert hooks == [None]


def test_many_hops_from_one_place_make_one_tree(run_traced, time_in, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a response that is streamed chunk by chunk from a thread, as Starlette does
    monkeypatch.setattr(request, "MAX_HOPS", 1)

    def chunk() -> None:
        time.sleep(0.0005)

    async def view() -> None:
        for _ in range(100):
            await anyio.to_thread.run_sync(chunk)

    tree = run_traced(view)

    assert time_in(tree, "chunk") > 45_000


def test_no_hop_begins_once_those_before_have_as_many_nodes_as_are_kept(
    run_traced, burn, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given room for what one hop brings
    monkeypatch.setattr(request, "MAX_NODES", 1)

    def in_first_thread() -> None:
        burn(0.02)

    def in_second_thread() -> None:
        burn(0.02)

    async def begins() -> None:
        await anyio.to_thread.run_sync(in_first_thread)

    # When a request waits for work elsewhere in two places
    async def view() -> None:
        await begins()
        await anyio.to_thread.run_sync(in_second_thread)

    tree = run_traced(view)

    # Then the second is a wait like any other
    assert paths(tree, "in_first_thread") == {("view", "begins", "in_first_thread")}
    assert paths(tree, "in_second_thread") == set()


def test_a_sample_while_the_hook_is_removed_does_not_bring_it_back(
    run_traced, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given the moment between two steps in which the hook goes, and is still there
    original = private_names.unsubscribe

    def unsubscribe(sampler, sampled) -> bool:
        sampled(["view\0/app/views.py\x001"], 0.001, None)
        return original(sampler, sampled)

    monkeypatch.setattr(private_names, "unsubscribe", unsubscribe)

    async def view() -> None:
        for _ in range(20):
            await anyio.to_thread.run_sync(time.sleep, 0.001)

    tree = run_traced(view)

    # Then the tree still has all of the request's time
    assert tree.duration_us >= 20 * 1_000


def test_an_exception_from_a_thread_passes_unchanged(run_traced) -> None:
    def fails() -> None:
        raise KeyError("of the application")

    async def view() -> None:
        with pytest.raises(KeyError, match="of the application"):
            await anyio.to_thread.run_sync(fails)

    run_traced(view)


def test_a_thread_that_outlives_its_request_is_let_go(traced, tree_of, wait_until) -> None:
    # Given a request that no longer waits for its thread
    release = threading.Event()
    hooks: list[object] = []

    def in_thread() -> None:
        release.wait(10)
        for _ in range(100_000):
            if sys.getprofile() is None:
                break
        hooks.append(sys.getprofile())

    async def main() -> None:
        with traced.tracer.start_as_current_span("GET /", kind=SpanKind.SERVER):
            with anyio.move_on_after(0.05):
                await anyio.to_thread.run_sync(in_thread, abandon_on_cancel=True)
        release.set()

    anyio.run(main)

    # Then the tree ends with the request, and the hook in the thread has gone
    wait_until(lambda: hooks)
    assert hooks == [None]
    assert len(traced.exporter.get_finished_spans()) == 1
    tree_of(traced.exporter.get_finished_spans()[0])


def test_a_request_that_ends_while_its_thread_begins_leaves_no_hook_there(
    traced, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a request that ends just when the thread that works for it has its hook
    roots: list[Span] = []
    hooks: list[object] = []
    open_hop = Engine.open_hop

    def open_and_end(*arguments: object) -> object:
        segment = open_hop(*arguments)
        hooks.append(sys.getprofile())
        roots[0].end()
        return segment

    monkeypatch.setattr(Engine, "open_hop", open_and_end)

    async def main() -> None:
        with traced.tracer.start_as_current_span("GET /", kind=SpanKind.SERVER, end_on_exit=False) as root:
            roots.append(root)
            await anyio.to_thread.run_sync(lambda: hooks.append(sys.getprofile()))

    # When it works on
    asyncio.run(main())

    # Then nothing samples it
    assert hooks[0] is not None
    assert hooks[1:] == [None]


def test_without_a_profiled_request_nothing_is_sampled(burn) -> None:
    hooks: list[object] = []

    async def view() -> int:
        return await anyio.to_thread.run_sync(lambda: hooks.append(sys.getprofile()) or 7)

    assert asyncio.run(view()) == 7
    assert hooks == [None]


def test_uninstall_restores_the_libraries() -> None:
    # Given the patches of the fixture, and a second user
    patched = (anyio.to_thread.run_sync, SyncToAsync.__call__, AsyncToSync.__call__)
    hop_patches.install()

    # When one leaves, then the other
    hop_patches.uninstall()
    assert (anyio.to_thread.run_sync, SyncToAsync.__call__, AsyncToSync.__call__) == patched
    hop_patches.uninstall()

    # Then all three are what the libraries brought
    assert anyio.to_thread.run_sync.__module__ == "anyio.to_thread"
    assert "hop_patches" not in anyio.to_thread.run_sync.__code__.co_filename
    for function in (SyncToAsync.__call__, AsyncToSync.__call__):
        assert "hop_patches" not in function.__code__.co_filename
    hop_patches.install()


# --- asgiref -----------------------------------------------------------------------------------------


def test_a_sync_function_called_from_async_code_stands_below_it(run_traced, time_in, burn) -> None:
    def in_thread() -> None:
        burn(0.04)

    async def view() -> None:
        async with ThreadSensitiveContext():
            await sync_to_async(in_thread)()

    tree = run_traced(view)

    assert paths(tree, "in_thread") == {("view", "in_thread")}
    assert time_in(tree, "in_thread") > 38_000


@pytest.fixture
def run_traced_in_thread(traced, tree_of) -> Callable[..., CallTree]:
    """The tree of a server span around `view()` on a plain thread, checked against the clock."""

    def run(view: Callable[[], object]) -> CallTree:
        times: list[float] = []

        def inner() -> None:
            times.append(time.perf_counter())
            view()
            times.append(time.perf_counter())

        start = time.perf_counter()
        tree = tree_of(traced.request(inner))
        end = time.perf_counter()
        assert (times[1] - times[0]) * 1e6 - 1 <= tree.duration_us <= (end - start) * 1e6 + 1
        return tree

    return run


def test_an_async_function_called_from_sync_code_stands_below_it(run_traced_in_thread, time_in, burn) -> None:
    # Given a sync view that runs async code on a loop in another thread
    async def on_loop() -> None:
        burn(0.04)
        await asyncio.sleep(0.04)

    def view() -> None:
        async_to_sync(on_loop)()
        burn(0.02)

    tree = run_traced_in_thread(view)

    # Then the loop's work and its waits are below the view, once
    assert paths(tree, "on_loop") == {("view", "on_loop")}
    assert time_in(tree, "on_loop") > 75_000
    assert ("view", "on_loop", "sleep", "[await]") in paths(tree, "[await]")


def test_work_of_another_task_that_comes_back_to_the_loop_is_counted_once(
    run_traced, time_in, burn, profile_of, traced
) -> None:
    # Given a task of the request whose thread has the loop do some work, while the first task waits
    async def on_loop() -> None:
        start = time.perf_counter()
        burn(0.03)
        seconds.append(time.perf_counter() - start)

    async def other() -> None:
        await sync_to_async(async_to_sync(on_loop))()

    async def view() -> None:
        await asyncio.sleep(0.05)
        await asyncio.create_task(other())

    seconds: list[float] = []

    tree = run_traced(view)

    # Then its time is there once, and so is its CPU time
    assert time_in(tree, "on_loop") < 1.4e6 * sum(seconds)
    (span,) = traced.exporter.get_finished_spans()
    assert profile_of(span).attributes["pyinstrument.cpu_time"] == pytest.approx(0.035, abs=0.012)


def test_a_task_that_work_begins_on_its_way_back_stands_below_that_work(run_traced, time_in, burn) -> None:
    # Given a thread of the request that runs async code on the loop, which begins tasks; and an older one
    async def begun() -> None:
        await asyncio.create_task(begun_there())

    async def begun_there() -> None:
        burn(0.02)
        await asyncio.sleep(0.01)
        burn(0.02)

    async def on_loop() -> None:
        await asyncio.create_task(begun())

    async def older(finished: asyncio.Event) -> None:
        while not finished.is_set():
            burn(0.005)
            await asyncio.sleep(0.002)

    async def view() -> None:
        finished = asyncio.Event()
        other = asyncio.create_task(older(finished))
        await sync_to_async(async_to_sync(on_loop))()
        finished.set()
        await other

    tree = run_traced(view)

    # Then they are below what has begun them, and the older one is not
    assert paths(tree, "begun_there") == {("view", "on_loop", "begun_there")}
    assert time_in(tree, "begun_there") > 38_000
    assert not any("on_loop" in path for path in paths(tree, "older"))


def test_what_comes_back_to_the_loop_does_not_see_other_tasks_of_the_request(
    run_traced, burn, profile_of, traced
) -> None:
    # Given a task of the request that works whenever the others of the loop have had their turns
    async def busy() -> None:
        for _ in range(4):
            burn(0.03)
            await asyncio.sleep(0)

    async def on_loop() -> None:
        await asyncio.sleep(0.02)

    async def view() -> None:
        await asyncio.gather(sync_to_async(async_to_sync(on_loop))(), busy())

    tree = run_traced(view)

    # Then its work is not below what waits meanwhile, and its CPU time is counted once
    assert paths(tree, "busy") == {("view", "busy")}
    (span,) = traced.exporter.get_finished_spans()
    assert 0.118 < profile_of(span).attributes["pyinstrument.cpu_time"] < 0.145


@pytest.mark.parametrize("in_own_task", [True, False])
@pytest.mark.parametrize("in_thread", [True, False])
def test_a_task_that_outlives_the_work_that_began_it_is_seen(
    in_thread: bool, in_own_task: bool, run_traced, time_in, burn, profile_of, traced
) -> None:
    # Given work that came back to the loop, and is over before the task that it has begun
    def work() -> None:
        burn(0.05)

    async def begun() -> None:
        if in_thread:
            await asyncio.to_thread(work)
        else:
            work()
            await asyncio.sleep(0)

    async def on_loop() -> None:
        tasks.append(asyncio.create_task(begun()))

    async def asks() -> None:
        await sync_to_async(async_to_sync(on_loop))()
        await tasks.pop()

    async def view() -> None:
        await (asks() if in_own_task else asyncio.create_task(asks()))

    tasks: list[asyncio.Task[None]] = []

    tree = run_traced(view)

    # Then what it does is there (while the request did not wait for that first work), with its CPU time
    (span,) = traced.exporter.get_finished_spans()
    assert 0.045 < profile_of(span).attributes["pyinstrument.cpu_time"] < 0.075
    if in_thread or not in_own_task:
        assert time_in(tree, "work") > 20_000


@pytest.mark.skipif(sys.version_info < (3, 12), reason="tasks are eager from Python 3.12 on")
def test_an_eager_task_does_not_stand_below_who_wakes_it(run_traced, time_in, burn) -> None:
    # Given a task that has begun eagerly, and waits for what comes back to the loop
    async def waits(event: asyncio.Event) -> None:
        await event.wait()
        burn(0.03)

    async def view() -> None:
        async def on_loop() -> None:
            event.set()
            await asyncio.sleep(0.05)

        event = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.set_task_factory(asyncio.eager_task_factory)
        other = asyncio.create_task(waits(event))
        loop.set_task_factory(None)
        await asyncio.gather(sync_to_async(async_to_sync(on_loop))(), other)

    tree = run_traced(view)

    assert time_in(tree, "waits") > 20_000
    assert not any("on_loop" in str(path) for path in paths(tree, "waits"))


@pytest.mark.parametrize("in_own_task", [True, False])
def test_what_follows_a_hop_that_fails_at_once_is_no_waiting(
    in_own_task: bool, run_traced, time_in, burn, profile_of, traced
) -> None:
    # Given a thread pool that takes nothing any more
    pool = ThreadPoolExecutor(1)
    pool.shutdown()

    async def asks() -> None:
        with pytest.raises(RuntimeError):
            await sync_to_async(burn, thread_sensitive=False, executor=pool)(0.01)
        burn(0.05)

    async def view() -> None:
        await (asks() if in_own_task else asyncio.create_task(asks()))

    tree = run_traced(view)

    # Then what the task does instead is work
    assert time_in(tree, "run") > 40_000
    (span,) = traced.exporter.get_finished_spans()
    assert profile_of(span).attributes["pyinstrument.cpu_time"] > 0.048


def test_the_cpu_time_of_another_trace_beside_a_hop_is_not_counted(
    run_traced, burn, profile_of, traced
) -> None:
    # Given a task that goes over to a trace of its own, while the request waits for a thread
    async def consumer() -> None:
        with traced.tracer.start_as_current_span("job", context=Context(), kind=SpanKind.CONSUMER):
            burn(0.05)

    async def view() -> None:
        other = asyncio.create_task(consumer())
        await asyncio.to_thread(time.sleep, 0.1)
        await other

    run_traced(view)

    request = traced.exporter.get_finished_spans()[-1]
    assert profile_of(request).attributes["pyinstrument.cpu_time"] < 0.025


def test_the_cpu_time_between_hops_of_a_thread_is_counted(
    run_traced_in_thread, burn, profile_of, traced
) -> None:
    # When a sync view works for less than the interval, again and again, before it runs async code
    async def nothing() -> None:
        pass

    def view() -> None:
        for _ in range(20):
            burn(0.003)
            async_to_sync(nothing)()

    run_traced_in_thread(view)

    (span,) = traced.exporter.get_finished_spans()
    assert profile_of(span).attributes["pyinstrument.cpu_time"] > 0.058


def test_work_that_comes_back_to_the_waiting_thread_is_counted_once(
    run_traced_in_thread, time_in, burn, profile_of, traced
) -> None:
    # Given async code that has the thread that waits for it do some work in between (as the async ORM)
    def query() -> None:
        burn(0.05)

    async def on_loop() -> None:
        burn(0.02)
        await sync_to_async(query)()
        await asyncio.sleep(0.02)

    def view() -> None:
        async_to_sync(on_loop)()

    tree = run_traced_in_thread(view)

    # Then it stands below the async code that awaits it, and CPU time is counted once as well
    assert paths(tree, "query") == {("view", "on_loop", "query")}
    assert time_in(tree, "query") > 48_000
    (span,) = traced.exporter.get_finished_spans()
    assert profile_of(span).attributes["pyinstrument.cpu_time"] == pytest.approx(0.07, abs=0.03)


def test_deeply_nested_hops_sum_up(run_traced, time_in, burn) -> None:
    # Given layers of sync and async code that call each other across threads
    def leaf() -> None:
        burn(0.03)

    def layer(depth: int) -> Callable[[], object]:
        if not depth:
            return leaf
        below = layer(depth - 1)

        async def turn() -> None:
            await sync_to_async(below)()

        return async_to_sync(turn)

    def start() -> None:
        layer(5)()

    async def view() -> None:
        async with ThreadSensitiveContext():
            await sync_to_async(start)()

    tree = run_traced(view)

    (path,) = paths(tree, "leaf")
    assert path.count("turn") == 5
    assert time_in(tree, "leaf") > 28_000


def test_the_function_for_a_thread_may_be_given_by_name(traced) -> None:
    # Given a call that names all its arguments, as the signature of anyio allows
    import anyio.to_thread

    from otel_pyinstrument import hop_patches

    async def request() -> int:
        with traced.tracer.start_as_current_span("GET /", kind=SpanKind.SERVER):
            return await anyio.to_thread.run_sync(func=lambda: 7)

    hop_patches.install()
    try:
        assert anyio.run(request) == 7
    finally:
        hop_patches.uninstall()
