"""Functions and blocks that the application profiles itself."""

from __future__ import annotations

import asyncio
import logging
import mmap
import os
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from functools import partial, update_wrapper

import pytest
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import (
    INVALID_SPAN,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
)

from otel_pyinstrument import installed, profile
from otel_pyinstrument.request import request_of


@pytest.fixture
def scripted(make_traced, monkeypatch: pytest.MonkeyPatch):
    """A provider as a script has it: with the share of requests at its lowest."""
    traced = make_traced(rate=0.0)
    monkeypatch.setattr(installed, "provider", traced.provider)
    return traced


def finished(traced) -> list:
    return list(traced.exporter.get_finished_spans())


# --- outside a request -------------------------------------------------------------------------------


def test_a_block_is_a_root_span_with_a_profile(scripted, profile_of, tree_of, time_in, burn) -> None:
    # When a script profiles a block
    def work() -> None:
        burn(0.03)

    with profile("nightly", tags={"day": "monday", "size": 3}) as span:
        assert span.is_recording()
        work()

    # Then its span says so, and its tree shows what ran
    (span,) = finished(scripted)
    assert (span.name, span.kind, span.parent) == ("nightly", SpanKind.INTERNAL, None)
    assert dict(span.attributes) == {"day": "monday", "size": 3}
    assert profile_of(span).attributes["pyinstrument.reason"] == "forced"
    assert time_in(tree_of(span), "work") > 20_000


def test_a_function_is_profiled_at_each_call_under_its_own_name(scripted, profile_of, burn) -> None:
    @profile
    def send(count: int, *, to: str) -> str:
        """Send it."""
        burn(0.01)
        return to * count

    assert [send(2, to="a"), send(1, to="b")] == ["aa", "b"]

    assert (send.__name__, send.__doc__) == ("send", "Send it.")
    spans = finished(scripted)
    assert [span.name.rpartition(".")[2] for span in spans] == ["send", "send"]
    assert all(profile_of(span) for span in spans)
    assert spans[0].attributes["code.function.name"].startswith(__name__.rpartition(".")[0])


@pytest.mark.parametrize("decorate", [profile("named"), profile("named", tags={"a": 1}, memory=True)])
def test_a_name_and_tags_may_be_given(decorate, scripted) -> None:
    assert decorate(lambda: 5)() == 5

    (span,) = finished(scripted)
    assert span.name == "named"


def test_tags_of_the_decorator_win_over_ours(scripted) -> None:
    profile(tags={"code.function.name": "mine"})(lambda: None)()

    assert finished(scripted)[0].attributes["code.function.name"] == "mine"


class Job:
    def __call__(self) -> int:
        return 5


def add(a: int, b: int) -> int:
    return a + b


@pytest.mark.parametrize(
    ("function", "name"),
    [(partial(add, 2, b=3), "add"), (partial(partial(add, 2), 3), "add"), (Job(), "Job.__call__")],
)
def test_a_partial_and_an_object_have_the_name_of_what_they_call(function, name: str, scripted) -> None:
    assert profile(function)() == 5

    (span,) = finished(scripted)
    assert (span.name, span.attributes["code.function.name"]) == (name, f"{__name__}.{name}")


def test_methods_static_methods_and_recursion_work(scripted) -> None:
    class Sums:
        @profile
        def down(self, n: int) -> int:
            return n and n + self.down(n - 1)

        @staticmethod
        @profile
        def three() -> int:
            return 3

        @classmethod
        @profile
        def name(cls) -> str:
            return cls.__name__

    assert (Sums().down(3), Sums.three(), Sums().three(), Sums.name()) == (6, 3, 3, "Sums")


def test_the_memory_that_a_block_keeps_is_told_on_request(scripted) -> None:
    kept = []
    with profile("keeps", memory=True):
        # Pages that nobody had before: what earlier tests have freed may be used again otherwise.
        kept.append(mmap.mmap(-1, 50_000_000))
        for _ in range(50):
            kept[0].write(bytes(1_000_000))
    with profile("asks not"):
        pass

    keeps, asks_not = finished(scripted)
    if os.path.exists("/proc/self/statm"):
        assert 40_000_000 < keeps.attributes["pyinstrument.memory_delta"] < 100_000_000
    assert "pyinstrument.memory_delta" not in (asks_not.attributes or {})


def test_an_exception_passes_unchanged_and_marks_the_span(scripted, profile_of) -> None:
    error = KeyError("missing")

    @profile
    def fails() -> None:
        raise error

    with pytest.raises(KeyError) as caught:
        fails()

    assert caught.value is error
    (span,) = finished(scripted)
    assert span.status.status_code is StatusCode.ERROR
    assert {event.name for event in span.events} == {"exception", "pyinstrument.profile"}


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit, StopIteration])
def test_what_ends_a_program_passes_too(kind: type[BaseException], scripted) -> None:
    with pytest.raises(kind), profile("ends"):
        raise kind

    assert [span.name for span in finished(scripted)] == ["ends"]


