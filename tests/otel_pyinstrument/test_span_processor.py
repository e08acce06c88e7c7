"""Which spans are profiled, what the event looks like on them, and that failures of ours stay ours."""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator

import pytest
from fastapi import FastAPI
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import Decision, ParentBased, Sampler, SamplingResult, StaticSampler
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, TraceFlags
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from otel_pyinstrument import private_names
from otel_pyinstrument import slots as slots_module
from otel_pyinstrument import span_processor as span_processor_module
from otel_pyinstrument.engine import Engine
from otel_pyinstrument.gate import Gate
from otel_pyinstrument.profile_event import ProfileEvent
from otel_pyinstrument.recording import Recording
from otel_pyinstrument.remote_rules.rules import read_rules
from otel_pyinstrument.request import Request, outcome_of, request_of
from otel_pyinstrument.segment import Segment
from otel_pyinstrument.settings import Settings
from otel_pyinstrument.span_processor import ProfilingSpanProcessor
from otel_pyinstrument.thread_sampler import ThreadSampler


def provider_with(processors: list[SpanProcessor], **options: object) -> TracerProvider:
    provider = TracerProvider(resource=Resource.get_empty(), shutdown_on_exit=False, **options)
    for processor in processors:
        provider.add_span_processor(processor)
    return provider


def profiling(**options: object) -> ProfilingSpanProcessor:
    options = {"payload_as_bytes": lambda: False, "reraise": True} | options
    return ProfilingSpanProcessor(Settings(rate=1.0, cpu_budget=1.0, interval=5.0), **options)


def serve(provider: TracerProvider, work: Callable[[], object] = lambda: None, **options: object) -> None:
    options = {"kind": SpanKind.SERVER} | options
    with provider.get_tracer("test").start_as_current_span("GET /", **options):
        work()


# --- which spans -------------------------------------------------------------------------------------


def test_a_server_span_carries_one_profile_with_every_attribute(traced, profile_of, burn) -> None:
    # When a request is served
    times = [time.perf_counter()]

    def work() -> None:
        times.append(time.perf_counter())
        burn(0.03)
        times.append(time.perf_counter())

    span = traced.request(work)
    times.append(time.perf_counter())

    # Then its span ends with the event of the wire format
    assert span.events[-1] is profile_of(span)
    event = profile_of(span)
    assert event.timestamp == span.end_time
    attributes = dict(event.attributes)
    payload = attributes.pop("pyinstrument.payload")
    assert base64.b64decode(payload, validate=True)
    duration = attributes.pop("pyinstrument.duration")
    outer, inner, inner_end, outer_end = times
    assert inner_end - inner - 1e-6 <= duration <= outer_end - outer + 1e-6
    cpu_time = attributes.pop("pyinstrument.cpu_time")
    assert 0.03 <= cpu_time <= duration
    assert 0 < attributes.pop("pyinstrument.cpu_cost") < cpu_time
    assert json.loads(attributes.pop("pyinstrument.facts"))["cpu"]["process_time"] >= 0.03
    assert 1 <= attributes.pop("pyinstrument.sample_count") <= duration / 0.004
    assert attributes.pop("pyinstrument.node_count") >= 3
    assert any("burn" in line or "run" in line for line in attributes.pop("pyinstrument.summary"))
    assert attributes == {
        "pyinstrument.format": 1,
        "pyinstrument.encoding": "zlib+json+base64",
        "pyinstrument.interval": 0.005,
        "pyinstrument.reason": "rate",
        "pyinstrument.truncated": False,
        "pyinstrument.interrupted": False,
    }


@pytest.mark.parametrize("kind", [SpanKind.INTERNAL, SpanKind.CLIENT, SpanKind.PRODUCER, SpanKind.CONSUMER])
def test_a_local_root_that_serves_nobody_is_not_profiled(kind: SpanKind, traced, profile_of) -> None:
    with traced.tracer.start_as_current_span("script", kind=kind):
        assert sys.getprofile() is None

    assert profile_of(traced.exporter.get_finished_spans()[-1]) is None


