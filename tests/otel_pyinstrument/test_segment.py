"""Sampling of one thread: exact shares, limits, stops from elsewhere, and life beside other profilers."""

from __future__ import annotations

import asyncio
import cProfile
import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyinstrument
import pytest
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Span, SpanKind
from pyinstrument import stack_sampler

from otel_pyinstrument import private_names
from otel_pyinstrument import segment as segment_module
from otel_pyinstrument.call_tree import CallTreeBuilder
from otel_pyinstrument.frames import current_describer
from otel_pyinstrument.segment import Segment
from otel_pyinstrument.settings import Settings
from otel_pyinstrument.span_processor import ProfilingSpanProcessor


@pytest.fixture
def opened() -> Iterator[Callable[..., Segment]]:
    segments: list[Segment] = []

    def open_segment(
        interval_seconds: float = 0.002, max_duration_seconds: float = 30, **options: Callable[[], bool]
    ) -> Segment:
        segment = Segment(
            interval_seconds=interval_seconds, max_duration_seconds=max_duration_seconds, **options
        )
        segments.append(segment)
        segment.open()
        return segment

    yield open_segment
    for segment in segments:
        segment.stop()


def subscribers() -> list[object]:
    return stack_sampler.get_stack_sampler().subscribers


# --- exactness ---------------------------------------------------------------------------------------


def test_functions_carry_their_true_share_of_cpu_and_waiting_time(traced, tree_of, time_in, burn) -> None:
    # Given functions that measure themselves, one of which waits
    spent: dict[str, float] = {}

    def measured(name: str, work: Callable[[], object]) -> None:
        start = time.perf_counter()
        work()
        spent[name] = spent.get(name, 0) + time.perf_counter() - start

    def heavy() -> None:
        measured("heavy", lambda: burn(0.05))

    def light() -> None:
        measured("light", lambda: burn(0.02))

    def waits() -> None:
        measured("waits", lambda: time.sleep(0.04))

    # When a request calls them in turns
    def work() -> None:
        for _ in range(3):
            heavy()
            waits()
            light()

    tree = tree_of(traced.request(work))

    # Then each has the share it took in this very run, within 10 points
    total = sum(spent.values())
    for name, seconds in spent.items():
        assert time_in(tree, name) / tree.duration_us == pytest.approx(seconds / total, abs=0.10), name


def test_the_tree_sums_to_the_wall_time_of_the_request(traced, tree_of, burn) -> None:
    times: list[float] = []

    def work() -> None:
        times.append(time.perf_counter())
        burn(0.02)
        time.sleep(0.05)
        times.append(time.perf_counter())

    for _ in range(5):
        times[:] = [time.perf_counter()]
        span = traced.request(work)
        times.append(time.perf_counter())

        # Then what is missing is what starting and ending the profile take, and it ends with its span
        outer, inner, inner_end, outer_end = times
        duration_us = tree_of(span).duration_us
        assert (inner_end - inner) * 1e6 - 1 <= duration_us <= (outer_end - outer) * 1e6 + 1
        assert duration_us <= (span.end_time - span.start_time) / 1000 + 1_000


@pytest.mark.parametrize("interval", [5.0, 50.0, 500.0])
@pytest.mark.parametrize("afterwards", ["it computes", "it waits"])
def test_what_happens_between_the_end_of_the_span_and_that_of_sampling_is_left_out(
    afterwards: str, interval: float, tree_of, time_in, burn
) -> None:
    # Given something that takes time when a span has ended, before we see it: another processor, or threads
    # that take the turn away
    class Slow(SpanProcessor):
        def _on_ending(self, span: object) -> None:
            late(0.1)

    late = {"it computes": burn, "it waits": time.sleep}[afterwards]
    provider, exporter = TracerProvider(shutdown_on_exit=False), InMemorySpanExporter()
    provider.add_span_processor(Slow())
    provider.add_span_processor(
        ProfilingSpanProcessor(
            Settings(rate=1.0, cpu_budget=1.0, interval=interval),
            payload_as_bytes=lambda: False,
            reraise=True,
        )
    )
    provider.add_span_processor(SimpleSpanProcessor(exporter))

    # When a request is served
    with provider.get_tracer("test").start_as_current_span("GET /", kind=SpanKind.SERVER):
        burn(0.06)

    # Then its tree is no longer than its span, and shows nothing of that
    (span,) = exporter.get_finished_spans()
    tree = tree_of(span)
    assert 60_000 <= tree.duration_us <= (span.end_time - span.start_time) / 1000 + 1_000
    assert time_in(tree, "Slow._on_ending") == time_in(tree, "_on_ending") == 0


def test_a_hook_whose_span_has_ended_goes_after_the_maximum_duration(opened, burn) -> None:
    # Given a span whose end nobody tells of, as where another processor failed before us
    ended: list[bool] = []
    opened(max_duration_seconds=0.05, span_ended=lambda: bool(ended))
    ended.append(True)

    # When its thread works on
    burn(0.2)

    assert sys.getprofile() is None