def test_a_block_inside_a_profiled_block_is_a_child_without_profile(scripted, profile_of) -> None:
    with profile("outer") as outer, profile("inner"):
        pass

    inner, outer_span = finished(scripted)
    assert inner.parent.span_id == outer.get_span_context().span_id
    assert [profile_of(inner) is None, profile_of(outer_span) is None] == [True, False]


def test_one_object_may_be_entered_again_inside_itself(scripted) -> None:
    block = profile("again")
    with block as first, block as second:
        assert first is not second

    assert len(finished(scripted)) == 2


def test_a_block_inside_a_consumers_span_has_its_own_profile(scripted, profile_of) -> None:
    # Given a task whose span another instrumentation made, which is no request
    with (
        scripted.tracer.start_as_current_span("process mail", kind=SpanKind.CONSUMER) as task,
        profile("send"),
    ):
        pass

    send, consumer = finished(scripted)
    assert send.parent.span_id == task.get_span_context().span_id
    assert [profile_of(send) is None, profile_of(consumer) is None] == [False, True]


def test_a_block_that_the_budget_refuses_is_a_span_alone(make_traced, monkeypatch, profile_of) -> None:
    # Given a script whose first block may cost more than all there is
    traced = make_traced(rate=0.0, cpu_budget=0.001)
    monkeypatch.setattr(installed, "provider", traced.provider)
    with profile("first"):
        pass
    traced.processor.gate.charge_encoding(1.0)
    hooks = []

    # When it goes on
    with profile("second"):
        hooks.append(sys.getprofile())

    # Then the budget wins: the next one has no profile, and pays for none
    assert {span.name: profile_of(span) is not None for span in finished(traced)} == {
        "first": True,
        "second": False,
    }
    assert hooks == [None]
    assert traced.processor.gate.decisions()["budget"] == 1


def test_threads_profile_the_same_function_at_once_within_the_limit(make_traced, monkeypatch, profile_of):
    # Given room for two
    traced = make_traced(rate=0.0, max_concurrent=2)
    monkeypatch.setattr(installed, "provider", traced.provider)
    barrier = threading.Barrier(4)

    @profile
    def work() -> None:
        barrier.wait(20)
        barrier.wait(20)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    # Then each call has a span, and two have a profile
    assert sorted(profile_of(span) is not None for span in finished(traced)) == [False, False, True, True]


# --- inside a request --------------------------------------------------------------------------------


def test_inside_a_profiled_request_there_is_one_profile(traced, monkeypatch, profile_of) -> None:
    monkeypatch.setattr(installed, "provider", traced.provider)

    def work() -> None:
        with profile("part", tags={"a": 1}) as span:
            assert request_of(span) is not None

    root = traced.request(work)

    part = finished(traced)[0]
    assert part.parent.span_id == root.context.span_id
    assert [profile_of(part) is None, profile_of(root) is None] == [True, False]


def test_a_request_that_was_not_chosen_pays_for_no_profile(scripted, profile_of) -> None:
    # Given a request that is not profiled, with a span of a library between it and the block
    hooks = []

    def work() -> None:
        with scripted.tracer.start_as_current_span("library"), profile("part"):
            hooks.append(sys.getprofile())

    scripted.request(work)

    # Then the block is a span and nothing more
    assert hooks == [None]
    assert [profile_of(span) for span in finished(scripted)] == [None, None, None]


# --- coroutines --------------------------------------------------------------------------------------


def test_a_block_in_one_of_two_requests_of_a_trace_pays_for_no_profile(
    make_traced, monkeypatch, profile_of
) -> None:
    # Given a caller elsewhere that asks twice at the same time, and a service that chooses neither
    traced = make_traced(rate=0.0)
    monkeypatch.setattr(installed, "provider", traced.provider)

    def request(caller_span_id: int):
        caller = NonRecordingSpan(SpanContext(7, caller_span_id, is_remote=True, trace_flags=TraceFlags(1)))
        around = trace.set_span_in_context(caller, Context())
        return traced.tracer.start_as_current_span("GET /", context=around, kind=SpanKind.SERVER)

    def other_request() -> None:
        with request(1):
            pass

    # When one ends before a block of the other begins
    with request(2):
        thread = threading.Thread(target=other_request)
        thread.start()
        thread.join()
        with profile("part"):
            pass

    # Then the block is a span of its request and nothing more
    assert [profile_of(span) for span in traced.exporter.get_finished_spans()] == [None] * 3
    assert traced.processor._traces == {}