def test_a_request_with_a_remote_parent_is_profiled(traced, profile_of) -> None:
    remote = SpanContext(1, 2, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))
    with traced.tracer.start_as_current_span(
        "GET /", kind=SpanKind.SERVER, context=trace.set_span_in_context(NonRecordingSpan(remote))
    ):
        pass

    assert profile_of(traced.exporter.get_finished_spans()[-1]) is not None


def test_spans_inside_a_request_inherit_it_and_carry_no_profile(traced, profile_of) -> None:
    # When spans are opened inside a request, a server span among them
    requests = []

    def work() -> None:
        requests.append(request_of(trace.get_current_span()))
        with traced.tracer.start_as_current_span("inner", kind=SpanKind.SERVER) as inner:
            requests.append(request_of(inner))
            with traced.tracer.start_as_current_span("innermost") as innermost:
                requests.append(request_of(innermost))

    traced.request(work)

    # Then they know the request of their root, and only that has the profile
    assert requests[0] is requests[1] is requests[2] is not None
    innermost, inner, root = traced.exporter.get_finished_spans()
    assert [profile_of(span) is None for span in (innermost, inner, root)] == [True, True, False]


@pytest.mark.parametrize("name", [None, b"GET /orders", 7, ["GET /orders"]], ids=str)
def test_a_request_whose_span_has_no_text_for_a_name_is_profiled_as_others(name, traced, profile_of) -> None:
    with traced.tracer.start_as_current_span(name, kind=SpanKind.SERVER):
        pass

    (span,) = traced.exporter.get_finished_spans()
    assert profile_of(span) is not None


class RecordOnly(Sampler):
    def should_sample(self, *_arguments: object, **_options: object) -> SamplingResult:
        return SamplingResult(Decision.RECORD_ONLY)

    def get_description(self) -> str:
        return "record only"


@pytest.mark.parametrize("sampler", [StaticSampler(Decision.DROP), RecordOnly(), ParentBased(RecordOnly())])
def test_an_unsampled_request_is_not_profiled(sampler: Sampler) -> None:
    hooks = []

    serve(provider_with([profiling()], sampler=sampler), lambda: hooks.append(sys.getprofile()))

    assert hooks == [None]


def test_a_disabled_sdk_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    hooks = []

    serve(provider_with([profiling()]), lambda: hooks.append(sys.getprofile()))

    assert hooks == [None]


def test_no_more_requests_are_profiled_at_once_than_allowed(make_traced, profile_of) -> None:
    # Given one place
    traced = make_traced(max_concurrent=1)

    # When two requests overlap, and a third comes after them
    first = traced.tracer.start_span("first", kind=SpanKind.SERVER)
    second = traced.tracer.start_span("second", kind=SpanKind.SERVER)
    first.end()
    second.end()
    traced.request(lambda: None, "third")

    # Then the second alone went without
    assert [profile_of(span) is None for span in traced.exporter.get_finished_spans()] == [False, True, False]


# --- the event among other events --------------------------------------------------------------------


@pytest.mark.parametrize("ours_first", [True, False])
@pytest.mark.parametrize("ending_hook_works", [True, False])
def test_the_place_among_the_processors_does_not_matter(ours_first, ending_hook_works, profile_of) -> None:
    # Given an exporter registered before or after us, on an SDK with or without `_on_ending`
    exporter = InMemorySpanExporter()
    ours = profiling(ending_hook_works=ending_hook_works)
    order = [ours, SimpleSpanProcessor(exporter)]
    provider = provider_with(order if ours_first else order[::-1])

    # When requests end in each of the ways a span can end
    serve(provider)
    tracer = provider.get_tracer("test")
    with tracer.start_span("with", kind=SpanKind.SERVER):
        pass
    span = tracer.start_span("manual", kind=SpanKind.SERVER)
    span.end()
    span.end()
    end_time = time.time_ns() + 1_000_000_000
    tracer.start_span("explicit", kind=SpanKind.SERVER).end(end_time)

    # Then each exported span has its profile, dated when the span ended
    spans = exporter.get_finished_spans()
    assert len(spans) == 4
    assert [profile_of(span).timestamp for span in spans] == [span.end_time for span in spans]
    assert spans[-1].end_time == end_time