@pytest.mark.parametrize("at", ["hook_is_ours_to_share", "subscribe"])
def test_a_segment_that_is_closed_in_the_middle_of_resuming_counts_no_time_twice(
    at: str, make_traced, tree_of, profile_of, monkeypatch
) -> None:
    # Given a finalizer or a signal handler that ends the span while its next step is about to begin
    traced = make_traced()
    original = getattr(private_names, at)
    spans: list[Span] = []

    def end_meanwhile(*arguments: object, **options: object) -> object:
        frame = sys._getframe(1)
        while frame is not None and frame.f_code is not Segment.resume.__code__:
            frame = frame.f_back
        if frame is not None and spans:
            spans.pop().end()
        return original(*arguments, **options)

    monkeypatch.setattr(private_names, at, end_meanwhile)

    async def serve() -> None:
        spans.append(traced.tracer.start_span("GET /", kind=SpanKind.SERVER))
        await asyncio.sleep(0.02)

    # When that happens
    asyncio.run(serve())

    # Then the tree has the time of the span, once
    (span,) = traced.exporter.get_finished_spans()
    duration_us = profile_of(span).attributes["pyinstrument.duration"] * 1e6
    assert tree_of(span).duration_us == pytest.approx(duration_us, abs=1)
    assert duration_us <= (span.end_time - span.start_time) / 1000 + 1_000


def test_a_segment_that_ended_early_while_it_waits_elsewhere_counts_no_time_twice(opened, burn) -> None:
    # Given a segment whose maximum duration is over while it waits for work in another thread
    segment = opened(max_duration_seconds=0.03)
    burn(0.02)
    segment.begin_waiting(["waits\0file\x001"])
    burn(0.03)
    assert sys.getprofile() is None

    # When its request ends before that work
    recording = segment.close()

    # Then its tree and its duration agree
    tree = recording.build(current_describer())
    assert tree.duration_us == pytest.approx(recording.facts.duration_seconds * 1e6, abs=1)


@pytest.mark.parametrize("ended", ["before it began", "long ago", "in the future"])
def test_a_span_that_says_it_ended_at_another_time_has_what_was_sampled(
    ended: str, traced, tree_of, burn
) -> None:
    # When a request is ended with a time of its own
    start = time.perf_counter()
    span = traced.tracer.start_span("GET /", kind=SpanKind.SERVER)
    burn(0.05)
    span.end(
        {
            "before it began": span.start_time - 1,
            "long ago": span.start_time + 1_000_000,
            "in the future": time.time_ns() + 10**10,
        }[ended]
    )
    lasted_us = (time.perf_counter() - start) * 1e6

    # Then its tree has the time of its samples, and no more than there was
    tree = tree_of(traced.exporter.get_finished_spans()[-1])
    assert (25_000 if ended == "long ago" else 50_000) <= tree.duration_us <= lasted_us + 1


def test_what_is_left_after_the_last_sample_belongs_to_its_stack(opened) -> None:
    # Given a sample, and then some time without another
    segment = opened(interval_seconds=0.05)
    time.sleep(0.06)
    end = time.monotonic() + 0.03
    while time.monotonic() < end:
        pass

    # Then the tree holds all the time, and counts no sample that was not taken
    recording = segment.close()
    tree = recording.build(current_describer())
    tree.self_check()
    assert recording.facts.sample_count == tree.sample_count >= 1
    assert tree.duration_us == round(recording.facts.duration_seconds * 1e6) >= 90_000


def test_one_long_call_into_c_is_attributed_to_it(traced, tree_of) -> None:
    tree = tree_of(traced.request(lambda: time.sleep(0.1)))

    (sleep,) = [node for node in range(tree.node_count) if tree.frames[tree.frame[node]].function == "sleep"]
    assert tree.self_us[sleep] > 0.9 * tree.duration_us
    assert tree.frames[tree.frame[sleep]].file == ""


def test_a_request_shorter_than_the_interval_has_a_root_with_its_duration(
    make_traced, tree_of, profile_of
) -> None:
    span = make_traced(interval=1000.0).request(lambda: None)

    tree = tree_of(span)
    assert (tree.node_count, tree.sample_count) == (1, 0)
    assert tree.duration_us == pytest.approx(
        profile_of(span).attributes["pyinstrument.duration"] * 1e6, abs=1
    )
    assert profile_of(span).attributes["pyinstrument.sample_count"] == 0
    assert profile_of(span).attributes["pyinstrument.summary"] == []


