"""Whatever bytes come: no crash, no 500, no UNKNOWN, and the good spans of a request are stored.

Against a real receiver process and a real MongoDB. `make proof` asks far more often, with a new
seed each time.
"""

import base64
import copy
import gzip
import json
import math
import time
import zlib

import pytest
from google.protobuf import json_format
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue, KeyValueList
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.metrics.v1.metrics_pb2 import (
    Exemplar,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    NumberDataPoint,
    Sum,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.proto.trace.v1.trace_pb2 import Status as SpanStatus

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1_800)]

EXPORT_TRACES = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
EXPORT_LOGS = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"
EXPORT_METRICS = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export"
PROTOBUF, JSON = "application/x-protobuf", "application/json"


# Spans of which everything may be wrong.


KEYS = (
    # what is read
    "http.route",
    "http.request.method",
    "http.method",
    "url.path",
    "http.target",
    "url.full",
    "http.response.status_code",
    "rpc.system",
    "rpc.grpc.status_code",
    "project.key",
    "pyinstrument.payload",
    # and what is odd
    *("", "\0", "a\0b", "$where", "a.b", ".", "__proto__", "_id", "\u202e", "🦄", "k" * 5_000),
)
TEXTS = (
    "",
    "\0",
    "/" * 3_000,
    "x" * 70_000,
    "GET",
    "[",
    "http://[",
    "\r\nx: y",
    "%00",
    "2" * 400,
    "🦄\u202e",
)
INTEGERS = (0, -1, 200, 404, 2**63 - 1, -(2**63), 10**18)
DOUBLES = (math.nan, math.inf, -0.0, 5e-324, 200.0, 1e308)
TIMES = (0, 1, 2**63 - 1, 2**63, 2**64 - 1, 1_763_720_000 * 10**9)
IDS = (b"", bytes(8), bytes(16), b"\xff" * 8, b"\xff" * 16, b"x" * 9, b"y" * 40)
PAYLOADS = (
    b"",
    b"no zlib",
    zlib.compress(b"{}"),
    zlib.compress(b"[" * 100_000),
    zlib.compress(b"0" * 40_000_000, 9),
    zlib.compress(b'{"strings":[],"frames":[],"nodes":[]}')[:-3],
    zlib.compress(b'{"format":1,"nodes":{"parent":[-1,0,1,9],"frame":[0],"self":[1e999]}}'),
)


def scalar(dice):
    match dice.randrange(6):
        case 0:
            return AnyValue()
        case 1:
            return AnyValue(string_value=dice.choice(TEXTS))
        case 2:
            return AnyValue(int_value=dice.choice(INTEGERS))
        case 3:
            return AnyValue(bool_value=dice.random() < 0.5)
        case 4:
            return AnyValue(double_value=dice.choice(DOUBLES))
        case _:
            return AnyValue(bytes_value=dice.randbytes(dice.choice([0, 1, 20, 9_000])))


def value(dice):
    match dice.randrange(5):
        case 0:
            return AnyValue(array_value=ArrayValue(values=[scalar(dice) for _ in range(3)]))
        case 1:
            return AnyValue(kvlist_value=KeyValueList(values=attributes(dice, scalar)[:6]))
        case 2:
            nested = scalar(dice)
            for _ in range(dice.choice([5, 17, 40, 46])):  # protobuf's libraries write no more than 47
                nested = AnyValue(array_value=ArrayValue(values=[nested]))
            return nested
        case _:
            return scalar(dice)


def attributes(dice, of=value):
    pairs = [KeyValue(key=dice.choice(KEYS), value=of(dice)) for _ in range(dice.randrange(6))]
    return pairs * dice.choice([1, 1, 1, 2, 20])


def profile_event(dice):
    event = Span.Event(name="pyinstrument.profile", attributes=attributes(dice))
    payload, encoding = dice.choice(PAYLOADS), dice.choice(["zlib+json", "zlib+json+base64", "", "zip"])
    event.attributes.add(key="pyinstrument.format").value.int_value = dice.choice([1, 1, 1, 0, 2**63 - 1])
    event.attributes.add(key="pyinstrument.encoding").value.string_value = encoding
    carrier = event.attributes.add(key="pyinstrument.payload").value
    if encoding.endswith("base64"):
        carrier.string_value = base64.b64encode(payload).decode()
    else:
        carrier.bytes_value = payload
    return event


def some_id(dice, length):
    return dice.choice(IDS) if dice.random() < 0.2 else dice.randbytes(length)


def some_time(dice):
    return dice.choice([*TIMES, time.time_ns(), dice.randrange(2**64)])


def event(dice):
    if dice.random() < 0.3:
        return profile_event(dice)
    name, when = dice.choice(TEXTS), some_time(dice)
    return Span.Event(name=name, time_unix_nano=when, attributes=attributes(dice))