def test_a_coroutine_is_one_span_from_its_first_step_to_its_result(scripted) -> None:
    @profile("fetch")
    async def fetch(n: int) -> int:
        await asyncio.sleep(0.01)
        async with profile("inner"):
            await asyncio.sleep(0)
        return n + 1

    async def both() -> list[int]:
        return list(await asyncio.gather(fetch(1), fetch(2)))

    assert asyncio.run(both()) == [2, 3]

    spans = finished(scripted)
    outer = [span for span in spans if span.name == "fetch"]
    inner = [span for span in spans if span.name == "inner"]
    assert len(outer) == len(inner) == 2
    assert {span.parent.span_id for span in inner} == {span.context.span_id for span in outer}
    assert all(span.end_time - span.start_time >= 10_000_000 for span in outer)
    assert sys.getprofile() is None


class AsyncJob:
    async def __call__(self) -> str:
        await asyncio.sleep(0.01)
        return "done"


async def job(result: str) -> str:
    await asyncio.sleep(0.01)
    return result


class Decorated:
    """What a decorator that is a class makes of `job`."""

    def __init__(self) -> None:
        update_wrapper(self, job)

    async def __call__(self) -> str:
        return await job("done")


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (Decorated(), "job"),
        (AsyncJob(), "AsyncJob.__call__"),
        (partial(AsyncJob()), "AsyncJob.__call__"),
        (partial(partial(job), "done"), "job"),
    ],
)
def test_what_calls_a_coroutine_function_is_profiled_as_one(
    function: Callable[[], Awaitable[str]], name: str, scripted
) -> None:
    decorated = profile(function)
    assert finished(scripted) == []

    async def main() -> str:
        return await decorated()

    assert asyncio.run(main()) == "done"

    (span,) = finished(scripted)
    assert (span.name, span.attributes["code.function.name"]) == (name, f"{__name__}.{name}")
    assert span.end_time - span.start_time >= 10_000_000


def test_what_a_function_returns_is_not_asked_for_its_class(scripted) -> None:
    # Given a function that returns an object which does its work when somebody looks at it
    class Lazy:
        @property
        def __class__(self) -> type:
            raise AssertionError("evaluated")

    lazy = Lazy()

    # Then the caller has it as it is
    assert profile(lambda: lazy)() is lazy
    assert len(finished(scripted)) == 1


def test_a_plain_function_that_returns_a_coroutine_says_once_that_it_is_not_covered(
    scripted, caplog: pytest.LogCaptureFixture
) -> None:
    # Given what only its call tells to be a coroutine
    @profile("wrapped")
    def wrapped() -> Awaitable[str]:
        return job("done")

    # When it is called and awaited
    async def main() -> str:
        await wrapped()
        return await wrapped()

    assert asyncio.run(main()) == "done"

    # Then each call has its span without the time of awaiting, and one line says what to do
    assert [span.name for span in finished(scripted)] == ["wrapped", "wrapped"]
    (record,) = caplog.records
    assert "wrapped returns a coroutine" in record.getMessage()
    assert "put @profile on the `async def`" in record.getMessage()


@pytest.mark.parametrize("way", ["decorated", "block"])
def test_coroutines_at_the_same_time_have_their_own_work_and_waits(
    way: str, scripted, tree_of, time_in, worked
) -> None:
    # Given two coroutines that take turns on a loop, and one that nobody profiles
    def work_of_a() -> None:
        worked("a", 0.02)

    def work_of_b() -> None:
        worked("b", 0.01)

    def work_of_nobody() -> None:
        worked("nobody", 0.01)

    async def turns(work: Callable[[], None]) -> None:
        for _ in range(4):
            work()
            await asyncio.sleep(0.005)

    async def profiled(name: str, work: Callable[[], None]) -> None:
        if way == "decorated":
            await profile(name)(turns)(work)
        else:
            async with profile(name):
                await turns(work)

    async def main() -> None:
        await asyncio.gather(profiled("a", work_of_a), profiled("b", work_of_b), turns(work_of_nobody))

    # When they run
    asyncio.run(main())

    # Then each has a profile of its own work, and the rest of it is waiting
    spans = {span.name: span for span in finished(scripted)}
    assert set(spans) == {"a", "b"}
    for name, span in spans.items():
        tree = tree_of(span)
        own_us, waited_us = time_in(tree, f"work_of_{name}"), time_in(tree, "[await]")
        others = {"work_of_a", "work_of_b", "work_of_nobody"} - {f"work_of_{name}"}
        assert not others & {frame.function for frame in tree.frames}
        assert own_us / 1e6 == pytest.approx(worked.seconds[name], rel=0.25)
        assert own_us + waited_us == pytest.approx((span.end_time - span.start_time) / 1000, rel=0.1)
        assert time_in(tree, "turns") == pytest.approx(own_us + waited_us, rel=0.1)
    assert sys.getprofile() is None