def test_the_tree_begins_at_the_call_that_the_span_lives_in(traced, tree_of, burn) -> None:
    # Given two requests that are sampled in different places
    def handler(work: Callable[[], object]) -> object:
        return traced.request(work)

    def some_view() -> None:
        burn(0.03)

    spans = [handler(some_view), handler(lambda: time.sleep(0.03))]

    # Then both trees start with the same function, and nothing of the test runner is in them
    for span in spans:
        tree = tree_of(span)
        assert [tree.frames[tree.frame[child]].function for child in tree.children(0)] == ["Traced.request"]


def test_methods_carry_the_name_of_their_class(traced, tree_of, burn) -> None:
    class Order:
        def save(self) -> None:
            burn(0.03)

        @classmethod
        def load(cls) -> None:
            burn(0.03)

    def work() -> None:
        Order().save()
        Order.load()

    functions = {frame.function for frame in tree_of(traced.request(work)).frames}

    assert {"Order.save", "Order.load"} <= functions


def test_the_line_a_function_is_at_does_not_split_it(traced, tree_of, burn) -> None:
    def long_function() -> None:
        burn(0.01)
        burn(0.01)
        burn(0.01)
        burn(0.01)

    tree = tree_of(traced.request(long_function))

    assert [tree.frames[index].function for index in tree.frame].count("long_function") == 1


# --- limits ------------------------------------------------------------------------------------------


def test_sampling_ends_at_the_maximum_duration(make_traced, profile_of, tree_of, burn) -> None:
    # When a request runs longer than allowed
    hooks = []

    def work() -> None:
        burn(0.3)
        hooks.append(sys.getprofile())
        time.sleep(0.1)

    span = make_traced(max_duration=0.1).request(work)

    # Then the hook is gone during the request, and the profile ends there
    assert hooks == [None]
    attributes = profile_of(span).attributes
    assert attributes["pyinstrument.truncated"] is True
    assert 0.1 <= attributes["pyinstrument.duration"] < (span.end_time - span.start_time) / 1e9 - 0.1
    assert tree_of(span).duration_us == pytest.approx(attributes["pyinstrument.duration"] * 1e6, abs=1)


def test_sampling_ends_at_the_maximum_number_of_nodes(
    opened, monkeypatch: pytest.MonkeyPatch, burn: Callable[[float], None]
) -> None:
    monkeypatch.setattr(segment_module, "MAX_NODES", 3)

    segment = opened()
    burn(0.05)

    assert sys.getprofile() is None
    recording = segment.close()
    assert recording.facts.truncated
    assert recording.node_count <= 3


def test_deep_recursion_is_cut_and_marked(opened, monkeypatch: pytest.MonkeyPatch, burn) -> None:
    # Given recursion deeper than what is kept
    monkeypatch.setattr(segment_module, "MAX_DEPTH", 100)

    def recurse(depth: int) -> None:
        if depth:
            recurse(depth - 1)
        else:
            burn(0.05)

    segment = opened()
    recurse(600)

    # Then the tree is cut, its time is not, and sampling went on
    assert sys.getprofile() is not None
    recording = segment.close()
    tree = recording.build(current_describer())
    assert recording.facts.truncated
    assert max(tree.depth()) <= 100
    assert tree.duration_us >= 50_000


# --- stopping ----------------------------------------------------------------------------------------


def test_a_stop_from_another_thread_leaves_no_hook(opened, wait_until) -> None:
    # Given a segment on a thread that idles in C for a while and then works again
    hooks: list[object] = []
    segments: list[Segment] = []
    started, go_on = threading.Event(), threading.Event()

    def owner() -> None:
        segments.append(opened())
        started.set()
        go_on.wait(20)
        end = time.monotonic() + 20
        while sys.getprofile() is not None and time.monotonic() < end:
            sum(range(100))
        hooks.append(sys.getprofile())
        hooks.extend(subscribers())

    thread = threading.Thread(target=owner)
    thread.start()
    assert started.wait(20)

    # When it is closed from here
    first, second = segments[0].close(), segments[0].close()
    go_on.set()
    thread.join()

    # Then there is one recording, and the owner removed the hook by itself
    assert first is not None
    assert second is None
    assert hooks == [None]


def test_the_idle_thread_can_be_profiled_again_before_its_old_hook_is_gone(traced, tree_of, burn) -> None:
    # Given a request that is ended by another thread while its own thread does nothing
    spans: list[object] = []
    started, ended = threading.Event(), threading.Event()

    def owner() -> None:
        spans.append(traced.tracer.start_span("first", kind=SpanKind.SERVER))
        started.set()
        ended.wait(20)
        traced.request(lambda: burn(0.05), "second")
        spans.extend(subscribers())
        spans.append(sys.getprofile())

    thread = threading.Thread(target=owner)
    thread.start()
    assert started.wait(20)
    spans[0].end()
    ended.set()
    thread.join()

    # Then the next request of that thread has a full profile, and nothing is left on the thread
    first, second = traced.exporter.get_finished_spans()
    assert tree_of(first) is not None
    assert tree_of(second).duration_us >= 50_000
    assert spans[1:] == [None]


