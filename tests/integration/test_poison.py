"""Whatever bytes come: no crash, no 500, no UNKNOWN, and the good spans of a request are stored.

Against a real receiver process and a real MongoDB. `make proof` asks a hundred times as often, with a new
seed each time.
"""

import base64
import contextlib
import gzip
import http.client
import json
import math
import os
import random
import socket
import time
import zlib

import grpc
import hypothesis
import pytest
from google.protobuf import json_format
from google.rpc.status_pb2 import Status
from hypothesis import HealthCheck
from hypothesis import strategies as st
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

EXAMPLES, EXAMPLES_AT_FULL_SCALE = 150, 15_000
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


@pytest.fixture
def target(start_receiver_process, mongodb_url, mongodb_database):
    receiver = start_receiver_process()
    with MongoClient(mongodb_url) as client:
        target = Target(receiver, client[mongodb_database])
        yield target
        target.close()
    # Then, whatever a test did: the same process is there, small, without a mistake, and stops as it should
    assert receiver.process.poll() is None, receiver.log()[-4000:]
    memory_mib = receiver.largest_memory_mib()
    print(f"largest memory of the receiver: {memory_mib:.0f} MiB")
    assert memory_mib < MEMORY_LIMIT_MIB
    assert receiver.stop() == 0
    log = receiver.log()
    assert "Traceback" not in log
    assert "internal_error" not in log


def ask_many(check, strategy, full_scale):
    """Calls `check` with many examples of `strategy`; the same ones each time, unless at full scale."""
    seed = random.SystemRandom().randrange(2**32) if full_scale else SEED
    count = EXAMPLES_AT_FULL_SCALE if full_scale else EXAMPLES
    print(f"{count} examples, seed {seed}")
    settings = hypothesis.settings(
        max_examples=count,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[hypothesis.Phase.generate, hypothesis.Phase.shrink],
    )
    hypothesis.seed(seed)(settings(hypothesis.given(strategy)(check)))()


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


def request_of(*spans):
    request = ExportTraceServiceRequest()
    resource_spans = request.resource_spans.add()
    resource_spans.resource.attributes.add(key="service.name").value.string_value = "shop"
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


KEYS_THAT_ARE_READ = (
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
)
ODD_KEYS = ("", "\0", "a\0b", "$where", "a.b", ".", "__proto__", "_id", "\u202e", "🦄", "k" * 5_000)
keys = st.sampled_from(KEYS_THAT_ARE_READ + ODD_KEYS)
texts = st.one_of(
    st.text(max_size=20),
    st.sampled_from(["\0", "/" * 3_000, "x" * 70_000, "GET", "[", "http://[", "\r\nx: y", "%00", "2" * 400]),
)
numbers = st.one_of(
    st.integers(-(2**63), 2**63 - 1), st.sampled_from([0, 200, 404, 2**63 - 1, -(2**63), 10**18])
)
scalars = st.one_of(
    st.builds(AnyValue),
    st.builds(AnyValue, string_value=texts),
    st.builds(AnyValue, int_value=numbers),
    st.builds(AnyValue, bool_value=st.booleans()),
    st.builds(AnyValue, double_value=st.sampled_from([math.nan, math.inf, -0.0, 5e-324, 200.0, 1e308])),
    st.builds(AnyValue, bytes_value=st.binary(max_size=20)),
)


def as_array(values):
    return AnyValue(array_value=ArrayValue(values=values))


def as_map(pairs):
    return AnyValue(kvlist_value=KeyValueList(values=pairs))


def pairs_of(values):
    return st.builds(KeyValue, key=keys, value=values)


def nested(levels, value):
    for _ in range(levels):
        value = as_array([value])
    return value


values = st.one_of(
    scalars,
    st.lists(scalars, max_size=3).map(as_array),
    st.lists(pairs_of(scalars), max_size=3).map(as_map),
    st.builds(nested, st.sampled_from([5, 17, 40, 46, 47, 48, 90]), scalars),
)
attributes = st.lists(pairs_of(values), max_size=6).flatmap(
    lambda pairs: st.sampled_from([pairs, pairs * 2, pairs * 50])
)
payloads = st.one_of(
    st.binary(max_size=50),
    st.sampled_from(
        [
            zlib.compress(b"{}"),
            zlib.compress(b"[" * 100_000),
            zlib.compress(b"0" * 40_000_000, 9),
            zlib.compress(b'{"strings":[],"frames":[],"nodes":[]}')[:-3],
            zlib.compress(b'{"format":1,"nodes":{"parent":[-1,0,1,9],"frame":[0],"self":[1e999]}}'),
        ]
    ),
)


