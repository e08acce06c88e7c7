"""Whatever bytes come: no crash, no 500, no UNKNOWN, and the good spans of a request are stored.

Against a real receiver process and a real MongoDB. `make proof` asks far more often, with a new seed
each time.
"""

import base64
import contextlib
import gzip
import http.client
import json
import math
import os
import random
import secrets
import socket
import time
import zlib

import grpc
import pytest
from google.protobuf import json_format
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue, KeyValueList
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.proto.trace.v1.trace_pb2 import Status as SpanStatus
from pymongo import MongoClient

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1_800)]

EXAMPLES, EXAMPLES_AT_FULL_SCALE = 60, 2_000
SEED = 20_261_121
MEMORY_LIMIT_MIB = 400
EXPORT_TRACES = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
EXPORT_LOGS = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"
PROTOBUF, JSON = "application/x-protobuf", "application/json"
MIB = 1024 * 1024


# The receiver, seen from outside.


class Answer:
    """One answer over HTTP or gRPC. `rejected` counts the spans that a partial success names."""

    def __init__(self, ok, what, rejected=0, message=""):
        self.ok = ok
        self.what = what
        self.rejected = rejected
        self.message = message


class Target:
    """Sends what it is told to, and checks that every answer is one that OTLP knows."""

    def __init__(self, receiver, database):
        self.receiver = receiver
        self.database = database
        self.channel = grpc.insecure_channel(
            receiver.grpc, options=[("grpc.max_send_message_length", -1), ("grpc.max_metadata_size", 16_384)]
        )
        self._connection = self.connect()

    def connect(self):
        host, port = self.receiver.http.rsplit(":", 1)
        return http.client.HTTPConnection(host, int(port), timeout=60)

    def by_grpc(self, body, *, compressed=False, method=EXPORT_TRACES):
        call = self.channel.unary_unary(method)
        compression = grpc.Compression.Gzip if compressed else grpc.Compression.NoCompression
        try:
            content = call(body, timeout=60, compression=compression)
        except grpc.RpcError as error:
            return self._checked_refusal(error.code(), error.details())
        answer = ExportTraceServiceResponse.FromString(content)
        partial = answer.partial_success
        return Answer(True, grpc.StatusCode.OK, partial.rejected_spans, partial.error_message)

    def _checked_refusal(self, code, message):
        assert code.name in {"INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "UNIMPLEMENTED"}, f"{code} {message}"
        assert message
        return Answer(False, code, message=message)

    def by_http(self, body, media_type=PROTOBUF, *, path="/v1/traces", method="POST", **headers):
        headers = {"Content-Type": media_type} | {k.replace("_", "-"): v for k, v in headers.items()}
        try:
            self._connection.request(method, path, body, headers)
            response = self._connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException):
            # The receiver may close after a refusal; what it said before may be lost with it.
            self._connection.close()
            return Answer(False, None)
        if response.getheader("connection") == "close":
            self._connection.close()
        return self._checked(response, content, media_type)

    def _checked(self, response, content, media_type):
        assert response.status in {200, 400, 404, 405, 413, 415}, f"{response.status} {content[:500]}"
        asked = media_type.partition(";")[0].strip().lower()
        answered = response.getheader("content-type")
        assert answered == (asked if asked in {PROTOBUF, JSON} else JSON)
        message = ExportTraceServiceResponse() if response.status == 200 else Status()
        if answered == JSON:
            content = content.replace(b"rejectedLogRecords", b"rejectedSpans")  # the only difference
            json_format.Parse(content, message)
        else:
            message.ParseFromString(content)
        if response.status == 200:
            partial = message.partial_success
            return Answer(True, 200, partial.rejected_spans, partial.error_message)
        assert message.code > 0
        assert message.message
        return Answer(False, response.status, message=message.message)

    def stored(self, spans):
        """How many of these spans are records."""
        keys = [span.trace_id + span.span_id for span in spans]
        return self.database.performance_records.count_documents({"_id": {"$in": keys}})

    def close(self):
        self.channel.close()
        self._connection.close()


@pytest.fixture(scope="module")
def receiver(start_process, mongodb_url, database):
    """One process for all tests: whatever they did, it is there in the end, small, and stops as it should."""
    receiver = start_process(MONGODB_URL=mongodb_url, MONGODB_DATABASE=database.name)
    yield receiver
    assert receiver.process.poll() is None, receiver.log()[-4000:]
    memory_mib = receiver.largest_memory_mib()
    print(f"largest memory of the receiver: {memory_mib:.0f} MiB")
    assert memory_mib < MEMORY_LIMIT_MIB
    assert receiver.stop() == 0
    assert "Traceback" not in receiver.log()
    assert "internal_error" not in receiver.log()


