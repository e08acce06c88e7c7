"""Real signals at any moment of beginning and ending a step: whatever a handler does there, nothing stays."""

from __future__ import annotations

import random
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from pyinstrument import Profiler, stack_sampler

from otel_pyinstrument import private_names
from otel_pyinstrument.classification import Place
from otel_pyinstrument.other_threads import OTHER_THREADS
from otel_pyinstrument.segment import Segment

SIGNALS = 600


class TimeIsUp(Exception):
    """What a worker's timeout raises."""


class Turns:
    """A unit whose turns are told by the test alone."""

    shares_thread = False
    knows_turns = True
    is_gone = False

    def follow(self, _stepped: object, _max_duration_seconds: float) -> Callable[[], None]:
        return lambda: None

    def place(self, stack: list[str]) -> Place:
        return Place(stack, True)

    def calls(self) -> list[object]:
        return []

    def is_running(self) -> bool:
        return False

    def is_in_turn(self) -> bool:
        return False


class Application:
    """Has a step begin and end until a signal comes, and what its handler does."""

    def __init__(self, does: str) -> None:
        self._does = does
        self._waits = False
        self._segment = Segment(interval_seconds=0.01, max_duration_seconds=100, classifier=Turns())
        self._profiler: Profiler | None = None

    def serve(self, seconds: float) -> None:
        self._segment.open()
        self._segment.pause()
        self._waits = True
        with suppress(TimeIsUp):
            self._take_turns(seconds)
        if self._profiler is not None:
            self._profiler.stop()
        self._segment.pause()
        self._segment.close()

    def _take_turns(self, seconds: float) -> None:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        while self._waits:
            self._segment.resume()
            self._segment.pause()

    def handle(self, *_arguments: object) -> None:
        if not self._waits:
            return
        self._waits = False
        if self._does == "raises":
            raise TimeIsUp
        if self._does == "ends the request":
            self._segment.close()
        else:
            self._profiler = Profiler(interval=0.0005, async_mode="enabled")
            self._profiler.start()


@pytest.fixture
def handled() -> Iterator[Callable[[Callable[..., None]], None]]:
    before = signal.getsignal(signal.SIGALRM)
    yield lambda handler: signal.signal(signal.SIGALRM, handler) and None
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("does", ["raises", "ends the request", "starts a profiler of the user's"])
def test_a_signal_at_any_moment_of_a_step_leaves_nothing_behind(
    does: str, handled: Callable[[Callable[..., None]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given hooks for which every other thread pays, as from Python 3.12 on
    monkeypatch.setattr(OTHER_THREADS, "every_thread_pays", True)
    choose = random.Random(does)
    for _ in range(SIGNALS):
        application = Application(does)
        handled(application.handle)

        # When a signal comes somewhere in its steps
        application.serve(choose.uniform(2e-6, 2.5e-4))

        # Then no hook is left, nobody to pay for one, and the user's profiler could be stopped
        assert sys.getprofile() is None
        assert private_names.stack_sampler().subscribers == []
        assert stack_sampler.active_profiler_context_var.get() is None
        OTHER_THREADS.take()
        assert OTHER_THREADS._this_thread().hooks == set()