def test_a_sample_at_any_point_of_opening_and_closing_is_no_problem(opened) -> None:
    # Given samples at every single call, so also inside our own calls
    for _ in range(300):
        segment = opened(interval_seconds=1e-7)
        sum(range(3))

        # When the segment is closed, then the hook is gone and nothing looks like a disturbance
        facts = segment.close().facts
        assert (facts.interrupted, facts.truncated, facts.failure) == (False, False, None)
        assert sys.getprofile() is None
        assert subscribers() == []


def test_a_late_stop_does_not_disturb_who_starts_or_stops_a_profiler(opened) -> None:
    # Given a thread with samples at every call, whose segments are closed by this one
    waiting: list[Segment] = []
    outcomes: list[object] = []

    def owner() -> None:
        try:
            for _ in range(300):
                segment = opened(interval_seconds=1e-7)
                waiting.append(segment)
                while not segment._closed:
                    pass
                # When the user's profiler and the next segment start and stop in just that moment
                theirs = pyinstrument.Profiler(interval=1e-7, async_mode="disabled")
                theirs.start()
                theirs.stop()
                opened(interval_seconds=1e-7).close()
            sum(range(3))
        except Exception as error:
            outcomes.append(error)
        outcomes.extend([sys.getprofile(), *subscribers()])

    thread = threading.Thread(target=owner)
    thread.start()
    while thread.is_alive():
        if waiting:
            waiting.pop().close()
        time.sleep(0)
    thread.join()

    # Then neither failed, and no hook is left
    assert outcomes == [None]


