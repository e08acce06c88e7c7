"""OTLP/JSON to messages: the same as protobuf for whatever is valid, one error for whatever is not."""

import base64
import contextlib
import json
import tracemalloc

import pytest
from google.protobuf import json_format
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue, KeyValueList
from opentelemetry.proto.metrics.v1.metrics_pb2 import Exemplar, ExponentialHistogramDataPoint, Histogram
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from collector_receiver.json_values import NotOtlpJson
from collector_receiver.otlp_json import MAX_PARTS, MAX_SEPARATORS, to_protobuf

IDS = ("traceId", "spanId", "parentSpanId")


def from_json(kind, body, **options):
    """The message that protobuf reads from what is written for `body`."""
    return kind.FromString(to_protobuf(kind, body, **options))


def hexadecimal(node):
    if isinstance(node, list):
        return [hexadecimal(item) for item in node]
    if not isinstance(node, dict):
        return node
    return {
        key: base64.b64decode(value).hex() if key in IDS else hexadecimal(value)
        for key, value in node.items()
    }


def as_json(request):
    return json.dumps(
        hexadecimal(json_format.MessageToDict(request, use_integers_for_enums=True)), allow_nan=False
    ).encode()


def span_of(**fields):
    """The span of a request whose JSON has these fields in its only span."""
    body = {"resourceSpans": [{"scopeSpans": [{"spans": [fields]}]}]}
    request = from_json(ExportTraceServiceRequest, json.dumps(body).encode())
    return request.resource_spans[0].scope_spans[0].spans[0]


texts = st.text(max_size=5)
scalars = st.one_of(
    st.builds(AnyValue),
    st.builds(AnyValue, string_value=texts),
    st.builds(AnyValue, bool_value=st.booleans()),
    st.builds(AnyValue, int_value=st.integers(-(2**63), 2**63 - 1)),
    st.builds(AnyValue, double_value=st.floats(allow_nan=False)),
    st.builds(AnyValue, bytes_value=st.binary(max_size=5)),
)
any_values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.builds(AnyValue, array_value=st.builds(ArrayValue, values=st.lists(inner, max_size=3))),
        st.builds(
            AnyValue,
            kvlist_value=st.builds(
                KeyValueList, values=st.lists(st.builds(KeyValue, key=texts, value=inner), max_size=3)
            ),
        ),
    ),
    max_leaves=5,
)
attributes = st.lists(st.builds(KeyValue, key=texts, value=any_values), max_size=3)
spans = st.builds(
    Span,
    trace_id=st.binary(max_size=17),
    span_id=st.binary(max_size=8),
    parent_span_id=st.binary(max_size=8),
    name=texts,
    kind=st.integers(0, 7),
    flags=st.integers(0, 2**32 - 1),
    start_time_unix_nano=st.integers(0, 2**64 - 1),
    attributes=attributes,
    events=st.lists(st.builds(Span.Event, name=texts, attributes=attributes), max_size=2),
    links=st.lists(st.builds(Span.Link, trace_id=st.binary(max_size=16)), max_size=2),
)
requests = st.lists(spans, max_size=3).map(
    lambda items: ExportTraceServiceRequest(
        resource_spans=[ResourceSpans(scope_spans=[ScopeSpans(spans=items)])]
    )
)


@given(requests)
def test_json_gives_the_same_message_as_protobuf(request):
    assert from_json(ExportTraceServiceRequest, as_json(request)) == request


numbers_of_metrics = st.builds(
    ExponentialHistogramDataPoint,
    scale=st.integers(-(2**31), 2**31 - 1),
    count=st.integers(0, 2**64 - 1),
    sum=st.floats(allow_nan=False),
    flags=st.integers(0, 2**32 - 1),
    positive=st.builds(
        ExponentialHistogramDataPoint.Buckets,
        offset=st.integers(-(2**31), 2**31 - 1),
        bucket_counts=st.lists(st.integers(0, 2**64 - 1), max_size=3),
    ),
    exemplars=st.lists(st.builds(Exemplar, as_int=st.integers(-(2**63), 2**63 - 1)), max_size=2),
)


@given(numbers_of_metrics, st.booleans())
def test_every_type_of_number_is_the_same_in_protobuf(point, monotonic):
    request = ExportMetricsServiceRequest()
    metrics = request.resource_metrics.add().scope_metrics.add().metrics
    metrics.add().exponential_histogram.data_points.append(point)
    metrics.add().sum.is_monotonic = monotonic

    assert from_json(ExportMetricsServiceRequest, as_json(request)) == request