@pytest.fixture(scope="module")
def database(mongodb_url):
    with MongoClient(mongodb_url) as client:
        database = client[f"test_{secrets.token_hex(8)}"]
        yield database
        client.drop_database(database.name)


@pytest.fixture
def target(receiver, database):
    target = Target(receiver, database)
    yield target
    target.close()
    assert receiver.process.poll() is None, receiver.log()[-4000:]


def ask_many(check, full_scale):
    """Calls `check` with many dice; with the same ones each time, unless at full scale."""
    seed = random.SystemRandom().randrange(2**32) if full_scale else SEED
    count = EXAMPLES_AT_FULL_SCALE if full_scale else EXAMPLES
    print(f"{count} examples of seed {seed}")
    for number in range(count):
        try:
            check(random.Random(f"{seed}/{number}"))
        except Exception as error:
            raise AssertionError(f"example {number} of seed {seed}") from error


# Good spans, and what stands between them.


def good_span():
    now = time.time_ns()
    span = Span(
        trace_id=os.urandom(16),
        span_id=os.urandom(8),
        name="GET /orders",
        kind=Span.SPAN_KIND_SERVER,
        start_time_unix_nano=now - 10**6,
        end_time_unix_nano=now,
    )
    span.attributes.add(key="http.route").value.string_value = "/orders"
    span.attributes.add(key="http.request.method").value.string_value = "GET"
    return span


def request_of(*spans, service="shop"):
    request = ExportTraceServiceRequest()
    resource_spans = request.resource_spans.add()
    resource_spans.resource.attributes.add(key="service.name").value.string_value = service
    resource_spans.scope_spans.add().spans.extend(spans)
    return request


