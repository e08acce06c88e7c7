"""Senders that trickle their bodies: they occupy little, keep nobody out and do not hold up a stop."""

import asyncio
import contextlib
import dataclasses
import threading
import time

import pytest

from collector_receiver import arrivals, grpc_services, http_server
from collector_receiver.ingest import Ingest
from collector_receiver.profile_event import TooCostlyHere
from collector_receiver.signals import TRACES
from tests.collector_receiver.raw_calls import RawCall, message

pytestmark = pytest.mark.anyio


async def begin_to_trickle(address, announced=1_000_000, sent=100):
    """A call that announces a large message and sends little of it."""
    return await RawCall.begin(address, message(b"\x00" * sent, length=announced), whole=False)


async def arriving(receiver, bytes_in_flight):
    async with asyncio.timeout(20):
        while receiver.ingest.admission.bytes_in_flight < bytes_in_flight:
            await asyncio.sleep(0.01)


async def test_grpc_calls_that_trickle_do_not_keep_others_out(start_receiver, make, monkeypatch):
    # Given three times as many calls that trickle as messages may arrive at one time
    monkeypatch.setattr(grpc_services, "ARRIVING_BYTES", 0)
    monkeypatch.setattr(arrivals, "FAIR_SECONDS", 0.2)
    receiver = await start_receiver()
    slow = []
    for number in range(1, 7):
        slow.append(await begin_to_trickle(receiver.client.address))
        await arriving(receiver, number * 16_384)

    # When others send
    for _ in range(5):
        await receiver.client.export(make.request(make.span()))

    # Then they are taken, and the oldest, who was given up for them, may come again
    trailers = await asyncio.wait_for(slow[0].status(), 20)
    assert trailers["grpc-status"] == "14"
    assert "google.rpc.retryinfo-bin" in trailers
    assert receiver.ingest.counters.retryable["slow_body"] >= 1
    for call in slow:
        call.close()
    async with asyncio.timeout(20):
        while receiver.ingest.admission.bytes_in_flight:
            await asyncio.sleep(0.01)


async def test_a_full_receiver_refuses_a_call_before_its_message_comes(receiver):
    busy = receiver.ingest.admission.enter(receiver.ingest.admission.max_bytes)

    call = await begin_to_trickle(receiver.client.address, announced=10_000_000)

    trailers = await asyncio.wait_for(call.status(), 20)
    assert trailers["grpc-status"] == "14"
    busy.leave()
    call.close()


async def test_a_full_receiver_refuses_a_request_before_its_body_comes(receiver):
    busy = receiver.ingest.admission.enter(receiver.ingest.admission.max_bytes - 1_000_000)
    reader, writer = await asyncio.open_connection(*receiver.http_address.rsplit(":", 1))
    writer.write(
        b"POST /v1/traces HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-protobuf\r\n"
        b"content-length: 2000000\r\nexpect: 100-continue\r\n\r\n"
    )

    status = await asyncio.wait_for(reader.readline(), 20)

    assert b" 503 " in status
    busy.leave()
    writer.close()