def test_long_lists_of_numbers_are_no_objects_of_memory():
    # Given a list that takes two bytes of the body for each number
    count = 200_000
    numbers = b",".join([b"0"] * count)
    body = b'{"dataPoints":[{"bucketCounts":[%b]}]}' % numbers

    # When it is written
    tracemalloc.start()
    try:
        to_protobuf(Histogram, body)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    # Then it takes as much as Python's own list and what is written, not an object for each
    assert peak_bytes < 40 * count


@pytest.mark.parametrize(
    "kind",
    [ExportTraceServiceRequest, ExportLogsServiceRequest, ExportMetricsServiceRequest],
    ids=lambda kind: kind.DESCRIPTOR.name,
)
def test_every_field_of_otlp_can_be_written(kind):
    """Those too that a newer release of the protocol adds."""
    known, found = set(), [kind.DESCRIPTOR]
    while found:
        message = found.pop()
        for field in message.fields:
            values = {field.json_name: [{}] if field.is_repeated else {}}
            with contextlib.suppress(NotOtlpJson):
                to_protobuf(GetMessageClass(message), json.dumps(values).encode())
            if field.message_type is not None and field.message_type.full_name not in known:
                known.add(field.message_type.full_name)
                found.append(field.message_type)
    assert "opentelemetry.proto.common.v1.AnyValue" in known


def kind_with(field_type):
    """A message with a list of numbers of this type."""
    name = f"test_otlp_json.of_{field_type}"
    file = FileDescriptorProto(name=f"{name}.proto", package=name, syntax="proto3")
    field = FieldDescriptorProto(
        name="numbers",
        json_name="numbers",
        number=20,
        type=field_type,
        label=FieldDescriptorProto.LABEL_REPEATED,
    )
    file.message_type.append(DescriptorProto(name="Message", field=[field]))
    pool = DescriptorPool()
    pool.Add(file)
    return GetMessageClass(pool.FindMessageTypeByName(f"{name}.Message"))


@pytest.mark.parametrize(
    ("field_type", "numbers"),
    [
        ("INT32", [-(2**31), -1, 0, 2**31 - 1]),
        ("INT64", [-(2**63), -1, 0, 2**63 - 1]),
        ("UINT32", [0, 2**32 - 1]),
        ("UINT64", [0, 2**64 - 1]),
        ("SINT32", [-(2**31), -1, 0, 2**31 - 1]),
        ("SINT64", [-(2**63), -1, 0, 2**63 - 1]),
        ("FIXED32", [0, 2**32 - 1]),
        ("FIXED64", [0, 2**64 - 1]),
        ("SFIXED32", [-(2**31), -1, 0, 2**31 - 1]),
        ("SFIXED64", [-(2**63), -1, 0, 2**63 - 1]),
        ("DOUBLE", [-1.5, 0.0, 1e308]),
        ("BOOL", [True, False]),
    ],
)
def test_numbers_are_written_as_protobuf_reads_them(field_type, numbers):
    kind = kind_with(getattr(FieldDescriptorProto, f"TYPE_{field_type}"))

    assert list(from_json(kind, json.dumps({"numbers": numbers}).encode()).numbers) == numbers


@pytest.mark.parametrize("length", [0, 1, 40, 41, 62, 63, 127, 128, 129, 16_383, 16_384, 70_000])
def test_attributes_of_every_length_are_the_same_in_protobuf(length):
    span = span_of(attributes=[{"key": "k" * length, "value": {"stringValue": "\u00e4" * length}}])

    assert span == Span(
        attributes=[KeyValue(key="k" * length, value=AnyValue(string_value="\u00e4" * length))]
    )