@pytest.mark.parametrize("limit", [1, 5])
def test_a_full_span_keeps_all_events_of_the_user(limit: int, profile_of) -> None:
    # Given a span that may hold a few events
    exporter = InMemorySpanExporter()
    provider = provider_with(
        [profiling(), SimpleSpanProcessor(exporter)], span_limits=SpanLimits(max_events=limit)
    )

    # When the request fills it
    serve(
        provider, lambda: [trace.get_current_span().add_event(f"event {number}") for number in range(limit)]
    )

    # Then the profile gives way
    (span,) = exporter.get_finished_spans()
    assert [event.name for event in span.events] == [f"event {number}" for number in range(limit)]
    assert span.dropped_events == 0


def test_the_last_free_place_is_taken(profile_of) -> None:
    exporter = InMemorySpanExporter()
    provider = provider_with(
        [profiling(), SimpleSpanProcessor(exporter)], span_limits=SpanLimits(max_events=2)
    )

    serve(provider, lambda: trace.get_current_span().add_event("mine"))

    (span,) = exporter.get_finished_spans()
    assert [event.name for event in span.events] == ["mine", "pyinstrument.profile"]
    assert span.dropped_events == 0


def test_dropped_events_of_the_user_are_still_counted() -> None:
    exporter = InMemorySpanExporter()
    provider = provider_with(
        [profiling(), SimpleSpanProcessor(exporter)], span_limits=SpanLimits(max_events=2)
    )

    serve(provider, lambda: [trace.get_current_span().add_event(str(number)) for number in range(5)])

    (span,) = exporter.get_finished_spans()
    assert (len(span.events), span.dropped_events) == (2, 3)


def test_where_spans_hold_no_events_nothing_is_sampled() -> None:
    hooks = []

    serve(
        provider_with([profiling()], span_limits=SpanLimits(max_events=0)),
        lambda: hooks.append(sys.getprofile()),
    )

    assert hooks == [None]


@pytest.mark.parametrize(
    "limits", [SpanLimits(max_event_attributes=0), SpanLimits(max_event_attributes=3, max_attribute_length=8)]
)
def test_attribute_limits_do_not_maim_the_profile(limits: SpanLimits, tree_of, profile_of) -> None:
    exporter = InMemorySpanExporter()

    serve(provider_with([profiling(), SimpleSpanProcessor(exporter)], span_limits=limits))

    (span,) = exporter.get_finished_spans()
    assert len(profile_of(span).attributes) == 14
    assert tree_of(span).node_count == 1


@pytest.mark.parametrize(
    ("path", "status"),
    [("http.target", "http.status_code"), ("url.path", "http.response.status_code")],
    ids=["old names", "new names"],
)
def test_paths_that_are_not_found_have_no_first_profile(path, status, make_traced, profile_of) -> None:
    # Given profiles of new endpoints alone
    traced = make_traced(rate=1e-9, slow_rate=0.0, error_rate=0.0)

    def asked(what: str, answer: int) -> list[bool]:
        profiled: list[bool] = []
        for _ in range(3):
            attributes = {"http.request.method": "GET", path: what}
            with traced.tracer.start_as_current_span(
                "GET", kind=SpanKind.SERVER, attributes=attributes
            ) as span:
                span.set_attribute(status, answer)
            profiled.append(profile_of(span) is not None)
        return profiled

    # Then a path that is answered is one, and one that is refused is none
    assert asked("/wp-admin", 404) == [False, False, False]
    assert asked("/orders", 200) == [False, True, False]


@pytest.mark.parametrize(("answer", "was_refused"), [(399, False), (400, True), (499, True), (500, False)])
def test_only_what_the_client_did_wrong_is_refused(answer: int, was_refused: bool, traced) -> None:
    attributes = {"http.response.status_code": answer}
    with traced.tracer.start_as_current_span("GET", kind=SpanKind.SERVER, attributes=attributes) as span:
        pass

    assert outcome_of(span).refused is was_refused


def test_two_providers_profile_their_own_requests(make_traced, profile_of) -> None:
    one, two = make_traced(), make_traced()

    first = one.tracer.start_span("first", kind=SpanKind.SERVER, context=Context())
    second = two.tracer.start_span("second", kind=SpanKind.SERVER, context=Context())
    first.end()
    second.end()

    assert profile_of(one.exporter.get_finished_spans()[0]) is not None
    assert profile_of(two.exporter.get_finished_spans()[0]) is not None