def test_a_late_stop_inside_the_start_of_the_users_profiler_waits(
    opened, wait_until, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a segment that is closed while the sampler takes in the user's profiler
    segment = opened(interval_seconds=1e-7)

    class Closing(stack_sampler.StackSamplerSubscriber):
        def __init__(self, **options: object) -> None:
            segment._open, segment._closed = False, True  # as another thread would
            super().__init__(**options)

    monkeypatch.setattr(stack_sampler, "StackSamplerSubscriber", Closing)
    theirs = pyinstrument.Profiler(interval=1e-7, async_mode="disabled")
    theirs.start()
    try:
        # Then the profiler is in, and the segment leaves later: a sample that was slow delays the next
        wait_until(lambda: [each.target for each in subscribers()] == [theirs._sampler_saw_call_stack])
    finally:
        theirs.stop()


def test_many_stops_from_other_threads_end_cleanly(traced, burn, wait_until) -> None:
    # Given a thread that serves requests which others end
    waiting: list[object] = []
    done = threading.Event()
    left: list[object] = []

    def owner() -> None:
        for _ in range(200):
            waiting.append(traced.tracer.start_span("GET /", kind=SpanKind.SERVER))
            sum(range(1000))
        done.wait(20)
        end = time.monotonic() + 20
        while sys.getprofile() is not None and time.monotonic() < end:
            sum(range(100))
        left.extend([sys.getprofile(), len(subscribers())])

    thread = threading.Thread(target=owner)
    thread.start()
    ended = 0
    while thread.is_alive() and ended < 200:
        if waiting:
            waiting.pop(0).end()
            ended += 1
    done.set()
    thread.join()

    assert left == [None, 0]


def test_what_the_callback_raises_never_reaches_the_user(
    opened, monkeypatch: pytest.MonkeyPatch, burn
) -> None:
    def fail(*_arguments: object) -> None:
        raise RuntimeError("on purpose")

    monkeypatch.setattr(CallTreeBuilder, "add", fail)

    segment = opened()
    burn(0.05)

    assert sys.getprofile() is None
    facts = segment.close().facts
    assert str(facts.failure) == "on purpose"
    assert facts.truncated


def test_an_end_that_is_broken_off_and_done_again_counts_the_time_under_the_hook_once(
    opened, burn, monkeypatch
) -> None:
    # Given a segment whose hook an exception keeps from being taken away, once
    unsubscribe = private_names.unsubscribe

    def breaks_off(*arguments) -> bool:
        monkeypatch.setattr(private_names, "unsubscribe", unsubscribe)
        raise KeyboardInterrupt

    begun = time.thread_time()
    segment = opened(interval_seconds=10)
    burn(0.02)
    monkeypatch.setattr(private_names, "unsubscribe", breaks_off)
    with pytest.raises(KeyboardInterrupt):
        segment._unhook()

    # When it ends
    recording = segment.close()

    # Then its time under the hook is no more than there was
    assert 0.02 <= recording.facts.hooked_cpu_seconds <= time.thread_time() - begun


@pytest.mark.parametrize("kind", [BaseException, Exception])
def test_an_exception_of_a_signal_handler_passes_through_the_callback(make_traced, kind) -> None:
    # Given a signal handler that raises, as a worker's timeout does, in the middle of samples
    class Timeout(kind):
        pass

    def handler(*_arguments: object) -> None:
        raise Timeout

    traced = make_traced(interval=1.0)
    before = signal.signal(signal.SIGALRM, handler)

    def work(seconds: float) -> None:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        end = time.monotonic() + 10
        while time.monotonic() < end:
            sum(range(50))

    # When it interrupts many requests; a callback of the collector (hypothesis has one) would swallow it
    gc.collect()
    gc.disable()
    try:
        for number in range(60):
            with pytest.raises(Timeout):
                traced.request(partial(work, 0.001 + 0.00005 * number))
            # Then each time the application gets its exception, and no hook stays
            assert sys.getprofile() is None
            assert subscribers() == []
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        gc.enable()


@pytest.mark.parametrize("left", [0, 1, 2, 3, 5, 8, 12, 20])
def test_work_that_leaves_few_calls_to_the_recursion_limit_has_them_all(traced, left) -> None:
    def work(calls: int) -> bool:
        if calls:
            return work(calls - 1)
        end = time.perf_counter() + 0.015
        while time.perf_counter() < end:
            abs(1)
        return True

    def works(calls: int, kind: SpanKind) -> bool:
        with traced.tracer.start_as_current_span("GET /", kind=kind):
            try:
                return work(calls)
            except RecursionError:
                return False

    # Given the most calls that are possible here without a profile
    possible = next(
        calls for calls in range(sys.getrecursionlimit(), 0, -1) if works(calls, SpanKind.INTERNAL)
    )
    # When a request makes nearly as many
    traced.exporter.clear()
    # Then nothing is raised into it, and its profile is whole
    assert works(possible - left, SpanKind.SERVER)
    (span,) = traced.exporter.get_finished_spans()
    assert span.events[0].attributes["pyinstrument.interrupted"] is False


class NameRaises(type):
    def __getattribute__(cls, name: str) -> Any:
        if name == "__qualname__":
            raise ValueError("no name")
        return super().__getattribute__(name)


class Nameless(dict[str, int], metaclass=NameRaises):
    """Its methods have no name that could be asked for, which is asked for where a sample falls on them."""


def test_what_raises_when_a_function_is_named_does_not_raise_into_the_request(traced) -> None:
    # Given work of which some samples fall on methods without a name
    found = Nameless(a=1)

    def work() -> int:
        end = time.perf_counter() + 0.05
        count = 0
        while time.perf_counter() < end:
            for _ in range(100):
                count += found.get("a", 0)
        return count

    # When it is profiled
    counts: list[int] = []
    span = traced.request(lambda: counts.append(work()))
    # Then it works, and the profile has its time
    assert counts[0] > 0
    assert span.events[0].attributes["pyinstrument.duration"] >= 0.045


def test_a_thread_whose_name_cannot_be_asked_for_is_profiled_without_it(traced, burn) -> None:
    # Given a thread with its own idea of a name
    class Worker(threading.Thread):
        @property
        def name(self) -> str:  # type: ignore[override]
            raise RuntimeError("no name")

        @name.setter
        def name(self, value: str) -> None:
            pass

    problems: list[object] = []

    def run() -> None:
        try:
            traced.request(lambda: burn(0.03))
        except Exception as error:
            problems.append(error)

    # When it serves a request
    worker = Worker(target=run)
    worker.start()
    worker.join()
    # Then nothing is raised into it, and there is a profile
    (span,) = traced.exporter.get_finished_spans()
    assert problems == []
    assert len(span.events) == 1


def test_the_hook_of_a_span_that_was_dropped_ends_with_the_next_sample(traced, burn) -> None:
    # Given a request whose span nobody holds any more, and that never ended
    span = traced.tracer.start_span("GET /", kind=SpanKind.SERVER)
    burn(0.01)
    assert sys.getprofile() is not None
    del span
    gc.collect()
    # When its thread goes on to work
    burn(0.02)
    # Then it does so without the hook
    assert sys.getprofile() is None


FORK = """
import os, sys, threading, time
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind
from otel_pyinstrument import PyinstrumentInstrumentor

provider, exporter = TracerProvider(), InMemorySpanExporter()
provider.add_span_processor(SimpleSpanProcessor(exporter))
PyinstrumentInstrumentor().instrument(tracer_provider=provider, rate=1, max_concurrent=1, interval=1)
tracer = provider.get_tracer("test")

def profiles():
    return [len(span.events) for span in exporter.get_finished_spans()]

span = tracer.start_span("parent", kind=SpanKind.SERVER)
pid = os.fork()
if not pid:
    in_child = sys.getprofile()
    tracer.start_span("child", kind=SpanKind.SERVER).end()
    span.end()
    print(in_child, sys.getprofile(), profiles(), flush=True)
    os._exit(0)
os.waitpid(pid, 0)
print(sys.getprofile() is not None)
span.end()
print(sys.getprofile(), profiles())
"""


def test_a_fork_inside_a_request_leaves_no_hook_in_the_child() -> None:
    # When a profiled request forks
    run = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, timeout=60)

    # Then the child has no hook, no profile of the parent's request, and a free place for its own;
    # the parent goes on
    assert (run.stdout.splitlines(), run.stderr) == (["None None [1, 0]", "True", "None [1]"], "")


