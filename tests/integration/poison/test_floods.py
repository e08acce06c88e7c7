"""What is too large, too slow or too much: refused in little memory, and good spans are taken meanwhile."""

import contextlib
import gzip
import json
import random
import socket

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1_800)]

JSON = "application/json"
SEED = 20_261_121
MIB = 1024 * 1024
MILLION_AND_MORE = 1_100_000  # more messages than a request may have


def in_chunks(piece, count):
    for _ in range(count):
        yield piece


def bomb_of_spans(make, size):
    """A request full of empty spans, two bytes each."""
    scope = make.field(2, b"\x12\x00" * (size // 2))
    return make.field(1, scope)


def bomb_behind_a_broken_span(make):
    """The same, of which protobuf reads nothing: a broken span and a good one come first."""
    spans = [b"\x0a\xff", make.good_span().SerializeToString(), *[b""] * MILLION_AND_MORE]
    return make.request_with_raw_spans(*spans)


def bomb_of_broken_resources(make):
    good = make.request_of(make.good_span()).SerializeToString()
    return good + make.field(1, b"\xff") * MILLION_AND_MORE


def test_bombs_and_floods_are_refused_in_little_memory(target, make):
    """(`receiver` looks at the memory in the end.)"""
    deep = make.field(1, make.field(2, make.field(2, make.deep_span(2_000))))
    broken_span, broken_resources = bomb_behind_a_broken_span(make), bomb_of_broken_resources(make)
    too_large = {
        "100 MB announced": target.by_http(in_chunks(b"\0" * MIB, 100), Content_Length=str(100 * MIB)),
        "100 MB without announcement": target.by_http(in_chunks(b"\0" * MIB, 100)),
    }
    for name, answer in too_large.items():
        # A closed connection is as good an answer to somebody who sends on after the refusal
        assert answer.what in {413, None}, f"{name}: {answer.what}"
    http_refusals = {
        "gzip of 1 GB": target.by_http(gzip.compress(b"\0" * MIB, 9) * 60, Content_Encoding="gzip"),
        "gzip of gzip": target.by_http(
            gzip.compress(gzip.compress(b"\0" * 100 * MIB, 9)), Content_Encoding="gzip"
        ),
        "8 million spans of nothing": target.by_http(bomb_of_spans(make, 15 * MIB)),
        "a million spans of nothing behind a broken one": target.by_http(broken_span),
        "a million broken resources": target.by_http(broken_resources),
        "nested 2,000 deep": target.by_http(deep),
        "arrays in JSON": target.by_http(b"[" * 15 * MIB, JSON),
        "objects in JSON": target.by_http(b'{"a":' * MIB, JSON),
        "a number of a million digits": target.by_http(b'{"x":' + b"9" * MIB + b"}", JSON),
        "text that never ends": target.by_http(b'{"x":"' + b"a" * 10 * MIB, JSON),
    }
    for name, answer in http_refusals.items():
        assert answer.what in {400, 413}, f"{name}: {answer.what}"
    grpc_refusals = {
        "17 MB": target.by_grpc(b"\0" * 17 * MIB),
        "gzip of 100 MB": target.by_grpc(b"\0" * 100 * MIB, compressed=True),
        "8 million spans of nothing": target.by_grpc(bomb_of_spans(make, 15 * MIB)),
        "a million spans of nothing behind a broken one": target.by_grpc(broken_span),
        "a million broken resources": target.by_grpc(broken_resources),
    }
    for name, answer in grpc_refusals.items():
        assert not answer.ok, name
    # And it goes on as if nothing had been
    good = make.good_span()
    assert target.by_grpc(make.request_of(good).SerializeToString()).ok
    assert target.stored([good]) == 1


def test_a_large_request_with_a_single_good_span_among_poison_keeps_it(target, make):
    good = make.good_span()
    poison = [make.field(5, b"\xff" * 40) for _ in range(20_000)]
    body = make.request_with_raw_spans(*poison[:10_000], good.SerializeToString(), *poison[10_000:])

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


def exchange(address, sent):
    """What comes back for these bytes until the other side closes."""
    host, port = address.rsplit(":", 1)
    received = b""
    connection = socket.create_connection((host, int(port)), timeout=20)
    with connection, contextlib.suppress(ConnectionError):
        connection.sendall(sent)
        with contextlib.suppress(OSError):  # closed by the other side already
            connection.shutdown(socket.SHUT_WR)
        while chunk := connection.recv(65_536):
            received += chunk
    return received


@pytest.mark.parametrize("sent", RAW_HTTP.values(), ids=RAW_HTTP)
def test_what_is_hardly_http_is_answered_with_a_status_or_closed(target, sent):
    received = exchange(target.receiver.http, sent)

    head, _, body = received.partition(b"\r\n\r\n")
    assert b" 50" not in head.split(b"\r\n")[0]
    if head:
        assert b"content-type: application/json" in head.lower()
        assert json.loads(body.split(b"HTTP/1.1")[0])["code"] in {3, 8, 12}


@pytest.mark.parametrize(
    "sent",
    [*RAW_HTTP.values(), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 5_000, bytes(20_000)],
    ids=[*RAW_HTTP, "frames of nothing", "zeros"],
)
def test_what_is_hardly_http2_keeps_nobody_out(target, make, sent):
    exchange(target.receiver.grpc, sent)

    good = make.good_span()
    assert target.by_grpc(make.request_of(good).SerializeToString()).ok
    assert target.stored([good]) == 1


def test_connections_that_say_nothing_keep_nobody_out(target, make):
    host, port = target.receiver.http.rsplit(":", 1)
    idle = [socket.create_connection((host, int(port)), timeout=20) for _ in range(200)]
    for connection in idle:
        connection.sendall(
            b"POST /v1/traces HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab"
        )
    good = make.good_span()
    assert target.by_http(make.request_of(good).SerializeToString()).ok
    assert target.stored([good]) == 1
    for connection in idle:
        connection.close()


def test_a_scanner_makes_no_endpoints(target, make, full_scale):
    """Paths that nobody has asked for before, half of them answered with success."""
    dice = random.Random(SEED)
    paths = 100_000 if full_scale else 4_000
    known = make.good_span()
    assert target.by_grpc(make.request_of(known, service="scanned").SerializeToString()).ok

    for _ in range(paths // 500):
        spans = [make.good_span() for _ in range(500)]
        for number, span in enumerate(spans):
            path = "/".join(["", *(dice.randbytes(3).hex(":") for _ in range(dice.choice([1, 1, 2, 4])))])
            del span.attributes[0]
            span.attributes.add(key="url.path").value.string_value = path
            code = span.attributes.add(key="http.response.status_code").value
            code.int_value = 404 if number % 2 else 200
        answer = target.by_grpc(make.request_of(*spans, service="scanned").SerializeToString())
        assert (answer.ok, answer.rejected) == (True, 0)

    records = target.database.performance_records
    endpoints = records.distinct("endpoint", {"service": "scanned"})
    print(f"{paths} paths became {len(endpoints)} endpoints")
    assert records.count_documents({"service": "scanned"}) == paths + 1
    assert len(endpoints) <= 503
    assert {"GET /orders", "GET /{*}", "GET /{unmatched}"} <= set(endpoints)