def test_a_span_that_is_never_ended_gives_its_place_back(make_traced, profile_of) -> None:
    # Given one place, taken by a span that somebody forgets
    traced = make_traced(max_concurrent=1, max_duration=0.1)

    def forget() -> None:
        traced.tracer.start_span("forgotten", kind=SpanKind.SERVER)
        end = time.monotonic() + 0.2
        while time.monotonic() < end:
            sum(range(100))

    thread = threading.Thread(target=forget)
    thread.start()
    thread.join()

    # Then the next request gets the place
    assert profile_of(traced.request(lambda: None)) is not None


def test_what_is_known_of_requests_that_never_end_stays_bounded(make_traced, monkeypatch) -> None:
    # Given an application that loses the spans of its requests
    monkeypatch.setattr(span_processor_module, "_MAX_TRACES", 10)
    traced = make_traced(rate=0.0)
    known = []
    for _ in range(35):
        traced.tracer.start_span("forgotten", kind=SpanKind.SERVER)
        known.append(len(traced.processor._traces))

    # Then only some of them are remembered
    assert max(known) == 10


def test_after_shutdown_nothing_is_profiled(traced, profile_of) -> None:
    # When profiling ends in the middle of a request
    span = traced.tracer.start_span("running", kind=SpanKind.SERVER)
    traced.processor.shutdown()
    span.end()

    # Then neither this nor a later request has a profile, or a hook
    assert sys.getprofile() is None
    assert profile_of(traced.exporter.get_finished_spans()[-1]) is None
    assert profile_of(traced.request(lambda: None)) is None
    assert traced.provider.force_flush()


