"""The path of a request on a real store: admission, acknowledgement, announcement."""

import asyncio
import contextlib
import dataclasses
import gc
import logging
import re
import threading
import zlib

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from collector_receiver import profile_event
from collector_receiver.ingest import LARGE_REQUEST_BYTES, MANY_OBJECTS, MANY_VALUES, Ingest
from collector_receiver.profile_event import TooCostlyHere
from collector_receiver.projects import Projects
from collector_receiver.refusals import TryAgain, Unauthenticated, Undecodable
from collector_receiver.signals import (
    MANY_PARTS,
    MAX_RESOURCES_AND_SCOPES,
    SALVAGED_ON_LOOP_BYTES,
    TRACES,
)

pytestmark = pytest.mark.anyio

ANNOUNCEMENT = re.compile(r"first profile received: project=(\S+) record=([0-9a-f]{48}) endpoint=(.*)")


@pytest.fixture
async def make_ingest(store):
    made = []

    def make_one(mode="open", **options):
        made.append(Ingest(store, Projects(store, mode), **options))
        return made[-1]

    yield make_one
    for ingest in made:
        await ingest.drain(5)
        await ingest.close()


@pytest.fixture
def project_id(store):
    async def of(service="shop"):
        return (await store.project_for_service(service)).id

    return of


class Gate:
    """A parser that waits until it is told to go on: a request under way for as long as a test needs."""

    def __init__(self):
        self.entered, self.open = threading.Event(), threading.Event()

    def parse(self, body, *, on_loop=False):
        if on_loop:
            raise TooCostlyHere
        self.entered.set()
        assert self.open.wait(20)
        return TRACES.parse["protobuf"](body)


def parsed_by(parse):
    """The signal of traces with another reader."""
    return dataclasses.replace(TRACES, parse={"protobuf": parse})


def large(make, **more):
    return make.request(make.span(events=[make.profile_event()], **more)).SerializeToString()


async def test_an_answer_means_that_everything_can_be_read(make_ingest, make, store, project_id):
    # Given a request, its profile and its query
    server = make.span({"http.method": "GET", "http.route": "/orders"}, events=[make.profile_event()])
    query = make.span(
        {"db.system": "sqlite"},
        kind=Span.SPAN_KIND_CLIENT,
        trace_id=server.trace_id,
        parent_span_id=server.span_id,
    )
    ingest = make_ingest()

    # When it is taken in
    answer = await ingest.export(make.request(server, query).SerializeToString(), project_key=None)

    # Then everything is there
    assert not answer.HasField("partial_success")
    detail = await store.record(await project_id(), (server.trace_id + server.span_id).hex())
    assert detail.record.endpoint == "GET /orders"
    assert detail.call_tree.duration_us == 250_000
    assert [span.span_id for span in detail.child_spans] == [query.span_id]
    assert (ingest.counters.spans_accepted, ingest.counters.new_records, ingest.counters.new_profiles) == (
        2,
        1,
        1,
    )


async def test_a_repeated_request_changes_nothing_and_is_a_success(make_ingest, make, store, project_id):
    ingest = make_ingest()
    body = large(make)

    for _ in range(3):
        assert not (await ingest.export(body, project_key=None)).HasField("partial_success")

    from profile_store.model import RecordQuery

    assert (await store.records(RecordQuery(project_id=await project_id()))).total == 1
    assert (ingest.counters.new_records, ingest.counters.new_profiles) == (1, 1)


async def test_profiles_that_take_long_to_decode_are_stored_like_others(
    make_ingest, make, store, project_id, monkeypatch
):
    # Given profiles that would keep the loop from other requests, the second one more than the first
    monkeypatch.setattr(profile_event, "MAX_JSON_BYTES_ON_LOOP", len(zlib.decompress(make.payload())) + 1)
    spans = [make.span(events=[("cache", {}), make.profile_event()]) for _ in range(2)]
    ingest = make_ingest()

    # When they come in one request, with a span that is refused
    body = make.request(*spans, make.span(trace_id=b"bad")).SerializeToString()
    answer = await ingest.export(body, project_key=None)

    # Then nothing is lost, and nothing counted twice
    assert answer.partial_success.rejected_spans == 1
    for span in spans:
        detail = await store.record(await project_id(), (span.trace_id + span.span_id).hex())
        assert detail.call_tree.duration_us == 250_000
        assert [event.name for event in detail.record.events] == ["cache"]
    assert (ingest.counters.spans_received, ingest.counters.new_profiles) == (3, 2)
    assert ingest.counters.project_spans.items() == {await project_id(): 3}


