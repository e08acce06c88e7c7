"""Where profiles begin and end: the local root spans of requests."""

from __future__ import annotations

import os
import sys
import time
import weakref
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from logging import getLogger
from typing import TYPE_CHECKING, Any

from opentelemetry.context import Context
from opentelemetry.sdk.trace import Span, SpanProcessor
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags

from otel_pyinstrument import native, private_names
from otel_pyinstrument.endpoint import endpoint_of, learn_route, name_of
from otel_pyinstrument.engine import Engine
from otel_pyinstrument.gate import Gate
from otel_pyinstrument.guard import Guard, came_from_signal_handler
from otel_pyinstrument.installed import FORCED_KEY
from otel_pyinstrument.learned_routes import LearnedRoutes
from otel_pyinstrument.passages import Passage
from otel_pyinstrument.profile_event import ProfileEvent
from otel_pyinstrument.recording import Recording
from otel_pyinstrument.request import (
    BELONGING,
    Belonging,
    Request,
    attach,
    belonging_of,
    outcome_of,
)
from otel_pyinstrument.settings import Settings
from otel_pyinstrument.visit import Visit

if TYPE_CHECKING:
    from otel_pyinstrument.remote_rules.poller import RulesPoller
    from otel_pyinstrument.transport.log_event import LogEvents

_logger = getLogger(__name__)
_ANY_HOOK_WALKS_ALL_THREADS = sys.version_info >= (3, 12)
"""Those too that a fork has left behind: without Python's hooks for forks it takes them for alive."""

_NOT_LOOKED_AT = Belonging(None)
_SERVER = SpanKind.SERVER
"""A look-up less for every span."""
_MAX_TRACES = 10_000
_TRIES = 3
_SPANS_OF_A_TRY = 50

_root_here: ContextVar[weakref.ref[Span] | None] = ContextVar("otel_pyinstrument_root", default=None)
"""The last root with a remote parent that began in this context. Weak: a context may outlive it."""


