"""Names of other libraries that capture needs and that are not public; `self_test` tries whether they work.

`thread_sampler` belongs to it. The rest of such names stands in `transport.private_names`,
`transport.uvicorn_flush`, `hop_patches` and `facts.template_lines`: without those a profile is made all the
same.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from functools import lru_cache
from operator import attrgetter
from types import FrameType
from typing import TYPE_CHECKING, Protocol, cast

from opentelemetry import context as context_api
from opentelemetry.context import Context
from opentelemetry.context.contextvars_context import ContextVarsRuntimeContext
from opentelemetry.sdk.trace import EventBase, Span, SpanProcessor, TracerProvider
from opentelemetry.trace import INVALID_SPAN, set_span_in_context

from otel_pyinstrument import native

if TYPE_CHECKING:
    from pyinstrument.stack_sampler import StackSampler, StackSamplerSubscriberTarget

_EVENTS = "_events"
_LIMITS = "_limits"
_ON_ENDING = "_on_ending"
_ACTIVE_SPAN_PROCESSOR = "_active_span_processor"
_SPAN_PROCESSORS = "_span_processors"
_LOCK = "_lock"
_UPDATE = "_update"
_PROFILE_HOOK_TYPE = "ProfilerState"
_BOOKKEEPING_CALLS = 3
_KEPT_HOOKS = 32
_hooks = native.local()


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


kind_in = attrgetter("_kind")
"""The kind of a span. Where spans begin and end it is read without even this call.

Raises:
    AttributeError: this version of the SDK keeps it elsewhere.
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
    replaced = sys.getprofile()
    if replaced is None:
        # Somebody's sys.setprofile(None) removed a hook that the sampler believes in.
        _forget_hook(sampler)
    else:
        _keep(replaced)
    for subscriber in sampler.subscribers:
        if subscriber.target == target:
            subscriber.desired_interval = interval_seconds
            getattr(sampler, _UPDATE)()
            break
    else:
        sampler.subscribe(target, desired_interval=interval_seconds, use_async_context=False)
    _keep(sys.getprofile())


def unsubscribe(sampler: StackSampler, target: StackSamplerSubscriberTarget) -> bool:
    """Undo `subscribe`, on the same thread. False when somebody had replaced or removed the hook.

    A foreign profile function stays: the sampler's own way out would wipe it. Doing it twice is no harm.
    """
    intact = hook_is_installed()
    for subscriber in sampler.subscribers:
        if subscriber.target == target:
            break
    else:
        return intact
    _keep(sys.getprofile())
    if intact:
        # A new list, because the sampler may be iterating over the old one right now.
        sampler.subscribers = sampler.subscribers[:]
        sampler.unsubscribe(target)
    else:
        sampler.subscribers = [other for other in sampler.subscribers if other is not subscriber]
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


def _keep(hook: object) -> None:
    """Keep the state of the profile function alive for a while after it is replaced.

    CPython 3.11 creates a frame object between reading that state and calling the function with it, without a
    reference of its own. When that sets off the garbage collector and Python code of a finalizer is sampled
    there, the function that is replaced meanwhile would be called with freed memory.
    """
    kept: deque[object] | None = getattr(_hooks, "kept", None)
    if kept is None:
        kept = _hooks.kept = deque[object](maxlen=_KEPT_HOOKS)
    kept.append(hook)


def _forget_hook(sampler: StackSampler) -> None:
    sampler.current_sampling_interval = None
    sampler.last_profile_time = 0.0
