"""The count before parsing: never less than what protobuf makes, and no objection to real requests."""

import contextlib

import pytest
from google.protobuf.message import DecodeError, Message
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from collector_receiver.refusals import Undecodable
from collector_receiver.signals import TRACES
from collector_receiver.wire_scan import MAX_MESSAGES, Malformed, TooManyMessages, check_messages

REQUEST = ExportTraceServiceRequest


def messages_in(message):
    """How many messages `message` holds, at every depth."""
    inner = []
    for field, value in message.ListFields():
        if field.message_type is not None:
            inner += value if not isinstance(value, Message) else [value]
    return len(inner) + sum(map(messages_in, inner))


def scanned(kind, body, *, limit):
    """Whether the scan takes `body`; the threshold that spares small bodies is of no use here."""
    padding = b"\xfa\x7f" + varint(2 * limit) + bytes(2 * limit)  # an unknown field
    with contextlib.suppress(TooManyMessages):
        check_messages(kind, padding + body, limit=limit)
        return True
    return False


def varint(number):
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes(out) + bytes([number])


def field(number, body):
    return varint(number << 3 | 2) + varint(len(body)) + body


values = st.recursive(
    st.builds(AnyValue, string_value=st.text(max_size=3)) | st.builds(AnyValue, int_value=st.integers(0, 9)),
    lambda inner: st.builds(AnyValue, array_value=st.builds(ArrayValue, values=st.lists(inner, max_size=3))),
    max_leaves=5,
)
pairs = st.lists(st.builds(KeyValue, key=st.text(max_size=3), value=values), max_size=3)
spans = st.builds(
    Span,
    trace_id=st.binary(max_size=16),
    name=st.text(max_size=200),
    start_time_unix_nano=st.integers(0, 2**64 - 1),
    flags=st.integers(0, 2**32 - 1),
    attributes=pairs,
    events=st.lists(st.builds(Span.Event, attributes=pairs), max_size=2),
    links=st.lists(st.builds(Span.Link), max_size=2),
)


def request_of(items):
    request = ExportTraceServiceRequest()
    request.resource_spans.add().scope_spans.add().spans.extend(items)
    return request


@given(st.lists(spans, min_size=1, max_size=4))
def test_the_count_is_exact_for_what_protobuf_writes(items):
    request = request_of(items)
    count = messages_in(request)

    assert scanned(ExportTraceServiceRequest, request.SerializeToString(), limit=count)
    assert not scanned(ExportTraceServiceRequest, request.SerializeToString(), limit=count - 1)


@given(st.lists(st.binary(max_size=6) | st.sampled_from([b"\x0a", b"\x12", b"\x4a", b"\x2a"]), max_size=12))
def test_whatever_protobuf_reads_was_counted_or_refused(parts):
    body = field(1, field(2, b"".join(parts)))
    try:
        request = ExportTraceServiceRequest.FromString(body)
    except DecodeError:
        return
    with contextlib.suppress(Malformed):
        assert not scanned(ExportTraceServiceRequest, body, limit=messages_in(request) - 1)


@given(st.binary(max_size=60))
def test_any_bytes_end_in_an_answer_or_one_of_two_errors(body):
    with contextlib.suppress(Malformed, TooManyMessages):
        check_messages(REQUEST, body, limit=1)


@pytest.mark.parametrize(
    "body",
    [
        b"\x0a\x7f\x00",
        b"\x0a\xff\xff\xff\xff\x0f\x00",
        b"\x0b\x0a\x02\x12\x00\x0c",
        b"\x02\x00\x00",
        b"\x00\x00\x00",
        b"\x0e\x00\x00",
        b"\x08" + b"\xff" * 11,
        b"\x09\x00\x00",
        b"\x0d\x00\x00",
        b"\x0a\x04\x0d\x00\x00\x00" + b"\x0d\x00\x00\x00\x00",
        b"\xff",
        b"\x0a\x80",
    ],
    ids=lambda body: body.hex()[:24],
)
def test_what_is_no_protobuf_is_malformed(body):
    with pytest.raises(Malformed):
        check_messages(REQUEST, body, limit=len(body) // 2)


def test_messages_behind_an_unknown_field_or_a_long_tag_are_counted():
    inner = field(1, field(2, b"\x12\x00" * 50))

    assert not scanned(ExportTraceServiceRequest, field(99, b"\xff\xff") + inner, limit=51)
    assert scanned(ExportTraceServiceRequest, field(99, b"\xff\xff") + inner, limit=52)
    assert not scanned(ExportTraceServiceRequest, b"\x8a\x00" + inner[1:], limit=51)


def test_deep_nesting_is_refused_as_by_protobuf():
    value = b""
    for _ in range(60):
        value = field(5, field(1, value))
    body = field(1, field(2, field(2, field(9, field(2, value)))))

    with pytest.raises(DecodeError):
        ExportTraceServiceRequest.FromString(body)
    with pytest.raises(Malformed):
        check_messages(REQUEST, body, limit=150)


def test_small_bodies_are_not_scanned():
    """They cannot hold so many messages, so every usual request is spared the time."""
    check_messages(REQUEST, b"\xff" * (2 * MAX_MESSAGES - 1))


HOSTILE = {
    "spans": field(1, field(2, b"\x12\x00" * 8_000_000)),
    "attributes": field(1, field(2, field(2, b"\x4a\x00" * 8_000_000))),
    "events": field(1, field(2, field(2, b"\x5a\x00" * 8_000_000))),
    "values": field(1, field(2, field(2, field(9, field(2, field(5, b"\x0a\x00" * 8_000_000)))))),
    "resources": b"\x0a\x00" * 8_000_000,
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE)
def test_16_mib_of_empty_messages_are_refused_by_the_scan(body):
    """Only its own reason shows that protobuf has not parsed them; that takes seconds and a gigabyte."""
    with pytest.raises(Undecodable, match="send smaller batches") as refused:
        TRACES.parse["protobuf"](body)

    assert refused.value.reason == "too_many_messages"


def test_a_large_request_of_real_spans_is_read():
    request = request_of(
        Span(
            name=f"span {number}",
            attributes=[KeyValue(key=f"key {n}", value=AnyValue(string_value="value")) for n in range(20)],
            events=[
                Span.Event(name="e", attributes=[KeyValue(key="p", value=AnyValue(bytes_value=bytes(900)))])
            ],
        )
        for number in range(2_000)
    )
    body = request.SerializeToString()
    assert len(body) > 2 * MAX_MESSAGES

    assert TRACES.parse["protobuf"](body).request == request


def test_logs_are_counted_too():
    with pytest.raises(TooManyMessages):
        check_messages(ExportLogsServiceRequest, field(1, field(2, b"\x12\x00" * (MAX_MESSAGES + 1))))
