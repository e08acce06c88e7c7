"""gRPC calls that no library sends: each is answered for good, counted, and harms nobody."""

import asyncio
import gzip
import queue
import zlib

import grpc
import pytest

from collector_receiver import server
from tests.collector_receiver.raw_calls import RawCall, message

pytestmark = pytest.mark.anyio

METRICS = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export"
INVALID_ARGUMENT, RESOURCE_EXHAUSTED, INTERNAL = "3", "8", "13"
GZIP = gzip.compress(bytes(range(256)) * 8)
RETRYABLE = (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)  # for OTLP, without RetryInfo

DAMAGED = {
    "no message": (b"", {}, INVALID_ARGUMENT),
    "half a head": (message(b"")[:3], {}, INVALID_ARGUMENT),
    "half a message": (message(b"x", length=100), {}, INVALID_ARGUMENT),
    "gzip without its name": (message(GZIP, compressed=True), {}, INTERNAL),
    "above the limit": (message(b"x", length=20_000_000), {}, RESOURCE_EXHAUSTED),
}


@pytest.mark.parametrize(("data", "headers", "status"), DAMAGED.values(), ids=DAMAGED)
async def test_a_call_without_a_whole_message_is_refused_for_good(receiver, make, data, headers, status):
    # When it comes
    call = await RawCall.begin(receiver.client.address, data, **headers)

    # Then its sender is told, and it is counted for what is known of it
    trailers = await asyncio.wait_for(call.status(), 20)
    call.close()
    assert trailers["grpc-status"] == status
    assert "google.rpc.retryinfo-bin" not in trailers
    async with asyncio.timeout(20):
        while not receiver.ingest.counters.answers:
            await asyncio.sleep(0.01)
    assert receiver.ingest.counters.requests == {"no_message": 1}

    # And others are served
    await receiver.client.export(make.request(make.span()))
    assert receiver.ingest.admission.bytes_in_flight == 0


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", GZIP[:-20]),
        ("gzip", GZIP[:3]),
        ("gzip", GZIP + b"tail"),
        ("gzip", b"\x1f\x8b no gzip"),
        ("gzip", b"no gzip"),
        ("deflate", zlib.compress(b"\x0a\x00" * 5_000)[:-9]),
        ("deflate", b"no zlib"),
    ],
    ids=["cut off", "head alone", "with a tail", "only begins so", "no gzip", "zlib cut off", "no zlib"],
)
async def test_damaged_compression_is_refused_for_good(receiver, make, encoding, body):
    # When it comes
    data = message(body, compressed=True)
    call = await RawCall.begin(receiver.client.address, data, grpc_encoding=encoding)

    # Then it is said to be undecodable, as over HTTP
    trailers = await asyncio.wait_for(call.status(), 20)
    call.close()
    assert trailers["grpc-status"] == INVALID_ARGUMENT
    assert receiver.ingest.counters.requests == {"undecodable": 1}

    # And others are served
    await receiver.client.export(make.request(make.span()))
    assert receiver.ingest.admission.bytes_in_flight == 0


async def test_a_compression_that_grpc_does_not_know_is_refused_for_good(receiver, make):
    call = await RawCall.begin(receiver.client.address, message(b"x", compressed=True), grpc_encoding="zstd")

    trailers = await asyncio.wait_for(call.status(), 20)
    assert trailers["grpc-status"] == INTERNAL
    assert "grpc-encoding" in trailers["grpc-message"]
    call.close()
    await receiver.client.export(make.request(make.span()))
    assert receiver.ingest.admission.bytes_in_flight == 0


async def test_a_sender_that_gives_up_in_the_middle_is_not_called_too_large(receiver, make):
    call = await RawCall.begin(receiver.client.address, message(b"x", length=100), whole=False)
    async with asyncio.timeout(20):
        while not receiver.ingest.admission.bytes_in_flight:
            await asyncio.sleep(0.01)

        call.cancel()

        while receiver.ingest.admission.bytes_in_flight:
            await asyncio.sleep(0.01)
    assert "too_large" not in receiver.ingest.counters.requests
    call.close()


async def test_calls_beyond_those_that_may_wait_are_answered_with_a_code_to_repeat_them(
    start_receiver, make, monkeypatch
):
    """gRPC answers them without asking us. A code that OTLP calls final would lose what they hold."""
    # Given a receiver in which one call may wait
    monkeypatch.setattr(server, "MAX_PENDING_CALLS", 1)
    receiver = await start_receiver()
    ended = queue.Queue()
    with grpc.insecure_channel(receiver.client.address) as channel:
        grpc.channel_ready_future(channel).result(20)

        # When many come, and it is busy until the first of them has its answer
        for _ in range(50):
            call = channel.unary_unary(METRICS).future(b"", timeout=60)
            call.add_done_callback(ended.put)
        first = ended.get(timeout=20)

        # Then that may come again, as all may that were not taken
        assert first.code() in RETRYABLE
        others = [await asyncio.to_thread(ended.get, timeout=20) for _ in range(49)]
        assert {call.code() for call in others} <= {grpc.StatusCode.OK, *RETRYABLE}
