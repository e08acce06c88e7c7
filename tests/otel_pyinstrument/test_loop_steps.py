"""On an event loop the profile function is there while the profiled request runs, and at no other time."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from statistics import median

import pytest
import trio
import uvloop
from opentelemetry.context import Context
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.trace import SpanKind

from otel_pyinstrument import loop_steps
from otel_pyinstrument.segment import MAX_TURNS

LOOPS = {"asyncio": asyncio.SelectorEventLoop, "uvloop": uvloop.Loop}


@pytest.fixture(params=LOOPS)
def loop(request: pytest.FixtureRequest):
    made = LOOPS[request.param]()
    yield made
    made.close()


@pytest.fixture
def serve(traced):
    """Serve one request whose work is `work()`."""

    async def run(work: Callable[[], Awaitable[object]]) -> None:
        with traced.tracer.start_as_current_span("GET /", kind=SpanKind.SERVER):
            await work()

    return run


@pytest.fixture
def untold_steps(monkeypatch: pytest.MonkeyPatch):
    """What a task hands to its loop does not tell which task it is."""
    call = loop_steps._LoopSteps.__call__

    def untold(self, callback, *arguments, context=None):
        return call(self, lambda *given: callback(*given), *arguments, context=context)

    monkeypatch.setattr(loop_steps._LoopSteps, "__call__", untold)


def is_replaced(loop: asyncio.AbstractEventLoop) -> bool:
    return "call_soon" in vars(loop)


def test_other_tasks_of_the_loop_run_without_the_hook(loop, serve, burn) -> None:
    # Given a request that takes turns with another task
    seen: dict[str, list[object]] = {"own": [], "other": []}

    async def own() -> None:
        for _ in range(5):
            burn(0.002)
            seen["own"].append(sys.getprofile())
            await asyncio.sleep(0)

    async def other() -> None:
        await asyncio.sleep(0)
        for _ in range(5):
            await asyncio.sleep(0)
            seen["other"].append(sys.getprofile())

    async def main() -> None:
        await asyncio.gather(serve(own), other())

    loop.run_until_complete(main())

    # Then only the request pays
    assert None not in seen["own"]
    assert seen["other"] == [None] * 5


def test_the_first_turn_of_others_ends_the_hook(loop, serve, burn) -> None:
    # Given a long task that already waits for its turn when the request begins
    hooks: list[object] = []

    async def own() -> None:
        await asyncio.sleep(0.01)

    async def other() -> None:
        burn(0.02)
        hooks.append(sys.getprofile())

    async def main() -> None:
        await asyncio.gather(serve(own), other())

    loop.run_until_complete(main())

    # Then the hook is gone before that turn is over
    assert hooks == [None]


def test_the_loop_is_as_before_after_the_last_profile(loop, serve) -> None:
    replaced: list[bool] = []

    async def work() -> None:
        replaced.append(is_replaced(loop))
        await asyncio.sleep(0.001)
        replaced.append(is_replaced(loop))

    async def main() -> None:
        await asyncio.gather(serve(work), serve(work))

    # When requests come, and later more of them
    for _ in range(2):
        loop.run_until_complete(main())
        assert not is_replaced(loop)

    assert replaced == [True] * 8


def test_what_others_put_around_it_stays(loop, serve, tree_of, traced, time_in, burn) -> None:
    # Given a tool that replaces call_soon too while a request is profiled
    calls: list[object] = []

    async def work() -> None:
        inner = loop.call_soon

        def call_soon(callback, *arguments, context=None):
            calls.append(callback)
            return inner(callback, *arguments, context=context)

        loop.call_soon = call_soon
        await asyncio.sleep(0.001)

    def planted() -> None:
        burn(0.06)

    async def more_work() -> None:
        await asyncio.sleep(0.01)
        planted()

    loop.run_until_complete(serve(work))
    theirs = vars(loop)["call_soon"]

    # When more requests come afterwards
    for _ in range(3):
        loop.run_until_complete(serve(more_work))

    # Then theirs is still there and works, and ours too
    assert vars(loop)["call_soon"] is theirs
    assert calls
    last = traced.exporter.get_finished_spans()[-1]
    assert time_in(tree_of(last), "planted") > 45_000


def test_a_loop_that_cannot_be_followed_gives_no_profile(serve, traced) -> None:
    # Given a loop whose attributes cannot be set
    class Closed(asyncio.SelectorEventLoop):
        def __setattr__(self, name: str, value: object) -> None:
            if name == "call_soon":
                raise AttributeError(name)
            super().__setattr__(name, value)

    loop = Closed()
    try:
        loop.run_until_complete(serve(lambda: asyncio.sleep(0.001)))
    finally:
        loop.close()

    # Then the request is served without
    (span,) = traced.exporter.get_finished_spans()
    assert not span.events


def test_a_span_that_another_thread_ends_while_the_request_waits(
    loop, traced, tree_of, time_in, burn
) -> None:
    at_us: dict[str, list[float]] = {}

    def note(moment: str) -> None:
        at_us.setdefault(moment, []).append(time.perf_counter() * 1e6)

    class BehindOurs(SpanProcessor):
        def _on_ending(self, span: object) -> None:
            note("sampling is over")

    traced.provider.add_span_processor(BehindOurs())

    def afterwards() -> None:
        burn(0.03)

    # Given requests that wait on their loop, and go on after another thread has ended their span
    async def waits() -> None:
        note("beginning")
        span = traced.tracer.start_span("GET /", kind=SpanKind.SERVER)
        note("begun")
        ended = asyncio.Event()

        def end() -> None:
            time.sleep(0.03)
            note("ending")
            span.end()
            loop.call_soon_threadsafe(ended.set)

        ending = threading.Thread(target=end)
        loop.call_soon(note, "waiting")
        loop.call_soon(ending.start)
        await ended.wait()
        ending.join()
        await asyncio.sleep(0.01)
        afterwards()

    for _ in range(5):
        loop.run_until_complete(waits())

    # Then each tree ends between two moments of that call, with the whole wait and nothing of what follows
    spans = traced.exporter.get_finished_spans()
    trees = [tree_of(span) for span in spans]
    for number, tree in enumerate(trees):
        beginning, begun, waiting, ending, over = (moments[number] for moments in at_us.values())
        assert ending - begun <= tree.duration_us <= over - beginning
        assert ending - waiting <= time_in(tree, "[await]") <= tree.duration_us
        assert "afterwards" not in {frame.function for frame in tree.frames}
    # And no later than its span does, except where the thread has just lost its turn in between
    late_us = [
        tree.duration_us - (span.end_time - span.start_time) / 1000
        for span, tree in zip(spans, trees, strict=True)
    ]
    assert median(late_us) <= 1
    assert not is_replaced(loop)


def test_a_profile_function_that_came_meanwhile_is_left_alone(loop, serve, traced, profile_of) -> None:
    # Given a debugger that sets its profile function while the request waits
    def theirs(*_arguments: object) -> None:
        pass

    async def work() -> None:
        asyncio.get_running_loop().call_soon(sys.setprofile, theirs)
        await asyncio.sleep(0.01)
        assert sys.getprofile() is theirs

    try:
        loop.run_until_complete(serve(work))
        assert sys.getprofile() is theirs
    finally:
        sys.setprofile(None)

    # Then the profile says so
    (span,) = traced.exporter.get_finished_spans()
    assert profile_of(span).attributes["pyinstrument.interrupted"] is True
    assert not is_replaced(loop)


@pytest.mark.parametrize("way", ["cancelled", "failed"])
def test_a_request_that_does_not_end_well_leaves_nothing(way: str, loop, serve, traced, tree_of) -> None:
    slept: list[float] = []

    async def work() -> None:
        start = time.perf_counter()
        await asyncio.sleep(0.005)
        slept.append(time.perf_counter() - start)  # uvloop's clock stands still during a step
        if way == "failed":
            raise RuntimeError("on purpose")
        await asyncio.sleep(30)

    async def main() -> None:
        task = asyncio.ensure_future(serve(work))
        await asyncio.sleep(0.02)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled() or task.exception()

    loop.run_until_complete(main())

    (span,) = traced.exporter.get_finished_spans()
    assert tree_of(span).duration_us >= sum(slept) * 1e6 - 1
    assert not is_replaced(loop)
    assert sys.getprofile() is None


def test_finished_tasks_of_a_long_request_are_not_kept(loop, serve) -> None:
    # Given a connection that starts a task for each message
    tasks: list[weakref.ref[asyncio.Task[None]]] = []

    async def answer() -> None:
        await asyncio.sleep(0)

    async def connection() -> None:
        for _ in range(1000):
            task = asyncio.ensure_future(answer())
            tasks.append(weakref.ref(task))
            await task
        del task
        gc.collect()
        # Then most of them are gone while it is still open
        assert sum(task() is not None for task in tasks) < 100

    loop.run_until_complete(serve(connection))


@pytest.mark.parametrize("factory", [asyncio.eager_task_factory] if sys.version_info >= (3, 12) else [None])
def test_tasks_that_start_eagerly_are_seen(factory, serve, traced, tree_of, time_in, burn) -> None:
    # Given a loop whose tasks begin at once, inside the step that makes them
    def planted() -> None:
        burn(0.02)

    async def child() -> None:
        planted()
        await asyncio.sleep(0.001)
        planted()

    async def work() -> None:
        await asyncio.ensure_future(child())

    loop = asyncio.new_event_loop()
    loop.set_task_factory(factory)
    try:
        loop.run_until_complete(serve(work))
    finally:
        loop.close()

    # Then both parts of the child are in the tree
    (span,) = traced.exporter.get_finished_spans()
    assert time_in(tree_of(span), "planted") > 30_000


@pytest.mark.parametrize("factory", [asyncio.eager_task_factory] if sys.version_info >= (3, 12) else [None])
def test_an_eager_task_of_another_trace_does_not_end_the_first_step(
    factory, serve, traced, tree_of, time_in, burn, profile_of
) -> None:
    # Given a request whose first step makes a task that belongs to nobody, and then goes on
    def planted() -> None:
        burn(0.03)

    async def job() -> None:
        with traced.tracer.start_as_current_span("job", context=Context(), kind=SpanKind.CONSUMER):
            burn(0.02)

    jobs: list[asyncio.Future[None]] = []

    async def work() -> None:
        jobs.append(asyncio.ensure_future(job()))
        planted()

    async def main() -> None:
        await serve(work)
        await asyncio.gather(*jobs)

    loop = asyncio.new_event_loop()
    loop.set_task_factory(factory)
    try:
        loop.run_until_complete(main())
    finally:
        loop.close()

    # Then what the request does afterwards is in its tree
    (span,) = [span for span in traced.exporter.get_finished_spans() if span.kind is SpanKind.SERVER]
    assert not profile_of(span).attributes["pyinstrument.interrupted"]
    assert time_in(tree_of(span), "planted") > 25_000


def test_loops_in_several_threads_do_not_meet(make_traced) -> None:
    # Given profiled requests on loops of their own in several threads, which switch often
    traced = make_traced(max_concurrent=10)
    errors: list[object] = []
    switched = sys.getswitchinterval()

    async def request() -> None:
        with traced.tracer.start_as_current_span("GET /", kind=SpanKind.SERVER):
            for _ in range(300):
                await asyncio.sleep(0)

    def thread() -> None:
        loop = asyncio.new_event_loop()
        loop.set_exception_handler(lambda _loop, context: errors.append(context))
        loop.run_until_complete(request())
        loop.close()

    threads = [threading.Thread(target=thread) for _ in range(3)]
    sys.setswitchinterval(1e-5)
    try:
        for each in threads:
            each.start()
        for each in threads:
            each.join()
    finally:
        sys.setswitchinterval(switched)

    # Then no loop has an error to tell
    assert errors == []


def test_many_tasks_at_once_cost_in_proportion(serve, loop) -> None:
    # Given a request that starts many tasks
    async def child() -> None:
        await asyncio.sleep(0)

    def seconds(count: int) -> float:
        async def work() -> None:
            await asyncio.gather(*(child() for _ in range(count)))

        start = time.thread_time()
        loop.run_until_complete(serve(work))
        return time.thread_time() - start

    # Then eight times as many take not much more than eight times as long
    seconds(100)
    assert seconds(4000) < 30 * seconds(500)


def test_a_span_that_is_dropped_without_its_end_follows_nobody(loop, traced) -> None:
    # Given a request whose span nobody ends or keeps
    hooks: list[object] = []

    async def careless() -> None:
        traced.tracer.start_span("GET /", kind=SpanKind.SERVER)

    async def main() -> None:
        await asyncio.ensure_future(careless())
        gc.collect()
        for _ in range(5):
            await asyncio.ensure_future(asyncio.sleep(0))
            hooks.append(sys.getprofile())

    loop.run_until_complete(main())

    # Then the tasks of others are not taken for its
    assert hooks == [None] * 5


def test_loops_are_not_kept_by_requests_that_never_ended(traced) -> None:
    loops: list[weakref.ref[asyncio.AbstractEventLoop]] = []

    async def careless() -> None:
        loops.append(weakref.ref(asyncio.get_running_loop()))
        traced.tracer.start_span("GET /", kind=SpanKind.SERVER)

    # When many loops come and go with a request that is still open
    for _ in range(10):
        asyncio.run(careless())
    gc.collect()
    traced.request(lambda: None)
    gc.collect()

    # Then they can go with the next profile
    assert [loop() for loop in loops] == [None] * 10


def test_a_tool_that_wraps_us_and_goes_leaves_us_working(loop, serve) -> None:
    # Given a tool that replaces call_soon while a request is profiled, and takes its own away afterwards
    hooks: list[object] = []

    async def work() -> None:
        for _ in range(3):
            await asyncio.sleep(0)
            hooks.append(sys.getprofile())

    async def while_a_tool_comes_and_goes() -> None:
        inner = loop.call_soon
        loop.call_soon = lambda *arguments, **options: inner(*arguments, **options)
        await work()
        del loop.call_soon

    for work_of_request in (work, while_a_tool_comes_and_goes, work):
        loop.run_until_complete(serve(work_of_request))

    # Then requests before and after are seen, and the loop is as before
    assert None not in hooks[:3] + hooks[6:]
    assert not is_replaced(loop)


def test_a_request_of_very_many_steps_is_cut(loop, serve, traced, profile_of) -> None:
    # Given a stream
    hooks: list[object] = []

    async def stream() -> None:
        for _ in range(MAX_TURNS + 10):
            await asyncio.sleep(0)
        hooks.append(sys.getprofile())

    loop.run_until_complete(serve(stream))

    # Then its profile ends early, and says so
    (span,) = traced.exporter.get_finished_spans()
    assert hooks == [None]
    assert profile_of(span).attributes["pyinstrument.truncated"] is True


def test_a_request_that_waits_in_silence_is_cut_at_the_limit(loop, make_traced, profile_of) -> None:
    # Given a connection on which nothing happens, for many times the maximum duration
    traced = make_traced(max_duration=0.1)

    async def connection() -> None:
        with traced.tracer.start_as_current_span("HTTP /ws", kind=SpanKind.SERVER):
            await asyncio.sleep(1.5)

    loop.run_until_complete(connection())

    # Then its profile has ended there, and not with its next step
    (span,) = traced.exporter.get_finished_spans()
    attributes = profile_of(span).attributes
    assert attributes["pyinstrument.truncated"] is True
    assert 0.1 <= attributes["pyinstrument.duration"] < 0.8


def test_an_awaitable_that_answers_everything_is_no_problem(loop, serve, traced) -> None:
    # Given an object that the application awaits, with any attribute one asks for
    class Anything:
        def __await__(self):
            return asyncio.sleep(0.001).__await__()

        def __getattr__(self, name: str) -> object:
            raise RuntimeError(name)

    errors: list[object] = []
    loop.set_exception_handler(lambda _loop, context: errors.append(context))

    async def work() -> None:
        await Anything()

    loop.run_until_complete(serve(work))

    (span,) = traced.exporter.get_finished_spans()
    assert errors == []
    assert span.events


class SlowToRestore(asyncio.SelectorEventLoop):
    """Tells when an attribute of it is being removed, and waits there for a while."""

    def __init__(self) -> None:
        super().__init__()
        self.restoring, self.waited_for = threading.Event(), threading.Event()

    def __delattr__(self, name: str) -> None:
        self.restoring.set()
        self.waited_for.wait(0.2)
        super().__delattr__(name)


def test_a_request_that_begins_while_another_thread_ends_the_last_one_is_followed(
    traced, tree_of, time_in, burn
) -> None:
    loop = SlowToRestore()

    def planted() -> None:
        burn(0.03)

    # When a request begins while another thread gives the loop its own method back
    async def main() -> None:
        last = traced.tracer.start_span("last", kind=SpanKind.SERVER)
        ending = threading.Thread(target=last.end)
        ending.start()
        loop.restoring.wait()
        with traced.tracer.start_as_current_span("next", kind=SpanKind.SERVER):
            loop.waited_for.set()
            await asyncio.to_thread(ending.join)
            await asyncio.sleep(0.01)
            planted()

    try:
        loop.run_until_complete(main())
    finally:
        loop.close()

    # Then its steps are seen, and the loop is as before
    (span,) = [span for span in traced.exporter.get_finished_spans() if span.name == "next"]
    assert time_in(tree_of(span), "planted") > 20_000
    assert not is_replaced(loop)


def test_requests_that_two_threads_end_at_once_leave_the_loop_as_before(traced, wait_until) -> None:
    loop = SlowToRestore()

    # When a thread gives the loop its own method back, and another ends a request that began meanwhile
    async def main() -> None:
        with ThreadPoolExecutor(2) as threads:
            last = threads.submit(traced.tracer.start_span("last", kind=SpanKind.SERVER).end)
            loop.restoring.wait()
            after = threads.submit(traced.tracer.start_span("next", kind=SpanKind.SERVER).end)
            # Then both succeed
            last.result()
            after.result()

    try:
        loop.run_until_complete(main())
        assert not is_replaced(loop)
    finally:
        loop.close()
    wait_until(lambda: sys.getprofile() is None)
    assert [len(span.events) for span in traced.exporter.get_finished_spans()] == [1, 1]


FORK_WHILE_RESTORING = """
import asyncio, os, signal, threading
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind
from otel_pyinstrument import PyinstrumentInstrumentor