def test_trees_that_nobody_reads_do_not_pile_up(
    make_traced, profile_of, burn, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given an export that is stuck: spans are kept, their events are not read
    monkeypatch.setattr(slots_module, "_MAX_WAITING_NODES", 100)
    traced = make_traced(interval=1.0)
    spans = []
    while len(spans) < 100 and (not spans or profile_of(spans[-1]) is not None):
        spans.append(traced.request(lambda: burn(0.003)))

    # Then at some point requests go unprofiled
    assert 1 < len(spans) < 100
    assert profile_of(traced.request(lambda: None)) is None

    # Until what waits is encoded
    for span in spans[:-1]:
        assert profile_of(span).attributes
    assert profile_of(traced.request(lambda: None)) is not None


def test_finished_requests_leave_nothing_behind(traced) -> None:
    # When many requests are served and exported
    def alive() -> list[int]:
        gc.collect()
        kinds = [Segment, Request, Recording, ProfileEvent]
        return [sum(type(each) is kind for each in gc.get_objects()) for kind in kinds]

    before = alive()
    for _ in range(300):
        traced.request(lambda: sum(range(1000)))
        traced.exporter.clear()

    # Then no object of ours is left of them
    assert alive() == before


# --- failures ----------------------------------------------------------------------------------------


def failing(*_arguments: object, **_options: object) -> object:
    raise ValueError("on purpose")


@pytest.mark.parametrize("ending_hook_works", [True, False])
@pytest.mark.parametrize(
    ("owner", "name", "hook"),
    [
        (Gate, "admit", "on_start"),
        (Engine, "open", "on_start"),
        (Segment, "open", "on_start"),
        (Segment, "__init__", "on_start"),
        (Request, "__init__", "on_start"),
        (Request, "finish", "on_ending"),
        (Segment, "close", "on_ending"),
        (Recording, "__init__", "on_ending"),
        (ProfileEvent, "__init__", "on_ending"),
        (Gate, "hold", "on_ending"),
        (ProfilingSpanProcessor, "_end", "on_ending"),
        (private_names, "subscribe", "on_start"),
        (private_names, "unsubscribe", "on_ending"),
        (ThreadSampler, "subscribe", "on_start"),
        (ThreadSampler, "unsubscribe", "on_ending"),
    ],
)
def test_a_failure_in_a_hook_changes_nothing_but_one_log_line(
    owner: type,
    name: str,
    hook: str,
    ending_hook_works: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    burn,
) -> None:
    # Given a part of ours that fails on purpose, with an exporter behind us, on an SDK with or without
    # `_on_ending`, where `end` of each span stands for it
    exporter = InMemorySpanExporter()
    ours = profiling(reraise=False, ending_hook_works=ending_hook_works)
    provider = provider_with([ours, SimpleSpanProcessor(exporter)])
    hook = "end" if hook == "on_ending" and not ending_hook_works else hook
    monkeypatch.setattr(owner, name, failing)

    # When three requests are served
    for _ in range(3):
        serve(provider, lambda: burn(0.02))
    monkeypatch.undo()
    burn(0.02)

    # Then every span arrived, one line was logged, and no hook is left
    spans = exporter.get_finished_spans()
    assert len(spans) == 3
    assert all(span.end_time is not None for span in spans)
    assert [(record.levelno, record.name.split(".")[0]) for record in caplog.records] == [
        (logging.ERROR, "otel_pyinstrument")
    ]
    assert caplog.records[0].getMessage() == f"Profiling is off in this process: {hook} failed"
    assert "on purpose" in caplog.text
    assert sys.getprofile() is None


def test_a_failure_while_sampling_ends_that_profile_only(
    traced, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, burn, tree_of, profile_of
) -> None:
    # Given sampling that runs out of memory
    def out_of_memory(*_arguments: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(Segment, "_sample", out_of_memory)

        # When two requests are served
        spans = [traced.request(lambda: burn(0.02)) for _ in range(2)]

    # Then user code saw nothing, the profiles say so, and there is one line for both
    assert [profile_of(span).attributes["pyinstrument.truncated"] for span in spans] == [True, True]
    assert [record.getMessage() for record in caplog.records] == ["A profile is incomplete: sampling failed"]

    # And later requests are profiled again
    assert tree_of(traced.request(lambda: burn(0.02))).node_count > 1


def test_a_failure_to_shut_down_leaves_the_processors_after_ours_their_turn(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # Given a span that waits behind us to be exported
    exporter = InMemorySpanExporter()
    exporting = BatchSpanProcessor(exporter, schedule_delay_millis=600_000)
    provider = provider_with([profiling(reraise=False), exporting])
    serve(provider)
    assert exporter.get_finished_spans() == ()

    # When the application ends, and a part of ours fails on purpose
    monkeypatch.setattr(Engine, "stop_all", failing)
    provider.shutdown()

    # Then the span is exported all the same, and one line was logged
    assert [span.name for span in exporter.get_finished_spans()] == ["GET /"]
    assert [record.getMessage() for record in caplog.records] == [
        "Profiling is off in this process: shutdown failed"
    ]


def test_control_flow_exceptions_of_the_user_pass_through(traced) -> None:
    with pytest.raises(SystemExit):
        traced.request(lambda: sys.exit(3))

    assert sys.getprofile() is None


def test_a_failing_request_keeps_its_exception_event_and_its_profile(traced, profile_of) -> None:
    with pytest.raises(ZeroDivisionError):
        traced.request(lambda: 1 / 0)

    (span,) = traced.exporter.get_finished_spans()
    assert [event.name for event in span.events] == ["exception", "pyinstrument.profile"]


def test_the_console_form_of_a_span_can_be_written(traced) -> None:
    span = traced.request(lambda: None)

    events = json.loads(span.to_json())["events"]

    assert events[0]["attributes"]["pyinstrument.encoding"] == "zlib+json+base64"


def test_a_parent_context_given_by_hand_is_respected(traced) -> None:
    # Given a request whose span is not the current one
    root = traced.tracer.start_span("root", kind=SpanKind.SERVER, context=Context())

    # When a child is started with an explicit context
    child = traced.tracer.start_span("child", context=trace.set_span_in_context(root, Context()))

    # Then it belongs to that request
    assert request_of(child) is request_of(root) is not None
    child.end()
    root.end()


def test_a_second_server_span_of_the_same_request_gets_no_profile(traced, profile_of) -> None:
    # Given two instrumentations that both continue the caller's trace
    remote = trace.set_span_in_context(
        NonRecordingSpan(SpanContext(1, 1, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED)))
    )

    # When both make a server span for one request
    with (
        traced.tracer.start_as_current_span("outer", context=remote, kind=SpanKind.SERVER),
        traced.tracer.start_as_current_span("inner", context=remote, kind=SpanKind.SERVER),
    ):
        pass

    # Then the outer one has the profile
    spans = {span.name: span for span in traced.exporter.get_finished_spans()}
    assert profile_of(spans["outer"]) is not None
    assert profile_of(spans["inner"]) is None


def test_a_flush_of_the_provider_goes_on_to_the_processors_after_ours(traced) -> None:
    # Older SDKs stop at the first processor that does not say True.
    assert traced.processor.force_flush() is True


# --- server spans inside requests ---------------------------------------------------------------------


TRACEPARENT = f"00-{'a' * 32}-{'b' * 16}-01"


def visits(traced) -> int:
    """How many requests the gate has seen."""
    return sum(traced.processor.gate.decisions().values())


def below_the_caller(traceparent: str = TRACEPARENT) -> Context:
    return TraceContextTextMapPropagator().extract({"traceparent": traceparent})


async def ask(app: Callable[..., Awaitable[None]], path: str) -> bytes:
    """The body that an ASGI application answers a traced caller with."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "scheme": "http",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "server": ("127.0.0.1", 80),
        "client": ("127.0.0.1", 1234),
        "headers": [(b"host", b"shop"), (b"traceparent", TRACEPARENT.encode())],
    }
    sent: list[dict] = []

    async def receive() -> dict:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return b"".join(message.get("body", b"") for message in sent)


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_a_request_with_two_instrumentations_is_one_request(
    rate: float, make_traced, profile_of, tree_of, time_in, burn
) -> None:
    # Given FastAPI's own telemetry inside the instrumentation of ASGI
    traced = make_traced(rate=rate)
    app = FastAPI(telemetry={"tracer_provider": traced.provider})

    @app.get("/orders")
    async def orders() -> str:
        burn(0.03)
        return "orders"

    # When a traced caller asks, so that both continue its trace
    answer = asyncio.run(ask(OpenTelemetryMiddleware(app, tracer_provider=traced.provider), "/orders"))
    assert answer == b'"orders"'

    # Then there are two server spans and one visit; the outer span has the profile, with the work
    finished = sorted(traced.exporter.get_finished_spans(), key=lambda span: span.start_time)
    outer, inner = [span for span in finished if span.kind is SpanKind.SERVER]
    assert visits(traced) == 1
    assert [profile_of(span) is not None for span in (outer, inner)] == [rate == 1, False]
    assert rate == 0 or time_in(tree_of(outer), "orders") > 25_000


def test_a_second_server_span_of_a_request_that_is_not_chosen_is_not_counted(make_traced) -> None:
    traced = make_traced(rate=0.0)

    with (
        traced.tracer.start_as_current_span("outer", context=below_the_caller(), kind=SpanKind.SERVER),
        traced.tracer.start_as_current_span("inner", context=below_the_caller(), kind=SpanKind.SERVER),
    ):
        pass

    assert visits(traced) == 1


def test_requests_of_one_caller_are_requests_each(traced, profile_of) -> None:
    # Given a caller that asks several times below one span of its own
    async def serve() -> None:
        with traced.tracer.start_as_current_span("GET /", context=below_the_caller(), kind=SpanKind.SERVER):
            await asyncio.sleep(0.01)

    async def main() -> None:
        await asyncio.gather(serve(), serve())

    # When two requests are served at the same time, and then two more one after the other in one context
    asyncio.run(main())
    for _ in range(2):
        with traced.tracer.start_as_current_span("GET /", context=below_the_caller(), kind=SpanKind.SERVER):
            pass

    # Then each has its profile
    spans = traced.exporter.get_finished_spans()
    assert [profile_of(span) is not None for span in spans] == [True] * 4


def test_a_request_below_another_remote_span_is_a_request_of_its_own(traced, profile_of) -> None:
    # As the messages of one websocket, each of which says what it is part of
    other = below_the_caller(TRACEPARENT.replace("b", "c"))
    with (
        traced.tracer.start_as_current_span("GET /", context=below_the_caller(), kind=SpanKind.SERVER),
        traced.tracer.start_as_current_span("message", context=other, kind=SpanKind.SERVER),
    ):
        pass

    assert [profile_of(span) is not None for span in traced.exporter.get_finished_spans()] == [True, True]


def test_a_job_with_a_root_of_its_own_is_no_part_of_the_request_that_starts_it(
    traced, tree_of, time_in, burn
) -> None:
    # Given a request that starts a job, which begins a trace of its own in the request's context
    def job_work() -> None:
        burn(0.03)

    async def job() -> None:
        with traced.tracer.start_as_current_span("job", context=Context(), kind=SpanKind.SERVER):
            job_work()

    async def main() -> None:
        with traced.tracer.start_as_current_span("GET /", kind=SpanKind.SERVER):
            burn(0.01)
            await asyncio.create_task(job())

    # When both are served
    asyncio.run(main())

    # Then the job has a profile, and its work is in no other
    spans = {span.name: span for span in traced.exporter.get_finished_spans()}
    assert time_in(tree_of(spans["job"]), "job_work") > 25_000
    assert time_in(tree_of(spans["GET /"]), "job_work") == 0
    assert time_in(tree_of(spans["GET /"]), "main") > 8_000


# --- routes that a span tells at its end --------------------------------------------------------------


def site(traced) -> FastAPI:
    """With FastAPI's own telemetry: a span has its route only when the request has been routed."""
    app = FastAPI(telemetry={"tracer_provider": traced.provider})

    @app.get("/users/me")
    async def me() -> None: ...

    @app.get("/users/{name}")
    async def user(name: str) -> None: ...

    return app


def profiled_by_rule_for(route: str, paths: list[str], traced, profile_of) -> list[str]:
    """The routes that the profiles tell; "" for a request without one."""
    rules = {"endpoint_configs": {f"GET {route}": {"sampling_rate": 1}}}
    traced.processor.gate.apply(read_rules(json.dumps(rules).encode()))
    app = site(traced)
    for path in paths:
        asyncio.run(ask(app, path))
    spans = [span for span in traced.exporter.get_finished_spans() if span.kind is SpanKind.SERVER]
    assert [span.attributes["url.path"] for span in spans] == paths
    events = [profile_of(span) for span in spans]
    assert {event.attributes["pyinstrument.reason"] for event in events if event is not None} <= {"rule"}
    return [
        "" if event is None else json.loads(event.attributes["pyinstrument.facts"])["request"]["route"]
        for event in events
    ]


def test_a_rule_for_a_route_holds_once_the_route_is_known(make_traced, profile_of) -> None:
    # When names are asked for, of which a rule wants the route only
    paths = ["/users/alice", "/users/bob", "/users/carol"]
    found = profiled_by_rule_for("/users/{name}", paths, make_traced(rate=0.0), profile_of)

    # Then the first of them has shown the route
    assert found == ["", "/users/{name}", "/users/{name}"]


def test_a_route_that_turns_out_wrong_is_wrong_once_and_the_profile_tells_the_real_one(
    make_traced, profile_of
) -> None:
    # When a request has a path that the parameter of a known route takes
    paths = ["/users/alice", "/users/me", "/users/me", "/users/bob"]
    found = profiled_by_rule_for("/users/{name}", paths, make_traced(rate=0.0), profile_of)

    # Then the rule of that route chooses it, its profile has its own route, and the next one is not chosen
    assert found == ["", "/users/me", "", "/users/{name}"]


def test_a_request_that_begins_while_another_thread_switches_off_keeps_no_hook(traced, burn) -> None:
    # Given a request that has begun when profiling is switched off
    gate = traced.processor.gate
    admit = gate.admit

    def admit_and_switch_off(*arguments, **how):
        slot = admit(*arguments, **how)
        other = threading.Thread(target=traced.processor.shutdown)
        other.start()
        other.join()
        return slot

    gate.admit = admit_and_switch_off

    # When it goes on
    with traced.tracer.start_as_current_span("GET /", kind=SpanKind.SERVER):
        hook = sys.getprofile()
        burn(0.02)

    # Then it has neither a hook nor a place, nor a profile
    assert hook is None
    assert gate._slots.held() == []
    assert traced.exporter.get_finished_spans()[-1].events == ()


def test_a_request_that_finds_profiling_switched_off_by_another_thread_installs_nothing(
    traced, monkeypatch
) -> None:
    # Given a request that looked before another thread found that this process was forked in C
    installed = []
    monkeypatch.setattr(sys, "setprofile", installed.append)
    monkeypatch.setattr(private_names, "subscribe", lambda *_arguments, **_how: installed.append("hook"))
    processor = traced.processor

    own = os.getpid()

    def looked() -> int:
        processor._off = True
        return own

    monkeypatch.setattr(os, "getpid", looked)

    # When it goes on
    with traced.tracer.start_as_current_span("GET /", kind=SpanKind.SERVER):
        pass

    # Then it installs no hook, not even for a moment
    assert installed == []


# --- threads beside the request ------------------------------------------------------------------------


@pytest.fixture
def turns_of_another_thread() -> Iterator[Callable[[], int]]:
    """How often another thread had its turn: it wants one all the time, and keeps none."""
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        pytest.skip("no thread waits for its turn without a GIL")
    turns = 0
    ended = threading.Event()

    def run() -> None:
        nonlocal turns
        while not ended.is_set():
            turns += 1
            time.sleep(0)  # gives the turn back

    # A collection would close what earlier tests have left, which gives the turn away.
    gc.collect()
    gc.disable()
    switched = sys.getswitchinterval()
    sys.setswitchinterval(60)
    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield lambda: turns
    finally:
        ended.set()
        sys.setswitchinterval(switched)
        gc.enable()
        thread.join()


def test_a_request_loses_no_turn_to_another_thread_by_being_profiled(
    traced, profile_of, turns_of_another_thread, wait_until
) -> None:
    # Given that a turn once given away costs a request 5 ms where other threads compute. The first request of
    # a process may wait: it loads what is for its kind
    traced.request(lambda: None)
    lost, beginning = 0, turns_of_another_thread()
    wait_until(lambda: turns_of_another_thread() > beginning)

    # When many requests with a span below theirs run without waiting
    for _ in range(300):
        before = turns_of_another_thread()
        traced.request(lambda: traced.tracer.start_span("SELECT").end())
        lost += turns_of_another_thread() - before

    # Then all are profiled, and the other thread never had a turn in one of them
    assert all(profile_of(span) for span in traced.exporter.get_finished_spans() if span.name == "GET /")
    assert lost == 0


INTERRUPTED_UNDER_GEVENT = """
import gevent.monkey
gevent.monkey.patch_all()
import sys, threading
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind
from otel_pyinstrument import PyinstrumentInstrumentor

provider, exporter = TracerProvider(), InMemorySpanExporter()
provider.add_span_processor(SimpleSpanProcessor(exporter))
PyinstrumentInstrumentor().instrument(tracer_provider=provider, rate=1, cpu_budget=1)
tracer = provider.get_tracer("test")

def query():
    attributes = {"db.system": "sqlite", "db.statement": "SELECT 1"}
    tracer.start_span("SELECT", kind=SpanKind.CLIENT, attributes=attributes).end()

def serve():
    with tracer.start_as_current_span("GET /", kind=SpanKind.SERVER):
        query()

def profiles():
    return [event for span in exporter.get_finished_spans() for event in span.events]

for _ in range(50):
    serve()
unread, busy = iter(profiles()), False

def interrupt(frame, event, _argument):
    # As a signal handler may, at every line of a lock that is written in Python and that we have asked for.
    global busy
    if not busy and frame.f_code.co_filename == threading.__file__:
        if "otel_pyinstrument" in frame.f_back.f_code.co_filename and event in ("line", "return"):
            busy = True
            query()
            next(unread).attributes
            busy = False
    return interrupt

sys.settrace(interrupt)
serve()
next(unread).attributes
sys.settrace(None)
print(sum("pyinstrument.payload" in event.attributes for event in profiles()), sys.getprofile())
"""


def test_spans_that_a_signal_handler_ends_under_gevent_wait_for_nobody() -> None:
    # Given that gevent makes locks of the standard library wait for another greenlet, which is never to come
    # When requests are counted, and profiles encoded, while others are
    run = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_UNDER_GEVENT], capture_output=True, text=True, timeout=60
    )

    # Then nothing fails or hangs
    assert (run.stdout, run.stderr) == ("51 None\n", "")
