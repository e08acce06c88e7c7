"""Where all requests of an event loop are profiled, the hook stays between their turns, for a short while."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Awaitable, Callable
from types import SimpleNamespace

import pytest
import uvloop
from opentelemetry.trace import SpanKind
from pyinstrument import Profiler

from otel_pyinstrument import thread_sampler
from otel_pyinstrument.other_threads import OTHER_THREADS

LOOPS = {"asyncio": asyncio.SelectorEventLoop, "uvloop": uvloop.Loop}
STEPS = 50


@pytest.fixture(params=LOOPS)
def loop(request: pytest.FixtureRequest):
    made = LOOPS[request.param]()
    yield made
    made.close()


@pytest.fixture
def make_served(make_traced):
    """Profiles three requests at a time. `at_once` serves several, each by its own work."""

    def make(**settings: float) -> SimpleNamespace:
        traced = make_traced(max_concurrent=3, **settings)

        async def serve(name: object, work: Callable[[], Awaitable[object]]) -> None:
            with traced.tracer.start_as_current_span(f"GET /{name}", kind=SpanKind.SERVER):
                await work()

        async def at_once(*works: Callable[[], Awaitable[object]]) -> None:
            await asyncio.gather(*(serve(number, work) for number, work in enumerate(works)))

        return SimpleNamespace(traced=traced, serve=serve, at_once=at_once)

    return make


@pytest.fixture
def served(make_served) -> SimpleNamespace:
    return make_served()


@pytest.fixture
def installs(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The intervals of the hooks that were installed."""
    intervals: list[float] = []
    install = thread_sampler.ThreadSampler._install

    def count(self: thread_sampler.ThreadSampler, interval: float) -> None:
        intervals.append(interval)
        install(self, interval)

    monkeypatch.setattr(thread_sampler.ThreadSampler, "_install", count)
    return intervals


