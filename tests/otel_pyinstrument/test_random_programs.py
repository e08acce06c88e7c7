"""Requests of any shape: what they call and await, on threads and loops, is seen where it was, and once."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import anyio.to_thread
import pytest
from asgiref.sync import ThreadSensitiveContext, async_to_sync, sync_to_async
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from opentelemetry.trace import SpanKind

from otel_pyinstrument import hop_patches
from otel_pyinstrument.call_tree import CallTree

SECONDS = 0.015
"""Of each leaf."""
AT_LEAST, AT_MOST = 0.6, 1.8
"""Of what a leaf took, by its own clock. It may lose its turn before that begins; twice is 2."""
OF_A_FUNCTION_SECONDS = 0.0015
"""CPU time of a call of one that is no leaf: the way to a thread and back, and what is sampled there."""

leaves = st.sampled_from([("burn",), ("sleep",)])
in_threads = st.deferred(
    lambda: (
        leaves
        | st.tuples(st.just("calls"), in_threads, in_threads)
        | st.tuples(st.just("async_to_sync"), on_loops)
    )
)
on_loops: st.SearchStrategy[Any] = st.deferred(
    lambda: (
        st.just(("wait",))
        | st.tuples(st.just("call"), leaves)
        | st.tuples(st.sampled_from(["to_thread", "run_sync", "sync_to_async"]), in_threads)
        | st.tuples(st.sampled_from(["create_task", "task_group", "wait_for"]), on_loops)
        | st.tuples(st.sampled_from(["awaits", "gather"]), on_loops, on_loops)
    )
)


class Program:
    """A request as a tree of functions with names of their own, and the `ancestors` of each."""

    def __init__(self, shape: tuple[Any, ...]) -> None:
        self.ancestors: dict[str, set[str]] = {}
        self.seconds: dict[str, float] = {}
        self.view = self._function(shape, set())

    @property
    def burnt_seconds(self) -> float:
        return SECONDS * sum(name.startswith("burn") for name in self.ancestors)

    def _function(self, shape: tuple[Any, ...], ancestors: set[str]) -> Callable[[], Any]:
        kind, *parts = shape
        name = f"{kind}_{len(self.ancestors)}"
        self.ancestors[name] = ancestors
        below = [self._function(part, ancestors | {name}) for part in parts]
        is_sync = kind in ("burn", "sleep", "calls", "async_to_sync")
        function = self._sync(name, kind, below) if is_sync else self._async(kind, below)
        names = {key: name for key in ("co_name", "co_qualname") if hasattr(function.__code__, key)}
        function.__code__ = function.__code__.replace(**names)
        return function

    def _sync(self, name: str, kind: str, below: list[Callable[[], Any]]) -> Any:
        def run() -> None:
            start, cpu_start = time.perf_counter(), time.thread_time()
            if kind == "burn":
                while time.thread_time() - cpu_start < SECONDS:
                    sum(range(200))
            elif kind == "sleep":
                time.sleep(SECONDS)
            for function in below:
                function() if kind == "calls" else async_to_sync(function)()
            self.seconds[name] = time.perf_counter() - start

        return run

    def _async(self, kind: str, below: list[Callable[[], Any]]) -> Any:
        async def run() -> None:
            match kind:
                case "wait":
                    await asyncio.sleep(SECONDS)
                case "call":
                    below[0]()
                case "to_thread":
                    await asyncio.to_thread(below[0])
                case "run_sync":
                    await anyio.to_thread.run_sync(below[0])
                case "sync_to_async":
                    await sync_to_async(below[0])()
                case "create_task":
                    await asyncio.create_task(below[0]())
                case "wait_for":
                    await asyncio.wait_for(below[0](), 60)
                case "task_group":
                    async with anyio.create_task_group() as group:
                        group.start_soon(below[0])
                case "awaits":
                    for function in below:
                        await function()
                case _:
                    await asyncio.gather(*(function() for function in below))

        return run


@contextmanager
def without_collector() -> Iterator[None]:
    """A collection takes some tens of milliseconds of whoever makes the next object."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.fixture(autouse=True, scope="module")
def anyio_is_loaded() -> None:
    """What it loads when it is first used is not the request's."""
    anyio.run(anyio.to_thread.run_sync, int)


@pytest.fixture(autouse=True)
def patched() -> Iterator[None]:
    hop_patches.install()
    yield
    hop_patches.uninstall()


def check(program: Program, span: Any, tree: CallTree, cpu_seconds: float) -> None:
    total_us = tree.total_us()
    seen_us = dict.fromkeys(program.seconds, 0)
    path: list[str] = []
    for node, depth in enumerate(tree.depth()):
        function = tree.frames[tree.frame[node]].function
        path[depth:] = [function]
        if function in program.ancestors:
            above = set(path[:-1]) & program.ancestors.keys()
            assert above <= program.ancestors[function], (function, path)
            if function in seen_us:
                seen_us[function] += total_us[node]
    for name, seconds in program.seconds.items():
        if name.startswith(("burn", "sleep")):
            assert seen_us[name] <= seconds * 1e6 * AT_MOST, (name, seen_us[name], seconds)
            beside = any(caller.startswith("gather") for caller in program.ancestors[name])
            least_us = 0 if beside else seconds * 1e6 * AT_LEAST
            assert seen_us[name] >= least_us, (name, seen_us[name], seconds)
    burnt = program.burnt_seconds
    assert burnt - 0.001 <= cpu_seconds <= burnt * 1.2 + OF_A_FUNCTION_SECONDS * len(program.ancestors)
    assert tree.duration_us <= (span.end_time - span.start_time) / 1e3 + 1


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(shape=on_loops)
@example(shape=("sync_to_async", ("async_to_sync", ("call", ("burn",)))))
@example(shape=("sync_to_async", ("async_to_sync", ("create_task", ("call", ("burn",))))))
@example(shape=("create_task", ("sync_to_async", ("async_to_sync", ("call", ("burn",))))))
@example(
    shape=("create_task", ("sync_to_async", ("async_to_sync", ("task_group", ("to_thread", ("burn",))))))
)
def test_a_request_on_an_event_loop_is_seen_as_it_was(shape, make_traced, tree_of, profile_of) -> None:
    # Given a request of some shape
    traced = make_traced(interval=1.0)
    program = Program(shape)

    async def main() -> None:
        async with ThreadSensitiveContext():
            with traced.tracer.start_as_current_span("GET /", kind=SpanKind.SERVER):
                await program.view()

    # When it is served
    with without_collector():
        asyncio.run(main())

    # Then each function stands below its callers only, with the time that it took, and so does the CPU time
    (span,) = traced.exporter.get_finished_spans()
    cpu_seconds = profile_of(span).attributes["pyinstrument.cpu_time"]
    check(program, span, tree_of(span), cpu_seconds)


@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(shape=in_threads)
def test_a_request_on_a_thread_is_seen_as_it_was(shape, make_traced, tree_of, profile_of) -> None:
    # Given a request of some shape
    traced = make_traced(interval=1.0)
    program = Program(shape)

    def main() -> None:
        with traced.tracer.start_as_current_span("GET /", kind=SpanKind.SERVER):
            program.view()

    # When it is served
    with without_collector():
        thread = threading.Thread(target=main)
        thread.start()
        thread.join()

    # Then each function stands below its callers only, with the time that it took, and so does the CPU time
    (span,) = traced.exporter.get_finished_spans()
    cpu_seconds = profile_of(span).attributes["pyinstrument.cpu_time"]
    check(program, span, tree_of(span), cpu_seconds)