def test_coroutines_that_a_profiled_one_awaits_are_in_its_profile(
    scripted, tree_of, time_in, profile_of, worked
) -> None:
    # Given a block that awaits functions that are profiled too, in tasks of their own
    def own_work() -> None:
        worked("own", 0.03)

    def fetching() -> None:
        worked("fetching", 0.02)

    @profile("fetch")
    async def fetch() -> None:
        fetching()
        await asyncio.sleep(0.001)
        fetching()

    async def main() -> None:
        async with profile("all"):
            await asyncio.gather(fetch(), fetch())
            own_work()

    # When it runs
    asyncio.run(main())

    # Then there is one profile, and it has the share of each
    spans = finished(scripted)
    assert {(span.name, profile_of(span) is not None) for span in spans} == {("fetch", False), ("all", True)}
    (span,) = [span for span in spans if span.name == "all"]
    tree = tree_of(span)
    assert time_in(tree, "own_work") / 1e6 == pytest.approx(worked.seconds["own"], rel=0.25)
    assert time_in(tree, "fetching") / 1e6 == pytest.approx(worked.seconds["fetching"], rel=0.25)


def test_a_coroutine_that_fails_keeps_the_profile_of_what_it_did(scripted, tree_of, time_in, worked) -> None:
    def work() -> None:
        worked("it", 0.03)

    @profile("fails")
    async def fails() -> None:
        work()
        await asyncio.sleep(0.001)
        raise KeyError("missing")

    with pytest.raises(KeyError, match="missing"):
        asyncio.run(fails())

    (span,) = finished(scripted)
    assert span.status.status_code is StatusCode.ERROR
    assert time_in(tree_of(span), "work") / 1e6 == pytest.approx(worked.seconds["it"], rel=0.25)


def test_a_cancelled_coroutine_ends_its_span(scripted) -> None:
    @profile
    async def forever() -> None:
        await asyncio.Event().wait()

    async def run() -> None:
        task = asyncio.create_task(forever())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())

    assert len(finished(scripted)) == 1


# --- what cannot work --------------------------------------------------------------------------------


def a_generator():
    yield 1


async def an_asynchronous_generator():
    yield 1


class GeneratingJob:
    def __call__(self):
        yield 1


@pytest.mark.parametrize(
    "wrong",
    [
        *(a_generator, an_asynchronous_generator, partial(a_generator), GeneratingJob()),
        *(int, classmethod(len), staticmethod(len), 5),
    ],
)
def test_what_has_no_single_run_is_refused_where_it_is_defined(wrong) -> None:
    with pytest.raises(TypeError, match="profile: "):
        profile("name")(wrong)


def test_without_tracing_the_function_just_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    from opentelemetry.trace import NoOpTracerProvider

    monkeypatch.setattr(installed, "provider", NoOpTracerProvider())

    @profile
    def work() -> int:
        return 5

    with profile("block", memory=True) as span:
        assert not span.is_recording()
    assert work() == 5


def test_a_failure_of_the_tracer_costs_the_span_and_nothing_else(monkeypatch, caplog) -> None:
    class Broken(TracerProvider):
        def get_tracer(self, *_: object, **__: object):
            raise RuntimeError("broken")

    broken = Broken(shutdown_on_exit=False)
    monkeypatch.setattr(installed, "provider", broken)

    with caplog.at_level(logging.WARNING), profile("block") as span:
        assert span is INVALID_SPAN

    assert "block is not profiled" in caplog.text


def test_a_failure_at_the_end_keeps_the_result_and_the_exception(scripted, monkeypatch, caplog) -> None:
    with profile("block") as span:
        monkeypatch.setattr(span, "end", lambda *_: 1 / 0)
    assert "could not be ended" in caplog.text

    def fail() -> None:
        with profile("block") as span:
            monkeypatch.setattr(span, "end", lambda *_: 1 / 0)
            raise KeyError

    with pytest.raises(KeyError):
        fail()


# --- a real script -----------------------------------------------------------------------------------

SCRIPT = """
from otel_pyinstrument import profile

@profile("nightly")
def work():
    return sum(sum(range(100)) for _ in range(3_000))

work()
"""


def test_a_script_sends_its_profile_before_it_exits(http_sink, tmp_path) -> None:
    # Given a plain script, nothing prepared in it
    (tmp_path / "job.py").write_text(SCRIPT)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")} | {
        "OTEL_TRACES_EXPORTER": "otlp_proto_http",
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": http_sink.endpoint,
    }
    command = os.path.join(os.path.dirname(sys.executable), "opentelemetry-instrument")

    # When it runs under the command, at the default rate, and ends at once
    subprocess.run(
        [command, sys.executable, "job.py"], cwd=tmp_path, env=environ, check=True, capture_output=True
    )

    # Then its profile has arrived
    (span,) = http_sink.spans()
    assert span.name == "nightly"
    assert [event.name for event in span.events] == ["pyinstrument.profile"]
