"""What other threads use while one has the profile hook: told once, and charged to who had it put in."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import Any

import anyio.to_thread
import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import SpanKind

from otel_pyinstrument import hop_patches, private_names, segment
from otel_pyinstrument.other_threads import OTHER_THREADS, OtherThreads
from otel_pyinstrument.segment import Segment

CHARGED = 1 - 1 / 1.8
"""Of what other threads use under a hook."""


class Process:
    """One whose clocks of CPU time move when the tests say so."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._thread_seconds: defaultdict[int, float] = defaultdict(float)
        self.other_threads = OtherThreads(
            every_thread_pays=True,
            thread_seconds=lambda: self._thread_seconds[threading.get_ident()],
            process_seconds=lambda: self.seconds,
        )

    def work(self, seconds: float) -> None:
        """On the thread that calls."""
        self.seconds += seconds
        self._thread_seconds[threading.get_ident()] += seconds

    def work_elsewhere(self, seconds: float) -> None:
        self.seconds += seconds


class BrokenOff:
    """A lock that is taken when an exception comes, as that of a signal handler may."""

    def __init__(self, lock: Any) -> None:
        self._lock = lock

    def acquire(self, **how: bool) -> bool:
        self._lock.acquire(**how)
        raise TimeoutError


@pytest.fixture
def process() -> Process:
    return Process()


@pytest.fixture
def on_second_thread() -> Iterator[Callable[..., object]]:
    """Call something on one and the same other thread, and wait for it."""
    with ThreadPoolExecutor(1) as executor:
        yield lambda function, *arguments: executor.submit(function, *arguments).result()


def test_what_other_threads_use_under_a_hook_is_told_once(process) -> None:
    others = process.other_threads

    # When there is a hook for two turns, in which its own thread works too
    for _ in range(2):
        others.hook_begins("hook")
        process.work(1)
        process.work_elsewhere(3)
        others.hook_ends("hook")
        process.work_elsewhere(50)

    # Then
    assert others.take() == 6
    assert others.take() == 0


def test_what_is_used_under_a_hook_is_told_before_that_is_gone(process) -> None:
    process.other_threads.hook_begins("hook")
    process.work(1)
    process.work_elsewhere(3)

    assert process.other_threads.take() == 3


def test_hooks_that_share_a_thread_count_the_others_once(process) -> None:
    others = process.other_threads

    # Given two requests of one event loop, the second of which has its turn in the first one's
    others.hook_begins("first")
    process.work_elsewhere(1)
    others.hook_begins("second")
    process.work(1)
    process.work_elsewhere(1)
    others.hook_ends("first")
    process.work(1)
    process.work_elsewhere(1)
    others.hook_ends("second")

    # Then
    process.work_elsewhere(50)
    assert others.take() == 3


def test_hooks_of_two_threads_count_the_others_once_and_none_of_their_own(process, on_second_thread) -> None:
    others = process.other_threads

    # Given hooks that overlap
    others.hook_begins("first")
    process.work_elsewhere(1)
    on_second_thread(others.hook_begins, "second")
    on_second_thread(process.work, 20)
    process.work(10)
    process.work_elsewhere(1)
    others.hook_ends("first")
    process.work_elsewhere(1)
    on_second_thread(others.hook_ends, "second")

    # Then
    process.work_elsewhere(50)
    assert others.take() == 3


def test_what_was_told_of_a_thread_with_a_hook_is_made_up_for(process, on_second_thread) -> None:
    # Given a thread that works under its hook, which it does not say before it is gone
    others = process.other_threads
    on_second_thread(others.hook_begins, "hook")
    on_second_thread(process.work, 5)
    told = others.take()
    on_second_thread(others.hook_ends, "hook")
    assert others.take() == 0

    # When others work
    others.hook_begins("next")
    process.work_elsewhere(7)
    others.hook_ends("next")

    # Then it is right in all
    assert told + others.take() == 7


@pytest.mark.parametrize("broken_off", ["hook_begins", "hook_ends", "take"])
def test_what_breaks_counting_off_does_not_keep_the_others_from_it(
    broken_off: str, process, on_second_thread
) -> None:
    # Given a thread whose counting is broken off when it has just begun
    threads = process.other_threads
    threads._lock = BrokenOff(threads._lock)
    with pytest.raises(TimeoutError):
        getattr(threads, broken_off)(*(["hook"] if broken_off != "take" else []))

    # When another one has a hook from then on
    on_second_thread(threads.hook_begins, "another hook")
    process.work(2.0)

    # Then what the first one has paid is told
    assert on_second_thread(threads.take) == 2.0


def test_a_thread_that_ends_under_its_hook_leaves_none(process) -> None:
    # When a thread ends that could not remove its hook
    thread = threading.Thread(target=process.other_threads.hook_begins, args=("hook",))
    thread.start()
    thread.join()
    process.work_elsewhere(9)

    assert process.other_threads.take() == 0


