"""Whether capture works with the installed libraries, tried once when profiling is switched on.

When it does not, profiling stays off and the application does not notice.
"""

from __future__ import annotations

import sys
import threading
from itertools import chain
from typing import Any, cast

from opentelemetry.context import Context
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import EventBase, ReadableSpan, Span, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import SpanKind

from otel_pyinstrument.private_names import (
    events_of,
    frame_identifiers,
    hook_is_installed,
    kind_in,
    max_events_of,
    processors_of,
    remove_processor,
    sampling_interval_seconds,
    stack_sampler,
    subscribe,
    unsubscribe,
)

_PROBE_INTERVAL_SECONDS = 1e-7
_RARELY_SECONDS = 1.0
_PROBE_CALLS = 10_000


class PrivateNameError(Exception):
    """A library does not behave as we rely on; the message says which."""


def check_sampler() -> None:
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
    shared: list[list[str]] = []

    def keep(stack: list[str], _elapsed: float, _state: object) -> None:
        stacks.append(stack)

    def share(stack: list[str], _elapsed: float, _state: object) -> None:
        shared.append(stack)

    sampler = stack_sampler()
    if sampling_interval_seconds(sampler) or sampler.last_profile_time or sampler.subscribers:
        return "a new sampler is sampling already"
    subscribe(sampler, keep, interval_seconds=_RARELY_SECONDS)
    try:
        subscribe(sampler, share, interval_seconds=_RARELY_SECONDS)
        subscribe(sampler, keep, interval_seconds=_PROBE_INTERVAL_SECONDS)
        for _ in range(_PROBE_CALLS):
            if len(stacks) > 1 and shared:
                break
        installed = hook_is_installed()
        (named,) = frame_identifiers([sys._getframe()])  # pyright: ignore[reportPrivateUsage]
        interval_seconds = sampling_interval_seconds(sampler)
    finally:
        intact = unsubscribe(sampler, share) and unsubscribe(sampler, keep)
    own_name = f"{_sample_a_little.__name__}\0{__file__}\0"
    checks = {
        "its profile function is not the one we know": installed and intact and sys.getprofile() is None,
        "its sampling interval cannot be seen": interval_seconds == _PROBE_INTERVAL_SECONDS,
        "the samples do not show the running function": any(
            entry.startswith(own_name) for entry in chain(*stacks)
        ),
        "two that share a thread do not both have samples": bool(shared),
        "frames and samples are not named alike": named.startswith(own_name),
    }
    return next((failure for failure, passed in checks.items() if not passed), None)


class _Probe(SpanProcessor):
    """Appends an event where we do, and looks whether the exported span has it."""

    def __init__(self) -> None:
        self.saw_ending = False
        self.arrived: set[str] = set()

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        max_events_of(span)
        len(events_of(span))
        if not isinstance(kind_in(span), SpanKind):
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