def test_attributes_stay_in_their_order_whatever_stands_between_short_texts():
    # Given thousands of short texts, and among them texts of two bytes a character, long ones and numbers
    meant = [(f"key.{number}", f"value {number}") for number in range(3_000)]
    meant[5] = ("\u00e4", "b")
    meant[6] = ("b", "\u00e4")
    meant[1_500] = ("long", "v" * 200)
    meant[2_999] = ("number", 7)
    attributes = [
        {"key": key, "value": {"intValue": str(value)} if isinstance(value, int) else {"stringValue": value}}
        for key, value in meant
    ]

    # When they are read
    span = span_of(attributes=attributes)

    # Then each stands where it stood
    read = [(pair.key, pair.value.string_value or pair.value.int_value) for pair in span.attributes]
    assert read == meant


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ({"key": "a", "value": {"stringValue": "b", "intValue": "5"}}, AnyValue(int_value=5)),
        ({"key": "a", "value": {"stringValue": "b"}, "new": 1}, AnyValue(string_value="b")),
        ({"key": "a", "value": {"intValue": "-5"}}, AnyValue(int_value=-5)),
        ({"key": "a", "value": {"intValue": 2**63 - 1}}, AnyValue(int_value=2**63 - 1)),
        ({"key": "a", "value": {"doubleValue": 5}}, AnyValue(double_value=5)),
        ({"key": "a", "value": {"stringValue": None}}, AnyValue()),
        ({"key": "a", "value": {}}, AnyValue()),
        ({"key": "a", "value": None}, None),
        ({"key": "a"}, None),
    ],
)
def test_an_unusual_attribute_is_read_by_the_same_rules(written, meant):
    (attribute,) = span_of(attributes=[written]).attributes

    assert attribute == KeyValue(key="a", value=meant)


def test_ids_are_hexadecimal_in_either_case():
    span = span_of(traceId="5B8EFFF798038103D269B633813FC60C", spanId="eee19b7ec3c1b174")

    assert span.trace_id == bytes.fromhex("5b8efff798038103d269b633813fc60c")
    assert span.span_id == bytes.fromhex("eee19b7ec3c1b174")


@pytest.mark.parametrize("time", [1_544_712_660_000_000_123, "1544712660000000123"])
def test_64_bit_numbers_are_numbers_or_text(time):
    assert span_of(startTimeUnixNano=time).start_time_unix_nano == 1_544_712_660_000_000_123


@pytest.mark.parametrize(
    ("written", "meant"), [("NaN", "nan"), ("-Infinity", "-inf"), (1, "1.0"), ("2.5", "2.5")]
)
def test_doubles_may_be_words(written, meant):
    span = span_of(attributes=[{"key": "x", "value": {"doubleValue": written}}])

    assert str(span.attributes[0].value.double_value) == meant


@pytest.mark.parametrize("text", ["_-8=", "_-8", "/+8=", "/+8"])
def test_bytes_are_base64_in_both_alphabets(text):
    span = span_of(attributes=[{"key": "x", "value": {"bytesValue": text}}])

    assert span.attributes[0].value.bytes_value == b"\xff\xef"


def test_what_is_unknown_null_or_in_snake_case_is_ignored():
    span = span_of(name=None, new={"a": [1]}, start_time_unix_nano="x", status={"code": 2, "new": 1})

    assert (span.name, span.start_time_unix_nano, span.status.code) == ("", 0, 2)


def test_an_empty_object_is_an_empty_request():
    assert from_json(ExportTraceServiceRequest, b" {} \n") == ExportTraceServiceRequest()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("traceId", "not hex"),
        ("traceId", 5),
        ("traceId", "abc"),
        ("name", 5),
        ("name", ["a"]),
        ("kind", "SPAN_KIND_SERVER"),
        ("kind", True),
        ("kind", 1.5),
        ("kind", 2**31),
        ("startTimeUnixNano", -1),
        ("startTimeUnixNano", "1_000"),
        ("startTimeUnixNano", "9" * 21),
        ("startTimeUnixNano", 2**64),
        ("attributes", {}),
        ("attributes", [None]),
        ("attributes", "text"),
        ("status", []),
    ],
)
def test_a_wrong_value_is_named_by_its_field_and_not_shown(field, value):
    with pytest.raises(NotOtlpJson, match=r"must be|out of range") as error:
        span_of(**{field: value})

    assert field in str(error.value)
    assert len(str(error.value)) < 60


def nested(levels):
    value = {"stringValue": "bottom"}
    for _ in range(levels):
        value = {"arrayValue": {"values": [value]}}
    return [{"key": "x", "value": value}]


