"""What the other threads do while one has the profile hook: from Python 3.12 on that slows them all."""

from __future__ import annotations

import os
import sys
import time
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

from otel_pyinstrument import native

_Result = TypeVar("_Result")


class _Thread:
    """A thread and the hooks that it has. Only the thread itself keeps this, so it ends with it."""

    __slots__ = ("__weakref__", "hooks", "owed", "since")

    def __init__(self) -> None:
        self.hooks: set[int] = set()
        self.since = self.owed = 0.0
        """When its own CPU time was counted last, and what of it could not be since then."""


class OtherThreads:
    """CPU seconds of threads without a hook while any other one has one. Callable from any thread.

    Each counts once, however many hooks there are. What a thread with a hook uses is its own business, but
    only known when that thread calls again: until then it may be told as well, and is made up for later.

    Nobody waits for another thread here: a finalizer or a sample that comes in the middle may end a request,
    which waits for the gate, whose thread may be here. While a thread counts, what others say is left out.
    """

    def __init__(
        self,
        *,
        every_thread_pays: bool = sys.version_info >= (3, 12),
        thread_seconds: Callable[[], float] = time.thread_time,
        process_seconds: Callable[[], float] = time.process_time,
    ) -> None:
        self.every_thread_pays = every_thread_pays
        self._thread_seconds = thread_seconds
        self._process_seconds = process_seconds
        self._begin()

    def hook_begins(self, hook: object) -> None:
        """`hook` goes in on this thread."""

        def begin(thread: _Thread) -> None:
            if not thread.hooks:
                self._hooked.append(weakref.ref(thread))
            thread.hooks.add(id(hook))

        if self.every_thread_pays:
            self._count_and(begin)

    def hook_ends(self, hook: object) -> None:
        """`hook` is gone from this thread. Saying so twice is no harm."""
        if not self.every_thread_pays:
            return
        counted = self._count_and(lambda _thread: True)
        here = self._this_thread()
        if not counted and here.hooks:
            thread_seconds = self._thread_seconds()
            here.owed += thread_seconds - here.since
            here.since = thread_seconds
        here.hooks.discard(id(hook))

    def take(self) -> float:
        """CPU seconds that no earlier call has told of. Always 0 where hooks slow their own thread only."""

        def take(_thread: _Thread) -> float:
            seconds = max(self._seconds, 0.0)
            self._seconds -= seconds
            return seconds

        return self._count_and(take) or 0.0 if self.every_thread_pays else 0.0

    def _count_and(self, then: Callable[[_Thread], _Result]) -> _Result | None:
        """Count all until now, and what `then` answers for this thread; None while another thread counts."""
        lock = self._lock_of_this_process()
        try:
            if not lock.acquire(blocking=False):
                return None
            try:
                return then(self._count())
            finally:
                lock.release()
        except BaseException:
            # That of a signal handler may come when the lock is taken and nobody minds it yet.
            self._begin()
            raise

    def _begin(self) -> None:
        # Reentrant: a sample or a signal handler may come in the middle, and take a hook away.
        self._lock = native.RLock()
        self._here = native.local()
        self._hooked: list[weakref.ref[_Thread]] = []
        self._since = self._seconds = 0.0
        self._pid = os.getpid()

    def _lock_of_this_process(self) -> Any:
        if self._pid != os.getpid():  # a forked child has clocks of its own, and none of the other threads
            self._begin()
        return self._lock

    def _this_thread(self) -> _Thread:
        here: _Thread | None = getattr(self._here, "thread", None)
        if here is None:
            here = self._here.thread = _Thread()
        return here

    def _count(self) -> _Thread:
        """All until now. The result is this thread."""
        process_seconds, thread_seconds = self._process_seconds(), self._thread_seconds()
        here = self._this_thread()
        if self._hooked:
            self._hooked = [each for each in self._hooked if (thread := each()) and thread.hooks]
        if self._hooked:
            self._seconds += process_seconds - self._since
        self._since = process_seconds
        self._seconds -= here.owed
        here.owed = 0.0
        if here.hooks:
            self._seconds -= thread_seconds - here.since
        here.since = thread_seconds
        return here


OTHER_THREADS = OtherThreads()
"""One for the process: whoever asked for a hook, all its threads pay."""
