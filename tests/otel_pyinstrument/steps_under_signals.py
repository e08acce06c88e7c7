"""A program whose steps on an event loop begin and end while signals come: see `test_signals_in_steps`."""

from __future__ import annotations

import random
import signal
import sys
from collections.abc import Callable
from contextlib import suppress

from pyinstrument import Profiler, stack_sampler

from otel_pyinstrument import private_names
from otel_pyinstrument.classification import Place
from otel_pyinstrument.other_threads import OTHER_THREADS
from otel_pyinstrument.segment import Segment


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


def main(does: str, signals: int) -> None:
    """Print what is left behind after each signal, if anything.

    In a process of its own: pytest has a use for the same timer, and what a handler raises in the middle of
    a coverage tool leaves its lock taken.
    """
    OTHER_THREADS.every_thread_pays = True  # as from Python 3.12 on
    choose = random.Random(does)
    for _ in range(signals):
        application = Application(does)
        signal.signal(signal.SIGALRM, application.handle)
        application.serve(choose.uniform(2e-6, 2.5e-4))
        OTHER_THREADS.take()
        left = {
            "a hook": sys.getprofile(),
            "subscribers": private_names.stack_sampler().subscribers,
            "a profiler's context": stack_sampler.active_profiler_context_var.get(),
            "somebody who pays": OTHER_THREADS._this_thread().hooks,
        }
        print(*(what for what, found in left.items() if found), end="")
    print("done")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
