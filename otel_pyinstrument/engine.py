"""Opens segments where they can be told apart from other work, and knows those that are open."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from types import FrameType

from otel_pyinstrument import native, private_names
from otel_pyinstrument.call_tree import CallTreeBuilder
from otel_pyinstrument.classification import SameRequest, classifier_of_running_unit
from otel_pyinstrument.segment import Segment, SpanEnded, never
from otel_pyinstrument.settings import Settings

MAX_REQUESTS_PER_SHARED_THREAD = 8
"""Requests sampled at once on one thread of greenlets: each sees every sample of it."""


class Engine:
    """One per instrumented provider. `open` on the request's thread, the rest on any."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = native.RLock()
        # Strong: the callbacks of a WeakSet run Python inside the garbage collector, where an exception
        # that a signal handler raises into the application (a worker's timeout) would be swallowed.
        self._open: list[Segment] = []

    def open(
        self,
        same_request: SameRequest,
        span_ended: SpanEnded = never,
        ended_early: Callable[[float, float], None] | None = None,
    ) -> Segment | None:
        """Start sampling what is running; None when that would be wrong or disturb another profiler.

        `same_request` tells, inside the hook, whether a span belongs to this request; `span_ended` and
        `ended_early` are those of `Segment`.
        """
        segment = self._segment(same_request, span_ended, ended_early=ended_early)
        if segment is None:
            return None
        if segment.shares_thread and segment.holds_thread and self._thread_is_full():
            return None
        self._start(segment)
        return segment

    def open_hop(
        self,
        same_request: SameRequest,
        entry: FrameType,
        builder: CallTreeBuilder,
        span_ended: SpanEnded = never,
        clock: Callable[[], float] = time.perf_counter,
    ) -> Segment | None:
        """Sample what runs below `entry`, for a request that waits for it elsewhere, into `builder`."""
        segment = self._segment(same_request, span_ended, builder=builder, entry=entry, clock=clock)
        if segment is not None:
            self._start(segment)
        return segment

    def forget_closed(self) -> None:
        """Keep no segment whose hook is gone."""
        with self._lock:
            self._open = [segment for segment in self._open if segment.is_open]

    def stop_all(self) -> None:
        """End all sampling and lose what was recorded. Also in a forked child: the parent goes on."""
        self._lock = native.RLock()  # the parent's thread that held it does not exist in a child
        segments, self._open = self._open, []
        with ExitStack() as stops:  # one that fails does not keep the others
            for segment in segments:
                stops.callback(segment.stop)

    def _segment(
        self,
        same_request: SameRequest,
        span_ended: SpanEnded,
        *,
        builder: CallTreeBuilder | None = None,
        entry: FrameType | None = None,
        ended_early: Callable[[float, float], None] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> Segment | None:
        if not private_names.hook_is_ours_to_share():
            return None
        classifier = classifier_of_running_unit(same_request)
        if classifier is None:
            return None
        return Segment(
            interval_seconds=self._settings.interval_seconds,
            max_duration_seconds=self._settings.max_duration,
            classifier=classifier,
            builder=builder,
            entry=entry,
            span_ended=span_ended,
            ended_early=ended_early,
            clock=clock,
        )

    def _start(self, segment: Segment) -> None:
        with self._lock:
            self.forget_closed()
            segment.open()
            self._open.append(segment)

    def _thread_is_full(self) -> bool:
        here = native.thread_id()
        with self._lock:
            segments = self._open
        sharing = sum(segment.is_open and segment.owner == here for segment in segments)
        return sharing >= MAX_REQUESTS_PER_SHARED_THREAD
