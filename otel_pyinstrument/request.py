"""The request object: hung on the request's root span, inherited by the spans below it."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from types import FrameType
from typing import NamedTuple

from opentelemetry.sdk.trace import Span as RecordingSpan
from opentelemetry.trace import Span, StatusCode

from otel_pyinstrument import native, private_names
from otel_pyinstrument.call_tree import CallTreeBuilder
from otel_pyinstrument.classification import SameRequest
from otel_pyinstrument.endpoint import attributes_of
from otel_pyinstrument.engine import Engine
from otel_pyinstrument.facts.request_facts import RequestFacts
from otel_pyinstrument.frames import identifier_of
from otel_pyinstrument.guard import Guard, came_from_signal_handler
from otel_pyinstrument.hop import Hop
from otel_pyinstrument.passages import Passage
from otel_pyinstrument.private_names import frame_identifiers
from otel_pyinstrument.recording import HopTree, Recording, RecordingFacts
from otel_pyinstrument.segment import MAX_NODES, Segment, SpanEnded, new_builder
from otel_pyinstrument.shared_wait import SharedWait
from otel_pyinstrument.slot import Reason, Slot
from otel_pyinstrument.visit import Visit

MAX_HOPS = 200
"""Different places of one request that wait for work elsewhere, and are seen there."""

BELONGING = "otel_pyinstrument_belonging"
"""The attribute of a span that holds its `Belonging`; also spelled out where spans begin."""


class Request:
    """One profiled request, from the start of its local root span to its end. Any thread."""

    def __init__(self, root: RecordingSpan, slot: Slot, engine: Engine, guard: Guard) -> None:
        self._root = weakref.ref(root)  # which has this request
        self.slot = slot
        self.guard = guard
        self.facts = RequestFacts()
        self.child_spans = 0
        """How many have ended. Counted where they end, under the profile hook, without a call."""
        self._engine = engine
        self._lock = native.RLock()
        self._finished = False
        self._segment: Segment | None = None
        self._hop_segments: list[Segment] = []
        self._hops: list[HopTree] = []
        self._free_builders: dict[tuple[int, tuple[str, ...]], list[CallTreeBuilder]] = {}
        self._parts: RecordingFacts | None = None

    @property
    def reason(self) -> Reason:
        """Why the gate chose it."""
        return self.slot.reason

    @property
    def holds_thread(self) -> bool:
        """Whether the hook is on the thread all the time, also while the thread works for others."""
        return self._segment is not None and self._segment.holds_thread

    @property
    def is_finished(self) -> bool:
        return self._finished

    @property
    def elsewhere_cpu_seconds(self) -> float:
        """CPU time of other threads than the one it started on, under the hook for this request."""
        return 0.0 if self._parts is None else self._parts.hooked_cpu_seconds

    def start(self) -> bool:
        """Sample what is running from now on. False when that cannot be done; the slot is still held."""
        self._segment = self._engine.open(self._same_request(), self._span_ended(), self.slot.end_early)
        return self._segment is not None

    def finish(self, span_ended_ns: int | None = None) -> Recording | None:
        """End sampling, as of then since the epoch, and give the slot back. None when it had ended before."""
        with self._lock:
            segment, self._segment = self._segment, None
            hop_segments, self._hop_segments = self._hop_segments, []
            self._finished = True
        if segment is None:
            return None
        recording = None
        try:
            recording = segment.close(span_ended_ns)
            for hop_segment in hop_segments:
                self._close_part(hop_segment)
        finally:
            self.slot.release(None if recording is None else recording.facts.hooked_cpu_seconds)
            self._engine.forget_closed()
        if recording is None:
            return None
        return recording.with_hops(self._hops, [] if self._parts is None else [self._parts])

    # --- work elsewhere ------------------------------------------------------------------------------

    def begin_hop(self, waiting: FrameType) -> Hop | None:
        """The call `waiting`, running here, is about to wait for work elsewhere: a hop below its caller.

        None when that is not followed.
        """
        found = self._waiting_segment(waiting)
        if found is None:
            return None
        segment, calls, is_own = found
        path = tuple(map(identifier_of, frame_identifiers(calls[: calls.index(waiting)])))
        builder = self._builder_for(segment.builder, path)
        if builder is None:
            return None
        shared = None
        if is_own:
            segment.begin_waiting(path)
        else:
            shared = segment.shared_wait()
            segment.hand_over()
        clock = segment.clock if shared is None else shared.seconds
        return Hop(
            self.guard,
            open_segment=lambda entry: self._open_part(entry, builder, clock, shared),
            close_segment=lambda part: self._end_part(part, (id(segment.builder), path), shared),
            end=segment.end_waiting if is_own else segment.take_back,
        )

    def _waiting_segment(self, waiting: FrameType) -> tuple[Segment, Sequence[FrameType], bool] | None:
        """The segment that sees the call, its calls, and whether it is all that the segment's unit does."""
        segments = self._segments_here()
        for segment in segments:
            calls = segment.calls_of_running()
            if calls is not None:
                return (segment, calls, True) if waiting in calls else None
        for segment in segments:
            calls = segment.calls_of_request()
            if segment.shares_thread and waiting in calls:
                return segment, calls, False
        return None

    def _segments_here(self) -> list[Segment]:
        """The open segments of this thread, innermost first."""
        here = native.thread_id()
        with self._lock:
            if self._finished or self._segment is None or not self._segment.is_open:
                return []
            segments = [self._segment, *self._hop_segments]
        return [segment for segment in reversed(segments) if segment.owner == here and segment.is_open]

    def _builder_for(self, parent: CallTreeBuilder, path: tuple[str, ...]) -> CallTreeBuilder | None:
        with self._lock:
            free = self._free_builders.setdefault((id(parent), path), [])
            if free:
                return free.pop()
            if len(self._hops) >= MAX_HOPS or sum(hop.builder.node_count for hop in self._hops) >= MAX_NODES:
                return None
            hop = HopTree(parent, path, new_builder())
            self._hops.append(hop)
            return hop.builder

    def _open_part(
        self,
        entry: FrameType,
        builder: CallTreeBuilder,
        clock: Callable[[], float],
        shared: SharedWait | None,
    ) -> Segment | None:
        segments = self._segments_here()
        if any(segment.calls_of_running() is not None for segment in segments):
            return None  # seen there already
        segment = self._engine.open_hop(self._same_request(), entry, builder, self._span_ended(), clock)
        if segment is not None:
            with self._lock:
                self._hop_segments.append(segment)
                finished = self._finished
            if shared is not None:
                shared.begin_hop()
            for other in segments:
                other.hand_over()  # until now this step was seen there
            if finished:
                segment.close()
        return segment

    def _end_part(
        self, segment: Segment, place: tuple[int, tuple[str, ...]], shared: SharedWait | None
    ) -> None:
        if shared is not None:
            shared.end_hop()
        with self._lock:
            if self._finished:
                return
            self._hop_segments.remove(segment)
            self._close_part(segment)
            self._free_builders[place].append(segment.builder)

    def _close_part(self, segment: Segment) -> None:
        recording = segment.close()
        if recording is not None:
            facts = recording.facts
            self._parts = facts if self._parts is None else self._parts.with_part(facts)

    def _same_request(self) -> SameRequest:
        """Weak: a request that is dropped without a word must free its slot at once."""
        request = weakref.ref(self)

        def same_request(span: Span) -> bool:
            own = request()
            return own is not None and request_of(span) is own

        return same_request

    def _span_ended(self) -> SpanEnded:
        root = self._root

        def span_ended() -> bool | None:
            span = root()
            return None if span is None else span.end_time is not None

        return span_ended