def field(number, content):
    """One length-delimited field of a protobuf message."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def varint(value):
    result = bytearray()
    while value > 127:
        result.append(value & 127 | 128)
        value >>= 7
    return bytes([*result, value])


def request_with_raw_spans(*spans):
    """The bytes of a request whose spans are bytes already, whatever they are."""
    resource = request_of().resource_spans[0].resource.SerializeToString()
    scope = b"".join(field(2, span) for span in spans)
    return field(1, field(1, resource) + field(2, scope))


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
    return pairs * dice.choice([1, 1, 1, 2, 30])


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
    return [poison_span(dice) for _ in range(dice.randint(1, 3))]


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


def deep_span(levels):
    value = field(1, b"bottom")
    for _ in range(levels):
        value = field(5, field(1, value))
    return good_span().SerializeToString() + field(9, field(1, b"deep") + field(2, value))


def raw_span(dice):
    """The bytes of a span that no protobuf library reads, or hardly."""
    match dice.randrange(5):
        case 0:
            return dice.randbytes(dice.randrange(60))
        case 1:
            return spoiled(poison_span(dice), dice)
        case 2:
            return spoiled(good_span(), dice)
        case 3:
            return deep_span(dice.choice([46, 47, 48, 49, 60, 200]))
        case _:
            return dice.choice([b"\x4a" * 4_000, b"\x4a\x00" * 2_000, field(5, b"\xff\xfe"), b"\x0b" * 50])


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
    node[name] = dice.choice(ODD_JSON)


def json_span(dice):
    match dice.randrange(5):
        case 0:
            return dice.choice(ODD_JSON)
        case 1 | 2:
            return spoiled_json(good_span(), dice)
        case _:
            return spoiled_json(poison_span(dice), dice)


# What must hold.


def test_a_poisoned_span_takes_no_good_one_with_it(target, full_scale):
    """Spans that any protobuf library can write, in both encodings over both transports, gzipped or not."""

    def check(dice):
        poison, way, compressed = (
            poison_spans(dice),
            dice.choice(["grpc", "protobuf", "json"]),
            dice.random() < 0.5,
        )
        good = [good_span(), good_span()]
        request = request_of(good[0], *poison, good[1])
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

    ask_many(check, full_scale)


def test_a_span_of_broken_bytes_takes_no_good_one_with_it(target, full_scale):
    """Spans that no protobuf library reads (no UTF-8, cut off, too deep), between good ones."""

    def check(dice):
        poison, way = [raw_span(dice) for _ in range(dice.randint(1, 3))], dice.choice(["grpc", "protobuf"])
        good = [good_span(), good_span()]
        first, last = (span.SerializeToString() for span in good)
        body = request_with_raw_spans(first, *poison, last)
        answer = target.by_grpc(body) if way == "grpc" else target.by_http(body)
        assert answer.ok, f"{way}: {answer.what} {answer.message}"
        assert answer.rejected <= len(poison), answer.message
        assert "internal_error" not in answer.message
        assert target.stored(good) == 2

    ask_many(check, full_scale)


def test_a_wrong_span_in_json_takes_no_good_one_with_it(target, full_scale):
    """Values of wrong types, ids in base64, integers out of range, lone surrogates, unknown names."""

    def check(dice):
        good, poison = [good_span(), good_span()], [json_span(dice) for _ in range(dice.randint(1, 3))]
        document = as_otlp_json(request_of(*good))
        document["resourceSpans"][0]["scopeSpans"][0]["spans"][1:1] = poison
        answer = target.by_http(json.dumps(document).encode(), JSON)
        assert answer.ok, f"{answer.what} {answer.message}"
        assert answer.rejected <= len(poison), answer.message
        assert "internal_error" not in answer.message
        assert target.stored(good) == 2

    ask_many(check, full_scale)


def test_whatever_the_bytes_there_is_an_answer_of_otlp(target, full_scale):
    """Bytes changed anywhere, cut off, not what the headers say. (`Target` checks the answers.)"""

    def check(dice):
        request = request_of(good_span(), *poison_spans(dice))
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

    ask_many(check, full_scale)
    # And a good request is still taken
    good = good_span()
    assert target.by_http(request_of(good).SerializeToString()).ok
    assert target.stored([good]) == 1


# Corpus: what is too large or too slow to be found by chance.


def in_chunks(piece, count):
    for _ in range(count):
        yield piece


def bomb_of_spans(size):
    """A request full of empty spans, two bytes each."""
    scope = field(2, b"\x12\x00" * (size // 2))
    return field(1, scope)


def test_bombs_and_floods_are_refused_in_little_memory(target):
    """(`receiver` looks at the memory in the end.)"""
    http_refusals = {
        "100 MB announced": target.by_http(in_chunks(b"\0" * MIB, 100), Content_Length=str(100 * MIB)),
        "100 MB without announcement": target.by_http(in_chunks(b"\0" * MIB, 100)),
        "gzip of 1 GB": target.by_http(gzip.compress(b"\0" * MIB, 9) * 60, Content_Encoding="gzip"),
        "gzip of gzip": target.by_http(
            gzip.compress(gzip.compress(b"\0" * 100 * MIB, 9)), Content_Encoding="gzip"
        ),
        "8 million spans of nothing": target.by_http(bomb_of_spans(15 * MIB)),
        "nested 2,000 deep": target.by_http(field(1, field(2, field(2, deep_span(2_000))))),
        "arrays in JSON": target.by_http(b"[" * 15 * MIB, JSON),
        "objects in JSON": target.by_http(b'{"a":' * MIB, JSON),
        "a number of a million digits": target.by_http(b'{"x":' + b"9" * MIB + b"}", JSON),
        "text that never ends": target.by_http(b'{"x":"' + b"a" * 10 * MIB, JSON),
    }
    for name, answer in http_refusals.items():
        # A closed connection is as good an answer to somebody who sends on after the refusal
        assert answer.what in {400, 413, None}, f"{name}: {answer.what}"
    grpc_refusals = {
        "17 MB": target.by_grpc(b"\0" * 17 * MIB),
        "gzip of 100 MB": target.by_grpc(b"\0" * 100 * MIB, compressed=True),
        "8 million spans of nothing": target.by_grpc(bomb_of_spans(15 * MIB)),
    }
    for name, answer in grpc_refusals.items():
        assert not answer.ok, name
    # And it goes on as if nothing had been
    good = good_span()
    assert target.by_grpc(request_of(good).SerializeToString()).ok
    assert target.stored([good]) == 1


def test_a_large_request_with_a_single_good_span_among_poison_keeps_it(target):
    good = good_span()
    poison = [field(5, b"\xff" * 40) for _ in range(20_000)]
    body = request_with_raw_spans(*poison[:10_000], good.SerializeToString(), *poison[10_000:])

    answer = target.by_grpc(body)

    assert (answer.ok, answer.rejected) == (True, 20_000)
    assert target.stored([good]) == 1


POST = b"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
RAW_HTTP = {
    "no HTTP": b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03",
    "HTTP/0.9": b"GET /v1/traces\r\n\r\n",
    "HTTP/9": b"POST /v1/traces HTTP/9.9\r\nHost: x\r\n\r\n",
    "preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(80),
    "two lengths": POST + b"Content-Length: 3\r\nContent-Length: 9\r\n\r\nabc",
    "length and chunks": POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "negative length": POST + b"Content-Length: -1\r\n\r\n",
    "endless length": POST + b"Content-Length: " + b"9" * 400 + b"\r\n\r\n",
    "wrong chunk": POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n",
    "chunk of 2^72": POST + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\nabc\r\n",
    "10,000 headers": POST + b"x-a: b\r\n" * 10_000 + b"\r\n",
    "a header of 1 MB": POST + b"x-a: " + b"b" * MIB + b"\r\n\r\n",
    "a path of 1 MB": b"POST /" + b"a" * MIB + b" HTTP/1.1\r\n\r\n",
    "NUL in a header": POST + b"x-a: \0\r\n\r\n",
    "lines without return": b"POST /v1/traces HTTP/1.1\nHost: x\nContent-Length: 0\n\n",
    "100 requests at once": b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n" * 100,
}


def test_what_is_hardly_http_is_answered_or_closed(target):
    host, port = target.receiver.http.rsplit(":", 1)
    for name, sent in RAW_HTTP.items():
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            with contextlib.suppress(ConnectionError):
                connection.sendall(sent)
                connection.shutdown(socket.SHUT_WR)
            received = b""
            with contextlib.suppress(ConnectionError):
                while chunk := connection.recv(65_536):
                    received += chunk
        assert b" 500 " not in received.split(b"\r\n")[0], name
    # And 200 connections that say nothing keep nobody out
    idle = [socket.create_connection((host, int(port)), timeout=20) for _ in range(200)]
    for connection in idle:
        connection.sendall(
            b"POST /v1/traces HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab"
        )
    good = good_span()
    assert target.by_http(request_of(good).SerializeToString()).ok
    assert target.stored([good]) == 1
    for connection in idle:
        connection.close()


def test_a_scanner_makes_no_endpoints(target, full_scale):
    """Paths that nobody has asked for before, half of them answered with success."""
    dice = random.Random(SEED)
    paths = 100_000 if full_scale else 4_000
    known = good_span()
    assert target.by_grpc(request_of(known, service="scanned").SerializeToString()).ok

    for _ in range(paths // 500):
        spans = [good_span() for _ in range(500)]
        for number, span in enumerate(spans):
            path = "/".join(["", *(dice.randbytes(3).hex(":") for _ in range(dice.choice([1, 1, 2, 4])))])
            del span.attributes[0]
            span.attributes.add(key="url.path").value.string_value = path
            code = span.attributes.add(key="http.response.status_code").value
            code.int_value = 404 if number % 2 else 200
        answer = target.by_grpc(request_of(*spans, service="scanned").SerializeToString())
        assert (answer.ok, answer.rejected) == (True, 0)

    records = target.database.performance_records
    endpoints = records.distinct("endpoint", {"service": "scanned"})
    print(f"{paths} paths became {len(endpoints)} endpoints")
    assert records.count_documents({"service": "scanned"}) == paths + 1
    assert len(endpoints) <= 503
    assert {"GET /orders", "GET /{*}", "GET /{unmatched}"} <= set(endpoints)


def test_logs_are_as_hard_to_poison(target, full_scale):
    def check(dice):
        request = ExportLogsServiceRequest()
        record = (
            request.resource_logs.add().scope_logs.add().log_records.add(event_name="pyinstrument.profile")
        )
        record.attributes.extend(profile_event(dice).attributes)
        record.body.CopyFrom(value(dice))
        record.trace_id, record.span_id = dice.randbytes(16), dice.randbytes(8)
        record.time_unix_nano = dice.choice([0, 1, 2**63, time.time_ns()])
        if dice.random() < 0.5:
            body, media_type = request.SerializeToString(), PROTOBUF
        else:
            body, media_type = json.dumps(as_otlp_json(request)).encode(), JSON
        spoilt = bytearray(body)
        for _ in range(dice.choice([0, 0, 2])):
            spoil_once(spoilt, dice)
        target.by_http(bytes(spoilt), media_type, path="/v1/logs")

    ask_many(check, full_scale)
