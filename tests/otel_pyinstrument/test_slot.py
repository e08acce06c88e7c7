"""What a request gives back when its profile ends before it does: its place, and its cost to the budget."""

from __future__ import annotations

import asyncio
import contextvars
import sys
import threading
import time
from collections.abc import Callable

import pytest
from opentelemetry.trace import SpanKind


@pytest.fixture
def burn_step(burn) -> Callable[[], float]:
    """Work for about a millisecond of CPU time; how much it was."""

    def step() -> float:
        start = time.thread_time()
        burn(0.001)
        return time.thread_time() - start

    return step


def test_a_thread_that_blocks_gives_its_place_back_at_the_limit(make_traced, profile_of, wait_until) -> None:
    # Given a long poll, whose thread makes no call until something comes, and room for one request
    traced = make_traced(max_duration=0.05, max_concurrent=1)
    waiting, something = threading.Event(), threading.Event()

    def long_poll() -> None:
        waiting.set()
        something.wait()

    thread = threading.Thread(target=traced.request, args=(long_poll, "GET /poll"))
    thread.start()
    waiting.wait()

    # Then others are profiled although it is still there
    try:
        wait_until(lambda: profile_of(traced.request(lambda: None)) is not None, limit_seconds=5)
        assert thread.is_alive()
    finally:
        something.set()
        thread.join()


def test_a_profile_on_a_thread_is_charged_when_it_ends_and_not_again(make_traced, burn, burn_step) -> None:
    # Given a request that works on when its profile has ended
    traced = make_traced(max_duration=0.05)
    gate = traced.processor.gate
    while_it_works: list[float] = []
    steps: list[float] = []

    def work() -> None:
        while sys.getprofile() is not None:
            steps.append(burn_step())
        while_it_works.append(gate.costs().hook)
        burn(0.05)

    traced.request(work)

    # Then what it has cost is known while it does, and that is all; in its last step the hook went
    assert 0 < while_it_works[0] == gate.costs().hook
    assert while_it_works[0] >= 0.9 * sum(steps[:-1]) * (1 - 1 / 1.8)


def test_a_profile_on_an_event_loop_is_charged_when_it_ends_and_not_again(
    make_traced, burn, burn_step
) -> None:
    # Given a connection that stays open when its profile has ended
    traced = make_traced(max_duration=0.05)
    gate = traced.processor.gate
    while_it_works: list[float] = []
    steps: list[float] = []

    async def connection() -> None:
        with traced.tracer.start_as_current_span("HTTP /ws", kind=SpanKind.SERVER):
            while sys.getprofile() is not None:
                steps.append(burn_step())
                await asyncio.sleep(0)
            while_it_works.append(gate.costs().hook)
            burn(0.05)
            await asyncio.sleep(0)

    asyncio.run(connection())

    # Then what it has cost is known while it is open, and that is all; in its last step the hook went
    # (in the middle of a hook's beginning perhaps: that beginning is counted at the end)
    assert 0 < while_it_works[0] <= gate.costs().hook < while_it_works[0] + 0.001
    assert while_it_works[0] >= 0.9 * sum(steps[:-1]) * (1 - 1 / 3)


def test_a_request_whose_hook_another_profiler_has_taken_gives_its_place_back(
    make_traced, profile_of
) -> None:
    # Given a debugger that comes and goes while a request waits, and room for one request
    traced = make_traced(max_concurrent=1)

    async def another() -> None:
        with traced.tracer.start_as_current_span("GET /another", kind=SpanKind.SERVER):
            await asyncio.sleep(0)

    async def taken() -> None:
        with traced.tracer.start_as_current_span("GET /taken", kind=SpanKind.SERVER):
            asyncio.get_running_loop().call_soon(sys.setprofile, lambda *_arguments: None)
            await asyncio.sleep(0)
            sys.setprofile(None)
            await contextvars.Context().run(asyncio.ensure_future, another())

    asyncio.run(taken())

    # Then another one is profiled while it is still open
    spans = {span.name: span for span in traced.exporter.get_finished_spans()}
    assert profile_of(spans["GET /taken"]).attributes["pyinstrument.interrupted"] is True
    assert profile_of(spans["GET /another"]) is not None