FORK_IN_C = """
import ctypes, os, sys
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind
from otel_pyinstrument import PyinstrumentInstrumentor

provider, exporter = TracerProvider(), InMemorySpanExporter()
provider.add_span_processor(SimpleSpanProcessor(exporter))
PyinstrumentInstrumentor().instrument(
    tracer_provider=provider, rate=0.5, cpu_budget=1, max_concurrent=1, interval=1
)
tracer = provider.get_tracer("test")
while True:
    running = tracer.start_span("parent", kind=SpanKind.SERVER)
    if sys.getprofile() is not None:
        break
    running.end()
for _ in range(2):
    pid = ctypes.PyDLL(None).fork()
    if not pid:
        exporter.clear()
        for _ in range(40):
            tracer.start_span("child", kind=SpanKind.SERVER).end()
        chosen = "".join(str(len(span.events)) for span in exporter.get_finished_spans())
        print(sys.getprofile() is None, chosen, flush=True)
        os._exit(0)
    os.waitpid(pid, 0)
"""


def test_workers_that_were_forked_in_c_choose_for_themselves() -> None:
    # When a process forks in the middle of a profiled request, without running Python's hooks for it
    run = subprocess.run([sys.executable, "-c", FORK_IN_C], capture_output=True, text=True, timeout=60)

    # Then no child keeps the hook or the place of that request
    (no_hook_in_one, one), (no_hook_in_other, other) = map(str.split, run.stdout.splitlines())
    assert (no_hook_in_one, no_hook_in_other) == ("True", "True")

    # And each draws its own numbers; where a hook would look for the parent's threads, each stays without one
    if sys.version_info >= (3, 12):
        assert run.stderr.count("Profiling is off in this process: it was forked") == 2
        assert {*one, *other} == {"0"}
        return
    assert run.stderr == ""
    assert "1" in one
    assert "1" in other
    assert one != other


# --- other profilers ---------------------------------------------------------------------------------


def test_a_foreign_profile_function_is_not_replaced(traced, profile_of) -> None:
    # Given an application that is profiled by something else
    events: list[str] = []

    def theirs(_frame: object, event: str, _argument: object) -> None:
        events.append(event)

    # When a request is served
    sys.setprofile(theirs)
    try:
        span = traced.request(lambda: len(events))
        still = sys.getprofile()
    finally:
        sys.setprofile(None)

    # Then theirs worked all the time, and we kept out
    assert still is theirs
    assert events
    assert profile_of(span) is None


def test_a_foreign_profile_function_that_appears_in_the_request_stays(
    traced, profile_of, tree_of, burn
) -> None:
    def theirs(*_arguments: object) -> None:
        pass

    def work() -> None:
        burn(0.03)
        sys.setprofile(theirs)
        times.append(time.perf_counter())
        time.sleep(0.1)

    # When the request itself installs a profile function
    times = [time.perf_counter()]
    span = traced.request(work)
    still = sys.getprofile()
    sys.setprofile(None)

    # Then it is still there, our profile is marked and does not claim time it has not seen
    assert still is theirs
    assert profile_of(span).attributes["pyinstrument.interrupted"] is True
    start, replaced = times
    assert tree_of(span).duration_us <= (replaced - start) * 1e6 + 1

    # And the next request is profiled again, to its end
    after = traced.request(lambda: burn(0.03))
    assert profile_of(after).attributes["pyinstrument.interrupted"] is False
    assert tree_of(after).duration_us >= 30_000


@pytest.fixture
def burn_long(burn) -> Callable[[], None]:
    """Work for 100 ms of CPU time: ten times as long as is needed for a sample where clocks are coarse.

    In parts: where a machine stops for a while, that may count as CPU time of one of them.
    """

    def run() -> None:
        for _ in range(10):
            burn(0.01)

    return run


def test_a_hook_that_was_wiped_is_installed_again_for_the_next_request(
    traced, profile_of, tree_of, burn, burn_long
) -> None:
    def work() -> None:
        burn(0.02)
        sys.setprofile(None)
        burn(0.02)

    wiped = traced.request(work)
    after = traced.request(burn_long)

    assert profile_of(wiped).attributes["pyinstrument.interrupted"] is True
    assert profile_of(after).attributes["pyinstrument.interrupted"] is False
    assert profile_of(after).attributes["pyinstrument.sample_count"] > 2
    assert tree_of(after).duration_us >= 100_000