def profile_event(payload, encoding, version):
    event = Span.Event(name="pyinstrument.profile")
    event.attributes.add(key="pyinstrument.format").value.int_value = version
    event.attributes.add(key="pyinstrument.encoding").value.string_value = encoding
    if encoding.endswith("base64"):
        event.attributes.add(key="pyinstrument.payload").value.string_value = base64.b64encode(
            payload
        ).decode()
    else:
        event.attributes.add(key="pyinstrument.payload").value.bytes_value = payload
    return event


events = st.one_of(
    st.builds(
        profile_event,
        payloads,
        st.sampled_from(["zlib+json", "zlib+json+base64", "", "zip"]),
        st.sampled_from([1, 0, 2**63 - 1]),
    ),
    st.builds(Span.Event, name=texts, time_unix_nano=st.integers(0, 2**64 - 1), attributes=attributes),
)
ids = st.one_of(
    st.binary(max_size=40), st.sampled_from([b"", bytes(8), bytes(16), b"\xff" * 8, b"\xff" * 16, b"x" * 9])
)
times = st.one_of(
    st.integers(0, 2**64 - 1), st.sampled_from([0, 1, 2**63 - 1, 2**63, 2**64 - 1, 1_763_720_000 * 10**9])
)
enums = st.one_of(st.integers(-(2**31), 2**31 - 1), st.integers(0, 6), st.just(2))
links = st.builds(Span.Link, trace_id=ids, span_id=ids, trace_state=texts, attributes=attributes)
poison_spans = st.builds(
    Span,
    trace_id=st.one_of(st.binary(min_size=16, max_size=16), ids),
    span_id=st.one_of(st.binary(min_size=8, max_size=8), ids),
    parent_span_id=ids,
    trace_state=texts,
    flags=st.integers(0, 2**32 - 1),
    name=texts,
    kind=enums,
    start_time_unix_nano=times,
    end_time_unix_nano=times,
    attributes=attributes,
    dropped_attributes_count=st.integers(0, 2**32 - 1),
    events=st.lists(events, max_size=3),
    links=st.lists(links, max_size=2),
    status=st.builds(SpanStatus, message=texts, code=enums),
)


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


random_dice = st.integers(0, 2**64).map(random.Random)
raw_spans = st.one_of(
    st.binary(max_size=60),
    st.builds(spoiled, poison_spans, random_dice),
    st.builds(lambda dice: spoiled(good_span(), dice), random_dice),
    st.sampled_from([b"\x4a" * 4_000, b"\x4a\x00" * 2_000, field(5, b"\xff\xfe"), b"\x0b" * 50]),
)


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


json_spans = st.one_of(
    st.builds(spoiled_json, poison_spans, random_dice),
    st.builds(lambda dice: spoiled_json(good_span(), dice), random_dice),
    st.sampled_from([value for value in ODD_JSON if value != "\ud800"]),
)


# What must hold.


def test_a_poisoned_span_takes_no_good_one_with_it(target, full_scale):
    """Spans that any protobuf library can write, in both encodings over both transports, gzipped or not."""

    def check(case):
        poison, way, compressed = case
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

    ways = st.sampled_from(["grpc", "protobuf", "json"])
    ask_many(
        check, st.tuples(st.lists(poison_spans, min_size=1, max_size=3), ways, st.booleans()), full_scale
    )


def test_a_span_of_broken_bytes_takes_no_good_one_with_it(target, full_scale):
    """Spans that no protobuf library reads (no UTF-8, cut off, too deep), between good ones."""

    def check(case):
        poison, way = case
        good = [good_span(), good_span()]
        first, last = (span.SerializeToString() for span in good)
        body = request_with_raw_spans(first, *poison, last)
        answer = target.by_grpc(body) if way == "grpc" else target.by_http(body)
        assert answer.ok, f"{way}: {answer.what} {answer.message}"
        assert answer.rejected <= len(poison), answer.message
        assert "internal_error" not in answer.message
        assert target.stored(good) == 2

    ask_many(
        check,
        st.tuples(st.lists(raw_spans, min_size=1, max_size=3), st.sampled_from(["grpc", "protobuf"])),
        full_scale,
    )