class ProfilingSpanProcessor(SpanProcessor):
    """Profiles a share of all requests and hangs each profile on its span as the last event.

    A request is a sampled SERVER span without a parent in this process. All hooks run on the request's
    thread, do little, and go through the guard. The event is appended before any exporter sees the span,
    wherever this processor stands among the others.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        payload_as_bytes: Callable[[], bool],
        ending_hook_works: bool = True,
        log_events: LogEvents | None = None,
        reraise: bool = False,
    ) -> None:
        self._settings = settings
        self._payload_as_bytes = payload_as_bytes
        self._ending_hook_works = ending_hook_works
        self._log_events = log_events
        self._engine = Engine(settings)
        self._routes = LearnedRoutes()
        self._guard = Guard(self._switch_off, reraise=reraise)
        self._off = False
        self._pid = os.getpid()
        self._lock = native.RLock()
        # Weak, without callbacks: see `Gate`.
        self._profiled: list[weakref.ref[Request]] = []
        self._traces: dict[int, int] = {}
        """Those of which requests are being served here, and how many: a caller may ask for several."""
        self.gate = Gate(settings, span_seconds=self._seconds_of_a_span())
        self._poller = _rules_poller(settings, self.gate)

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        try:
            # First what holds for nearly all spans: they are no root, and nothing is being profiled. The
            # application asks for a profile of its own by the context. Not by the property `kind`, whose call
            # costs more than all the rest; whether it is there is tried when profiling is switched on.
            if self._profiled:
                # Under the profile hook, where every call costs twice: nothing is called that can be written.
                context: Any = private_names.current_context() if parent_context is None else parent_context
                try:
                    below = context[private_names.SPAN_KEY].otel_pyinstrument_belonging.below
                except (AttributeError, KeyError) as error:
                    if came_from_signal_handler(error):
                        raise
                else:
                    child: Any = span
                    child.otel_pyinstrument_belonging = below
                    return
            elif span._kind is not _SERVER and parent_context is None:  # pyright: ignore[reportPrivateUsage]
                return
            self._start(span, parent_context)
        except Exception as error:
            if came_from_signal_handler(error):
                raise
            self._guard.failed("on_start", error)

    def _on_ending(self, span: Span) -> None:
        try:
            # As for the start. To look for an attribute that is not there costs far more.
            if span._kind is not _SERVER and not self._profiled:  # pyright: ignore[reportPrivateUsage]
                return
            # As `belonging_of`, without the call.
            belonging: Belonging | None = getattr(span, BELONGING, None)
            if belonging is None or not self._ending_hook_works or self._guard.tripped:
                return
            if belonging.is_root:
                self._end(span, belonging)
            elif belonging.request is not None:
                belonging.request.child_spans += 1
                try:
                    belonging.request.facts.child_ended(span)
                except Exception as error:  # one call less in the facts, not a profile less
                    if came_from_signal_handler(error):
                        raise
                    self._guard.report("counting a child span", error)
        except Exception as error:
            if came_from_signal_handler(error):
                raise
            self._guard.failed("on_ending", error)

    def shutdown(self) -> None:
        """Profile nothing from now on. Hooks on other threads go at their next sample.

        What goes wrong is logged: if it were raised, the SDK would shut down no processor after this one.
        """
        try:
            self._switch_off()
        except Exception as error:
            if came_from_signal_handler(error):
                raise
            self._guard.failed("shutdown", error)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Nothing waits here. Said aloud: older SDKs ask no processor after one that does not say True."""
        return True

    def reset_after_fork(self) -> None:
        """In the forked child: what the parent profiles is not the child's."""
        self._guard.call("after_fork", self._reset)

    def _switch_off(self) -> None:
        self._off = True
        if self._poller is not None:
            self._poller.stop()
        self._engine.stop_all()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._lock = native.RLock()  # the parent's thread that held it does not exist here
        self._profiled, self._traces = [], {}
        self._engine.stop_all()
        self.gate.reset()
        if self._poller is not None:
            self._poller.reset()

    def _start(self, span: Span, parent_context: Context | None) -> None:
        if self._off:
            return
        forced = parent_context is not None and parent_context.get(FORCED_KEY) is True
        parent = span.parent
        if parent is not None and not parent.is_remote:
            if not forced or parent.trace_id in self._traces:
                return
        elif not forced and span.kind is not _SERVER:
            return
        if parent is not None and parent.is_remote:
            first = _belonging_of_root_below(parent)
            if first is not None:
                # A second instrumentation of the same request, which took the remote parent once more.
                attach(span, first.below)
                return
            _root_here.set(weakref.ref(span))
        belonging = self._admit(span, span.get_span_context(), forced=forced)
        attach(span, belonging)
        if not self._ending_hook_works or (span.kind is not _SERVER and belonging.request is None):
            self._wrap_end(span, belonging)  # nobody else tells of its end: see `_on_ending`

    def _admit(self, span: Span, context: SpanContext, *, forced: bool) -> Belonging:
        if not context.trace_flags & TraceFlags.SAMPLED:
            return _NOT_LOOKED_AT
        if os.getpid() != self._pid:
            # Forked in C, as uWSGI does: no hook of Python has run.
            self._off = (
                self._off or _ANY_HOOK_WALKS_ALL_THREADS
            )  # before other threads find nothing to do here
            self._reset()
            if self._off:
                self._switch_off()
                _logger.warning(
                    "Profiling is off in this process: it was forked without telling Python, which could "
                    "crash from 3.12 on when it profiles. Start uWSGI with --py-call-uwsgi-fork-hooks"
                )
                return _NOT_LOOKED_AT
        if self._off:  # another thread has found that out, after this one looked
            return _NOT_LOOKED_AT
        if self._poller is not None and not self._poller.started:
            self._poller.start()
        with self._lock:
            if len(self._traces) >= _MAX_TRACES:
                self._traces = {}  # of spans that were dropped without an end
            self._traces[context.trace_id] = self._traces.get(context.trace_id, 0) + 1
        name = name_of(span)
        passage = None if forced else self.gate.pass_by(name)
        if passage is not None:
            return Belonging(None, passage)
        if self._log_events is None and private_names.max_events_of(span) == 0:
            return _NOT_LOOKED_AT
        return self._look(span, name, forced=forced)

    def _look(self, span: Span, name: str, *, forced: bool) -> Belonging:
        endpoint = endpoint_of(span, self._routes, with_path=self.gate.asks_for_paths)
        visit = self.gate.arrive(endpoint, forced=forced, span_name=name)
        if visit is None:
            return _NOT_LOOKED_AT
        slot = None if visit.choice[0] is None else self.gate.admit(visit)
        if slot is None:
            return Belonging(None, visit)
        request = Request(span, slot, self._engine, self._guard)
        started = request.start()
        if self._off:  # meanwhile: nobody sees the end of this request, and its hook is on this thread
            self._engine.stop_all()
            started = False
        if not started:
            self.gate.refuse(slot, visit)
            return Belonging(None, visit)
        with self._lock:
            self._profiled = [*self._others(request), weakref.ref(request)]
        if request.holds_thread:
            self.gate.begin_hook(slot)
        return Belonging(request, visit)

    def _others(self, request: Request) -> list[weakref.ref[Request]]:
        return [other for other in self._profiled if other() not in (None, request)]

    def _end(self, span: Span, belonging: Belonging, timestamp: int | None = None) -> None:
        request, visit = belonging.request, belonging.visit
        trace_id = span.get_span_context().trace_id
        with self._lock:
            others = self._traces.pop(trace_id, 1) - 1
            if others > 0:
                self._traces[trace_id] = others
        if visit is None:
            return
        if isinstance(visit, Passage):
            seconds, failed, _ = outcome_of(span, timestamp)
            self.gate.passed(visit, seconds=seconds, failed=failed)
            return
        recording = None
        ended_ns = span.end_time if timestamp is None else timestamp
        if request is not None:
            with self._lock:
                self._profiled = self._others(request)
            recording = request.finish(ended_ns)
        visit.is_route = learn_route(span, visit.endpoint, self._routes)
        if request is None or recording is None:
            self._leave(span, timestamp, visit, request, recording)
            return
        if recording.facts.failure is not None:
            self._guard.report("sampling", recording.facts.failure)
        finished = request.facts.finish(span)
        cost_seconds = self._leave(span, timestamp, visit, request, recording)
        self.gate.hold(recording, recording.node_count)
        event = ProfileEvent(
            recording,
            reason=request.reason,
            interval_seconds=self._settings.interval_seconds,
            timestamp=ended_ns,
            payload_as_bytes=self._payload_as_bytes,
            request_facts=partial(finished.as_json, self._settings.mask),
            report=self._guard.report,
            cpu_cost_seconds=cost_seconds,
            charge_encoding=self.gate.charge_encoding,
        )
        if self._log_events is None or not self._log_events.emit(event, span):
            self._append(event, span)

    def _leave(
        self,
        span: Span,
        timestamp: int | None,
        visit: Visit,
        request: Request | None,
        recording: Recording | None,
    ) -> float:
        """Tell the gate how the visit went; the profile's cost in seconds of CPU time."""
        seconds, failed, refused = outcome_of(span, timestamp)
        if request is None or recording is None:
            return self.gate.leave(visit, seconds=seconds, failed=failed, refused=refused)
        return self.gate.leave(
            visit,
            seconds=seconds,
            failed=failed,
            refused=refused,
            slot=request.slot,
            hooked_seconds=recording.facts.hooked_cpu_seconds,
            switching_seconds=recording.facts.switching_cpu_seconds,
            elsewhere_seconds=request.elsewhere_cpu_seconds,
            comparable=not recording.facts.truncated and not recording.facts.interrupted,
            child_spans=request.child_spans,
        )

    def _append(self, event: ProfileEvent, span: Span) -> None:
        events = private_names.events_of(span)
        limit = private_names.max_events_of(span)
        if limit is not None and len(events) >= limit:
            _logger.debug("A profile was dropped: the span has %d events, its limit", len(events))
            return
        events.append(event)

    def _seconds_of_a_span(self) -> float:
        """CPU time for a span that is no root, while nothing is profiled: the least of some tries."""
        span: Any = _ChildSpan()
        tries: list[float] = []
        for _ in range(_TRIES):
            start = time.thread_time()
            for _ in range(_SPANS_OF_A_TRY):
                self.on_start(span)
                self._on_ending(span)
                self.on_end(span)
            tries.append((time.thread_time() - start) / _SPANS_OF_A_TRY)
        return min(tries)

    def _wrap_end(self, span: Span, belonging: Belonging) -> None:
        """See `end` of this one span before the exporters do."""
        original = span.end

        def end(end_time: int | None = None) -> None:
            end_time = time.time_ns() if end_time is None else end_time
            self._guard.call("end", self._end, span, belonging, end_time)
            original(end_time)

        span.end = end


class _ChildSpan:
    """As much of a span as is looked at when nothing is profiled."""

    _kind = SpanKind.INTERNAL


def _belonging_of_root_below(remote_parent: SpanContext) -> Belonging | None:
    """What hangs on the open root that began in this context below the same remote parent, if one did.

    The current span does not tell: FastAPI's telemetry makes the remote parent current before it begins.
    """
    reference = _root_here.get()
    root = None if reference is None else reference()
    if root is None or root.end_time is not None or root.parent is None:
        return None
    same = root.parent.span_id == remote_parent.span_id and root.parent.trace_id == remote_parent.trace_id
    return belonging_of(root) if same else None


def _rules_poller(settings: Settings, gate: Gate) -> RulesPoller | None:
    if not settings.asks_for_rules:
        return None
    # Costs an import of the HTTP client that only few need.
    from otel_pyinstrument.remote_rules.poller import RulesPoller

    return RulesPoller(settings.platform_url, settings.project_key, gate.apply)