def test_a_hook_that_was_wiped_from_under_the_user_too_is_installed_again(
    traced, profile_of, tree_of, burn_long
) -> None:
    # Given the user's profiler, whose hook somebody removed
    theirs = pyinstrument.Profiler(interval=0.005)
    theirs.start()
    sys.setprofile(None)

    # When a request is served
    span = traced.request(burn_long)
    theirs.stop()

    assert profile_of(span).attributes["pyinstrument.sample_count"] > 2
    assert tree_of(span).duration_us >= 100_000


@pytest.mark.parametrize("async_mode", ["enabled", "disabled"])
def test_the_user_can_profile_after_our_hook_was_replaced(async_mode: str, traced, burn_long) -> None:
    # Given a request that ended under a foreign profile function, which is gone by now
    had: list[float] = []

    def work() -> None:
        had.append(stack_sampler.get_stack_sampler().current_sampling_interval)
        sys.setprofile(lambda *_arguments: None)

    traced.request(work)
    sys.setprofile(None)

    # When the user's profiler starts at the interval that we had
    with pyinstrument.Profiler(interval=had[0], async_mode=async_mode) as theirs:
        burn_long()

    assert theirs.last_session.sample_count > 3


def test_cprofile_inside_a_request_works(traced, profile_of, burn) -> None:
    theirs = cProfile.Profile()

    def work() -> None:
        burn(0.02)
        with theirs:
            burn(0.02)

    span = traced.request(work)

    theirs.create_stats()
    assert any(function == "run" for _, _, function in theirs.stats)
    # Until Python 3.11 the interpreter has one hook for both, and theirs wins
    interrupted = profile_of(span).attributes["pyinstrument.interrupted"]
    assert interrupted is (sys.version_info < (3, 12))


def test_the_users_own_pyinstrument_works_inside_ours(traced, profile_of, tree_of, burn, burn_long) -> None:
    # When a request starts the user's profiler with its default options
    theirs = pyinstrument.Profiler()

    def work() -> None:
        with theirs:
            burn_long()
        burn(0.02)

    span = traced.request(work)

    # Then both have their samples
    assert theirs.last_session.sample_count >= 20
    assert tree_of(span).duration_us >= 120_000
    assert profile_of(span).attributes["pyinstrument.interrupted"] is False


def test_the_users_own_pyinstrument_goes_on_around_ours(traced, profile_of, burn_long) -> None:
    # Given the user's profiler around two requests, one of which outlives it
    theirs = pyinstrument.Profiler()
    theirs.start()
    burn_long()
    inside = traced.request(burn_long)
    during = stack_sampler.get_stack_sampler().subscribers

    def work() -> None:
        burn_long()
        theirs.stop()
        burn_long()

    outliving = traced.request(work)

    # Then all are whole
    assert len(during) == 1
    assert theirs.last_session.sample_count >= 30
    assert profile_of(inside).attributes["pyinstrument.sample_count"] > 1
    assert profile_of(outliving).attributes["pyinstrument.cpu_time"] >= 0.2
    assert profile_of(outliving).attributes["pyinstrument.sample_count"] > 3


MIDDLEWARE = """
import sys, time
import django
from django.conf import settings
from django.http import HttpResponse
from django.urls import path

def burn(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        sum(range(200))

def view(request):
    burn(0.05)
    return HttpResponse("plain")

urlpatterns = [path("", view)]
settings.configure(
    ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, SECRET_KEY="for the test",
    MIDDLEWARE=["pyinstrument.middleware.ProfilerMiddleware"],
)
from opentelemetry.instrumentation.django import DjangoInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from otel_pyinstrument import PyinstrumentInstrumentor

provider, exporter = TracerProvider(), InMemorySpanExporter()
provider.add_span_processor(SimpleSpanProcessor(exporter))
DjangoInstrumentor().instrument(tracer_provider=provider)
PyinstrumentInstrumentor().instrument(tracer_provider=provider, rate=1, cpu_budget=1)
django.setup()
from django.test import Client
pages = [Client().get(address).content.decode() for address in ("/?profile", "/", "/?profile")]
print(["pyinstrument" in page and "burn" in page for page in pages])
events = [event for span in exporter.get_finished_spans() for event in span.events]
print([event.attributes["pyinstrument.interrupted"] for event in events])
print(sys.getprofile())
"""


def test_the_users_profiler_middleware_works_inside_our_requests() -> None:
    # Given pyinstrument's own middleware in an application whose requests we profile
    run = subprocess.run([sys.executable, "-c", MIDDLEWARE], capture_output=True, text=True, timeout=60)

    # Then it shows its page when it is asked to, and each request has a whole profile of ours
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == ["[True, False, True]", "[False, False, False]", "None"]