async def test_an_empty_request_is_a_success(make_ingest):
    assert not (await make_ingest("key").export(b"", project_key=None)).HasField("partial_success")


async def test_an_empty_request_still_proves_its_key(make_ingest, store):
    ingest = make_ingest("key")
    project = await store.create_project("orders")

    await ingest.export(b"", project_key=project.project_key)
    with pytest.raises(Unauthenticated):
        await ingest.export(b"", project_key="wrong")


async def test_a_wrong_key_is_refused_before_anything_is_parsed(make_ingest):
    def parse(_body, *, on_loop):
        pytest.fail("parsed")

    with pytest.raises(Unauthenticated, match="unknown_project_key"):
        await make_ingest().export(b"x", project_key="wrong", signal=parsed_by(parse))


@pytest.mark.parametrize("body", [b"\xff", b"\xff" * 200_000, b"\x0a\xff\xff\xff\xff\x0f"])
async def test_bytes_that_are_no_request_are_undecodable(make_ingest, body):
    ingest = make_ingest()

    with pytest.raises(Undecodable):
        await ingest.export(body, project_key=None)

    assert ingest.counters.requests == {"undecodable": 1}


async def test_rejected_spans_are_counted_and_named(make_ingest, make):
    ingest = make_ingest()
    request = make.request(
        make.span(), make.span(trace_id=b"bad"), make.span(events=[make.profile_event(b"junk")])
    )

    answer = await ingest.export(request.SerializeToString(), project_key=None)

    assert answer.partial_success.rejected_spans == 1
    assert answer.partial_success.error_message == (
        "spans rejected: invalid_trace_id 1; spans kept with a change: profile_not_zlib 1"
    )
    assert ingest.counters.spans_accepted == 2
    assert ingest.counters.requests == {"partial": 1}


async def test_a_lost_profile_is_a_warning_without_rejected_spans(make_ingest, make):
    body = make.request(make.span(events=[make.profile_event(b"junk")])).SerializeToString()

    answer = await make_ingest().export(body, project_key=None)

    assert answer.partial_success.rejected_spans == 0
    assert "profile_not_zlib 1" in answer.partial_success.error_message


async def test_what_the_store_refuses_is_counted_and_the_rest_is_kept(
    make_ingest, make, store, project_id, monkeypatch, caplog
):
    # Given a store that cannot hold child spans of this size
    monkeypatch.setattr("profile_store.mongodb.documents.MAX_CHUNK_OTLP_BYTES", 10)
    server = make.span(events=[make.profile_event()])
    queries = [make.span(kind=Span.SPAN_KIND_CLIENT, trace_id=server.trace_id) for _ in range(3)]
    ingest = make_ingest()

    answer = await ingest.export(make.request(server, *queries).SerializeToString(), project_key=None)

    assert answer.partial_success.rejected_spans == 3
    assert "child_spans_unstorable 3" in answer.partial_success.error_message
    assert await store.record(await project_id(), (server.trace_id + server.span_id).hex()) is not None
    assert (ingest.counters.spans_accepted, dict(ingest.counters.spans_rejected)) == (
        1,
        {"child_spans_unstorable": 3},
    )


async def test_resources_with_a_wrong_key_do_not_take_others_with_them(make_ingest, make, store):
    project = await store.create_project("orders")
    request = make.request(make.span(), resource={"project.key": project.project_key})
    request.resource_spans.append(
        make.resource_spans(make.span(), make.span(), resource={"project.key": "wrong"})
    )

    answer = await make_ingest("key").export(request.SerializeToString(), project_key=None)

    assert answer.partial_success.rejected_spans == 2
    assert "unknown_project_key 2" in answer.partial_success.error_message


