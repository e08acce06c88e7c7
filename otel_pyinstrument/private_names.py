"""Names of other libraries that capture needs and that are not public, and a test that they still work.

`thread_sampler` belongs to it. The rest of such names stands in `transport.private_names`,
`transport.uvicorn_flush`, `hop_patches` and `facts.template_lines`: without those a profile is made all the
same. `sampler_self_test` and `ending_hook_works` run once when profiling is switched on: when sampling fails,
profiling stays off and the application does not notice.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from functools import lru_cache
from itertools import chain
from operator import attrgetter
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol, cast

from opentelemetry import context as context_api
from opentelemetry.context import Context
from opentelemetry.context.contextvars_context import ContextVarsRuntimeContext
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import EventBase, ReadableSpan, Span, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import INVALID_SPAN, SpanKind, set_span_in_context

from otel_pyinstrument import native

if TYPE_CHECKING:
    from pyinstrument.stack_sampler import StackSampler, StackSamplerSubscriberTarget

_EVENTS = "_events"
_LIMITS = "_limits"
_KIND = "_kind"
_ON_ENDING = "_on_ending"
_ACTIVE_SPAN_PROCESSOR = "_active_span_processor"
_SPAN_PROCESSORS = "_span_processors"
_LOCK = "_lock"
_UPDATE = "_update"
_PROFILE_HOOK_TYPE = "ProfilerState"
_PROBE_INTERVAL_SECONDS = 1e-7
_RARELY_SECONDS = 1.0
_PROBE_CALLS = 10_000
_BOOKKEEPING_CALLS = 3
_KEPT_HOOKS = 32
_hooks = native.local()


class PrivateNameError(Exception):
    """A library does not behave as we rely on; the message says which."""


class Appendable(Protocol):
    """What a span's events are: an SDK `BoundedList`."""

    def __len__(self) -> int: ...
    def append(self, item: EventBase) -> None: ...


# --- OpenTelemetry API -------------------------------------------------------------------------------


_runtime = getattr(context_api, "_RUNTIME_CONTEXT", None)
_variable: object = getattr(_runtime, "_current_context", None)


def current_context() -> Mapping[str, object]:
    """As `opentelemetry.context.get_current`, with half the calls that the profile hook sees."""
    if _read_variable is not None and context_api._RUNTIME_CONTEXT is _runtime:  # pyright: ignore[reportPrivateUsage]
        return _read_variable()
    return context_api.get_current()  # somebody else keeps the context, perhaps only since a moment ago


_read_variable: Callable[[], Mapping[str, object]] | None = None
if type(_runtime) is ContextVarsRuntimeContext and isinstance(_variable, ContextVar):
    _read_variable = cast("ContextVar[Context]", _variable).get

SPAN_KEY = next(iter(set_span_in_context(INVALID_SPAN, Context())))
"""Under this a context has its span."""


# --- OpenTelemetry SDK -------------------------------------------------------------------------------


def events_of(span: Span) -> Appendable:
    """The live list of the span's events. `Span.add_event` refuses in `_on_ending`, this list does not."""
    return getattr(span, _EVENTS)


def max_events_of(span: Span) -> int | None:
    """How many events the span may hold; None without a limit."""
    return getattr(span, _LIMITS).max_events


attributes_in = attrgetter("_attributes._dict")
"""The live dict of a span's attributes, by a call that the profile hook hardly sees.

Raises:
    AttributeError: this version of the SDK keeps them elsewhere.
"""


outcome_in = attrgetter("_start_time", "_end_time", "_status._status_code", "_attributes._dict")
"""How a span began and ended, its attributes: in one call.

Raises:
    AttributeError: this version of the SDK keeps them elsewhere.
"""


figures_in = attrgetter(
    "_context",
    "_parent",
    "_instrumentation_scope",
    "_start_time",
    "_end_time",
    "_status._status_code",
    "_kind",
)
"""See `Figures`; by a call that the profile hook hardly sees.

Raises:
    AttributeError: this version of the SDK keeps them elsewhere.
"""


def processors_of(provider: TracerProvider) -> Iterator[SpanProcessor]:
    """All span processors registered with `provider`, those inside composite processors too."""
    waiting: list[SpanProcessor] = [composite_of(provider)]
    while waiting:
        processor = waiting.pop()
        inner = getattr(processor, _SPAN_PROCESSORS, None)
        if inner is None:
            yield processor
        else:
            waiting.extend(inner)


def composite_of(provider: TracerProvider) -> SpanProcessor:
    """What calls all span processors of `provider`."""
    return getattr(provider, _ACTIVE_SPAN_PROCESSOR)