def link(dice):
    trace_id, span_id = some_id(dice, 16), some_id(dice, 8)
    return Span.Link(trace_id=trace_id, span_id=span_id, attributes=attributes(dice))


def poison_span(dice):
    """Whatever a protobuf library can write."""
    kind = dice.choice([2, 2, 2, 0, 3, 6, 99, -1, 2**31 - 1])
    return Span(
        trace_id=some_id(dice, 16),
        span_id=some_id(dice, 8),
        parent_span_id=some_id(dice, 8),
        trace_state=dice.choice(TEXTS),
        flags=dice.randrange(2**32),
        name=dice.choice([*TEXTS, "x" * 70_000]),
        kind=kind,
        start_time_unix_nano=some_time(dice),
        end_time_unix_nano=some_time(dice),
        attributes=attributes(dice),
        dropped_attributes_count=dice.choice([0, 2**32 - 1]),
        dropped_events_count=dice.choice([0, 2**32 - 1]),
        events=[event(dice) for _ in range(dice.choice([0, 1, 3]))],
        links=[link(dice) for _ in range(dice.choice([0, 0, 2]))],
        status=SpanStatus(message=dice.choice(TEXTS), code=dice.choice([0, 1, 2, 77, -5])),
    )


def poison_spans(dice):
    """One to three, of less than 4 MiB together: a request that is too large is another matter."""
    while True:
        spans = [poison_span(dice) for _ in range(dice.randint(1, 3))]
        if sum(span.ByteSize() for span in spans) < 4 * 1024 * 1024:
            return spans


def spoiled(span, dice):
    """The bytes of `span` after some of them have changed."""
    body = bytearray(span.SerializeToString())
    for _ in range(dice.randint(1, 8)):
        spoil_once(body, dice)
    return bytes(body)


def spoil_once(body, dice):
    at = dice.randrange(len(body)) if body else 0
    match dice.randrange(5):
        case 0 if body:
            body[at] = dice.randrange(256)
        case 1:
            del body[at : at + dice.choice([1, 2, 50])]
        case 2:
            body[at:at] = dice.randbytes(dice.choice([1, 3, 40]))
        case 3:
            body[at:at] = body[at : at + 30]
        case _:
            body[at : at + 4] = dice.choice([b"\xff\xff\xff\xff", b"\x00" * 4, b"\xc3(\xa0\xa1"])


def raw_span(make, dice):
    """The bytes of a span that no protobuf library reads, or hardly."""
    match dice.randrange(5):
        case 0:
            return dice.randbytes(dice.randrange(60))
        case 1:
            return spoiled(poison_span(dice), dice)
        case 2:
            return spoiled(make.good_span(), dice)
        case 3:
            return make.deep_span(dice.choice([46, 47, 48, 49, 60, 200]))
        case _:
            return dice.choice(
                [b"\x4a" * 4_000, b"\x4a\x00" * 2_000, make.field(5, b"\xff\xfe"), b"\x0b" * 50]
            )


def poison_profile(dice):
    """A log record with a profile, of which everything may be wrong."""
    return LogRecord(
        event_name="pyinstrument.profile",
        trace_id=some_id(dice, 16),
        span_id=some_id(dice, 8),
        time_unix_nano=some_time(dice),
        observed_time_unix_nano=some_time(dice),
        severity_number=dice.choice([0, 9, 99, -1]),
        severity_text=dice.choice(TEXTS),
        body=value(dice),
        attributes=profile_event(dice).attributes,
        flags=dice.randrange(2**32),
    )


def logs_request(make, *records):
    return ExportLogsServiceRequest.FromString(
        make.request_with_raw_spans(*(record.SerializeToString() for record in records))
    )


def poison_metric(dice):
    """Whatever a protobuf library can write."""
    about = {"name": dice.choice(TEXTS), "unit": dice.choice(TEXTS), "metadata": attributes(dice)}
    point = {"attributes": attributes(dice, scalar), "time_unix_nano": some_time(dice)}
    match dice.randrange(4):
        case 0:
            number = NumberDataPoint(**point, as_double=dice.choice(DOUBLES))
            return Metric(**about, gauge=Gauge(data_points=[number]))
        case 1:
            number = NumberDataPoint(**point, as_int=dice.choice(INTEGERS), flags=dice.randrange(2**32))
            return Metric(**about, sum=Sum(data_points=[number] * 3, aggregation_temporality=99))
        case 2:
            exemplar = Exemplar(trace_id=some_id(dice, 16), span_id=some_id(dice, 8), as_double=math.nan)
            counts = dice.choice([[], [2**64 - 1] * 40, [0] * 9_000])
            bounds = dice.choice([[], [math.nan, -math.inf], [1.0] * 9_000])
            histogram = HistogramDataPoint(
                **point, bucket_counts=counts, explicit_bounds=bounds, sum=math.inf, exemplars=[exemplar]
            )
            return Metric(**about, histogram=Histogram(data_points=[histogram]))
        case _:
            return Metric(**about)