COVERED = """
import sys, time
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind
from otel_pyinstrument import PyinstrumentInstrumentor

provider, exporter = TracerProvider(), InMemorySpanExporter()
provider.add_span_processor(SimpleSpanProcessor(exporter))
PyinstrumentInstrumentor().instrument(tracer_provider=provider, rate=1, cpu_budget=1, interval=5)

def work():
    for _ in range(30):
        end = time.thread_time() + 0.01
        while time.thread_time() < end:
            sum(range(200))
    return "covered"

with provider.get_tracer("test").start_as_current_span("GET /", kind=SpanKind.SERVER):
    work()
(event,) = exporter.get_finished_spans()[0].events
print(event.attributes["pyinstrument.sample_count"] >= 10, event.attributes["pyinstrument.interrupted"])
"""


@pytest.mark.parametrize("core", ["ctrace", "pytrace", *(["sysmon"] if sys.version_info >= (3, 12) else [])])
def test_coverage_sees_every_line_of_a_profiled_request(core: str, tmp_path: Path) -> None:
    # Given a program whose request is profiled while its coverage is measured
    program = tmp_path / "program.py"
    program.write_text(COVERED)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    environ |= {"COVERAGE_CORE": core, "COVERAGE_FILE": str(tmp_path / "data")}

    def coverage(*arguments: str) -> str:
        command = [sys.executable, "-m", "coverage", *arguments, "--rcfile", os.devnull]
        run = subprocess.run(
            command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60, check=True
        )
        assert run.stderr == ""
        return run.stdout

    # Then both see all of it
    assert coverage("run", str(program)) == "True False\n"
    report = json.loads(coverage("json", "-o", "-"))
    assert report["files"]["program.py"]["missing_lines"] == []


@pytest.mark.parametrize("file", ["/app/\udcff.py", "/app/a\0b.py", "/app/заказ.py"])
def test_strange_names_reach_the_tree_as_valid_text(file: str, traced, tree_of, burn) -> None:
    # Given code whose file and function are named by somebody strange
    def work() -> None:
        burn(0.03)

    strange = work.__code__.replace(
        co_filename=file, co_name="заказ", **({"co_qualname": "заказ"} if sys.version_info >= (3, 11) else {})
    )
    work.__code__ = strange

    # coverage.py raises in code whose file name holds a NUL; it looks away meanwhile
    trace = sys.gettrace()
    sys.settrace(None)
    try:
        request = traced.request(work)
    finally:
        sys.settrace(trace)
    tree = tree_of(request)

    names = [frame.function + frame.file for frame in tree.frames]
    assert any("заказ" in name for name in names)
    assert all(name.encode("utf-8") and "\0" not in name for name in names)


def test_a_faster_profiler_of_the_user_does_not_multiply_our_samples(make_traced, profile_of, burn) -> None:
    # Given the user's profiler at 1 ms
    traced = make_traced(interval=10.0)

    def work() -> None:
        with pyinstrument.Profiler(interval=0.001):
            burn(0.1)

    attributes = profile_of(traced.request(work)).attributes

    # Then we still sample at our own pace
    assert attributes["pyinstrument.sample_count"] <= attributes["pyinstrument.duration"] / 0.010 + 1


def test_no_warning_about_a_slow_clock_reaches_stderr() -> None:
    # Given a clock that pyinstrument finds slow
    code = """
import threading
from pyinstrument import stack_sampler
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import SpanKind
from otel_pyinstrument import PyinstrumentInstrumentor
stack_sampler.timing_overhead = lambda: {"walltime": 1e-3}
provider = TracerProvider()
PyinstrumentInstrumentor().instrument(tracer_provider=provider, rate=1, interval=1)

def serve():
    provider.get_tracer("test").start_span("GET /", kind=SpanKind.SERVER).end()

for _ in range(3):
    thread = threading.Thread(target=serve)
    thread.start()
    thread.join()
"""

    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)

    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


FINALIZERS = """
import gc
from otel_pyinstrument.segment import Segment

class Cycle:
    def __init__(self):
        self.me = self

    def __del__(self):
        for _ in range(3):
            small()

def small():
    return 1

def work():
    for _ in range(20):
        Cycle()
        [small() for _ in range(2)]

gc.set_threshold(5, 2, 2)
for _ in range(2_000):
    segment = Segment(interval_seconds=1e-5, max_duration_seconds=2e-4)
    segment.open()
    work()
    segment.close()
print("alive")
"""


def test_a_hook_that_is_replaced_inside_a_finalizer_does_not_crash() -> None:
    # Given finalizers that the interpreter runs in the middle of its own bookkeeping of a call
    # When limits are reached and samples fall due inside them
    run = subprocess.run([sys.executable, "-c", FINALIZERS], capture_output=True, text=True, timeout=60)

    # Then the process lives
    assert (run.stdout, run.returncode) == ("alive\n", 0)