def test_values_nest_as_deep_as_in_protobuf():
    """What is stored is read by protobuf's reader, so nothing may be nested deeper than that takes."""
    request = ExportTraceServiceRequest()
    request.resource_spans.add().scope_spans.add().spans.append(span_of(attributes=nested(47)))
    assert ExportTraceServiceRequest.FromString(request.SerializeToString()) == request

    with pytest.raises(NotOtlpJson, match="nested too deeply"):
        span_of(attributes=nested(48))
    too_deep = span_of(attributes=nested(47))
    too_deep.attributes[0].value.array_value.values.append(too_deep.attributes[0].value)
    request.resource_spans[0].scope_spans[0].spans.append(too_deep)
    with pytest.raises(DecodeError):
        ExportTraceServiceRequest.FromString(request.SerializeToString())


@pytest.mark.parametrize("levels", range(28, 33))
def test_lists_of_names_nest_as_deep_as_in_protobuf(levels):
    # Given a list in a list, and so on
    value, message = {"stringValue": "bottom"}, AnyValue(string_value="bottom")
    for _ in range(levels):
        value = {"kvlistValue": {"values": [{"key": "k", "value": value}]}}
        message = AnyValue(kvlist_value=KeyValueList(values=[KeyValue(key="k", value=message)]))
    span = Span(attributes=[KeyValue(key="k", value=message)])
    request = ExportTraceServiceRequest(
        resource_spans=[ResourceSpans(scope_spans=[ScopeSpans(spans=[span])])]
    ).SerializeToString()

    # Then JSON is taken where protobuf is
    try:
        ExportTraceServiceRequest.FromString(request)
    except DecodeError:
        with pytest.raises(NotOtlpJson, match="nested too deeply"):
            span_of(attributes=[{"key": "k", "value": value}])
    else:
        assert span_of(attributes=[{"key": "k", "value": value}]) == span


@pytest.mark.parametrize("part", [b"{}", b"[]"])
def test_countless_parts_are_refused_before_they_are_parsed(part):
    body = b'{"resourceSpans":[' + b",".join([part] * MAX_PARTS) + b"]}"

    with pytest.raises(NotOtlpJson, match="send smaller batches"):
        from_json(ExportTraceServiceRequest, body)


@pytest.mark.parametrize(
    "unknown", [b'{%b"a":1}' % (b'"a":1,' * MAX_SEPARATORS), b"[%b1]" % (b"1," * MAX_SEPARATORS)]
)
def test_countless_names_and_values_are_refused_before_they_are_parsed(unknown):
    """Also in a field that is ignored: it is parsed all the same."""
    with pytest.raises(NotOtlpJson, match="send smaller batches"):
        from_json(ExportTraceServiceRequest, b'{"unknown":%b}' % unknown)


def test_a_whole_request_of_small_spans_is_taken():
    """Nothing that exporters write has more separators to a byte."""
    span = json.dumps(
        {
            "traceId": "5b8efff798038103d269b633813fc60c",
            "spanId": "eee19b7ec3c1b174",
            "parentSpanId": "eee19b7ec3c1b173",
            "name": "GET /orders",
            "kind": 2,
            "startTimeUnixNano": "1544712660000000000",
            "endTimeUnixNano": "1544712661000000000",
            "attributes": [],
            "droppedAttributesCount": 0,
            "events": [],
            "droppedEventsCount": 0,
            "status": {"code": 0},
            "links": [],
            "droppedLinksCount": 0,
        },
        separators=(",", ":"),
    ).encode()
    spans = 16 * 2**20 // (len(span) + 1)
    body = b'{"resourceSpans":[{"scopeSpans":[{"spans":[' + b",".join([span] * spans) + b"]}]}]}"

    request = from_json(ExportTraceServiceRequest, body)

    assert len(request.resource_spans[0].scope_spans[0].spans) == spans


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["resourceLogs", "scopeLogs", "logRecords", "attributes", "key", "value", "body", "traceId"]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=15,
)


@given(json_values)
def test_whatever_json_holds_there_is_one_error(value):
    for keep_readable in (False, True):
        with contextlib.suppress(NotOtlpJson):
            from_json(ExportLogsServiceRequest, json.dumps(value).encode(), keep_readable=keep_readable)


@given(st.binary(max_size=50) | st.text(alphabet='{}[]":,0\\ud8e-', max_size=30).map(str.encode))
def test_whatever_the_bytes_there_is_one_error(body):
    with contextlib.suppress(NotOtlpJson):
        from_json(ExportLogsServiceRequest, body)


def request_of(*spans):
    return json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": list(spans)}]}]}).encode()