async def test_above_the_bytes_in_flight_a_request_is_refused_for_now(make_ingest, make):
    # Given a request under way that fills the room
    gate, body = Gate(), large(make)
    ingest = make_ingest(max_bytes_in_flight=20_000)
    first = asyncio.create_task(ingest.export(body, project_key=None, signal=parsed_by(gate.parse)))
    await asyncio.to_thread(gate.entered.wait, 20)

    # When another one comes
    with pytest.raises(TryAgain) as refused:
        await ingest.export(large(make), project_key=None)

    # Then it is to come again, and may as soon as the first one is done
    assert (refused.value.reason, refused.value.retry_after_seconds) == ("overloaded", 1.0)
    gate.open.set()
    await first
    await ingest.export(large(make), project_key=None)


async def test_while_answers_are_slow_less_is_taken_in(make_ingest, make):
    # Given requests that were answered so late that their senders gave up
    ingest = make_ingest(max_bytes_in_flight=100_000)
    for _ in range(100):
        ingest.admission.took(10.0)
    first = ingest.admission.enter(20_000)

    # When another one comes that there is room for, then it is to come again
    with pytest.raises(TryAgain):
        ingest.admission.enter(20_000)

    # And when answers are quick again, it is taken; each answer tells
    first.leave()
    for _ in range(100):
        await ingest.export(make.request(make.span()).SerializeToString(), project_key=None)
    ingest.admission.enter(20_000)
    ingest.admission.enter(20_000)


async def test_even_tiny_requests_cannot_pile_up(make_ingest, make):
    gate = Gate()
    ingest = make_ingest(max_bytes_in_flight=5 * 16_384)
    tasks = [
        asyncio.create_task(ingest.export(large(make), project_key=None, signal=parsed_by(gate.parse)))
        for _ in range(8)
    ]
    await asyncio.to_thread(gate.entered.wait, 20)
    gate.open.set()

    results = await asyncio.gather(*tasks, return_exceptions=True)

    assert [type(result) for result in results].count(TryAgain) == 3


async def test_a_client_that_goes_away_does_not_stop_the_work_nor_free_its_room(
    make_ingest, make, store, project_id
):
    # Given a request whose caller is cancelled half way
    gate = Gate()
    ingest = make_ingest(max_bytes_in_flight=20_000)
    span = make.span(events=[make.profile_event()])
    call = asyncio.create_task(
        ingest.export(make.request(span).SerializeToString(), project_key=None, signal=parsed_by(gate.parse))
    )
    await asyncio.to_thread(gate.entered.wait, 20)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call

    # Then its room is still taken
    with pytest.raises(TryAgain):
        await ingest.export(large(make), project_key=None)

    # And it is stored in the end
    gate.open.set()
    await ingest.drain(20)
    assert await store.record(await project_id(), (span.trace_id + span.span_id).hex()) is not None


@pytest.mark.parametrize("how", ["drain", "close"])
async def test_stopping_ends_even_what_hangs_and_it_may_come_again(make_ingest, make, how):
    gate = Gate()
    ingest = make_ingest()
    call = asyncio.create_task(ingest.export(large(make), project_key=None, signal=parsed_by(gate.parse)))
    await asyncio.to_thread(gate.entered.wait, 20)

    await (ingest.drain(0.1) if how == "drain" else ingest.close())

    with pytest.raises(TryAgain) as refused:
        await asyncio.wait_for(call, 20)
    gate.open.set()
    assert (refused.value.reason, refused.value.retry_after_seconds) == ("stopping", 1.0)
    assert ingest.counters.retryable == {"stopping": 1}


async def test_a_stopping_receiver_takes_nothing_more_and_finishes_what_it_took(
    make_ingest, make, store, project_id
):
    # Given a request under way
    gate = Gate()
    ingest = make_ingest()
    span = make.span(events=[make.profile_event()])
    body = make.request(span).SerializeToString()
    running = asyncio.create_task(ingest.export(body, project_key=None, signal=parsed_by(gate.parse)))
    await asyncio.to_thread(gate.entered.wait, 20)

    # When the receiver stops
    ingest.refuse_new_requests()

    # Then others are to come again
    with pytest.raises(TryAgain) as refused:
        await ingest.export(b"", project_key=None)
    assert (refused.value.reason, refused.value.retry_after_seconds) == ("stopping", 1.0)

    # And the running one is answered
    gate.open.set()
    await ingest.drain(20)
    assert not (await running).HasField("partial_success")
    assert await store.record(await project_id(), (span.trace_id + span.span_id).hex()) is not None