class Belonging:
    """What hangs on a span: the profiled request that it is part of, the visit or passage whose root it is.

    `is_root` is False for the spans below. Theirs is `below`, made once: they begin under the profile hook.
    """

    __slots__ = ("below", "is_root", "request", "visit")

    def __init__(
        self, request: Request | None, visit: Visit | Passage | None = None, *, is_root: bool = True
    ) -> None:
        self.request = request
        self.visit = visit
        self.is_root = is_root
        self.below = self
        if is_root:
            self.below = _UNPROFILED if request is None else Belonging(request, is_root=False)


_UNPROFILED = Belonging(None, is_root=False)


def belonging_of(span: Span) -> Belonging | None:
    """None for most spans: nothing is profiled while they begin, and they are no root."""
    # `getattr` with a default, because a signal handler's AttributeError must pass.
    return getattr(span, BELONGING, None)


def attach(span: Span, belonging: Belonging) -> None:
    """Needs no context variable: anything that carries spans carries it."""
    setattr(span, BELONGING, belonging)


def request_of(span: Span) -> Request | None:
    """The request that `span` belongs to, if it is profiled."""
    belonging = belonging_of(span)
    return None if belonging is None else belonging.request


class Outcome(NamedTuple):
    """How a request ended: its wall time, `failed` on the server's side, `refused` for a client's mistake."""

    seconds: float
    failed: bool
    refused: bool


def outcome_of(span: RecordingSpan, end_time: int | None = None) -> Outcome:
    """An error status, or HTTP 500 and above, is a failure; HTTP 400 to 499 a refusal.

    Of an ended span; `end_time` in nanoseconds where the SDK does not have it yet.
    """
    try:
        start, end, code, attributes = private_names.outcome_in(span)
    except AttributeError as error:
        if came_from_signal_handler(error):
            raise
        start, end, code = span.start_time, span.end_time, span.status.status_code
        attributes = attributes_of(span)
    status = attributes.get("http.status_code") or attributes.get("http.response.status_code")
    if not isinstance(status, int):
        status = 0
    if end_time is not None:
        end = end_time
    seconds = 0.0 if end is None or start is None else max(end - start, 0) / 1e9
    return Outcome(seconds, status >= 500 or code is StatusCode.ERROR, 400 <= status < 500)