@pytest.mark.parametrize(
    "wrong",
    [
        {"traceId": base64.b64encode(b"x" * 16).decode()},
        {"kind": "SPAN_KIND_SERVER"},
        {"startTimeUnixNano": 2**64},
        {"attributes": nested(48)},
        {"name": "\ud800"},
        {"attributes": [{"key": "a", "value": 5}]},
        "text",
        None,
    ],
    ids=str,
)
def test_a_wrong_span_is_empty_and_the_others_stay(wrong):
    body = request_of({"name": "a"}, wrong, {"name": "c"})
    with pytest.raises(NotOtlpJson):
        from_json(ExportTraceServiceRequest, body)

    request = from_json(ExportTraceServiceRequest, body, keep_readable=True)

    assert list(request.resource_spans[0].scope_spans[0].spans) == [Span(name="a"), Span(), Span(name="c")]


@pytest.mark.parametrize("place", ["resourceSpans", "scopeSpans", "spans"])
def test_what_is_no_object_costs_no_exception_each(place, monkeypatch):
    # Given a good span, and numbers instead of resources, scopes or spans
    spans = [{"name": "a"}, *[5] * (1_000 * (place == "spans"))]
    scopes = [{"spans": spans}, *[5] * (1_000 * (place == "scopeSpans"))]
    resources = [{"scopeSpans": scopes}, *[5] * (1_000 * (place == "resourceSpans"))]
    made, problem = [], NotOtlpJson.__init__
    monkeypatch.setattr(
        NotOtlpJson, "__init__", lambda self, *texts: made.append(self) or problem(self, *texts)
    )

    # When they are read
    (kept,) = from_json(
        ExportTraceServiceRequest, json.dumps({"resourceSpans": resources}).encode(), keep_readable=True
    ).resource_spans

    # Then the good one stays, with as many empty ones: a body of 4 KB may inflate to two million of them
    found = [span for scope in kept.scope_spans for span in scope.spans]
    assert found == [Span(name="a"), *[Span()] * 1_000]
    assert len(made) < 5


WRONG_DESCRIPTIONS = {
    "wrong type": {"attributes": [{"key": "a", "value": {"intValue": "x"}}]},
    "no Unicode": {"attributes": [{"key": "a", "value": {"stringValue": "\ud800"}}]},
    "too deep": {"attributes": nested(49)},
    "no object": 5,
}


@pytest.mark.parametrize(
    "wrong",
    [
        *(
            {"resource": wrong, "scopeSpans": [{"spans": [{"name": "b"}]}]}
            for wrong in WRONG_DESCRIPTIONS.values()
        ),
        {"scopeSpans": {}},
        "text",
        None,
    ],
    ids=[*WRONG_DESCRIPTIONS, "no array", "text", "null"],
)
@pytest.mark.parametrize("order", [1, -1])
def test_a_wrong_resource_is_one_empty_span_and_the_others_stay(wrong, order):
    # Given a good resource, before or behind a wrong one
    named = {"attributes": [{"key": "service.name", "value": {"stringValue": "shop"}}]}
    good = {"resource": named, "scopeSpans": [{"spans": [{"name": "a"}]}]}
    body = json.dumps({"resourceSpans": [good, wrong][::order]}).encode()
    with pytest.raises(NotOtlpJson):
        from_json(ExportTraceServiceRequest, body)

    # When they are read
    (kept,) = from_json(ExportTraceServiceRequest, body, keep_readable=True).resource_spans

    # Then the good one is whole, and has what stands for the other
    assert kept.resource.attributes[0].value.string_value == "shop"
    assert [list(scope.spans) for scope in kept.scope_spans] == [[Span(name="a")], [Span()]]


@pytest.mark.parametrize(
    "wrong",
    [
        *({"scope": wrong, "spans": [{"name": "b"}]} for wrong in WRONG_DESCRIPTIONS.values()),
        {"spans": {}},
        "text",
        None,
    ],
    ids=[*WRONG_DESCRIPTIONS, "no array", "text", "null"],
)
def test_a_wrong_scope_is_one_empty_span_and_the_others_stay(wrong):
    scopes = [{"scope": {"name": "x"}, "spans": [{"name": "a"}]}, wrong, {"spans": [{"name": "c"}]}]
    body = json.dumps({"resourceSpans": [{"scopeSpans": scopes}]}).encode()
    with pytest.raises(NotOtlpJson):
        from_json(ExportTraceServiceRequest, body)

    (kept,) = from_json(ExportTraceServiceRequest, body, keep_readable=True).resource_spans

    assert [list(scope.spans) for scope in kept.scope_spans] == [[Span(name="a")], [Span()], [Span(name="c")]]
    assert [scope.scope.name for scope in kept.scope_spans] == ["x", "", ""]