def test_a_wrong_span_in_json_takes_no_good_one_with_it(target, full_scale):
    """Values of wrong types, ids in base64, integers out of range, lone surrogates, unknown names."""

    def check(poison):
        good = [good_span(), good_span()]
        document = as_otlp_json(request_of(*good))
        document["resourceSpans"][0]["scopeSpans"][0]["spans"][1:1] = poison
        answer = target.by_http(json.dumps(document).encode(), JSON)
        assert answer.ok, f"{answer.what} {answer.message}"
        assert answer.rejected <= len(poison), answer.message
        assert "internal_error" not in answer.message
        assert target.stored(good) == 2

    ask_many(check, st.lists(json_spans, min_size=1, max_size=3), full_scale)


def test_whatever_the_bytes_there_is_an_answer_of_otlp(target, full_scale):
    """Bytes changed anywhere, cut off, not what the headers say. (`Target` checks the answers.)"""

    def check(case):
        dice, poison = case
        request = request_of(good_span(), *poison)
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
            method=dice.choice(["POST"] * 12 + ["GET", "PUT", "BREW"]),
            **(
                {"Content-Encoding": dice.choice(["gzip", "gzip", "GZIP", "zstd", "\xff"])}
                if compressed
                else {}
            ),
        )

    ask_many(check, st.tuples(random_dice, st.lists(poison_spans, max_size=2)), full_scale)
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


def deep_value(levels):
    value = field(1, b"bottom")
    for _ in range(levels):
        value = field(5, field(1, value))
    return value


def test_bombs_and_floods_are_refused_in_little_memory(target):
    """(`target` looks at the memory in the end.)"""
    http_refusals = {
        "100 MB announced": target.by_http(in_chunks(b"\0" * MIB, 100), Content_Length=str(100 * MIB)),
        "100 MB without announcement": target.by_http(in_chunks(b"\0" * MIB, 100)),
        "gzip of 1 GB": target.by_http(gzip.compress(b"\0" * MIB, 9) * 60, Content_Encoding="gzip"),
        "gzip of gzip": target.by_http(
            gzip.compress(gzip.compress(b"\0" * 100 * MIB, 9)), Content_Encoding="gzip"
        ),
        "8 million spans of nothing": target.by_http(bomb_of_spans(15 * MIB)),
        "nested 5,000 deep": target.by_http(deep_value(5_000)),
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
    assert target.by_grpc(request_of(known).SerializeToString()).ok

    for _ in range(paths // 500):
        spans = [good_span() for _ in range(500)]
        for number, span in enumerate(spans):
            path = "/".join(["", *(dice.randbytes(3).hex(":") for _ in range(dice.choice([1, 1, 2, 4])))])
            del span.attributes[0]
            span.attributes.add(key="url.path").value.string_value = path
            code = span.attributes.add(key="http.response.status_code").value
            code.int_value = 404 if number % 2 else 200
        answer = target.by_grpc(request_of(*spans).SerializeToString())
        assert (answer.ok, answer.rejected) == (True, 0)

    endpoints = target.database.performance_records.distinct("endpoint")
    print(f"{paths} paths became {len(endpoints)} endpoints")
    assert target.database.performance_records.count_documents({}) == paths + 1
    assert len(endpoints) <= 503
    assert {"GET /orders", "GET /{*}", "GET /{unmatched}"} <= set(endpoints)


def test_logs_are_as_hard_to_poison(target, full_scale):
    def check(case):
        dice, payload, event = case
        request = ExportLogsServiceRequest()
        record = (
            request.resource_logs.add().scope_logs.add().log_records.add(event_name="pyinstrument.profile")
        )
        record.attributes.extend(event.attributes)
        record.body.bytes_value = payload
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

    ask_many(check, st.tuples(random_dice, payloads, events), full_scale)