async def test_the_first_profile_of_each_project_is_announced_once(make_ingest, make, project_id, caplog):
    ingest = make_ingest()
    with caplog.at_level(logging.INFO, logger="collector_receiver"):
        await ingest.export(make.request(make.span()).SerializeToString(), project_key=None)
        spans = [
            make.span({"http.method": "GET", "http.route": "/a b"}, events=[make.profile_event()])
            for _ in range(2)
        ]
        for span in spans:
            await ingest.export(make.request(span).SerializeToString(), project_key=None)
        other = make.request(make.span(events=[make.profile_event()]), resource={"service.name": "other"})
        await ingest.export(other.SerializeToString(), project_key=None)

    found = [ANNOUNCEMENT.fullmatch(record.getMessage()) for record in caplog.records]
    first, second = [match.groups() for match in found if match]
    assert first == (await project_id(), (spans[0].trace_id + spans[0].span_id).hex(), "GET /a b")
    assert second[0] == await project_id("other")


async def test_an_unexpected_error_is_to_be_repeated_and_logged_without_its_message(
    make_ingest, make, caplog
):
    def parse(_body, *, on_loop):
        raise RuntimeError("secret")

    ingest = make_ingest()
    with pytest.raises(TryAgain) as refused:
        await ingest.export(b"x", project_key=None, signal=parsed_by(parse))

    assert refused.value.reason == "internal_error"
    assert "RuntimeError at test_ingest.py" in caplog.text
    assert "secret" not in caplog.text + str(refused.value)


async def test_the_loop_goes_on_while_a_large_profile_is_decoded(make_ingest, make):
    """Decoding happens on a thread: the loop turns while the parser there waits."""
    gate = Gate()
    call = asyncio.create_task(
        make_ingest().export(large(make), project_key=None, signal=parsed_by(gate.parse))
    )

    assert await asyncio.wait_for(asyncio.to_thread(gate.entered.wait, 20), 20)
    gate.open.set()

    await call


@pytest.mark.parametrize("part", ["resource_spans", "scope_spans"])
def test_a_request_of_countless_empty_parts_is_refused(part) -> None:
    # Given one part more than is taken; an empty message costs its sender two bytes
    request = ExportTraceServiceRequest()
    parts = request.resource_spans if part == "resource_spans" else request.resource_spans.add().scope_spans
    for _ in range(MAX_RESOURCES_AND_SCOPES + 1):
        parts.add()

    # Then it is refused before anything looks into them
    with pytest.raises(Undecodable, match="more than 131072 resources and scopes"):
        TRACES.parse["protobuf"](request.SerializeToString())


@pytest.mark.parametrize(
    ("encoding", "body", "on_loop"),
    [
        ("protobuf", bytes(LARGE_REQUEST_BYTES["protobuf"] - 1), True),
        ("protobuf", bytes(LARGE_REQUEST_BYTES["protobuf"]), False),
        ("json", b" " * (LARGE_REQUEST_BYTES["json"] - 1), True),
        ("json", b" " * LARGE_REQUEST_BYTES["json"], False),
        ("json", b"{}" * MANY_OBJECTS, True),
        ("json", b"{}" * (MANY_OBJECTS + 1), False),
        ("json", b"1," * MANY_VALUES, True),
        ("json", b"1," * (MANY_VALUES + 1), False),
    ],
    ids=[
        *("usual", "large", "usual JSON", "large JSON", "JSON of few objects", "JSON of many objects"),
        *("JSON of few values", "JSON of many values"),
    ],
)
async def test_what_takes_long_to_read_does_not_hold_up_the_loop(make_ingest, encoding, body, on_loop):
    # Given a reader that tells where it was called
    threads = []

    def parse(_body, *, on_loop=False):
        threads.append(threading.current_thread())
        return ExportTraceServiceRequest()

    # When a request comes
    signal = dataclasses.replace(TRACES, parse={encoding: parse})
    await make_ingest().export(body, project_key=None, signal=signal, encoding=encoding)

    # Then it is read on the loop when that is short
    assert [thread is threading.current_thread() for thread in threads] == [on_loop]