async def test_stopping_is_bounded_with_senders_that_trickle(start_receiver):
    # Given senders that trickle over both protocols, one byte now and then
    receiver = await start_receiver()
    calls = [await begin_to_trickle(receiver.client.address) for _ in range(3)]
    reader, writer = await asyncio.open_connection(*receiver.http_address.rsplit(":", 1))
    writer.write(
        b"POST /v1/traces HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        b"content-length: 100000\r\n\r\n{"
    )
    await arriving(receiver, 3 * 16_384 + 1)

    async def trickle():
        while not writer.is_closing():
            writer.write(b" ")
            await asyncio.sleep(0.05)

    trickling = asyncio.create_task(trickle())

    # When it stops, with much time for requests
    first_line = asyncio.create_task(reader.readline())  # at once: what is sent to a closed port is reset
    started = time.monotonic()
    await receiver.stop(60)
    took = time.monotonic() - started

    # Then it does not wait for bodies that do not come, and who sends may come again
    assert took < 30
    assert b" 503 " in await asyncio.wait_for(first_line, 20)
    for call in calls:
        assert (await asyncio.wait_for(call.status(), 20))["grpc-status"] == "14"
        call.close()
    trickling.cancel()
    await asyncio.wait({trickling})
    writer.close()


async def connect(receiver, address=None):
    return await asyncio.open_connection(*(address or receiver.http_address).rsplit(":", 1))


async def closed(reader):
    """Return when the receiver has closed the connection."""
    with contextlib.suppress(ConnectionError):
        assert await asyncio.wait_for(reader.read(), 20) == b""


async def answer_of(reader):
    """The status of the next answer, which is read to its end."""
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
    length = next(line for line in head.splitlines() if line.startswith(b"content-length:"))
    await reader.readexactly(int(length.partition(b":")[2]))
    return int(head.split()[1])


EMPTY = (
    b"POST /v1/traces HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
)


@pytest.mark.parametrize("before", [b"", EMPTY], ids=["new", "kept alive"])
@pytest.mark.parametrize("sent", [b"P", b"\r\n", EMPTY[:60]], ids=["a byte", "a blank line", "half"])
async def test_a_connection_whose_request_does_not_come_is_closed(receiver, monkeypatch, before, sent):
    # Given a connection, new or after an answer
    monkeypatch.setattr(http_server, "HEAD_SECONDS", 0.2)
    reader, writer = await connect(receiver)
    writer.write(before)
    if before:
        assert await answer_of(reader) == 200

    # When a request begins and does not go on
    writer.write(sent)

    # Then the receiver ends it
    await closed(reader)
    writer.close()


async def test_a_connection_without_a_byte_is_closed(receiver, monkeypatch):
    monkeypatch.setattr(http_server, "HEAD_SECONDS", 0.2)
    reader, writer = await connect(receiver)

    await closed(reader)
    writer.close()


async def test_headers_that_trickle_close_the_connection(receiver, monkeypatch):
    monkeypatch.setattr(http_server, "HEAD_SECONDS", 0.2)
    reader, writer = await connect(receiver)
    writer.write(b"GET / HTTP/1.1\r\nx: ")

    async def trickle():
        while not writer.is_closing():
            writer.write(b"y")
            await asyncio.sleep(0.02)

    trickling = asyncio.create_task(trickle())
    await closed(reader)

    trickling.cancel()
    await asyncio.wait({trickling})
    writer.close()


async def test_the_time_for_headers_is_not_that_of_bodies_and_pauses(receiver, monkeypatch):
    # Given one connection in a pause after its answer, and one whose body is to come
    monkeypatch.setattr(http_server, "HEAD_SECONDS", 0.5)
    paused, paused_writer = await connect(receiver)
    paused_writer.write(EMPTY)
    assert await answer_of(paused) == 200
    slow, slow_writer = await connect(receiver)
    slow_writer.write(EMPTY[:-1])
    await arriving(receiver, 1)

    # When a connection that came later has used up the time for headers
    idle, idle_writer = await connect(receiver)
    await closed(idle)

    # Then both go on
    slow_writer.write(EMPTY[-1:])
    paused_writer.write(EMPTY)
    assert [await answer_of(slow), await answer_of(paused)] == [200, 200]
    for writer in (paused_writer, slow_writer, idle_writer):
        writer.close()


async def test_an_answer_is_given_before_the_next_request_is_given_up(receiver, make, monkeypatch):
    # Given a request under way and the beginning of another behind it
    monkeypatch.setattr(http_server, "HEAD_SECONDS", 0.2)
    entered, go_on = threading.Event(), threading.Event()

    def hangs(body, *, on_loop=False):
        if on_loop:
            raise TooCostlyHere
        entered.set()
        assert go_on.wait(20)
        return TRACES.parse["protobuf"](body)

    real = Ingest.export
    signal = dataclasses.replace(TRACES, parse={"protobuf": hangs, "json": hangs})
    monkeypatch.setattr(
        Ingest, "export", lambda self, _body, **options: real(self, b"", **(options | {"signal": signal}))
    )
    reader, writer = await connect(receiver)
    writer.write(EMPTY + b"P")
    assert await asyncio.to_thread(entered.wait, 20)

    # When the time for the headers of a later connection is over
    idle, idle_writer = await connect(receiver)
    await closed(idle)
    go_on.set()

    # Then the first is answered, and the second given up
    assert await answer_of(reader) == 200
    await closed(reader)
    for each in (writer, idle_writer):
        each.close()


@pytest.fixture(params=["data port", "status port"])
async def status_connection(request, start_receiver):
    """Reader and writer of a connection to the port that has the status pages."""
    receiver = await start_receiver(status_port=0 if request.param == "status port" else None)
    reader, writer = await connect(receiver, receiver.status_address)
    yield reader, writer
    writer.close()


@pytest.mark.parametrize("announced", [b"content-length: 100", b"transfer-encoding: chunked"])
async def test_a_status_page_does_not_wait_for_a_body_that_it_does_not_read(status_connection, announced):
    # Given who asks with a body that is still to come
    reader, writer = status_connection
    writer.write(b"GET /readyz HTTP/1.1\r\nhost: x\r\n" + announced + b"\r\n\r\n")
    assert await answer_of(reader) == 200

    # When a part of it comes, and no more
    writer.write(b"1")

    # Then the connection is over
    await closed(reader)


async def test_a_probe_without_a_body_keeps_its_connection(status_connection):
    reader, writer = status_connection

    for headers in (b"", b"content-length: 0\r\n", b""):
        writer.write(b"GET /readyz HTTP/1.1\r\nhost: x\r\n" + headers + b"\r\n")
        assert await answer_of(reader) == 200