def test_the_beginning_and_the_end_of_a_hook_may_be_told_twice(process) -> None:
    others = process.other_threads
    for call in (others.hook_begins, others.hook_begins, others.hook_ends, others.hook_ends):
        call("hook")
    process.work_elsewhere(9)

    assert others.take() == 0


def test_where_hooks_slow_their_own_thread_only_no_clock_is_asked() -> None:
    def asked() -> float:
        raise AssertionError

    others = OtherThreads(every_thread_pays=False, thread_seconds=asked, process_seconds=asked)
    others.hook_begins("hook")
    others.hook_ends("hook")

    assert others.take() == 0


def test_what_was_told_is_made_up_for_also_when_another_thread_counts_at_the_end(
    process, on_second_thread
) -> None:
    # Given a thread that works under its hook, which it does not say before another one asks
    others = process.other_threads
    others.hook_begins("hook")
    process.work(5)
    told = on_second_thread(others.take)

    # When its hook ends just while the other one counts, and others work later
    on_second_thread(others._lock.acquire)
    others.hook_ends("hook")
    on_second_thread(others._lock.release)
    others.hook_begins("next")
    process.work_elsewhere(7)
    others.hook_ends("next")

    # Then it is right in all
    assert told == 5
    assert told + others.take() == 7


def test_nobody_waits_while_another_thread_counts(process, on_second_thread) -> None:
    # Given a thread with a hook, and another one in the middle of counting
    others = process.other_threads
    on_second_thread(others.hook_begins, "theirs")
    others.hook_begins("ours")
    counting, go_on = threading.Event(), threading.Event()

    def process_seconds() -> float:
        counting.set()
        assert go_on.wait(30)
        return process.seconds

    others._process_seconds = process_seconds
    busy = threading.Thread(target=others.take)
    busy.start()
    assert counting.wait(30)

    # When all is called meanwhile, on both of the first threads
    process.work_elsewhere(9)
    told = others.take()
    others.hook_ends("ours")
    others.hook_begins("another")
    others.hook_ends("another")
    on_second_thread(others.hook_ends, "theirs")
    still_busy = busy.is_alive()
    go_on.set()
    busy.join(30)

    # Then nobody has waited, and no hook is left that others would pay for
    assert (told, still_busy) == (0, True)
    others.take()
    process.work_elsewhere(9)
    assert others.take() == 0


FORK = """
import os, threading, time
from otel_pyinstrument.other_threads import OtherThreads

def burn(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass

def elsewhere(function, *arguments):
    thread = threading.Thread(target=function, args=arguments)
    thread.start()
    thread.join()

others = OtherThreads(every_thread_pays=True)
elsewhere(burn, 0.3)
others.hook_begins("parent")
elsewhere(others._lock.acquire)
pid = os.fork()
if not pid:
    others.hook_ends("parent")
    others.hook_begins("child")
    elsewhere(burn, 0.1)
    others.hook_ends("child")
    print(others.take(), flush=True)
    os._exit(0)
os.waitpid(pid, 0)
"""


def test_a_forked_child_counts_its_own_whatever_the_parents_threads_were_doing() -> None:
    # When a process forks under a hook while another of its threads is in the middle of a call
    # Python 3.12 warns of forks beside other threads, of which one may just be ending here.
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORK]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)

    # Then
    assert run.stderr == ""
    assert float(run.stdout) == pytest.approx(0.1, abs=0.05)