def test_a_wrong_address_of_a_schema_costs_nothing():
    body = (
        b'{"resourceSpans": [{"schemaUrl": 5, "scopeSpans": [{"schemaUrl": 5, "spans": [{"name": "a"}]}]}]}'
    )

    (kept,) = from_json(ExportTraceServiceRequest, body, keep_readable=True).resource_spans

    assert list(kept.scope_spans[0].spans) == [Span(name="a")]


@pytest.mark.parametrize(
    "parts",
    [
        b'{"scopeSpans":[{"spans":[{"name":"a"}%b]}]}',
        b'{"scopeSpans":[{"spans":[{"name":"a"}]}%b]}',
        b'{"scopeSpans":[{"spans":[{"name":"a"}]}]}%b',
    ],
    ids=["spans", "scopes", "resources"],
)
def test_countless_parts_that_are_no_objects_are_refused_together(parts):
    """An empty span takes 174 bytes of memory, and what stands for it two bytes of the body."""
    body = b'{"resourceSpans":[' + parts % (b",5" * MAX_PARTS) + b"]}"

    with pytest.raises(NotOtlpJson, match="must be an object"):
        from_json(ExportTraceServiceRequest, body, keep_readable=True)


@pytest.mark.parametrize(
    "body",
    [
        request_of({"kind": "SPAN_KIND_SERVER"}),
        b'{"resourceSpans": [{"scopeSpans": [{"spans": {}}]}]}',
        b'{"resourceSpans": [{"scopeSpans": [{"spans": [{}], "scope": 5}]}]}',
        b'{"resourceSpans": 5}',
        b"[]",
    ],
)
def test_without_any_readable_span_or_with_a_wrong_frame_there_is_an_error(body):
    with pytest.raises(NotOtlpJson):
        from_json(ExportTraceServiceRequest, body, keep_readable=True)


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ('{"resourceSpans":[RESOURCE],"resourceSpans":[RESOURCE]}', "resourceSpans"),
        ('{"resourceSpans":[{"scopeSpans":[SCOPE],"scopeSpans":[SCOPE]}]}', "scopeSpans"),
        ('{"resourceSpans":[{"scopeSpans":[{"spans":[{}],"spans":[{}]}]}]}', "spans"),
        ('{"resourceSpans":[{"scopeSpans":[{"spans":[{}],"sp\\u0061ns":[{}]}]}]}', "spans"),
        ('{"resourceSpans":[RESOURCE],"resourceSpans":null}', "resourceSpans"),
        ('{"resourceSpans":[RESOURCE,RESOURCE],"resourceSpans":[{"scopeSpans":7}]}', "resourceSpans"),
    ],
)
@pytest.mark.parametrize("keep_readable", [False, True])
def test_an_object_with_two_lists_of_spans_is_refused_instead_of_losing_one(body, name, keep_readable):
    scope = '{"spans":[{"name":"a"}]}'
    body = body.replace("RESOURCE", f'{{"scopeSpans":[{scope}]}}').replace("SCOPE", scope)

    with pytest.raises(NotOtlpJson, match=f"an object has {name} twice") as problem:
        to_protobuf(ExportTraceServiceRequest, body.encode(), keep_readable=keep_readable)

    assert problem.value.field == name


@pytest.mark.parametrize("name", ["resourceLogs", "scopeLogs", "logRecords"])
def test_so_is_one_with_two_lists_of_log_records(name):
    holder = f'{{"{name}":[{{}}],"{name}":[{{}}]}}'
    body = {
        "resourceLogs": holder,
        "scopeLogs": f'{{"resourceLogs":[{holder}]}}',
        "logRecords": f'{{"resourceLogs":[{{"scopeLogs":[{holder}]}}]}}',
    }

    with pytest.raises(NotOtlpJson, match=f"an object has {name} twice"):
        to_protobuf(ExportLogsServiceRequest, body[name].encode())


def test_texts_that_look_like_such_lists_are_texts():
    name = 'list "spans" \u0061 \\ "scopeSpans"'

    assert span_of(name=name, unknown={"spans": [], "resourceSpans": 1}).name == name