def remove_processor(provider: TracerProvider, processor: SpanProcessor) -> None:
    """Undo `provider.add_span_processor(processor)`; the SDK has no public way."""
    composite = composite_of(provider)
    with getattr(composite, _LOCK):
        kept = tuple(other for other in getattr(composite, _SPAN_PROCESSORS) if other is not processor)
        setattr(composite, _SPAN_PROCESSORS, kept)


class _Probe(SpanProcessor):
    """Appends an event where we do, and looks whether the exported span has it."""

    def __init__(self) -> None:
        self.saw_ending = False
        self.arrived: set[str] = set()

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        max_events_of(span)
        len(events_of(span))
        if not isinstance(getattr(span, _KIND), SpanKind):
            raise AttributeError("the kind of a span is not where we look for it")

    def _on_ending(self, span: Span) -> None:
        self.saw_ending = True
        events_of(span).append(_ProbeEvent("while ending"))

    def on_end(self, span: ReadableSpan) -> None:
        self.arrived = {event.name for event in span.events}


class _ProbeEvent(EventBase):
    dropped_attributes = 0

    @property
    def attributes(self) -> dict[str, Any]:
        return {}


def ending_hook_works() -> bool:
    """Whether the SDK calls `_on_ending` before a span is handed to the exporters, and takes events there.

    False for SDKs before 1.34, which do not have the hook.

    Raises:
        PrivateNameError: a span has no event list or no limits where we look for them.
    """
    provider = TracerProvider(
        sampler=ALWAYS_ON,
        resource=Resource.get_empty(),
        shutdown_on_exit=False,
        meter_provider=NoOpMeterProvider(),
        span_limits=SpanLimits(max_events=128),  # not those of the environment, which may be 0
    )
    probe = _Probe()
    try:
        provider.add_span_processor(probe)
        found = probe in processors_of(provider)
        span = provider.get_tracer(__name__).start_span("probe")
        events_of(cast("Span", span)).append(_ProbeEvent("before"))
        span.end()
        remove_processor(provider, probe)
        if not found or probe in processors_of(provider):
            raise AttributeError("span processors are not where we look for them")
        if "before" not in probe.arrived:
            raise AttributeError("what is appended to the events of a span does not arrive")
    except (AttributeError, TypeError) as error:
        raise PrivateNameError(f"opentelemetry-sdk: {error}") from error
    return probe.saw_ending and "while ending" in probe.arrived


# --- pyinstrument ------------------------------------------------------------------------------------


def stack_sampler() -> StackSampler:
    """The sampler of the current thread: ours, unless a profiler of the user's is at work with another."""
    from pyinstrument.stack_sampler import StackSampler, get_stack_sampler

    from otel_pyinstrument.thread_sampler import ThreadSampler

    sampler = get_stack_sampler()
    if type(sampler) is StackSampler and not sampler.subscribers:
        sampler.__class__ = ThreadSampler  # and not another one: whoever rests meanwhile comes back to this
    return sampler


def keep_samplers_by_thread() -> None:
    """Undo that gevent, when it patched before pyinstrument was loaded, gave each greenlet its own sampler.

    They would take the one profile function of the thread from each other.
    """
    from pyinstrument import stack_sampler

    if not isinstance(stack_sampler.thread_locals, native.local):
        stack_sampler.thread_locals = native.local()


def frame_identifiers(frames: Iterable[FrameType]) -> list[str]:
    """What the sampler calls frames: name, file, first line, and attributes such as the class."""
    from pyinstrument.low_level.stat_profile import get_frame_info

    return list(map(get_frame_info, frames))


def silence_overhead_warning() -> None:
    """Keep pyinstrument from writing to stderr in each thread of an application with a slow clock."""
    from pyinstrument import stack_sampler

    stack_sampler.IGNORE_OVERHEAD_WARNING = True


def hook_is_ours_to_share() -> bool:
    """Whether this thread has no profile function, or pyinstrument's, which serves several subscribers."""
    hook: object = sys.getprofile()
    return hook is None or type(hook).__name__ == _PROFILE_HOOK_TYPE


def hook_is_installed() -> bool:
    """Whether pyinstrument's profile function is at work on this thread."""
    return type(sys.getprofile()).__name__ == _PROFILE_HOOK_TYPE


def subscribe(
    sampler: StackSampler, target: StackSamplerSubscriberTarget, *, interval_seconds: float
) -> None:
    """Have `target` called on this thread. Installs the profile function, also after others wiped it.

    For a target that is subscribed already: from now on at this interval.
    """
    if sys.getprofile() is None:
        # Somebody's sys.setprofile(None) removed a hook that the sampler believes in.
        _forget_hook(sampler)
    _keep_hook()
    for subscriber in sampler.subscribers:
        if subscriber.target == target:
            subscriber.desired_interval = interval_seconds
            getattr(sampler, _UPDATE)()
            break
    else:
        sampler.subscribe(target, desired_interval=interval_seconds, use_async_context=False)
    _keep_hook()