def test_a_hook_whose_end_is_broken_off_leaves_no_one_to_pay(
    process, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a segment, and a signal whose handler raises just when its hook is gone
    monkeypatch.setattr(segment, "OTHER_THREADS", process.other_threads)
    unsubscribe = private_names.unsubscribe

    def interrupted(*arguments: Any) -> bool:
        unsubscribe(*arguments)
        raise KeyboardInterrupt

    sampled = Segment(interval_seconds=0.01, max_duration_seconds=10)
    sampled.open()
    monkeypatch.setattr(private_names, "unsubscribe", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sampled.close()

    # Then what others use later is not charged
    process.other_threads.take()
    process.work_elsewhere(9)
    assert process.other_threads.take() == 0


# --- requests ----------------------------------------------------------------------------------------


@pytest.fixture
def charged(traced, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], float]:
    """What the gate charges for the requests of a call, also on a Python where other threads do not pay."""
    monkeypatch.setattr(OTHER_THREADS, "every_thread_pays", True)

    def charge(serve: Callable[[], object]) -> float:
        serve()  # once without looking: imports and empty caches cost too
        before = traced.processor.gate.costs().hook
        serve()
        return traced.processor.gate.costs().hook - before

    return charge


@pytest.fixture
def burn_elsewhere(burn) -> Callable[[float], None]:
    """Block this thread while another one uses so much CPU time."""

    def run(seconds: float) -> None:
        thread = threading.Thread(target=burn, args=(seconds,))
        thread.start()
        thread.join()

    return run


async def burn_between_steps(burn: Callable[[float], None], seconds: float) -> None:
    """Wait while another thread uses so much CPU time, which it does not before the step is over."""
    loop, begin = asyncio.get_running_loop(), threading.Event()

    def wait_and_burn() -> None:
        begin.wait()
        burn(seconds)

    waiting = loop.run_in_executor(None, wait_and_burn)
    loop.call_later(0.01, begin.set)
    await waiting


def test_a_request_on_an_event_loop_pays_for_the_others_during_its_steps(
    traced, charged, burn, burn_elsewhere
) -> None:
    # Given a request during whose steps another thread works, and between them
    async def request() -> None:
        with traced.tracer.start_as_current_span("GET /", kind=SpanKind.SERVER):
            burn_elsewhere(0.05)
            await burn_between_steps(burn, 0.1)
            burn_elsewhere(0.05)

    # Then the steps are charged
    assert charged(lambda: asyncio.run(request())) == pytest.approx(0.1 * CHARGED, abs=0.02)


def test_requests_of_one_event_loop_pay_for_the_others_once(traced, charged, burn_elsewhere) -> None:
    # Given requests that take turns, in which another thread works
    async def request() -> None:
        with traced.tracer.start_as_current_span("GET /", kind=SpanKind.SERVER):
            burn_elsewhere(0.03)
            await asyncio.sleep(0)
            burn_elsewhere(0.01)

    async def main() -> None:
        await asyncio.gather(*(request() for _ in range(4)))

    assert charged(lambda: asyncio.run(main())) == pytest.approx(0.16 * CHARGED, abs=0.025)
    assert traced.processor.gate.decisions()["profiled"] == 8


def test_requests_of_a_loop_and_of_a_thread_pay_for_the_others_once(traced, charged, burn_elsewhere) -> None:
    # Given a request on an event loop, and one whose thread waits under its hook meanwhile
    async def request() -> None:
        with traced.tracer.start_as_current_span("GET /", kind=SpanKind.SERVER):
            await asyncio.sleep(0)
            burn_elsewhere(0.1)

    def serve() -> None:
        begun, end = threading.Event(), threading.Event()

        def wait() -> None:
            begun.set()
            end.wait()

        thread = threading.Thread(target=traced.request, args=(wait,))
        thread.start()
        begun.wait()
        asyncio.run(request())
        end.set()
        thread.join()

    # Then
    assert charged(serve) == pytest.approx(0.1 * CHARGED, abs=0.02)
    assert traced.processor.gate.decisions()["profiled"] == 4


def test_a_request_on_an_event_loop_pays_for_the_others_during_its_work_in_a_thread(
    traced, charged, burn_elsewhere
) -> None:
    # Given a request whose endpoint runs in a worker thread, as a `def` endpoint of FastAPI does
    async def request() -> None:
        with traced.tracer.start_as_current_span("GET /", kind=SpanKind.SERVER):
            await anyio.to_thread.run_sync(burn_elsewhere, 0.1)

    # Then
    hop_patches.install()
    try:
        assert charged(lambda: asyncio.run(request())) == pytest.approx(0.1 * CHARGED, abs=0.02)
    finally:
        hop_patches.uninstall()


def leaf(number: int) -> int:
    return number + 1


@pytest.mark.skipif(sys.version_info < (3, 12), reason="before Python 3.12 a hook slows its own thread only")
def test_what_is_charged_is_what_the_others_have_paid(traced) -> None:
    # Given a thread that makes calls while another one serves a request in one step
    plain = TracerProvider(resource=Resource.get_empty(), shutdown_on_exit=False)

    def used_elsewhere(provider: TracerProvider) -> float:
        """The CPU time of that thread."""
        used: list[float] = []

        def work() -> None:
            start = time.thread_time()
            for number in range(300_000):
                leaf(number)
            used.append(time.thread_time() - start)

        async def request() -> None:
            with provider.get_tracer("test").start_as_current_span("GET /", kind=SpanKind.SERVER):
                await asyncio.sleep(0)
                thread = threading.Thread(target=work)
                thread.start()
                thread.join()

        asyncio.run(request())
        return used[0]

    used_elsewhere(plain)
    used_elsewhere(traced.provider)

    # When requests with and without a profile take turns, so that a busy machine slows both
    measured: list[float] = []
    charged: list[float] = []
    for _ in range(20):
        before = traced.processor.gate.costs().hook
        measured.append(used_elsewhere(traced.provider) - used_elsewhere(plain))
        charged.append(traced.processor.gate.costs().hook - before)

    # Then the gate knows what that thread has paid
    assert median(measured) > 0.002
    assert median(charged) == pytest.approx(median(measured), rel=0.5)
