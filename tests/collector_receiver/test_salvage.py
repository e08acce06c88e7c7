"""What protobuf refuses as a whole is read span by span."""

import contextlib
import tracemalloc

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from collector_receiver import salvage as salvage_module
from collector_receiver.salvage import salvage
from collector_receiver.signals import TRACES
from collector_receiver.translation import Destination, Translator
from collector_receiver.wire_scan import Malformed, TooManyMessages

MARK = "MARK-of-eight"  # replaced by bytes that are no UTF-8, of the same length
NO_TEXT = b"\xff\xfe\x80RK\xc3(f-eig\xed"


def names(request):
    return [
        span.name
        for resource_spans in request.resource_spans
        for scope_spans in resource_spans.scope_spans
        for span in scope_spans.spans
    ]


def without_text(request):
    """Its bytes, with no UTF-8 where MARK was; protobuf refuses them."""
    assert len(MARK) == len(NO_TEXT)
    body = request.SerializeToString().replace(MARK.encode(), NO_TEXT)
    with pytest.raises(DecodeError):
        ExportTraceServiceRequest.FromString(body)
    return body


def test_a_text_that_is_no_utf8_costs_only_its_wrong_bytes(make):
    request = make.request(make.span(name="a"), make.span({MARK: MARK}, name=MARK), make.span(name="c"))

    read = TRACES.parse["protobuf"](without_text(request))

    assert names(read) == ["a", NO_TEXT.decode(errors="replace"), "c"]
    spans = read.resource_spans[0].scope_spans[0].spans
    assert spans[1].attributes[0].value.string_value == NO_TEXT.decode(errors="replace")
    assert [spans[0], spans[2]] == [request.resource_spans[0].scope_spans[0].spans[n] for n in (0, 2)]
    assert spans[1].trace_id == request.resource_spans[0].scope_spans[0].spans[1].trace_id


def test_so_it_is_in_resources_scopes_and_nested_values(make):
    deep = {"a": [{"b": [MARK]}]}
    request = make.request(
        make.span(deep, name="a", events=[(MARK, {"x": MARK})]),
        resource={"service.name": "shop", "host": MARK},
        scope=MARK,
    )

    read = TRACES.parse["protobuf"](without_text(request))

    assert read.resource_spans[0].resource.attributes[0].value.string_value == "shop"
    assert "\ufffd" in read.resource_spans[0].scope_spans[0].scope.name
    assert "\ufffd" in read.resource_spans[0].scope_spans[0].spans[0].events[0].name


def field(number, content):
    """One length-delimited field of a protobuf message."""
    length, rest = bytearray(), len(content)
    while rest > 127:
        length.append(rest & 127 | 128)
        rest >>= 7
    return bytes([number << 3 | 2, *length, rest]) + content


def nested(levels, text=b"bottom"):
    """The bytes of a value; the libraries do not write what they would not read."""
    value = field(1, text)
    for _ in range(levels):
        value = field(5, field(1, value))
    return value


@pytest.mark.parametrize("levels", [48, 49, 60, 150])
def test_a_span_nested_too_deeply_is_refused_alone(make, levels):
    # Given one value that protobuf does not read from within a request
    a, c = make.span(name="a").SerializeToString(), make.span(name="c").SerializeToString()
    deep = make.span(name="deep").SerializeToString() + field(9, field(1, b"x") + field(2, nested(levels)))
    body = field(1, field(2, field(2, a) + field(2, deep) + field(2, c)))
    with pytest.raises(DecodeError):
        ExportTraceServiceRequest.FromString(body)

    # When the request is read and translated
    read = TRACES.parse["protobuf"](body)
    translator = Translator()
    batch = translator.translate(read, [Destination(project_id="p")])

    # Then only that span is missing, by name, and what is left can be read again
    assert names(read) == ["a", "", "c"]
    assert [item.record.endpoint for item in batch.records] == ["a", "c"]
    assert dict(translator.outcome.rejected) == {"unreadable_span": 1}
    assert ExportTraceServiceRequest.FromString(read.SerializeToString()) == read


def test_a_span_of_broken_bytes_is_refused_alone(make):
    good = make.span(name="good").SerializeToString()
    scope = field(2, b"\x0a\xff") + field(2, good)

    assert names(TRACES.parse["protobuf"](field(1, field(2, scope)))) == ["", "good"]


def test_a_resource_of_broken_bytes_takes_only_its_own_spans_with_it(make):
    good = make.request(make.span(name="good"), resource={"service.name": "shop"})

    for broken in (field(1, b"\x0a\xff"), field(1, field(1, b"\x0a\xff")), field(1, field(2, b"\x12\x7f"))):
        read = TRACES.parse["protobuf"](broken + good.SerializeToString())

        assert sorted(names(read)) == ["", "good"]
        assert read.resource_spans[-1].resource == good.resource_spans[0].resource


@pytest.mark.parametrize(
    "body",
    [
        b"\xff\xff\xff",
        b"\x0a\x7f\x00",
        b"\x0a\x02\x12\x7f",
        field(1, field(2, field(2, b"\x0a\xff"))),
        b"\x0b\x0c",
        b"\x80" * 20,
    ],
    ids=bytes.hex,
)
def test_where_nothing_is_readable_nothing_is_accepted(body):
    with pytest.raises(Malformed):
        salvage(ExportTraceServiceRequest, body)