def many(part, count):
    """A trace request of `count` empty parts."""
    request = ExportTraceServiceRequest()
    parts = request.resource_spans
    if part != "resource_spans":
        parts = parts.add().scope_spans
    if part == "spans":
        parts = parts.add().spans
    for _ in range(count):
        parts.add()
    return request.SerializeToString()


def damaged(size):
    """A trace request of that many bytes that protobuf refuses, with a span that can be read."""
    request = ExportTraceServiceRequest()
    spans = request.resource_spans.add().scope_spans.add().spans
    spans.add(name="x" * (size - 30))
    spans.add(name="wrong").trace_id = bytes(4)
    return request.SerializeToString().replace(b"wrong", b"\xff\xff\xff\xff\xff")


@pytest.mark.parametrize(
    ("body", "on_loop"),
    [
        (many("resource_spans", MANY_PARTS), True),
        (many("resource_spans", MANY_PARTS + 1), False),
        (many("scope_spans", MANY_PARTS + 1), False),
        (many("spans", MANY_PARTS + 1), False),
        (damaged(SALVAGED_ON_LOOP_BYTES // 2), True),
        (damaged(SALVAGED_ON_LOOP_BYTES + 100), False),
    ],
    ids=["few resources", "resources", "scopes", "spans", "little to salvage", "much to salvage"],
)
async def test_small_requests_of_many_parts_do_not_hold_up_the_loop(make_ingest, body, on_loop):
    # Given a request below the size of large ones, and a reader that tells where it has read it
    assert len(body) < LARGE_REQUEST_BYTES["protobuf"]
    threads = []

    def parse(body, *, on_loop=False):
        request = TRACES.parse["protobuf"](body, on_loop=on_loop)
        threads.append(threading.current_thread())
        return request

    # When it comes
    answer = await make_ingest().export(body, project_key=None, signal=parsed_by(parse))

    # Then it is read once, on the loop when that is short, and its spans are told of
    assert [thread is threading.current_thread() for thread in threads] == [on_loop]
    resources = TRACES.parse["protobuf"](body).resource_spans
    spans = sum(len(scope.spans) for resource in resources for scope in resource.scope_spans)
    assert answer.partial_success.rejected_spans == spans


@pytest.mark.parametrize(("zeros", "on_loop"), [(100, True), (SALVAGED_ON_LOOP_BYTES, False)])
async def test_json_is_not_salvaged_on_the_loop_where_that_takes_long(make_ingest, zeros, on_loop):
    # Given few objects, among scopes that are none
    body = b'{"resourceSpans":[{"scopeSpans":[{"spans":[{}]}' + b",0" * zeros + b"]}]}"
    threads = []

    def parse(body, *, on_loop=False):
        request = TRACES.parse["json"](body, on_loop=on_loop)
        threads.append(threading.current_thread())
        return request

    # When they come
    signal = dataclasses.replace(TRACES, parse={"json": parse})
    answer = await make_ingest().export(body, project_key=None, signal=signal, encoding="json")

    # Then each is told of, and they were read on the loop when that is short
    assert [thread is threading.current_thread() for thread in threads] == [on_loop]
    assert answer.partial_success.rejected_spans == 1 + zeros


@pytest.mark.parametrize("body", [b"{}", b"{", b'{"resourceSpans": 1}'])
@pytest.mark.parametrize("before", [True, False])
def test_circles_are_looked_for_as_before_once_json_is_read(body, before):
    (gc.enable if before else gc.disable)()
    try:
        with contextlib.suppress(Undecodable):
            TRACES.parse["json"](body, on_loop=True)

        assert gc.isenabled() is before
    finally:
        gc.enable()