@pytest.fixture
def counted_hooks(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How many hooks are counted now, as where each slows all threads."""
    monkeypatch.setattr(OTHER_THREADS, "every_thread_pays", True)

    def count() -> int:
        threads = [thread for reference in OTHER_THREADS._hooked if (thread := reference()) is not None]
        return sum(len(thread.hooks) for thread in threads)

    return count


def hook_of(moments: list[object]) -> None:
    moments.append(sys.getprofile())


async def steps() -> None:
    for _ in range(STEPS):
        await asyncio.sleep(0)


def test_the_hook_is_not_installed_for_every_step(loop, served, installs, profile_of, counted_hooks) -> None:
    # Given two requests with many steps, both profiled
    loop.run_until_complete(served.at_once(steps, steps))

    # Then the hook has stayed for most of them, and is gone
    assert [profile_of(span) is None for span in served.traced.exporter.get_finished_spans()] == [False] * 2
    assert len(installs) < STEPS / 5
    assert sys.getprofile() is None
    assert counted_hooks() == 0


def test_a_request_that_is_not_profiled_never_pays(loop, served, profile_of) -> None:
    # Given a fourth request, which is not profiled
    hooks: list[object] = []

    async def fourth() -> None:
        await asyncio.sleep(0)
        for _ in range(STEPS):
            await asyncio.sleep(0)
            hook_of(hooks)

    loop.run_until_complete(served.at_once(steps, steps, steps, fourth))

    # Then its steps are without the hook
    profiled = {span.name for span in served.traced.exporter.get_finished_spans() if profile_of(span)}
    assert profiled == {"GET /0", "GET /1", "GET /2"}
    assert hooks == [None] * STEPS


def test_a_request_whose_profile_has_ended_does_not_pay_any_more(loop, make_served) -> None:
    # Given a stream that is longer than a profile may be, and another request
    served = make_served(max_duration=0.02)
    hooks: list[object] = []

    async def main() -> None:
        begun = asyncio.Event()

        async def stream() -> None:
            await begun.wait()
            for _ in range(STEPS):
                await asyncio.sleep(0)
                hook_of(hooks)

        async def other() -> None:
            await asyncio.sleep(0)
            begun.set()
            await steps()

        streaming = asyncio.ensure_future(served.serve("stream", stream))
        await asyncio.sleep(0.05)
        await asyncio.gather(served.serve("other", other), streaming)

    loop.run_until_complete(main())

    # Then its steps are without the hook
    assert len([span for span in served.traced.exporter.get_finished_spans() if span.events]) == 2
    assert hooks == [None] * STEPS


def test_a_task_beside_a_single_request_never_pays(loop, served) -> None:
    # Given one request, and a task of no request
    hooks: list[object] = []

    async def other() -> None:
        await asyncio.sleep(0)
        for _ in range(STEPS):
            await asyncio.sleep(0)
            hook_of(hooks)

    async def main() -> None:
        await asyncio.gather(served.at_once(steps), other())

    loop.run_until_complete(main())

    assert hooks == [None] * STEPS


def test_a_hook_that_stays_ends_when_nothing_happens(loop, make_served, counted_hooks, wait_until) -> None:
    # Given two requests that wait, then nothing that the loop could do, and no sample that is due
    served = make_served(interval=60)
    working, ended = threading.Event(), threading.Event()

    def look(done: Callable[[], object]) -> None:
        working.wait()
        try:
            wait_until(lambda: counted_hooks() == 0, limit_seconds=5)
            ended.set()
        finally:
            loop.call_soon_threadsafe(done)

    async def main() -> None:
        done = asyncio.Event()

        async def work() -> None:
            await steps()
            working.set()
            await done.wait()

        looking = threading.Thread(target=look, args=(done.set,))
        looking.start()
        await served.at_once(work, work)
        looking.join()

    loop.run_until_complete(main())

    # Then meanwhile the thread has no hook
    assert ended.is_set()


def test_a_hook_that_stays_ends_with_profiling(loop, served, counted_hooks) -> None:
    # Given a shutdown between the turns of two requests
    hooks: list[object] = []

    def shut_down() -> None:
        served.traced.processor.shutdown()
        hook_of(hooks)

    async def and_shut_down() -> None:
        await asyncio.sleep(0)
        loop.call_soon(shut_down)
        await steps()

    loop.run_until_complete(served.at_once(steps, and_shut_down))

    # Then it is gone at once
    assert hooks == [None]
    assert counted_hooks() == 0


@pytest.mark.parametrize("theirs", [None, lambda *_arguments: None], ids=["none", "another"])
def test_a_profile_function_that_comes_between_turns_is_respected(
    theirs, loop, served, counted_hooks, profile_of
) -> None:
    # Given somebody who sets the profile function between the turns of two requests
    async def and_set_profile() -> None:
        await asyncio.sleep(0)
        loop.call_soon(sys.setprofile, theirs)
        await steps()

    try:
        loop.run_until_complete(served.at_once(steps, and_set_profile))
        left = sys.getprofile()
    finally:
        sys.setprofile(None)

    # Then it is still there, and no hook of ours is counted
    assert left is theirs
    assert counted_hooks() == 0
    # And the profiles say whether they lack something
    spans = served.traced.exporter.get_finished_spans()
    interrupted = {profile_of(span).attributes["pyinstrument.interrupted"] for span in spans}
    assert interrupted == {theirs is not None}


def test_a_profiler_of_the_user_between_turns_gets_its_samples(loop, served, burn, counted_hooks) -> None:
    # Given a callback between the turns of two requests that profiles its own work
    profiler = Profiler(interval=0.001, async_mode="disabled")

    def profile() -> None:
        with profiler:
            burn(0.05)

    async def and_profile() -> None:
        await asyncio.sleep(0)
        loop.call_soon(profile)
        await steps()

    loop.run_until_complete(served.at_once(steps, and_profile))

    # Then it has its samples, and everything is gone afterwards
    assert profiler.last_session is not None
    assert profiler.last_session.sample_count > 10
    assert sys.getprofile() is None
    assert counted_hooks() == 0


def test_the_first_turn_of_a_request_ends_where_the_next_one_begins(
    loop, served, burn, tree_of, time_in
) -> None:
    # Given a request that waits at once, while another one works in its first turn, beside an older one
    async def waits() -> None:
        await asyncio.sleep(0)

    async def works() -> None:
        burn(0.05)

    async def main() -> None:
        older = asyncio.ensure_future(served.serve("older", lambda: asyncio.sleep(0.1)))
        await asyncio.sleep(0.01)
        await asyncio.gather(served.serve("waits", waits), served.serve("works", works), older)

    loop.run_until_complete(main())

    # Then the work is a wait of the first one, to the last millisecond
    trees = {span.name: tree_of(span) for span in served.traced.exporter.get_finished_spans()}
    assert time_in(trees["GET /waits"], "[await]") > 49_000
    assert time_in(trees["GET /works"], "[await]") == 0


def test_a_step_inside_which_others_run_goes_on(loop, served, burn, tree_of, time_in) -> None:
    # Given a first step that lets the loop run inside it, as some libraries do: another one is told of
    async def work() -> None:
        vars(loop)["call_soon"]._end_first_step()
        burn(0.05)

    loop.run_until_complete(served.at_once(work))

    # Then what it does afterwards is its own work
    (span,) = served.traced.exporter.get_finished_spans()
    tree = tree_of(span)
    assert tree.duration_us > 49_000
    assert time_in(tree, "[await]") == 0