def poison_metrics_request(dice):
    request = ExportMetricsServiceRequest()
    resource_metrics = request.resource_metrics.add(schema_url=dice.choice(TEXTS))
    resource_metrics.resource.attributes.extend(attributes(dice))
    resource_metrics.scope_metrics.add().metrics.extend(poison_metric(dice) for _ in range(3))
    return request


# The same in JSON.


def as_otlp_json(message):
    """The JSON of OTLP as an object: hexadecimal ids, enum values as numbers."""

    def hexadecimal(node):
        if isinstance(node, list):
            return [hexadecimal(item) for item in node]
        if not isinstance(node, dict):
            return node
        ids = ("traceId", "spanId", "parentSpanId")
        return {k: base64.b64decode(v).hex() if k in ids else hexadecimal(v) for k, v in node.items()}

    return hexadecimal(json_format.MessageToDict(message, use_integers_for_enums=True))


ODD_JSON = [
    None,
    True,
    -1,
    1.5,
    1e300,
    2**70,
    "",
    "abc",
    "NaN",
    "\ud800",
    "ß" * 5_000,
    [],
    {},
    [None],
    [[[[]]]],
]
ODD_JSON += [
    "AAECAwQFBgcICQoLDA0ODw==",
    "5B8EFFF798038103D269B633813FC60C",
    "0x10",
    " 1 ",
    "١",
    {"a": {"b": []}},
]


def spoiled_json(span, dice):
    """The JSON object of `span` with odd values, unknown names and odd names here and there."""
    node = as_otlp_json(span)
    for _ in range(dice.randint(1, 4)):
        spoil_json_once(node, dice)
    return node


def spoil_json_once(node, dice):
    while True:
        inner = [value for value in node.values() if isinstance(value, dict)]
        inner += [
            v for value in node.values() if isinstance(value, list) for v in value if isinstance(v, dict)
        ]
        if not inner or dice.random() < 0.4:
            break
        node = dice.choice(inner)
    name = dice.choice([*node, "unknown", "traceId", "start_time_unix_nano", "attributes", "\0"])
    node[name] = copy.deepcopy(dice.choice(ODD_JSON))


def json_span(make, dice):
    match dice.randrange(5):
        case 0:
            return copy.deepcopy(dice.choice(ODD_JSON))
        case 1 | 2:
            return spoiled_json(make.good_span(), dice)
        case _:
            return spoiled_json(poison_span(dice), dice)


# What must hold.


def test_a_poisoned_span_takes_no_good_one_with_it(target, make, ask_many):
    """Spans that any protobuf library can write, in both encodings over both transports, gzipped or not."""

    def check(dice):
        poison, way, compressed = (
            poison_spans(dice),
            dice.choice(["grpc", "protobuf", "json"]),
            dice.random() < 0.5,
        )
        good = [make.good_span(), make.good_span()]
        request = make.request_of(good[0], *poison, good[1])
        body = request.SerializeToString()
        if way == "grpc":
            answer = target.by_grpc(body, compressed=compressed)
        else:
            if way == "json":
                # NaN and Infinity are text there
                body = json.dumps(as_otlp_json(request), allow_nan=False).encode()
            encoding = {"Content-Encoding": "gzip"} if compressed else {}
            body = gzip.compress(body, 1) if compressed else body
            answer = target.by_http(body, JSON if way == "json" else PROTOBUF, **encoding)
        assert answer.ok, f"{way}: {answer.what} {answer.message}"
        assert answer.rejected <= len(poison), answer.message
        assert "internal_error" not in answer.message
        assert target.stored(good) == 2

    ask_many(check)


def test_a_span_of_broken_bytes_takes_no_good_one_with_it(target, make, ask_many):
    """Spans that no protobuf library reads (no UTF-8, cut off, too deep), between good ones."""

    def check(dice):
        poison, way = (
            [raw_span(make, dice) for _ in range(dice.randint(1, 3))],
            dice.choice(["grpc", "protobuf"]),
        )
        good = [make.good_span(), make.good_span()]
        first, last = (span.SerializeToString() for span in good)
        body = make.request_with_raw_spans(first, *poison, last)
        answer = target.by_grpc(body) if way == "grpc" else target.by_http(body)
        assert answer.ok, f"{way}: {answer.what} {answer.message}"
        assert answer.rejected <= len(poison), answer.message
        assert "internal_error" not in answer.message
        assert target.stored(good) == 2

    ask_many(check)


