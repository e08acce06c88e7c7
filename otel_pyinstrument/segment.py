"""Sampling of one thread for one request, from the profile hook to a recording."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import CodeType
from typing import TYPE_CHECKING

from otel_pyinstrument import private_names
from otel_pyinstrument.base import calling_codes, shared_calls, without_base
from otel_pyinstrument.call_tree import CallTree, CallTreeBuilder, Frame
from otel_pyinstrument.frames import identifier_of, identifier_of_code

if TYPE_CHECKING:
    from pyinstrument.stack_sampler import StackSampler

MAX_NODES = 20_000
MAX_DEPTH = 2_000


@dataclass(frozen=True)
class RecordingFacts:
    """`truncated`: a limit or a failure ended sampling early. `interrupted`: another profiler did."""

    duration_seconds: float
    cpu_seconds: float
    sample_count: int
    truncated: bool
    interrupted: bool
    failure: Exception | None


class Recording:
    """What a segment leaves behind: the raw tree, and what is known about it."""

    def __init__(self, builder: CallTreeBuilder, base: Sequence[CodeType], facts: RecordingFacts) -> None:
        self._builder = builder
        self._base = base
        self.facts = facts

    @property
    def node_count(self) -> int:
        return self._builder.node_count

    def build(self, describe: Callable[[str], Frame]) -> CallTree:
        """The call tree, without the calls around the request. Not for the request's thread."""
        tree = self._builder.build(describe)
        if not self.facts.sample_count:
            # Shorter than one interval: the time is known, the place is not.
            tree.self_us[0] = round(self.facts.duration_seconds * 1e6)
        return without_base(tree, [describe(identifier_of_code(code)) for code in self._base])


class Segment:
    """Samples the thread that calls `open`, until `close`, which may come from any thread.

    The wall time between two samples belongs to the stack of the later one, what is left at the end to
    the stack of the last one: the tree sums to the wall time between `open` and `close`.
    """

    def __init__(self, *, interval_seconds: float, max_duration_seconds: float) -> None:
        self._interval_seconds = interval_seconds
        self._max_duration_seconds = max_duration_seconds
        self._builder = CallTreeBuilder(max_nodes=MAX_NODES, max_depth=MAX_DEPTH, key=identifier_of)
        # Reentrant: a sample, a signal handler or a finalizer may run inside `close` on the same thread.
        self._lock = threading.RLock()
        self._closed = False
        self._hooked = False
        self._truncated = False
        self._interrupted = False
        self._failure: Exception | None = None
        self._sample_count = 0
        self._pending_stack: list[str] = []
        self._pending_seconds = 0.0

    def open(self) -> None:
        """Install the hook on the calling thread, which owns the segment from now on."""
        self._owner = threading.get_ident()
        self._sampler: StackSampler = private_names.stack_sampler()
        self._start_codes = calling_codes()
        self._start = self._last = time.perf_counter()
        self._start_cpu = self._cpu = time.thread_time()
        self._hooked = True
        private_names.subscribe(self._sampler, self._on_sample, interval_seconds=self._interval_seconds)

    def close(self) -> Recording | None:
        """End sampling and hand over what was recorded; None when that has happened before. Any thread.

        The hook can only be removed by the thread it is on: when that is another one, at its next sample.
        """
        with self._lock:
            if self._closed:
                return None
            ran_to_the_end = self._hooked
            self._closed = True
            is_owner = threading.get_ident() == self._owner
            cpu = time.thread_time() if is_owner else self._cpu
            end = time.perf_counter()
        base: Sequence[CodeType] = self._start_codes
        if is_owner:
            self._unhook()
            base = shared_calls(base, calling_codes())
        if not ran_to_the_end or self._interrupted:
            # Who knows where the time went after a limit was reached, or without the hook.
            cpu, end = self._cpu, self._last
        if self._failure is None:
            self._add_pending(end - self._last)
        facts = RecordingFacts(
            duration_seconds=end - self._start,
            cpu_seconds=cpu - self._start_cpu,
            sample_count=self._sample_count,
            truncated=self._truncated or self._builder.truncated,
            interrupted=self._interrupted,
            failure=self._failure,
        )
        # The innermost of the shared calls stays: its own time is time of the request.
        return Recording(self._builder, base[:-1], facts)

    def stop(self) -> None:
        """End sampling and lose what was recorded. Any thread; also in a forked child."""
        self._lock = threading.RLock()  # the parent's thread that held it does not exist in a child
        self._closed = True
        if threading.get_ident() == self._owner:
            self._unhook()

    def _on_sample(self, stack: list[str], _elapsed: float, _state: object) -> None:
        """Called by the profile hook in the middle of the user's code: must not raise, log or block."""
        try:
            if private_names.sampler_is_changing(stack):
                return
            if self._closed:
                self._unhook()
                return
            now = time.perf_counter()
            # A faster profiler of the user's may drive the hook; the time then goes to our next sample.
            if (
                now - self._last < self._interval_seconds
                and private_names.sampling_interval_seconds(self._sampler) < self._interval_seconds
            ):
                return
            with self._lock:
                if not self._closed:
                    self._sample(stack[1:], now)
        except Exception as error:
            self._end_early(error)

    def _sample(self, stack: list[str], now: float) -> None:
        self._add_pending(0.0)
        self._pending_stack = stack
        self._pending_seconds = now - self._last
        self._sample_count += 1
        self._last = now
        self._cpu = time.thread_time()
        if now - self._start >= self._max_duration_seconds or self._builder.node_count >= MAX_NODES:
            self._end_early(None)

    def _add_pending(self, more_seconds: float) -> None:
        # The builder is one sample behind, so that `close` can add its rest without counting a sample.
        if self._sample_count:
            self._builder.add(self._pending_stack, self._pending_seconds + more_seconds)

    def _end_early(self, failure: Exception | None) -> None:
        self._truncated = True
        self._failure = failure
        try:
            self._unhook()
        except Exception as error:
            self._failure = failure or error

    def _unhook(self) -> None:
        if not self._hooked:
            return
        self._hooked = False  # before the work: a sample may come here in the middle of it
        try:
            intact = private_names.unsubscribe(self._sampler, self._on_sample)
        except BaseException:
            self._hooked = True  # the next sample tries again
            raise
        self._interrupted = not intact