def unsubscribe(sampler: StackSampler, target: StackSamplerSubscriberTarget) -> bool:
    """Undo `subscribe`, on the same thread. False when somebody had replaced or removed the hook.

    A foreign profile function stays: the sampler's own way out would wipe it. Doing it twice is no harm.
    """
    _keep_hook()
    intact = hook_is_installed()
    if all(other.target != target for other in sampler.subscribers):
        return intact
    # A new list, because the sampler may be iterating over the old one right now.
    sampler.subscribers = list(sampler.subscribers)
    if intact:
        sampler.unsubscribe(target)
    else:
        sampler.subscribers = [other for other in sampler.subscribers if other.target != target]
        if not sampler.subscribers:
            _forget_hook(sampler)
    return intact


def sampler_is_changing(stack: list[str]) -> bool:
    """Whether a sample was taken inside the sampler's own bookkeeping, ours or the user's.

    A target that unsubscribed there would pull the list of subscribers from under it.
    """
    ends = _bookkeeping_files()
    return any(end in entry for entry in stack[-_BOOKKEEPING_CALLS:] for end in ends)


@lru_cache(maxsize=1)
def _bookkeeping_files() -> tuple[str, ...]:
    """As they stand in the entries of a sample."""
    from pyinstrument import stack_sampler

    from otel_pyinstrument import other_threads, thread_sampler

    files = (stack_sampler.__file__, thread_sampler.__file__, other_threads.__file__, __file__)
    return tuple(f"\0{file}\0" for file in files)


def sampling_interval_seconds(sampler: StackSampler) -> float:
    """The interval the sampler works at now: the smallest that any subscriber asked for."""
    return sampler.current_sampling_interval or 0.0


def _keep_hook() -> None:
    """Keep the state of the profile function alive for a while after it is replaced.

    CPython 3.11 creates a frame object between reading that state and calling the function with it, without a
    reference of its own. When that sets off the garbage collector and Python code of a finalizer is sampled
    there, the function that is replaced meanwhile would be called with freed memory.
    """
    kept: deque[object] | None = getattr(_hooks, "kept", None)
    if kept is None:
        kept = _hooks.kept = deque[object](maxlen=_KEPT_HOOKS)
    kept.append(sys.getprofile())


def _forget_hook(sampler: StackSampler) -> None:
    sampler.current_sampling_interval = None
    sampler.last_profile_time = 0.0


def sampler_self_test() -> None:
    """Sample a little work in a thread of its own, and leave no hook behind.

    Raises:
        PrivateNameError: no samples arrived, or they do not look as we read them.
    """
    failures: list[str] = []
    thread = threading.Thread(target=_probe_sampler, args=(failures,), name="otel-pyinstrument-self-test")
    thread.start()
    thread.join()
    if failures:
        raise PrivateNameError(f"pyinstrument: {failures[0]}")


def _probe_sampler(failures: list[str]) -> None:
    try:
        # With a debugger or coverage tool that profiles every thread there is nothing to test, or to profile.
        failure = _sample_a_little() if sys.getprofile() is None else None
        if failure is not None:
            failures.append(failure)
    except Exception as error:
        failures.append(f"{type(error).__name__}: {error}")


def _sample_a_little() -> str | None:
    """What is not as we know it."""
    stacks: list[list[str]] = []

    def keep(stack: list[str], _elapsed: float, _state: object) -> None:
        stacks.append(stack)

    sampler = stack_sampler()
    if sampling_interval_seconds(sampler) or sampler.last_profile_time or sampler.subscribers:
        return "a new sampler is sampling already"
    subscribe(sampler, keep, interval_seconds=_RARELY_SECONDS)
    try:
        subscribe(sampler, keep, interval_seconds=_PROBE_INTERVAL_SECONDS)
        for _ in range(_PROBE_CALLS):
            if len(stacks) > 1:
                break
        installed = hook_is_installed()
        (named,) = frame_identifiers([sys._getframe()])  # pyright: ignore[reportPrivateUsage]
        interval_seconds = sampling_interval_seconds(sampler)
    finally:
        intact = unsubscribe(sampler, keep)
    own_name = f"{_sample_a_little.__name__}\0{__file__}\0"
    checks = {
        "its profile function is not the one we know": installed and intact and sys.getprofile() is None,
        "its sampling interval cannot be seen": interval_seconds == _PROBE_INTERVAL_SECONDS,
        "the samples do not show the running function": any(
            entry.startswith(own_name) for entry in chain(*stacks)
        ),
        "frames and samples are not named alike": named.startswith(own_name),
    }
    return next((failure for failure, passed in checks.items() if not passed), None)