provider, exporter = TracerProvider(), InMemorySpanExporter()
provider.add_span_processor(SimpleSpanProcessor(exporter))
PyinstrumentInstrumentor().instrument(tracer_provider=provider, rate=1, cpu_budget=1)
tracer = provider.get_tracer("test")
parent = os.getpid()
restoring, forked = threading.Event(), threading.Event()

class Loop(asyncio.SelectorEventLoop):
    def __delattr__(self, name):
        if os.getpid() == parent:
            restoring.set()
            forked.wait()
        super().__delattr__(name)

async def main():
    ending = threading.Thread(target=tracer.start_span("parent", kind=SpanKind.SERVER).end)
    ending.start()
    restoring.wait()
    pid = os.fork()
    if not pid:
        tracer.start_span("child", kind=SpanKind.SERVER).end()
        print([len(span.events) for span in exporter.get_finished_spans()], flush=True)
        os._exit(0)
    forked.set()
    ending.join()
    too_late = threading.Timer(20, os.kill, (pid, signal.SIGKILL))
    too_late.start()
    print(os.waitpid(pid, 0)[1], [len(span.events) for span in exporter.get_finished_spans()])
    too_late.cancel()

loop = Loop()
loop.run_until_complete(main())
"""


def test_a_fork_while_another_thread_ends_a_request_does_not_block_the_child() -> None:
    # When a process forks while another thread gives a loop its own method back
    run = subprocess.run(
        [sys.executable, "-c", FORK_WHILE_RESTORING], capture_output=True, text=True, timeout=60
    )

    # Then the child profiles its own requests, and the parent's is as it was
    assert run.stdout.splitlines() == ["[1]", "0 [1]"], run.stderr


def test_a_request_whose_steps_nobody_told_of_is_marked_and_blames_nothing(
    loop, traced, serve, burn, untold_steps, profile_of
) -> None:
    # Given steps that cannot be told from those of others
    async def work() -> None:
        burn(0.01)
        for _ in range(3):
            await asyncio.sleep(0)
            burn(0.01)

    # When a request has been served
    loop.run_until_complete(serve(work))

    # Then its profile says that it is not whole, and ends before what it did not see
    (span,) = traced.exporter.get_finished_spans()
    attributes = profile_of(span).attributes
    assert attributes["pyinstrument.interrupted"]
    assert attributes["pyinstrument.duration"] < 0.75 * (span.end_time - span.start_time) / 1e9
    assert not is_replaced(loop)


@pytest.mark.parametrize("how", ["untold", "failing"])
def test_where_tasks_do_not_tell_whose_step_it_is_nothing_is_profiled_and_one_warning_says_so(
    how, loop, traced, serve, monkeypatch, caplog, profile_of
) -> None:
    # Given tasks that hand something else to their loop
    class Untold(asyncio.Task):
        def __init__(self, coroutine, *, loop, **options) -> None:
            if how == "failing":
                raise TypeError("no tasks today")
            super().__init__(coroutine, loop=_Wrapping(loop), **options)

    class _Wrapping:
        def __init__(self, loop) -> None:
            self._loop = loop

        def __getattr__(self, name):
            return getattr(self._loop, name)

        def call_soon(self, callback, *arguments, context=None):
            return self._loop.call_soon(lambda: callback(*arguments), context=context)

    loop_steps.steps_can_be_told_apart.cache_clear()
    with monkeypatch.context() as changed:
        changed.setattr(loop_steps.asyncio, "Task", Untold)
        assert not loop_steps.steps_can_be_told_apart()

    # When requests are served
    for _ in range(2):
        loop.run_until_complete(serve(lambda: asyncio.sleep(0)))

    # Then none has a profile, and that is said once
    assert [profile_of(span) for span in traced.exporter.get_finished_spans()] == [None, None]
    assert [record.getMessage()[:44] for record in caplog.records if record.levelname == "WARNING"] == [
        "Requests on event loops are not profiled: as"
    ]
    assert not is_replaced(loop)
    loop_steps.steps_can_be_told_apart.cache_clear()


def test_tasks_of_trio_are_not_profiled(traced, burn, profile_of) -> None:
    """They take turns on one thread, and nobody tells of these: trees would mix requests."""

    async def serve_request(name: str) -> None:
        with traced.tracer.start_as_current_span(name, kind=SpanKind.SERVER):
            for _ in range(3):
                burn(0.002)
                await trio.sleep(0)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_request, "GET /a")
            nursery.start_soon(serve_request, "GET /b")

    trio.run(main)

    assert [profile_of(span) for span in traced.exporter.get_finished_spans()] == [None, None]
    assert sys.getprofile() is None
    assert profile_of(traced.request(lambda: burn(0.01))) is not None