def test_a_wrong_span_in_json_takes_no_good_one_with_it(target, make, ask_many):
    """Values of wrong types, ids in base64, integers out of range, lone surrogates, unknown names."""

    def check(dice):
        good, poison = (
            [make.good_span(), make.good_span()],
            [json_span(make, dice) for _ in range(dice.randint(1, 3))],
        )
        document = as_otlp_json(make.request_of(*good))
        document["resourceSpans"][0]["scopeSpans"][0]["spans"][1:1] = poison
        answer = target.by_http(json.dumps(document).encode(), JSON)
        assert answer.ok, f"{answer.what} {answer.message}"
        assert answer.rejected <= len(poison), answer.message
        assert "internal_error" not in answer.message
        assert target.stored(good) == 2

    ask_many(check)


def test_whatever_the_bytes_there_is_an_answer_of_otlp(target, make, ask_many):
    """Bytes changed anywhere, cut off, not what the headers say. (`Target` checks the answers.)"""

    def check(dice):
        request = make.request_of(make.good_span(), *poison_spans(dice))
        as_json = dice.random() < 0.4
        body = bytearray(
            json.dumps(as_otlp_json(request)).encode() if as_json else request.SerializeToString()
        )
        compressed = dice.random() < 0.3
        if compressed and dice.random() < 0.5:
            body = bytearray(gzip.compress(bytes(body), 1))
        for _ in range(dice.choice([0, 1, 3, 10])):
            spoil_once(body, dice)
        if dice.random() < 0.3:
            target.by_grpc(bytes(body), method=dice.choice([EXPORT_TRACES, EXPORT_LOGS, "/no/Such"]))
            return
        target.by_http(
            bytes(body),
            dice.choice(
                [JSON if as_json else PROTOBUF] * 6 + ["text/plain", "", "application/json;;;", JSON]
            ),
            path=dice.choice(["/v1/traces"] * 8 + ["/v1/logs", "/v1/metrics", "/", "/v1/traces/", "/%00"]),
            method=dice.choice(["POST"] * 12 + ["GET", "PUT", "PROPFIND"]),
            **(
                {"Content-Encoding": dice.choice(["gzip", "gzip", "GZIP", "zstd", "ÿ"])} if compressed else {}
            ),
        )

    ask_many(check)
    # And a good request is still taken
    good = make.good_span()
    assert target.by_http(make.request_of(good).SerializeToString()).ok
    assert target.stored([good]) == 1


def test_a_poisoned_log_record_takes_no_good_profile_with_it(target, make, ask_many):
    """Profiles that any protobuf library can write, and broken ones, in both encodings and transports."""

    def check(dice):
        poison, damage = poison_profile(dice), dice.choice([0, 0, 2])
        way = dice.choice(["grpc", "protobuf", "json"])
        good = [make.good_profile(), make.good_profile()]
        if way == "json":
            document, broken = as_otlp_json(logs_request(make, *good)), as_otlp_json(poison)
            for _ in range(damage):
                spoil_json_once(broken, dice)
            document["resourceLogs"][0]["scopeLogs"][0]["logRecords"].insert(1, broken)
            answer = target.by_http(json.dumps(document).encode(), JSON, path="/v1/logs")
        else:
            broken = bytearray(poison.SerializeToString())
            for _ in range(damage):
                spoil_once(broken, dice)
            first, last = (record.SerializeToString() for record in good)
            body = make.request_with_raw_spans(first, bytes(broken), last)
            if way == "grpc":
                answer = target.by_grpc(body, method=EXPORT_LOGS)
            else:
                answer = target.by_http(body, path="/v1/logs")
        assert answer.ok, f"{way}: {answer.what} {answer.message}"
        assert answer.rejected <= 1, answer.message
        assert "internal_error" not in answer.message
        assert target.stored(good, "profiles") == 2

    ask_many(check)


@pytest.mark.parametrize("signal", ["logs", "metrics"])
def test_logs_and_metrics_are_answered_whatever_their_bytes(target, make, ask_many, signal):
    """Bytes changed anywhere. (`Target` checks the answers.)"""
    method = {"logs": EXPORT_LOGS, "metrics": EXPORT_METRICS}[signal]

    def check(dice):
        request = (
            logs_request(make, poison_profile(dice)) if signal == "logs" else poison_metrics_request(dice)
        )
        damage, way = dice.choice([0, 0, 2]), dice.choice(["grpc", "protobuf", "json"])
        as_json = json.dumps(as_otlp_json(request)).encode()
        body = bytearray(as_json if way == "json" else request.SerializeToString())
        for _ in range(damage):
            spoil_once(body, dice)
        if way == "grpc":
            answer = target.by_grpc(bytes(body), method=method)
        else:
            media_type = JSON if way == "json" else PROTOBUF
            answer = target.by_http(bytes(body), media_type, path=f"/v1/{signal}")
        assert answer.ok or damage, f"{way}: {answer.what} {answer.message}"

    ask_many(check)