def test_a_large_request_is_counted_span_by_span(make):
    """Beside broken spans, too: empty messages would take 90 times their bytes in memory."""
    good, broken = make.span(name="good").SerializeToString(), b"\x0a\xff"
    many = b"\x4a\x00" * 1_100_000  # attributes of nothing

    def request(*spans):
        scope = b"".join(field(2, span) for span in spans)
        return field(1, field(2, scope))

    with pytest.raises(TooManyMessages):
        salvage(ExportTraceServiceRequest, request(good, broken, many))
    half = many[:1_000_000]
    with pytest.raises(TooManyMessages):
        salvage(ExportTraceServiceRequest, request(good, half, broken, half, half))
    text = good + field(5, b"x" * 2_100_000)
    assert names(TRACES.parse["protobuf"](request(text, broken, good))) == ["x" * 2_100_000, "", "good"]


BROKEN = b"\x0a\xff"
# The bytes of a resource, of a scope or of a span, and how many messages have to be made for each.
SMALL = {
    "empty resource": (b"\x0a\x00", b"", b"", 2),
    "lost resource": (field(1, b"\xff"), b"", b"", 2),
    "empty scope": (b"", b"\x12\x00", b"", 2),
    "lost scope": (b"", field(2, b"\xff"), b"", 2),
    "empty span": (b"", b"", b"\x12\x00", 1),
    "lost span": (b"", b"", field(2, BROKEN), 1),
    "span of empty attributes": (b"", b"", field(2, b"\x4a\x00" * 3), 4),
}


@pytest.mark.parametrize(("resource", "scope", "span", "messages"), SMALL.values(), ids=SMALL)
def test_all_that_is_made_is_counted(monkeypatch, resource, scope, span, messages):
    # Given a request of one good span, which takes five messages, and many small things
    monkeypatch.setattr("collector_receiver.salvage.MAX_MESSAGES", 1_000)
    name = "x" * 2_000

    def request(number):
        good = field(2, field(5, name.encode()))
        return resource * number + field(1, scope * number + field(2, good + span * number))

    # Then it is read with as many as may be made, and refused with more
    assert name in names(salvage(ExportTraceServiceRequest, request(990 // messages)))
    with pytest.raises(TooManyMessages):
        salvage(ExportTraceServiceRequest, request(1_000 // messages))


@contextlib.contextmanager
def memory_of_at_most(size):
    tracemalloc.start()
    try:
        yield
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < size


def test_there_is_an_end_to_the_pieces_that_are_read_one_by_one(make, monkeypatch):
    # Given a request with a wrong text in each of its spans: 99, and 4 pieces around them
    monkeypatch.setattr(salvage_module, "MAX_PARTS", 103)
    request = make.request(*[make.span(name="x") for _ in range(99)])
    body = request.SerializeToString().replace(b"*\x01x", b"*\x01\xff")

    # Then it is read as long as so many pieces are allowed
    assert len(salvage(ExportTraceServiceRequest, body).resource_spans[0].scope_spans[0].spans) == 99
    monkeypatch.setattr(salvage_module, "MAX_PARTS", 102)
    with pytest.raises(TooManyMessages):
        salvage(ExportTraceServiceRequest, body)


def test_empty_spans_are_refused_in_little_memory(make, monkeypatch):
    monkeypatch.setattr("collector_receiver.salvage.MAX_MESSAGES", 50_000)
    good = make.span(name="good").SerializeToString()
    body = field(1, field(2, field(2, BROKEN) + field(2, good) + b"\x12\x00" * 100_000))

    with memory_of_at_most(8 * len(body)), pytest.raises(TooManyMessages):
        salvage(ExportTraceServiceRequest, body)


def test_a_large_text_is_not_kept_once_for_each_level_above_it(make):
    text = b"\xff" + b"x" * 200_000
    deep = field(9, field(1, b"deep") + field(2, nested(40, text)))
    body = field(1, field(2, field(2, make.span(name="good").SerializeToString() + deep)))

    with memory_of_at_most(15 * len(body)):
        read = salvage(ExportTraceServiceRequest, body)

    assert names(read) == ["good"]


def test_log_records_are_read_one_by_one_as_well(make):
    logs = make.logs(make.profile_log(), make.profile_log())
    logs.resource_logs[0].scope_logs[0].log_records[0].severity_text = MARK

    read = salvage(ExportLogsServiceRequest, logs.SerializeToString().replace(MARK.encode(), NO_TEXT))

    assert len(read.resource_logs[0].scope_logs[0].log_records) == 2


@given(data=st.data())
def test_whatever_happens_to_the_bytes_the_result_can_be_read_again(make_once, data):
    body = bytearray(make_once)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(body) - 1))
        match data.draw(st.sampled_from(["set", "drop", "double"])):
            case "set":
                body[at] = data.draw(st.integers(0, 255))
            case "drop":
                del body[at]
            case "double":
                body[at:at] = body[at : at + 9]

    with contextlib.suppress(Malformed):
        read = salvage(ExportTraceServiceRequest, bytes(body))
        assert ExportTraceServiceRequest.FromString(read.SerializeToString()) == read


@pytest.fixture(scope="module")
def make_once():
    request = ExportTraceServiceRequest()
    for service in ("shop", "cart"):
        resource_spans = request.resource_spans.add()
        resource_spans.resource.attributes.add(key="service.name").value.string_value = service
        scope_spans = resource_spans.scope_spans.add()
        for number in range(3):
            span = Span(trace_id=b"t" * 16, span_id=bytes([number]) * 8, name="GET /orders", kind=2)
            span.attributes.add(key="x").value.ParseFromString(nested(2))
            scope_spans.spans.append(span)
    return request.SerializeToString()
