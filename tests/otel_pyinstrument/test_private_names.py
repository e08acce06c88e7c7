"""Every private name of another library, removed or changed: profiling stays off, the application runs."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from opentelemetry.sdk import trace as sdk_trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Span, SynchronousMultiSpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind
from pyinstrument import stack_sampler
from pyinstrument.low_level import stat_profile

from otel_pyinstrument import PyinstrumentInstrumentor, private_names, self_test, thread_sampler


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def provider(exporter: InMemorySpanExporter) -> Iterator[TracerProvider]:
    made = TracerProvider(resource=Resource.get_empty(), shutdown_on_exit=False)
    made.add_span_processor(SimpleSpanProcessor(exporter))
    yield made
    made.shutdown()


def serve(provider: TracerProvider) -> None:
    with provider.get_tracer("test").start_as_current_span("GET /", kind=SpanKind.SERVER):
        sum(range(1000))


def test_the_installed_libraries_pass() -> None:
    self_test.check_sampler()

    assert self_test.ending_hook_works()
    assert sys.getprofile() is None


def test_unsubscribing_twice_leaves_others_alone() -> None:
    # Given another target on the same thread
    sampler = private_names.stack_sampler()

    def ours(*_arguments: object) -> None:
        pass

    def theirs(*_arguments: object) -> None:
        pass

    private_names.subscribe(sampler, theirs, interval_seconds=1)
    private_names.subscribe(sampler, ours, interval_seconds=1)

    # When ours goes twice
    assert private_names.unsubscribe(sampler, ours)
    assert private_names.unsubscribe(sampler, ours)

    # Then theirs stays until it goes
    assert [each.target for each in sampler.subscribers] == [theirs]
    assert private_names.unsubscribe(sampler, theirs)
    assert sys.getprofile() is None


def without_subscribe(patch: pytest.MonkeyPatch) -> None:
    patch.delattr(stack_sampler.StackSampler, "subscribe")


def subscribe_with_other_arguments(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(stack_sampler.StackSampler, "subscribe", lambda self, target, interval: None)


def subscribe_without_effect(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(stack_sampler.StackSampler, "subscribe", lambda self, target, **options: None)


def without_unsubscribe(patch: pytest.MonkeyPatch) -> None:
    patch.delattr(stack_sampler.StackSampler, "unsubscribe")


def without_get_stack_sampler(patch: pytest.MonkeyPatch) -> None:
    patch.delattr(stack_sampler, "get_stack_sampler")


def without_the_module(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(sys.modules, "pyinstrument.stack_sampler", None)


def samples_of_another_form(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(stack_sampler, "build_call_stack", lambda frame, event, arg: ["thread", "a function"])


def samples_of_another_type(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(stack_sampler, "build_call_stack", lambda frame, event, arg: [1, 2])


def a_hook_of_another_type(patch: pytest.MonkeyPatch) -> None:
    def set_in_python(target: Callable[..., object] | None, **_options: object) -> None:
        sys.setprofile(None if target is None else (lambda *arguments: target(*arguments)))

    patch.setattr(thread_sampler, "setstatprofile", set_in_python)


def no_current_interval(patch: pytest.MonkeyPatch) -> None:
    def _start(self, interval: float, use_timing_thread: bool) -> None:
        self.__dict__.pop("current_sampling_interval", None)

    patch.setattr(thread_sampler.ThreadSampler, "_start_sampling", _start)


def frames_named_otherwise(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(stat_profile, "get_frame_info", lambda frame: "a frame")


def without_frame_names(patch: pytest.MonkeyPatch) -> None:
    patch.delattr(stat_profile, "get_frame_info")


def spans_without_limits(patch: pytest.MonkeyPatch) -> None:
    original = Span.start

    def start(self: Span, *arguments: object, **options: object) -> None:
        limits = self.__dict__.pop("_limits")
        self._span_limits = limits
        original(self, *arguments, **options)

    patch.setattr(Span, "start", start)


def spans_without_an_event_list(patch: pytest.MonkeyPatch) -> None:
    original = Span.start

    def start(self: Span, *arguments: object, **options: object) -> None:
        self._event_list = self.__dict__.pop("_events")
        original(self, *arguments, **options)

    patch.setattr(Span, "start", start)
    patch.setattr(Span, "_readable_span", lambda self: sdk_trace.ReadableSpan(self.name, self.context))


def events_that_cannot_be_appended(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Span, "_new_events", lambda self: ())


@pytest.mark.parametrize(
    "change",
    [
        without_subscribe,
        subscribe_with_other_arguments,
        subscribe_without_effect,
        without_unsubscribe,
        without_get_stack_sampler,
        without_the_module,
        samples_of_another_form,
        samples_of_another_type,
        a_hook_of_another_type,
        no_current_interval,
        frames_named_otherwise,
        without_frame_names,
        spans_without_limits,
        spans_without_an_event_list,
        events_that_cannot_be_appended,
    ],
)
def test_a_changed_library_switches_profiling_off_with_one_warning(
    change: Callable[[pytest.MonkeyPatch], None],
    provider: TracerProvider,
    exporter: InMemorySpanExporter,
    caplog: pytest.LogCaptureFixture,
) -> None:
    # Given a library in which one name that we rely on is gone or behaves differently
    with pytest.MonkeyPatch.context() as patch:
        change(patch)

        # When profiling is switched on and a request is served
        PyinstrumentInstrumentor().instrument(tracer_provider=provider, rate=1)
        serve(provider)

    # Then the request is exported without a profile, and one line says why
    assert not PyinstrumentInstrumentor().is_instrumented_by_opentelemetry
    assert [(record.name, record.levelno) for record in caplog.records] == [
        ("otel_pyinstrument.instrumentor", logging.WARNING)
    ]
    assert "it does not work with an installed library" in caplog.text
    (span,) = exporter.get_finished_spans()
    assert span.events == ()
    assert sys.getprofile() is None


def test_an_sdk_without_the_ending_hook_still_gets_profiles(
    provider: TracerProvider, exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given an SDK that never calls `_on_ending`
    monkeypatch.setattr(SynchronousMultiSpanProcessor, "_on_ending", lambda self, span: None)
    assert not self_test.ending_hook_works()

    # When a request is served
    PyinstrumentInstrumentor().instrument(tracer_provider=provider, rate=1)
    serve(provider)

    # Then its span carries a profile all the same
    (span,) = exporter.get_finished_spans()
    assert [event.name for event in span.events] == ["pyinstrument.profile"]
    assert span.events[0].timestamp == span.end_time


def test_an_sdk_whose_spans_still_record_while_ending_gets_profiles(
    provider: TracerProvider, exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given an SDK that lets processors change the ending span, as the specification asks
    monkeypatch.setattr(Span, "is_recording", lambda self: True)
    assert self_test.ending_hook_works()

    PyinstrumentInstrumentor().instrument(tracer_provider=provider, rate=1)
    serve(provider)

    (span,) = exporter.get_finished_spans()
    assert [event.name for event in span.events] == ["pyinstrument.profile"]


def test_the_self_test_keeps_away_from_threads_that_are_profiled_by_others() -> None:
    # Given a debugger that profiles every new thread
    code = """
import sys, threading
from otel_pyinstrument import self_test
threading.setprofile(lambda *arguments: None)
self_test.check_sampler()
print(threading.active_count(), sys.getprofile())
"""

    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)

    assert (run.stdout, run.stderr) == ("1 None\n", "")
